//! Retention: old entries of the trail are archived and removed; the archive and the rest of the trail verify.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{Client, Install, Server, eventually, mode, numbers};

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run_ok(install: &Install, arguments: &[&str]) -> String {
    let output = install.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", output_text(&output));
    output_text(&output)
}

/// Creates some operations.
async fn create_operations(server: &Server) -> Client {
    let admin = server.admin().await;
    let names: Vec<_> =
        (0..4).map(|n| format!("user-{n}-{}", server.address.rsplit(':').next().unwrap())).collect();
    for name in names {
        admin.add_user(&name, "viewer").await;
    }
    admin
}

/// The exports in a folder, in order.
fn archive(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// Checks that each export verifies and follows the previous one. Returns the sequence of the last entry.
fn verify_archive(install: &Install, folder: &Path) -> i64 {
    let key = run_ok(install, &["audit", "public-key"]).trim().to_owned();
    let other_install = Install::new();
    let (mut next, mut hash) = (1, Value::Null);
    for file in archive(folder) {
        assert_eq!(mode(&file), 0o600);
        run_ok(
            &other_install,
            &["audit", "verify", "--export", file.to_str().unwrap(), "--public-key", &key],
        );
        let text = fs::read_to_string(&file).unwrap();
        let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let header = &header["header"];
        assert_eq!(header["first_sequence"], next);
        assert!(hash.is_null() || header["previous_hash"] == hash, "the export follows the previous one");
        next = header["last_sequence"].as_i64().unwrap() + 1;
        hash = header["last_hash"].clone();
    }
    next - 1
}

#[tokio::test]
async fn pruned_entries_are_archived_and_the_rest_verifies() {
    let server = Install::new().start().await;
    let admin = create_operations(&server).await;
    let before = admin.operations("").await;
    let install = server.stop().await;
    let now = Timestamp::now().to_string();
    let folder = install.file("archive");
    let path = folder.to_str().unwrap().to_owned();
    let refused = install.run(&["audit", "prune", "--before", &now]);
    assert_eq!(refused.status.code(), Some(2), "there is no archive: {}", output_text(&refused));
    let prune = ["audit", "prune", "--before", "2020-01-01T00:00:00Z", "--archive", &path];
    assert_eq!(numbers(&run_ok(&install, &prune), "removed"), [0]);

    // prunes while a server runs; the removed operations are then absent from the server's lists
    let server = install.start().await;
    let admin = create_operations(&server).await;
    let install = &server.install;
    run_ok(install, &["audit", "prune", "--before", &now, "--archive", &path]);
    let last = verify_archive(install, &folder);
    assert!(last >= before.len() as i64);
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!((&verdict["valid"], &verdict["removed"]), (&json!(true), &json!(last)), "{verdict}");
    assert_eq!(numbers(&run_ok(install, &["audit", "verify"]), "removed"), [last]);
    let remaining = admin.operations("").await;
    let newest = before[0]["id"].as_i64().unwrap();
    assert!(remaining.iter().all(|row| row["id"].as_i64().unwrap() > newest), "{remaining:#?}");
    let prune = admin.operations("operation_type=prune").await;
    assert_eq!(
        (prune.len(), &prune[0]["resource_type"], &prune[0]["status"]),
        (1, &json!("operation"), &json!("success"))
    );
    assert!(prune[0]["username"].as_str().unwrap().starts_with("cli:"));
    assert_eq!(prune[0]["details"], format!("from=1 through={last}"));
    // an export begins after the removed entries, and verifies like any other
    let file = install.file("export.jsonl").display().to_string();
    run_ok(install, &["audit", "export", "--output", &file]);
    run_ok(install, &["audit", "verify", "--export", &file]);
    run_ok(install, &["audit", "export", "--format", "k8s"]);
    let install = server.stop().await;
    run_ok(&install, &["audit", "verify"]);

    // a file with the same name that is no export, or one of another trail, is not overwritten
    let server = install.start().await;
    create_operations(&server).await;
    let install = server.stop().await;
    let now = Timestamp::now().to_string();
    let next = last + 1;
    let checkpoints = fs::read_to_string(install.file("audit-checkpoints.jsonl")).unwrap();
    let end: Value = serde_json::from_str(checkpoints.lines().last().unwrap()).unwrap();
    let end = end["sequence"].as_i64().unwrap();
    let named = |suffix: &str| folder.join(format!("audit-{next:012}-{end:012}{suffix}.jsonl"));
    fs::write(named(""), "not an export\n").unwrap();
    fs::copy(&archive(&folder)[0], named("-2")).unwrap();
    let existing_files = [named(""), named("-2")].map(|file| fs::read(file).unwrap());
    run_ok(&install, &["audit", "prune", "--before", &now, "--archive", &path]);
    assert_eq!(numbers(&run_ok(&install, &["audit", "verify"]), "removed"), [end]);
    assert_eq!([named(""), named("-2")].map(|file| fs::read(file).unwrap()), existing_files);
    for file in [named(""), named("-2")] {
        fs::remove_file(file).unwrap();
    }
    assert_eq!(verify_archive(&install, &folder), end, "the removed entries are in a file with another name");
}

/// Simulates a kill between writing the archive and removing the entries, followed by a key rotation.
#[tokio::test]
async fn archive_signed_by_the_previous_key_is_reused() {
    let server = Install::on_sqlite().start().await;
    create_operations(&server).await;
    let install = server.stop().await;
    let now = Timestamp::now().to_string();
    let folder = install.file("archive");
    let path = folder.to_str().unwrap().to_owned();
    let database = fs::read(install.file("pilothouse.db")).unwrap();
    let prune = ["audit", "prune", "--before", &now, "--archive", &path];
    run_ok(&install, &prune);
    let archived = archive(&folder);
    fs::write(install.file("pilothouse.db"), database).unwrap();
    run_ok(&install, &["rekey"]);
    assert_ne!(numbers(&run_ok(&install, &prune), "removed"), [0]);
    assert_eq!(archive(&folder), archived, "the archive is not written again");
    run_ok(&install, &["audit", "verify"]);
}

#[tokio::test]
async fn server_removes_entries_older_than_the_retention() {
    let install = Install::new();
    let folder = install.file("archive");
    let install = install.set("AUDIT_ARCHIVE_DIR", folder.display().to_string()).set("AUDIT_RETENTION", "1s");
    let server = install.start().await;
    create_operations(&server).await;
    let install = server.stop().await;
    // the checkpoint of the shutdown becomes as old as the setting
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let server = install.start().await;
    let admin = server.admin().await;
    let removed = eventually("the first run of the retention task", async || {
        let verdict = admin.get("/api/k8s/audit/verify").await.data();
        assert_eq!(verdict["first_bad"], Value::Null, "{verdict}");
        verdict["removed"].as_i64().filter(|removed| *removed > 0)
    })
    .await;
    assert_eq!(verify_archive(&server.install, &folder), removed);
    assert_eq!(admin.operations("operation_type=prune").await[0]["username"], "system");
    run_ok(&server.stop().await, &["audit", "verify"]);
}
