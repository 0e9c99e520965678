//! Backup and restore, run as docs/recover.md says; only where things lie is another.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use pilothouse_testbed::{Folder, workloads};
use serde_json::json;

use crate::{
    readme::blocks,
    support::{Client, Install, PASSWORD, apply, cluster, eventually, light, names, postgres},
};

const PAGE: &str = include_str!("../../docs/recover.md");
const BINARY: &str = env!("CARGO_BIN_EXE_pilothouse");
const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// The commands of the sections from `## Back up` on: those of SQLite are `sh`, those of PostgreSQL `bash`.
fn commands(language: &str) -> Vec<String> {
    let (_, sections) = PAGE.split_once("## Back up\n").expect("the section");
    let of_it = blocks(sections).into_iter().filter(|(of, _)| *of == language);
    of_it.map(|(_, lines)| lines.join("\n")).collect()
}

/// Where the page's paths are in this test.
struct Places {
    folder: Folder,
    data: String,
}

impl Places {
    fn new(install: &Install) -> Self {
        let folder = Folder::create().unwrap();
        for place in ["backups", "vault"] {
            fs::create_dir(folder.path().join(place)).unwrap();
        }
        Self { folder, data: install.data_dir().display().to_string() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn bash(&self, script: &str, environment: &[(&str, String)]) -> Output {
        let at = self.folder.path().display();
        let script = script
            .replace("pilothouse backup", &format!("{BINARY} backup"))
            .replace("pilothouse restore", &format!("{BINARY} restore"))
            .replace("pilothouse audit", &format!("{BINARY} audit"))
            .replace("pilothouse user", &format!("{BINARY} user"))
            .replace("/var/lib/pilothouse", &self.data)
            .replace("/var/backups", &format!("{at}/backups"))
            .replace("/srv/vault", &format!("{at}/vault"))
            .replace("/tmp/drill", &format!("{at}/drill"));
        let mut bash = Command::new("bash");
        bash.args(["-e", "-c", &script]).envs(environment.iter().map(|(name, value)| (*name, value)));
        bash.output().unwrap()
    }
}

fn well(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Adds users while `work` takes this thread; how many, and what `work` says.
async fn amid_changes(admin: &Client, work: impl FnOnce() -> Output) -> (usize, Output) {
    let over = Arc::new(AtomicBool::new(false));
    let (admin, until) = (admin.clone(), over.clone());
    let changes = tokio::spawn(async move {
        let mut made = 0;
        while !until.load(Ordering::Acquire) {
            let user = json!({"username": format!("user-{made}"), "password": PASSWORD, "role": "viewer"});
            admin.post("/api/auth/users", user).await.data();
            made += 1;
        }
        made
    });
    let output = tokio::task::block_in_place(work);
    over.store(true, Ordering::Release);
    let made = changes.await.unwrap();
    assert!(made > 0, "there were changes meanwhile");
    (made, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_lost_and_a_backup_made_while_changes_ran_brings_it_back() {
    let plane = light().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = Install::on_sqlite().start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "kept", &plane).await;
    let places = Places::new(&server.install);
    let [back_up, keep_key, drill] = &commands("sh")[..] else { panic!("{:?}", commands("sh")) };

    let script = format!("{back_up}\n{keep_key}");
    let (made, output) = amid_changes(&admin, || places.bash(&script, &[])).await;
    well(&output);
    let output = places.bash(back_up, &[]);
    assert_eq!(output.status.code(), Some(2), "never overwritten");
    let backup = fs::read(places.path("backups/pilothouse.backup")).unwrap();
    let rows = admin.operations("operation_type=backup").await;
    assert_eq!((rows.len(), &rows[0]["resource_type"]), (1, &json!("database")), "{rows:#?}");
    assert!(
        !fs::read_dir(server.install.data_dir())
            .unwrap()
            .flatten()
            .any(|entry| { entry.file_name().to_string_lossy().ends_with(".tmp") })
    );
    for plain in ["SQLite format 3", "kept", "user-0", "admin", "cli:"] {
        let found = backup.windows(plain.len()).any(|window| window == plain.as_bytes());
        assert!(!found, "{plain} can be read without the key");
    }

    // more happens, then everything is lost but the backup, the key, and a copy of the checkpoint file
    admin.add_user("too-late", "viewer").await;
    let session = admin.session.clone();
    let install = server.stop().await;
    let checkpoints = places.path("checkpoints.jsonl");
    fs::copy(install.file(CHECKPOINTS), &checkpoints).unwrap();
    drop(install);
    let said = well(&places.bash(drill, &[]));
    assert!(said.contains("whole") && said.contains("super_admin"), "{said}");

    let data = places.path("drill");
    let again = places.bash(drill.lines().nth(2).unwrap(), &[]);
    assert_eq!(again.status.code(), Some(2), "nothing is overwritten");
    let restored =
        Install::on_sqlite().set("DATA_DIR", data.display().to_string()).set("PROBE_INTERVAL", "1s");
    // a cut trail, and told as one
    let verified = restored.run(&["audit", "verify", "--checkpoint", &checkpoints.display().to_string()]);
    let verdict = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert_eq!(verified.status.code(), Some(1), "{verdict}");

    let restored = restored.start().await;
    let mut before = restored.client();
    before.session = session;
    before.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    let admin = restored.client().sign_in("admin", PASSWORD).await;
    let users = admin.rows("/api/auth/users?per_page=500", "users").await;
    assert!(!users.is_empty() && users.len() <= made + 1, "{} of {made}", users.len());
    assert_eq!(names(&admin.rows("/api/k8s/clusters", "clusters").await), ["kept"]);
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=default");
    assert_eq!(names(&admin.rows(path, "workloads").await), ["web"], "the credential opens");
    eventually("a probe with the restored credential", async || {
        let status = admin.get(format!("/api/k8s/clusters/status?id={id}")).await.data();
        (status["cluster"]["status"] == "online").then_some(())
    })
    .await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
    assert_eq!(admin.operations("operation_type=restore").await.len(), 1);
}

/// Restores the backup into a folder of this name with this key; what came of it.
fn restored(install: &Install, backup: &Path, name: &str, key: &[u8]) -> Output {
    let data = install.data_dir().with_file_name(name);
    fs::create_dir(&data).unwrap();
    let key_file = data.join("master.key");
    fs::write(&key_file, key).unwrap();
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (backup, place) = (backup.display().to_string(), data.display().to_string());
    let output = install.run(&["restore", &backup, "--data-dir", &place]);
    let made: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(output.status.success() || made.len() == 1, "{made:?} is left");
    output
}

#[tokio::test]
async fn a_backup_is_nothing_without_its_key_or_when_it_was_changed() {
    let server = Install::on_sqlite().start().await;
    server.admin().await;
    let install = server.stop().await;
    let backup = install.data_dir().with_file_name("whole.backup");
    assert!(install.run(&["backup", &backup.display().to_string()]).status.success());
    let key = fs::read(install.file("master.key")).unwrap();
    let whole = fs::read(&backup).unwrap();

    let output = restored(&install, &backup, "other", &[b'a'; 64]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("whose fingerprint begins with"), "{said}");
    for (n, length) in [0, 50, 100, whole.len() / 2, whole.len() - 1].into_iter().enumerate() {
        let cut = install.data_dir().with_file_name(format!("{n}.backup"));
        fs::write(&cut, &whole[..length]).unwrap();
        assert_eq!(
            restored(&install, &cut, &format!("cut-{n}"), &key).status.code(),
            Some(2),
            "cut to {length}"
        );
        let mut changed = whole.clone();
        changed[length] ^= 1;
        fs::write(&cut, changed).unwrap();
        assert_eq!(
            restored(&install, &cut, &format!("changed-{n}"), &key).status.code(),
            Some(2),
            "byte {length}"
        );
    }
    let output = restored(&install, &backup, "well", &key);
    well(&output);
    let stdin = install.run(&["backup", "--stdin", "/nowhere"]);
    assert_eq!(stdin.status.code(), Some(2), "SQLite is not read from there");
}

/// However early it is killed: what it wrote is in the trail, and what it left pending is closed.
#[tokio::test]
async fn a_backup_that_is_killed_has_its_row() {
    let server = Install::on_sqlite().start().await;
    let places = Places::new(&server.install);
    let file = |n: u64| places.path(&format!("backups/{n}.backup"));
    let mut n = 0;
    loop {
        let mut backup = server.install.begin(&["backup", &file(n).display().to_string()]);
        tokio::time::sleep(std::time::Duration::from_millis(15 * n)).await;
        // it may have ended
        let _ = backup.kill();
        let status = backup.wait().unwrap();
        n += 1;
        if status.success() {
            break;
        }
        assert!(n < 200, "it never ends");
    }
    // nothing is pending any more after a start
    let server = server.stop().await.start().await;
    let rows = server.admin().await.operations("operation_type=backup").await;
    for n in 0..n {
        if fs::metadata(file(n)).is_ok_and(|file| file.len() > 0) {
            let name = format!("{n}.backup");
            assert!(rows.iter().any(|row| row["resource_name"] == name), "{name} in {rows:#?}");
        }
    }
    assert!(rows.iter().all(|row| row["status"] != "pending"), "{rows:#?}");
    assert_eq!(rows[0]["status"], "success", "the last one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pg_dump_reads_is_sealed_and_restored() {
    let Some(postgres) = postgres() else { return };
    let (lost, found) = (postgres.database().unwrap(), postgres.database().unwrap());
    let plane = light().await;
    let server = Install::on(&lost).start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "kept", &plane).await;
    let places = Places::new(&server.install);
    let [back_up, restore] = &commands("bash")[..] else { panic!("{:?}", commands("bash")) };
    let path = format!("{}:{}", postgres.programs().display(), std::env::var("PATH").unwrap());
    let environment = |url: &String| {
        let key = server.install.file("master.key").display().to_string();
        [
            ("PATH", path.clone()),
            ("PILOTHOUSE_DATABASE_URL", url.clone()),
            ("PILOTHOUSE_KEY_FILE", key),
            ("PILOTHOUSE_DATA_DIR", places.data.clone()),
        ]
    };
    let (_, output) = amid_changes(&admin, || places.bash(back_up, &environment(&lost))).await;
    well(&output);
    let refused = server.install.run(&["backup", &places.path("plain").display().to_string()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("pg_dump"));
    let sealed = fs::read(places.path("backups/pilothouse.backup")).unwrap();
    for plain in ["PGDMP", "kept", "user-0"] {
        assert!(!sealed.windows(plain.len()).any(|window| window == plain.as_bytes()), "{plain}");
    }

    well(&places.bash(restore, &environment(&found)));
    let key = server.install.file("master.key").display().to_string();
    let restored = Install::on(&found).set("KEY_FILE", key).start().await;
    let admin = restored.client().sign_in("admin", PASSWORD).await;
    assert_eq!(names(&admin.rows("/api/k8s/clusters", "clusters").await), ["kept"]);
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
}
