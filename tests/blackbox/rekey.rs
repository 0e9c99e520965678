//! A new master key, beside servers that work: killed and run again, with replicas, and what the old key is good for after.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{Client, Install, Server, cluster, eventually, light, postgres};

const CHECKPOINTS: &str = "audit-checkpoints.jsonl";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A configmap of this name, made under an `Idempotency-Key` of the same name.
async fn make(client: &Client, cluster: i64, name: &str) -> Value {
    let body = json!({"cluster_id": cluster, "namespace": "default", "name": name, "data": {"a": "b"}});
    client.under(name).post("/api/k8s/configmaps", body).await.data()
}

/// The same session with new tokens.
async fn refreshed(client: &Client) -> Client {
    let session = client.session.clone().unwrap();
    let renewed =
        client.post("/api/auth/refresh", json!({"refresh_token": session.refresh_token})).await.data();
    let text = |key: &str| renewed[key].as_str().unwrap().to_owned();
    let mut client = client.clone();
    let session = client.session.as_mut().unwrap();
    (session.access_token, session.refresh_token) = (text("access_token"), text("refresh_token"));
    client
}

/// The files that begin with the key file's name.
fn key_files(install: &Install) -> Vec<PathBuf> {
    let files = fs::read_dir(install.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let of_keys = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("master.key");
    let mut files: Vec<_> = files.filter(of_keys).collect();
    files.sort();
    files
}

fn verify(install: &Install, arguments: &[&str]) -> (Option<i32>, String) {
    let output = install.run(&[&["audit", "verify"], arguments].concat());
    (output.status.code(), said(&output))
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on_and_nothing_is_lost() {
    let plane = light().await;
    let server = Install::new().start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "real", &plane).await;
    for n in 0..60 {
        let stored = json!({
            "name": format!("stored-{n}"), "auth_type": "token", "api_server": "https://127.0.0.1:1",
            "token": format!("token-{n}"), "skip_test": true,
        });
        admin.post("/api/k8s/clusters", stored).await.data();
    }
    let mut answers = Vec::new();
    for n in 0..20 {
        answers.push(make(&admin, id, &format!("made-{n}")).await);
    }
    let install = &server.install;
    let old_key = fs::read(install.file("master.key")).unwrap();
    let old_public_key = said(&install.run(&["audit", "public-key"])).trim().to_owned();
    let old_export = install.file("old.jsonl").display().to_string();
    assert!(install.run(&["audit", "export", "--output", &old_export]).status.success());

    // as of a run that was killed while it wrote the new key
    fs::write(install.file("master.key.next.0123456789abcdef"), "unfinished").unwrap();
    let mut kills = 0;
    loop {
        let mut rekey = install.begin(&["rekey"]);
        sleep(Duration::from_millis(25 * kills)).await;
        rekey.kill().unwrap();
        let status = rekey.wait().unwrap();
        // what it left opens: the server reads it, and does more of it
        admin.post("/api/k8s/clusters/test", json!({"id": id})).await;
        // killed after its last step it has ended all the same: once more would be another new key
        if status.success() || fs::read(install.file("master.key")).unwrap() != old_key {
            break;
        }
        kills += 1;
        assert!(kills < 200, "it never ends");
    }
    assert!(kills > 3, "killed {kills} times");
    let files = key_files(install);
    assert_eq!(files.len(), 2, "{files:?}");
    assert_ne!(fs::read(&files[0]).unwrap(), old_key);
    assert_eq!(fs::read(&files[1]).unwrap(), old_key, "it is kept");

    // tokens of the old key are none, sessions go on
    eventually("the end of the old tokens", async || {
        (admin.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    let admin = refreshed(&admin).await;
    assert_eq!(admin.get("/api/auth/me").await.data()["user"]["username"], "admin");
    let done = admin.operations("operation_type=rekey").await;
    assert_eq!((done.len(), &done[0]["status"]), (1, &json!("success")), "{done:#?}");
    assert_eq!(done[0]["resource_type"], "master_key");
    assert!(done[0]["username"].as_str().unwrap().starts_with("cli:"));
    make(&admin, id, "after").await;

    // the trail is whole for whoever trusts the new key, and what left the house before for whoever has the old one
    let verdict = admin.get("/api/k8s/audit/verify").await.data();
    assert_eq!(verdict["valid"], true, "{verdict}");
    let new_public_key = said(&install.run(&["audit", "public-key"])).trim().to_owned();
    assert_ne!(old_public_key, new_public_key);
    let new_export = install.file("new.jsonl").display().to_string();
    assert!(install.run(&["audit", "export", "--output", &new_export]).status.success());
    for (export, key, code) in [
        (&old_export, &old_public_key, 0),
        (&new_export, &new_public_key, 0),
        (&old_export, &new_public_key, 1),
        (&new_export, &old_public_key, 1),
    ] {
        let (found, said) = verify(install, &["--export", export, "--public-key", key]);
        assert_eq!(found, Some(code), "{said}");
    }
    let install = server.stop().await;
    let (code, text) = verify(&install, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("of which 0 are kept elsewhere"), "{text}");
    let kept = fs::read_to_string(install.file(CHECKPOINTS)).unwrap();
    assert!(kept.lines().count() >= 2, "of both keys: {kept}");

    // a new start needs nothing but the new key; with the old one there is none
    let old = install.file("old.key");
    fs::rename(&files[1], &old).unwrap();
    let install = install.set("KEY_FILE", old.display().to_string());
    let refused = install.run(&["serve"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("another master key"), "{}", said(&refused));
    fs::remove_file(&old).unwrap();
    let server = install.unset("KEY_FILE").start().await;
    let admin = server.admin().await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(&make(&admin, id, &format!("made-{n}")).await, answer, "answered again, not made again");
    }
    for row in admin.rows("/api/k8s/clusters?search=stored&per_page=500", "clusters").await {
        // opened, and not reached
        let test = admin.post("/api/k8s/clusters/test", json!({"id": row["id"]})).await;
        test.refused("CONNECTION_ERROR");
    }
}

#[tokio::test]
async fn two_replicas_work_on_while_everything_is_sealed_anew() {
    let Some(postgres) = postgres() else { return };
    let first = Install::on(&postgres.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    let plane = light().await;
    let admin = first.admin().await;
    let id = cluster(&admin, "busy", &plane).await;
    let over = AtomicBool::new(false);
    let before = [(&first, first.admin().await), (&second, second.admin().await)];
    // each signs in for itself: a session's refresh tokens are used once
    let work = async |server: &Server, name: &str| {
        let mut client = server.admin().await;
        let (mut made, mut beyond, mut renewed) = (0, 0, 0);
        while beyond < 5 {
            beyond += usize::from(over.load(Ordering::Acquire));
            let body = json!({"cluster_id": id, "namespace": "default", "name": format!("{name}-{made}"), "data": {}});
            let answer = client.under(&format!("{name}-{made}")).post("/api/k8s/configmaps", body).await;
            if answer.status == 401 {
                client = refreshed(&client).await;
                renewed += 1;
                continue;
            }
            answer.data();
            made += 1;
        }
        assert!(renewed <= 3, "{name} was signed out {renewed} times");
        made
    };
    let rekey = async {
        let rekey = first.install.begin(&["rekey"]);
        let output = tokio::task::spawn_blocking(move || rekey.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", said(&output));
        over.store(true, Ordering::Release);
    };
    let (here, there, ()) = tokio::join!(work(&first, "here"), work(&second, "there"), rekey);
    for (server, before) in before {
        eventually("the end of the old tokens", async || {
            (before.get("/api/auth/me").await.status == 401).then_some(())
        })
        .await;
        let admin = server.admin().await;
        assert_eq!(
            admin.operations("operation_type=create&resource_type=configmap").await.len(),
            (here + there).min(500)
        );
        assert!(admin.operations("status=failed&resource_type=configmap").await.is_empty());
        let verdict = admin.get("/api/k8s/audit/verify").await.data();
        assert_eq!(verdict["valid"], true, "{verdict}");
        // each answer is remembered at either
        for (name, last) in [("here", here), ("there", there)] {
            for n in [0, last - 1] {
                let body = json!({"cluster_id": id, "namespace": "default", "name": format!("{name}-{n}"), "data": {}});
                admin.under(&format!("{name}-{n}")).post("/api/k8s/configmaps", body).await.data();
            }
        }
    }
    // whoever starts now has the new key only
    let third = first.install.replica().start().await;
    let admin = third.admin().await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
}
