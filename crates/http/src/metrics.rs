//! Metrics server: `GET /metrics` for Prometheus, on a separate listener.

use std::{net::TcpListener, sync::Arc};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use async_trait::async_trait;

/// The source of the process's metrics.
#[async_trait]
pub trait ProcessMetrics: Send + Sync {
    /// The current values of all metrics, in the Prometheus text format.
    async fn text(&self) -> String;
}

/// The content type of the Prometheus text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics server on a bound listener: `GET /metrics` and no other route. The server has no authentication; any
/// client that reaches the listener can read the metrics. The server handles no signals; stop it by its handle.
///
/// # Errors
/// When the listener cannot be used.
pub fn metrics_server(listener: TcpListener, source: Arc<dyn ProcessMetrics>) -> std::io::Result<Server> {
    let source = web::Data::from(source);
    let server = HttpServer::new(move || {
        App::new().app_data(source.clone()).service(web::resource("/metrics").get(metrics))
    })
    .workers(1)
    .max_connections(64)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(server)
}

async fn metrics(source: web::Data<dyn ProcessMetrics>) -> HttpResponse {
    HttpResponse::Ok().insert_header(("content-type", TEXT_FORMAT)).body(source.text().await)
}
