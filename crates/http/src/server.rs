//! The server: the application over core's [`App`], and how it listens.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_http::{HttpServiceBuilder, error::DispatchError};
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_tls::accept::{
    TlsError,
    rustls_0_23::{Acceptor, TlsStream},
};
use actix_web::{
    App as Application,
    body::BoxBody,
    dev::{AppConfig, Server, ServiceFactory, ServiceRequest, ServiceResponse},
    middleware::from_fn,
    rt::net::TcpStream,
    web::{self, Data},
};
use async_trait::async_trait;
use ipnet::IpNet;
use pilothouse_core::{Cause, Error, Result, app::App};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    connection::{Connection, Connections},
    error::Failure,
    gzip::Compressed,
    messages::Language,
    middleware::frame,
    observe::{Observer, Unobserved},
    routes::{Route, table},
    swagger,
};

/// Whether requests can be served: database, keys, migrations. Never a cluster.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// Asks.
    ///
    /// # Errors
    /// Of code `ServiceUnavailable`, shown by `/readyz`.
    async fn ready(&self) -> Result<()>;
}

/// What the server asks, and tells, of the process around it.
#[derive(Clone)]
pub struct Hooks {
    /// Asked by `/readyz`.
    pub readiness: Arc<dyn Readiness>,
    /// Told of every request.
    pub observer: Arc<dyn Observer>,
}

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether the session's cookie bears `Secure`: always, but on loopback without TLS.
    pub secure_cookie: bool,
    /// The proxies whose `X-Forwarded-For` says where a request comes from; nobody else's does.
    pub trusted_proxies: Vec<IpNet>,
    /// Threads that serve requests.
    pub workers: usize,
    /// Connections at once, of each worker; more wait in the listener's queue.
    pub max_connections: usize,
    /// Connections at once that wait for a request; above that the one that has waited longest is closed.
    pub waiting_connections: usize,
    /// How long a connection stays open for the next request.
    pub keep_alive: Duration,
    /// How long the head of a request may take to arrive: of the first request from the connection's begin on, of
    /// later ones from their first byte on.
    pub head_time: Duration,
    /// How long the body of a request may take to arrive.
    pub body_time: Duration,
    /// How long a client may leave what it is sent unread; then its connection is cut. On Linux only.
    pub unread_time: Duration,
    /// How long running requests may take to end at a graceful stop; whole seconds.
    pub shutdown_time: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            secure_cookie: true,
            trusted_proxies: Vec::new(),
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            max_connections: 10_000,
            waiting_connections: 8_192,
            keep_alive: Duration::from_secs(75),
            head_time: Duration::from_secs(5),
            body_time: Duration::from_secs(10),
            unread_time: Duration::from_secs(30),
            shutdown_time: Duration::from_secs(30),
        }
    }
}

/// What handlers reach.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    pub(crate) settings: HttpSettings,
    pub(crate) hooks: Hooks,
    pub(crate) compressed: Compressed,
}

impl Api {
    /// How long the body of a request may take to arrive.
    pub(crate) fn body_time(api: Option<&Data<Self>>) -> Duration {
        // lazily: the default looks up how many processors there are, in files
        api.map_or_else(|| HttpSettings::default().body_time, |api| api.settings.body_time)
    }

    /// Who is told of requests.
    pub(crate) fn observer(api: Option<&Data<Self>>) -> Arc<dyn Observer> {
        api.map_or_else(|| Arc::new(Unobserved) as _, |api| api.hooks.observer.clone())
    }
}

/// The actix-web application: every route, with the envelope around it. For tests and for embedding beside other
/// routes; [`server`] is the whole server.
pub fn application(
    app: App,
    settings: HttpSettings,
    hooks: Hooks,
) -> Application<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    assembled(Api { app, settings, hooks, compressed: Compressed::default() })
}

/// The application of one worker.
fn assembled(
    api: Api,
) -> Application<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let mut paths = BTreeMap::<&str, Vec<Route>>::new();
    for route in table() {
        paths.entry(route.path).or_default().push(route);
    }
    Application::new()
        .app_data(Data::new(api))
        .configure(|config| {
            for (path, routes) in paths {
                let allow = routes.iter().map(|route| route.method.as_str()).collect::<Vec<_>>().join(", ");
                let resource =
                    routes.into_iter().fold(web::resource(path), |all, route| all.route(route.service));
                config.service(resource.default_service(other_methods(allow)));
            }
            for (path, file) in swagger::files() {
                config.service(
                    web::resource(path).route(file).default_service(other_methods("GET".to_owned())),
                );
            }
        })
        .default_service(web::to(|| std::future::ready(Err::<&str, _>(Failure::from(Cause::UnknownPath)))))
        .wrap(from_fn(frame))
}

