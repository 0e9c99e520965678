//! Load of small changes, the responses to them, and the check that a database contains their effects.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Client, Install, PASSWORD, Random};

/// The effect that a successful response confirms.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// The user has this display name, or one with a higher number.
    Renamed { user: i64, number: u64 },
    /// A cluster is registered.
    Registered(String),
    /// A session was opened.
    SignedIn,
}

/// The confirmed effects, by request id.
#[derive(Clone, Default)]
pub(super) struct Responses(Arc<Mutex<BTreeMap<String, Effect>>>);

impl Responses {
    pub(super) fn snapshot(&self) -> BTreeMap<String, Effect> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn add(&self, request: &str, effect: Effect) {
        self.0.lock().unwrap().insert(request.to_owned(), effect);
    }
}

/// Starts clients that send one change after another until the connection breaks. The password is the admin's: logins
/// with another one would be throttled.
pub(super) async fn start_clients(
    admin: &Client,
    password: &str,
    count: u64,
    random: &mut Random,
    responses: &Responses,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for client in 0..count {
        let user = admin.add_user(&format!("caller-{client}"), "viewer").await;
        clients.spawn(run_client(
            admin.clone(),
            password.to_owned(),
            user,
            Random(random.next()),
            responses.clone(),
        ));
    }
    clients
}

async fn run_client(admin: Client, password: String, user: i64, mut random: Random, responses: Responses) {
    for number in 0.. {
        let (path, body, effect) = match random.below(32) {
            0 => {
                let body = json!({"username": "admin", "password": password});
                ("/api/auth/login", body, Effect::SignedIn)
            }
            1..=6 => {
                let name = format!("cluster-{user}-{number}");
                // no connection is made to this address
                let body = json!({
                    "name": name, "auth_type": "token", "token": "of-nobody", "skip_test": true,
                    "api_server": "https://192.0.2.1:6443",
                });
                ("/api/k8s/clusters", body, Effect::Registered(name))
            }
            _ => {
                let body = json!({"id": user, "display_name": number.to_string()});
                ("/api/auth/users/update", body, Effect::Renamed { user, number })
            }
        };
        let Some(response) = admin.try_post(path, body).await else { return };
        if response.status == 200 {
            responses.add(response.header("x-request-id"), effect);
        }
    }
}

/// Whether a database file has no audit entry, because a power loss ended its creation.
fn is_uninitialised(file: &Path) -> bool {
    let database = rusqlite::Connection::open(file).unwrap();
    let count = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    count("SELECT count(*) FROM sqlite_schema WHERE name = 'audit_log'") == 0
        || count("SELECT count(*) FROM audit_log") == 0
}

/// Checks that the trail verifies, that the database passes its integrity check, and that it contains all confirmed
/// effects. A power loss before the database was created leaves nothing to verify; then no effect may be confirmed.
pub(super) fn check(install: &Install, confirmed: &BTreeMap<String, Effect>) {
    let output = install.run(&["audit", "verify"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let file = install.file("pilothouse.db");
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(confirmed.is_empty() && (!file.exists() || is_uninitialised(&file)), "{stderr}");
        return;
    }
    let database = rusqlite::Connection::open(file).unwrap();
    let text = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("PRAGMA integrity_check"), "ok");
    let broken = "SELECT count(*) || ' broken references' FROM pragma_foreign_key_check";
    assert_eq!(text(broken), "0 broken references");

    let mut statuses = BTreeMap::new();
    let mut rows =
        database.prepare("SELECT request_id, status FROM operations WHERE request_id IS NOT NULL").unwrap();
    let mut rows = rows.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        statuses.insert(row.get::<_, String>(0).unwrap(), row.get::<_, String>(1).unwrap());
    }
    for (request, effect) in confirmed {
        assert_eq!(statuses.get(request).map(|status| &**status), Some("success"), "{request}: {effect:?}");
        let count = |sql: &str, parameter: &str| {
            database.query_row(sql, [parameter], |row| row.get::<_, i64>(0)).unwrap()
        };
        match effect {
            Effect::Renamed { user, number } => {
                let name = text(&format!("SELECT display_name FROM users WHERE id = {user}"));
                assert!(name.parse::<u64>().is_ok_and(|stored| stored >= *number), "{effect:?}: {name}");
            }
            Effect::Registered(name) => {
                assert_eq!(count("SELECT count(*) FROM clusters WHERE name = ?", name), 1, "{effect:?}");
            }
            Effect::SignedIn => {}
        }
    }
}

/// Checks that a server starts with the data and that its admin can sign in, with the password in the file if there is
/// one.
pub(super) async fn check_starts(install: Install) {
    let file = install.file("initial-admin-password");
    let server = install.start().await;
    let written = std::fs::read_to_string(file).ok();
    let password = written.as_deref().map_or(PASSWORD, str::trim);
    server.client().sign_in("admin", password).await;
    let install = server.stop().await;
    check(&install, &BTreeMap::new());
}
