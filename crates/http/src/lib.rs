//! Pilothouse over HTTP: routes over core's [`pilothouse_core::app::App`], nothing else.
//!
//! The route table is `routes.rs`. A handler is three lines: its argument says who may enter and what the request
//! brings, it calls one use case, and wraps the answer. The OpenAPI document is read off the table and the handlers'
//! types. Errors are core's; their words are in `locales/`, the envelope is written in one place (`frame.rs`).
//!
//! # A new route
//! A handler in the file of its subject under `routes/`, a line in the table, a row in `tests/access.txt`; then
//! `cargo run -p pilothouse-http --example openapi > docs/openapi.json`. A new list of Kubernetes objects is a line in
//! core's `LISTS`; here it needs the schema of its row (`routes/lists.rs`).

mod body;
mod client_ip;
mod connection;
mod error;
mod extract;
mod gzip;
mod idempotency;
mod list_response;
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
mod sse;
mod swagger;

use pilothouse_core::Error;

pub use metrics::{ProcessMetrics, metrics_server};
pub use observe::{Ended, Observer, Unobserved};
pub use openapi::document;
pub use routes::endpoints;
pub use server::{Hooks, HttpSettings, Readiness, application, server};

/// What an error is, in one English sentence, as `details` has it: for a command line.
pub fn sentence(error: &Error) -> String {
    messages::Language::English.words().explain(error, None).details
}
