//! Several servers with one PostgreSQL database and one key file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pilothouse_core::audit::ChainHash;
use pilothouse_testbed::{Component, Postgres, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{
    Client, Install, PASSWORD, RECOVERY_TIMEOUT, Server, apply, control_plane, eventually, postgres,
    register_cluster, shared_control_plane, within,
};

/// Two servers with a new database; `None` if this machine has no PostgreSQL.
async fn pair() -> Option<(Server, Server)> {
    let first = Install::on_postgres(&postgres()?.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    Some((first, second))
}

/// A client of another replica with the same session.
fn client_at(server: &Server, client: &Client) -> Client {
    let mut other = server.client();
    other.session = client.session.clone();
    other
}

#[tokio::test]
async fn two_concurrent_starts_create_one_install() {
    let Some(postgres) = postgres() else { return };
    for _ in 0..3 {
        let url = postgres.database().unwrap();
        let first = Install::on_postgres(&url).unset("ADMIN_PASSWORD");
        // the same key file, in a folder that exists before either starts
        let key = first.data_dir().with_file_name("shared.key").display().to_string();
        let first = first.set("KEY_FILE", key);
        let (first, second) = tokio::join!(first.replica().start(), first.replica().start());
        let passwords: Vec<_> = [&first, &second]
            .map(|server| std::fs::read_to_string(server.install.file("initial-admin-password")).ok())
            .into_iter()
            .flatten()
            .collect();
        let [password] = &passwords[..] else { panic!("{} passwords", passwords.len()) };
        for server in [&first, &second] {
            let admin = server.client().sign_in("admin", password.trim()).await;
            let made = admin.operations("operation_type=create&resource_type=user").await;
            assert_eq!((made.len(), &made[0]["resource_name"]), (1, &json!("admin")));
        }
        let rows = |sql: &str| postgres.sql_in(&url, sql).unwrap().trim().to_owned();
        assert_eq!(rows("SELECT count(*) FROM install"), "1");
        assert_eq!(rows("SELECT count(*) FROM users"), "1");
    }
}

#[tokio::test]
async fn replica_with_another_key_is_refused() {
    let Some((first, _second)) = pair().await else { return };
    let other_key_replica = first.install.replica();
    let own_key = other_key_replica.file("master.key");
    let other_key_replica = other_key_replica.unset("KEY_FILE");
    let output = other_key_replica.run(&["serve"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(!own_key.exists(), "no key is created");
    assert!(!stderr.contains(postgres().unwrap().password()), "{stderr}");
}

#[tokio::test]
async fn sessions_roles_and_login_throttles_apply_at_all_replicas() {
    let Some((first, second)) = pair().await else { return };
    let admin = first.admin().await;
    let second_admin = client_at(&second, &admin);
    assert_eq!(second_admin.get("/api/auth/me").await.data()["user"]["username"], "admin");

    // a role removed at one replica ends at the other within a second, even if the other has just cached the role
    let eve = admin.add_user("eve", "ops_admin").await;
    let eve_at_second = second.client().sign_in("eve", PASSWORD).await;
    let eve_at_first = client_at(&first, &eve_at_second);
    for client in [&eve_at_first, &eve_at_second] {
        client.get("/api/auth/me").await.data();
    }
    admin.post("/api/auth/users/update", json!({"id": eve, "role": "viewer"})).await.data();
    eve_at_first.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    eventually_refused("AUTHENTICATION_ERROR", &eve_at_second, "/api/auth/me").await;

    // the same holds for the end of a session, and of a token
    let eve_at_second = second.client().sign_in("eve", PASSWORD).await;
    let session = eve_at_second.rows("/api/auth/sessions", "sessions").await[0]["id"].clone();
    admin.post("/api/auth/sessions/revoke", json!({"id": session})).await.data();
    eventually_refused("AUTHENTICATION_ERROR", &eve_at_second, "/api/auth/me").await;
    let eve_at_first = first.client().sign_in("eve", PASSWORD).await;
    let refresh = json!({"refresh_token": eve_at_first.session.as_ref().unwrap().refresh_token});
    eve_at_first.get("/api/auth/me").await.data();
    let pair = client_at(&second, &eve_at_first).post("/api/auth/refresh", refresh).await.data();
    // a token issued by one replica is valid at the other at once
    let mut refreshed = client_at(&first, &eve_at_first);
    refreshed.session.as_mut().unwrap().access_token = pair["access_token"].as_str().unwrap().to_owned();
    refreshed.get("/api/auth/me").await.data();
    eventually_refused("AUTHENTICATION_ERROR", &eve_at_first, "/api/auth/me").await;

    // wrong passwords at all replicas are counted together
    for server in [&first, &second, &first, &second, &first] {
        server.client().try_sign_in("mallory", "not the password").await.refused("AUTHENTICATION_ERROR");
    }
    for server in [&first, &second] {
        server.client().try_sign_in("mallory", "not the password").await.refused("RATE_LIMITED");
    }
}

/// Waits until the path is refused with this code. A replica sees the changes of another within a second.
async fn eventually_refused(code: &str, client: &Client, path: &str) {
    // more than a second for a busy machine, but less than the lifetime of a cache entry
    let refused = async || Some(client.get(path).await).filter(|response| response.status != 200);
    within(Duration::from_secs(5), code, refused).await.refused(code);
}

#[tokio::test]
async fn cluster_changes_at_one_replica_apply_at_the_other() {
    let Some((first, second)) = pair().await else { return };
    let plane = shared_control_plane().await;
    let admin = first.admin().await;
    let second_admin = client_at(&second, &admin);
    let id = register_cluster(&admin, "shared", plane).await;
    let path = format!("/api/k8s/namespaces?cluster_id={id}");
    assert!(!second_admin.rows(&path, "namespaces").await.is_empty());
    // the other replica stops using a credential that was replaced
    let update = json!({"id": id, "auth_type": "token", "token": "of-nobody", "skip_test": true});
    admin.post("/api/k8s/clusters/update", update).await.data();
    eventually_refused("CONNECTION_ERROR", &second_admin, &path).await;
    admin.post("/api/k8s/clusters/delete", json!({"id": id})).await.data();
    eventually("the cluster is deleted", async || {
        Some(second_admin.get(&path).await).filter(|response| response.status != 503)
    })
    .await
    .refused("RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn concurrent_changes_of_two_replicas_form_one_chain() {
    let Some((first, second)) = pair().await else { return };
    let plane = shared_control_plane().await;
    let admin = first.admin().await;
    let id = register_cluster(&admin, "busy", plane).await;
    let second_admin = client_at(&second, &admin);
    let mut changes = Vec::new();
    for n in 0..40 {
        let client = if n % 2 == 0 { admin.clone() } else { second_admin.clone() };
        let body =
            json!({"cluster_id": id, "namespace": "default", "name": format!("chained-{n}"), "data": {}});
        changes.push(tokio::spawn(async move { client.post("/api/k8s/configmaps", body).await.data() }));
    }
    for change in changes {
        change.await.unwrap();
    }
    let seen = admin.operations("resource_type=configmap").await;
    assert_eq!(seen, second_admin.operations("resource_type=configmap").await);
    assert_eq!(seen.iter().filter(|row| row["status"] == "success").count(), 40);
    verify_chain(&first.install);
}

/// Checks that each entry follows the previous one without a gap.
fn verify_chain(install: &Install) {
    let entries = "SELECT seq, encode(hash, 'hex'), encode(convert_to(body, 'UTF8'), 'hex') FROM audit_log ORDER BY seq";
    let entries = postgres().unwrap().sql_in(&install.database_url(), entries).unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let mut last = ChainHash::GENESIS;
    let mut count = 0;
    for (line, expected) in entries.lines().zip(1_i64..) {
        let [seq, hash, body] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(seq, expected.to_string(), "a sequence number is missing");
        last = last.next(expected, &String::from_utf8(bytes(body)).unwrap());
        assert_eq!(bytes(hash), last.0, "entry {seq} does not follow");
        count += 1;
    }
    assert!(count > 0, "the chain has entries");
}

/// Sends a change that the cluster does not respond to; returns when its intent is stored.
async fn stuck_change(client: &Client, cluster: i64, name: &str) {
    let body = json!({"cluster_id": cluster, "namespace": "default", "type": "deployment", "name": name, "replicas": 4});
    let request_client = client.clone();
    tokio::spawn(async move {
        // the server may be killed before it responds
        let _ =
            tokio::spawn(async move { request_client.post("/api/k8s/workloads/scale", body).await.status })
                .await;
    });
    eventually("the intent is stored", async || {
        let pending = client.operations("status=pending").await;
        pending.iter().any(|row| row["resource_name"] == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn only_operations_of_a_killed_replica_are_closed_by_another() {
    let Some(postgres) = postgres() else { return };
    let install = Install::on_postgres(&postgres.database().unwrap()).set("WRITE_DEADLINE", "5m");
    let first = install.start().await;
    let second = first.install.replica().start().await;
    let plane = control_plane().await;
    let deployments = ["at-the-killed-replica", "at-the-running-replica"]
        .map(|name| workloads::deployment("default", name, 1));
    apply(&plane.client(), &deployments).await;
    let admin = first.admin().await;
    let second_admin = client_at(&second, &admin);
    let id = register_cluster(&admin, "stuck", &plane).await;
    plane.signal(Component::Etcd, Signal::Stop).unwrap();
    stuck_change(&admin, id, "at-the-killed-replica").await;
    stuck_change(&second_admin, id, "at-the-running-replica").await;

    first.kill().await;
    let killed_at = Instant::now();
    let status = async |name: &str| -> Value {
        let rows = second_admin.operations("operation_type=scale").await;
        rows.iter().find(|row| row["resource_name"] == name).expect(name)["status"].clone()
    };
    eventually("the orphaned operation is closed", async || {
        (status("at-the-killed-replica").await == "unknown").then_some(())
    })
    .await;
    assert!(killed_at.elapsed() <= Duration::from_secs(30), "{:?}", killed_at.elapsed());
    assert_eq!(status("at-the-running-replica").await, "pending");
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    eventually("the outcome of the running replica's change", async || {
        (status("at-the-running-replica").await == "success").then_some(())
    })
    .await;
    assert_eq!(status("at-the-killed-replica").await, "unknown", "a closed operation does not change");
    verify_chain(&second.install);
}

#[tokio::test]
async fn remaining_replica_continues_probing() {
    let Some(postgres) = postgres() else { return };
    let install = Install::on_postgres(&postgres.database().unwrap())
        .set("PROBE_INTERVAL", "1s")
        .set("TEST_DEADLINE", "4s");
    let first = install.start().await;
    let second = first.install.replica().start().await;
    let plane = control_plane().await;
    let admin = first.admin().await;
    let second_admin = client_at(&second, &admin);
    register_cluster(&admin, "probed", &plane).await;
    let status = async || second_admin.rows("/api/k8s/clusters", "clusters").await[0]["status"].clone();
    assert_eq!(status().await, "online");
    first.kill().await;
    plane.signal(Component::ApiServer, Signal::Kill).unwrap();
    eventually("the other replica reports the cluster as offline", async || {
        (status().await == "offline").then_some(())
    })
    .await;
    plane.restart(Component::ApiServer).await.unwrap();
    within(2 * RECOVERY_TIMEOUT, "the other replica reports the cluster as online", async || {
        (status().await == "online").then_some(())
    })
    .await;
}

#[tokio::test]
async fn replicas_reconnect_to_a_restarted_database() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else {
        return;
    };
    let postgres = Arc::new(postgres);
    // not on this thread, so that the client detects closed idle connections
    let off_thread = async |what: fn(&Postgres) -> pilothouse_testbed::Result<()>| {
        let postgres = postgres.clone();
        tokio::task::spawn_blocking(move || what(&postgres)).await.unwrap().unwrap();
    };
    let server = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let admin = server.admin().await;
    let add_user = async |name: &str| {
        admin.post("/api/auth/users", json!({"username": name, "password": PASSWORD, "role": "viewer"})).await
    };
    add_user("before").await.data();
    off_thread(Postgres::cut).await;
    admin.get("/readyz").await.refused("SERVICE_UNAVAILABLE");
    assert_eq!(admin.get("/livez").await.status, 200);
    add_user("meanwhile").await.refused("SERVICE_UNAVAILABLE");
    off_thread(Postgres::start).await;
    within(RECOVERY_TIMEOUT, "the server is ready", async || {
        (admin.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    // a request without a response may have been applied
    within(RECOVERY_TIMEOUT, "changes are accepted", async || {
        matches!(add_user("after").await.status, 200 | 409).then_some(())
    })
    .await;
    let users = admin.rows("/api/auth/users?sort=id", "users").await;
    let names: Vec<_> = users.iter().map(|user| user["username"].as_str().unwrap()).collect();
    assert_eq!(names, ["admin", "before", "after"]);
    let log = server.install.log();
    assert!(!log.contains(postgres.password()) && !log.contains("password%20of"), "{log}");
}
