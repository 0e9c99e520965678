//! OpenID provider for tests, with scripted answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// An answer.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Status, further lines of the head, body.
    Http(u16, String, String),
    /// Bytes without end.
    Endless,
    /// No answer.
    Hang,
    /// The end of the connection.
    Close,
}

impl Answer {
    pub(crate) fn json(body: &Value) -> Self {
        Self::Http(200, "Content-Type: application/json\r\n".to_owned(), body.to_string())
    }

    pub(crate) fn error(status: u16, error: &str) -> Self {
        let body = json!({ "error": error }).to_string();
        Self::Http(status, "Content-Type: application/json\r\n".to_owned(), body)
    }
}

/// A key of the provider.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    id: String,
}

impl Key {
    pub(crate) fn new(id: &str) -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), id: id.to_owned() }
    }

    pub(crate) fn jwk(&self) -> Value {
        // an uncompressed point: 4, x, y
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": x, "y": y})
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.id})
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that is signed with the public key, as with a shared secret.
    pub(crate) fn sign_with_public_key(&self, claims: &Value) -> String {
        let signed = unsigned(&json!({"alg": "HS256", "kid": self.id}), claims);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.pair.public_key().as_ref());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }
}

pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}")
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<String>>,
}

/// The provider, on a port of loopback.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) key: Key,
    state: Arc<State>,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let accepting = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, accepting.clone()));
            }
        });
        let provider = Self { issuer, key: Key::new("k1"), state };
        provider.answer("/.well-known/openid-configuration", Answer::json(&provider.configuration()));
        provider.answer("/keys", Answer::json(&json!({"keys": [provider.key.jwk()]})));
        provider
    }

    pub(crate) fn configuration(&self) -> Value {
        let issuer = &self.issuer;
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "jwks_uri": format!("{issuer}/keys"),
            "end_session_endpoint": format!("{issuer}/end"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
        })
    }

    /// Sets the answer to requests of a path.
    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.state.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// Sets the answer of the token endpoint.
    pub(crate) fn issue(&self, id_token: Option<&str>) {
        let answer = json!({
            "access_token": "canary-access", "token_type": "Bearer", "refresh_token": "canary-refresh",
            "id_token": id_token,
        });
        self.answer("/token", Answer::json(&answer));
    }

    /// All requests: first line, and the form of a POST.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let mut received = Vec::new();
    let (head, body) = loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let line = head.lines().next().unwrap_or_default().to_owned();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    state.requests.lock().unwrap().push(format!("{line} {body}"));
    let answer = state.answers.lock().unwrap().get(&path).cloned();
    match answer.unwrap_or(Answer::Http(404, String::new(), String::new())) {
        Answer::Http(status, lines, body) => {
            let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{lines}\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
        Answer::Endless => {
            let head =
                "HTTP/1.1 200 x\r\nContent-Type: application/json\r\nContent-Length: 300000000\r\n\r\n";
            let mut sent = stream.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b' '; 65536]).await;
            }
        }
        Answer::Hang => tokio::time::sleep(Duration::from_secs(60)).await,
        Answer::Close => {}
    }
}
