//! Confidentiality of secrets. The test plants secrets of every type, uses them, triggers all error paths with the log
//! at its most verbose level, and then searches for the secrets in responses, log, database, checkpoints, exports and
//! backups.

use std::{fs, os::unix::fs::PermissionsExt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hkdf::Hkdf;
use pilothouse_core::{
    inventory::{LISTS, ListInfo},
    rows::ListScope,
};
use pilothouse_crypto::purpose;
use pilothouse_testbed::{Folder, shared, shared_has_node, workloads};
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    identity::secrecy as identity,
    support::{
        Canaries, Client, ECHO_STATUSES, EchoServer, Install, PASSWORD, apply, control_plane,
        create_namespace, delete_namespace, eventually, register_cluster,
    },
};

/// A secret that the test generates: long, and with characters that encodings treat differently.
fn canary(of: &str) -> String {
    format!("canary?{of}+of/{}~", random_characters())
}

/// Random characters, taken from a new private key.
fn random_characters() -> String {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    pem.lines().nth(1).unwrap().chars().rev().filter(char::is_ascii_alphanumeric).take(24).collect()
}

/// The first full line of a PEM private key: 48 bytes of the key.
fn key_line(pem: &str) -> String {
    pem.lines().find(|line| line.len() == 64 && !line.starts_with('-')).expect("a key").to_owned()
}

/// Derives the key for a purpose.
fn derived(master: &[u8], purpose: &str) -> Vec<u8> {
    let mut key = vec![0; 32];
    Hkdf::<Sha256>::new(None, master).expand(purpose.as_bytes(), &mut key).unwrap();
    key
}

/// The query of a GET request to a cluster; `None` for an endpoint that the test requests itself.
fn query(path: &str, cluster: i64) -> Option<String> {
    let scope = match path {
        "/api/k8s/clusters/status" => return Some(format!("id={cluster}")),
        "/api/k8s/search" => return Some("kind=secrets&q=planted".to_owned()),
        "/api/k8s/overview" => return Some("kind=pods".to_owned()),
        "/api/k8s/problems" => return Some(format!("cluster_id={cluster}")),
        "/api/k8s/live" => {
            return Some(format!("sub=kind%3Dsecrets%26cluster_id%3D{cluster}%26namespace%3Ddefault"));
        }
        "/api/k8s/watch" => "&kind=secrets&namespace=default",
        // the logs of previous runs, because that stream ends
        "/api/k8s/workloads/logs/stream" => "&namespace=default&type=deployment&name=web&previous=true",
        "/api/k8s/secrets/detail" => "&namespace=default&name=planted",
        "/api/k8s/configmaps/detail" => "&namespace=default&name=planted",
        "/api/k8s/kinds" => "",
        "/api/k8s/objects" => "&resource=configmaps&namespace=default",
        "/api/k8s/dependents" | "/api/k8s/objects/detail" => {
            "&namespace=default&resource=deployments.apps&name=web"
        }
        "/api/k8s/diagnose"
        | "/api/k8s/workloads/detail"
        | "/api/k8s/workloads/history"
        | "/api/k8s/workloads/rollout"
        | "/api/k8s/workloads/rollout/watch" => "&namespace=default&type=deployment&name=web",
        "/api/k8s/workloads/history/diff" => "&namespace=default&type=deployment&name=web&from=1&to=2",
        "/api/k8s/compare" => return Some("namespace=default&type=deployment&name=web".to_owned()),
        "/api/k8s/metrics/series" => "&kind=pod&namespace=default&name=absent",
        // no node runs in this cluster; see `read_pod_log`
        "/api/k8s/pods/logs" | "/api/k8s/pods/logs/download" | "/api/k8s/pods/logs/stream" => {
            "&namespace=default&pod_name=absent"
        }
        _ => match LISTS.iter().find(|info| info.path == path)? {
            ListInfo { scope: ListScope::Local, .. } => return None,
            ListInfo { owner: Some(_), .. } => "&namespace=default&name=kubernetes",
            ListInfo { scope: ListScope::Namespaced, .. } => "&namespace=*",
            ListInfo { scope: ListScope::Cluster, .. } => "",
        },
    };
    Some(format!("cluster_id={cluster}{scope}"))
}

