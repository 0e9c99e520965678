//! Readers of logs that ask and then do not read.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use pilothouse_testbed::workloads;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{LATEST, MEMORY};
use crate::{
    logs::running_on,
    support::{Client, Install, PASSWORD, apply, eventually, within},
};

/// Readers, and how many streams a user and a server have at most.
const READERS: usize = 1_000;
const PER_USER: usize = 32;
const STREAMS: usize = 512;
/// After how long a reader that stands still loses its stream, and a little.
const BLOCKED: Duration = Duration::from_secs(60);

/// Asks for a log, reads how that begins, and then nothing. The kernel keeps little for it.
async fn stand_still(address: &str, path: &str, client: &Client) -> (u16, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = timeout(LATEST, socket.connect(address.parse().unwrap())).await.unwrap().unwrap();
    let session = client.session.as_ref().expect("signed in");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nCookie: session_id={}\r\n\r\n",
        session.access_token, session.session_id
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    timeout(LATEST, stream.read_exact(&mut begin)).await.expect("an answer in time").unwrap();
    let status = std::str::from_utf8(&begin[9..]).unwrap().parse().unwrap();
    (status, stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_that_stand_still_cost_little_and_are_ended() {
    let Some((plane, server, admin, id)) = running_on(Install::new(), "bb-slow").await else { return };
    let write = format!("yes {} | head -n 8000", "x".repeat(100));
    let mut pod = workloads::pod_running("bb-slow", "long", &["sh", "-c", &write]);
    pod["spec"]["restartPolicy"] = json!("Never");
    apply(&plane.client(), &[pod]).await;
    let path =
        format!("/api/k8s/pods/logs/stream?cluster_id={id}&namespace=bb-slow&pod_name=long&tail_lines=10000");
    eventually("the log is there", async || {
        let logs = admin.get(path.replace("/stream", "")).await;
        (logs.status == 200 && logs.body["data"]["logs"].as_str()?.lines().count() == 8000).then_some(())
    })
    .await;
    let mut users = Vec::new();
    for n in 0..READERS.div_ceil(PER_USER) {
        let name = format!("reader-{n}");
        admin.add_user(&name, "viewer").await;
        users.push(server.client().sign_in(&name, PASSWORD).await);
    }
    let (before, files) = (server.memory(), server.open_files());
    let address = server.address.strip_prefix("http://").unwrap();
    let readers: Vec<_> = stream::iter(0..READERS)
        .map(|n| stand_still(address, &path, &users[n / PER_USER]))
        .buffer_unordered(16)
        .collect()
        .await;
    let followed = readers.iter().filter(|(status, _)| *status == 200).count();
    // of the first some may have lost theirs before the last came
    assert!(followed >= STREAMS, "as many as there may be at once: {followed}");
    assert!(
        readers.iter().all(|(status, _)| [200, 503].contains(status)),
        "the others are told to come later"
    );

    // a connection that was answered whole stays open for the keep-alive time, which is longer than what is measured here
    let readers: Vec<_> = readers.into_iter().filter(|(status, _)| *status == 200).collect();
    for _ in 0..10 {
        timeout(LATEST, admin.get("/api/k8s/clusters")).await.expect("an answer in time").data();
    }
    within(BLOCKED, "the end of those that do not read", async || {
        (server.open_files() <= files + 50).then_some(())
    })
    .await;
    let grown = server.memory_peak().saturating_sub(before);
    assert!(grown < MEMORY, "it grew by {grown} bytes");
    drop(readers);
    let mut events = admin.follow(&path, None).await;
    assert_eq!(events.next().await.unwrap().event, "log", "there is a place again");
}
