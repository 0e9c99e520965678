//! A PostgreSQL that crashes, and one that is replaced by a standby that lacks the last commits.
//!
//! `PILOTHOUSE_TEST_FAILOVERS` is how often it is crashed and replaced (`just failover 20`).

use std::{fs, path::PathBuf, sync::Arc};

use pilothouse_testbed::{Folder, Postgres, PostgresBuilder};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Echo, Install, RECOVERY, Server, set, within};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// A PostgreSQL of our own that we may break.
#[derive(Clone)]
struct Breakable(Arc<Postgres>);

impl Breakable {
    /// None, said aloud, where this machine has none.
    fn start(builder: PostgresBuilder) -> Option<Self> {
        builder.start_or_skip().unwrap().map(|postgres| Self(Arc::new(postgres)))
    }

    fn database(&self) -> String {
        self.0.database().unwrap()
    }

    /// Does this away from our runtime: our clients must see meanwhile that connections end.
    async fn run(&self, what: impl FnOnce(&Postgres) -> pilothouse_testbed::Result<()> + Send + 'static) {
        let postgres = self.0.clone();
        tokio::task::spawn_blocking(move || what(&postgres)).await.unwrap().unwrap();
    }

    async fn crash(&self) {
        self.run(|postgres| postgres.cut().and_then(|()| postgres.start())).await;
    }

    async fn copy_to(&self, folder: PathBuf) {
        self.run(move |postgres| postgres.copy_to(&folder)).await;
    }

    async fn fail_over_to(&self, folder: PathBuf) {
        self.run(move |postgres| postgres.fail_over_to(&folder)).await;
    }
}

fn times() -> u64 {
    set("PILOTHOUSE_TEST_FAILOVERS").unwrap_or(1)
}

async fn ready(server: &Server) {
    let client = server.client();
    let ready = async || (client.get("/readyz").await.status == 200).then_some(());
    within(RECOVERY, "the server is ready again", ready).await;
}

/// Asks again while connections that the crash broke are replaced.
async fn change(client: &Client, path: &str, body: &Value) -> Answer {
    let answered = async || Some(client.post(path, body.clone()).await).filter(|answer| answer.status != 503);
    within(RECOVERY, path, answered).await
}

fn verify(install: &Install) -> (Option<i32>, String) {
    let output = install.run(&["audit", "verify"]);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_outlives_a_crash_of_a_postgresql_that_commits_late() {
    let Some(postgres) = Breakable::start(Postgres::builder().commits_late(true)) else { return };
    let server = Install::on(&postgres.database()).start().await;
    let admin = server.admin().await;
    let user = admin.add_user("ann", "viewer").await;
    for round in 0..times() {
        let names: Vec<_> = (0..8).map(|n| format!("cluster-{round}-{n}")).collect();
        for name in &names {
            let body = json!({
                "name": name, "auth_type": "token", "token": "of-nobody", "skip_test": true,
                "api_server": "https://192.0.2.1:6443",
            });
            change(&admin, "/api/k8s/clusters", &body).await.data();
            let body = json!({"id": user, "display_name": name});
            change(&admin, "/api/auth/users/update", &body).await.data();
        }
        postgres.crash().await;
        ready(&server).await;
        let clusters = admin.rows("/api/k8s/clusters?per_page=500", "clusters").await;
        for name in &names {
            assert!(clusters.iter().any(|cluster| cluster["name"] == **name), "{name} is lost");
        }
        let users = admin.rows("/api/auth/users?sort=id", "users").await;
        assert_eq!(users[1]["display_name"], **names.last().unwrap());
        let (code, said) = verify(&server.install);
        assert_eq!(code, Some(0), "{said}");
    }
}

/// The sequence and hash of each checkpoint, as a text.
fn signed(lines: &str) -> Vec<(i64, String)> {
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["sequence"].as_i64().unwrap(), line["hash"].as_str().unwrap().to_owned())
    };
    lines.lines().filter(|line| !line.is_empty()).map(read).collect()
}

/// A server that runs on a PostgreSQL that lost its last commits in a failover.
struct Lossy {
    postgres: Breakable,
    url: String,
    server: Server,
    admin: Client,
    /// The last entry of the trail that was signed before.
    signed: i64,
    /// The clusters that are registered: one whose registration is lost, and another.
    echoes: [Echo; 2],
    lost_cluster: i64,
    _standby: Folder,
}

async fn register(admin: &Client, name: &str, echo: &Echo) -> i64 {
    let body = json!({
        "name": name, "auth_type": "token", "token": "of-nobody", "ca_certificate": echo.ca, "skip_test": true,
        "api_server": echo.address,
    });
    change(admin, "/api/k8s/clusters", &body).await.data()["cluster"]["id"].as_i64().unwrap()
}

