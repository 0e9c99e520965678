//! Faults that prevent writes to the audit trail: a full disk, a nearly full disk, a locked or unavailable database.
//! No change is sent to the cluster during the fault, and changes succeed again after it without a restart.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use pilothouse_testbed::{Component, ControlPlane, Folder, Postgres, REQUIRE_NODE, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{
    ApiResponse, Client, Install, PASSWORD, RECOVERY_TIMEOUT, Server, apply, control_plane, eventually,
    register_cluster, within,
};

/// A small tmpfs, unmounted when dropped.
struct Disk(Folder);

impl Disk {
    /// A disk of `mib` MiB; `None`, with a message, if the test may not mount one.
    fn of(mib: u32) -> Option<Self> {
        let folder = Folder::create().unwrap();
        let size = format!("size={mib}m,mode=0700");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        assert!(std::env::var_os(REQUIRE_NODE).is_none(), "no disk: {output:?}");
        eprintln!("SKIPPED: a full disk needs the right to mount one: {output:?}");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Fills the disk except for `free_bytes` bytes (or slightly fewer).
    fn fill(&self, free_bytes: u64) -> Ballast {
        let path = self.path("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(free_bytes)).unwrap();
        Ballast(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // lazily, because a server of a failed test may still have a file open
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// A file that fills the disk; removed when dropped.
struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A server with a registered cluster that contains the deployment `web`.
struct Fixture {
    plane: ControlPlane,
    server: Server,
    admin: Client,
    id: i64,
}

impl Fixture {
    async fn new(install: Install) -> Self {
        let plane = control_plane().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = install.start().await;
        let admin = server.admin().await;
        let id = register_cluster(&admin, "roomy", &plane).await;
        Self { plane, server, admin, id }
    }

    async fn scale(&self) -> ApiResponse {
        self.admin.post("/api/k8s/workloads/scale", self.body()).await
    }

    fn body(&self) -> Value {
        json!({"cluster_id": self.id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 2})
    }

    /// The number of changes that the cluster received.
    fn changes_received(&self) -> usize {
        let is_pilothouse = |agent: &str| agent.starts_with("pilothouse/");
        let events = self.plane.audit_events().unwrap();
        let patches = events.iter().filter(|event| event.verb == "patch");
        patches.filter(|event| event.user_agent.as_deref().is_some_and(is_pilothouse)).count()
    }

    /// Checks that reads succeed.
    async fn check_reads(&self) {
        let path = format!("/api/k8s/workloads?cluster_id={}&namespace=default", self.id);
        assert_eq!(self.admin.rows(path, "workloads").await.len(), 1);
        self.admin.operations("").await;
        assert_eq!(self.admin.get("/readyz").await.status, 200);
    }

    /// Waits until a change succeeds, then checks that the trail is valid.
    async fn check_recovery(self) {
        within(RECOVERY_TIMEOUT, "changes succeed again", async || {
            (self.scale().await.status == 200).then_some(())
        })
        .await;
        assert!(self.admin.operations("status=pending").await.is_empty());
        let done = self.admin.operations("operation_type=scale&status=success").await.len();
        assert_eq!(self.changes_received(), done, "refused changes were not sent");
        let install = self.server.stop().await;
        let output = install.run(&["audit", "verify"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn expect_unavailable(response: ApiResponse) {
    assert!(!response.header("retry-after").is_empty(), "{response}");
    assert_eq!(response.status, 503);
    response.refused("SERVICE_UNAVAILABLE");
}

/// Sends changes until one is refused: the database file has some free pages.
async fn until_refused(fixture: &Fixture) {
    eventually("a refusal", async || {
        let response = fixture.scale().await;
        (response.status != 200).then(|| expect_unavailable(response))
    })
    .await;
}

#[tokio::test]
async fn full_disk_refuses_changes_and_serves_reads() {
    let Some(disk) = Disk::of(24) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let fixture = Fixture::new(install.set("FREE_SPACE_FLOOR_MIB", "0")).await;
    fixture.scale().await.data();
    let ballast = disk.fill(0);
    until_refused(&fixture).await;
    let changes_received = fixture.changes_received();
    for _ in 0..3 {
        expect_unavailable(fixture.scale().await);
        let user = json!({"username": "nobody", "password": PASSWORD, "role": "viewer"});
        expect_unavailable(fixture.admin.post("/api/auth/users", user).await);
        fixture.check_reads().await;
    }
    assert_eq!(fixture.changes_received(), changes_received);
    drop(ballast);
    fixture.check_recovery().await;
}

#[tokio::test]
async fn outcome_on_a_full_disk_is_returned_and_stored_later() {
    let Some(disk) = Disk::of(24) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let fixture = Fixture::new(install.set("FREE_SPACE_FLOOR_MIB", "0")).await;
    let change = pending_change(&fixture).await;
    let ballast = disk.fill(0);
    eventually("the database file has no free pages", async || {
        let body = json!({"id": fixture.id, "description": "filled"});
        (fixture.admin.post("/api/k8s/clusters/update", body).await.status == 503).then_some(())
    })
    .await;
    fixture.plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let data = change.await.unwrap().data();
    assert_eq!(data["workload"]["replicas"], 2, "the response confirms the change");
    assert!(data["warnings"].is_array(), "the response warns that the outcome is not stored: {data}");
    expect_unavailable(fixture.scale().await);
    assert_eq!(fixture.admin.operations("status=pending").await.len(), 1);
    drop(ballast);
    eventually("the outcome is stored", async || {
        fixture.admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    fixture.check_recovery().await;
}

/// A change that the API server has accepted; it responds when etcd continues.
async fn pending_change(fixture: &Fixture) -> tokio::task::JoinHandle<ApiResponse> {
    fixture.plane.signal(Component::Etcd, Signal::Stop).unwrap();
    let (client, body) = (fixture.admin.clone(), fixture.body());
    let change = tokio::spawn(async move { client.post("/api/k8s/workloads/scale", body).await });
    eventually("the intent is stored", async || fixture.admin.operations("status=pending").await.pop()).await;
    change
}

#[tokio::test]
async fn below_the_free_space_floor_only_running_changes_are_stored() {
    let Some(disk) = Disk::of(96) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let install = install.set("FREE_SPACE_FLOOR_MIB", "24").set("ACCESS_TOKEN_LIFETIME", "1h");
    let fixture = Fixture::new(install).await;
    let viewer = fixture.server.user(&fixture.admin, "viewer").await;
    let filler = json!({"username": "filler", "password": PASSWORD, "role": "viewer"});
    fixture.admin.post("/api/auth/users", filler).await.data();
    // requests without authentication are refused first, so that they do not use the space reserved for changes
    let ballast = disk.fill(36 << 20);
    for (name, password) in
        [("viewer", PASSWORD), ("viewer", "not the password"), ("admin", "not the password")]
    {
        expect_unavailable(fixture.server.client().try_sign_in(name, password).await);
    }
    fixture.scale().await.data();
    drop(ballast);
    let change = pending_change(&fixture).await;
    let ballast = disk.fill(12 << 20);
    let before = fixture.admin.operations("").await.len();
    expect_unavailable(fixture.scale().await);
    expect_unavailable(viewer.post("/api/k8s/workloads/scale", fixture.body()).await);
    for (name, password) in [("viewer", PASSWORD), ("admin", "not the password")] {
        expect_unavailable(fixture.server.client().try_sign_in(name, password).await);
    }
    assert_eq!(fixture.admin.operations("").await.len(), before, "refused requests add no operation");
    // a super admin can sign in, from a separate reserve of space, and disable the user who fills the disk
    let second_session = fixture.server.client().sign_in("admin", PASSWORD).await;
    let filler = second_session.rows("/api/auth/users?search=filler", "users").await[0]["id"].clone();
    second_session.post("/api/auth/users/update", json!({"id": filler, "disabled": true})).await.data();
    assert_eq!(fixture.admin.get("/readyz").await.status, 200, "the server stays ready");
    fixture.plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let data = change.await.unwrap().data();
    assert_eq!(data.get("warnings"), None, "{data}");
    assert!(fixture.admin.operations("status=pending").await.is_empty());
    // logout and export still work
    viewer.post("/api/auth/logout", json!({})).await.data();
    assert!(fixture.admin.get("/api/k8s/audit/export").await.text.lines().count() > 3);
    fixture.check_reads().await;
    drop(ballast);
    fixture.server.client().sign_in("admin", PASSWORD).await;
    fixture.check_recovery().await;
    drop(disk);
}

/// Holds SQLite's write lock until the connection is dropped.
fn locked(database: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test]
async fn locked_database_refuses_changes() {
    let fixture = Fixture::new(Install::on_sqlite()).await;
    fixture.scale().await.data();
    let changes_received = fixture.changes_received();
    let lock = locked(&fixture.server.install.file("pilothouse.db"));
    let secret = json!({"cluster_id": fixture.id, "namespace": "default", "name": "sealed"});
    let (one, two) = tokio::join!(fixture.scale(), fixture.admin.post("/api/k8s/secrets/reveal", secret));
    for refused in [one, two] {
        expect_unavailable(refused);
    }
    fixture.check_reads().await;
    assert_eq!(fixture.changes_received(), changes_received);
    drop(lock);
    fixture.check_recovery().await;
}

#[tokio::test]
async fn unavailable_database_refuses_changes() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else { return };
    let postgres = Arc::new(postgres);
    let off_thread = async |what: fn(&Postgres) -> pilothouse_testbed::Result<()>| {
        let postgres = postgres.clone();
        tokio::task::spawn_blocking(move || what(&postgres)).await.unwrap().unwrap();
    };
    let fixture = Fixture::new(Install::on_postgres(&postgres.database().unwrap())).await;
    fixture.scale().await.data();
    let changes_received = fixture.changes_received();
    off_thread(Postgres::cut).await;
    expect_unavailable(fixture.scale().await);
    assert_eq!(fixture.changes_received(), changes_received);
    off_thread(Postgres::start).await;
    fixture.check_recovery().await;
}
