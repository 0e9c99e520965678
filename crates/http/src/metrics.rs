//! The listener of its own on which Prometheus reads.

use std::{net::TcpListener, sync::Arc};

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use async_trait::async_trait;

/// The figures of the process.
#[async_trait]
pub trait ProcessMetrics: Send + Sync {
    /// All of them as they are now, in the text format of Prometheus.
    async fn text(&self) -> String;
}

/// The content type of Prometheus's text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A server of `GET /metrics` and nothing else, on a listener that is bound already. Whoever reaches it may read: no one
/// signs in. It handles no signals: its handle stops it.
///
/// # Errors
/// When the listener cannot be used.
pub fn metrics_server(listener: TcpListener, figures: Arc<dyn ProcessMetrics>) -> std::io::Result<Server> {
    let figures = web::Data::from(figures);
    let server = HttpServer::new(move || {
        App::new().app_data(figures.clone()).service(web::resource("/metrics").get(metrics))
    })
    .workers(1)
    .max_connections(64)
    .shutdown_timeout(1)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok(server)
}

async fn metrics(figures: web::Data<dyn ProcessMetrics>) -> HttpResponse {
    HttpResponse::Ok().insert_header(("content-type", FORMAT)).body(figures.text().await)
}