impl Lossy {
    async fn new() -> Option<Self> {
        let postgres = Breakable::start(Postgres::builder())?;
        let (url, standby) = (postgres.database(), Folder::create().unwrap());
        let echoes = [Echo::start(), Echo::start()];
        let server = Install::on(&url).start().await;
        let admin = server.admin().await;
        admin.add_user("ann", "viewer").await;
        let copy = standby.path().join("data");
        postgres.copy_to(copy.clone()).await;

        // from here on everything is lost
        admin.add_user("bob", "viewer").await;
        let lost_cluster = register(&admin, "lost", &echoes[0]).await;
        admin.get(format!("/api/k8s/namespaces?cluster_id={lost_cluster}")).await;
        assert!(echoes[0].heard() > 0, "it is connected to");
        // whatever ends signs the end of the trail; the others copy that to their files
        server.install.replica().start().await.stop().await;
        let file = server.install.file(CHECKPOINTS);
        let newest = || Some(signed(&fs::read_to_string(&file).ok()?).last()?.0);
        let head = admin.get("/api/k8s/audit/verify").await.data()["head"]["sequence"].as_i64().unwrap();
        let signed =
            within(RECOVERY, "the checkpoint in the file", async || newest().filter(|one| *one >= head))
                .await;

        postgres.fail_over_to(copy).await;
        ready(&server).await;
        Some(Self { postgres, url, server, admin, signed, echoes, lost_cluster, _standby: standby })
    }

    /// The checkpoints in the database.
    fn signed_in_database(&self) -> Vec<(i64, String)> {
        let lines =
            self.postgres.0.sql_in(&self.url, "SELECT line FROM audit_checkpoints ORDER BY seq").unwrap();
        signed(&lines)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_loses_commits_is_reported_and_nothing_is_signed_over_what_is_lost() {
    for _ in 0..times() {
        let Some(lossy) = Lossy::new().await else { return };
        let before = lossy.signed_in_database();
        // it goes on answering
        let users = lossy.admin.rows("/api/auth/users?sort=id", "users").await;
        assert_eq!(users.iter().map(|user| &user["username"]).collect::<Vec<_>>(), ["admin", "ann"]);
        let body = json!({"id": users[1]["id"], "display_name": "Ann"});
        let answer = change(&lossy.admin, "/api/auth/users/update", &body).await;
        assert!(matches!(answer.status, 200 | 503), "{answer}");

        let (code, said) = verify(&lossy.server.install);
        assert_eq!(code, Some(1), "{said}");
        let verdict = lossy.admin.get("/api/k8s/audit/verify").await.data();
        assert_eq!(verdict["valid"], json!(false), "{verdict}");

        // neither at its end, when it would sign everything, nor after the next start
        let Lossy { server, .. } = &lossy;
        let file = server.install.file(CHECKPOINTS);
        let kept = fs::read_to_string(&file).unwrap();
        assert_eq!(signed(&kept).last().unwrap().0, lossy.signed);
        let reported = |log: &str| {
            let says = |line: &str| {
                ["the audit trail does not match the verified history", "the audit trail ends before"]
                    .iter()
                    .any(|it| line.contains(it))
            };
            log.lines().filter(|line| line.contains("ERROR") && says(line)).count()
        };
        let Lossy { postgres, url, server, signed: _, echoes: _echoes, _standby, .. } = lossy;
        let install = server.stop().await;
        assert!(reported(&install.log()) > 0, "{}", install.log());
        assert_eq!(fs::read_to_string(&file).unwrap(), kept, "nothing is signed");

        let reports = reported(&install.log());
        let server = install.start().await;
        let again = async || (reported(&server.install.log()) > reports).then_some(());
        within(RECOVERY, "it is reported after the next start, too", again).await;
        // nor when the trail has outgrown what is lost
        let admin = server.admin().await;
        for number in 0..8 {
            let body = json!({"id": users[1]["id"], "display_name": format!("Ann {number}")});
            admin.post("/api/auth/users/update", body).await.data();
        }
        let install = server.stop().await;
        assert_eq!(fs::read_to_string(&file).unwrap(), kept, "nothing is signed");
        assert_eq!(verify(&install).0, Some(1));
        let lines = postgres.0.sql_in(&url, "SELECT line FROM audit_checkpoints ORDER BY seq").unwrap();
        assert_eq!(signed(&lines), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_registered_under_the_id_of_a_lost_one_is_the_one_that_is_called() {
    let Some(lossy) = Lossy::new().await else { return };
    let Lossy { admin, echoes: [lost, other], lost_cluster, .. } = &lossy;
    let id = register(admin, "other", other).await;
    assert_eq!(id, *lost_cluster, "PostgreSQL has lost that the id was given");
    let before = lost.heard();
    admin.get(format!("/api/k8s/namespaces?cluster_id={id}")).await;
    assert!(other.heard() > 0);
    assert_eq!(lost.heard(), before, "the cluster whose registration is lost is called");
}
