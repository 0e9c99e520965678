//! Logs of workloads with running pods. Skipped with a message if the machine cannot run a node.

use std::collections::{BTreeMap, BTreeSet};

use pilothouse_testbed::{ControlPlane, kubectl, workloads};
use serde_json::{Value, json};

use crate::{
    logs::running_on,
    support::{Client, Event, Events, Install, apply, delete_namespace, eventually, register_cluster},
};

/// Number of pods, and of the lines of each.
const PODS: usize = 3;
const LINES: usize = 200;

/// Shell command: prints [`LINES`] numbered lines, then nothing until it is stopped.
const COUNT: &str = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo \"line $i\"; done; trap 'exit 0' TERM; sleep 3600 & wait $!";

/// A deployment whose pods print the lines.
fn deployment(namespace: &str) -> Value {
    let mut deployment = workloads::deployment(namespace, "web", PODS as u32);
    deployment["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sh", "-c", COUNT]);
    deployment
}

/// The names of the pods whose logs are complete, once there are this many.
async fn complete_pods(plane: &ControlPlane, admin: &Client, cluster: i64, namespace: &str) -> Vec<String> {
    let list = format!(
        "/api/k8s/pods?cluster_id={cluster}&namespace={namespace}&workload=deployment/web&status=Running&per_page=500"
    );
    eventually("the logs of all pods are complete", async || {
        let mut complete = Vec::new();
        for row in admin.rows(&list, "pods").await {
            let name = row["name"].as_str()?.to_owned();
            let log = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
            let log = plane.client().text(&log).await.ok()?;
            if log.lines().count() == LINES {
                complete.push(name);
            }
        }
        (complete.len() == PODS).then_some(complete)
    })
    .await
}

/// The lines of each pod with their times, as kubectl prints the logs of all pods of the deployment.
async fn lines_of_kubectl(plane: &ControlPlane, namespace: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let arguments = [
        "logs",
        "deployment/web",
        "--all-pods",
        "--prefix",
        "--timestamps",
        "--tail=-1",
        "--namespace",
        namespace,
    ];
    let mut lines = BTreeMap::<_, Vec<_>>::new();
    for line in kubectl(plane, &arguments).await.unwrap().lines() {
        // [pod/web-6f7c9d-x2x4v/web] 2026-01-02T03:04:05.123456789Z line 1
        let (prefix, line) = line.split_once("] ").expect("a prefix");
        let pod = prefix.split('/').nth(1).expect("a pod").to_owned();
        let (time, text) = line.split_once(' ').expect("a time before the line");
        lines.entry(pod).or_default().push((time.to_owned(), text.to_owned()));
    }
    lines
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).expect("JSON")
}

/// The next event of this name.
async fn next(events: &mut Events, name: &str) -> Event {
    loop {
        let event = events.next().await.expect("an event");
        if event.event == name {
            return event;
        }
        assert_ne!(event.event, "end", "{event:?}");
    }
}

/// The next lines, by cluster and pod, with their times; and the last id.
async fn lines(
    events: &mut Events,
    count: usize,
) -> (BTreeMap<(i64, String), Vec<(String, String)>>, String) {
    let (mut lines, mut id) = (BTreeMap::<_, Vec<_>>::new(), String::new());
    for _ in 0..count {
        let event = next(events, "log").await;
        let data = data(&event);
        let text = |field: &str| data[field].as_str().expect("a text").to_owned();
        let source = (data["cluster_id"].as_i64().expect("an id"), text("pod"));
        lines.entry(source).or_default().push((text("time"), text("line")));
        if !event.id.is_empty() {
            id = event.id;
        }
    }
    (lines, id)
}

