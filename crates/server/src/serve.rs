//! `pilothouse serve`: from the first lock to the last task.

use std::{io::Write, net::TcpListener, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{Fatal, compose, prober, settings::Settings, telemetry};

/// How long a stop waits for what runs.
const GRACE: Duration = Duration::from_secs(30);

/// Serves until SIGTERM or SIGINT, then finishes what runs.
pub(crate) async fn serve(settings: Settings) -> Result<(), Fatal> {
    telemetry::start(&settings)?;
    let listen = |source| Fatal::Listen { address: settings.listen, source };
    let listener = TcpListener::bind(settings.listen).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let mut ends =
        [SignalKind::terminate(), SignalKind::interrupt()].map(|kind| signal(kind).map_err(listen));

    let composed = compose::for_serving(&settings).await?;
    let stop = CancellationToken::new();
    let prober =
        tokio::spawn(prober::run(composed.app.clusters.clone(), settings.probe_interval(), stop.clone()));
    let lease = tokio::spawn(composed.keep_lease(stop.clone()));

    let (app, http) = (composed.app.clone(), compose::http_settings(address));
    let server = pilothouse_http::server(listener, app, http, composed.readiness()).map_err(listen)?;
    let handle = server.handle();
    let serving = tokio::spawn(server);
    println!("pilothouse listening on http://{address}");
    // whoever waits for the line may read a pipe
    let _ = std::io::stdout().flush();

    let [terminate, interrupt] = &mut ends;
    tokio::select! {
        _ = wait(terminate) => {}
        _ = wait(interrupt) => {}
    }
    tracing::info!("stopping: finishing what runs");
    stop.cancel();
    composed.app.pods.end_streams();
    let stopping = std::time::Instant::now();
    handle.stop(true).await;
    let _ = serving.await;
    if !composed.tasks.finish(GRACE.saturating_sub(stopping.elapsed())).await {
        tracing::warn!("stopped with work still running; its operations will be closed as unknown");
    }
    let _ = tokio::join!(prober, lease);
    tracing::info!("stopped");
    Ok(())
}

async fn wait(end: &mut Result<tokio::signal::unix::Signal, Fatal>) {
    match end {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
