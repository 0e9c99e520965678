//! A server on a real socket, and requests as raw bytes, which a test client would normalise.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use actix_web::{dev::ServerHandle, rt::System};
use pilothouse_core::{app::App, testing::fake::Fake};
use pilothouse_http::{Hooks, HttpSettings, NoopObserver, server};
use serde_json::{Value, json};

use crate::test_app::{Credentials, PASSWORD, Ready, seeded_app};

/// A server on a free port in its own thread; dropping it stops the server.
pub(crate) struct Running {
    pub(crate) fake: Fake,
    pub(crate) app: App,
    pub(crate) cluster: i64,
    pub(crate) handle: ServerHandle,
    address: SocketAddr,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(settings: HttpSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            System::new().block_on(async {
                let (fake, app, cluster) = seeded_app().await;
                let settings = HttpSettings { workers: 1, ..settings };
                let hooks = Hooks { readiness: Arc::new(Ready::Yes), observer: Arc::new(NoopObserver) };
                let server = server(listener, None, app.clone(), settings, hooks).unwrap();
                sender.send((fake, app, cluster.0, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (fake, app, cluster, handle) = receiver.recv().unwrap();
        Self { fake, app, cluster, handle, address, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends a complete head and body before it reads the response.
    pub(crate) fn exchange(&self, head: &str, body: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).expect("the server reads a refused body");
        read(&mut stream)
    }

    /// Sends a request with this method, target and these headers; a body is JSON.
    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, String)],
        body: &str,
    ) -> RawResponse {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            let length = body.len();
            head.push_str(&format!("content-type: application/json\r\ncontent-length: {length}\r\n"));
        }
        RawResponse::parse(&self.exchange(&format!("{head}\r\n"), body.as_bytes()))
    }

    /// Logs in and returns the credentials.
    pub(crate) fn login(&self, username: &str) -> Credentials {
        let body = json!({"username": username, "password": PASSWORD}).to_string();
        let data = self.request("POST", "/api/auth/login", &[], &body).json()["data"].take();
        let text = |key: &str| data[key].as_str().map(str::to_owned);
        Credentials { bearer: text("access_token"), cookie: text("session_id") }
    }
}

impl Running {
    /// Whether the server has stopped and its thread has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }
}

/// Polls a condition for up to 30 s.
pub(crate) fn eventually(condition: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{condition}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A response as received.
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawResponse {
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no response: {text:?}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        pairs.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The status and the cause of an error.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status, self.json()["context"]["cause"].as_str().unwrap_or_default().to_owned())
    }
}

/// Reads until the server closes the connection.
pub(crate) fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}