#[tokio::test]
async fn logs_of_all_pods_in_two_clusters_are_merged_completely() {
    const NAMESPACE: &str = "bb-merged";
    let Some((plane, _server, admin, id)) = running_on(Install::new(), NAMESPACE).await else { return };
    // the same cluster under another name
    let other = register_cluster(&admin, "bb-merged-twice", plane).await;
    apply(&plane.client(), &[deployment(NAMESPACE)]).await;
    let pods = complete_pods(plane, &admin, id, NAMESPACE).await;
    let path = |clusters: &str, more: &str| {
        format!(
            "/api/k8s/workloads/logs/stream?cluster_id={clusters}&namespace={NAMESPACE}&type=deployment&name=web{more}"
        )
    };
    let both = format!("{id},{other}");
    let mut events = admin.follow(&path(&both, "&tail_lines=10000"), None).await;
    let (merged, last) = lines(&mut events, 2 * PODS * LINES).await;
    assert_eq!(merged.len(), 2 * PODS);
    let of_kubectl = lines_of_kubectl(plane, NAMESPACE).await;
    assert_eq!(of_kubectl.keys().collect::<BTreeSet<_>>(), pods.iter().collect());
    // the node writes times with trailing zeros
    let is_same = |(one, other): (&(String, String), &(String, String))| {
        one.0.trim_end_matches(['0', 'Z']) == other.0.trim_end_matches(['0', 'Z']) && one.1 == other.1
    };
    for (pod, expected) in &of_kubectl {
        for cluster in [id, other] {
            let received = &merged[&(cluster, pod.clone())];
            assert_eq!(received.len(), expected.len(), "{pod}");
            assert!(received.iter().zip(expected).all(is_same), "{pod}: {received:?}");
        }
    }

    let matching = path(&id.to_string(), "&tail_lines=10000&re=^line%207$");
    let (found, _) = lines(&mut admin.follow(&matching, None).await, PODS).await;
    assert!(found.values().all(|lines| lines.len() == 1 && lines[0].1 == "line 7"), "{found:?}");
    assert_eq!(found.len(), PODS);
    let newest = path(&id.to_string(), "&tail_lines=2&q=LINE%20200");
    let (found, _) = lines(&mut admin.follow(&newest, None).await, PODS).await;
    assert!(found.values().all(|lines| lines.len() == 1 && lines[0].1 == "line 200"), "{found:?}");

    // after the id of the last line, only lines of the last seconds come again
    assert!(!last.is_empty(), "no line has an id");
    let mut resumed = admin.follow(&path(&both, "&tail_lines=1"), Some(&last)).await;
    for _ in 0..2 * PODS {
        assert_eq!(data(&next(&mut resumed, "source").await)["state"], "following");
    }
    delete_namespace(&plane.client(), NAMESPACE).await;
}

#[tokio::test]
async fn replaced_pod_is_followed_and_its_log_can_be_downloaded() {
    const NAMESPACE: &str = "bb-replaced";
    let Some((plane, _server, admin, id)) = running_on(Install::new(), NAMESPACE).await else { return };
    apply(&plane.client(), &[deployment(NAMESPACE)]).await;
    let pods = complete_pods(plane, &admin, id, NAMESPACE).await;
    let path = format!(
        "/api/k8s/workloads/logs/stream?cluster_id={id}&namespace={NAMESPACE}&type=deployment&name=web"
    );
    let mut events = admin.follow(&path, None).await;
    for _ in 0..PODS {
        assert_eq!(data(&next(&mut events, "source").await)["state"], "following");
    }
    let deleted = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pods[0]);
    plane.client().delete(&deleted).await.unwrap();
    let (mut has_ended, mut replacement, mut number) = (false, None, 0);
    while !has_ended || number < LINES {
        let event = events.next().await.expect("an event");
        let data = data(&event);
        let pod = data["pod"].as_str().expect("a pod").to_owned();
        match (event.event.as_str(), data["state"].as_str()) {
            ("source", Some("ended")) if pod == pods[0] => has_ended = true,
            ("source", Some("following")) if !pods.contains(&pod) => replacement = Some(pod),
            ("log", _) if replacement.as_ref() == Some(&pod) => {
                number += 1;
                assert_eq!(data["line"], format!("line {number}"), "from the first line on");
            }
            ("source" | "log", _) => {}
            _ => panic!("{event:?}"),
        }
    }
    let replacement = replacement.expect("a new pod");

    let download =
        format!("/api/k8s/pods/logs/download?cluster_id={id}&namespace={NAMESPACE}&pod_name={replacement}");
    let expected =
        plane.client().text(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{replacement}/log")).await;
    assert_eq!(admin.get(&download).await.text, expected.unwrap());
    admin.get(download.replace(&replacement, "absent")).await.refused("RESOURCE_NOT_FOUND");
    delete_namespace(&plane.client(), NAMESPACE).await;
}
