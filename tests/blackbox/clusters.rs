//! Registration, connection test, status, update and deletion of clusters.

use pilothouse_testbed::{Component, Signal, shared};
use serde_json::{Value, json};

use crate::support::{
    Server, control_plane, eventually, names, register_cluster, shared_control_plane, strings,
};

#[tokio::test]
async fn each_cluster_id_returns_only_objects_of_its_cluster() {
    let (one, two) = tokio::join!(control_plane(), shared_control_plane());
    let (kube_one, kube_two) = (one.client(), two.client());
    kube_one.apply(&pilothouse_testbed::workloads::namespace("only-in-one")).await.unwrap();
    kube_two.apply(&pilothouse_testbed::workloads::namespace("only-in-two")).await.unwrap();
    let server = Server::fresh().await;
    let admin = server.admin().await;

    let by_token = json!({
        "name": "by-token", "auth_type": "token", "api_server": one.server(), "token": one.admin_token(),
        "ca_certificate": one.ca_pem(), "description": "the first", "labels": {"env": "test"},
    });
    let created = admin.post("/api/k8s/clusters", by_token).await.data()["cluster"].take();
    let other = register_cluster(&admin, "by-kubeconfig", two).await;
    let version = kube_one.get("/version").await.unwrap()["gitVersion"].take();
    let namespaces = kube_one.get("/api/v1/namespaces").await.unwrap()["items"].as_array().unwrap().len();
    for (key, value) in [
        ("name", json!("by-token")),
        ("api_server", json!(one.server())),
        ("auth_type", json!("token")),
        ("status", json!("online")),
        ("status_reason", Value::Null),
        ("version", version),
        ("node_count", json!(0)),
        ("pod_count", json!(0)),
        ("namespace_count", json!(namespaces)),
        ("description", json!("the first")),
        ("labels", json!({"env": "test"})),
    ] {
        assert_eq!(created[key], value, "{key}");
    }
    assert_eq!(created["last_connected_at"].as_str().map(|at| at.ends_with('Z')), Some(true));
    assert!(created.get("token").is_none() && created.get("ca_certificate").is_none());

    let rows = admin.rows("/api/k8s/clusters?sort=id", "clusters").await;
    assert_eq!(rows[0], created);
    assert_eq!(names(&rows), ["by-token", "by-kubeconfig"]);
    for (id, present, absent) in
        [(&created["id"], "only-in-one", "only-in-two"), (&json!(other), "only-in-two", "only-in-one")]
    {
        let path = format!("/api/k8s/namespaces?cluster_id={id}");
        let rows = admin.rows(&path, "namespaces").await;
        assert!(names(&rows).contains(&present) && !names(&rows).contains(&absent), "{id}: {rows:?}");
    }
}

#[tokio::test]
async fn connection_is_tested_before_a_cluster_is_stored() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let with = |name: &str, more: Value| {
        let mut body = json!({
            "name": name, "auth_type": "token", "api_server": plane.server(), "token": plane.admin_token(),
            "ca_certificate": plane.ca_pem(),
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        admin.post("/api/k8s/clusters", body)
    };
    let wrong_token = with("wrong-token", json!({"token": "nobody"})).await.refused("CONNECTION_ERROR");
    assert_eq!(wrong_token["context"]["cause"], "credential_rejected");
    assert_eq!(wrong_token["context"]["source"], "cluster");
    let no_ca = with("no-ca", json!({"ca_certificate": null})).await.refused("CONNECTION_ERROR");
    assert_eq!(no_ca["context"]["cause"], "tls_untrusted");
    let closed =
        with("closed", json!({"api_server": "https://127.0.0.1:1"})).await.refused("CONNECTION_ERROR");
    assert_eq!(closed["context"]["cause"], "unreachable");
    with("metadata", json!({"api_server": "https://169.254.169.254"})).await.refused("VALIDATION_ERROR");
    with("plain", json!({"api_server": plane.server().replace("https", "http")}))
        .await
        .refused("VALIDATION_ERROR");
    assert_eq!(admin.rows("/api/k8s/clusters", "clusters").await, Vec::<Value>::new());

    // with skip_test the cluster is stored without a connection test, and has no counts
    let untried = json!({"api_server": "https://127.0.0.1:1", "skip_test": true});
    let data = with("untried", untried).await.data();
    assert_eq!(
        (&data["cluster"]["status"], &data["cluster"]["pod_count"]),
        (&json!("offline"), &Value::Null)
    );
    assert!(!strings(&data["warnings"]).is_empty());
    with("UNTRIED", json!({})).await.refused("CONFLICT_ERROR");
}

#[tokio::test]
async fn kubeconfig_with_exec_is_refused_and_not_run() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let trace = server.install.data_dir().join("trace");
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: touch, args: [{trace:?}]}}}}}}]\n"
    );
    let body =
        json!({"name": "runs", "auth_type": "kubeconfig", "kubeconfig": kubeconfig, "skip_test": true});
    let refused = admin.post("/api/k8s/clusters", body).await.refused("VALIDATION_ERROR");
    let field = refused["context"]["fields"][0]["name"].as_str().unwrap();
    assert!(field.contains("exec"), "{field}");
    assert!(!trace.exists());
}

