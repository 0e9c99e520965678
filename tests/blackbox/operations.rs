//! Backup and restore, executed as docs/recover.md describes; only the paths differ.

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
    support::{
        Client, Install, PASSWORD, apply, control_plane, eventually, names, postgres, register_cluster,
        shared_control_plane,
    },
};

const PAGE: &str = include_str!("../../docs/recover.md");
const BINARY: &str = env!("CARGO_BIN_EXE_pilothouse");
const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// The commands of the sections from `## Back up` on: `sh` blocks for SQLite, `bash` blocks for PostgreSQL.
fn commands(language: &str) -> Vec<String> {
    let (_, sections) = PAGE.split_once("## Back up\n").expect("the section");
    let of_it = blocks(sections).into_iter().filter(|(of, _)| *of == language);
    of_it.map(|(_, lines)| lines.join("\n")).collect()
}

/// The paths that replace those of the page.
struct TestPaths {
    folder: Folder,
    data: String,
}

impl TestPaths {
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

fn output_of_success(output: &Output) -> String {
    let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output_text}\n{}", String::from_utf8_lossy(&output.stderr));
    output_text
}

/// Adds users while `work` runs on this thread. Returns their number and the output of `work`.
async fn run_during_changes(admin: &Client, work: impl FnOnce() -> Output) -> (usize, Output) {
    let finished = Arc::new(AtomicBool::new(false));
    let (admin, stop) = (admin.clone(), finished.clone());
    let changes = tokio::spawn(async move {
        let mut made = 0;
        while !stop.load(Ordering::Acquire) {
            let user = json!({"username": format!("user-{made}"), "password": PASSWORD, "role": "viewer"});
            admin.post("/api/auth/users", user).await.data();
            made += 1;
        }
        made
    });
    let output = tokio::task::block_in_place(work);
    finished.store(true, Ordering::Release);
    let made = changes.await.unwrap();
    assert!(made > 0, "users were added during the work");
    (made, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_made_during_changes_restores_a_lost_install() {
    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let server = Install::on_sqlite().start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "kept", &plane).await;
    let paths = TestPaths::new(&server.install);
    let [back_up, keep_key, drill] = &commands("sh")[..] else { panic!("{:?}", commands("sh")) };

    let script = format!("{back_up}\n{keep_key}");
    let (made, output) = run_during_changes(&admin, || paths.bash(&script, &[])).await;
    output_of_success(&output);
    let output = paths.bash(back_up, &[]);
    assert_eq!(output.status.code(), Some(2), "an existing backup is not overwritten");
    let backup = fs::read(paths.path("backups/pilothouse.backup")).unwrap();
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
        assert!(!found, "{plain} is readable without the key");
    }

    // after another change, everything is lost except the backup, the key, and a copy of the checkpoint file
    admin.add_user("too-late", "viewer").await;
    let session = admin.session.clone();
    let install = server.stop().await;
    let checkpoints = paths.path("checkpoints.jsonl");
    fs::copy(install.file(CHECKPOINTS), &checkpoints).unwrap();
    drop(install);
    let output_text = output_of_success(&paths.bash(drill, &[]));
    assert!(output_text.contains("super_admin"), "{output_text}");

    let data = paths.path("drill");
    let again = paths.bash(drill.lines().nth(2).unwrap(), &[]);
    assert_eq!(again.status.code(), Some(2), "an existing database is not overwritten");
    let restored =
        Install::on_sqlite().set("DATA_DIR", data.display().to_string()).set("PROBE_INTERVAL", "1s");
    // the restored trail is shorter than the checkpoint file, and reported as such
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
    assert_eq!(
        names(&admin.rows(path, "workloads").await),
        ["web"],
        "the stored credential can be decrypted"
    );
    eventually("a probe with the restored credential", async || {
        let status = admin.get(format!("/api/k8s/clusters/status?id={id}")).await.data();
        (status["cluster"]["status"] == "online").then_some(())
    })
    .await;
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
    assert_eq!(admin.operations("operation_type=restore").await.len(), 1);
}

/// Restores the backup with this key into a new folder of this name; returns the output.
fn restore_with_key(install: &Install, backup: &Path, name: &str, key: &[u8]) -> Output {
    let data = install.data_dir().with_file_name(name);
    fs::create_dir(&data).unwrap();
    let key_file = data.join("master.key");
    fs::write(&key_file, key).unwrap();
    fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (backup, place) = (backup.display().to_string(), data.display().to_string());
    let output = install.run(&["restore", &backup, "--data-dir", &place]);
    let made: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(output.status.success() || made.len() == 1, "{made:?} remain");
    output
}