/// The body of a POST request to a cluster; `None` for an endpoint that the test requests itself.
fn body(path: &str, cluster: i64, secret_value: &str) -> Option<Value> {
    let mut body = match path.strip_prefix("/api/k8s/")? {
        "clusters/test" => return Some(json!({"id": cluster})),
        "namespaces" => return Some(json!({"cluster_id": cluster, "name": "made"})),
        "namespaces/delete" => return Some(json!({"cluster_id": cluster, "namespace": "made"})),
        "workloads/scale" => json!({"type": "deployment", "name": "web", "replicas": 2}),
        "workloads/restart" | "workloads/undo" | "workloads/pause" | "workloads/resume" => {
            json!({"type": "deployment", "name": "web"})
        }
        "workloads/set-image" => json!({"type": "deployment", "name": "web", "images": {"web": "made:1"}}),
        "nodes/cordon" | "nodes/uncordon" => return Some(json!({"cluster_id": cluster, "name": "absent"})),
        "cronjobs/suspend" | "cronjobs/resume" | "cronjobs/run" | "jobs/rerun" | "jobs/suspend" => {
            json!({"name": "absent"})
        }
        "autoscalers/update" => json!({"name": "absent", "min": 1, "max": 2}),
        "pods/delete" | "pods/evict" => json!({"pod_name": "absent", "uid": "absent"}),
        "pods/resize" => {
            json!({"pod_name": "absent", "uid": "absent", "container": "app", "limits": {"memory": "64Mi"}})
        }
        "secrets" | "secrets/update" => json!({"name": "made", "data": {"key": secret_value}}),
        // the test itself reveals `planted`, with a client whose responses are not searched
        "secrets/reveal" => json!({"name": "absent"}),
        "configmaps" | "configmaps/update" => json!({"name": "made", "data": {"key": "plain"}}),
        "secrets/delete" | "configmaps/delete" => json!({"name": "made"}),
        _ => return None,
    };
    body["cluster_id"] = json!(cluster);
    body["namespace"] = json!("default");
    Some(body)
}

/// Sends a request to each endpoint of [`query`] and [`body`], in the order of the route table.
async fn send_all_requests(client: &Client, cluster: i64, secret_value: &str) {
    for (method, path) in pilothouse_http::endpoints() {
        if method == "POST" {
            if let Some(body) = body(path, cluster, secret_value) {
                client.post(path, body).await;
            }
        } else if let Some(query) = query(path, cluster) {
            // a watch does not end
            let until = if path.ends_with("/rollout/watch") { "event: rollout" } else { "event: synced" };
            client.get_until(&format!("{path}?{query}"), until).await;
        }
    }
}

/// Reads and follows the log of a pod on the shared cluster. Does nothing if the machine cannot run a node.
async fn read_pod_log(client: &Client) {
    if !shared_has_node().await.expect("a node, if one is required") {
        return;
    }
    let plane = shared().await.unwrap();
    create_namespace(&plane.client(), "bb-secrecy").await;
    let mut pod = workloads::pod_running("bb-secrecy", "ends", &["echo", "ready"]);
    pod["spec"]["restartPolicy"] = json!("Never");
    apply(&plane.client(), &[pod]).await;
    let cluster = register_cluster(client, "with-node", plane).await;
    let query = format!("cluster_id={cluster}&namespace=bb-secrecy&pod_name=ends");
    eventually("the log of the pod", async || {
        let response = client.get(format!("/api/k8s/pods/logs?{query}")).await;
        (response.status == 200 && response.data()["logs"] == "ready\n").then_some(())
    })
    .await;
    client.get_until(&format!("/api/k8s/pods/logs/stream?{query}"), "event: end").await;
    delete_namespace(&plane.client(), "bb-secrecy").await;
}

