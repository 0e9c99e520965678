//! HTTP API: the routes over core's [`pilothouse_core::app::App`]. It contains no business logic.
//!
//! The route table is `routes.rs`. A handler has three steps: its extractor authenticates the caller and reads the
//! request, it calls one use case, and it wraps the result. The OpenAPI document is generated from the table and the
//! handlers' types. Errors are core's. The messages of errors are in `locales/`, and one middleware writes the error
//! envelope (`middleware.rs`).
//!
//! `docs/adding-an-endpoint.md` lists the edits for a route. A list of Kubernetes objects is a line in core's `LISTS`
//! (`docs/adding-a-kind.md`).

mod api;
mod body;
mod client_ip;
mod connection;
mod cookies;
mod docs;
mod error;
mod etag;
mod extract;
mod findings;
mod gzip;
mod idempotency;
mod language;
mod list_response;
mod log_file;
mod messages;
mod metrics;
mod middleware;
mod observe;
mod openapi;
mod query;
mod response;
mod routes;
mod serde_errors;
mod server;
mod sign_in;
mod sse;
mod swagger;

use pilothouse_core::Error;

pub use api::{Hooks, HttpSettings, Readiness};
pub use metrics::{ProcessMetrics, metrics_server};
pub use observe::{NoopObserver, Observer, RequestOutcome};
pub use openapi::document;
pub use routes::endpoints;
pub use server::{application, server};

/// The English text of an error for the command line: the same as `details` in a response.
pub fn sentence(error: &Error) -> String {
    language::Language::English.catalog().explain(error, None).details
}
