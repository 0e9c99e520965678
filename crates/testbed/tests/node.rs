//! A node: pods run there, log, fail, and are gone when its power is.

use std::{fs, time::Duration};

use pilothouse_testbed::{ControlPlane, NodeProgram, Signal, shared, shared_has_node, workloads};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(90);

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

#[tokio::test]
async fn a_pod_runs_and_its_log_is_readable() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    let client = plane.client();

    client.apply(&workloads::pod("default", "talker")).await.unwrap();
    client.apply(&workloads::crash_looping_pod("default", "broken")).await.unwrap();
    let talker = "/api/v1/namespaces/default/pods/talker";
    let pod = client.wait_until(talker, running, SOON).await.unwrap();
    assert_eq!(pod["spec"]["nodeName"], node.name());
    let end = tokio::time::Instant::now() + SOON;
    while !client.text(&format!("{talker}/log")).await.unwrap().contains("talker says line 2") {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let looping = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    client.wait_until("/api/v1/namespaces/default/pods/broken", looping, SOON).await.unwrap();

    // A stopped kubelet answers no log; continued it does.
    node.signal(NodeProgram::Kubelet, Signal::Stop).unwrap();
    let silent =
        tokio::time::timeout(Duration::from_millis(500), client.text(&format!("{talker}/log"))).await;
    assert!(silent.is_err(), "{silent:?}");
    node.signal(NodeProgram::Kubelet, Signal::Cont).unwrap();
    assert!(client.text(&format!("{talker}/log")).await.unwrap().contains("talker says line 2"));

    // After a power cut nothing of it is left in the machine, and it boots again on its old disk.
    let slot = fs::read_to_string(plane.dir().unwrap().join("node-0/slot")).unwrap();
    let bridge = format!("/sys/class/net/ph{}", slot.trim());
    assert!(fs::exists(&bridge).unwrap());
    node.power_cut();
    assert!(!fs::exists(&bridge).unwrap());
    node.boot().await.unwrap();
    let restarted = |pod: &Value| {
        running(pod) && pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
    };
    client.wait_until(talker, restarted, SOON).await.unwrap();
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn the_shared_control_plane_gets_one_node() {
    let (one, two) = tokio::join!(shared_has_node(), shared_has_node());
    assert_eq!(one.unwrap(), two.unwrap());
    if shared_has_node().await.unwrap() {
        let nodes = shared().await.unwrap().client().get("/api/v1/nodes").await.unwrap();
        assert!(!nodes["items"].as_array().unwrap().is_empty());
    }
}
