//! Command `pilothouse serve`: startup, background tasks and graceful shutdown.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use futures_util::future::join_all;
use pilothouse_http::HttpSettings;
use rustix::process::{Resource, getrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Fatal, checkpoint_file, compose,
    settings::Settings,
    telemetry,
    tls::{CertificateResolver, TlsFiles},
};

/// Time limit for running requests and tasks at a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until SIGTERM or SIGINT, then finishes running requests and tasks.
pub(crate) async fn serve(mut settings: Settings) -> Result<(), Fatal> {
    telemetry::start(&settings)?;
    let mut signals = ShutdownSignals::new()?;
    let (listener, address) = bind(settings.listen)?;
    let metrics = settings.metrics_listen.map(bind).transpose()?;
    // for port 0 this is the actual port, because the egress rules forbid clusters at the server's own addresses
    (settings.listen, settings.metrics_listen) = (address, metrics.as_ref().map(|(_, address)| *address));
    let tls = settings.tls().map(|files| CertificateResolver::new(TlsFiles::new(files))).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %address,
        tls = tls.is_some(),
        metrics = metrics.as_ref().map(|(_, address)| address.to_string()),
        data_dir = %settings.data_dir.display(),
        database = %settings.database()?,
        "starting"
    );

    let composed = compose::for_serving(&settings).await?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(composed.prober(&settings).run(stop.clone()));
    tasks.spawn(composed.confirmer().run(stop.clone()));
    let end = CancellationToken::new();
    let lease = tokio::spawn(composed.lease_keeper().run(end.clone()));
    if let Some(certificate) = &tls {
        tasks.spawn(certificate.clone().reload_on_change(stop.clone()));
    }
    // the first checkpoint is in the file before the first request; the task logs a failure
    let _ = composed.app.audit.publish_checkpoints().await;
    let checkpoints = tokio::spawn(checkpoint_file::copy_checkpoints(composed.app.clone(), end.clone()));
    if let Some(webhook) = composed.webhook(&settings)? {
        tasks.spawn(webhook.run(stop.clone()));
    }
    if let Some(age) = settings.audit_retention {
        let retention = composed.retention(&settings)?;
        tasks.spawn(retention.run(age.unsigned_abs(), stop.clone()));
    }
    let failed = |address| move |source| Fatal::Listen { address, source };
    let mut handles = Vec::new();
    if let Some((listener, address)) = metrics {
        let server = pilothouse_http::metrics_server(listener, composed.metrics(&settings))
            .map_err(failed(address))?;
        handles.push(server.handle());
        tasks.spawn(async { drop(server.await) });
    }
    let http = HttpSettings {
        secure_cookie: tls.is_some() || !address.ip().is_loopback() || settings.is_public_https(),
        trusted_proxies: settings.trusted_proxies.clone().map(Into::into).unwrap_or_default(),
        keep_alive: settings.keep_alive.unsigned_abs(),
        max_idle_connections: max_idle_connections(getrlimit(Resource::Nofile).current),
        commit: Some(env!("SOURCE_COMMIT")).filter(|commit| !commit.is_empty()),
        ..HttpSettings::default()
    };
    let tls = tls.map(|certificate| certificate.config()).transpose()?;
    let server = pilothouse_http::server(listener, tls, composed.app.clone(), http, composed.hooks())
        .map_err(failed(address))?;
    handles.push(server.handle());
    tasks.spawn(async { drop(server.await) });
    println!("pilothouse listening on {scheme}://{address}");
    // a parent process may read this line from a pipe
    let _ = std::io::stdout().flush();

    signals.wait().await;
    tracing::info!("stopping: finishing running requests");
    stop.cancel();
    composed.app.streams.close();
    let stopping = std::time::Instant::now();
    join_all(handles.iter().map(|handle| handle.stop(true))).await;
    if !composed.spawner.finish(SHUTDOWN_TIMEOUT.saturating_sub(stopping.elapsed())).await {
        tracing::warn!(
            "stopped while operations were still running; the next start or another replica closes them as unknown"
        );
    }
    tasks.join_all().await;
    // the lease ends last, so that no replica closes an operation that still runs as an orphan; the last checkpoint
    // signs every entry
    end.cancel();
    let _ = tokio::join!(lease, checkpoints);
    tracing::info!("stopped");
    Ok(())
}

/// Limit of idle connections: at most half of the file descriptors of this process, so that the other half is left for
/// requests, clusters and the database.
fn max_idle_connections(files: Option<u64>) -> usize {
    let max = HttpSettings::default().max_idle_connections;
    files.and_then(|files| usize::try_from(files / 2).ok()).map_or(max, |half| half.min(max))
}

/// Binds a listener. Returns it with its actual address, which differs from `address` when its port is 0.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Fatal> {
    let failed = |source| Fatal::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// SIGTERM and SIGINT, which start a graceful shutdown.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// Installs the handlers, so that the signals no longer end the process at once.
    fn new() -> Result<Self, Fatal> {
        let install = |kind| {
            signal(kind)
                .map_err(|error| Fatal::Setting(format!("cannot install the signal handlers: {error}")))
        };
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_use_at_most_half_of_the_files() {
        let cases = [(None, 8192), (Some(1 << 20), 8192), (Some(1024), 512), (Some(2), 1)];
        for (files, expected) in cases {
            assert_eq!(max_idle_connections(files), expected, "{files:?}");
        }
    }
}
