//! State shared by the handlers of one server: use cases, settings and callbacks.

use std::{sync::Arc, time::Duration};

use actix_web::web::Data;
use async_trait::async_trait;
use ipnet::IpNet;
use pilothouse_core::{Result, app::App};

use crate::{
    gzip::CompressedPages,
    observe::{NoopObserver, Observer},
};

/// Readiness check: database, keys, migrations. It never depends on a cluster.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// Checks whether requests can be served.
    ///
    /// # Errors
    /// An error of code `ServiceUnavailable`; `/readyz` returns it.
    async fn ready(&self) -> Result<()>;
}

/// Callbacks from the HTTP server to the process.
#[derive(Clone)]
pub struct Hooks {
    /// The check behind `/readyz`.
    pub readiness: Arc<dyn Readiness>,
    /// Receives the start and the end of every request.
    pub observer: Arc<dyn Observer>,
}

/// Settings of the HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Whether the session cookie has the attribute `Secure`. False only on loopback without TLS.
    pub secure_cookie: bool,
    /// Networks of the trusted proxies. `X-Forwarded-For` is ignored from any other peer.
    pub trusted_proxies: Vec<IpNet>,
    /// Number of worker threads.
    pub workers: usize,
    /// Maximum number of concurrent connections per worker; further ones wait in the listener's queue.
    pub max_connections: usize,
    /// Maximum number of idle connections; above it the connection that has been idle longest is closed.
    pub max_idle_connections: usize,
    /// Keep-alive: idle time after which a connection is closed.
    pub keep_alive: Duration,
    /// Timeout for the head of a request: from the start of the connection for its first request, from the first byte
    /// for later ones.
    pub head_time: Duration,
    /// Timeout for the body of a request.
    pub body_time: Duration,
    /// Timeout for a client that does not read sent data; after it the connection is closed. Linux only.
    pub unread_time: Duration,
    /// Grace period for running requests at a graceful stop, in whole seconds.
    pub shutdown_time: Duration,
    /// Commit of the source of the binary, for `/api/version`. `None` if it is not known.
    pub commit: Option<&'static str>,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            secure_cookie: true,
            trusted_proxies: Vec::new(),
            workers: std::thread::available_parallelism().map_or(2, usize::from),
            max_connections: 10_000,
            max_idle_connections: 8_192,
            keep_alive: Duration::from_secs(75),
            head_time: Duration::from_secs(5),
            body_time: Duration::from_secs(10),
            unread_time: Duration::from_secs(30),
            shutdown_time: Duration::from_secs(30),
            commit: None,
        }
    }
}

/// State shared with the handlers.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: App,
    pub(crate) settings: HttpSettings,
    pub(crate) hooks: Hooks,
    pub(crate) compressed_pages: CompressedPages,
    /// Returns the OpenAPI document as JSON. A function, because the document is generated at the first call.
    pub(crate) document: fn() -> &'static str,
}

impl Api {
    /// The state over these use cases, with an empty cache of compressed pages.
    pub(crate) fn new(
        app: App,
        settings: HttpSettings,
        hooks: Hooks,
        document: fn() -> &'static str,
    ) -> Self {
        Self { app, settings, hooks, compressed_pages: CompressedPages::default(), document }
    }

    /// Timeout for the body of a request.
    pub(crate) fn body_time(api: Option<&Data<Self>>) -> Duration {
        // evaluated lazily, because the default reads files to count the processors
        api.map_or_else(|| HttpSettings::default().body_time, |api| api.settings.body_time)
    }

    /// The observer of requests.
    pub(crate) fn observer(api: Option<&Data<Self>>) -> Arc<dyn Observer> {
        api.map_or_else(|| Arc::new(NoopObserver) as _, |api| api.hooks.observer.clone())
    }
}
