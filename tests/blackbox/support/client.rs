//! Client of the HTTP API. Checks each response against the OpenAPI document.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use pilothouse_conformance::Exchange;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{COOKIE, HeaderMap},
};
use serde_json::{Value, json};

use tokio::time::timeout;

use super::{EVENTUALLY_TIMEOUT, PASSWORD};

/// The tokens and id of a session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) session_id: String,
}

impl Session {
    /// Reads the data of a login or refresh response.
    pub(crate) fn from_data(data: &Value) -> Self {
        let text = |key: &str| data[key].as_str().expect(key).to_owned();
        Self {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            session_id: text("session_id"),
        }
    }
}

/// Client of one server that records all responses. When signed in, the client sends bearer token and session cookie.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    /// Present when signed in.
    pub(crate) session: Option<Session>,
    /// An API token, which is sent instead of the session's access token.
    token: Option<String>,
    /// The `Idempotency-Key` of its requests, if any.
    key: Option<String>,
    responses: Arc<Mutex<String>>,
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Self {
            http,
            address: address.into(),
            session: None,
            token: None,
            key: None,
            responses: Arc::default(),
        }
    }

    /// A copy that trusts only this certificate. It has its own connections.
    pub(crate) fn trusting(&self, certificate: &str) -> Self {
        let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).expect("a PEM certificate");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build();
        Self { http: http.expect("an HTTP client"), ..self.clone() }
    }

    /// A copy that sends this header with each request. It has its own connections.
    pub(crate) fn with_header(&self, name: &str, value: &str) -> Self {
        let headers = HeaderMap::from_iter([(
            name.parse().expect("a header name"),
            value.parse().expect("a header value"),
        )]);
        let http = reqwest::Client::builder().no_proxy().default_headers(headers).build();
        Self { http: http.expect("an HTTP client"), ..self.clone() }
    }

    /// Reports whether the server responds.
    pub(crate) async fn is_reachable(&self) -> bool {
        self.http.get(format!("{}/livez", self.address)).send().await.is_ok()
    }

    /// A copy that is signed in.
    pub(crate) async fn sign_in(&self, username: &str, password: &str) -> Self {
        let data = self.try_sign_in(username, password).await.data();
        Self { session: Some(Session::from_data(&data)), ..self.clone() }
    }

    /// A copy with this session.
    pub(crate) fn with_session(&self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self.clone() }
    }

    /// A copy that sends this API token, and the session's cookie if it is signed in.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// A copy whose connections have this source address, and that has its own connections.
    pub(crate) fn with_source_address(&self, address: [u8; 4]) -> Self {
        let http = reqwest::Client::builder().no_proxy().local_address(IpAddr::from(address)).build();
        Self { http: http.expect("an HTTP client"), ..self.clone() }
    }

    /// Creates an API token. `fields` are the fields of the request except the name. Returns its row and its secret.
    pub(crate) async fn create_token(&self, name: &str, fields: Value) -> (Value, String) {
        let mut body = json!({"name": name});
        body.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        let mut data = self.post("/api/auth/tokens", body).await.data();
        let secret = data["secret"].as_str().expect("a secret").to_owned();
        (data["token"].take(), secret)
    }

    /// A copy that sends this `Idempotency-Key`.
    pub(crate) fn with_idempotency_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    pub(crate) async fn try_sign_in(&self, username: &str, password: &str) -> ApiResponse {
        self.post("/api/auth/login", json!({"username": username, "password": password})).await
    }

    /// Creates a user with [`PASSWORD`], and returns its id.
    pub(crate) async fn add_user(&self, username: &str, role: &str) -> i64 {
        let user = json!({"username": username, "password": PASSWORD, "role": role});
        self.post("/api/auth/users", user).await.data()["user"]["id"].as_i64().expect("a user id")
    }

    /// Sends a GET; `path` may contain a query.
    pub(crate) async fn get(&self, path: impl AsRef<str>) -> ApiResponse {
        self.send(Method::GET, path.as_ref(), None).await
    }

    /// Sends a GET and records the response. A stream is read until it contains `text`.
    pub(crate) async fn get_until(&self, path: &str, text: &str) {
        let response = self.request(Method::GET, path).send().await;
        let mut response = response.unwrap_or_else(|error| panic!("GET {path}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let mut body = String::new();
        let read = async {
            while let Some(chunk) = response.chunk().await.expect("a complete body") {
                body.push_str(&String::from_utf8_lossy(&chunk));
                if is_stream && body.contains(text) {
                    break;
                }
            }
        };
        timeout(EVENTUALLY_TIMEOUT, read).await.expect("the response before the timeout");
        self.record(&Method::GET, path, status, &headers, &body);
    }

    /// Sends a POST with a JSON body.
    pub(crate) async fn post(&self, path: &str, body: Value) -> ApiResponse {
        self.send(Method::POST, path, Some(body)).await
    }

    /// As [`Client::post`]; `None` if the connection breaks, for example because the server is killed.
    pub(crate) async fn try_post(&self, path: &str, body: Value) -> Option<ApiResponse> {
        self.attempt(Method::POST, path, Some(body)).await.ok()
    }

    /// As [`Client::get`]; `None` if the connection breaks.
    pub(crate) async fn try_get(&self, path: &str) -> Option<ApiResponse> {
        self.attempt(Method::GET, path, None).await.ok()
    }

    /// The rows of a list response, found under `key`.
    pub(crate) async fn rows(&self, path: impl AsRef<str>, key: &str) -> Vec<Value> {
        self.get(path).await.data()[key].as_array().expect(key).clone()
    }

    /// The audit operations that match a filter, newest first.
    pub(crate) async fn operations(&self, filter: impl AsRef<str>) -> Vec<Value> {
        self.rows(format!("/api/k8s/audit/operations?per_page=500&{}", filter.as_ref()), "logs").await
    }

    /// All responses to this client and its clones, headers included.
    pub(crate) fn recorded_responses(&self) -> String {
        self.responses.lock().expect("lock is not poisoned").clone()
    }

    /// Opens an event stream, starting after the event with the id `after`, if given.
    pub(crate) async fn follow(&self, path: &str, after: Option<&str>) -> Events {
        let mut request = self.request(Method::GET, path);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().expect("a text header"));
        assert_eq!((response.status().as_u16(), kind), (200, Some("text/event-stream")), "{path}");
        Events { response, text: String::new() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.address));
        let bearer = self.token.as_ref().or(self.session.as_ref().map(|session| &session.access_token));
        let request = match bearer {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        };
        match &self.session {
            Some(session) => request.header(COOKIE, format!("session_id={}", session.session_id)),
            None => request,
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> ApiResponse {
        let response = self.attempt(method.clone(), path, body).await;
        response.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    async fn attempt(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<ApiResponse> {
        let mut request = self.request(method.clone(), path);
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        self.record(&method, path, status, &headers, &text);
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(ApiResponse { what: format!("{method} {path}"), status, headers, body, text })
    }

    /// Checks a response against the OpenAPI document and records it.
    fn record(&self, method: &Method, path: &str, status: u16, headers: &HeaderMap, text: &str) {
        let header = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let exchange = Exchange { method: method.as_str(), path, status, header: &header, body: text };
        pilothouse_conformance::check(&exchange)
            .unwrap_or_else(|why| panic!("{method} {path}: {status}: {why}\n{text}"));
        let mut responses = self.responses.lock().expect("lock is not poisoned");
        responses.push_str(&format!("{method} {path}: {status} {headers:?}\n{text}\n"));
    }
}

/// A response, successful or not.
pub(crate) struct ApiResponse {
    what: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// The parsed envelope; null if the body is not JSON.
    pub(crate) body: Value,
    /// The body as received.
    pub(crate) text: String,
}

impl ApiResponse {
    /// Returns the data of a successful response; panics for any other.
    pub(crate) fn data(mut self) -> Value {
        assert!(self.status == 200 && self.body["success"] == true, "{self}");
        self.body["data"].take()
    }

    /// Returns the envelope of an error response; panics unless its code is `code`.
    pub(crate) fn refused(self, code: &str) -> Value {
        assert!(self.body["success"] == false && self.body["error_code"] == code, "{code} expected: {self}");
        self.body
    }

    /// The value of a header; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a text header"))
    }
}

impl fmt::Display for ApiResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, self.body)
    }
}

