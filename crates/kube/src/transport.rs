//! One cluster's HTTP stack, made from parts: guarded dialer → rustls → hyper (HTTP/1.1, a small pool, no retries).
//! Nothing here reads a kubeconfig, the environment or a proxy setting, follows a redirect or asks for compression.

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
    cluster::{Connection, Credential},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{net::TcpStream, runtime::Handle, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::{Service, service_fn, util::BoxCloneSyncService};
use tracing::Instrument;

use crate::{
    breaker::Breaker,
    budget::ClusterBudget,
    dial::{EgressGuard, HANDSHAKE, NotConnected, dial},
    pending_writes::PendingWrites,
    tls,
};

/// How long a connection is kept without use.
const IDLE: Duration = Duration::from_secs(60);
/// How many are kept.
const MOST_IDLE: usize = 8;
/// The most bytes a head may have.
const LARGEST_HEAD: usize = 256 << 10;

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, NotConnected>;

/// What all connections of one version of a cluster's stored connection share.
#[derive(Clone)]
pub(crate) struct TransportContext {
    version: i64,
    breaker: Arc<Breaker>,
    budget: Arc<ClusterBudget>,
    /// Cancelled once the stored connection is replaced or removed.
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

    /// Counts the calls, and refuses them while the cluster is silent.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }
}

/// A client of one cluster, for one version of its connection.
pub(crate) struct Transport {
    /// None once it is closed; with it go its idle connections.
    client: Mutex<Option<Client<Connector, Full<Bytes>>>>,
    server: String,
    /// On every request: who we are, what we speak.
    headers: HeaderMap,
    /// The bearer token in it.
    token: Option<SecretString>,
    shown: tls::Shown,
    context: TransportContext,
    pending_writes: PendingWrites,
}

impl Transport {
    /// Builds the stack; nothing is connected yet. Its connections live on `runtime`, whoever asks: a pooled one must
    /// not end with the HTTP worker that happened to open it, least of all while a change waits for its answer.
    ///
    /// # Errors
    /// `TlsUntrusted` or `CredentialRejected` when the connection's certificates or token cannot be used at all.
    pub(crate) fn new(
        connection: &Connection,
        guard: &EgressGuard,
        user_agent: &HeaderValue,
        runtime: &Handle,
        context: TransportContext,
    ) -> Result<Self> {
        let shown = tls::Shown::default();
        let mut https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(connection, shown.clone())?)
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
        let (on, closed) = (runtime.clone(), context.closed.clone());
        let connector = service_fn(move |uri| {
            let (mut https, closed) = (https.clone(), closed.clone());
            let connecting = async move {
                let connected = closed.run_until_cancelled(timeout(HANDSHAKE, https.call(uri))).await;
                // once closed, no request is sent over what has just been connected
                connected.filter(|_| !closed.is_cancelled())
            };
            // what it logs bears the id of the request that it connects for
            let connecting = on.spawn(connecting.in_current_span());
            async move {
                match connecting.await {
                    Ok(Some(Ok(connected))) => connected.map_err(|error| not_connected(&*error)),
                    Ok(Some(Err(_))) => Err(NotConnected(Cause::DeadlineExceeded)),
                    Ok(None) | Err(_) => Err(NotConnected(Cause::Unreachable)),
                }
            }
        });
        let client = Client::builder(OnRuntime(runtime.clone()))
            .retry_canceled_requests(false)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MOST_IDLE)
            .http1_max_buf_size(LARGEST_HEAD)
            .build(BoxCloneSyncService::new(connector));

        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, user_agent.clone());
        let mut sent = None;
        if let Credential::Token(token) = &connection.credential {
            sent = Some(token.clone());
            let bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
            let mut bearer = bearer.map_err(|_| Error::new(Cause::CredentialRejected))?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
        }
        Ok(Self {
            client: Mutex::new(Some(client)),
            server: connection.server.to_string(),
            headers,
            token: sent,
            shown,
            context,
            pending_writes: PendingWrites::default(),
        })
    }

    /// Ends what goes over it: no further request is sent, idle connections are closed, streams that watch
    /// [`Transport::closed`] end. A request that was sent is still answered.
    pub(crate) fn close(&self) {
        self.context.closed.cancel();
        self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Cancelled once it is closed.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.context.closed
    }

    /// Sends a request once. Its URI is the path below the server's address; of its headers only the content type is
    /// sent. Any status is an answer.
    ///
    /// # Errors
    /// What happened to the connection.
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
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
        }
        if let Some(id) = audit_id {
            headers.insert("audit-id", id.clone());
        }
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let client = client.filter(|_| !self.closed().is_cancelled());
        let client = client.ok_or(ExchangeError::NotConnected(Cause::Unreachable))?;
        client.request(sent).await.map_err(|error| ExchangeError::of(&error))
    }

    /// Whether a text of the server's quotes the token that it was sent. No API server does; what stands in the place of
    /// one may, and its words are then nobody's to read.
    pub(crate) fn echoes_token(&self, text: &str) -> bool {
        self.token.as_ref().is_some_and(|token| text.contains(token.expose_secret()))
    }

    /// Counts the calls, and refuses them while the cluster is silent.
    pub(crate) fn breaker(&self) -> &Breaker {
        self.context.breaker()
    }

    /// What it shares with other connections to the cluster.
    pub(crate) fn context(&self) -> &TransportContext {
        &self.context
    }

    /// Counts what is read, and parses it.
    pub(crate) fn budget(&self) -> &Arc<ClusterBudget> {
        &self.context.budget
    }

    /// What was changed over it.
    pub(crate) fn pending_writes(&self) -> &PendingWrites {
        &self.pending_writes
    }

    /// When the server's certificate ends; none before the first handshake.
    pub(crate) fn server_certificate_expiry(&self) -> Option<Timestamp> {
        *self.shown.get()?
    }
}

/// Runs hyper's tasks on one runtime.
#[derive(Clone)]
struct OnRuntime(Handle);

impl<F> Executor<F> for OnRuntime
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

fn not_connected(error: &(dyn StdError + 'static)) -> NotConnected {
    if let Some(known) = find::<NotConnected>(error) {
        return *known;
    }
    tracing::debug!(error, "cannot establish TLS with the cluster");
    NotConnected(find::<rustls::Error>(error).map_or(Cause::Unreachable, tls::cause))
}

/// What became of a request that has no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeError {
    /// There was no connection, so nothing was sent.
    NotConnected(Cause),
    /// The connection taken from the pool had ended before the first byte was written.
    NotSent,
    /// It was sent, at least in part.
    Lost(Cause),
    /// It was answered, with more than is read.
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

    /// Reads the error of a request or of an answer's body.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        if let Some(NotConnected(cause)) = find(error) {
            return Self::NotConnected(*cause);
        }
        tracing::debug!(error, "the response of the cluster is incomplete");
        let refused = |error| tls::cause(error) == Cause::CredentialRejected;
        if find(error).is_some_and(refused) {
            // TLS 1.3 refuses a client certificate only after the handshake
            return Self::Lost(Cause::CredentialRejected);
        }
        match find::<hyper::Error>(error) {
            Some(error) if error.is_canceled() => Self::NotSent,
            Some(error) if error.is_parse() => Self::Lost(Cause::UnexpectedAnswer),
            _ => Self::Lost(Cause::ConnectionLost),
        }
    }
}

/// The error of type `E` in a chain. `io::Error` hides what it wraps from `source`.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
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
