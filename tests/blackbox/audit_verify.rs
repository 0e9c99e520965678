//! Verification of the audit trail from outside the server: the database, the checkpoint file, exports.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::support::{Client, Install, Server, eventually, numbers};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// Creates operations of each type that needs no cluster.
async fn create_operations(server: &Server) -> Client {
    let admin = server.admin().await;
    for name in ["ann", "bob", "cyd"] {
        let id = admin.add_user(name, "viewer").await;
        admin.post("/api/auth/users/update", json!({"id": id, "display_name": "Somebody"})).await.data();
    }
    let viewer = server.user(&admin, "viewer").await;
    viewer.get("/api/k8s/audit/verify").await.refused("PERMISSION_DENIED");
    viewer.get("/api/k8s/audit/export").await.refused("PERMISSION_DENIED");
    server.client().try_sign_in("mallory", "not a password").await.refused("AUTHENTICATION_ERROR");
    admin
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn verify(install: &Install, arguments: &[&str]) -> (Option<i32>, String) {
    let output = install.run(&[&["audit", "verify"], arguments].concat());
    (output.status.code(), text_of(&output))
}

fn assert_valid(install: &Install) {
    let (code, output) = verify(install, &[]);
    assert_eq!(code, Some(0), "{output}");
}

#[tokio::test]
async fn trail_is_verified_by_the_command_and_by_the_server() {
    let server = Server::fresh().await;
    let admin = create_operations(&server).await;
    assert_valid(&server.install);
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!((&verdict["valid"], &verdict["first_bad"]), (&json!(true), &Value::Null), "{verdict}");
    assert_eq!(verdict["entries"], verdict["head"]["sequence"]);
    assert!(verdict["checkpoints"].as_u64() > Some(0), "{verdict}");

    // the checkpoint in the database is written to the file soon after
    eventually("a checkpoint is in the file", async || {
        (admin.get("/api/k8s/audit/verify").await.data()["witnessed"].as_u64() > Some(0)).then_some(())
    })
    .await;
    let install = server.stop().await;
    assert_valid(&install);

    // with the database's URL, from another install
    let file = |name: &str| install.file(name).display().to_string();
    let address = if Install::is_on_postgres() {
        install.database_url()
    } else {
        format!("sqlite:{}", file("pilothouse.db"))
    };
    let other_install = Install::on_sqlite()
        .set("KEY_FILE", file("master.key"))
        .set("AUDIT_CHECKPOINT_FILE", file(CHECKPOINTS));
    let (code, output) = verify(&other_install, &["--database-url", &address]);
    assert_eq!(code, Some(0), "{output}");
    assert!(numbers(&output, "checkpoints")[1] > 0, "none is in the file: {output}");
}

/// Replaces each occurrence of `text`: a page may still contain the old bytes of a row that moved.
fn replace(file: &mut [u8], text: &[u8], by: &[u8]) {
    assert_eq!(text.len(), by.len());
    for at in 0..=file.len() - text.len() {
        if &file[at..at + text.len()] == text {
            file[at..at + text.len()].copy_from_slice(by);
        }
    }
}

#[tokio::test]
async fn changed_byte_in_the_database_file_names_the_operation() {
    let server = Install::on_sqlite().start().await;
    let admin = create_operations(&server).await;
    let operations = admin.operations("").await;
    let ids: Vec<_> = operations.iter().map(|row| row["operation_id"].as_str().unwrap()).collect();
    let install = server.stop().await;
    let file = install.file("pilothouse.db");
    let original = fs::read(&file).unwrap();
    let start = b"{\"entry\":\"";
    let mut entries: Vec<_> = (0..original.len() - 300)
        .filter(|at| original[*at..].starts_with(start))
        .map(|at| original[at..at + 300].to_vec())
        .collect();
    entries.sort();
    entries.dedup();
    assert!(entries.len() >= 8, "{} entries", entries.len());
    for (n, text) in entries.iter().enumerate() {
        for place in [20 + n, 120 + n, 280 - n] {
            let mut changed = text.clone();
            changed[place] ^= 1;
            let mut edited = original.clone();
            replace(&mut edited, text, &changed);
            fs::write(&file, &edited).unwrap();
            let (code, output) = verify(&install, &[]);
            assert_eq!(code, Some(1), "byte {place} of {}: {output}", String::from_utf8_lossy(text));
            assert!(ids.iter().any(|id| output.contains(*id)), "{output}");
        }
    }
    fs::write(&file, &original).unwrap();
    assert_valid(&install);

    // in the chain the name is in quotes; in the tables of the lists it is not
    let mut edited = original.clone();
    for at in 1..edited.len() - 7 {
        if edited[at..].starts_with(b"mallory") && edited[at - 1] != b'"' {
            edited[at..at + 7].copy_from_slice(b"charlie");
        }
    }
    fs::write(&file, &edited).unwrap();
    let (code, output) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{output}");
}

#[tokio::test]
async fn restored_old_database_is_detected_by_the_checkpoint_file() {
    let server = Install::on_sqlite().start().await;
    create_operations(&server).await;
    let install = server.stop().await;
    let older = fs::read(install.file("pilothouse.db")).unwrap();
    let server = install.start().await;
    server.admin().await.add_user("dora", "viewer").await;
    let install = server.stop().await;
    assert_valid(&install);

    let newer = fs::read(install.file("pilothouse.db")).unwrap();
    fs::write(install.file("pilothouse.db"), older).unwrap();
    let (code, output) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{output}");
    // entries appended to the old database are not signed, and nothing is exported
    let checkpoints = fs::read(install.file(CHECKPOINTS)).unwrap();
    let server = install.start().await;
    server.admin().await.get("/api/k8s/audit/export").await.refused("INTERNAL_ERROR");
    let install = server.stop().await;
    assert_eq!(fs::read(install.file(CHECKPOINTS)).unwrap(), checkpoints);
    let refused = install.run(&["audit", "export"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
    assert_eq!(verify(&install, &[]).0, Some(1), "the signed entries were replaced by others");
    // an attacker who also removes the checkpoint file is detected by its absence, and by a copy of the file
    let copy = install.file("copy.jsonl").display().to_string();
    fs::rename(install.file(CHECKPOINTS), &copy).unwrap();
    let (code, output) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{output}");
    assert_eq!(install.run(&["audit", "export"]).status.code(), Some(2));
    let (code, output) = verify(&install, &["--no-witness"]);
    assert_eq!(code, Some(0), "{output}");
    let (code, output) = verify(&install, &["--checkpoint", &copy]);
    assert_eq!(code, Some(1), "{output}");
    assert_eq!(verify(&install, &["--checkpoint", "/nowhere/at/all"]).0, Some(2));

    fs::write(install.file("pilothouse.db"), newer).unwrap();
    let forged = fs::read_to_string(&copy).unwrap().replacen("\"sequence\":", "\"sequence\":1", 1);
    fs::write(&copy, forged).unwrap();
    let (code, output) = verify(&install, &["--checkpoint", &copy]);
    assert_eq!(code, Some(1), "{output}");
}

#[tokio::test]
async fn export_is_verified_with_the_public_key_alone() {
    let server = Server::fresh().await;
    let admin = create_operations(&server).await;
    let install = &server.install;
    let key = text_of(&install.run(&["audit", "public-key"])).trim().to_owned();
    let file = install.file("export.jsonl").display().to_string();
    let output = install.run(&["audit", "export", "--output", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text_of(&output));
    assert_eq!(
        install.run(&["audit", "export", "--output", &file]).status.code(),
        Some(2),
        "an existing file is not overwritten"
    );

    // on another machine, without a data folder
    let other_install = Install::new();
    let (code, text) = verify(&other_install, &["--export", &file, "--public-key", &key]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&other_install, &["--export", &file]);
    assert_eq!(code, Some(2), "verification of an export needs a public key: {text}");
    let (code, text) = verify(&other_install, &["--export", &file, "--public-key", &"0".repeat(64)]);
    assert_eq!(code, Some(1), "{text}");

    // the export over HTTP has no envelope, and is recorded in the trail
    let response = admin.get("/api/k8s/audit/export").await;
    assert_eq!(response.header("content-type"), "application/x-ndjson");
    let exported = response.text.clone();
    assert!(exported.starts_with("{\"header\":{\"pilothouse_audit_export\":1,"), "{exported}");
    fs::write(&file, &exported).unwrap();
    assert_eq!(verify(&other_install, &["--export", &file, "--public-key", &key]).0, Some(0));
    let rows = admin.operations("operation_type=export&username=admin").await;
    assert_eq!(
        (rows.len(), &rows[0]["resource_type"], &rows[0]["status"]),
        (1, &json!("operation"), &json!("success"))
    );
    admin.get("/api/k8s/audit/export?format=xml").await.refused("VALIDATION_ERROR");
    admin.get("/api/k8s/audit/export?from=yesterday").await.refused("VALIDATION_ERROR");

    for changed in [
        exported.replacen("mallory", "malcolm", 1),
        exported.lines().take(5).map(|line| format!("{line}\n")).collect(),
        exported.lines().enumerate().filter(|(n, _)| *n != 3).map(|(_, line)| format!("{line}\n")).collect(),
        format!("{exported}something after it"),
        exported[..exported.len() - 1].to_owned(),
    ] {
        fs::write(&file, changed).unwrap();
        let (code, text) = verify(&other_install, &["--export", &file, "--public-key", &key]);
        assert_eq!(code, Some(1), "{text}");
    }

    let events = admin.get("/api/k8s/audit/export?format=k8s").await.text;
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let login = events.iter().find(|event| event["user"]["username"] == "mallory").unwrap();
    assert_eq!(
        (&login["verb"], &login["responseStatus"]["reason"]),
        (&json!("login"), &json!("AUTHENTICATION_ERROR"))
    );
    assert!(events.iter().all(|event| event["apiVersion"] == "audit.k8s.io/v1"));
}
