//! The audit trail, compared with the cluster's own audit log.

use pilothouse_testbed::{AuditEvent, ControlPlane, workloads};
use serde_json::{Value, json};

use crate::support::{Client, Server, apply, control_plane, register_cluster, shared_control_plane};

/// The cluster's audit events with the id of an operation.
fn events(plane: &ControlPlane, operation: &Value) -> Vec<AuditEvent> {
    let id = operation["operation_id"].as_str().expect("an operation id");
    plane.audit_events().unwrap().into_iter().filter(|event| event.audit_id == id).collect()
}

/// Sends one change of each type.
async fn change_everything(client: &Client, cluster_id: i64) {
    let of = |mut body: Value| {
        body["cluster_id"] = json!(cluster_id);
        body
    };
    let web = json!({"namespace": "audited", "type": "deployment", "name": "web"});
    let mut scale = web.clone();
    scale["replicas"] = json!(2);
    for (path, body) in [
        ("namespaces", json!({"name": "made"})),
        ("workloads/scale", scale),
        ("workloads/restart", web),
        ("configmaps", json!({"namespace": "audited", "name": "app", "data": {"k": "v"}})),
        ("configmaps/delete", json!({"namespace": "audited", "name": "app"})),
        ("namespaces/delete", json!({"namespace": "made"})),
    ] {
        client.post(&format!("/api/k8s/{path}"), of(body)).await;
    }
}

/// The operation and resource type in the trail, newest first; the verb and resource in the cluster's audit log.
const CHANGES: [(&str, &str, &str, &str); 6] = [
    ("delete", "namespace", "delete", "namespaces"),
    ("delete", "configmap", "delete", "configmaps"),
    ("create", "configmap", "create", "configmaps"),
    ("restart", "deployment", "patch", "deployments"),
    ("scale", "deployment", "patch", "deployments"),
    ("create", "namespace", "create", "namespaces"),
];

#[tokio::test]
async fn cluster_audit_log_contains_operation_ids() {
    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::namespace("audited"), workloads::deployment("audited", "web", 1)])
        .await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "audited", &plane).await;
    let ops = server.user(&admin, "ops_admin").await;
    change_everything(&ops, id).await;

    let rows = admin.operations(format!("cluster_id={id}&username=ops_admin")).await;
    assert_eq!(rows.len(), CHANGES.len(), "{rows:#?}");
    for (row, (operation, resource, verb, plural)) in rows.iter().zip(CHANGES) {
        assert_eq!((&row["operation_type"], &row["resource_type"]), (&json!(operation), &json!(resource)));
        assert_eq!((&row["status"], &row["error_code"]), (&json!("success"), &Value::Null), "{row}");
        assert_eq!((&row["cluster_name"], &row["role"]), (&json!("audited"), &json!("ops_admin")));
        assert_eq!(row["source_ip"], "127.0.0.1");
        assert!(
            row["duration_ms"].is_u64() && row["finished_at"].is_string() && row["request_id"].is_string()
        );
        let namespace = if resource == "namespace" { "made" } else { "audited" };
        assert_eq!(row["namespace"], namespace, "{row}");
        let events = events(&plane, row);
        let event =
            events.iter().find(|event| event.verb == verb).unwrap_or_else(|| panic!("{row}: {events:?}"));
        let object = event.object_ref.as_ref().expect("an object");
        assert_eq!(object.resource.as_deref(), Some(plural));
        assert_eq!(
            event.response_status.as_ref().and_then(|status| status.code).map(|code| code / 100),
            Some(2)
        );
    }
}

