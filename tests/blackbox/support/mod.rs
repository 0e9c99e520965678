//! What the tests stand on: an installed server, a client that signs in, real clusters, and patience.

mod canary;
mod client;
mod clusters;
#[path = "../../conformance/mod.rs"]
mod conformance;
mod echo;
mod install;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use self::{
    canary::Canaries,
    client::{Answer, Client, Event, Events},
    clusters::{apply, cluster, light, names, namespace, strings},
    echo::{ANSWERS, Echo},
    install::{Install, PASSWORD, Server, mode, postgres},
};

/// For what happens by itself, on a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Tries until there is something, and fails when there is nothing for too long.
pub(crate) async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, attempt).await
}

/// As [`eventually`], for so long.
pub(crate) async fn within<T>(
    patience: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {patience:?}: {what}");
        sleep(POLL).await;
    }
}
