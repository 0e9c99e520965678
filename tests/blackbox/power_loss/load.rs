//! Changes that cost little, what was answered of them, and whether a database has all of that.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{Client, Install, PASSWORD, Random};

/// What an answer says is done.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// A user has this display name, or one of a later number.
    Renamed { user: i64, number: u64 },
    /// A cluster is registered.
    Registered(String),
    /// A session was opened.
    SignedIn,
}

/// What was answered as done, by the id of its request.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<BTreeMap<String, Done>>>);

impl Answers {
    pub(super) fn so_far(&self) -> BTreeMap<String, Done> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn add(&self, request: &str, done: Done) {
        self.0.lock().unwrap().insert(request.to_owned(), done);
    }
}

/// Callers that send one change after another until the connection breaks.
pub(super) async fn callers(
    admin: &Client,
    count: u64,
    random: &mut Random,
    answers: &Answers,
) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for caller in 0..count {
        let user = admin.add_user(&format!("caller-{caller}"), "viewer").await;
        callers.spawn(call(admin.clone(), user, Random(random.next()), answers.clone()));
    }
    callers
}

async fn call(admin: Client, user: i64, mut random: Random, answers: Answers) {
    for number in 0.. {
        let (path, body, done) = match random.below(32) {
            0 => {
                let body = json!({"username": "admin", "password": PASSWORD});
                ("/api/auth/login", body, Done::SignedIn)
            }
            1..=6 => {
                let name = format!("cluster-{user}-{number}");
                // of nobody: it is not connected to
                let body = json!({
                    "name": name, "auth_type": "token", "token": "of-nobody", "skip_test": true,
                    "api_server": "https://192.0.2.1:6443",
                });
                ("/api/k8s/clusters", body, Done::Registered(name))
            }
            _ => {
                let body = json!({"id": user, "display_name": number.to_string()});
                ("/api/auth/users/update", body, Done::Renamed { user, number })
            }
        };
        let Some(answer) = admin.try_post(path, body).await else { return };
        if answer.status == 200 {
            answers.add(answer.header("x-request-id"), done);
        }
    }
}

/// That the trail verifies, the database is whole, and everything that was answered is in it. The data may be of a moment
/// before anything was stored, when nothing was answered yet: then there is nothing to verify.
pub(super) fn check(install: &Install, answered: &BTreeMap<String, Done>) {
    let output = install.run(&["audit", "verify"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let is_empty = output.status.code() == Some(2) && said.contains("there is no database");
    assert!(output.status.code() == Some(0) || (is_empty && answered.is_empty()), "{said}");
    if is_empty {
        return;
    }
    let database = rusqlite::Connection::open(install.file("pilothouse.db")).unwrap();
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
    for (request, done) in answered {
        assert_eq!(statuses.get(request).map(|status| &**status), Some("success"), "{request}: {done:?}");
        let count = |sql: &str, parameter: &str| {
            database.query_row(sql, [parameter], |row| row.get::<_, i64>(0)).unwrap()
        };
        match done {
            Done::Renamed { user, number } => {
                let name = text(&format!("SELECT display_name FROM users WHERE id = {user}"));
                assert!(name.parse::<u64>().is_ok_and(|stored| stored >= *number), "{done:?}: {name}");
            }
            Done::Registered(name) => {
                assert_eq!(count("SELECT count(*) FROM clusters WHERE name = ?", name), 1, "{done:?}");
            }
            Done::SignedIn => {}
        }
    }
}

/// That a server starts on it and its admin can sign in, with the password in the file if there is one.
pub(super) async fn serves(install: Install) {
    let file = install.file("initial-admin-password");
    let server = install.start().await;
    let written = std::fs::read_to_string(file).ok();
    let password = written.as_deref().map_or(PASSWORD, str::trim);
    server.client().sign_in("admin", password).await;
    let install = server.stop().await;
    check(&install, &BTreeMap::new());
}
