//! Diagnosis of broken workloads on a real node: each is found by its one rule, and a healthy one has no finding. Skipped
//! with a message if the machine cannot run a node.

use std::{env, fs, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use pilothouse_testbed::{
    BrokenWorkload, ControlPlane, DenyingWebhook, FaultyRegistry, Node, NodeProgram, Signal, workloads,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, Server, apply, create_namespace, eventually, eventually_ok, register_cluster};

/// Time limit of the sign of a healthy workload, while all broken ones start.
const SIGN_TIMEOUT: Duration = Duration::from_secs(240);
/// Corpus of the version that the test bed runs.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus/diagnosis/1.37");
/// Lists of what a diagnosis examines.
const SOURCES: [(&str, &str); 12] = [
    ("Deployment", "apis/apps/v1/deployments"),
    ("ReplicaSet", "apis/apps/v1/replicasets"),
    ("StatefulSet", "apis/apps/v1/statefulsets"),
    ("Job", "apis/batch/v1/jobs"),
    ("Pod", "api/v1/pods"),
    ("Event", "api/v1/events"),
    ("PersistentVolumeClaim", "api/v1/persistentvolumeclaims"),
    ("Service", "api/v1/services"),
    ("EndpointSlice", "apis/discovery.k8s.io/v1/endpointslices"),
    ("Ingress", "apis/networking.k8s.io/v1/ingresses"),
    ("HorizontalPodAutoscaler", "apis/autoscaling/v2/horizontalpodautoscalers"),
    ("PodDisruptionBudget", "apis/policy/v1/poddisruptionbudgets"),
];

/// Broken workloads whose rule the cached rows show soon after their start.
const PROBLEMS: [&str; 14] = [
    "crash",
    "image_pull_bad_name",
    "image_pull_not_found",
    "init_crash",
    "init_oom",
    "job_backoff_limit",
    "limit_range",
    "liveness",
    "missing_configmap",
    "missing_key",
    "missing_secret",
    "oom",
    "quota",
    "start_error",
];

type Rules = Vec<(String, Option<String>)>;

/// A server with the control plane as a cluster.
struct Fixture {
    plane: ControlPlane,
    admin: Client,
    cluster: i64,
    _server: Server,
}

impl Fixture {
    async fn new(plane: ControlPlane) -> Self {
        let server = Server::fresh().await;
        let admin = server.admin().await;
        let cluster = register_cluster(&admin, "broken", &plane).await;
        Self { plane, admin, cluster, _server: server }
    }

    /// Polls the diagnosis of an object until it has exactly these rules.
    async fn expect(&self, query: &str, expected: &[(&str, Option<&str>)]) {
        let path = format!("/api/k8s/diagnose?cluster_id={}&{query}", self.cluster);
        eventually_ok(async || {
            let data = self.admin.get(&path).await.data();
            let found = rules(&data);
            let found = found.iter().map(|(rule, variant)| (&**rule, variant.as_deref()));
            let is_expected = found.eq(expected.iter().copied()) && data["unreadable"] == json!([]);
            if is_expected { Ok(()) } else { Err(format!("{query}: expected {expected:?}: {data:#}")) }
        })
        .await;
    }
}

fn rules(diagnosis: &Value) -> Rules {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let findings = diagnosis["findings"].as_array().unwrap().iter();
    findings.map(|finding| (text(&finding["rule"]).unwrap(), text(&finding["variant"]))).collect()
}

fn namespace(file: &BrokenWorkload) -> String {
    file.name.replace('_', "-")
}

#[tokio::test]
async fn each_broken_workload_is_found_by_its_one_rule() {
    let plane = ControlPlane::builder().start().await.unwrap();
    let Some(node) = plane.start_node_or_skip(0).await.unwrap() else { return };
    let registry = Arc::new(FaultyRegistry::start().await.unwrap());
    let files = BrokenWorkload::all().unwrap();
    let mut tasks = JoinSet::new();
    for file in files.clone() {
        let (client, registry) = (plane.client(), registry.clone());
        tasks.spawn(async move {
            let applied = file.apply(&client, &namespace(&file), &registry).await;
            applied.map_err(|error| format!("{}: {error}", file.name))
        });
    }
    let failed: Vec<_> = tasks.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");

    let fixture = Fixture::new(plane).await;
    for file in &files {
        let namespace = namespace(file);
        let (kind, name) = &file.object;
        let query = format!("namespace={namespace}&type={kind}&name={name}");
        if file.rule == "none" {
            file.wait_for_sign(&fixture.plane.client(), &namespace, SIGN_TIMEOUT).await.unwrap();
            fixture.expect(&query, &[]).await;
        } else {
            fixture.expect(&query, &[(&*file.rule, file.variant.as_deref())]).await;
        }
        if env::var_os("UPDATE").is_some() {
            record(&fixture.plane, file, &namespace).await;
        }
    }
    problems_have_the_same_rules(&fixture, &files).await;
    causes_of_the_cluster(&fixture, &node).await;
    fixture.plane.stop().await.unwrap();
}

/// The same causes are problems, found from the cached rows alone, and a workload that works is none.
async fn problems_have_the_same_rules(fixture: &Fixture, files: &[BrokenWorkload]) {
    for file in files.iter().filter(|file| PROBLEMS.contains(&file.name.as_str()) || file.rule == "none") {
        let (kind, name) = &file.object;
        // that a probe fails is only in events
        let rule = if file.rule == "liveness" { "crash" } else { file.rule.as_str() };
        let path = format!("/api/k8s/problems?cluster_id={}&namespace={}", fixture.cluster, namespace(file));
        eventually_ok(async || {
            let problems = fixture.admin.rows(&path, "problems").await;
            let is_expected = |problem: &Value| {
                let object = (&problem["kind"], &problem["name"]) == (&json!(kind), &json!(name));
                object && problem["rule"] == rule && problem["variant"] == json!(file.variant)
            };
            let is_found =
                if rule == "none" { problems.is_empty() } else { problems.iter().any(is_expected) };
            if is_found { Ok(()) } else { Err(format!("{}: {problems:#?}", file.name)) }
        })
        .await;
    }
}

/// Causes that need more than objects: taints, a webhook that denies, a start that was missed, a node that does not answer.
async fn causes_of_the_cluster(fixture: &Fixture, node: &Node) {
    let client = fixture.plane.client();
    create_namespace(&client, "denied").await;
    let _webhook = DenyingWebhook::start(&fixture.plane, "denied", "images are not signed").await.unwrap();
    apply(&client, &[workloads::deployment("denied", "web", 1)]).await;
    fixture.expect("namespace=denied&type=deployment&name=web", &[("webhook", None)]).await;

    create_namespace(&client, "tainted").await;
    node.taint("example.org/reserved", "true", "NoSchedule").await.unwrap();
    apply(&client, &[workloads::deployment("tainted", "web", 1)]).await;
    fixture.expect("namespace=tainted&type=deployment&name=web", &[("unschedulable", Some("taint"))]).await;
    node.remove_taint("example.org/reserved").await.unwrap();
    fixture.expect("namespace=tainted&type=deployment&name=web", &[]).await;

    // its last start is years ago, and the deadline of the next ones has passed
    create_namespace(&client, "missed").await;
    let mut report = workloads::cron_job("missed", "report");
    report["spec"]["schedule"] = json!("0 0 1 1 *");
    report["spec"]["startingDeadlineSeconds"] = json!(10);
    apply(&client, &[report]).await;
    let path = "/apis/batch/v1/namespaces/missed/cronjobs/report/status";
    let started = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    client.patch(path, &started).await.unwrap();
    fixture.expect("namespace=missed&type=cronjob&name=report", &[("cron", Some("missed"))]).await;
    let path = format!("/api/k8s/problems?cluster_id={}&namespace=missed&rule=cron", fixture.cluster);
    eventually("the missed start is a problem", async || {
        let problems = fixture.admin.rows(&path, "problems").await;
        problems.iter().any(|problem| problem["name"] == "report").then_some(())
    })
    .await;

    fixture.expect(&format!("type=node&name={}", node.name()), &[]).await;
    node.signal(NodeProgram::Kubelet, Signal::Stop).unwrap();
    let lost = [("node", Some("not_ready"))];
    fixture.expect(&format!("type=node&name={}", node.name()), &lost).await;
    fixture.expect("namespace=tainted&type=deployment&name=web", &lost).await;
    node.signal(NodeProgram::Kubelet, Signal::Cont).unwrap();
}

/// Writes the objects of a broken workload as a case of the corpus. With the environment variable `UPDATE`, when the test
/// bed gets another version of Kubernetes.
async fn record(plane: &ControlPlane, file: &BrokenWorkload, namespace: &str) {
    let client = plane.client();
    let mut objects = Vec::new();
    for (kind, source) in SOURCES {
        let (version, resource) = source.rsplit_once('/').unwrap();
        let list = client.get(&format!("/{version}/namespaces/{namespace}/{resource}")).await.unwrap();
        for object in list["items"].as_array().unwrap() {
            let mut object = object.clone();
            object["kind"] = json!(kind);
            object["metadata"]["namespace"] = json!("shop");
            object["metadata"].as_object_mut().unwrap().remove("managedFields");
            objects.push(object);
        }
    }
    for node in client.get("/api/v1/nodes").await.unwrap()["items"].as_array().unwrap() {
        let status = &node["status"];
        objects.push(json!({
            "kind": "Node",
            "metadata": {"name": node["metadata"]["name"], "uid": node["metadata"]["uid"]},
            "status": {"conditions": status["conditions"], "allocatable": status["allocatable"]},
        }));
    }
    let (kind, name) = &file.object;
    let findings =
        if file.rule == "none" { json!([]) } else { json!([{"rule": file.rule, "variant": file.variant}]) };
    let case = json!({
        "marked": "seen",
        "source": format!("tests/fixtures/broken/{}.yaml on the test bed", file.name),
        "diagnosed": {"kind": kind, "name": name},
        "now": Timestamp::now().to_string(),
        "findings": findings,
        "objects": objects,
    });
    let path = Path::new(CORPUS).join(format!("{}.json", file.name));
    fs::write(path, format!("{case:#}\n")).unwrap();
}
