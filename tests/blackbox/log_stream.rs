//! Log streams of running pods. Skipped with a message if the machine cannot run a node.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pilothouse_testbed::workloads;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    logs::running_on,
    support::{Event, Events, Install, PASSWORD, apply, delete_namespace, eventually},
};

/// Shell command: prints ten numbered lines per second.
const COUNT: &str = "trap 'exit 0' TERM; i=0; while true; do i=$((i+1)); echo \"line $i\"; sleep 0.1; done";
/// Shell command: prints nothing.
const SILENCE: &str = "trap 'exit 0' TERM; sleep 3600 & wait $!";

/// Time within which a stream ends after its session.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(5);

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
async fn log_stream_resumes_after_the_last_event_id() {
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
    let wait_until_started = async |pod: &str| {
        eventually("the container has started", async || {
            let logs = path(pod, "").replace("/stream", "");
            (admin.get(&logs).await.status == 200).then_some(())
        })
        .await;
    };
    wait_until_started("counts").await;

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
    let mut newest_events = admin.follow(&path("counts", "&tail_lines=1&timestamps=true"), None).await;
    let event = newest_events.next().await.unwrap();
    assert!(event.data.starts_with("20") && event.data.contains("Z line "), "{event:?}");

    wait_until_started("silent").await;
    let mut silent = admin.follow(&path("silent", ""), None).await;
    assert_eq!(silent.next_frame().await, Some(Event::default()), "a comment at the start");
    let requested_at = Instant::now();
    assert_eq!(silent.next_frame().await, Some(Event::default()), "a comment as keep-alive");
    assert!(requested_at.elapsed() < Duration::from_secs(20), "{:?}", requested_at.elapsed());

    let mut ends = workloads::pod_running("bb-follow", "ends", &["sh", "-c", short]);
    ends["spec"]["restartPolicy"] = json!("Never");
    apply(&plane.client(), &[ends]).await;
    wait_until_started("ends").await;
    let mut events = admin.follow(&path("ends", ""), None).await;
    for text in ["one", "two", "three"] {
        assert_eq!(events.next().await.unwrap().data, text);
    }
    assert_eq!(events.end_reason().await, "completed");

    admin.get(path("nobody", "")).await.refused("RESOURCE_NOT_FOUND");
    admin.get(path("counts", "&container=third")).await.refused("RESOURCE_NOT_FOUND");
    admin.get(path("counts", "&follow=true")).await.refused("VALIDATION_ERROR");
    let deleted = plane.client().delete("/api/v1/namespaces/bb-follow/pods/counts").await;
    deleted.unwrap();
    let mut remaining = newest_events;
    assert_eq!(remaining.end_reason().await, "completed", "the stream ends with its pod");
    delete_namespace(&plane.client(), "bb-follow").await;
}

#[tokio::test]
async fn log_stream_continues_after_token_expiry_and_ends_with_its_session() {
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
    let open_stream = async || {
        let viewer = server.client().sign_in("viewer", PASSWORD).await;
        let events = viewer.follow(&path, None).await;
        (viewer, events)
    };

    // the stream continues after the token has expired
    let (viewer, mut events) = open_stream().await;
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
    let revoked_at = Instant::now();
    assert_eq!(events.end_reason().await, "session_ended");
    assert!(revoked_at.elapsed() < STREAM_END_TIMEOUT, "{:?}", revoked_at.elapsed());

    // disabled from the command line, in another process
    let (_viewer, mut events) = open_stream().await;
    next_number(&mut events).await;
    let output = server.install.run(&["user", "disable", "viewer"]);
    assert!(output.status.success(), "{output:?}");
    let disabled_at = Instant::now();
    assert_eq!(events.end_reason().await, "session_ended");
    assert!(disabled_at.elapsed() < STREAM_END_TIMEOUT, "{:?}", disabled_at.elapsed());

    // a grant is revoked, and another one ends by itself
    let ann = server.admin().await.add_user("ann", "none").await;
    for is_revoked in [true, false] {
        let mut body = json!({
            "subject": {"type": "user", "id": ann}, "role": "viewer", "clusters": {"ids": [id]},
            "namespaces": ["bb-ends"],
        });
        // late enough for a busy machine to open the stream before
        let until = Timestamp::from_second(Timestamp::now().as_second() + 8).unwrap();
        if !is_revoked {
            body["until"] = json!(until);
        }
        let granted = server.admin().await.post("/api/access/grants", body).await.data();
        let mut events = server.client().sign_in("ann", PASSWORD).await.follow(&path, None).await;
        next_number(&mut events).await;
        let mut ended_at = until;
        if is_revoked {
            let revoked = json!({"id": granted["grant"]["id"]});
            server.admin().await.post("/api/access/grants/revoke", revoked).await.data();
            ended_at = Timestamp::now();
        }
        assert_eq!(events.end_reason().await, "rights_changed");
        let late = Timestamp::now().duration_since(ended_at);
        assert!((SignedDuration::ZERO..SignedDuration::from_secs(5)).contains(&late), "{late:?}");
    }

    // the server shuts down
    let mut events = server.admin().await.follow(&path, None).await;
    next_number(&mut events).await;
    let requested_at = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(events.end_reason().await, "server_stopping");
    assert!(requested_at.elapsed() < STREAM_END_TIMEOUT, "{:?}", requested_at.elapsed());
    let (status, install) = server.wait().await;
    assert_eq!(status.code(), Some(0), "{}", install.log());
    assert!(requested_at.elapsed() < 2 * STREAM_END_TIMEOUT, "{:?}", requested_at.elapsed());
    delete_namespace(&plane.client(), "bb-ends").await;
}
