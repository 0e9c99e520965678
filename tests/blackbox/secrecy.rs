//! What must be nowhere: a cluster's credential, a password, a session, in the data folder, the answers, the log.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use pilothouse_testbed::workloads;
use serde_json::json;

use crate::support::{Install, PASSWORD, apply, cluster, light};

#[tokio::test]
async fn no_secret_is_found_in_files_answers_or_the_log() {
    let plane = light().await;
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let token = plane.client().service_account_token("canaries", "canary", everything).await.unwrap();
    apply(&plane.client(), &[workloads::deployment("canaries", "web", 1)]).await;
    let install = Install::new().set("LOG", "trace").set("PROBE_INTERVAL", "1s");
    let server = install.start().await;
    let admin = server.admin().await;
    let registered = json!({
        "name": "by-token", "auth_type": "token", "api_server": plane.server(), "token": token,
        "ca_certificate": plane.ca_pem(),
    });
    let id =
        admin.post("/api/k8s/clusters", registered.clone()).await.data()["cluster"]["id"].as_i64().unwrap();
    cluster(&admin, "by-certificate", &plane).await;

    // Everything that touches the credential, and everything that goes wrong with it.
    let mut again = registered.clone();
    again["name"] = json!("BY-TOKEN");
    admin.post("/api/k8s/clusters", again).await.refused("CONFLICT_ERROR");
    let mut unknown = registered.clone();
    unknown["colour"] = json!("blue");
    admin.post("/api/k8s/clusters", unknown).await.refused("VALIDATION_ERROR");
    let mut typed = registered.clone();
    typed["token"] = json!([token]);
    admin.post("/api/k8s/clusters", typed).await.refused("VALIDATION_ERROR");
    let mut unreachable = registered.clone();
    unreachable["api_server"] = json!("https://127.0.0.1:1");
    admin.post("/api/k8s/clusters/test", unreachable).await;
    let update = json!({
        "id": id, "auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem(),
    });
    admin.post("/api/k8s/clusters/update", update).await.data();
    admin.post("/api/k8s/clusters/test", json!({"id": id})).await.data();
    for path in [
        "clusters".to_owned(),
        format!("clusters/status?id={id}"),
        format!("namespaces?cluster_id={id}"),
        format!("workloads?cluster_id={id}&namespace=*"),
        format!("workloads/detail?cluster_id={id}&namespace=canaries&type=deployment&name=web"),
        format!("pods/logs?cluster_id={id}&namespace=canaries&pod_name=nobody"),
        "audit/operations".to_owned(),
    ] {
        admin.get(format!("/api/k8s/{path}")).await;
    }
    let scale = json!({"cluster_id": id, "namespace": "canaries", "type": "deployment", "name": "web", "replicas": 2});
    admin.post("/api/k8s/workloads/scale", scale).await.data();
    server.client().try_sign_in("admin", "a wrong password").await.refused("AUTHENTICATION_ERROR");
    let session = admin.session.clone().unwrap();
    let answers = admin.answers();
    let install = server.stop().await;

    let kubeconfig = plane.kubeconfig();
    let key = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
    let key = String::from_utf8(BASE64.decode(key).unwrap()).unwrap();
    let key = key.lines().nth(1).unwrap();
    let of_clusters = [token.as_str(), token.rsplit('.').next().unwrap(), key, &BASE64.encode(&token)];
    let of_people =
        [PASSWORD, "a wrong password", &session.access_token, &session.refresh_token, &session.session_id];
    for secret in of_clusters {
        assert!(!answers.contains(secret), "a cluster's credential was answered");
    }
    let log = install.log();
    assert!(log.contains("TRACE"), "the log tells everything");
    let files = install.data();
    assert!(files.iter().any(|(path, _)| path.ends_with("pilothouse.db") || path.ends_with("database.sql")));
    for secret in of_clusters.into_iter().chain(of_people) {
        if let Some(line) = log.lines().find(|line| line.contains(secret)) {
            panic!("in the log: {line}");
        }
        for (path, bytes) in &files {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} in {}", path.display());
        }
    }
}
