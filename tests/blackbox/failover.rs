//! PostgreSQL crashes, and failovers to a standby that lacks the last commits.
//!
//! `PILOTHOUSE_TEST_FAILOVERS` sets the number of crashes and failovers (`just failover 20`).

use std::{fs, path::PathBuf, sync::Arc};

use pilothouse_testbed::{Folder, Postgres, PostgresBuilder};
use serde_json::{Value, json};

use crate::support::{
    ApiResponse, Client, EchoServer, Install, RECOVERY_TIMEOUT, Server, env_number, within,
};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// A PostgreSQL server that belongs to one test.
#[derive(Clone)]
struct OwnPostgres(Arc<Postgres>);

impl OwnPostgres {
    /// `None`, with a message, if this machine has no PostgreSQL.
    fn start(builder: PostgresBuilder) -> Option<Self> {
        builder.start_or_skip().unwrap().map(|postgres| Self(Arc::new(postgres)))
    }

    fn database(&self) -> String {
        self.0.database().unwrap()
    }

    /// Runs `what` outside the async runtime, so that the clients detect closed connections meanwhile.
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

fn rounds() -> u64 {
    env_number("PILOTHOUSE_TEST_FAILOVERS").unwrap_or(1)
}

async fn wait_until_ready(server: &Server) {
    let client = server.client();
    let ready = async || (client.get("/readyz").await.status == 200).then_some(());
    within(RECOVERY_TIMEOUT, "the server is ready again", ready).await;
}

/// Repeats the request while connections that the crash broke are replaced.
async fn change(client: &Client, path: &str, body: &Value) -> ApiResponse {
    let answered =
        async || Some(client.post(path, body.clone()).await).filter(|response| response.status != 503);
    within(RECOVERY_TIMEOUT, path, answered).await
}

fn verify(install: &Install) -> (Option<i32>, String) {
    let output = install.run(&["audit", "verify"]);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_changes_survive_a_crash_of_postgresql_with_async_commit() {
    let Some(postgres) = OwnPostgres::start(Postgres::builder().commits_late(true)) else { return };
    let server = Install::on_postgres(&postgres.database()).start().await;
    let admin = server.admin().await;
    let user = admin.add_user("ann", "viewer").await;
    for round in 0..rounds() {
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
        wait_until_ready(&server).await;
        let clusters = admin.rows("/api/k8s/clusters?per_page=500", "clusters").await;
        for name in &names {
            assert!(clusters.iter().any(|cluster| cluster["name"] == **name), "{name} is lost");
        }
        let users = admin.rows("/api/auth/users?sort=id", "users").await;
        assert_eq!(users[1]["display_name"], **names.last().unwrap());
        let (code, output) = verify(&server.install);
        assert_eq!(code, Some(0), "{output}");
    }
}

/// Sequence and hash of each checkpoint.
fn checkpoints(lines: &str) -> Vec<(i64, String)> {
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["sequence"].as_i64().unwrap(), line["hash"].as_str().unwrap().to_owned())
    };
    lines.lines().filter(|line| !line.is_empty()).map(read).collect()
}

/// A server on a PostgreSQL that lost its last commits in a failover.
struct FailedOver {
    postgres: OwnPostgres,
    url: String,
    server: Server,
    admin: Client,
    /// Sequence of the last entry signed before the failover.
    last_signed: i64,
    /// The registered clusters: one whose registration is lost, and another.
    echoes: [EchoServer; 2],
    lost_cluster: i64,
    _standby: Folder,
}

async fn register(admin: &Client, name: &str, echo: &EchoServer) -> i64 {
    let body = json!({
        "name": name, "auth_type": "token", "token": "of-nobody", "ca_certificate": echo.ca, "skip_test": true,
        "api_server": echo.address,
    });
    change(admin, "/api/k8s/clusters", &body).await.data()["cluster"]["id"].as_i64().unwrap()
}

