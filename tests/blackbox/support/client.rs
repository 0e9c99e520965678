//! A client of the HTTP API, as a user's script would be.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use reqwest::{
    Method,
    header::{COOKIE, HeaderMap},
};
use serde_json::{Value, json};

use super::PASSWORD;

/// What a login gives.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) session_id: String,
}

/// Sends bearer and cookie once it has signed in, and remembers everything it was answered.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    /// Both, when signed in.
    pub(crate) session: Option<Session>,
    answers: Arc<Mutex<String>>,
}

impl Client {
    pub(super) fn new(address: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { http, address: address.into(), session: None, answers: Arc::default() }
    }

    /// The same client, signed in.
    pub(crate) async fn sign_in(&self, username: &str, password: &str) -> Self {
        let data = self.try_sign_in(username, password).await.data();
        let text = |key: &str| data[key].as_str().expect(key).to_owned();
        let session = Session {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            session_id: text("session_id"),
        };
        Self { session: Some(session), ..self.clone() }
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

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.address));
        if let Some(session) = &self.session {
            request = request
                .bearer_auth(&session.access_token)
                .header(COOKIE, format!("session_id={}", session.session_id));
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let what = format!("{method} {path}");
        let response = request.send().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let mut answers = self.answers.lock().expect("no test panics here");
        answers.push_str(&format!("{what}: {status} {headers:?}\n{text}\n"));
        Answer { what, status, headers, body: serde_json::from_str(&text).unwrap_or_default() }
    }
}

/// An answer, whatever it is.
pub(crate) struct Answer {
    what: String,
    pub(crate) status: u16,
    headers: HeaderMap,
    /// The envelope; null when the body is not JSON.
    pub(crate) body: Value,
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
