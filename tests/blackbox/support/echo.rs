//! Hostile API server: echoes each request in all parts of the response that can contain text.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use rcgen::generate_simple_self_signed;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::json;

/// Statuses with which tests make the server respond.
pub(crate) const ECHO_STATUSES: [u16; 16] =
    [200, 201, 202, 204, 302, 307, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503];

/// The server and its current response status. Dropping this value stops the server.
pub(crate) struct EchoServer {
    pub(crate) address: String,
    /// The CA certificate, PEM.
    pub(crate) ca: String,
    current_status: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
}

impl EchoServer {
    pub(crate) fn start() -> Self {
        let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes())
            .expect("a private key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a certificate with its key");
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let echo = Self {
            address: format!("https://{}", listener.local_addr().expect("a local address")),
            ca: pair.cert.pem(),
            current_status: Arc::default(),
            requests: Arc::default(),
            stopped: Arc::default(),
        };
        let (current_status, requests, stopped) =
            (echo.current_status.clone(), echo.requests.clone(), echo.stopped.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !stopped.load(Ordering::SeqCst)) {
                let (config, current_status, requests) =
                    (config.clone(), current_status.clone(), requests.clone());
                thread::spawn(move || serve_request(stream, config, &current_status, &requests));
            }
        });
        echo
    }

    /// Sets the status of all following responses.
    pub(crate) fn respond_with(&self, status: u16) {
        self.current_status.store(status.into(), Ordering::SeqCst);
    }

    /// The number of requests received.
    pub(crate) fn request_count(&self) -> usize {
        self.requests.lock().expect("lock is not poisoned").len()
    }

    /// All requests whose path starts with `path`, head and body.
    pub(crate) fn requests_to(&self, path: &str) -> String {
        let requests = self.requests.lock().expect("lock is not poisoned");
        let matching = requests
            .iter()
            .filter(|request| request.split(' ').nth(1).is_some_and(|to| to.starts_with(path)));
        matching.cloned().collect()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then reads `stopped`.
        let _ = TcpStream::connect(self.address.trim_start_matches("https://"));
    }
}

/// Serves one request; `None` if the connection breaks.
fn serve_request(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    current_status: &AtomicUsize,
    requests: &Mutex<Vec<String>>,
) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let status = current_status.load(Ordering::SeqCst);
    let all = format!("{head}\n{}", String::from_utf8_lossy(&body));
    requests.lock().ok()?.push(all.clone());
    let line: String = all.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let body_text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {"name": all, "resourceVersion": all}, "status": "Failure",
        "code": status, "reason": all, "message": all, "gitVersion": all,
        "details": {"name": all, "kind": all, "causes": [{"reason": all, "message": all, "field": all}]},
    });
    let body_text = if status == 204 { String::new() } else { body_text.to_string() };
    let length = body_text.len();
    let response = format!(
        "HTTP/1.1 {status} {line}\r\nX-Echo: {line}\r\nLocation: /{}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body_text}",
        line.replace(' ', "%20")
    );
    stream.get_mut().write_all(response.as_bytes()).ok()?;
    stream.get_mut().flush().ok()?;
    stream.get_mut().conn.send_close_notify();
    stream.get_mut().flush().ok()
}
