//! Rotation of the master key while servers run: killed and repeated, with replicas, and the loss of access with the
//! old key.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{
    Client, Install, Server, eventually, numbers, postgres, register_cluster, shared_control_plane,
};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Creates a ConfigMap with this name, and the same `Idempotency-Key`.
async fn create_configmap(client: &Client, cluster: i64, name: &str) -> Value {
    let body = json!({"cluster_id": cluster, "namespace": "default", "name": name, "data": {"a": "b"}});
    client.with_idempotency_key(name).post("/api/k8s/configmaps", body).await.data()
}

/// A client with the same session and refreshed tokens.
async fn refreshed(client: &Client) -> Client {
    let session = client.session.clone().unwrap();
    let pair = client.post("/api/auth/refresh", json!({"refresh_token": session.refresh_token})).await.data();
    let text = |key: &str| pair[key].as_str().unwrap().to_owned();
    let mut client = client.clone();
    let session = client.session.as_mut().unwrap();
    (session.access_token, session.refresh_token) = (text("access_token"), text("refresh_token"));
    client
}

/// The key file and the files with its name as prefix.
fn key_files(install: &Install) -> Vec<PathBuf> {
    let files = fs::read_dir(install.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let of_keys = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("master.key");
    let mut files: Vec<_> = files.filter(of_keys).collect();
    files.sort();
    files
}

fn verify(install: &Install, arguments: &[&str]) -> (Option<i32>, String) {
    let output = install.run(&[&["audit", "verify"], arguments].concat());
    (output.status.code(), output_text(&output))
}

#[tokio::test]
async fn rekey_killed_at_any_time_continues_and_loses_nothing() {
    let plane = shared_control_plane().await;
    let server = Install::new().start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "real", plane).await;
    for n in 0..60 {
        let stored = json!({
            "name": format!("stored-{n}"), "auth_type": "token", "api_server": "https://127.0.0.1:1",
            "token": format!("token-{n}"), "skip_test": true,
        });
        admin.post("/api/k8s/clusters", stored).await.data();
    }
    let mut responses = Vec::new();
    for n in 0..20 {
        responses.push(create_configmap(&admin, id, &format!("made-{n}")).await);
    }
    let install = &server.install;
    let old_key = fs::read(install.file("master.key")).unwrap();
    let old_public_key = output_text(&install.run(&["audit", "public-key"])).trim().to_owned();
    let old_export = install.file("old.jsonl").display().to_string();
    assert!(install.run(&["audit", "export", "--output", &old_export]).status.success());

    // as left by a run that was killed while it wrote the new key
    fs::write(install.file("master.key.next.0123456789abcdef"), "unfinished").unwrap();
    let mut kills = 0;
    loop {
        let mut rekey = install.spawn(&["rekey"]);
        sleep(Duration::from_millis(25 * kills)).await;
        rekey.kill().unwrap();
        let status = rekey.wait().unwrap();
        // the server can use a partly rotated database: it decrypts with either key
        admin.post("/api/k8s/clusters/test", json!({"id": id})).await;
        // a kill after the last step leaves a finished rotation; another run would create another key
        if status.success() || fs::read(install.file("master.key")).unwrap() != old_key {
            break;
        }
        kills += 1;
        assert!(kills < 200, "the rotation did not end");
    }
    assert!(kills > 3, "killed {kills} times");
    let files = key_files(install);
    assert_eq!(files.len(), 2, "{files:?}");
    assert_ne!(fs::read(&files[0]).unwrap(), old_key);
    assert_eq!(fs::read(&files[1]).unwrap(), old_key, "the old key is kept");

    // tokens of the old key are invalid, sessions continue
    eventually("the old tokens are invalid", async || {
        (admin.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    let admin = refreshed(&admin).await;
    assert_eq!(admin.get("/api/auth/me").await.data()["user"]["username"], "admin");
    let done = admin.operations("operation_type=rekey").await;
    assert_eq!((done.len(), &done[0]["status"]), (1, &json!("success")), "{done:#?}");
    assert_eq!(done[0]["resource_type"], "master_key");
    assert!(done[0]["username"].as_str().unwrap().starts_with("cli:"));
    create_configmap(&admin, id, "after").await;

    // the trail verifies with the new key; exports from before the rotation verify with the old key
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!(verdict["valid"], true, "{verdict}");
    let new_public_key = output_text(&install.run(&["audit", "public-key"])).trim().to_owned();
    assert_ne!(old_public_key, new_public_key);
    let new_export = install.file("new.jsonl").display().to_string();
    assert!(install.run(&["audit", "export", "--output", &new_export]).status.success());
    for (export, key, code) in [
        (&old_export, &old_public_key, 0),
        (&new_export, &new_public_key, 0),
        (&old_export, &new_public_key, 1),
        (&new_export, &old_public_key, 1),
    ] {
        let (found, output_text) = verify(install, &["--export", export, "--public-key", key]);
        assert_eq!(found, Some(code), "{output_text}");
    }
    let install = server.stop().await;
    let (code, text) = verify(&install, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(numbers(&text, "checkpoints")[1] > 0, "none is in the file: {text}");
    let kept = fs::read_to_string(install.file(CHECKPOINTS)).unwrap();
    assert!(kept.lines().count() >= 2, "checkpoints of both keys: {kept}");

    // a start needs only the new key; with the old key it is refused
    let old = install.file("old.key");
    fs::rename(&files[1], &old).unwrap();
    let install = install.set("KEY_FILE", old.display().to_string());
    let refused = install.run(&["serve"]);
    assert_eq!(refused.status.code(), Some(2), "{}", output_text(&refused));
    fs::remove_file(&old).unwrap();
    let server = install.unset("KEY_FILE").start().await;
    let admin = server.admin().await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    for (n, response) in responses.iter().enumerate() {
        assert_eq!(
            &create_configmap(&admin, id, &format!("made-{n}")).await,
            response,
            "the response is replayed"
        );
    }
    for row in admin.rows("/api/k8s/clusters?search=stored&per_page=500", "clusters").await {
        // the token is decrypted; the address is unreachable
        let test = admin.post("/api/k8s/clusters/test", json!({"id": row["id"]})).await;
        test.refused("CONNECTION_ERROR");
    }
}

#[tokio::test]
async fn two_replicas_serve_requests_during_rekey() {
    let Some(postgres) = postgres() else { return };
    let first = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    let plane = shared_control_plane().await;
    let admin = first.admin().await;
    let id = register_cluster(&admin, "busy", plane).await;
    let finished = AtomicBool::new(false);
    let old_sessions = [(&first, first.admin().await), (&second, second.admin().await)];
    // each client signs in separately, because a refresh token is valid once
    let work = async |server: &Server, name: &str| {
        let mut client = server.admin().await;
        let (mut created, mut after_rekey, mut refreshes) = (0, 0, 0);
        while after_rekey < 5 {
            after_rekey += usize::from(finished.load(Ordering::Acquire));
            let body = json!({"cluster_id": id, "namespace": "default", "name": format!("{name}-{created}"), "data": {}});
            let response = client
                .with_idempotency_key(&format!("{name}-{created}"))
                .post("/api/k8s/configmaps", body)
                .await;
            if response.status == 401 {
                client = refreshed(&client).await;
                refreshes += 1;
                continue;
            }
            response.data();
            created += 1;
        }
        assert!(refreshes <= 3, "{name} was signed out {refreshes} times");
        created
    };
    let rekey = async {
        let rekey = first.install.spawn(&["rekey"]);
        let output = tokio::task::spawn_blocking(move || rekey.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", output_text(&output));
        finished.store(true, Ordering::Release);
    };
    let (created_first, created_second, ()) =
        tokio::join!(work(&first, "here"), work(&second, "there"), rekey);
    for (server, old_sessions) in old_sessions {
        eventually("the old tokens are invalid", async || {
            (old_sessions.get("/api/auth/me").await.status == 401).then_some(())
        })
        .await;
        let admin = server.admin().await;
        assert_eq!(
            admin.operations("operation_type=create&resource_type=configmap").await.len(),
            (created_first + created_second).min(500)
        );
        assert!(admin.operations("status=failed&resource_type=configmap").await.is_empty());
        let verdict = admin.get("/api/k8s/audit/verify").await.data();
        assert_eq!(verdict["valid"], true, "{verdict}");
        // each response is stored for both replicas
        for (name, last) in [("here", created_first), ("there", created_second)] {
            for n in [0, last - 1] {
                let body = json!({"cluster_id": id, "namespace": "default", "name": format!("{name}-{n}"), "data": {}});
                admin
                    .with_idempotency_key(&format!("{name}-{n}"))
                    .post("/api/k8s/configmaps", body)
                    .await
                    .data();
            }
        }
    }
    // a replica that starts now has only the new key
    let third = first.install.replica().start().await;
    let admin = third.admin().await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
}
