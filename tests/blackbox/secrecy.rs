//! What must be nowhere: everything secret that there is, planted, used, and taken down every way that goes wrong, at the
//! most talkative level of the log; then looked for in answers, log, database, checkpoints and exports.

use std::{fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hkdf::Hkdf;
use pilothouse_crypto::purpose;
use pilothouse_testbed::{Folder, workloads};
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{ANSWERS, Canaries, Client, Echo, Install, PASSWORD, apply, cluster, light};

/// A secret of our own making: long, and of characters that encodings treat differently.
fn canary(of: &str) -> String {
    format!("canary?{of}+of/{}~", uuid())
}

/// 128 random bits, from a private key that nobody needs.
fn uuid() -> String {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    pem.lines().nth(1).unwrap().chars().rev().filter(char::is_ascii_alphanumeric).take(24).collect()
}

/// The first full line of a private key in PEM: 48 of its bytes.
fn key_line(pem: &str) -> String {
    pem.lines().find(|line| line.len() == 64 && !line.starts_with('-')).expect("a key").to_owned()
}

/// The key for such a purpose.
fn derived(master: &[u8], purpose: &str) -> Vec<u8> {
    let mut key = vec![0; 32];
    Hkdf::<Sha256>::new(None, master).expand(purpose.as_bytes(), &mut key).unwrap();
    key
}

/// Everything that a cluster can be asked, for reading and for changing.
async fn ask_everything(client: &Client, id: i64, secret_value: &str, plain_value: &str) {
    let in_default = |more: Value| {
        let mut body = json!({"cluster_id": id, "namespace": "default"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for path in [
        format!("clusters/status?id={id}"),
        format!("namespaces?cluster_id={id}"),
        format!("nodes?cluster_id={id}"),
        format!("workloads?cluster_id={id}&namespace=*"),
        format!("pods?cluster_id={id}&namespace=default"),
        format!("secrets?cluster_id={id}&namespace=default"),
        format!("configmaps?cluster_id={id}&namespace=default"),
        format!("events?cluster_id={id}&namespace=default"),
        format!("secrets/detail?cluster_id={id}&namespace=default&name=planted"),
        format!("configmaps/detail?cluster_id={id}&namespace=default&name=nobody"),
        format!("workloads/detail?cluster_id={id}&namespace=default&type=deployment&name=web"),
        format!("pods/logs?cluster_id={id}&namespace=default&pod_name=nobody"),
        format!("pods/logs/stream?cluster_id={id}&namespace=default&pod_name=nobody"),
    ] {
        client.get(format!("/api/k8s/{path}")).await;
    }
    let object = json!({"name": "made", "data": {"key": secret_value}});
    let plain = json!({"name": "made", "data": {"key": plain_value}});
    for (path, body) in [
        ("clusters/test", json!({"id": id})),
        ("namespaces", json!({"cluster_id": id, "name": "made"})),
        ("workloads/scale", in_default(json!({"type": "deployment", "name": "web", "replicas": 2}))),
        ("workloads/restart", in_default(json!({"type": "deployment", "name": "web"}))),
        ("secrets", in_default(object.clone())),
        ("secrets/update", in_default(object)),
        ("secrets/reveal", in_default(json!({"name": "nobody"}))),
        ("secrets/delete", in_default(json!({"name": "made"}))),
        ("configmaps", in_default(plain.clone())),
        ("configmaps/update", in_default(plain)),
        ("configmaps/delete", in_default(json!({"name": "made"}))),
        ("namespaces/delete", json!({"cluster_id": id, "name": "made"})),
    ] {
        client.post(&format!("/api/k8s/{path}"), body).await;
    }
}

#[tokio::test]
async fn no_secret_is_found_in_files_answers_or_the_log() {
    let (plane, echo) = (light().await, Echo::start());
    apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let token = plane.client().service_account_token("canaries", "canary", everything).await.unwrap();
    let tls = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let tls_key = tls.signing_key.serialize_pem();
    let files = Folder::create().unwrap();
    let (certificate_file, key_file) = (files.path().join("tls.crt"), files.path().join("tls.key"));
    fs::write(&certificate_file, tls.cert.pem()).unwrap();
    fs::write(&key_file, &tls_key).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let (webhook_secret, echo_ca) = (canary("webhook"), files.path().join("echo.crt"));
    fs::write(&echo_ca, &echo.ca).unwrap();
    let server = Install::new()
        .set("AUDIT_WEBHOOK_URL", format!("{}/audit", echo.address))
        .set("AUDIT_WEBHOOK_CA_FILE", echo_ca.to_str().unwrap())
        .set("AUDIT_WEBHOOK_SECRET", &webhook_secret)
        .unset("ADMIN_PASSWORD")
        .set("LOG", "trace")
        .set("PROBE_INTERVAL", "1s")
        .set("TLS_CERTIFICATE", certificate_file.to_str().unwrap())
        .set("TLS_KEY", key_file.to_str().unwrap())
        .start()
        .await;
    let client = || server.client().trusting(&tls.cert.pem());
    // what is told on purpose (tokens at a login, values at a reveal) is told to another client than what is searched
    let quietly = |client: Client| {
        let mut quiet = server.client().trusting(&tls.cert.pem());
        quiet.session = client.session;
        quiet
    };

    // People: the first password, changed; users made, reset, refused; a pair of tokens, refreshed.
    let initial =
        fs::read_to_string(server.install.file("initial-admin-password")).unwrap().trim().to_owned();
    let [password, users, resets, typed] = ["password", "user", "reset", "typed"].map(canary);
    let admin = quietly(client().sign_in("admin", &initial).await);
    // whoever is refused at the door is told nothing
    let stranger = client();
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    admin.post("/api/auth/password", change(&typed, &password)).await.refused("VALIDATION_ERROR");
    admin.post("/api/auth/password", change(&initial, "short")).await.refused("VALIDATION_ERROR");
    admin.post("/api/auth/password", change(&initial, &password)).await.data();
    let user = json!({"username": "ann", "password": users, "role": "viewer"});
    let ann = admin.post("/api/auth/users", user.clone()).await.data()["user"]["id"].as_i64().unwrap();
    admin.post("/api/auth/users", user).await.refused("CONFLICT_ERROR");
    let mut odd = json!({"username": "bob", "password": users, "role": "viewer", "colour": resets});
    admin.post("/api/auth/users", odd.clone()).await.refused("VALIDATION_ERROR");
    odd["password"] = json!([users]);
    admin.post("/api/auth/users", odd).await.refused("VALIDATION_ERROR");
    let viewer = quietly(client().sign_in("ann", &users).await);
    viewer.post("/api/auth/users", json!({"username": "eve", "password": users, "role": "viewer"})).await;
    let reset = json!({"id": ann, "new_password": resets});
    admin.post("/api/auth/users/reset-password", reset).await.data();
    stranger.try_sign_in("ann", &typed).await.refused("AUTHENTICATION_ERROR");
    stranger.try_sign_in(&typed, &typed).await.refused("AUTHENTICATION_ERROR");
    let first = admin.session.clone().unwrap();
    let refresh = json!({"refresh_token": first.refresh_token});
    let pair = quietly(admin.clone()).post("/api/auth/refresh", refresh.clone()).await.data();
    admin.post("/api/auth/refresh", refresh).await.refused("AUTHENTICATION_ERROR");
    let mut second = first.clone();
    second.access_token = pair["access_token"].as_str().unwrap().to_owned();
    second.refresh_token = pair["refresh_token"].as_str().unwrap().to_owned();
    let mut admin = admin;
    admin.session = Some(second.clone());

    // Clusters: one by token, one by certificate, and one that says back whatever it hears.
    let echoed = canary("token");
    let registered = json!({
        "name": "by-token", "auth_type": "token", "api_server": plane.server(), "token": token,
        "ca_certificate": plane.ca_pem(),
    });
    let id =
        admin.post("/api/k8s/clusters", registered.clone()).await.data()["cluster"]["id"].as_i64().unwrap();
    cluster(&admin, "by-certificate", &plane).await;
    let hostile = json!({
        "name": "hostile", "auth_type": "token", "api_server": echo.address, "token": echoed,
        "ca_certificate": echo.ca, "skip_test": true,
    });
    let hostile_id =
        admin.post("/api/k8s/clusters", hostile.clone()).await.data()["cluster"]["id"].as_i64().unwrap();
    let spoilt = |change: &dyn Fn(&mut Value)| {
        let mut body = registered.clone();
        change(&mut body);
        body
    };
    for (body, code) in [
        (spoilt(&|body| body["name"] = json!("BY-TOKEN")), "CONFLICT_ERROR"),
        (spoilt(&|body| body["colour"] = json!(token)), "VALIDATION_ERROR"),
        (spoilt(&|body| body["token"] = json!([token])), "VALIDATION_ERROR"),
        (spoilt(&|body| body["token"] = json!(format!("{token}\u{0}"))), "VALIDATION_ERROR"),
        (
            spoilt(&|body| body["api_server"] = json!(format!("https://u:{token}@127.0.0.1"))),
            "VALIDATION_ERROR",
        ),
        (spoilt(&|body| body["api_server"] = json!("https://169.254.169.254")), "VALIDATION_ERROR"),
        (spoilt(&|body| body["api_server"] = json!("https://127.0.0.1:1")), "CONNECTION_ERROR"),
        (spoilt(&|body| body["ca_certificate"] = json!(echo.ca)), "CONNECTION_ERROR"),
    ] {
        admin.post("/api/k8s/clusters", body).await.refused(code);
    }
    let kubeconfig = plane.kubeconfig();
    for broken in [
        kubeconfig.replace("client-key-data: ", "client-key-data: !"),
        format!("{kubeconfig}\n: :"),
        format!("{kubeconfig}\nusers: 1"),
    ] {
        let body = json!({"name": "broken", "auth_type": "kubeconfig", "kubeconfig": broken});
        admin.post("/api/k8s/clusters", body).await.refused("VALIDATION_ERROR");
    }
    let update = json!({
        "id": id, "auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem(),
    });
    admin.post("/api/k8s/clusters/update", update).await.data();

    // Values: in the cluster, sent there, kept under a key, told back by the one that echoes.
    let [value, changed, sent, keyed] = ["value", "changed", "sent", "keyed"].map(canary);
    let at_default = |more: Value| {
        let mut body = json!({"cluster_id": id, "namespace": "default", "name": "planted"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (once, again) = (admin.under("canary-key"), admin.under("canary-key-2"));
    once.post("/api/k8s/secrets", at_default(json!({"data": {"key": value}}))).await.data();
    once.post("/api/k8s/secrets", at_default(json!({"data": {"key": value}}))).await.data();
    again.post("/api/k8s/secrets/update", at_default(json!({"data": {"key": changed}}))).await.data();
    once.post("/api/k8s/secrets", at_default(json!({"data": {"key": changed}})))
        .await
        .refused("CONFLICT_ERROR");
    let plain = quietly(admin.clone()).under("canary-key-3");
    plain.post("/api/k8s/configmaps", at_default(json!({"data": {"key": keyed}}))).await.data();
    let reveal = quietly(admin.clone());
    let revealed = reveal.post("/api/k8s/secrets/reveal", at_default(json!({}))).await.data();
    assert_eq!(revealed["secret"]["data"]["key"], changed.as_str(), "it is told to whoever may ask");
    ask_everything(&admin, id, &sent, "plain").await;
    for status in ANSWERS {
        echo.answers_with(status);
        ask_everything(&admin, hostile_id, &sent, "plain").await;
        let mut tested = hostile.clone();
        tested.as_object_mut().unwrap().retain(|key, _| key != "name" && key != "skip_test");
        admin.post("/api/k8s/clusters/test", tested).await;
    }
    assert!(echo.heard() > 10 * ANSWERS.len(), "it was asked: {}", echo.heard());
    for path in [
        "clusters",
        "audit/operations?per_page=500",
        "audit/export",
        "audit/export?format=k8s",
        "audit/verify",
    ] {
        admin.get(format!("/api/k8s/{path}")).await;
    }
    for path in ["users", "sessions", "me"] {
        admin.get(format!("/api/auth/{path}")).await.data();
    }

    let answers = [admin.answers(), viewer.answers(), stranger.answers()].concat();
    let while_running = server.install.data();
    let install = server.stop().await;
    let mut printed = Vec::new();
    for command in [
        &["audit", "export"][..],
        &["audit", "verify"],
        &["config", "show"],
        &["config", "check"],
        &["user", "list"],
    ] {
        let output = install.run(command);
        printed.extend([output.stdout, output.stderr].concat());
    }
    let backup = files.path().join("backup");
    if install.postgres_url().is_none() {
        let output = install.run(&["backup", backup.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        printed.extend([output.stdout, output.stderr, fs::read(&backup).unwrap()].concat());
    }
    let log = install.log();
    assert!(log.contains("TRACE"), "the log tells everything");

    let client_key =
        kubeconfig.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
    let client_key = key_line(&String::from_utf8(BASE64.decode(client_key).unwrap()).unwrap());
    let master_key = fs::read_to_string(install.file("master.key")).unwrap().trim().to_owned();
    let tls_key = key_line(&tls_key);
    let database = install.postgres_url().map(|url| url.split(['/', ':', '@']).nth(4).unwrap().to_owned());
    let master_bytes: Vec<_> =
        (0..32).map(|at| u8::from_str_radix(&master_key[2 * at..2 * at + 2], 16).unwrap()).collect();
    let mut secrets = vec![
        ("a cluster's token", token.as_str()),
        ("a cluster's token's signature", token.rsplit('.').next().unwrap()),
        ("a token that is echoed", &echoed),
        ("a client key", &client_key),
        ("a Secret's value", &value),
        ("a Secret's changed value", &changed),
        ("a Secret's value that is echoed", &sent),
        ("a session id", &first.session_id),
        ("an access token", &first.access_token),
        ("a newer access token", &second.access_token),
        ("a refresh token", &first.refresh_token),
        ("a newer refresh token", &second.refresh_token),
        ("the first password", &initial),
        ("a password", &password),
        ("a user's password", &users),
        ("a password that was reset", &resets),
        ("a wrong password", &typed),
        ("the master key", &master_key),
        ("the key of HTTPS", &tls_key),
        ("the webhook's secret", &webhook_secret),
    ];
    secrets.extend(database.as_deref().map(|password| ("the database's password", password)));
    let bytes = |secrets: &[(&'static str, &str)]| {
        let texts = secrets.iter().map(|(name, secret)| (*name, secret.as_bytes().to_vec()));
        let derived = purpose::SECRET.map(|purpose| (purpose, derived(&master_bytes, purpose)));
        texts.chain([("the master key's bytes", master_bytes.clone())]).chain(derived).collect::<Vec<_>>()
    };
    let told = Canaries::new(&bytes(&secrets));
    // a ConfigMap's value is no secret; what was asked under a key is sealed all the same
    secrets.push(("what was asked under a key", &keyed));
    let kept = Canaries::new(&bytes(&secrets));

    let mut found = told.found_in(answers.as_bytes());
    let delivered = echo.sent_to("/audit");
    assert!(!delivered.is_empty(), "the trail goes out, too");
    found.extend(kept.found_in(delivered.as_bytes()).into_iter().map(|found| format!("delivered: {found}")));
    found.extend(told.found_in(&printed).into_iter().map(|found| format!("printed or backed up: {found}")));
    found.extend(kept.found_in(log.as_bytes()).into_iter().map(|found| format!("in the log: {found}")));
    let after = install.data();
    assert!(after.iter().any(|(path, _)| path.ends_with("pilothouse.db") || path.ends_with("database.sql")));
    assert!(after.iter().any(|(path, bytes)| path.ends_with("audit-checkpoints.jsonl") && !bytes.is_empty()));
    for (path, bytes) in while_running.iter().chain(&after).filter(|(path, _)| !path.ends_with("master.key"))
    {
        let hits = kept.found_in(bytes).into_iter();
        found.extend(hits.map(|found| format!("in {}: {found}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(!log.contains(PASSWORD) && log.len() > 10_000);
}
