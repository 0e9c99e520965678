//! A trail that cannot be written, or only just: a full disk, a nearly full one, a database that is locked or gone. Nothing
//! is sent then, and all goes on by itself afterwards.

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
    Answer, Client, Install, PASSWORD, RECOVERY, Server, apply, cluster, eventually, light, within,
};

/// A small disk of its own in memory, gone at the end.
struct Disk(Folder);

impl Disk {
    /// Of so many MiB; none, said aloud, where we may not mount one.
    fn of(mib: u32) -> Option<Self> {
        let folder = Folder::create().unwrap();
        let size = format!("size={mib}m,mode=0700");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        assert!(std::env::var_os(REQUIRE_NODE).is_none(), "no disk: {output:?}");
        eprintln!("SKIPPED: a full disk, for which one is mounted: {output:?}");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Fills it but for so many bytes (or a little less).
    fn fill(&self, but: u64) -> Ballast {
        let path = self.path("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write(&[1; 4096]).is_ok_and(|written| written > 0) {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(but)).unwrap();
        Ballast(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // lazily: a server that a failed test leaves may still hold a file
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// What fills a disk, thrown off in the end.
struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A deployment `web` in a cluster of its own, registered.
struct Scene {
    plane: ControlPlane,
    server: Server,
    admin: Client,
    id: i64,
}

impl Scene {
    async fn new(install: Install) -> Self {
        let plane = light().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = install.start().await;
        let admin = server.admin().await;
        let id = cluster(&admin, "roomy", &plane).await;
        Self { plane, server, admin, id }
    }

    async fn scale(&self) -> Answer {
        self.admin.post("/api/k8s/workloads/scale", self.body()).await
    }

    fn body(&self) -> Value {
        json!({"cluster_id": self.id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 2})
    }

    /// How many changes the cluster was asked for.
    fn asked(&self) -> usize {
        let ours = |agent: &str| agent.starts_with("pilothouse/");
        let events = self.plane.audit_events().unwrap();
        let patches = events.iter().filter(|event| event.verb == "patch");
        patches.filter(|event| event.user_agent.as_deref().is_some_and(ours)).count()
    }

    /// Reads go on, whatever becomes of changes.
    async fn reads(&self) {
        let path = format!("/api/k8s/workloads?cluster_id={}&namespace=default", self.id);
        assert_eq!(self.admin.rows(path, "workloads").await.len(), 1);
        self.admin.operations("").await;
        assert_eq!(self.admin.get("/readyz").await.status, 200);
    }

    /// Waits until a change is made again, and then sees that the trail is whole.
    async fn goes_on(self) {
        within(RECOVERY, "changes are made again", async || (self.scale().await.status == 200).then_some(()))
            .await;
        assert!(self.admin.operations("status=pending").await.is_empty());
        let done = self.admin.operations("operation_type=scale&status=success").await.len();
        assert_eq!(self.asked(), done, "what was refused was not sent");
        let install = self.server.stop().await;
        let output = install.run(&["audit", "verify"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn unavailable(answer: Answer) {
    assert!(!answer.header("retry-after").is_empty(), "{answer}");
    assert_eq!(answer.status, 503);
    answer.refused("SERVICE_UNAVAILABLE");
}

/// Sends changes until one is refused: a database has some room of its own in its files.
async fn until_refused(scene: &Scene) {
    eventually("a refusal", async || {
        let answer = scene.scale().await;
        (answer.status != 200).then(|| unavailable(answer))
    })
    .await;
}

#[tokio::test]
async fn with_a_full_disk_nothing_is_sent_and_reads_go_on() {
    let Some(disk) = Disk::of(24) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let scene = Scene::new(install.set("FREE_SPACE_FLOOR_MIB", "0")).await;
    scene.scale().await.data();
    let ballast = disk.fill(0);
    until_refused(&scene).await;
    let asked = scene.asked();
    for _ in 0..3 {
        unavailable(scene.scale().await);
        let user = json!({"username": "nobody", "password": PASSWORD, "role": "viewer"});
        unavailable(scene.admin.post("/api/auth/users", user).await);
        scene.reads().await;
    }
    assert_eq!(scene.asked(), asked);
    drop(ballast);
    scene.goes_on().await;
}

#[tokio::test]
async fn an_outcome_that_a_full_disk_does_not_take_is_answered_and_stored_later() {
    let Some(disk) = Disk::of(24) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let scene = Scene::new(install.set("FREE_SPACE_FLOOR_MIB", "0")).await;
    let change = under_way(&scene).await;
    let ballast = disk.fill(0);
    eventually("the database's own room is used up", async || {
        let body = json!({"id": scene.id, "description": "filled"});
        (scene.admin.post("/api/k8s/clusters/update", body).await.status == 503).then_some(())
    })
    .await;
    scene.plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let data = change.await.unwrap().data();
    assert_eq!(data["workload"]["replicas"], 2, "it was made, and who asked for it is told");
    assert!(data["warnings"].is_array(), "and that it is not stored: {data}");
    unavailable(scene.scale().await);
    assert_eq!(scene.admin.operations("status=pending").await.len(), 1);
    drop(ballast);
    eventually("the outcome is stored", async || {
        scene.admin.operations("status=pending").await.is_empty().then_some(())
    })
    .await;
    scene.goes_on().await;
}

/// A change that the cluster has taken and does not answer, until etcd goes on.
async fn under_way(scene: &Scene) -> tokio::task::JoinHandle<Answer> {
    scene.plane.signal(Component::Etcd, Signal::Stop).unwrap();
    let (client, body) = (scene.admin.clone(), scene.body());
    let change = tokio::spawn(async move { client.post("/api/k8s/workloads/scale", body).await });
    eventually("the intent", async || scene.admin.operations("status=pending").await.pop()).await;
    change
}

#[tokio::test]
async fn below_the_floor_nothing_new_is_begun_and_what_is_under_way_is_stored() {
    let Some(disk) = Disk::of(96) else { return };
    let install = Install::on_sqlite().set("DATA_DIR", disk.path("data").display().to_string());
    let install = install.set("FREE_SPACE_FLOOR_MIB", "24").set("ACCESS_TOKEN_LIFETIME", "1h");
    let scene = Scene::new(install).await;
    let viewer = scene.server.user(&scene.admin, "viewer").await;
    let filler = json!({"username": "filler", "password": PASSWORD, "role": "viewer"});
    scene.admin.post("/api/auth/users", filler).await.data();
    // strangers stop first: what they leave behind does not take the room of changes
    let ballast = disk.fill(36 << 20);
    for (name, password) in
        [("viewer", PASSWORD), ("viewer", "not the password"), ("admin", "not the password")]
    {
        unavailable(scene.server.client().try_sign_in(name, password).await);
    }
    scene.scale().await.data();
    drop(ballast);
    let change = under_way(&scene).await;
    let ballast = disk.fill(12 << 20);
    let before = scene.admin.operations("").await.len();
    unavailable(scene.scale().await);
    unavailable(viewer.post("/api/k8s/workloads/scale", scene.body()).await);
    for (name, password) in [("viewer", PASSWORD), ("admin", "not the password")] {
        unavailable(scene.server.client().try_sign_in(name, password).await);
    }
    assert_eq!(scene.admin.operations("").await.len(), before, "no row of what was refused");
    // who fills the disk can be put out: a super admin signs in, and takes what is kept for that
    let another = scene.server.client().sign_in("admin", PASSWORD).await;
    let filler = another.rows("/api/auth/users?search=filler", "users").await[0]["id"].clone();
    another.post("/api/auth/users/update", json!({"id": filler, "disabled": true})).await.data();
    assert_eq!(scene.admin.get("/readyz").await.status, 200, "what it can do, it does");
    scene.plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let data = change.await.unwrap().data();
    assert_eq!(data.get("warnings"), None, "{data}");
    assert!(scene.admin.operations("status=pending").await.is_empty());
    // to leave, and to take the trail out, there is room
    viewer.post("/api/auth/logout", json!({})).await.data();
    assert!(scene.admin.get("/api/k8s/audit/export").await.text.lines().count() > 3);
    scene.reads().await;
    drop(ballast);
    scene.server.client().sign_in("admin", PASSWORD).await;
    scene.goes_on().await;
    drop(disk);
}

/// Holds SQLite's write lock, as another process would, until it is dropped.
fn locked(database: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

#[tokio::test]
async fn while_the_database_is_locked_nothing_is_sent() {
    let scene = Scene::new(Install::on_sqlite()).await;
    scene.scale().await.data();
    let asked = scene.asked();
    let lock = locked(&scene.server.install.file("pilothouse.db"));
    let secret = json!({"cluster_id": scene.id, "namespace": "default", "name": "sealed"});
    let (one, two) = tokio::join!(scene.scale(), scene.admin.post("/api/k8s/secrets/reveal", secret));
    for refused in [one, two] {
        unavailable(refused);
    }
    scene.reads().await;
    assert_eq!(scene.asked(), asked);
    drop(lock);
    scene.goes_on().await;
}

#[tokio::test]
async fn while_the_database_is_gone_nothing_is_sent() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else { return };
    let postgres = Arc::new(postgres);
    let off_thread = async |what: fn(&Postgres) -> pilothouse_testbed::Result<()>| {
        let postgres = postgres.clone();
        tokio::task::spawn_blocking(move || what(&postgres)).await.unwrap().unwrap();
    };
    let scene = Scene::new(Install::on(&postgres.database().unwrap())).await;
    scene.scale().await.data();
    let asked = scene.asked();
    off_thread(Postgres::cut).await;
    unavailable(scene.scale().await);
    assert_eq!(scene.asked(), asked);
    off_thread(Postgres::start).await;
    scene.goes_on().await;
}