#[tokio::test]
async fn no_secret_is_in_files_responses_or_log() {
    let (plane, echo) = (control_plane().await, EchoServer::start());
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
    let [client_secret, bind_password] = ["client", "bind"].map(canary);
    let server = Install::new()
        .set("PUBLIC_URL", "https://pilothouse.test")
        .settings_file(&identity::settings(&client_secret, &bind_password))
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
    // responses that contain secrets on purpose (tokens at a login, values at a reveal) go to another client than the
    // one whose responses are searched
    let unrecorded = |client: Client| {
        let mut client_copy = server.client().trusting(&tls.cert.pem());
        client_copy.session = client.session;
        client_copy
    };

    // Users: the initial password, changed; users created, reset, refused; tokens, refreshed.
    let initial =
        fs::read_to_string(server.install.file("initial-admin-password")).unwrap().trim().to_owned();
    let [password, users, resets, wrong_password] = ["password", "user", "reset", "typed"].map(canary);
    let admin = unrecorded(client().sign_in("admin", &initial).await);
    // error responses to an unauthenticated client contain no secret
    let anonymous = client();
    let change = |old: &str, new: &str| json!({"old_password": old, "new_password": new});
    admin.post("/api/auth/password", change(&wrong_password, &password)).await.refused("VALIDATION_ERROR");
    admin.post("/api/auth/password", change(&initial, "short")).await.refused("VALIDATION_ERROR");
    admin.post("/api/auth/password", change(&initial, &password)).await.data();
    let user = json!({"username": "ann", "password": users, "role": "viewer"});
    let ann = admin.post("/api/auth/users", user.clone()).await.data()["user"]["id"].as_i64().unwrap();
    admin.post("/api/auth/users", user).await.refused("CONFLICT_ERROR");
    let mut invalid_user = json!({"username": "bob", "password": users, "role": "viewer", "colour": resets});
    admin.post("/api/auth/users", invalid_user.clone()).await.refused("VALIDATION_ERROR");
    invalid_user["password"] = json!([users]);
    admin.post("/api/auth/users", invalid_user).await.refused("VALIDATION_ERROR");
    let viewer = unrecorded(client().sign_in("ann", &users).await);
    viewer.post("/api/auth/users", json!({"username": "eve", "password": users, "role": "viewer"})).await;
    let reset = json!({"id": ann, "new_password": resets});
    admin.post("/api/auth/users/reset-password", reset).await.data();
    anonymous.try_sign_in("ann", &wrong_password).await.refused("AUTHENTICATION_ERROR");
    anonymous.try_sign_in(&wrong_password, &wrong_password).await.refused("AUTHENTICATION_ERROR");
    let first = admin.session.clone().unwrap();
    let refresh = json!({"refresh_token": first.refresh_token});
    let pair = unrecorded(admin.clone()).post("/api/auth/refresh", refresh.clone()).await.data();
    admin.post("/api/auth/refresh", refresh).await.refused("AUTHENTICATION_ERROR");
    let mut second = first.clone();
    second.access_token = pair["access_token"].as_str().unwrap().to_owned();
    second.refresh_token = pair["refresh_token"].as_str().unwrap().to_owned();
    let mut admin = admin;
    admin.session = Some(second.clone());

    // Identity: second factors, API tokens, and providers that do not answer.
    let planted = identity::plant(&admin, &anonymous, &unrecorded(admin.clone())).await;
    let provider_password = canary("provider");
    identity::try_providers(&anonymous, &server.address, &certificate_file, &provider_password).await;

    // Clusters: one with a token, one with a certificate, and one that echoes what it receives.
    let echoed_token = canary("token");
    let registered = json!({
        "name": "by-token", "auth_type": "token", "api_server": plane.server(), "token": token,
        "ca_certificate": plane.ca_pem(),
    });
    let id =
        admin.post("/api/k8s/clusters", registered.clone()).await.data()["cluster"]["id"].as_i64().unwrap();
    register_cluster(&admin, "by-certificate", &plane).await;
    let hostile = json!({
        "name": "hostile", "auth_type": "token", "api_server": echo.address, "token": echoed_token,
        "ca_certificate": echo.ca, "skip_test": true,
    });
    let hostile_id =
        admin.post("/api/k8s/clusters", hostile.clone()).await.data()["cluster"]["id"].as_i64().unwrap();
    let modified = |change: &dyn Fn(&mut Value)| {
        let mut body = registered.clone();
        change(&mut body);
        body
    };
    for (body, code) in [
        (modified(&|body| body["name"] = json!("BY-TOKEN")), "CONFLICT_ERROR"),
        (modified(&|body| body["colour"] = json!(token)), "VALIDATION_ERROR"),
        (modified(&|body| body["token"] = json!([token])), "VALIDATION_ERROR"),
        (modified(&|body| body["token"] = json!(format!("{token}\u{0}"))), "VALIDATION_ERROR"),
        (
            modified(&|body| body["api_server"] = json!(format!("https://u:{token}@127.0.0.1"))),
            "VALIDATION_ERROR",
        ),
        (modified(&|body| body["api_server"] = json!("https://169.254.169.254")), "VALIDATION_ERROR"),
        (modified(&|body| body["api_server"] = json!("https://127.0.0.1:1")), "CONNECTION_ERROR"),
        (modified(&|body| body["ca_certificate"] = json!(echo.ca)), "CONNECTION_ERROR"),
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

    // Values: in the cluster, sent to it, stored with an idempotency key, and echoed back.
    let [value, changed, sent, keyed] = ["value", "changed", "sent", "keyed"].map(canary);
    let at_default = |more: Value| {
        let mut body = json!({"cluster_id": id, "namespace": "default", "name": "planted"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (first_key, second_key) =
        (admin.with_idempotency_key("canary-key"), admin.with_idempotency_key("canary-key-2"));
    first_key.post("/api/k8s/secrets", at_default(json!({"data": {"key": value}}))).await.data();
    first_key.post("/api/k8s/secrets", at_default(json!({"data": {"key": value}}))).await.data();
    second_key.post("/api/k8s/secrets/update", at_default(json!({"data": {"key": changed}}))).await.data();
    first_key
        .post("/api/k8s/secrets", at_default(json!({"data": {"key": changed}})))
        .await
        .refused("CONFLICT_ERROR");
    let plain = unrecorded(admin.clone()).with_idempotency_key("canary-key-3");
    plain.post("/api/k8s/configmaps", at_default(json!({"data": {"key": keyed}}))).await.data();
    let reveal = unrecorded(admin.clone());
    let revealed = reveal.post("/api/k8s/secrets/reveal", at_default(json!({}))).await.data();
    assert_eq!(revealed["secret"]["data"]["key"], changed.as_str(), "a permitted reveal returns the value");
    send_all_requests(&admin, id, &sent).await;
    read_pod_log(&admin).await;
    for status in ECHO_STATUSES {
        echo.respond_with(status);
        send_all_requests(&admin, hostile_id, &sent).await;
        let mut tested = hostile.clone();
        tested.as_object_mut().unwrap().retain(|key, _| key != "name" && key != "skip_test");
        admin.post("/api/k8s/clusters/test", tested).await;
    }
    assert!(echo.request_count() > 10 * ECHO_STATUSES.len(), "requests received: {}", echo.request_count());
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
    let question = "verb=list&resource=secrets";
    for path in
        ["roles", "grants", "requests", "mine", &format!("explain?{question}"), &format!("who?{question}")]
    {
        admin.get(format!("/api/access/{path}")).await.data();
    }
    for path in ["/livez", "/readyz", "/api/version", "/api/openapi.json"] {
        admin.get(path).await;
    }
    let while_running = server.install.data();
    identity::send_all_requests(&admin, &anonymous, &planted).await;
    let rules = json!([{"verbs": ["list"], "resources": ["secrets"]}]);
    let scope = json!({"role": "viewer", "clusters": {"all": true}, "namespaces": null});
    let with = |more: Value| {
        let mut body = scope.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, body) in [
        ("access/roles", json!({"name": "lister", "rules": rules})),
        ("access/roles/update", json!({"name": "lister", "description": "lists"})),
        ("access/roles/delete", json!({"name": "lister"})),
        ("access/grants", with(json!({"subject": {"type": "user", "id": ann}}))),
        ("access/grants/revoke", json!({"id": i64::MAX})),
        ("access/requests", with(json!({"duration_seconds": 60, "reason": "tests"}))),
        ("access/requests/approve", json!({"id": i64::MAX})),
        ("access/requests/deny", json!({"id": i64::MAX})),
        ("access/requests/withdraw", json!({"id": i64::MAX})),
        ("auth/users/update", json!({"id": ann, "display_name": "Ann"})),
        ("auth/users/delete", json!({"id": ann})),
        ("k8s/clusters/delete", json!({"id": hostile_id})),
        ("auth/sessions/revoke", json!({"id": i64::MAX})),
        ("auth/logout", json!({})),
    ] {
        admin.post(&format!("/api/{path}"), body).await;
    }

    let responses =
        [admin.recorded_responses(), viewer.recorded_responses(), anonymous.recorded_responses()].concat();
    for (method, path) in pilothouse_http::endpoints() {
        let request = format!("{method} {path}");
        let is_response =
            |line: &str| line.strip_prefix(&request).is_some_and(|rest| rest.starts_with([':', '?']));
        assert!(responses.lines().any(is_response), "{request} has no request: add it to `query` or `body`");
    }
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
    assert!(log.contains("TRACE"), "the log has the level trace");

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
        ("a token that is echoed", &echoed_token),
        ("a client key", &client_key),
        ("a Secret's value", &value),
        ("a Secret's changed value", &changed),
        ("a Secret's value that is echoed", &sent),
        ("a session id", &first.session_id),
        ("an access token", &first.access_token),
        ("a newer access token", &second.access_token),
        ("a refresh token", &first.refresh_token),
        ("a newer refresh token", &second.refresh_token),
        ("the initial password", &initial),
        ("a password", &password),
        ("a user's password", &users),
        ("a password that was reset", &resets),
        ("a wrong password", &wrong_password),
        ("the master key", &master_key),
        ("the key of HTTPS", &tls_key),
        ("the webhook's secret", &webhook_secret),
        ("a client secret", &client_secret),
        ("a bind password", &bind_password),
        ("a password for a provider", &provider_password),
    ];
    secrets.extend(database.as_deref().map(|password| ("the database's password", password)));
    let bytes = |secrets: &[(&'static str, &str)]| {
        let texts = secrets.iter().map(|(name, secret)| (*name, secret.as_bytes().to_vec()));
        let derived = purpose::SECRET.map(|purpose| (purpose, derived(&master_bytes, purpose)));
        let texts = texts.chain([("the master key's bytes", master_bytes.clone())]);
        texts.chain(planted.secrets.clone()).chain(derived).collect::<Vec<_>>()
    };
    let secrets_to_hide = Canaries::new(&bytes(&secrets));
    // a ConfigMap's value is no secret, but a stored request with an idempotency key is encrypted too
    secrets.push(("a request under an idempotency key", &keyed));
    let secrets_to_encrypt = Canaries::new(&bytes(&secrets));

    let mut found = secrets_to_hide.find(responses.as_bytes());
    let delivered = echo.requests_to("/audit");
    assert!(!delivered.is_empty(), "the webhook received deliveries");
    found.extend(
        secrets_to_encrypt.find(delivered.as_bytes()).into_iter().map(|found| format!("delivered: {found}")),
    );
    found.extend(
        secrets_to_hide.find(&printed).into_iter().map(|found| format!("printed or backed up: {found}")),
    );
    found.extend(
        secrets_to_encrypt.find(log.as_bytes()).into_iter().map(|found| format!("in the log: {found}")),
    );
    let after = install.data();
    assert!(after.iter().any(|(path, _)| path.ends_with("pilothouse.db") || path.ends_with("database.sql")));
    assert!(after.iter().any(|(path, bytes)| path.ends_with("audit-checkpoints.jsonl") && !bytes.is_empty()));
    for (path, bytes) in while_running.iter().chain(&after).filter(|(path, _)| !path.ends_with("master.key"))
    {
        let hits = secrets_to_encrypt.find(bytes).into_iter();
        found.extend(hits.map(|found| format!("in {}: {found}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
    assert!(!log.contains(PASSWORD) && log.len() > 10_000);
}
