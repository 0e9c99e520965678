//! Several servers on one PostgreSQL and one key file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pilothouse_core::audit::ChainHash;
use pilothouse_testbed::{Component, Postgres, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{
    Client, Install, PASSWORD, RECOVERY, Server, apply, cluster, eventually, light, postgres, within,
};

/// Two servers that run on a database of their own; none where this machine has no PostgreSQL.
async fn pair() -> Option<(Server, Server)> {
    let first = Install::on(&postgres()?.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    Some((first, second))
}

/// The same session at another replica.
fn at(server: &Server, client: &Client) -> Client {
    let mut other = server.client();
    other.session = client.session.clone();
    other
}

#[tokio::test]
async fn two_that_start_at_once_make_one_install() {
    let Some(postgres) = postgres() else { return };
    for _ in 0..3 {
        let url = postgres.database().unwrap();
        let first = Install::on(&url).unset("ADMIN_PASSWORD");
        // the same key file, in a folder that is there before either starts
        let key = first.data_dir().with_file_name("shared.key").display().to_string();
        let first = first.set("KEY_FILE", key);
        let (first, second) = tokio::join!(first.replica().start(), first.replica().start());
        let handed_over: Vec<_> = [&first, &second]
            .map(|server| std::fs::read_to_string(server.install.file("initial-admin-password")).ok())
            .into_iter()
            .flatten()
            .collect();
        let [password] = &handed_over[..] else { panic!("{} passwords", handed_over.len()) };
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
async fn a_replica_with_a_key_of_its_own_is_refused() {
    let Some((first, _second)) = pair().await else { return };
    let stranger = first.install.replica();
    let own = stranger.file("master.key");
    let stranger = stranger.unset("KEY_FILE");
    let output = stranger.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!own.exists(), "none is made");
    assert!(!said.contains(postgres().unwrap().password()), "{said}");
}

#[tokio::test]
async fn sessions_rights_and_throttles_are_everywhere_the_same() {
    let Some((first, second)) = pair().await else { return };
    let admin = first.admin().await;
    let admin_there = at(&second, &admin);
    assert_eq!(admin_there.get("/api/auth/me").await.data()["user"]["username"], "admin");

    // a right that is taken at one is gone at the other within a second, whether it has just looked or not
    let eve = admin.add_user("eve", "ops_admin").await;
    let eve_there = second.client().sign_in("eve", PASSWORD).await;
    let eve_here = at(&first, &eve_there);
    for client in [&eve_here, &eve_there] {
        client.get("/api/auth/me").await.data();
    }
    admin.post("/api/auth/users/update", json!({"id": eve, "role": "viewer"})).await.data();
    eve_here.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    comes_to("AUTHENTICATION_ERROR", &eve_there, "/api/auth/me").await;

    // so does the end of a session, and of a token
    let eve_there = second.client().sign_in("eve", PASSWORD).await;
    let session = eve_there.rows("/api/auth/sessions", "sessions").await[0]["id"].clone();
    admin.post("/api/auth/sessions/revoke", json!({"id": session})).await.data();
    comes_to("AUTHENTICATION_ERROR", &eve_there, "/api/auth/me").await;
    let eve_here = first.client().sign_in("eve", PASSWORD).await;
    let refresh = json!({"refresh_token": eve_here.session.as_ref().unwrap().refresh_token});
    eve_here.get("/api/auth/me").await.data();
    let pair = at(&second, &eve_here).post("/api/auth/refresh", refresh).await.data();
    // what one has issued is good at the other at once
    let mut refreshed = at(&first, &eve_here);
    refreshed.session.as_mut().unwrap().access_token = pair["access_token"].as_str().unwrap().to_owned();
    refreshed.get("/api/auth/me").await.data();
    comes_to("AUTHENTICATION_ERROR", &eve_here, "/api/auth/me").await;

    // guesses count wherever they are made
    for server in [&first, &second, &first, &second, &first] {
        server.client().try_sign_in("mallory", "not the password").await.refused("AUTHENTICATION_ERROR");
    }
    for server in [&first, &second] {
        server.client().try_sign_in("mallory", "not the password").await.refused("RATE_LIMITED");
    }
}

/// Waits until a path is refused with this code: what another replica changed is seen within a second.
async fn comes_to(code: &str, client: &Client, path: &str) {
    // a busy machine is given more, though not as much as a memory that keeps it
    let refused = async || Some(client.get(path).await).filter(|answer| answer.status != 200);
    within(Duration::from_secs(5), code, refused).await.refused(code);
}

#[tokio::test]
async fn a_cluster_registered_at_one_is_used_by_the_other_while_it_is_registered() {
    let Some((first, second)) = pair().await else { return };
    let plane = light().await;
    let admin = first.admin().await;
    let there = at(&second, &admin);
    let id = cluster(&admin, "shared", &plane).await;
    let path = format!("/api/k8s/namespaces?cluster_id={id}");
    assert!(!there.rows(&path, "namespaces").await.is_empty());
    // a credential that is changed at one is not used by the other any more
    let update = json!({"id": id, "auth_type": "token", "token": "of-nobody", "skip_test": true});
    admin.post("/api/k8s/clusters/update", update).await.data();
    comes_to("CONNECTION_ERROR", &there, &path).await;
    admin.post("/api/k8s/clusters/delete", json!({"id": id})).await.data();
    eventually("a cluster forgotten", async || {
        Some(there.get(&path).await).filter(|answer| answer.status != 503)
    })
    .await
    .refused("RESOURCE_NOT_FOUND");
}

#[tokio::test]
async fn the_trail_is_one_chain_whoever_writes() {
    let Some((first, second)) = pair().await else { return };
    let plane = light().await;
    let admin = first.admin().await;
    let id = cluster(&admin, "busy", &plane).await;
    let there = at(&second, &admin);
    let mut changes = Vec::new();
    for n in 0..40 {
        let client = if n % 2 == 0 { admin.clone() } else { there.clone() };
        let body = json!({"cluster_id": id, "namespace": "default", "name": format!("made-{n}"), "data": {}});
        changes.push(tokio::spawn(async move { client.post("/api/k8s/configmaps", body).await.data() }));
    }
    for change in changes {
        change.await.unwrap();
    }
    let seen = admin.operations("resource_type=configmap").await;
    assert_eq!(seen, there.operations("resource_type=configmap").await);
    assert_eq!(seen.iter().filter(|row| row["status"] == "success").count(), 40);
    verify_chain(&first.install);
}

/// Every entry follows the one before it, without a gap.
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
        assert_eq!(seq, expected.to_string(), "a gap");
        last = last.next(expected, &String::from_utf8(bytes(body)).unwrap());
        assert_eq!(bytes(hash), last.0, "entry {seq} does not follow");
        count += 1;
    }
    assert!(count > 0, "there is a chain");
}

/// Asks for a change that its cluster does not answer; returns when the intent is stored.
async fn stuck_change(client: &Client, cluster: i64, name: &str) {
    let body = json!({"cluster_id": cluster, "namespace": "default", "type": "deployment", "name": name, "replicas": 4});
    let asking = client.clone();
    tokio::spawn(async move {
        // nobody may answer
        let _ = tokio::spawn(async move { asking.post("/api/k8s/workloads/scale", body).await.status }).await;
    });
    eventually("the intent", async || {
        let pending = client.operations("status=pending").await;
        pending.iter().any(|row| row["resource_name"] == name).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_killed_replica_left_pending_another_closes_and_nothing_of_a_living_one() {
    let Some(postgres) = postgres() else { return };
    let install = Install::on(&postgres.database().unwrap()).set("WRITE_DEADLINE", "5m");
    let first = install.start().await;
    let second = first.install.replica().start().await;
    let plane = light().await;
    let deployments =
        ["of-the-killed", "of-the-living"].map(|name| workloads::deployment("default", name, 1));
    apply(&plane.client(), &deployments).await;
    let admin = first.admin().await;
    let there = at(&second, &admin);
    let id = cluster(&admin, "stuck", &plane).await;
    plane.signal(Component::Etcd, Signal::Stop).unwrap();
    stuck_change(&admin, id, "of-the-killed").await;
    stuck_change(&there, id, "of-the-living").await;

    first.kill().await;
    let killed = Instant::now();
    let status = async |name: &str| -> Value {
        let rows = there.operations("operation_type=scale").await;
        rows.iter().find(|row| row["resource_name"] == name).expect(name)["status"].clone()
    };
    eventually("the orphan is closed", async || (status("of-the-killed").await == "unknown").then_some(()))
        .await;
    assert!(killed.elapsed() <= Duration::from_secs(30), "{:?}", killed.elapsed());
    assert_eq!(status("of-the-living").await, "pending");
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    eventually("the living one's outcome", async || {
        (status("of-the-living").await == "success").then_some(())
    })
    .await;
    assert_eq!(status("of-the-killed").await, "unknown", "what was said stands");
    verify_chain(&second.install);
}

#[tokio::test]
async fn the_other_goes_on_probing_when_one_is_killed() {
    let Some(postgres) = postgres() else { return };
    let install =
        Install::on(&postgres.database().unwrap()).set("PROBE_INTERVAL", "1s").set("TEST_DEADLINE", "4s");
    let first = install.start().await;
    let second = first.install.replica().start().await;
    let plane = light().await;
    let admin = first.admin().await;
    let there = at(&second, &admin);
    cluster(&admin, "probed", &plane).await;
    let status = async || there.rows("/api/k8s/clusters", "clusters").await[0]["status"].clone();
    assert_eq!(status().await, "online");
    first.kill().await;
    plane.signal(Component::ApiServer, Signal::Kill).unwrap();
    eventually("the other finds it offline", async || (status().await == "offline").then_some(())).await;
    plane.restart(Component::ApiServer).await.unwrap();
    within(2 * RECOVERY, "and online again", async || (status().await == "online").then_some(())).await;
}

#[tokio::test]
async fn a_database_that_comes_back_is_used_again() {
    let Some(postgres) = Postgres::builder().durable(true).start_or_skip().unwrap() else {
        return;
    };
    let postgres = Arc::new(postgres);
    // not on this thread: our client would miss that idle connections are closed
    let off_thread = async |what: fn(&Postgres) -> pilothouse_testbed::Result<()>| {
        let postgres = postgres.clone();
        tokio::task::spawn_blocking(move || what(&postgres)).await.unwrap().unwrap();
    };
    let server = Install::on(&postgres.database().unwrap()).start().await;
    let admin = server.admin().await;
    let add = async |name: &str| {
        admin.post("/api/auth/users", json!({"username": name, "password": PASSWORD, "role": "viewer"})).await
    };
    add("before").await.data();
    off_thread(Postgres::cut).await;
    admin.get("/readyz").await.refused("SERVICE_UNAVAILABLE");
    assert_eq!(admin.get("/livez").await.status, 200);
    add("meanwhile").await.refused("SERVICE_UNAVAILABLE");
    off_thread(Postgres::start).await;
    within(RECOVERY, "it is ready", async || (admin.get("/readyz").await.status == 200).then_some(())).await;
    // one that was not answered may have been made
    within(RECOVERY, "and changes", async || matches!(add("after").await.status, 200 | 409).then_some(()))
        .await;
    let users = admin.rows("/api/auth/users?sort=id", "users").await;
    let names: Vec<_> = users.iter().map(|user| user["username"].as_str().unwrap()).collect();
    assert_eq!(names, ["admin", "before", "after"]);
    let log = server.install.log();
    assert!(!log.contains(postgres.password()) && !log.contains("password%20of"), "{log}");
}
