//! Logging to standard error, as text or JSON. Each line of a request carries the request id, in JSON as a top-level
//! key.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    Fatal,
    settings::{LogFormat, Settings},
};

/// Filter directives that the setting cannot override: hyper and rustls log headers and peers, tokio-postgres logs
/// statements, and actix logs an error for every malformed request, which any client can send.
const FIXED_DIRECTIVES: &str =
    "hyper=off,hyper_util=off,rustls=off,tokio_postgres=off,actix_http=off,actix_server=warn";

/// Parses the setting `log`.
///
/// # Errors
/// `Fatal::Setting` for an invalid filter.
pub(crate) fn filter(settings: &Settings) -> Result<EnvFilter, Fatal> {
    EnvFilter::try_new(format!("{},{FIXED_DIRECTIVES}", settings.log)).map_err(|_| {
        Fatal::Setting(
            "the setting `log` must be a filter, such as info or pilothouse_kube=debug,info".into(),
        )
    })
}

/// Installs the global subscriber and a panic hook that logs.
///
/// # Errors
/// As [`filter`].
pub(crate) fn start(settings: &Settings) -> Result<(), Fatal> {
    let registry = tracing_subscriber::registry().with(filter(settings)?);
    match settings.log_format {
        LogFormat::Json => {
            let layer = json_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .flatten_event(true)
                .flatten_span_list_on_top_level(true)
                .with_current_span(false)
                .with_span_list(false);
            registry.with(layer).init();
        }
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            registry
                .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi))
                .init();
        }
    }
    // a panic is logged like any other line, with the id of its request
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        tracing::error!(location, cause = panic.payload_as_str(), "panicked");
    }));
    Ok(())
}
