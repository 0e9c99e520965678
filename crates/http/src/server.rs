//! HTTP server: builds the actix-web application over core's [`App`], and binds it to a listener.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
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
use pilothouse_core::{Cause, Error, app::App};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    api::{Api, Hooks, HttpSettings},
    connection::{Connection, IdleConnections},
    error::ApiError,
    language::Language,
    middleware::request_middleware,
    openapi::document_text,
    routes::{Route, table},
    sign_in, swagger,
};

/// The actix-web application: every route, wrapped in the request middleware. For tests and for embedding beside other
/// routes; [`server`] returns the complete server.
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
    build_application(Api::new(app, settings, hooks, document_text))
}

/// Builds the application of one worker.
fn build_application(
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
                config.service(resource.default_service(method_not_allowed(allow)));
            }
            for (path, file) in swagger::files().into_iter().chain(sign_in::files()) {
                config.service(
                    web::resource(path).route(file).default_service(method_not_allowed("GET".to_owned())),
                );
            }
        })
        .default_service(web::to(|| std::future::ready(Err::<&str, _>(ApiError::from(Cause::UnknownPath)))))
        .wrap(from_fn(request_middleware))
}

/// The handler for methods that a path does not support: 405 with the header `Allow`.
fn method_not_allowed(allow: String) -> actix_web::Route {
    web::to(move || {
        let error = Error::new(Cause::MethodNotAllowed);
        std::future::ready(Err::<&str, _>(ApiError { error, allow: Some(allow.clone()) }))
    })
}

/// The server on a bound listener: HTTPS with `tls`, plain HTTP without. The ALPN protocols of `tls` are overwritten.
/// The server handles no signals; stop it by its handle ([`Server::handle`], `stop(true)` for a graceful stop).
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
    // a malformed catalog should fail the start, not a request
    for language in [Language::Chinese, Language::English] {
        language.catalog();
    }
    set_unread_timeout(&listener, settings.unread_time)?;
    let builder = Server::build()
        .workers(settings.workers)
        .max_concurrent_connections(settings.max_connections)
        .shutdown_timeout(settings.shutdown_time.as_secs())
        .disable_signals();
    let connections = IdleConnections::new(settings.head_time, settings.max_idle_connections);
    let service = HttpService {
        stopping: builder.graceful_shutdown_signal(),
        address: listener.local_addr()?,
        api: Api::new(app, settings, hooks, document_text),
    };
    let server = match tls {
        None => builder.listen("http", listener, move || {
            let connections = connections.clone();
            fn_service(move |stream: TcpStream| {
                let peer = stream.peer_addr().ok();
                std::future::ready(Ok((Connection::new(stream, connections.clone()), peer)))
            })
            .and_then(service.clone().http())
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
                    .and_then(service.clone().http().map_err(TlsError::Service))
            })?
        }
    };
    Ok(server.run())
}

/// The parts of each worker's HTTP service.
#[derive(Clone)]
struct HttpService {
    stopping: GracefulShutdownSignal,
    address: SocketAddr,
    api: Api,
}

impl HttpService {
    /// The HTTP/1.1 service, assembled as in `actix_web::HttpServer`, which does not accept custom stream types.
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
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .local_addr(address)
            // a half-closed connection counts as closed, also during an idle stream; a change that has begun continues
            .h1_allow_half_closed(false)
            .on_connect_ext(|connection: &Connection<S>, data| {
                data.insert(connection.requests());
            })
            .h1(map_config(
                build_application(api).into_factory().map_err(|error| error.error_response()),
                |_| AppConfig::default(),
            ))
    }
}

/// Timeout for reading the rest of a connection after a request was refused before it arrived completely.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Sets `TCP_USER_TIMEOUT`, because actix-web has no timeout for a client that does not read. The kernel measures from
/// the last byte that the client acknowledged, also while the client announces a zero window. Connections inherit the
/// option from their listener.
fn set_unread_timeout(listener: &TcpListener, time: Duration) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(listener).set_tcp_user_timeout(Some(time))?;
    Ok(())
}