/// The refusal of the methods that a path does not take.
fn other_methods(allow: String) -> actix_web::Route {
    web::to(move || {
        let error = Error::new(Cause::MethodNotAllowed);
        std::future::ready(Err::<&str, _>(Failure { error, allow: Some(allow.clone()) }))
    })
}

/// A server on a listener that is bound already: of HTTPS with `tls`, whose protocols are chosen here, else of HTTP. It handles no signals: its handle stops it
/// ([`Server::handle`], `stop(true)` for a graceful stop).
///
/// # Errors
/// When the listener cannot be used.
pub fn server(
    listener: TcpListener,
    tls: Option<ServerConfig>,
    app: App,
    settings: HttpSettings,
    hooks: Hooks,
) -> std::io::Result<Server> {
    // a text that cannot be read should stop the start, not a request
    for language in [Language::Chinese, Language::English] {
        language.words();
    }
    limit_unread(&listener, settings.unread_time)?;
    let builder = Server::build()
        .workers(settings.workers)
        .max_concurrent_connections(settings.max_connections)
        .shutdown_timeout(settings.shutdown_time.as_secs())
        .disable_signals();
    let connections = Connections::new(settings.head_time, settings.waiting_connections);
    let parts = Parts {
        stopping: builder.graceful_shutdown_signal(),
        address: listener.local_addr()?,
        api: Api { app, settings, hooks, compressed: Compressed::default() },
    };
    let server = match tls {
        None => builder.listen("http", listener, move || {
            let connections = connections.clone();
            fn_service(move |stream: TcpStream| {
                let peer = stream.peer_addr().ok();
                std::future::ready(Ok((Connection::new(stream, connections.clone()), peer)))
            })
            .and_then(parts.clone().http())
        })?,
        Some(mut tls) => {
            // HTTP/2 is not compiled in
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            builder.listen("https", listener, move || {
                let connections = connections.clone();
                Acceptor::new(tls.clone())
                    .map_err(TlsError::into_service_error)
                    .map(move |stream: TlsStream<TcpStream>| {
                        let peer = stream.get_ref().0.peer_addr().ok();
                        (Connection::new(stream, connections.clone()), peer)
                    })
                    .and_then(parts.clone().http().map_err(TlsError::Service))
            })?
        }
    };
    Ok(server.run())
}

/// What each worker's service is made of.
#[derive(Clone)]
struct Parts {
    stopping: GracefulShutdownSignal,
    address: SocketAddr,
    api: Api,
}

impl Parts {
    /// HTTP/1.1 over connections of a kind, as `actix_web::HttpServer` puts it together: that takes no streams of ours.
    fn http<S: AsyncRead + AsyncWrite + Unpin + 'static>(
        self,
    ) -> impl ServiceFactory<
        (Connection<S>, Option<SocketAddr>),
        Config = (),
        Response = (),
        Error = DispatchError,
        InitError = (),
    > {
        let Self { stopping, address, api } = self;
        let settings = &api.settings;
        HttpServiceBuilder::default()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(settings.keep_alive)
            .client_request_timeout(settings.head_time)
            .client_disconnect_timeout(LINGER)
            .local_addr(address)
            // a client that closes has gone, also while a stream says nothing; what it began to change goes on
            .h1_allow_half_closed(false)
            .on_connect_ext(|connection: &Connection<S>, data| {
                data.insert(connection.requests());
            })
            .h1(map_config(assembled(api).into_factory().map_err(|error| error.error_response()), |_| {
                AppConfig::default()
            }))
    }
}

/// How long a connection is read from whose request is refused before all of it has come.
const LINGER: Duration = Duration::from_secs(1);

/// actix-web waits for ever for a client that does not read. The kernel does not: it counts from the last byte that the
/// client's side took, also while that announces a window of zero. Connections have it from their listener.
fn limit_unread(listener: &TcpListener, time: Duration) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(listener).set_tcp_user_timeout(Some(time))?;
    Ok(())
}
