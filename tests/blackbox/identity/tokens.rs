//! API tokens and service accounts on the running server: limits of their rights, and their end at every replica.
//! `rights` sends the first endpoints with tokens.

use std::time::{Duration, Instant};

use pilothouse_testbed::Postgres;
use serde_json::{Value, json};

use crate::{
    rights::{STREAM_END_TIMEOUT, last_with},
    support::{Client, Install, PASSWORD, Server, postgres, register_cluster, shared_control_plane},
};

/// Time within which a revocation holds at another replica.
const REPLICA_DELAY: Duration = Duration::from_secs(1);
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Registers a cluster that does not exist; returns its id.
async fn absent_cluster(admin: &Client, name: &str) -> i64 {
    let cluster = json!({
        "name": name, "auth_type": "token", "token": "of-nobody", "skip_test": true,
        "api_server": "https://192.0.2.1:6443",
    });
    admin.post("/api/k8s/clusters", cluster).await.data()["cluster"]["id"].as_i64().unwrap()
}

/// The ids of the clusters in which the client has a right.
async fn clusters(client: &Client) -> Vec<Value> {
    client.rows("/api/k8s/clusters", "clusters").await.iter().map(|row| row["id"].clone()).collect()
}

#[tokio::test]
async fn revoked_token_ends_at_another_replica_within_a_second_and_ends_its_streams() {
    let Some(postgres) = postgres() else { return };
    let first = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let second = first.install.replica().start().await;
    let plane = shared_control_plane().await;
    let admin = first.admin().await;
    let cluster = register_cluster(&admin, "watched", plane).await;
    admin.add_user("ann", "viewer").await;
    let ann = first.client().sign_in("ann", PASSWORD).await;
    let robot =
        json!({"name": "robot", "description": "of the tests", "owner_user_id": me(&admin).await["id"]});
    let robot = admin.post("/api/auth/service-accounts", robot).await.data()["service_account"]["id"].clone();
    let grant = json!({
        "subject": {"type": "service_account", "id": robot}, "role": "viewer", "clusters": {"all": true},
        "namespaces": ["default"],
    });
    admin.post("/api/access/grants", grant).await.data();
    let path = format!("/api/k8s/configmaps?cluster_id={cluster}&namespace=default");
    let watch = format!("/api/k8s/watch?kind=configmaps&cluster_id={cluster}&namespace=default");

    for (owner, fields) in [(&ann, json!({})), (&admin, json!({"service_account_id": robot}))] {
        let (row, secret) = owner.create_token("for a stream", fields).await;
        let (here, there) = (first.client().with_token(&secret), second.client().with_token(&secret));
        for client in [&here, &there] {
            client.get(&path).await.data();
        }
        let mut events = there.follow(&watch, None).await;
        owner.post("/api/auth/tokens/revoke", json!({"id": row["id"]})).await.data();
        let revoked_at = Instant::now();
        here.get(&path).await.refused("AUTHENTICATION_ERROR");
        let (status, last) = last_with(200, &there, &path).await;
        assert_eq!(status, 401, "{row}");
        let delay = last.into_std().saturating_duration_since(revoked_at);
        assert!(delay <= REPLICA_DELAY, "the token ends after {delay:?}");
        events.end_reason().await;
        assert!(revoked_at.elapsed() < STREAM_END_TIMEOUT, "{:?}", revoked_at.elapsed());
    }
    let listed = admin.rows("/api/auth/tokens", "tokens").await;
    assert!(listed.iter().all(|row| row["secret"].is_null()), "{listed:?}");
    let rows = admin.operations("operation_type=create&resource_type=token").await;
    assert_eq!(rows.len(), 2, "{rows:?}");
}

/// The user or service account of a client.
async fn me(client: &Client) -> Value {
    client.get("/api/auth/me").await.data()["user"].take()
}