impl FailedOver {
    async fn new() -> Option<Self> {
        let postgres = OwnPostgres::start(Postgres::builder())?;
        let (url, standby) = (postgres.database(), Folder::create().unwrap());
        let echoes = [EchoServer::start(), EchoServer::start()];
        let server = Install::on_postgres(&url).start().await;
        let admin = server.admin().await;
        admin.add_user("ann", "viewer").await;
        let copy = standby.path().join("data");
        postgres.copy_to(copy.clone()).await;

        // the failover loses all changes from here on
        admin.add_user("bob", "viewer").await;
        let lost_cluster = register(&admin, "lost", &echoes[0]).await;
        admin.get(format!("/api/k8s/namespaces?cluster_id={lost_cluster}")).await;
        assert!(echoes[0].request_count() > 0, "the cluster received a request");
        // a server that ends signs the end of the trail; the others copy the checkpoint to their files
        server.install.replica().start().await.stop().await;
        let file = server.install.file(CHECKPOINTS);
        let newest = || Some(checkpoints(&fs::read_to_string(&file).ok()?).last()?.0);
        let head = admin.get("/api/k8s/audit/verify").await.data()["head"]["sequence"].as_i64().unwrap();
        let last_signed = within(RECOVERY_TIMEOUT, "the checkpoint is in the file", async || {
            newest().filter(|one| *one >= head)
        })
        .await;

        postgres.fail_over_to(copy).await;
        wait_until_ready(&server).await;
        Some(Self { postgres, url, server, admin, last_signed, echoes, lost_cluster, _standby: standby })
    }

    /// The checkpoints in the database.
    fn signed_in_database(&self) -> Vec<(i64, String)> {
        let lines =
            self.postgres.0.sql_in(&self.url, "SELECT line FROM audit_checkpoints ORDER BY seq").unwrap();
        checkpoints(&lines)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_with_lost_commits_is_reported_and_stops_signing() {
    for _ in 0..rounds() {
        let Some(failed_over) = FailedOver::new().await else { return };
        let before = failed_over.signed_in_database();
        // the server keeps responding
        let users = failed_over.admin.rows("/api/auth/users?sort=id", "users").await;
        assert_eq!(users.iter().map(|user| &user["username"]).collect::<Vec<_>>(), ["admin", "ann"]);
        let body = json!({"id": users[1]["id"], "display_name": "Ann"});
        let response = change(&failed_over.admin, "/api/auth/users/update", &body).await;
        assert!(matches!(response.status, 200 | 503), "{response}");

        let (code, output) = verify(&failed_over.server.install);
        assert_eq!(code, Some(1), "{output}");
        let verdict = failed_over.admin.get("/api/k8s/audit/verify").await.data();
        assert_eq!(verdict["valid"], json!(false), "{verdict}");

        // neither its shutdown, which would sign all entries, nor the next start signs
        let FailedOver { server, .. } = &failed_over;
        let file = server.install.file(CHECKPOINTS);
        let kept = fs::read_to_string(&file).unwrap();
        assert_eq!(checkpoints(&kept).last().unwrap().0, failed_over.last_signed);
        let reported = |log: &str| {
            let is_report = |line: &str| {
                ["the audit trail does not match the verified history", "the audit trail ends before"]
                    .iter()
                    .any(|it| line.contains(it))
            };
            log.lines().filter(|line| line.contains("ERROR") && is_report(line)).count()
        };
        let FailedOver { postgres, url, server, last_signed: _, echoes: _echoes, _standby, .. } = failed_over;
        let install = server.stop().await;
        assert!(reported(&install.log()) > 0, "{}", install.log());
        assert_eq!(fs::read_to_string(&file).unwrap(), kept, "no checkpoint was added");

        let reports = reported(&install.log());
        let server = install.start().await;
        let reported_again = async || (reported(&server.install.log()) > reports).then_some(());
        within(RECOVERY_TIMEOUT, "the mismatch is reported after the next start", reported_again).await;
        // a trail that has become longer than the lost one is not signed either
        let admin = server.admin().await;
        for number in 0..8 {
            let body = json!({"id": users[1]["id"], "display_name": format!("Ann {number}")});
            admin.post("/api/auth/users/update", body).await.data();
        }
        let install = server.stop().await;
        assert_eq!(fs::read_to_string(&file).unwrap(), kept, "no checkpoint was added");
        assert_eq!(verify(&install).0, Some(1));
        let lines = postgres.0.sql_in(&url, "SELECT line FROM audit_checkpoints ORDER BY seq").unwrap();
        assert_eq!(checkpoints(&lines), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_to_the_new_cluster_that_reuses_a_lost_id() {
    let Some(failed_over) = FailedOver::new().await else { return };
    let FailedOver { admin, echoes: [lost, other], lost_cluster, .. } = &failed_over;
    let id = register(admin, "other", other).await;
    assert_eq!(id, *lost_cluster, "the failover lost the assigned id");
    let before = lost.request_count();
    admin.get(format!("/api/k8s/namespaces?cluster_id={id}")).await;
    assert!(other.request_count() > 0);
    assert_eq!(lost.request_count(), before, "no request to the cluster whose registration is lost");
}