#[tokio::test]
async fn loopback_is_refused_unless_allowed() {
    let plane = shared_control_plane().await;
    let server = crate::support::Install::new().unset("EGRESS_ALLOW_LOOPBACK").start().await;
    let admin = server.admin().await;
    let body = json!({"name": "here", "auth_type": "kubeconfig", "kubeconfig": plane.kubeconfig()});
    let refused = admin.post("/api/k8s/clusters", body).await.refused("VALIDATION_ERROR");
    assert_eq!(refused["context"]["cause"], "egress_denied");
}

#[tokio::test]
async fn connection_test_reports_identity_and_permissions() {
    let plane = shared().await.unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": ["list"]}]);
    let token = plane.client().service_account_token("bb-test", "reader", rules).await.unwrap();
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let configuration = json!({
        "auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem(),
    });

    let test = admin.post("/api/k8s/clusters/test", configuration.clone()).await.data();
    assert_eq!(test["identity"], "system:serviceaccount:bb-test:reader");
    assert_eq!(test["version"], plane.client().get("/version").await.unwrap()["gitVersion"]);
    let nodes = plane.client().get("/api/v1/nodes").await.unwrap()["items"].as_array().unwrap().len();
    assert_eq!(test["node_count"], json!(nodes));
    let text = test["permissions"].to_string();
    assert!(
        text.contains("true") && text.contains("false"),
        "some permissions are allowed, others are not: {text}"
    );
    assert!(admin.rows("/api/k8s/clusters", "clusters").await.is_empty(), "the test stores nothing");

    let mut body = configuration;
    body["name"] = json!("reader");
    let id = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].take();
    let viewer = server.user(&admin, "viewer").await;
    let by_id = viewer.post("/api/k8s/clusters/test", json!({"id": id})).await.data();
    assert_eq!(by_id["identity"], test["identity"]);
    // A refusal by the cluster's RBAC has the cluster as its source.
    let path = format!("/api/k8s/configmaps?cluster_id={id}&namespace=default");
    let refused = admin.get(&path).await.refused("PERMISSION_DENIED");
    assert_eq!(refused["context"]["source"], "cluster");
    assert_eq!(refused["context"]["verb"], "list");
}

#[tokio::test]
async fn status_is_read_on_request_and_updated_by_the_prober() {
    let plane = control_plane().await;
    let server = crate::support::Install::new().set("PROBE_INTERVAL", "1s").start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "probed", &plane).await;
    let status = admin.get(format!("/api/k8s/clusters/status?id={id}")).await.data();
    assert_eq!(status["cluster"]["status"], "online");
    assert_eq!(status["nodes"], json!({"ready": 0, "total": 0}));
    assert!(status["latency_ms"].is_u64() && status["checked_at"].is_string());
    assert!(!status["certificates"].as_array().unwrap().is_empty(), "{status}");

    let row = async || admin.rows("/api/k8s/clusters", "clusters").await.remove(0);
    let before = row().await;
    pilothouse_testbed::Admin::apply(&plane.client(), &pilothouse_testbed::workloads::namespace("one-more"))
        .await
        .unwrap();
    eventually("the probed namespace count", async || {
        let now = row().await;
        (now["namespace_count"].as_i64() > before["namespace_count"].as_i64()).then_some(())
    })
    .await;

    plane.signal(Component::ApiServer, Signal::Kill).unwrap();
    let offline = eventually("the cluster is offline", async || {
        Some(row().await).filter(|row| row["status"] == "offline")
    });
    let offline = offline.await;
    assert_eq!(offline["status_reason"], "unreachable");
    assert_eq!(offline["version"], before["version"], "the last known version is kept");
    plane.restart(Component::ApiServer).await.unwrap();
    eventually("the cluster is online again", async || {
        Some(row().await).filter(|row| row["status"] == "online")
    })
    .await;
}

