//! Shutdown of the server, also during a change.

use pilothouse_testbed::{Component, ControlPlane, Signal, workloads};
use rustix::process::Signal as ProcessSignal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{Client, Install, Server, apply, control_plane, eventually, register_cluster};

#[tokio::test]
async fn sigterm_and_sigint_end_the_server_with_status_0() {
    for signal in [ProcessSignal::TERM, ProcessSignal::INT] {
        let server = Server::fresh().await;
        server.signal(signal);
        let (status, install) = server.wait().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {}", install.log());
    }
}

/// A deployment in a cluster whose etcd is suspended, and a change of it: the API server has accepted the request and
/// does not respond.
struct PendingChange {
    plane: ControlPlane,
    server: Server,
    change: JoinHandle<u16>,
}

impl PendingChange {
    async fn new(install: Install) -> Self {
        let plane = control_plane().await;
        apply(&plane.client(), &[workloads::deployment("default", "web", 1)]).await;
        let server = install.start().await;
        let admin = server.admin().await;
        let id = register_cluster(&admin, "stuck", &plane).await;
        plane.signal(Component::Etcd, Signal::Stop).unwrap();
        let body = json!({"cluster_id": id, "namespace": "default", "type": "deployment", "name": "web", "replicas": 4});
        let change = tokio::spawn(scale(admin.clone(), body));
        eventually("the intent is stored", async || admin.operations("status=pending").await.pop()).await;
        Self { plane, server, change }
    }
}

/// The status of the response; 0 if there is none.
async fn scale(client: Client, body: Value) -> u16 {
    tokio::spawn(async move { client.post("/api/k8s/workloads/scale", body).await.status }).await.unwrap_or(0)
}

/// The scale operation, as recorded after the server has started again.
async fn recorded_operation(install: Install) -> Value {
    let server = install.start().await;
    let mut operations = server.admin().await.operations("operation_type=scale").await;
    assert_eq!(operations.len(), 1, "{operations:#?}");
    operations.remove(0)
}

#[tokio::test]
async fn shutdown_waits_for_a_running_change() {
    let PendingChange { plane, server, change } = PendingChange::new(Install::new()).await;
    server.signal(ProcessSignal::TERM);
    let address = server.address.clone();
    eventually("the server accepts no new connections", async || {
        tokio::net::TcpStream::connect(address.strip_prefix("http://").unwrap()).await.is_err().then_some(())
    })
    .await;
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let (status, install) = server.wait().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert_eq!(change.await.unwrap(), 200, "the client got its response");
    let object = plane.client().get("/apis/apps/v1/namespaces/default/deployments/web").await.unwrap();
    assert_eq!(object["spec"]["replicas"], 4);
    // A start would have closed a pending operation as unknown.
    assert_eq!(recorded_operation(install).await["status"], "success");
}

#[tokio::test]
async fn change_past_its_deadline_during_shutdown_is_closed() {
    let PendingChange { plane, server, change } =
        PendingChange::new(Install::new().set("WRITE_DEADLINE", "3s")).await;
    server.signal(ProcessSignal::TERM);
    let (status, install) = server.wait().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert_eq!(change.await.unwrap(), 504);
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let operation = recorded_operation(install).await;
    // The error code shows that the operation was closed before the shutdown ended: an operation that the next start
    // closes has no error code.
    assert_eq!(
        (&operation["status"], &operation["error_code"]),
        (&json!("unknown"), &json!("TIMEOUT_ERROR"))
    );
}

#[tokio::test]
async fn change_interrupted_by_a_kill_is_unknown_after_restart() {
    let PendingChange { plane, server, change } = PendingChange::new(Install::new()).await;
    let install = server.kill().await;
    assert_eq!(change.await.unwrap(), 0, "there is no response");
    plane.signal(Component::Etcd, Signal::Cont).unwrap();
    let server = install.start().await;
    let admin = server.admin().await;
    let operation = eventually("the orphaned operation is closed", async || {
        admin.operations("status=unknown").await.pop()
    })
    .await;
    assert_eq!((&operation["operation_type"], &operation["error_code"]), (&json!("scale"), &Value::Null));
    assert!(admin.operations("status=pending").await.is_empty());
}
