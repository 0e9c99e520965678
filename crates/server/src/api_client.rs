//! Client of the HTTP API of a server, for commands that need neither its database nor its key.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    Fatal,
    http_client::{HttpClient, http_client, sources},
    settings::is_origin,
};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Size limit of a response, in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// Error of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The server refused the request.
    #[error("{server} refused the request: {details}")]
    Refused {
        /// URL of the server.
        server: String,
        /// `context.cause` of the response.
        cause: String,
        /// `details` of the response, in English.
        details: String,
    },
    /// There was no response of the API.
    #[error(
        "no usable response from {server} ({reason}): check --server, and --ca-file if an authority of your own issued its certificate"
    )]
    Failed {
        /// URL of the server.
        server: String,
        /// Reason of the failure.
        reason: String,
    },
}

/// The body of a successful response.
#[derive(Deserialize)]
struct Success<T> {
    data: T,
}

/// The body of a refusal.
#[derive(Deserialize)]
struct Refusal {
    details: String,
    context: RefusalContext,
}

#[derive(Deserialize)]
struct RefusalContext {
    cause: String,
}

/// Client of one server.
pub(crate) struct ApiClient {
    client: HttpClient,
    server: String,
}

impl ApiClient {
    /// Creates the client without connecting.
    ///
    /// # Errors
    /// `Fatal::Setting` when the URL or the file of CA certificates is not usable.
    pub(crate) fn new(server: &str, ca_file: Option<&Path>) -> Result<Self, Fatal> {
        if !is_origin(server) {
            return Err(Fatal::Setting(
                "--server must be the address of a server without a path, such as https://pilothouse.example.com \
                 (http:// on loopback only)"
                    .into(),
            ));
        }
        let client = http_client(ca_file, "--ca-file")?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned() })
    }

    /// URL of the server, without a final slash.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Sends a POST without credentials in its head. Returns `data` of the response.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ApiError> {
        let request = Request::post(format!("{}{path}", self.server))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT_LANGUAGE, "en")
            .body(Full::from(body.to_string()))
            .map_err(|error| self.failed(error.to_string()))?;
        self.send(request).await
    }

    /// Sends a GET with an API token. Returns `data` of the response.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        token: &SecretString,
    ) -> Result<T, ApiError> {
        let authorization = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
        let mut authorization =
            authorization.map_err(|_| self.failed("the token has characters that no token has".into()))?;
        authorization.set_sensitive(true);
        let request = Request::get(format!("{}{path}", self.server))
            .header(header::AUTHORIZATION, authorization)
            .header(header::ACCEPT_LANGUAGE, "en")
            .body(Full::default())
            .map_err(|error| self.failed(error.to_string()))?;
        self.send(request).await
    }

    async fn send<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, ApiError> {
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| sources(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((status, Zeroizing::new(body.to_vec())))
        };
        let exchange = tokio::time::timeout(TIMEOUT, exchange).await;
        let exchange = exchange.unwrap_or_else(|_| Err(format!("none within {TIMEOUT:?}")));
        let (status, body) = exchange.map_err(|reason| self.failed(reason))?;
        // the text of a parse error has no value of the response
        let malformed = |_| self.failed(format!("status {status}, and the body is not that of Pilothouse"));
        if status.is_success() {
            return serde_json::from_slice::<Success<T>>(&body).map(|body| body.data).map_err(malformed);
        }
        let refusal: Refusal = serde_json::from_slice(&body).map_err(malformed)?;
        let server = self.server.clone();
        Err(ApiError::Refused { server, cause: refusal.context.cause, details: refusal.details })
    }

    fn failed(&self, reason: String) -> ApiError {
        ApiError::Failed { server: self.server.clone(), reason }
    }
}