#[tokio::test]
async fn viewer_change_is_refused_recorded_once_and_not_sent() {
    let plane = control_plane().await;
    apply(&plane.client(), &[workloads::namespace("audited"), workloads::deployment("audited", "web", 1)])
        .await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "audited", &plane).await;
    let viewer = server.user(&admin, "viewer").await;
    // the API server itself also writes: it renews a lease every ten seconds
    let writes_by_others = || {
        let events = plane.audit_events().unwrap();
        events.iter().filter(|event| event.user.username.as_deref() != Some("system:apiserver")).count()
    };
    let before = writes_by_others();
    let scale =
        json!({"cluster_id": id, "namespace": "audited", "type": "deployment", "name": "web", "replicas": 5});
    let response = viewer.post("/api/k8s/workloads/scale", scale).await;
    let request_id = response.header("x-request-id").to_owned();
    let refused = response.refused("PERMISSION_DENIED");
    assert_eq!(refused["request_id"], request_id);
    assert_eq!(
        (&refused["context"]["source"], &refused["context"]["required_role"]),
        (&json!("us"), &json!("ops_admin"))
    );
    change_everything(&viewer, id).await;

    let rows = admin.operations(format!("cluster_id={id}&username=viewer")).await;
    assert_eq!(rows.len(), CHANGES.len() + 1, "{rows:#?}");
    assert_eq!(
        rows.last().unwrap()["request_id"],
        request_id,
        "response, log and trail have the same request id"
    );
    for row in &rows {
        assert_eq!((&row["status"], &row["error_code"]), (&json!("failed"), &json!("PERMISSION_DENIED")));
        assert!(events(&plane, row).is_empty());
    }
    assert_eq!(writes_by_others(), before, "the cluster received no write of another client");
    let web = plane.client().get("/apis/apps/v1/namespaces/audited/deployments/web").await.unwrap();
    assert_eq!(web["spec"]["replicas"], 1);

    // A viewer can list only the viewer's own operations, and no users.
    let own_operations = viewer.operations("").await;
    assert!(
        !own_operations.is_empty() && own_operations.iter().all(|row| row["username"] == "viewer"),
        "{own_operations:#?}"
    );
    viewer.get("/api/auth/users").await.refused("PERMISSION_DENIED");
}

#[tokio::test]
async fn operations_are_filtered_and_paged() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "filtered", plane).await;
    let namespace = |name: &str| admin.post("/api/k8s/namespaces", json!({"cluster_id": id, "name": name}));
    for name in ["one", "two", "three"] {
        namespace(name).await.data();
    }
    namespace("one").await.refused("CONFLICT_ERROR");
    server.client().try_sign_in("mallory", "not a password").await.refused("AUTHENTICATION_ERROR");

    let count = async |filter: &str| admin.operations(filter).await.len();
    assert_eq!(count(&format!("cluster_id={id}&operation_type=create&resource_type=namespace")).await, 4);
    assert_eq!(count(&format!("cluster_id={id}&resource_type=namespace&status=failed")).await, 1);
    assert_eq!(count("namespace=two").await, 1);
    assert_eq!(count("search=thr").await, 1);
    assert_eq!(count("operation_type=login&status=failed&username=mallory").await, 1);
    assert_eq!(count("username=nobody").await, 0);
    assert_eq!(count("status=pending").await, 0);
    admin.get("/api/k8s/audit/operations?status=lost").await.refused("VALIDATION_ERROR");

    let all = admin.operations("resource_type=namespace").await;
    let middle = all[1]["created_at"].as_str().unwrap();
    let since = admin.operations(format!("resource_type=namespace&from={middle}")).await;
    let until = admin.operations(format!("resource_type=namespace&to={middle}")).await;
    assert_eq!((&since[..], &until[..]), (&all[..2], &all[2..]), "`from` is inclusive, `to` is exclusive");
    let older = admin.operations(format!("resource_type=namespace&before={}", all[1]["id"])).await;
    assert_eq!(older, all[2..]);
    let page = admin.get("/api/k8s/audit/operations?resource_type=namespace&per_page=3&page=2").await.data();
    assert_eq!(page["pagination"], json!({"page": 2, "per_page": 3, "total": 4, "pages": 2}));
    assert_eq!(page["logs"], json!(all[3..]));
}
