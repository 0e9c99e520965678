//! A cluster that answers with whatever it was sent, in every place of an answer that has room for it.

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

/// The statuses it answers with, one after the other as a test says; each with what it was sent.
pub(crate) const ANSWERS: [u16; 16] =
    [200, 201, 202, 204, 302, 307, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503];

/// It, and how it answers now. Gone with the test.
pub(crate) struct Echo {
    pub(crate) address: String,
    /// Whom to trust, PEM.
    pub(crate) ca: String,
    now: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let pair = generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.cert.der().clone()], key)
            .expect("a pair");
        let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a port"));
        let echo = Self {
            address: format!("https://{}", listener.local_addr().expect("an address")),
            ca: pair.cert.pem(),
            now: Arc::default(),
            heard: Arc::default(),
            over: Arc::default(),
        };
        let (now, heard, over) = (echo.now.clone(), echo.heard.clone(), echo.over.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !over.load(Ordering::SeqCst)) {
                let (config, now, heard) = (config.clone(), now.clone(), heard.clone());
                thread::spawn(move || answer(stream, config, &now, &heard));
            }
        });
        echo
    }

    /// From now on it answers so.
    pub(crate) fn answers_with(&self, status: u16) {
        self.now.store(status.into(), Ordering::SeqCst);
    }

    /// How many requests it has heard.
    pub(crate) fn heard(&self) -> usize {
        self.heard.lock().expect("nobody panics here").len()
    }

    /// All of them whose target begins so, head and body.
    pub(crate) fn sent_to(&self, path: &str) -> String {
        let heard = self.heard.lock().expect("nobody panics here");
        let there = heard.iter().filter(|one| one.split(' ').nth(1).is_some_and(|to| to.starts_with(path)));
        there.cloned().collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // so that it looks
        let _ = TcpStream::connect(self.address.trim_start_matches("https://"));
    }
}

/// One request; a broken connection is the end of it.
fn answer(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    now: &AtomicUsize,
    heard: &Mutex<Vec<String>>,
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
    let status = now.load(Ordering::SeqCst);
    let all = format!("{head}\n{}", String::from_utf8_lossy(&body));
    heard.lock().ok()?.push(all.clone());
    let line: String = all.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {"name": all, "resourceVersion": all}, "status": "Failure",
        "code": status, "reason": all, "message": all, "gitVersion": all,
        "details": {"name": all, "kind": all, "causes": [{"reason": all, "message": all, "field": all}]},
    });
    let said = if status == 204 { String::new() } else { said.to_string() };
    let length = said.len();
    let answer = format!(
        "HTTP/1.1 {status} {line}\r\nX-Echo: {line}\r\nLocation: /{}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{said}",
        line.replace(' ', "%20")
    );
    stream.get_mut().write_all(answer.as_bytes()).ok()?;
    stream.get_mut().flush().ok()?;
    stream.get_mut().conn.send_close_notify();
    stream.get_mut().flush().ok()
}
