//! A client of the HTTP API, as a user's script would be. Every answer it gets is held against the OpenAPI document.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use reqwest::{
    Method, RequestBuilder, Response,
    header::{COOKIE, HeaderMap},
};
use serde_json::{Value, json};

use tokio::time::timeout;

use super::{
    PASSWORD, PATIENCE,
    conformance::{self, Exchange},
};

/// What a login gives.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) session_id: String,
}

impl Session {
    /// As a login or a refresh answers it.
    pub(crate) fn of(data: &Value) -> Self {
        let text = |key: &str| data[key].as_str().expect(key).to_owned();
        Self {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            session_id: text("session_id"),
        }
    }
}

/// Sends bearer and cookie once it has signed in, and remembers everything it was answered.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    /// Both, when signed in.
    pub(crate) session: Option<Session>,
    /// The `Idempotency-Key` of its requests, if they have one.
    key: Option<String>,
    answers: Arc<Mutex<String>>,
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { http, address: address.into(), session: None, key: None, answers: Arc::default() }
    }

    /// The same client, who trusts this certificate and no other. With connections of its own.
    pub(crate) fn trusting(&self, certificate: &str) -> Self {
        let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).expect("a certificate");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build();
        Self { http: http.expect("a client"), ..self.clone() }
    }

    /// The same client, whose requests all have this header. With connections of its own.
    pub(crate) fn bearing(&self, name: &str, value: &str) -> Self {
        let headers =
            HeaderMap::from_iter([(name.parse().expect("a name"), value.parse().expect("a value"))]);
        let http = reqwest::Client::builder().no_proxy().default_headers(headers).build();
        Self { http: http.expect("a client"), ..self.clone() }
    }

    /// Whether anybody answers.
    pub(crate) async fn reaches(&self) -> bool {
        self.http.get(format!("{}/livez", self.address)).send().await.is_ok()
    }

    /// The same client, signed in.
    pub(crate) async fn sign_in(&self, username: &str, password: &str) -> Self {
        let data = self.try_sign_in(username, password).await.data();
        Self { session: Some(Session::of(&data)), ..self.clone() }
    }

    /// The same client in this session.
    pub(crate) fn in_session(&self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self.clone() }
    }

    /// The same client, sending this `Idempotency-Key`.
    pub(crate) fn under(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub(crate) async fn try_sign_in(&self, username: &str, password: &str) -> Answer {
        self.post("/api/auth/login", json!({"username": username, "password": password})).await
    }

    /// Adds a user with [`PASSWORD`], and returns its id.
    pub(crate) async fn add_user(&self, username: &str, role: &str) -> i64 {
        let user = json!({"username": username, "password": PASSWORD, "role": role});
        self.post("/api/auth/users", user).await.data()["user"]["id"].as_i64().expect("an id")
    }

    /// GET of a path with its query.
    pub(crate) async fn get(&self, path: impl AsRef<str>) -> Answer {
        self.send(Method::GET, path.as_ref(), None).await
    }

    /// POST of a JSON body.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    /// As [`Client::post`]; none when the connection breaks, as a kill breaks it.
    pub(crate) async fn try_post(&self, path: &str, body: Value) -> Option<Answer> {
        self.attempt(Method::POST, path, Some(body)).await.ok()
    }

    /// As [`Client::get`]; none when the connection breaks.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Answer> {
        self.attempt(Method::GET, path, None).await.ok()
    }

    /// The rows of a list, under its key.
    pub(crate) async fn rows(&self, path: impl AsRef<str>, key: &str) -> Vec<Value> {
        self.get(path).await.data()[key].as_array().expect(key).clone()
    }

    /// The operations of the audit trail that a filter chooses, newest first.
    pub(crate) async fn operations(&self, filter: impl AsRef<str>) -> Vec<Value> {
        self.rows(format!("/api/k8s/audit/operations?per_page=500&{}", filter.as_ref()), "logs").await
    }

    /// Everything that clones of this client have been answered, headers included.
    pub(crate) fn answers(&self) -> String {
        self.answers.lock().expect("no test panics here").clone()
    }

    /// Follows a path's events, from after the one of this id on.
    pub(crate) async fn follow(&self, path: &str, after: Option<&str>) -> Events {
        let mut request = self.request(Method::GET, path);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().expect("text"));
        assert_eq!((response.status().as_u16(), kind), (200, Some("text/event-stream")), "{path}");
        Events { response, text: String::new() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.address));
        match &self.session {
            Some(session) => request
                .bearer_auth(&session.access_token)
                .header(COOKIE, format!("session_id={}", session.session_id)),
            None => request,
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let answer = self.attempt(method.clone(), path, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    async fn attempt(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        let mut request = self.request(method.clone(), path);
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let what = format!("{method} {path}");
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let exchange = Exchange { method: method.as_str(), path, status, header: &header, body: &text };
        conformance::check(&exchange).unwrap_or_else(|why| panic!("{what}: {status}: {why}\n{text}"));
        let mut answers = self.answers.lock().expect("no test panics here");
        answers.push_str(&format!("{what}: {status} {headers:?}\n{text}\n"));
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { what, status, headers, body, text })
    }
}

/// An answer, whatever it is.
pub(crate) struct Answer {
    what: String,
    pub(crate) status: u16,
    headers: HeaderMap,
    /// The envelope; null when the body is not JSON.
    pub(crate) body: Value,
    /// The body as it came.
    pub(crate) text: String,
}

impl Answer {
    /// The data of a success.
    pub(crate) fn data(mut self) -> Value {
        assert!(self.status == 200 && self.body["success"] == true, "{self}");
        self.body["data"].take()
    }

    /// The envelope of a refusal with this code.
    pub(crate) fn refused(self, code: &str) -> Value {
        assert!(self.body["success"] == false && self.body["error_code"] == code, "{code} expected: {self}");
        self.body
    }

    /// A header; nothing when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a header of plain text"))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, self.body)
    }
}

/// Server-sent events that are being read.
pub(crate) struct Events {
    response: Response,
    /// What has come and was not read yet.
    text: String,
}

/// An event, or (all empty) a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Event {
    /// The reason of an end.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.event, "end", "{self:?}");
        let end: Value = serde_json::from_str(&self.data).expect("JSON");
        assert!(end["details"].as_str().is_some_and(|details| !details.is_empty()), "{end}");
        end["reason"].as_str().expect("a reason").to_owned()
    }
}

impl Events {
    /// The next event or comment; none at the end of the stream.
    pub(crate) async fn any(&mut self) -> Option<Event> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in frame.lines() {
                    match line.split_once(": ") {
                        Some(("event", text)) => event.event = text.to_owned(),
                        Some(("id", text)) => event.id = text.to_owned(),
                        Some(("data", text)) => event.data.push_str(text),
                        _ => assert!(line.starts_with(':'), "{line:?}"),
                    }
                }
                self.text = rest.to_owned();
                return Some(event);
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("something in time");
            let chunk = chunk.expect("a body that does not break off")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("the tests' logs are ASCII"));
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.any().await {
                Some(event) if event == Event::default() => {}
                event => return event,
            }
        }
    }

    /// The reason of the end, whatever lines come before it.
    pub(crate) async fn end(&mut self) -> String {
        loop {
            let event = self.next().await.expect("a last word");
            if event.event == "end" {
                assert_eq!(self.next().await, None, "the last word is the last one");
                return event.reason();
            }
        }
    }
}