#[tokio::test]
async fn token_has_at_most_its_ceiling_and_the_rights_of_its_owner() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let (one, two) = (absent_cluster(&admin, "one").await, absent_cluster(&admin, "two").await);
    let ann = admin.add_user("ann", "ops_admin").await;
    let session = server.client().sign_in("ann", PASSWORD).await;
    let (row, whole) = session.create_token("whole", json!({})).await;
    assert!(whole.starts_with("php_") && whole.len() == 40, "php_, 30 characters, a checksum of 6");
    assert!(whole.starts_with(row["prefix"].as_str().unwrap()), "{row}");
    let ceiling =
        json!({"role": "viewer", "clusters": {"ids": [one]}, "namespaces": ["shop"], "expires_in_days": 1});
    let (_, narrow) = session.create_token("narrow", ceiling).await;
    let [whole, narrow] = [whole, narrow].map(|secret| server.client().with_token(&secret));

    assert_eq!(clusters(&whole).await.len(), 2);
    assert_eq!(clusters(&narrow).await, [json!(one)]);
    let update = |id: i64| json!({"id": id, "description": "changed"});
    whole.post("/api/k8s/clusters/update", update(two)).await.data();
    let refused = narrow.post("/api/k8s/clusters/update", update(one)).await.refused("PERMISSION_DENIED");
    assert!(refused["context"]["missing"].is_object(), "{refused}");
    narrow.post("/api/k8s/clusters/update", update(two)).await.refused("RESOURCE_NOT_FOUND");
    let row = &admin.operations("operation_type=update&resource_type=cluster&status=success").await[0];
    assert_eq!((&row["username"], row["token_id"].is_number()), (&json!("ann"), true), "{row}");

    // operations that no token allows, whatever the rights of its owner
    let grant = json!({
        "subject": {"type": "user", "id": ann}, "role": "viewer", "clusters": {"ids": [one]}, "namespaces": ["shop"],
    });
    for (path, body) in [
        ("/api/auth/tokens", json!({"name": "another"})),
        ("/api/auth/password", json!({"old_password": PASSWORD, "new_password": "another password of hers"})),
        ("/api/auth/totp/enroll", json!({})),
        ("/api/access/grants", grant),
    ] {
        let refused = whole.post(path, body).await.refused("PERMISSION_DENIED");
        assert_eq!(refused["context"]["cause"], "token_not_allowed", "{path}");
    }
    let about = whole.get("/api/auth/me").await.data();
    assert_eq!((&about["user"]["username"], &about["session"]), (&json!("ann"), &Value::Null));
    assert_eq!(about["token"]["name"], "whole");
    // an API token together with a session cookie
    let mixed = session.with_token(&session.create_token("mixed", json!({})).await.1);
    mixed.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");

    // a token loses the rights that its owner loses
    admin.post("/api/auth/users/update", json!({"id": ann, "role": "none"})).await.data();
    assert!(clusters(&whole).await.is_empty() && clusters(&narrow).await.is_empty());
    admin.post("/api/auth/users/update", json!({"id": ann, "role": "viewer"})).await.data();
    assert_eq!(clusters(&narrow).await, [json!(one)]);
    let reset = json!({"id": ann, "new_password": "a password that an admin chose"});
    admin.post("/api/auth/users/reset-password", reset).await.data();
    whole.get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
}

#[tokio::test]
async fn token_is_refused_from_another_network_and_without_its_owner() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let cluster = absent_cluster(&admin, "one").await;
    let ann = admin.add_user("ann", "viewer").await;
    let session = server.client().sign_in("ann", PASSWORD).await;
    let (_, secret) = session.create_token("from one address", json!({"networks": ["127.0.0.2/32"]})).await;
    let token = server.client().with_token(&secret);
    let elsewhere = token.get("/api/k8s/clusters").await.refused("AUTHENTICATION_ERROR");
    assert_eq!(elsewhere["context"]["cause"], "token_network");
    let token = token.with_source_address([127, 0, 0, 2]);
    assert_eq!(clusters(&token).await, [json!(cluster)]);
    let row = &session.rows("/api/auth/tokens", "tokens").await[0];
    assert_eq!((&row["last_used_ip"], &row["networks"]), (&json!("127.0.0.2"), &json!(["127.0.0.2/32"])));

    // a service account stops with its owner, and its operations bear its name
    let robot = json!({"name": "robot", "description": "of the tests", "owner_user_id": ann});
    let robot = admin.post("/api/auth/service-accounts", robot).await.data()["service_account"]["id"].clone();
    let grant = json!({
        "subject": {"type": "service_account", "id": robot}, "role": "admin", "clusters": {"ids": [cluster]},
        "namespaces": null,
    });
    admin.post("/api/access/grants", grant).await.data();
    let (_, secret) = session.create_token("of the robot", json!({"service_account_id": robot})).await;
    assert!(secret.starts_with("phs_"), "the kind is in the token");
    let robot = server.client().with_token(&secret);
    assert_eq!(clusters(&robot).await, [json!(cluster)]);
    let body = json!({"cluster_id": cluster, "namespace": "shop", "name": "made", "data": {"key": "value"}});
    robot.post("/api/k8s/configmaps", body).await;
    let row = &admin.operations("operation_type=create&resource_type=configmap").await[0];
    assert_eq!((&row["username"], &row["user_id"]), (&json!("sa:robot"), &Value::Null), "{row}");
    admin.post("/api/auth/users/update", json!({"id": ann, "disabled": true})).await.data();
    for client in [&robot, &token] {
        client.get("/api/k8s/clusters").await.refused("AUTHENTICATION_ERROR");
    }
}

/// A token with a wrong checksum causes no query: it is refused although the database has ended.
#[tokio::test]
async fn token_with_a_wrong_checksum_is_refused_without_the_database() {
    let Some(postgres) = Postgres::builder().start_or_skip().unwrap() else { return };
    let server = Install::on_postgres(&postgres.database().unwrap()).start().await;
    let admin = server.admin().await;
    let (_, secret) = admin.create_token("valid", json!({})).await;
    let wrong: Vec<_> = (4..secret.len())
        .map(|at| {
            let mut bytes = secret.clone().into_bytes();
            let letter = LETTERS.iter().position(|letter| *letter == bytes[at]).unwrap();
            bytes[at] = LETTERS[(letter + 1) % LETTERS.len()];
            String::from_utf8(bytes).unwrap()
        })
        .chain([secret[..39].to_owned(), format!("{secret}0")])
        .collect();
    postgres.cut().unwrap();
    for secret in &wrong {
        let response = server.client().with_token(secret).get("/api/auth/me").await;
        response.refused("AUTHENTICATION_ERROR");
    }
    // the checksum of this one is right, so the server asks the database
    server.client().with_token(&secret).get("/api/auth/me").await.refused("SERVICE_UNAVAILABLE");
}
