//! Minimal API server: a version, empty lists, and access reviews that allow everything. Each response closes its
//! connection, so that each request opens a new one.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use rcgen::generate_simple_self_signed;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use serde_json::json;

/// A minimal API server. It runs until the test process ends.
pub(crate) struct StubApiServer {
    /// The CA certificate, PEM.
    pub(crate) ca: String,
    requests: Arc<Mutex<HashMap<String, usize>>>,
}

impl StubApiServer {
    /// Listens on `socket` with a certificate for `names`.
    pub(crate) fn start(socket: (Ipv4Addr, u16), names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let pair = generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes())
            .expect("a private key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a certificate with its key");
        let (config, listener) = (Arc::new(config), TcpListener::bind(socket).expect("a free address"));
        let requests = Arc::<Mutex<HashMap<String, usize>>>::default();
        let thread_requests = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, requests) = (config.clone(), thread_requests.clone());
                thread::spawn(move || serve_request(stream, config, &requests));
            }
        });
        Self { ca: pair.cert.pem(), requests }
    }

    /// The number of requests received under a host name.
    pub(crate) fn request_count(&self, name: &str) -> usize {
        self.requests.lock().expect("lock is not poisoned").get(name).copied().unwrap_or_default()
    }
}

/// Serves one request; `None` if the connection breaks.
fn serve_request(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    requests: &Mutex<HashMap<String, usize>>,
) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let (mut request_line, mut host, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut request_line).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if let Some(value) = line.strip_prefix("host:") {
            host = value.trim().split(':').next()?.to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    *requests.lock().ok()?.entry(host).or_default() += 1;
    let path = request_line.split(' ').nth(1)?.split('?').next()?;
    let (status, body) = match path.rsplit('/').next()? {
        "version" => (200, json!({"gitVersion": "v1.37.2"})),
        "selfsubjectreviews" => (201, json!({"status": {"userInfo": {"username": "somebody"}}})),
        "selfsubjectaccessreviews" => (201, json!({"spec": {}, "status": {"allowed": true}})),
        "configmaps" if request_line.starts_with("POST") => {
            let metadata = json!({
                "name": "settings", "namespace": "shop", "resourceVersion": "2",
                "creationTimestamp": "2026-01-01T00:00:00Z",
            });
            (201, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}))
        }
        _ => (
            200,
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}),
        ),
    };
    let body = body.to_string();
    let response = format!(
        "HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(response.as_bytes()).ok()?;
    stream.get_mut().flush().ok()?;
    stream.get_mut().conn.send_close_notify();
    stream.get_mut().flush().ok()
}
