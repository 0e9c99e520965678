//! Test support: installed servers, an API client, control planes, and waiting with a timeout.

mod browser;
mod canary;
mod client;
mod clusters;
mod echo;
mod fake_clock;
mod install;
mod openid;
mod plain;
mod random;
mod server;
mod totp;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub(crate) use self::{
    browser::Browser,
    canary::Canaries,
    client::{ApiResponse, Client, Event, Events, Session},
    clusters::{
        apply, control_plane, create_namespace, delete_namespace, names, register_cluster,
        shared_control_plane, strings, warnings,
    },
    echo::{ECHO_STATUSES, EchoServer},
    fake_clock::FakeClock,
    install::{Install, PASSWORD, mode, postgres},
    openid::{
        Site, check_openid_sessions, grant_to_group, ldap_settings, oidc_settings, sees_cluster,
        sign_in_openid, until_signed_out,
    },
    plain::StubApiServer,
    random::{Random, env_number},
    server::Server,
    totp::{Totp, login_with},
};

/// Timeout of [`eventually`]. Long enough for asynchronous effects such as the start of many pods on a machine under
/// load.
const EVENTUALLY_TIMEOUT: Duration = Duration::from_secs(180);
/// Time within which the server works again after a fault ends.
pub(crate) const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// The numbers in the first line of a command's output that begins with `label`.
pub(crate) fn numbers(output: &str, label: &str) -> Vec<i64> {
    let line = output.lines().find(|line| line.starts_with(label)).unwrap_or_default();
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Polls until `attempt` returns a value; fails after [`EVENTUALLY_TIMEOUT`].
pub(crate) async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Option<T>) -> T {
    within(EVENTUALLY_TIMEOUT, what, attempt).await
}

/// Polls until `attempt` succeeds; fails with its last error after [`EVENTUALLY_TIMEOUT`].
pub(crate) async fn eventually_ok<T>(mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + EVENTUALLY_TIMEOUT;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("not within {EVENTUALLY_TIMEOUT:?}: {error}"),
            Err(_) => sleep(POLL).await,
        }
    }
}

/// As [`eventually`], with this timeout.
pub(crate) async fn within<T>(limit: Duration, what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            sleep(POLL).await;
        }
    };
    timeout(limit, found).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}
