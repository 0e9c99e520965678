//! HTTP client of an OpenID provider: one connection for each request, through the guarded dialer. It follows no
//! redirect, and limits time and size.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{
    HeaderValue, Request, Response, Uri,
    header::{HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    client::conn::http1,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use pilothouse_core::Result;
use pilothouse_dial::dial::{EgressGuard, dial};
use tokio::{task::JoinSet, time::timeout};

use crate::{is_loopback, tls::Tls};

/// Timeout of a request, from the look-up of the name to the last byte of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest body of an answer, in bytes.
const MAX_BODY_BYTES: usize = 256 << 10;
/// Largest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Failure of a request. Carries no text of the provider or of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("the address is not https")]
    NotHttps,
    #[error("the address is malformed")]
    Malformed,
    #[error("cannot connect, or the egress rules refuse the address")]
    NotConnected,
    #[error("the TLS handshake failed: the certificate may not be trusted")]
    Tls,
    #[error("the exchange failed")]
    Exchange,
    #[error("the answer is a redirect")]
    Redirect,
    #[error("the provider fails")]
    Failing,
    #[error("the answer is too large")]
    TooLarge,
    #[error("the provider did not answer in time")]
    TimedOut,
}

/// Sends requests to the addresses of one provider.
#[derive(Clone)]
pub(crate) struct HttpClient {
    guard: EgressGuard,
    tls: Tls,
}

impl HttpClient {
    /// # Errors
    /// `TlsUntrusted` when the CA has no certificate.
    pub(crate) fn new(guard: EgressGuard, ca: Option<&str>) -> Result<Self> {
        Ok(Self { guard, tls: Tls::new(ca)? })
    }

    /// Whether requests may go to an address, as far as that is decidable without a look-up: https, or http to loopback
    /// where the egress rules allow it.
    pub(crate) fn is_allowed(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        // a name and password before the host are not sent, and can disguise the host
        let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let is_secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => self.guard.rules.allow_loopback && is_loopback(host),
            _ => false,
        };
        !host.is_empty() && is_plain && is_secure
    }

    /// Sends a request once.
    ///
    /// # Errors
    /// Also for an answer that is a redirect, or has a status of a failing server.
    pub(crate) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        timeout(TIMEOUT, self.exchange(request)).await.unwrap_or(Err(HttpError::TimedOut))
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri().clone();
        if !self.is_allowed(&uri) {
            return Err(HttpError::NotHttps);
        }
        let host = uri.host().unwrap_or_default();
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let address = Uri::try_from(format!("https://{host}:{port}")).map_err(|_| HttpError::Malformed)?;
        let stream = dial(address, &self.guard).await.map_err(|_| HttpError::NotConnected)?.into_inner();
        if is_https {
            let stream = self.tls.connect(host, stream).await.ok_or(HttpError::Tls)?;
            send_over(TokioIo::new(stream), request).await
        } else {
            send_over(TokioIo::new(stream), request).await
        }
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = HttpError;
    type Future = BoxFuture<'c, Result<HttpResponse, HttpError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        self.send(request).boxed()
    }
}

async fn send_over<S>(stream: S, request: HttpRequest) -> Result<HttpResponse, HttpError>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.authority().ok_or(HttpError::Malformed)?.as_str();
    let host = HeaderValue::try_from(host).map_err(|_| HttpError::Malformed)?;
    parts.headers.insert(HOST, host);
    let agent = HeaderValue::from_static(concat!("pilothouse/", env!("CARGO_PKG_VERSION")));
    parts.headers.insert(USER_AGENT, agent);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    parts.uri = Uri::try_from(path).map_err(|_| HttpError::Malformed)?;
    let request = Request::from_parts(parts, Full::new(Bytes::from(body)));

    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (mut sender, connection) = builder.handshake(stream).await.map_err(|_| HttpError::Exchange)?;
    // the connection ends with this function
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let response = sender.send_request(request).await.map_err(|_| HttpError::Exchange)?;
    let status = response.status();
    if status.is_redirection() {
        return Err(HttpError::Redirect);
    }
    if status.is_server_error() {
        return Err(HttpError::Failing);
    }
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|_| HttpError::TooLarge)?;
    Ok(Response::from_parts(parts, body.to_bytes().to_vec()))
}
