//! The audit trail, verified from outside: the database, its checkpoint file, exports.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::support::{Client, Install, Server, eventually};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

/// People come and go: operations of every sort that needs no cluster.
async fn busy(server: &Server) -> Client {
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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn verify(install: &Install, arguments: &[&str]) -> (Option<i32>, String) {
    let output = install.run(&[&["audit", "verify"], arguments].concat());
    (output.status.code(), said(&output))
}

fn whole(install: &Install) {
    let (code, said) = verify(install, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("whole"), "{said}");
}

#[tokio::test]
async fn a_trail_is_verified_beside_a_running_server_and_by_it() {
    let server = Server::fresh().await;
    let admin = busy(&server).await;
    whole(&server.install);
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!((&verdict["valid"], &verdict["first_bad"]), (&json!(true), &Value::Null), "{verdict}");
    assert_eq!(verdict["entries"], verdict["head"]["sequence"]);
    assert!(verdict["checkpoints"].as_u64() > Some(0), "{verdict}");

    // the checkpoint in the database soon is in the file, too
    eventually("a checkpoint in the file", async || {
        (admin.get("/api/k8s/audit/verify").await.data()["witnessed"].as_u64() > Some(0)).then_some(())
    })
    .await;
    let install = server.stop().await;
    whole(&install);

    // by the database's address, from elsewhere
    let file = |name: &str| install.file(name).display().to_string();
    let address = if Install::is_on_postgres() {
        install.database_url()
    } else {
        format!("sqlite:{}", file("pilothouse.db"))
    };
    let elsewhere = Install::on_sqlite()
        .set("KEY_FILE", file("master.key"))
        .set("AUDIT_CHECKPOINT_FILE", file(CHECKPOINTS));
    let (code, said) = verify(&elsewhere, &["--database-url", &address]);
    assert!(
        code == Some(0) && said.contains("whole") && !said.contains("of which 0 are kept elsewhere"),
        "{said}"
    );
}

/// Changes every place where the file holds `text`: a page may hold what is left of a row that moved.
fn replace(file: &mut [u8], text: &[u8], by: &[u8]) {
    assert_eq!(text.len(), by.len());
    for at in 0..=file.len() - text.len() {
        if &file[at..at + text.len()] == text {
            file[at..at + text.len()].copy_from_slice(by);
        }
    }
}

#[tokio::test]
async fn a_byte_changed_in_the_file_of_the_database_is_found_and_the_operation_is_named() {
    let server = Install::on_sqlite().start().await;
    busy(&server).await;
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
            let (code, said) = verify(&install, &[]);
            assert_eq!(code, Some(1), "byte {place} of {}: {said}", String::from_utf8_lossy(text));
            assert!(said.contains("failed verification: entry ") && said.contains("(operation "), "{said}");
        }
    }
    fs::write(&file, &original).unwrap();
    whole(&install);

    // in the chain the name stands in quotes; in the lists it does not
    let mut edited = original.clone();
    for at in 1..edited.len() - 7 {
        if edited[at..].starts_with(b"mallory") && edited[at - 1] != b'"' {
            edited[at..at + 7].copy_from_slice(b"charlie");
        }
    }
    fs::write(&file, &edited).unwrap();
    let (code, said) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("of the operations list: its"), "{said}");
}

#[tokio::test]
async fn an_older_database_put_back_is_found_by_the_file_outside_it() {
    let server = Install::on_sqlite().start().await;
    busy(&server).await;
    let install = server.stop().await;
    let older = fs::read(install.file("pilothouse.db")).unwrap();
    let server = install.start().await;
    server.admin().await.add_user("dora", "viewer").await;
    let install = server.stop().await;
    whole(&install);

    let newer = fs::read(install.file("pilothouse.db")).unwrap();
    fs::write(install.file("pilothouse.db"), older).unwrap();
    let (code, said) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("are missing"), "{said}");
    // what is appended to it is not signed, and none of it is exported
    let server = install.start().await;
    server.admin().await.get("/api/k8s/audit/export").await.refused("INTERNAL_ERROR");
    let install = server.stop().await;
    assert!(install.log().contains("is no longer signed"), "{}", install.log());
    let refused = install.run(&["audit", "export"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{refused:?}");
    assert_eq!(verify(&install, &[]).0, Some(1), "other entries stand where the signed ones were");
    // whoever can remove the file, too, is betrayed by that, and by a copy of it
    let copy = install.file("copy.jsonl").display().to_string();
    fs::rename(install.file(CHECKPOINTS), &copy).unwrap();
    let (code, said) = verify(&install, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no checkpoint outside the database"), "{said}");
    assert_eq!(install.run(&["audit", "export"]).status.code(), Some(2));
    let (code, said) = verify(&install, &["--no-witness"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = verify(&install, &["--checkpoint", &copy]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(verify(&install, &["--checkpoint", "/nowhere/at/all"]).0, Some(2));

    fs::write(install.file("pilothouse.db"), newer).unwrap();
    let forged = fs::read_to_string(&copy).unwrap().replacen("\"sequence\":", "\"sequence\":1", 1);
    fs::write(&copy, forged).unwrap();
    let (code, said) = verify(&install, &["--checkpoint", &copy]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("not signed by this key"), "{said}");
}

#[tokio::test]
async fn an_export_is_verified_without_database_and_key() {
    let server = Server::fresh().await;
    let admin = busy(&server).await;
    let install = &server.install;
    let key = said(&install.run(&["audit", "public-key"])).trim().to_owned();
    let file = install.file("export.jsonl").display().to_string();
    let output = install.run(&["audit", "export", "--output", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(
        install.run(&["audit", "export", "--output", &file]).status.code(),
        Some(2),
        "never overwritten"
    );

    // elsewhere, where there is no data folder
    let elsewhere = Install::new();
    let (code, text) = verify(&elsewhere, &["--export", &file, "--public-key", &key]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&elsewhere, &["--export", &file]);
    assert_eq!(code, Some(2), "whose key should it be? {text}");
    let (code, text) = verify(&elsewhere, &["--export", &file, "--public-key", &"0".repeat(64)]);
    assert_eq!(code, Some(1), "{text}");

    // the same by HTTP, without the envelope; it is itself in the trail
    let answer = admin.get("/api/k8s/audit/export").await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let exported = answer.text.clone();
    assert!(exported.starts_with("{\"header\":{\"pilothouse_audit_export\":1,"), "{exported}");
    fs::write(&file, &exported).unwrap();
    assert_eq!(verify(&elsewhere, &["--export", &file, "--public-key", &key]).0, Some(0));
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
        let (code, text) = verify(&elsewhere, &["--export", &file, "--public-key", &key]);
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
