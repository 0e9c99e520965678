//! Logs of running pods. Skipped with a message if the machine cannot run a node.

use pilothouse_testbed::{ControlPlane, shared, shared_has_node, workloads};
use serde_json::json;

use crate::support::{
    Client, Install, Server, apply, create_namespace, delete_namespace, eventually, register_cluster, strings,
};

/// The shared cluster with a node, a server on which it is registered, and its id.
async fn running(name: &str) -> Option<(&'static ControlPlane, Server, Client, i64)> {
    running_on(Install::new(), name).await
}

/// As [`running`], with the settings of an install.
pub(crate) async fn running_on(
    install: Install,
    name: &str,
) -> Option<(&'static ControlPlane, Server, Client, i64)> {
    if !shared_has_node().await.expect("a node, if one is required") {
        return None;
    }
    let plane = shared().await.unwrap();
    create_namespace(&plane.client(), name).await;
    let server = install.start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, name, plane).await;
    Some((plane, server, admin, id))
}

#[tokio::test]
async fn pod_logs_support_all_options() {
    let Some((plane, _server, admin, id)) = running("bb-logs").await else { return };
    let kube = plane.client();
    let count = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo \"line $i\"; done; trap 'exit 0' TERM; sleep 3600 & wait $!";
    let mut pod = workloads::pod_running("bb-logs", "two", &["sh", "-c", count]);
    let mut side = pod["spec"]["containers"][0].clone();
    side["name"] = json!("side");
    side["command"] = json!(["sh", "-c", "printf 'caf\\351\\n'; trap 'exit 0' TERM; sleep 3600 & wait $!"]);
    pod["spec"]["containers"].as_array_mut().unwrap().push(side);
    pod["spec"]["initContainers"] =
        json!([{"name": "first", "image": workloads::IMAGE, "command": ["echo", "ready"]}]);
    let broken = workloads::crash_looping_pod("bb-logs", "broken");
    apply(&kube, &[pod, broken]).await;
    let path = |pod: &str, options: &str| {
        format!("/api/k8s/pods/logs?cluster_id={id}&namespace=bb-logs&pod_name={pod}{options}")
    };
    let logs = async |pod: &str, options: &str| admin.get(path(pod, options)).await;
    eventually("the log has all lines", async || {
        let response = logs("two", "&tail_lines=1").await;
        (response.status == 200 && response.data()["logs"] == "line 300\n").then_some(())
    })
    .await;

    let default = logs("two", "").await.data();
    let expected_logs =
        kube.text("/api/v1/namespaces/bb-logs/pods/two/log?container=two&tailLines=100").await.unwrap();
    assert_eq!(default["logs"], expected_logs);
    assert_eq!(
        (&default["container"], &default["tail_lines"], &default["truncated"]),
        (&json!("two"), &json!(100), &json!(false))
    );
    assert_eq!(strings(&default["containers"]), ["two", "side"]);
    assert_eq!(strings(&default["init_containers"]), ["first"]);
    let all = logs("two", "&tail_lines=10000").await.data();
    assert_eq!(all["logs"].as_str().unwrap().lines().count(), 300);
    assert_eq!(logs("two", "&container=first").await.data()["logs"], "ready\n");
    assert_eq!(logs("two", "&container=side").await.data()["logs"], "caf\u{fffd}\n", "not UTF-8");
    let stamped = logs("two", "&timestamps=true&tail_lines=1").await.data();
    let stamped = stamped["logs"].as_str().unwrap();
    assert!(stamped.starts_with("20") && stamped.contains("Z line 300"), "{stamped}");
    assert_eq!(logs("two", "&since_seconds=86400&tail_lines=10000").await.data()["logs"], all["logs"]);

    // The log of the previous run of the container.
    eventually("the container has restarted", async || {
        let response = logs("broken", "&previous=true").await;
        (response.status == 200 && response.data()["logs"] == "cannot reach the database\n").then_some(())
    })
    .await;
    logs("two", "&previous=true").await.refused("RESOURCE_NOT_FOUND");
    let third = logs("two", "&container=third").await.refused("RESOURCE_NOT_FOUND");
    assert_eq!((&third["context"]["pod"], &third["context"]["name"]), (&json!("two"), &json!("third")));
    logs("nobody", "").await.refused("RESOURCE_NOT_FOUND");
    logs("two", "&tail_lines=0").await.refused("VALIDATION_ERROR");
    logs("two", "&tail_lines=10001").await.refused("VALIDATION_ERROR");
    logs("two", "&follow=true").await.refused("VALIDATION_ERROR");
    delete_namespace(&plane.client(), "bb-logs").await;
}

#[tokio::test]
async fn logs_of_a_container_that_has_not_started_give_the_reason() {
    let Some((plane, _server, admin, id)) = running("bb-waiting").await else { return };
    let mut pod = workloads::pod("bb-waiting", "pulls");
    pod["spec"]["containers"][0]["image"] = json!("localhost:1/none:1");
    apply(&plane.client(), &[pod]).await;
    let path = format!("/api/k8s/pods/logs?cluster_id={id}&namespace=bb-waiting&pod_name=pulls");
    let refused = eventually("the reason of the container", async || {
        let response = admin.get(&path).await;
        response.body["details"]
            .as_str()
            .is_some_and(|details| details.contains("ImagePull"))
            .then_some(response)
    });
    let refused = refused.await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "container_not_started");
    delete_namespace(&plane.client(), "bb-waiting").await;
}

#[tokio::test]
async fn pod_status_equals_kubectl_output() {
    let Some((plane, _server, admin, id)) = running("bb-status").await else { return };
    apply(&plane.client(), &workloads::samples("bb-status")).await;
    let path = format!("/api/k8s/pods?cluster_id={id}&namespace=bb-status&per_page=500");
    let expected = [
        ("web", "Running", "1/1"), // two of them
        ("db", "Running", "1/1"),
        ("agent", "Running", "1/1"),
        ("migrate", "Completed", "0/1"),
        ("broken", "CrashLoopBackOff", "0/1"),
    ];
    let rows = eventually("all pods have the expected status", async || {
        let rows = admin.rows(&path, "pods").await;
        let has_status = |(prefix, status, ready): &(&str, &str, &str)| {
            let mut pods =
                rows.iter().filter(|row| row["name"].as_str().unwrap().starts_with(prefix)).peekable();
            pods.peek().is_some() && pods.all(|row| row["status"] == *status && row["ready"] == *ready)
        };
        expected.iter().all(has_status).then_some(rows)
    })
    .await;
    for row in rows.iter().filter(|row| row["status"] == "Running") {
        let name = row["name"].as_str().unwrap();
        let pod = plane.client().get(&format!("/api/v1/namespaces/bb-status/pods/{name}")).await.unwrap();
        assert_eq!((&row["node"], &row["pod_ip"]), (&pod["spec"]["nodeName"], &pod["status"]["podIP"]));
    }
    let broken = rows.iter().find(|row| row["name"] == "broken").unwrap();
    assert!(broken["restarts"].as_i64() >= Some(1));
    // One pod of the job, and one of the cron job if a minute has begun meanwhile.
    let filtered = admin.rows(format!("{path}&status=Completed"), "pods").await;
    assert!(filtered.iter().any(|row| row["owner"]["name"] == "migrate"), "{filtered:?}");
    assert!(filtered.iter().all(|row| row["status"] == "Completed"), "{filtered:?}");
    delete_namespace(&plane.client(), "bb-status").await;
}
