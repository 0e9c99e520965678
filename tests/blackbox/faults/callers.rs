//! Callers that hold on to what they have: connections without requests, bodies without an end; and a stop in the middle.

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

use super::{LATEST, MEMORY};
use crate::support::{Install, RECOVERY, Server, apply, cluster, light, within};

/// Connections to a server, each with this much of a request.
async fn connections(server: &Server, count: usize, begun: &str) -> Vec<TcpStream> {
    let address = server.address.strip_prefix("http://").unwrap();
    let mut open = Vec::with_capacity(count);
    while open.len() < count {
        // a few at once: the queue of the listener is finite
        let some = join_all((0..64.min(count - open.len())).map(|_| async {
            let mut stream = timeout(LATEST, TcpStream::connect(address)).await.unwrap().unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            stream
        }));
        open.extend(some.await);
    }
    open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_and_slow_connections_cost_little_and_are_ended() {
    // as many files as a process may open; the server takes over our limit
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let server = Install::new().set("KEEP_ALIVE", "5s").start().await;
    let admin = server.admin().await;
    let (before, files) = (server.memory(), server.open_files());
    // besides what the other tests have
    let count = usize::try_from(limit.maximum.unwrap_or(40_000) / 2).unwrap().min(10_000);
    let answered = connections(&server, count / 3, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let silent = connections(&server, count / 3, "").await;
    let slow = connections(&server, count / 3, "GET /api/k8s/clusters HTTP/1.1\r\nHost: a\r\nX-Slow: ").await;
    for _ in 0..10 {
        timeout(LATEST, admin.get("/api/k8s/clusters")).await.expect("an answer in time").data();
        assert!(server.client().reaches().await, "a new connection is answered");
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown < MEMORY, "it grew by {grown} bytes");
    within(3 * RECOVERY, "the end of those that say nothing", async || {
        (server.open_files() <= files + 50).then_some(())
    })
    .await;
    drop((answered, silent, slow));
    admin.get("/api/k8s/clusters").await.data();
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused_in_time() {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let begun = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                 Content-Length: 100\r\n\r\n{\"username\"";
    let waiting = connections(&server, 200, begun).await;
    for _ in 0..10 {
        timeout(LATEST, admin.get("/api/k8s/clusters")).await.expect("an answer in time").data();
    }
    let answers = waiting.into_iter().map(|mut stream| async move {
        let mut answer = String::new();
        let read = timeout(LATEST, stream.read_to_string(&mut answer)).await.expect("an answer in time");
        read.map(|_| answer)
    });
    for answer in join_all(answers).await {
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("VALIDATION_ERROR"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_end_under_load_it_answers_what_it_took() {
    let plane = light().await;
    for n in 0..20 {
        apply(&plane.client(), &[workloads::deployment("default", &format!("web-{n}"), 1)]).await;
    }
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "busy", &plane).await;
    let clients = (0..20).map(|n| {
        let admin = admin.clone();
        tokio::spawn(async move {
            for replicas in 2..10_000 {
                let name = format!("web-{n}");
                let body = json!({
                    "cluster_id": id, "namespace": "default", "type": "deployment", "name": name, "replicas": replicas,
                });
                match admin.try_post("/api/k8s/workloads/scale", body).await {
                    // the last one may not have been taken, or not be answered
                    None => return replicas - 1,
                    Some(answer) => drop(answer.data()),
                }
            }
            panic!("it never ends")
        })
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.signal(Signal::TERM);
    let (status, install) = server.ended().await;
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
    assert!(admin.operations("status=unknown").await.is_empty(), "all of it was finished");
}
