//! The log: on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    Fatal,
    settings::{LogFormat, Settings},
};

/// hyper and rustls log headers and peers, tokio-postgres statements; actix an error for every malformed request, which
/// anybody can send.
const NEVER: &str = "hyper=off,hyper_util=off,rustls=off,tokio_postgres=off,actix_http=off,actix_server=warn";

/// Starts the log.
pub(crate) fn start(settings: &Settings) -> Result<(), Fatal> {
    let directives = format!("{},{NEVER}", settings.log);
    let filter = EnvFilter::try_new(directives).map_err(|_| {
        Fatal::Setting("the setting `log` is no filter such as info or pilothouse_kube=debug,info".into())
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init(),
    }
    Ok(())
}
