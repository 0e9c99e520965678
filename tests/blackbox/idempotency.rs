//! `Idempotency-Key`: what is sent again is not done again, whatever happened to the first answer.

use std::collections::BTreeSet;

use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Install, Server, apply, cluster, eventually, light};

const SCALE: &str = "/api/k8s/workloads/scale";

/// How often the server asked the cluster for `verb` of this object.
fn asked(plane: &ControlPlane, verb: &str, plural: &str, name: &str) -> usize {
    let events = plane.audit_events().unwrap().into_iter().filter(|event| {
        let ours = event.user_agent.as_ref().is_some_and(|agent| agent.starts_with("pilothouse/"));
        let object =
            event.object_ref.as_ref().map(|object| (object.resource.as_deref(), object.name.as_deref()));
        ours && event.verb == verb && object == Some((Some(plural), Some(name)))
    });
    // a request has an event for each of its stages
    events.map(|event| event.audit_id).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn sent_twice_it_is_done_once_and_answered_twice() {
    let plane = light().await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "once", &plane).await;
    let (create, delete) = ("/api/k8s/namespaces", "/api/k8s/namespaces/delete");
    let made = json!({"cluster_id": id, "name": "made-once"});
    let gone = json!({"cluster_id": id, "namespace": "made-once"});
    for (key, path, body, verb) in [("one", create, made, "create"), ("two", delete, gone, "delete")] {
        let all = at_once(&admin.under(key), path, &body, 10).await;
        let replayed = all.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count();
        assert_eq!(replayed, all.len() - 1, "{path}");
        for answer in &all {
            assert_eq!((answer.status, &answer.text), (200, &all[0].text), "{path}");
        }
        let operations = admin.operations(format!("operation_type={verb}&resource_type=namespace")).await;
        assert_eq!(operations.len(), 1, "{operations:#?}");
        assert_eq!(asked(&plane, verb, "namespaces", "made-once"), 1);
    }
    let other = json!({"cluster_id": id, "name": "another"});
    let refused = admin.under("one").post(create, other.clone()).await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "idempotency_key_reused");
    let ops = server.user(&admin, "ops_admin").await;
    ops.under("one").post(create, other).await.data();

    // what a Secret holds is in no file, though its creation is remembered
    let secret =
        json!({"cluster_id": id, "namespace": "default", "name": "pass", "data": {"k": "canary-of-once"}});
    let first = admin.under("secret").post("/api/k8s/secrets", secret.clone()).await;
    assert_eq!(admin.under("secret").post("/api/k8s/secrets", secret).await.text, first.text);
    let install = server.stop().await;
    for (path, bytes) in install.data() {
        for plain in ["canary-of-once", "\"success\":true"] {
            let found = bytes.windows(plain.len()).any(|window| window == plain.as_bytes());
            assert!(!found, "{} shows {plain}", path.display());
        }
    }
}

/// The same request so many times at once.
async fn at_once(client: &Client, path: &'static str, body: &Value, times: usize) -> Vec<Answer> {
    let calls: Vec<_> = (0..times)
        .map(|_| {
            let (client, body) = (client.clone(), body.clone());
            tokio::spawn(async move { client.post(path, body).await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    answers
}

/// A cluster whose etcd stands still, and a scale under the key `key` that is under way in it.
struct UnderWay {
    plane: ControlPlane,
    server: Server,
    body: Value,
}

impl UnderWay {
    /// The client has hung up already.
    async fn new() -> Self {
        let plane = light().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = Install::new().start().await;
        let admin = server.admin().await;
        let id = cluster(&admin, "once", &plane).await;
        plane.signal(Component::Etcd, Signal::Stop).unwrap();
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 4});
        let (client, sent) = (admin.under("key"), body.clone());
        let change = tokio::spawn(async move { client.post(SCALE, sent).await.status });
        eventually("the intent", async || admin.operations("status=pending").await.pop()).await;
        change.abort();
        assert!(change.await.unwrap_err().is_cancelled());
        Self { plane, server, body }
    }
}

#[tokio::test]
async fn a_client_that_hung_up_finds_its_answer() {
    let UnderWay { plane, server, body } = UnderWay::new().await;
    let admin = server.admin().await;
    let retry = tokio::spawn({
        let (client, body) = (admin.under("key"), body.clone());
        async move { client.post(SCALE, body).await }
    });
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let answer = retry.await.unwrap();
    assert_eq!(answer.header("idempotency-replayed"), "true", "{answer}");
    assert_eq!(answer.data()["workload"]["replicas"], 4);
    assert_eq!(admin.operations("operation_type=scale").await.len(), 1);
    assert_eq!(asked(&plane, "patch", "deployments", "web"), 1);
}

#[tokio::test]
async fn what_a_kill_interrupted_is_never_done_twice() {
    let UnderWay { plane, server, body } = UnderWay::new().await;
    let install = server.kill().await;
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let server = install.start().await;
    let admin = server.admin().await;
    let before = asked(&plane, "patch", "deployments", "web");
    assert!(before <= 1);
    for _ in 0..2 {
        let refused = admin.under("key").post(SCALE, body.clone()).await.refused("CONFLICT_ERROR");
        assert_eq!(refused["context"]["cause"], "idempotency_outcome_unknown");
        // Another replica's orphans are closed by the next round after the lease ended: the claim may know it first.
        let operation = eventually("the operation closed", async || {
            admin.operations("operation_type=scale&status=unknown").await.pop()
        })
        .await;
        assert_eq!(refused["context"]["name"], operation["request_id"], "where to look");
        assert_eq!(admin.operations("operation_type=scale").await.len(), 1);
    }
    assert_eq!(asked(&plane, "patch", "deployments", "web"), before);
    admin.under("new").post(SCALE, body).await.data();
}
