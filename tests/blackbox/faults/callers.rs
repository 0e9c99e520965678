//! Clients that occupy connections, without a request or with an incomplete request; and a shutdown under load.

use std::time::Duration;

use futures_util::future::join_all;
use pilothouse_testbed::workloads;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{MAX_MEMORY_GROWTH_BYTES, RESPONSE_TIMEOUT};
use crate::support::{Install, RECOVERY_TIMEOUT, Server, apply, control_plane, register_cluster, within};

/// Opens `count` connections, and sends `partial_request` on each.
async fn connections(server: &Server, count: usize, partial_request: &str) -> Vec<TcpStream> {
    let address = server.address.strip_prefix("http://").unwrap();
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        // in batches, because the accept queue of the listener is finite
        let batch = join_all((0..64.min(count - open.len())).map(|_| async {
            let mut stream = timeout(RESPONSE_TIMEOUT, TcpStream::connect(address)).await.unwrap().unwrap();
            stream.write_all(partial_request.as_bytes()).await.unwrap();
            stream
        }));
        open.extend(batch.await);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_slow_connections_use_little_memory_and_are_closed() {
    // raises the limit of open files to its maximum; the server inherits it
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let server = Install::new().set("KEEP_ALIVE", "5s").start().await;
    // a new connection per request: the server may close an idle one while a request is sent on it
    let admin = server.admin().await.with_header("connection", "close");
    let (before, files) = (server.memory(), server.open_files());
    // at most half of the file descriptors, so that the other tests have enough
    let count = usize::try_from(limit.maximum.unwrap_or(40_000) / 2).unwrap().min(10_000);
    let answered = connections(&server, count / 3, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let silent = connections(&server, count / 3, "").await;
    let slow = connections(&server, count / 3, "GET /api/k8s/clusters HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    for _ in 0..10 {
        timeout(RESPONSE_TIMEOUT, admin.get("/api/k8s/clusters"))
            .await
            .expect("response before the timeout")
            .data();
        assert!(server.client().is_reachable().await, "a new connection is answered");
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < MAX_MEMORY_GROWTH_BYTES, "memory grew by {grown} bytes");
    within(3 * RECOVERY_TIMEOUT, "the idle connections are closed", async || {
        (server.open_files() <= files + 50).then_some(())
    })
    .await;
    drop((answered, silent, slow));
    admin.get("/api/k8s/clusters").await.data();
}

#[tokio::test]
async fn incomplete_request_body_is_refused_before_the_timeout() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let partial_request = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                 Content-Length: 100\r\n\r\n{\"username\"";
    let waiting = connections(&server, 200, partial_request).await;
    for _ in 0..10 {
        timeout(RESPONSE_TIMEOUT, admin.get("/api/k8s/clusters"))
            .await
            .expect("response before the timeout")
            .data();
    }
    let responses = waiting.into_iter().map(|mut stream| async move {
        let mut response = String::new();
        let read = timeout(RESPONSE_TIMEOUT, stream.read_to_string(&mut response))
            .await
            .expect("response before the timeout");
        read.map(|_| response)
    });
    for response in join_all(responses).await {
        let response = response.unwrap();
        assert!(response.starts_with("HTTP/1.1 400 ") && response.contains("VALIDATION_ERROR"), "{response}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_under_load_finishes_accepted_changes() {
    let plane = control_plane().await;
    for n in 0..20 {
        apply(&plane.client(), &[workloads::deployment("default", &format!("web-{n}"), 1)]).await;
    }
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "busy", &plane).await;
    let clients = (0..20).map(|n| {
        let admin = admin.clone();
        tokio::spawn(async move {
            for replicas in 2..10_000 {
                let name = format!("web-{n}");
                let body = json!({
                    "cluster_id": id, "namespace": "default", "type": "deployment", "name": name, "replicas": replicas,
                });
                match admin.try_post("/api/k8s/workloads/scale", body).await {
                    // the last change may not have been accepted, or its response may be lost
                    None => return replicas - 1,
                    Some(response) => drop(response.data()),
                }
            }
            panic!("the load did not end")
        })
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.signal(Signal::TERM);
    let (status, install) = server.wait().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    let answered: Vec<u32> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    for (n, answered) in answered.iter().enumerate() {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/web-{n}");
        let replicas = plane.client().get(&path).await.unwrap()["spec"]["replicas"].as_u64().unwrap();
        let expected = u64::from(*answered);
        assert!(replicas == expected || replicas == expected + 1, "{replicas} after {expected}");
    }
    let admin = install.start().await;
    let admin = admin.admin().await;
    assert!(admin.operations("status=pending").await.is_empty());
    assert!(admin.operations("status=unknown").await.is_empty(), "all changes were finished");
}
