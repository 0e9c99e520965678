//! What the tests stand on: an installed server, a client that signs in, real clusters, and patience.

mod canary;
mod client;
mod clusters;
#[path = "../../conformance/mod.rs"]
mod conformance;
mod echo;
mod install;
mod plain;
mod random;

use std::time::Duration;

use tokio::time::{sleep, timeout};

pub(crate) use self::{
    canary::Canaries,
    client::{Answer, Client, Event, Events, Session},
    clusters::{apply, cluster, light, names, namespace, strings},
    echo::{ANSWERS, Echo},
    install::{Install, PASSWORD, Server, mode, postgres},
    plain::PlainCluster,
    random::{Random, set},
};

/// For what happens by itself, such as the start of many pods, on a machine that also does something else.
const PATIENCE: Duration = Duration::from_secs(180);
/// All is as before so soon after a fault's end.
pub(crate) const RECOVERY: Duration = Duration::from_secs(10);
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
    let found = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            sleep(POLL).await;
        }
    };
    timeout(patience, found).await.unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}