#[tokio::test]
async fn backup_with_another_key_or_modified_is_refused() {
    let server = Install::on_sqlite().start().await;
    server.admin().await;
    let install = server.stop().await;
    let backup = install.data_dir().with_file_name("whole.backup");
    assert!(install.run(&["backup", &backup.display().to_string()]).status.success());
    let key = fs::read(install.file("master.key")).unwrap();
    let whole = fs::read(&backup).unwrap();

    let output = restore_with_key(&install, &backup, "other", &[b'a'; 64]);
    let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output_text}");
    for (n, length) in [0, 50, 100, whole.len() / 2, whole.len() - 1].into_iter().enumerate() {
        let cut = install.data_dir().with_file_name(format!("{n}.backup"));
        fs::write(&cut, &whole[..length]).unwrap();
        assert_eq!(
            restore_with_key(&install, &cut, &format!("cut-{n}"), &key).status.code(),
            Some(2),
            "cut to {length}"
        );
        let mut changed = whole.clone();
        changed[length] ^= 1;
        fs::write(&cut, changed).unwrap();
        assert_eq!(
            restore_with_key(&install, &cut, &format!("changed-{n}"), &key).status.code(),
            Some(2),
            "byte {length}"
        );
    }
    let output = restore_with_key(&install, &backup, "unchanged", &key);
    output_of_success(&output);
    let stdin = install.run(&["backup", "--stdin", "/nowhere"]);
    assert_eq!(stdin.status.code(), Some(2), "--stdin is not supported with SQLite");
}

/// After a kill at any time, each backup file has an operation, and pending operations are closed.
#[tokio::test]
async fn killed_backup_is_recorded_and_its_operation_is_closed() {
    let server = Install::on_sqlite().start().await;
    let paths = TestPaths::new(&server.install);
    let file = |n: u64| paths.path(&format!("backups/{n}.backup"));
    let mut n = 0;
    loop {
        let mut backup = server.install.spawn(&["backup", &file(n).display().to_string()]);
        tokio::time::sleep(std::time::Duration::from_millis(15 * n)).await;
        // the command may have ended
        let _ = backup.kill();
        let status = backup.wait().unwrap();
        n += 1;
        if status.success() {
            break;
        }
        assert!(n < 200, "the backup did not end");
    }
    // the start closes pending operations
    let server = server.stop().await.start().await;
    let rows = server.admin().await.operations("operation_type=backup").await;
    for n in 0..n {
        if fs::metadata(file(n)).is_ok_and(|file| file.len() > 0) {
            let name = format!("{n}.backup");
            assert!(rows.iter().any(|row| row["resource_name"] == name), "{name} in {rows:#?}");
        }
    }
    assert!(rows.iter().all(|row| row["status"] != "pending"), "{rows:#?}");
    assert_eq!(rows[0]["status"], "success", "the last backup succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_dump_backup_is_encrypted_and_restored() {
    let Some(postgres) = postgres() else { return };
    let (lost, found) = (postgres.database().unwrap(), postgres.database().unwrap());
    let plane = shared_control_plane().await;
    let server = Install::on_postgres(&lost).start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "kept", plane).await;
    let paths = TestPaths::new(&server.install);
    let [back_up, restore] = &commands("bash")[..] else { panic!("{:?}", commands("bash")) };
    let path = format!("{}:{}", postgres.programs().display(), std::env::var("PATH").unwrap());
    let environment = |url: &String| {
        let key = server.install.file("master.key").display().to_string();
        [
            ("PATH", path.clone()),
            ("PILOTHOUSE_DATABASE_URL", url.clone()),
            ("PILOTHOUSE_KEY_FILE", key),
            ("PILOTHOUSE_DATA_DIR", paths.data.clone()),
        ]
    };
    let (_, output) = run_during_changes(&admin, || paths.bash(back_up, &environment(&lost))).await;
    output_of_success(&output);
    let refused = server.install.run(&["backup", &paths.path("plain").display().to_string()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("pg_dump"));
    let sealed = fs::read(paths.path("backups/pilothouse.backup")).unwrap();
    for plain in ["PGDMP", "kept", "user-0"] {
        assert!(!sealed.windows(plain.len()).any(|window| window == plain.as_bytes()), "{plain}");
    }

    output_of_success(&paths.bash(restore, &environment(&found)));
    let key = server.install.file("master.key").display().to_string();
    let restored = Install::on_postgres(&found).set("KEY_FILE", key).start().await;
    let admin = restored.client().sign_in("admin", PASSWORD).await;
    assert_eq!(names(&admin.rows("/api/k8s/clusters", "clusters").await), ["kept"]);
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    assert_eq!(admin.get("/api/k8s/audit/verify").await.data()["valid"], true);
}
