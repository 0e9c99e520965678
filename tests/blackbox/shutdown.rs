//! How the server ends, in the middle of a change too.

use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
use rustix::process::Signal as Unix;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Client, Install, Server, apply, cluster, eventually, light};

#[tokio::test]
async fn asked_to_end_it_ends_well() {
    for signal in [Unix::TERM, Unix::INT] {
        let server = Server::fresh().await;
        server.signal(signal);
        let (status, install) = server.ended().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", install.log());
    }
}

/// A deployment in a cluster whose etcd stands still, and a change of it that is under way: the API server takes the
/// request, and does not answer it.
struct Stuck {
    plane: ControlPlane,
    server: Server,
    change: JoinHandle<u16>,
}

impl Stuck {
    async fn new(install: Install) -> Self {
        let plane = light().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = install.start().await;
        let admin = server.admin().await;
        let id = cluster(&admin, "stuck", &plane).await;
        plane.signal(Component::Etcd, Signal::Stop).unwrap();
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 4});
        let change = tokio::spawn(scale(admin.clone(), body));
        eventually("the intent", async || admin.operations("status=pending").await.pop()).await;
        Self { plane, server, change }
    }
}

/// The status of the answer; 0 when there is none.
async fn scale(client: Client, body: Value) -> u16 {
    tokio::spawn(async move { client.post("/api/k8s/workloads/scale", body).await.status }).await.unwrap_or(0)
}

/// The scale, as the trail of a server started again tells it.
async fn recorded(install: Install) -> Value {
    let server = install.start().await;
    let mut operations = server.admin().await.operations("operation_type=scale").await;
    assert_eq!(operations.len(), 1, "{operations:#?}");
    operations.remove(0)
}

#[tokio::test]
async fn a_stop_waits_for_the_change_that_is_under_way() {
    let Stuck { plane, server, change } = Stuck::new(Install::new()).await;
    server.signal(Unix::TERM);
    let address = server.address.clone();
    eventually("it takes no new connections", async || {
        tokio::net::TcpStream::connect(address.strip_prefix("http://").unwrap()).await.is_err().then_some(())
    })
    .await;
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let (status, install) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert_eq!(change.await.unwrap(), 200, "whoever asked has been answered");
    let object = plane.client().get("/apis/apps/v1/namespaces/default/deployments/web").await.unwrap();
    assert_eq!(object["spec"]["replicas"], 4);
    // A start would have closed a pending one as unknown.
    assert_eq!(recorded(install).await["status"], "success");
}

#[tokio::test]
async fn a_change_that_outlasts_its_deadline_during_a_stop_is_not_left_pending() {
    let Stuck { plane, server, change } = Stuck::new(Install::new().set("WRITE_DEADLINE", "3s")).await;
    server.signal(Unix::TERM);
    let (status, install) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert_eq!(change.await.unwrap(), 504);
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let operation = recorded(install).await;
    // The code tells that it was closed before the end; one closed at the next start has none.
    assert_eq!(
        (&operation["status"], &operation["error_code"]),
        (&json!("unknown"), &json!("TIMEOUT_ERROR"))
    );
    assert!(operation["details"].as_str().unwrap().contains("may have been applied"));
}

#[tokio::test]
async fn a_change_that_a_kill_interrupts_is_unknown_after_the_restart() {
    let Stuck { plane, server, change } = Stuck::new(Install::new()).await;
    let install = server.kill().await;
    assert_eq!(change.await.unwrap(), 0, "nobody answers");
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let server = install.start().await;
    let admin = server.admin().await;
    let operation =
        eventually("the orphan is closed", async || admin.operations("status=unknown").await.pop()).await;
    assert_eq!((&operation["operation_type"], &operation["error_code"]), (&json!("scale"), &Value::Null));
    assert!(operation["details"].as_str().unwrap().contains("may have been applied"));
    assert!(admin.operations("status=pending").await.is_empty());
}