/// A stream of server-sent events.
pub(crate) struct Events {
    response: Response,
    /// Received text that is not parsed yet.
    text: String,
}

/// An event; all fields are empty for a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Event {
    /// The reason in an `end` event.
    pub(crate) fn reason(&self) -> String {
        assert_eq!(self.event, "end", "{self:?}");
        let end: Value = serde_json::from_str(&self.data).expect("JSON");
        assert!(end["details"].as_str().is_some_and(|details| !details.is_empty()), "{end}");
        end["reason"].as_str().expect("an end reason").to_owned()
    }
}

impl Events {
    /// The next event or comment; `None` at the end of the stream.
    pub(crate) async fn next_frame(&mut self) -> Option<Event> {
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
            let chunk =
                timeout(EVENTUALLY_TIMEOUT, self.response.chunk()).await.expect("a chunk before the timeout");
            let chunk = chunk.expect("a complete body")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("the tests' logs are ASCII"));
        }
    }

    /// The next event; comments are skipped.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.next_frame().await {
                Some(event) if event == Event::default() => {}
                event => return event,
            }
        }
    }

    /// Reads up to the `end` event and returns its reason.
    pub(crate) async fn end_reason(&mut self) -> String {
        loop {
            let event = self.next().await.expect("an end event");
            if event.event == "end" {
                assert_eq!(self.next().await, None, "nothing follows the end event");
                return event.reason();
            }
        }
    }
}
