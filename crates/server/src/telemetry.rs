//! The log: on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    Fatal,
    settings::{LogFormat, Settings},
};

/// kube-rs logs whole bodies of answers it cannot decode, Secrets among them; hyper and rustls log headers and peers.
const NEVER: &str = "kube_client=off,hyper=off,hyper_util=off,rustls=off,h2=off,tokio_postgres=off";

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
