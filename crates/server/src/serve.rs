//! `pilothouse serve`: from the first lock to the last task.

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
    tls::{Files, Pair},
};

/// How long a stop waits for what runs.
const GRACE: Duration = Duration::from_secs(30);

/// Serves until SIGTERM or SIGINT, then finishes what runs.
pub(crate) async fn serve(mut settings: Settings) -> Result<(), Fatal> {
    telemetry::start(&settings)?;
    let mut ends = ShutdownSignals::new()?;
    let (listener, address) = bind(settings.listen)?;
    let metrics = settings.metrics_listen.map(bind).transpose()?;
    // as it turned out where the port was ours to choose: no cluster is there
    (settings.listen, settings.metrics_listen) = (address, metrics.as_ref().map(|(_, address)| *address));
    let tls = settings.tls().map(|files| Pair::new(Files::new(files))).transpose()?;
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
    let end = CancellationToken::new();
    let lease = tokio::spawn(composed.keep_lease(end.clone()));
    if let Some(pair) = &tls {
        tasks.spawn(pair.clone().keep_fresh(stop.clone()));
    }
    // the first checkpoint is elsewhere before anybody can ask whether it is; a failure is told by the task
    let _ = composed.app.audit.publish_checkpoints().await;
    let checkpoints = tokio::spawn(checkpoint_file::keep(composed.app.clone(), end.clone()));
    if let Some(webhook) = composed.webhook(&settings)? {
        tasks.spawn(webhook.run(stop.clone()));
    }
    if let Some(age) = settings.audit_retention() {
        let retention = composed.retention(&settings)?;
        tasks.spawn(retention.run(age, stop.clone()));
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
        secure_cookie: tls.is_some() || !address.ip().is_loopback(),
        trusted_proxies: settings.trusted_proxies.clone().map(Into::into).unwrap_or_default(),
        keep_alive: settings.keep_alive(),
        waiting_connections: waiting_connections(getrlimit(Resource::Nofile).current),
        ..HttpSettings::default()
    };
    let tls = tls.map(|pair| pair.config()).transpose()?;
    let server = pilothouse_http::server(listener, tls, composed.app.clone(), http, composed.hooks())
        .map_err(failed(address))?;
    handles.push(server.handle());
    tasks.spawn(async { drop(server.await) });
    println!("pilothouse listening on {scheme}://{address}");
    // whoever waits for the line may read a pipe
    let _ = std::io::stdout().flush();

    ends.wait().await;
    tracing::info!("stopping: finishing running requests");
    stop.cancel();
    composed.app.pods.end_streams();
    let stopping = std::time::Instant::now();
    join_all(handles.iter().map(|handle| handle.stop(true))).await;
    if !composed.spawner.finish(GRACE.saturating_sub(stopping.elapsed())).await {
        tracing::warn!("stopped with operations still running; they will be closed as unknown");
    }
    tasks.join_all().await;
    // until here, so that no other replica takes for an orphan what was still being finished; and the last entry is
    // signed
    end.cancel();
    let _ = tokio::join!(lease, checkpoints);
    tracing::info!("stopped");
    Ok(())
}

/// How many connections may wait for a request: half of the files that this process may open, so that the others are
/// left for requests, clusters and the database.
fn waiting_connections(files: Option<u64>) -> usize {
    let most = HttpSettings::default().waiting_connections;
    files.and_then(|files| usize::try_from(files / 2).ok()).map_or(most, |half| half.min(most))
}

/// A listener, and where it listens when the port was ours to choose.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Fatal> {
    let failed = |source| Fatal::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The signals that end us.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    /// From now on they do not end the process by themselves.
    fn new() -> Result<Self, Fatal> {
        let take =
            |kind| signal(kind).map_err(|error| Fatal::Setting(format!("cannot take signals: {error}")));
        Ok(Self { terminate: take(SignalKind::terminate())?, interrupt: take(SignalKind::interrupt())? })
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
    fn connections_that_wait_leave_files_for_the_rest() {
        let cases = [(None, 8192), (Some(1 << 20), 8192), (Some(1024), 512), (Some(2), 1)];
        for (files, expected) in cases {
            assert_eq!(waiting_connections(files), expected, "{files:?}");
        }
    }
}
