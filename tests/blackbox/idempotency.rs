//! `Idempotency-Key`: a repeated request is not executed again, whether or not the first response arrived.

use std::collections::BTreeSet;

use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{
    ApiResponse, Client, Install, Server, apply, control_plane, eventually, register_cluster,
    shared_control_plane,
};

const SCALE: &str = "/api/k8s/workloads/scale";

/// The number of requests with `verb` for this object that the server sent to the cluster.
fn requests_sent(plane: &ControlPlane, verb: &str, plural: &str, name: &str) -> usize {
    let events = plane.audit_events().unwrap().into_iter().filter(|event| {
        let is_pilothouse = event.user_agent.as_ref().is_some_and(|agent| agent.starts_with("pilothouse/"));
        let object =
            event.object_ref.as_ref().map(|object| (object.resource.as_deref(), object.name.as_deref()));
        is_pilothouse && event.verb == verb && object == Some((Some(plural), Some(name)))
    });
    // a request has one event per stage
    events.map(|event| event.audit_id).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn concurrent_repeats_are_executed_once_and_replayed() {
    let plane = shared_control_plane().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "once", plane).await;
    let (create, delete) = ("/api/k8s/namespaces", "/api/k8s/namespaces/delete");
    let created = json!({"cluster_id": id, "name": "made-once"});
    let deleted = json!({"cluster_id": id, "namespace": "made-once"});
    for (key, path, body, verb) in [("one", create, created, "create"), ("two", delete, deleted, "delete")] {
        let all = send_concurrently(&admin.with_idempotency_key(key), path, &body, 10).await;
        let replayed =
            all.iter().filter(|response| response.header("idempotency-replayed") == "true").count();
        assert_eq!(replayed, all.len() - 1, "{path}");
        for response in &all {
            assert_eq!((response.status, &response.text), (200, &all[0].text), "{path}");
        }
        let operations = admin.operations(format!("operation_type={verb}&resource_type=namespace")).await;
        assert_eq!(operations.len(), 1, "{operations:#?}");
        assert_eq!(requests_sent(plane, verb, "namespaces", "made-once"), 1);
    }
    let other = json!({"cluster_id": id, "name": "another"});
    let refused =
        admin.with_idempotency_key("one").post(create, other.clone()).await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "idempotency_key_reused");
    let ops = server.user(&admin, "ops_admin").await;
    ops.with_idempotency_key("one").post(create, other).await.data();

    // the data of a Secret is in no file, although the response to its creation is stored
    let secret =
        json!({"cluster_id": id, "namespace": "default", "name": "pass", "data": {"k": "canary-of-once"}});
    let first = admin.with_idempotency_key("secret").post("/api/k8s/secrets", secret.clone()).await;
    assert_eq!(admin.with_idempotency_key("secret").post("/api/k8s/secrets", secret).await.text, first.text);
    let install = server.stop().await;
    for (path, bytes) in install.data() {
        for plain in ["canary-of-once", "\"success\":true"] {
            let found = bytes.windows(plain.len()).any(|window| window == plain.as_bytes());
            assert!(!found, "{} shows {plain}", path.display());
        }
    }
}

/// Sends the same request `times` times concurrently.
async fn send_concurrently(
    client: &Client,
    path: &'static str,
    body: &Value,
    times: usize,
) -> Vec<ApiResponse> {
    let calls: Vec<_> = (0..times)
        .map(|_| {
            let (client, body) = (client.clone(), body.clone());
            tokio::spawn(async move { client.post(path, body).await })
        })
        .collect();
    let mut responses = Vec::new();
    for call in calls {
        responses.push(call.await.unwrap());
    }
    responses
}

/// A cluster whose etcd is suspended, and a scale with the key `key` that waits for it.
struct PendingScale {
    plane: ControlPlane,
    server: Server,
    body: Value,
}

impl PendingScale {
    /// Starts the change, and disconnects the client.
    async fn new() -> Self {
        let plane = control_plane().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = Install::new().start().await;
        let admin = server.admin().await;
        let id = register_cluster(&admin, "once", &plane).await;
        plane.signal(Component::Etcd, Signal::Stop).unwrap();
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 4});
        let (client, sent_body) = (admin.with_idempotency_key("key"), body.clone());
        let change = tokio::spawn(async move { client.post(SCALE, sent_body).await.status });
        eventually("the intent is stored", async || admin.operations("status=pending").await.pop()).await;
        change.abort();
        assert!(change.await.unwrap_err().is_cancelled());
        Self { plane, server, body }
    }
}

#[tokio::test]
async fn disconnected_client_gets_the_response_on_retry() {
    let PendingScale { plane, server, body } = PendingScale::new().await;
    let admin = server.admin().await;
    let retry = tokio::spawn({
        let (client, body) = (admin.with_idempotency_key("key"), body.clone());
        async move { client.post(SCALE, body).await }
    });
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let response = retry.await.unwrap();
    assert_eq!(response.header("idempotency-replayed"), "true", "{response}");
    assert_eq!(response.data()["workload"]["replicas"], 4);
    assert_eq!(admin.operations("operation_type=scale").await.len(), 1);
    assert_eq!(requests_sent(&plane, "patch", "deployments", "web"), 1);
}

#[tokio::test]
async fn change_interrupted_by_a_kill_is_not_repeated() {
    let PendingScale { plane, server, body } = PendingScale::new().await;
    let install = server.kill().await;
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let server = install.start().await;
    let admin = server.admin().await;
    let before = requests_sent(&plane, "patch", "deployments", "web");
    assert!(before <= 1);
    for _ in 0..2 {
        let refused =
            admin.with_idempotency_key("key").post(SCALE, body.clone()).await.refused("CONFLICT_ERROR");
        assert_eq!(refused["context"]["cause"], "idempotency_outcome_unknown");
        // Orphans of another replica are closed in the round after its lease expires; the key may be released before.
        let operation = eventually("the operation is closed", async || {
            admin.operations("operation_type=scale&status=unknown").await.pop()
        })
        .await;
        assert_eq!(
            refused["context"]["name"], operation["request_id"],
            "the error names the operation's request id"
        );
        assert_eq!(admin.operations("operation_type=scale").await.len(), 1);
    }
    assert_eq!(requests_sent(&plane, "patch", "deployments", "web"), before);
    admin.with_idempotency_key("new").post(SCALE, body).await.data();
}
