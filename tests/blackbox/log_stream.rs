//! Logs of pods that really run, as they are written. Skipped aloud where the machine cannot run a node.

use std::time::Duration;

use pilothouse_testbed::workloads;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    logs::running_on,
    support::{Event, Events, Install, PASSWORD, apply, eventually},
};

/// Counts ten times a second.
const COUNT: &str = "trap 'exit 0' TERM; i=0; while true; do i=$((i+1)); echo \"line $i\"; sleep 0.1; done";
/// Says nothing.
const SILENCE: &str = "trap 'exit 0' TERM; sleep 3600 & wait $!";

/// How soon a stream must have ended after its session.
const SOON: Duration = Duration::from_secs(5);

/// The number of a line of [`COUNT`].
fn number(line: &str) -> u32 {
    line.strip_prefix("line ").expect(line).trim_end().parse().unwrap()
}

async fn next_number(events: &mut Events) -> u32 {
    let event = events.next().await.unwrap();
    assert_eq!(event.event, "log", "{event:?}");
    number(&event.data)
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_broke() {
    let install = Install::new().set("ACCESS_TOKEN_LIFETIME", "1h");
    let Some((plane, _server, admin, id)) = running_on(install, "bb-follow").await else { return };
    let short = "echo one; echo two; printf three";
    apply(
        &plane.client(),
        &[
            workloads::pod_running("bb-follow", "counts", &["sh", "-c", COUNT]),
            workloads::pod_running("bb-follow", "silent", &["sh", "-c", SILENCE]),
        ],
    )
    .await;
    let path = |pod: &str, options: &str| {
        format!("/api/k8s/pods/logs/stream?cluster_id={id}&namespace=bb-follow&pod_name={pod}{options}")
    };
    let begun = async |pod: &str| {
        eventually("the container has started", async || {
            let logs = path(pod, "").replace("/stream", "");
            (admin.get(&logs).await.status == 200).then_some(())
        })
        .await;
    };
    begun("counts").await;

    let counts = path("counts", "&tail_lines=10000");
    let (mut last, mut expected) = (String::new(), 1);
    for round in 0..4 {
        let after = (round > 0).then_some(last.as_str());
        let mut events = admin.follow(&counts, after).await;
        for _ in 0..7 {
            let event = events.next().await.unwrap();
            assert_eq!(number(&event.data), expected, "after {last}");
            (last, expected) = (event.id, expected + 1);
        }
    }
    let mut newest = admin.follow(&path("counts", "&tail_lines=1&timestamps=true"), None).await;
    let event = newest.next().await.unwrap();
    assert!(event.data.starts_with("20") && event.data.contains("Z line "), "{event:?}");

    begun("silent").await;
    let mut silent = admin.follow(&path("silent", ""), None).await;
    assert_eq!(silent.any().await, Some(Event::default()), "a comment says that it is followed");
    let asked = Instant::now();
    assert_eq!(silent.any().await, Some(Event::default()), "and again");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());

    let mut ends = workloads::pod_running("bb-follow", "ends", &["sh", "-c", short]);
    ends["spec"]["restartPolicy"] = json!("Never");
    apply(&plane.client(), &[ends]).await;
    begun("ends").await;
    let mut events = admin.follow(&path("ends", ""), None).await;
    for text in ["one", "two", "three"] {
        assert_eq!(events.next().await.unwrap().data, text);
    }
    assert_eq!(events.end().await, "completed");

    admin.get(path("nobody", "")).await.refused("RESOURCE_NOT_FOUND");
    admin.get(path("counts", "&container=third")).await.refused("RESOURCE_NOT_FOUND");
    admin.get(path("counts", "&follow=true")).await.refused("VALIDATION_ERROR");
    let deleted = plane.client().delete("/api/v1/namespaces/bb-follow/pods/counts").await;
    deleted.unwrap();
    let mut left = newest;
    assert_eq!(left.end().await, "completed", "its pod was deleted");
}

#[tokio::test]
async fn a_stream_outlives_its_token_and_ends_with_its_session() {
    let install = Install::new().set("ACCESS_TOKEN_LIFETIME", "5s");
    let Some((plane, server, admin, id)) = running_on(install, "bb-ends").await else { return };
    apply(&plane.client(), &[workloads::pod_running("bb-ends", "counts", &["sh", "-c", COUNT])]).await;
    let path = format!("/api/k8s/pods/logs/stream?cluster_id={id}&namespace=bb-ends&pod_name=counts");
    server.user(&server.admin().await, "viewer").await;
    drop(admin);
    eventually("the container has started", async || {
        let admin = server.admin().await;
        (admin.get(path.replace("/stream", "")).await.status == 200).then_some(())
    })
    .await;
    let begin = async || {
        let viewer = server.client().sign_in("viewer", PASSWORD).await;
        let events = viewer.follow(&path, None).await;
        (viewer, events)
    };

    // the token ends, the stream does not
    let (viewer, mut events) = begin().await;
    eventually("the token has expired", async || {
        (viewer.get("/api/auth/me").await.status == 401).then_some(())
    })
    .await;
    let admin = server.admin().await;
    let logs = admin.get(path.replace("/stream", "") + "&tail_lines=1").await.data();
    let written = number(logs["logs"].as_str().unwrap());
    while next_number(&mut events).await <= written {}

    let admin = server.admin().await;
    let sessions = admin.rows("/api/auth/sessions?per_page=500", "sessions").await;
    for session in sessions.iter().filter(|session| session["user"] == "viewer") {
        admin.post("/api/auth/sessions/revoke", json!({"id": session["id"]})).await.data();
    }
    let revoked = Instant::now();
    assert_eq!(events.end().await, "session_ended");
    assert!(revoked.elapsed() < SOON, "{:?}", revoked.elapsed());

    // disabled by the command line, in another process
    let (_viewer, mut events) = begin().await;
    next_number(&mut events).await;
    let output = server.install.run(&["user", "disable", "viewer"]);
    assert!(output.status.success(), "{output:?}");
    let disabled = Instant::now();
    assert_eq!(events.end().await, "session_ended");
    assert!(disabled.elapsed() < SOON, "{:?}", disabled.elapsed());

    // the server stops
    let mut events = server.admin().await.follow(&path, None).await;
    next_number(&mut events).await;
    let asked = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(events.end().await, "server_stopping");
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    let (status, install) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert!(asked.elapsed() < 2 * SOON, "{:?}", asked.elapsed());
}