#[tokio::test]
async fn update_tests_the_new_connection_and_delete_removes_the_cluster() {
    let (one, two) = tokio::join!(shared_control_plane(), control_plane());
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "first", one).await;

    let renamed = json!({"id": id, "name": "renamed", "description": "d", "labels": {"a": "b"}});
    let row = admin.post("/api/k8s/clusters/update", renamed).await.data()["cluster"].take();
    assert_eq!((&row["name"], &row["labels"]["a"]), (&json!("renamed"), &json!("b")));
    let stale = json!({"id": id, "name": "stale", "updated_at": row["created_at"]});
    admin.post("/api/k8s/clusters/update", stale).await.refused("CONFLICT_ERROR");
    // A stored credential is sent only to the server that it was registered with.
    let moved = json!({"id": id, "api_server": two.server()});
    admin.post("/api/k8s/clusters/update", moved).await.refused("VALIDATION_ERROR");
    let wrong = json!({
        "id": id, "auth_type": "token", "api_server": two.server(), "token": one.admin_token(), "ca_certificate": two.ca_pem(),
    });
    admin.post("/api/k8s/clusters/update", wrong).await.refused("CONNECTION_ERROR");
    assert_eq!(admin.rows("/api/k8s/clusters", "clusters").await[0]["api_server"], one.server());

    let moved = json!({"id": id, "auth_type": "kubeconfig", "kubeconfig": two.kubeconfig()});
    let row = admin.post("/api/k8s/clusters/update", moved).await.data()["cluster"].take();
    assert_eq!(row["api_server"], two.server());
    two.client().apply(&pilothouse_testbed::workloads::namespace("in-two")).await.unwrap();
    let rows = admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await;
    assert!(names(&rows).contains(&"in-two"), "requests use the new connection");

    assert_eq!(admin.post("/api/k8s/clusters/delete", json!({"id": id})).await.data(), json!({}));
    admin.get(format!("/api/k8s/namespaces?cluster_id={id}")).await.refused("RESOURCE_NOT_FOUND");
    admin.post("/api/k8s/clusters/delete", json!({"id": id})).await.refused("RESOURCE_NOT_FOUND");
    let next = register_cluster(&admin, "next", one).await;
    assert!(next > id, "ids are not reused");
    assert!(!admin.operations(format!("cluster_id={id}")).await.is_empty(), "its operations are kept");
}

#[tokio::test]
async fn invalid_connection_is_refused_before_it_is_stored_or_tested() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let token = |name: &str, more: Value| {
        let mut body = json!({"name": name, "auth_type": "token", "api_server": plane.server(), "skip_test": true,
            "token": plane.admin_token(), "ca_certificate": plane.ca_pem()});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let metadata = token("metadata", json!({"api_server": "https://169.254.169.254"}));
    let refused = admin.post("/api/k8s/clusters", metadata).await.refused("VALIDATION_ERROR");
    assert_eq!(refused["context"]["cause"], "egress_denied");
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = token("broken", json!({"ca_certificate": no_certificate}));
    let refused = admin.post("/api/k8s/clusters", broken).await.refused("VALIDATION_ERROR");
    assert_eq!(refused["context"]["fields"], json!([{"name": "ca_certificate", "reason": "malformed"}]));
    assert!(admin.rows("/api/k8s/clusters", "clusters").await.is_empty());

    let id = admin.post("/api/k8s/clusters", token("kept", json!({}))).await.data()["cluster"]["id"].take();
    let renewed = json!({"id": id, "auth_type": "token", "token": plane.admin_token()});
    let cluster = admin.post("/api/k8s/clusters/update", renewed).await.data()["cluster"].take();
    assert_eq!((&cluster["status"], &cluster["api_server"]), (&json!("online"), &json!(plane.server())));
    for ignored in [json!({}), json!({"skip_test": true}), json!({"ca_certificate": plane.ca_pem()})] {
        let mut body = ignored;
        body["id"] = id.clone();
        admin.post("/api/k8s/clusters/update", body).await.refused("VALIDATION_ERROR");
    }
}
