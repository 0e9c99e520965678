//! Streams whose clients do not read.

use std::{cell::Cell, collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use pilothouse_testbed::workloads;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{MAX_MEMORY_GROWTH_BYTES, RESPONSE_TIMEOUT};
use crate::{
    logs::running_on,
    support::{
        Client, Install, PASSWORD, Server, apply, create_namespace, delete_namespace, eventually,
        register_cluster, shared_control_plane, within,
    },
};

/// Clients, the limit of streams per user, and that of log streams per server.
const CLIENTS: usize = 1_000;
const MAX_STREAMS_PER_USER: usize = 32;
const MAX_STREAMS: usize = 512;
/// Memory of a stream of a list.
const MAX_LIST_STREAM_BYTES: u64 = 64 << 10;
/// The time after which a blocked stream is ended, with a margin.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens a log stream, reads the status line, and nothing else. The receive buffer is small.
async fn open_without_reading(address: &str, path: &str, client: &Client) -> (u16, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream =
        timeout(RESPONSE_TIMEOUT, socket.connect(address.parse().unwrap())).await.unwrap().unwrap();
    let session = client.session.as_ref().expect("signed in");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nCookie: session_id={}\r\n\r\n",
        session.access_token, session.session_id
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    timeout(RESPONSE_TIMEOUT, stream.read_exact(&mut start))
        .await
        .expect("response before the timeout")
        .unwrap();
    let status = std::str::from_utf8(&start[9..]).unwrap().parse().unwrap();
    (status, stream)
}

/// As many users as [`CLIENTS`] streams take.
async fn readers(server: &Server, admin: &Client) -> Vec<Client> {
    let mut users = Vec::new();
    for n in 0..CLIENTS.div_ceil(MAX_STREAMS_PER_USER) {
        let name = format!("reader-{n}");
        admin.add_user(&name, "viewer").await;
        users.push(server.client().sign_in(&name, PASSWORD).await);
    }
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_stalled_list_streams_use_64_kib_each_and_are_ended() {
    const NAMESPACE: &str = "bb-slow-lists";
    const ROWS: u64 = 400;
    let plane = shared_control_plane().await;
    create_namespace(&plane.client(), NAMESPACE).await;
    // more rows than the buffers of a stream and of its connection hold
    let labels: BTreeMap<_, _> = (0..30).map(|n| (format!("label-{n}"), "x".repeat(60))).collect();
    let objects: Vec<_> = (0..ROWS)
        .map(|n| {
            let metadata = json!({"name": format!("settings-{n}"), "namespace": NAMESPACE, "labels": labels});
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        })
        .collect();
    apply(&plane.client(), &objects).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, NAMESPACE, plane).await;
    let list = format!("/api/k8s/configmaps?cluster_id={id}&namespace={NAMESPACE}&per_page=1");
    eventually("the list is cached", async || {
        (admin.get(&list).await.data()["pagination"]["total"].as_u64()? >= ROWS).then_some(())
    })
    .await;
    let users = readers(&server, &admin).await;
    let (before, files) = (server.memory(), server.open_files());
    let path = format!("/api/k8s/watch?kind=configmaps&cluster_id={id}&namespace={NAMESPACE}");
    let address = server.address.strip_prefix("http://").unwrap();
    let streams: Vec<_> = stream::iter(0..CLIENTS)
        .map(|n| open_without_reading(address, &path, &users[n / MAX_STREAMS_PER_USER]))
        .buffer_unordered(16)
        .collect()
        .await;
    assert!(streams.iter().all(|(status, _)| *status == 200), "all streams are open");
    // not the peak of the process, which includes the hashing of passwords
    let highest = Cell::new(server.memory());
    within(STALL_TIMEOUT, "the streams without a reader are closed", async || {
        highest.set(highest.get().max(server.memory()));
        (server.open_files() <= files + 50).then_some(())
    })
    .await;
    let grown = highest.get().saturating_sub(before);
    // each stream holds the rows that it has not sent yet: 24 bytes each
    let limit = CLIENTS as u64 * (MAX_LIST_STREAM_BYTES + 24 * ROWS);
    assert!(grown < limit, "memory grew by {grown} bytes, {} for each stream", grown / CLIENTS as u64);
    drop(streams);
    delete_namespace(&plane.client(), NAMESPACE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_stalled_log_streams_use_little_memory_and_are_ended() {
    let Some((plane, server, admin, id)) = running_on(Install::new(), "bb-slow").await else { return };
    let write = format!("yes {} | head -n 8000", "x".repeat(100));
    let mut pod = workloads::pod_running("bb-slow", "long", &["sh", "-c", &write]);
    pod["spec"]["restartPolicy"] = json!("Never");
    apply(&plane.client(), &[pod]).await;
    let path =
        format!("/api/k8s/pods/logs/stream?cluster_id={id}&namespace=bb-slow&pod_name=long&tail_lines=10000");
    eventually("the log is complete", async || {
        let logs = admin.get(path.replace("/stream", "")).await;
        (logs.status == 200 && logs.body["data"]["logs"].as_str()?.lines().count() == 8000).then_some(())
    })
    .await;
    let users = readers(&server, &admin).await;
    let (before, files) = (server.memory(), server.open_files());
    let address = server.address.strip_prefix("http://").unwrap();
    let readers: Vec<_> = stream::iter(0..CLIENTS)
        .map(|n| open_without_reading(address, &path, &users[n / MAX_STREAMS_PER_USER]))
        .buffer_unordered(16)
        .collect()
        .await;
    let opened = readers.iter().filter(|(status, _)| *status == 200).count();
    // some streams may end before the last one opens
    assert!(opened >= MAX_STREAMS, "the streams that the limit allows: {opened}");
    assert!(readers.iter().all(|(status, _)| [200, 503].contains(status)), "the others get 503");

    // a connection with a complete response stays open for the keep-alive time, which is longer than this measurement
    let readers: Vec<_> = readers.into_iter().filter(|(status, _)| *status == 200).collect();
    for _ in 0..10 {
        timeout(RESPONSE_TIMEOUT, admin.get("/api/k8s/clusters"))
            .await
            .expect("response before the timeout")
            .data();
    }
    within(STALL_TIMEOUT, "the streams without a reader are closed", async || {
        (server.open_files() <= files + 50).then_some(())
    })
    .await;
    let grown = server.memory_peak().saturating_sub(before);
    assert!(grown < MAX_MEMORY_GROWTH_BYTES, "memory grew by {grown} bytes");
    drop(readers);
    let mut events = admin.follow(&path, None).await;
    assert_eq!(events.next().await.unwrap().event, "log", "a stream can be opened again");
    delete_namespace(&plane.client(), "bb-slow").await;
}
