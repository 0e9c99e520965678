//! Tests of nodes: pods run, write logs and fail on a node, and end with a power cut.

use std::{fs, sync::Arc, time::Duration};

use pilothouse_testbed::{
    BrokenWorkload, Component, ControlPlane, FaultyRegistry, NodeProgram, Signal, kubectl, metrics_server,
    shared, shared_has_node, workloads,
};
use serde_json::Value;
use tokio::task::JoinSet;

const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
/// Time limit of the signs of all broken workloads, which start at the same time.
const SIGN_TIMEOUT: Duration = Duration::from_secs(240);

fn running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

#[tokio::test]
async fn pods_run_on_a_node_and_survive_a_power_cut() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    let client = plane.client();

    client.apply(&workloads::pod("default", "talker")).await.unwrap();
    client.apply(&workloads::crash_looping_pod("default", "broken")).await.unwrap();
    let talker = "/api/v1/namespaces/default/pods/talker";
    let pod = client.wait_until(talker, running, WAIT_TIMEOUT).await.unwrap();
    assert_eq!(pod["spec"]["nodeName"], node.name());
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while !client.text(&format!("{talker}/log")).await.unwrap().contains("talker says line 2") {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let looping = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    client.wait_until("/api/v1/namespaces/default/pods/broken", looping, WAIT_TIMEOUT).await.unwrap();

    // a suspended kubelet serves no log until it is resumed
    node.signal(NodeProgram::Kubelet, Signal::Stop).unwrap();
    let result =
        tokio::time::timeout(Duration::from_millis(500), client.text(&format!("{talker}/log"))).await;
    assert!(result.is_err(), "{result:?}");
    node.signal(NodeProgram::Kubelet, Signal::Cont).unwrap();
    assert!(client.text(&format!("{talker}/log")).await.unwrap().contains("talker says line 2"));

    // after a power cut nothing of the node remains on the machine, and it boots again with its existing disk
    let slot = fs::read_to_string(plane.dir().unwrap().join("node-0/slot")).unwrap();
    let bridge = format!("/sys/class/net/ph{}", slot.trim());
    assert!(fs::exists(&bridge).unwrap());
    node.power_cut();
    assert!(!fs::exists(&bridge).unwrap());
    node.boot().await.unwrap();
    let restarted = |pod: &Value| {
        running(pod) && pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
    };
    client.wait_until(talker, restarted, WAIT_TIMEOUT).await.unwrap();
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn shared_control_plane_has_one_node() {
    let (one, two) = tokio::join!(shared_has_node(), shared_has_node());
    assert_eq!(one.unwrap(), two.unwrap());
    if shared_has_node().await.unwrap() {
        let nodes = shared().await.unwrap().client().get("/api/v1/nodes").await.unwrap();
        assert!(!nodes["items"].as_array().unwrap().is_empty());
    }
}

#[tokio::test]
async fn metrics_server_serves_usage_and_is_unavailable_after_a_kill() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    metrics_server(&plane).await.unwrap();
    let top = kubectl(&plane, &["top", "nodes", "--no-headers"]).await.unwrap();
    assert!(top.starts_with(node.name()), "{top}");
    let client = plane.client();
    let path = "/apis/metrics.k8s.io/v1beta1/nodes";
    let nodes = client.get(path).await.unwrap();
    assert!(nodes["items"][0]["usage"]["memory"].is_string(), "{nodes}");

    plane.signal(Component::MetricsServer, Signal::Kill).unwrap();
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while client.get(path).await.is_ok() {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    metrics_server(&plane).await.unwrap();
    client.get(path).await.unwrap();
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn broken_workloads_show_their_signs() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(_node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    let registry = Arc::new(FaultyRegistry::start().await.unwrap());
    let mut tasks = JoinSet::new();
    for file in BrokenWorkload::all().unwrap() {
        let (client, registry) = (plane.client(), registry.clone());
        tasks.spawn(async move {
            let namespace = file.name.replace('_', "-");
            file.apply(&client, &namespace, &registry).await.map_err(|e| format!("{}: {e}", file.name))?;
            let sign = file.wait_for_sign(&client, &namespace, SIGN_TIMEOUT).await;
            sign.map_err(|e| format!("{}: {e}", file.name))
        });
    }
    let failed: Vec<_> = tasks.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    plane.stop().await.unwrap();
}

#[tokio::test]
async fn taint_keeps_pods_from_a_node_until_it_is_removed() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    let client = plane.client();
    node.taint("example.org/reserved", "true", "NoSchedule").await.unwrap();
    client.apply(&workloads::pod("default", "waiting")).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/waiting";
    let refused = |pod: &Value| {
        pod["status"]["conditions"][0]["message"]
            .as_str()
            .is_some_and(|message| message.contains("had untolerated taint"))
    };
    client.wait_until(path, refused, WAIT_TIMEOUT).await.unwrap();
    node.remove_taint("example.org/reserved").await.unwrap();
    client.wait_until(path, running, WAIT_TIMEOUT).await.unwrap();
    plane.stop().await.unwrap();
}
