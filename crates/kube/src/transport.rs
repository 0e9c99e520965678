//! HTTP transport of one cluster: guarded dialer → rustls → hyper (HTTP/1.1, a small pool, no retries). It reads no
//! kubeconfig, environment or proxy setting, follows no redirect and requests no compression.

use std::{
    error::Error as StdError,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, rt::Executor};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioIo, TokioTimer},
};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    connection::{Connection, Credential},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{net::TcpStream, runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::{Service, service_fn, util::BoxCloneSyncService};
use tracing::Instrument;

use crate::{
    breaker::Breaker,
    budget::ClusterBudget,
    dial::{EgressGuard, HANDSHAKE_TIMEOUT, NotConnected, dial},
    discovery::DiscoveryCache,
    pending_writes::PendingWrites,
    tls,
};

/// Time for which an idle connection stays in the pool.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of idle connections in the pool.
const MAX_IDLE_CONNECTIONS: usize = 8;
/// Largest response head, in bytes.
const MAX_RESPONSE_HEAD_BYTES: usize = 256 << 10;

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, NotConnected>;

/// State shared by all transports for one version of a cluster's stored connection.
#[derive(Clone)]
pub(crate) struct TransportContext {
    version: i64,
    breaker: Arc<Breaker>,
    budget: Arc<ClusterBudget>,
    /// Token that is cancelled when the stored connection is replaced or removed.
    closed: CancellationToken,
}

impl TransportContext {
    pub(crate) fn new(version: i64, budget: Arc<ClusterBudget>) -> Self {
        Self { version, breaker: Arc::new(Breaker::new()), budget, closed: CancellationToken::new() }
    }

    /// The version of the stored connection.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// The circuit breaker of the cluster.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Ends the connections of all transports with this state: no further request is sent over them.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }
}

/// HTTP client of one cluster, for one version of its connection.
pub(crate) struct Transport {
    /// None after [`Transport::close`], which also closes the idle connections.
    client: Mutex<Option<Client<Connector, Full<Bytes>>>>,
    server: String,
    /// Headers of every request: user agent, `Accept`, authorization.
    headers: HeaderMap,
    /// The bearer token, for [`Transport::echoes_token`].
    token: Option<SecretString>,
    server_cert_expiry: tls::ServerCertExpiry,
    context: TransportContext,
    pending_writes: PendingWrites,
    discovery: DiscoveryCache,
}

impl Transport {
    /// Builds the transport without connecting. Connections run on `runtime` instead of the caller's runtime: a pooled
    /// connection must outlive the HTTP worker that opened it, in particular while a write waits for its response.
    ///
    /// # Errors
    /// `TlsUntrusted` or `CredentialRejected` when the connection's certificates or token are unusable.
    pub(crate) fn new(
        connection: &Connection,
        guard: &EgressGuard,
        user_agent: &HeaderValue,
        runtime: &Handle,
        context: TransportContext,
    ) -> Result<Self> {
        let server_cert_expiry = tls::ServerCertExpiry::default();
        let mut https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(connection, server_cert_expiry.clone())?)
            .https_only();
        if let Some(name) = tls::server_name(connection)? {
            https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let guard = guard.clone();
        let guarded = service_fn(move |uri| {
            let guard = guard.clone();
            async move { dial(uri, &guard).await }
        });
        let https = https.enable_http1().wrap_connector(guarded);
        let (connect_runtime, closed) = (runtime.clone(), context.closed.clone());
        let connector = service_fn(move |uri| {
            let (mut https, closed) = (https.clone(), closed.clone());
            let connecting = async move {
                let connected = closed.run_until_cancelled(timeout(HANDSHAKE_TIMEOUT, https.call(uri))).await;
                // once closed, no request is sent over a new connection
                connected.filter(|_| !closed.is_cancelled())
            };
            // the span adds the id of the request to the log lines
            let connecting = connect_runtime.spawn(connecting.in_current_span());
            async move {
                match connecting.await {
                    Ok(Some(Ok(connected))) => connected.map_err(|error| not_connected(&*error)),
                    Ok(Some(Err(_))) => Err(NotConnected(Cause::DeadlineExceeded)),
                    Ok(None) | Err(_) => Err(NotConnected(Cause::Unreachable)),
                }
            }
        });
        let client = Client::builder(RuntimeExecutor(runtime.clone()))
            .retry_canceled_requests(false)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .http1_max_buf_size(MAX_RESPONSE_HEAD_BYTES)
            .build(BoxCloneSyncService::new(connector));

        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, user_agent.clone());
        let mut bearer_token = None;
        if let Credential::Token(token) = &connection.credential {
            bearer_token = Some(token.clone());
            let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
            let mut bearer = bearer.map_err(|_| Error::new(Cause::CredentialRejected))?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
        }
        Ok(Self {
            client: Mutex::new(Some(client)),
            server: connection.server.to_string(),
            headers,
            token: bearer_token,
            server_cert_expiry,
            context,
            pending_writes: PendingWrites::default(),
            discovery: DiscoveryCache::default(),
        })
    }

    /// Closes the transport: no further request is sent, idle connections are closed, streams that watch
    /// [`Transport::closed`] end. A request that was sent still receives its response.
    pub(crate) fn close(&self) {
        self.context.close();
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Token that is cancelled when the transport is closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.context.closed
    }

    /// Sends a request once. Its URI is a path relative to the server's address; of its headers only the media types
    /// are sent. A response of any status is a success.
    ///
    /// # Errors
    /// The failure of the connection or exchange.
    pub(crate) async fn send(
        &self,
        request: &Request<Vec<u8>>,
        audit_id: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, ExchangeError> {
        let mut sent = Request::new(Full::new(Bytes::copy_from_slice(request.body())));
        let address = format!("{}{}", self.server, request.uri());
        *sent.uri_mut() = Uri::try_from(address).map_err(|_| ExchangeError::NotConnected(Cause::Internal))?;
        sent.method_mut().clone_from(request.method());
        let headers = sent.headers_mut();
        headers.clone_from(&self.headers);
        for name in [header::ACCEPT, header::CONTENT_TYPE] {
            if let Some(value) = request.headers().get(&name) {
                headers.insert(name, value.clone());
            }
        }
        if let Some(id) = audit_id {
            headers.insert("audit-id", id.clone());
        }
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = client.filter(|_| !self.closed().is_cancelled());
        let client = client.ok_or(ExchangeError::NotConnected(Cause::Unreachable))?;
        client.request(sent).await.map_err(|error| ExchangeError::of(&error))
    }

    /// Whether a text from the server contains the bearer token. A compromised or fake API server might echo it, so
    /// such a message is dropped.
    pub(crate) fn echoes_token(&self, text: &str) -> bool {
        self.token.as_ref().is_some_and(|token| text.contains(token.expose_secret()))
    }

    /// The circuit breaker of the cluster.
    pub(crate) fn breaker(&self) -> &Breaker {
        self.context.breaker()
    }

    /// The read budget of the cluster.
    pub(crate) fn budget(&self) -> &Arc<ClusterBudget> {
        &self.context.budget
    }

    /// Writes that the list cache may not contain yet.
    pub(crate) fn pending_writes(&self) -> &PendingWrites {
        &self.pending_writes
    }

    /// The kinds that the cluster serves.
    pub(crate) fn discovery(&self) -> &DiscoveryCache {
        &self.discovery
    }

    /// Expiry of the server's certificate; none before the first handshake.
    pub(crate) fn server_certificate_expiry(&self) -> Option<Timestamp> {
        *self.server_cert_expiry.get()?
    }
}

/// Executor that runs hyper's tasks on one runtime.
#[derive(Clone)]
struct RuntimeExecutor(Handle);

impl<F> Executor<F> for RuntimeExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

fn not_connected(error: &(dyn StdError + 'static)) -> NotConnected {
    if let Some(inner) = find_source::<NotConnected>(error) {
        return *inner;
    }
    tracing::debug!(error, "cannot establish TLS with the cluster");
    NotConnected(find_source::<rustls::Error>(error).map_or(Cause::Unreachable, tls::cause))
}

/// Failure of a request without a complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// No connection could be made, so nothing was sent.
    NotConnected(Cause),
    /// The pooled connection had ended before the first byte was written.
    NotSent,
    /// The request was sent, at least in part.
    Lost(Cause),
    /// The response is longer than the limit.
    TooLong,
}

impl ExchangeError {
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::NotConnected(cause) | Self::Lost(cause) => cause,
            Self::NotSent => Cause::Unreachable,
            Self::TooLong => Cause::UnexpectedAnswer,
        }
    }

    /// Classifies an error of a request or of a response body.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        if let Some(NotConnected(cause)) = find_source(error) {
            return Self::NotConnected(*cause);
        }
        tracing::debug!(error, "the response of the cluster is incomplete");
        let refused = |error| tls::cause(error) == Cause::CredentialRejected;
        if find_source(error).is_some_and(refused) {
            // in TLS 1.3 the server rejects a client certificate only after the handshake
            return Self::Lost(Cause::CredentialRejected);
        }
        match find_source::<hyper::Error>(error) {
            Some(error) if error.is_canceled() => Self::NotSent,
            Some(error) if error.is_parse() => Self::Lost(Cause::UnexpectedAnswer),
            _ => Self::Lost(Cause::ConnectionLost),
        }
    }
}

/// The first error of type `E` in a chain. `io::Error` does not expose its inner error through `source`.
fn find_source<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as _),
            None => error.source(),
        };
    }
    None
}
