//! Rollouts of real workloads, compared with kubectl: history, undo, status, and changes of several clients at once.

use std::collections::BTreeMap;

use pilothouse_testbed::{Admin, ControlPlane, kubectl, shared, shared_has_node, workloads};
use serde_json::{Value, json};

use crate::support::{
    Client, Server, apply, create_namespace, delete_namespace, eventually, eventually_ok, register_cluster,
    strings,
};

/// The types with rollouts, as kubectl names them too.
const TYPES: [&str; 3] = ["deployment", "statefulset", "daemonset"];
/// The annotations that a rollout changes.
const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

/// A namespace of a cluster, and a client of Pilothouse.
struct Fixture {
    plane: &'static ControlPlane,
    kube: Admin,
    _server: Server,
    client: Client,
    cluster: i64,
    namespace: &'static str,
}

impl Fixture {
    async fn new(namespace: &'static str) -> Self {
        let plane = shared().await.unwrap();
        let kube = plane.client();
        create_namespace(&kube, namespace).await;
        let server = Server::fresh().await;
        let client = server.admin().await;
        let cluster = register_cluster(&client, namespace, plane).await;
        Self { plane, kube, _server: server, client, cluster, namespace }
    }

    /// Creates a workload of each type, with its type as name, and of a deployment `other`.
    async fn create_workloads(&self) {
        let one = |name: &str| workloads::deployment(self.namespace, name, 1);
        let objects = [
            one("deployment"),
            one("other"),
            workloads::stateful_set(self.namespace, "statefulset", 1),
            workloads::daemon_set(self.namespace, "daemonset"),
        ];
        apply(&self.kube, &objects).await;
        for (r#type, name) in TYPES.map(|name| (name, name)).into_iter().chain([("deployment", "other")]) {
            self.until_revision(r#type, name, 1).await;
        }
    }

    fn query(&self, r#type: &str, name: &str) -> String {
        format!("cluster_id={}&namespace={}&type={type}&name={name}", self.cluster, self.namespace)
    }

    async fn history(&self, r#type: &str, name: &str) -> Vec<Value> {
        let path = format!("/api/k8s/workloads/history?{}", self.query(r#type, name));
        self.client.rows(path, "revisions").await
    }

    /// Waits until the newest revision, of this number, is current. Returns the history.
    async fn until_revision(&self, r#type: &str, name: &str, number: i64) -> Vec<Value> {
        eventually(&format!("revision {number} of {type} {name}"), async || {
            let history = self.history(r#type, name).await;
            let newest = history.first()?;
            (newest["revision"] == number && newest["current"] == true).then(|| history.clone())
        })
        .await
    }

    async fn change(&self, path: &str, r#type: &str, name: &str, more: Value) -> Value {
        let mut body = json!({
            "cluster_id": self.cluster, "namespace": self.namespace, "type": r#type, "name": name,
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.client.post(&format!("/api/k8s/workloads/{path}"), body).await.data()
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(self.plane, &[arguments, &["--namespace", self.namespace]].concat()).await.unwrap()
    }

    fn path(&self, r#type: &str, name: &str) -> String {
        format!("/apis/apps/v1/namespaces/{}/{type}s/{name}", self.namespace)
    }

    async fn object(&self, r#type: &str, name: &str) -> Value {
        self.kube.get(&self.path(r#type, name)).await.unwrap()
    }

    async fn rollout(&self, r#type: &str, name: &str) -> Value {
        self.client.get(format!("/api/k8s/workloads/rollout?{}", self.query(r#type, name))).await.data()
    }

    async fn end(self) {
        delete_namespace(&self.kube, self.namespace).await;
    }
}

/// The revisions in the output of `kubectl rollout history`: number and change cause.
fn printed_history(output: &str) -> BTreeMap<i64, Option<String>> {
    let row = |line: &str| {
        let (number, cause) = line.split_once(char::is_whitespace)?;
        let cause = Some(cause.trim().to_owned()).filter(|cause| cause != "<none>");
        Some((number.parse().ok()?, cause))
    };
    output.lines().filter_map(row).collect()
}

/// The image of the only container of a workload or revision.
fn image(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]["containers"][0]["image"]
}

#[tokio::test]
async fn history_and_its_revisions_are_those_of_kubectl() {
    let fixture = Fixture::new("bb-history").await;
    fixture.create_workloads().await;
    for r#type in TYPES {
        for (n, tag) in [(2, "two"), (3, "three")] {
            let images =
                json!({"images": {r#type: format!("made:{tag}")}, "reason": format!("release {tag}")});
            let changed = fixture.change("set-image", r#type, r#type, images).await;
            assert_eq!(changed["workload"]["images"], json!([format!("made:{tag}")]));
            fixture.until_revision(r#type, r#type, n).await;
        }
        let history = fixture.history(r#type, r#type).await;
        let ours: BTreeMap<_, _> = history
            .iter()
            .map(|row| (row["revision"].as_i64().unwrap(), row["change_cause"].as_str().map(str::to_owned)))
            .collect();
        let target = format!("{type}/{type}");
        let theirs = printed_history(&fixture.kubectl(&["rollout", "history", &target]).await);
        assert_eq!(ours, theirs, "{type}");
        assert_eq!(ours.len(), 3);
        for row in &history {
            let number = format!("--revision={}", row["revision"]);
            let revision = fixture.kubectl(&["rollout", "history", &target, &number, "--output=json"]).await;
            let revision: Value = serde_json::from_str(&revision).unwrap();
            assert_eq!(row["images"], json!([image(&revision)]), "{type} {number}");
        }
        let newest = &history[0];
        assert_eq!(
            (&newest["by"]["operation_type"], &newest["by"]["reason"]),
            (&json!("set_image"), &json!("release three"))
        );
        assert_eq!(history[2]["by"], Value::Null, "the first revision is not ours");

        let path = format!("/api/k8s/workloads/history/diff?{}&from=1&to=3", fixture.query(r#type, r#type));
        let changes = fixture.client.rows(path, "changes").await;
        let expected = json!({"path": "/spec/template/spec/containers/0/image", "from": workloads::IMAGE, "to": "made:three"});
        assert_eq!(changes, [expected], "{type}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn undo_has_the_effect_of_kubectl_and_keeps_all_annotations() {
    let fixture = Fixture::new("bb-undo").await;
    fixture.create_workloads().await;
    // each workload is undone by Pilothouse, its twin by kubectl
    for r#type in TYPES {
        let twin = format!("{type}-twin");
        let mut object = match r#type {
            "deployment" => workloads::deployment(fixture.namespace, &twin, 1),
            "statefulset" => workloads::stateful_set(fixture.namespace, &twin, 1),
            _ => workloads::daemon_set(fixture.namespace, &twin),
        };
        object["spec"]["template"]["spec"]["containers"][0]["name"] = json!(r#type);
        apply(&fixture.kube, &[object]).await;
        fixture.until_revision(r#type, &twin, 1).await;
        let note = json!({"metadata": {"annotations": {"team": "shop"}}});
        fixture.kube.patch(&fixture.path(r#type, r#type), &note).await.unwrap();
        for name in [r#type, &twin] {
            let target = format!("{type}/{name}");
            for (n, tag) in [(2, "two"), (3, "three")] {
                let image = format!("{type}=made:{tag}");
                fixture.kubectl(&["set", "image", &target, &image]).await;
                fixture.until_revision(r#type, name, n).await;
            }
        }
        let mut before = fixture.object(r#type, r#type).await;
        for (n, to) in [(4, None), (5, Some(1))] {
            let mut kubectl = vec!["rollout".to_owned(), "undo".to_owned(), format!("{type}/{twin}")];
            kubectl.extend(to.map(|number| format!("--to-revision={number}")));
            fixture.kubectl(&kubectl.iter().map(String::as_str).collect::<Vec<_>>()).await;
            let ours = fixture.change("undo", r#type, r#type, json!({"to_revision": to})).await;
            assert_eq!(ours.get("warnings"), None);
            let (own, theirs) = (fixture.object(r#type, r#type).await, fixture.object(r#type, &twin).await);
            assert_eq!(image(&own), image(&theirs), "{type} to {to:?}");
            for name in [r#type, &twin] {
                fixture.until_revision(r#type, name, n).await;
            }
        }
        let mut after = fixture.object(r#type, r#type).await;
        assert_eq!(image(&after), workloads::IMAGE);
        let cause = after["metadata"]["annotations"][CHANGE_CAUSE].as_str().unwrap();
        assert!(cause.starts_with("pilothouse undo to 1, operation "), "{cause}");
        for object in [&mut before, &mut after] {
            let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
            annotations
                .retain(|name, _| name != CHANGE_CAUSE && name != REVISION && !name.contains("generation"));
            object["spec"]["template"].take();
        }
        assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"], "{type}");
        assert_eq!(after["spec"], before["spec"], "{type}");
    }
    let unchanged = fixture.change("undo", "deployment", "deployment", json!({"to_revision": 5})).await;
    assert_eq!(strings(&unchanged["warnings"]).len(), 1, "{unchanged}");
    fixture.end().await;
}

#[tokio::test]
async fn state_agrees_with_kubectl_rollout_status() {
    let fixture = Fixture::new("bb-status").await;
    fixture.create_workloads().await;
    let status = async |name: &str| {
        fixture.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--watch=false"]).await
    };
    fixture.change("pause", "deployment", "other", json!({})).await;
    let paused = fixture.rollout("deployment", "other").await;
    assert_eq!((&paused["state"], &paused["wanted"]), (&json!("paused"), &json!(1)));
    let again = fixture.change("pause", "deployment", "other", json!({})).await;
    assert_eq!(strings(&again["warnings"]).len(), 1, "{again}");
    let body = json!({"cluster_id": fixture.cluster, "namespace": "bb-status", "type": "deployment", "name": "other"});
    let refused = fixture.client.post("/api/k8s/workloads/undo", body).await.refused("CONFLICT_ERROR");
    assert_eq!(refused["context"]["cause"], "rollout_paused");
    fixture.change("resume", "deployment", "other", json!({})).await;

    let scale = json!({"replicas": 0});
    fixture.change("scale", "deployment", "deployment", scale).await;
    eventually_ok(async || {
        let (printed, ours) = (status("deployment").await, fixture.rollout("deployment", "deployment").await);
        let both = (printed.contains("successfully rolled out"), ours["state"] == "complete");
        if both == (true, true) { Ok(()) } else { Err(format!("{printed}, but {ours}")) }
    })
    .await;
    if shared_has_node().await.unwrap() {
        for (r#type, name) in
            [("deployment", "other"), ("statefulset", "statefulset"), ("daemonset", "daemonset")]
        {
            let target = format!("{type}/{name}");
            eventually_ok(async || {
                let printed = fixture.kubectl(&["rollout", "status", &target, "--watch=false"]).await;
                let is_complete = ["successfully rolled out", "rolling update complete", "roll out complete"];
                let theirs = is_complete.iter().any(|text| printed.contains(text));
                let ours = fixture.rollout(r#type, name).await;
                if theirs && ours["state"] == "complete" {
                    Ok(())
                } else {
                    Err(format!("{printed}, but {ours}"))
                }
            })
            .await;
        }
    }
    fixture.end().await;
}

/// Day2.md, finding 18: Kubernetes calls a rollout complete once its pods were available for a moment.
#[tokio::test]
async fn rolled_out_deployment_whose_pods_crash_is_stuck() {
    if !shared_has_node().await.unwrap() {
        return;
    }
    let fixture = Fixture::new("bb-crashing").await;
    let mut crashing = workloads::deployment(fixture.namespace, "web", 1);
    crashing["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", "sleep 2; echo cannot reach the database; exit 3"]);
    apply(&fixture.kube, &[crashing]).await;
    let stuck = eventually("the rollout is stuck", async || {
        let rollout = fixture.rollout("deployment", "web").await;
        (rollout["state"] == "stuck").then_some(rollout)
    })
    .await;
    let rules: Vec<_> = stuck["reasons"].as_array().unwrap().iter().map(|reason| &reason["rule"]).collect();
    assert_eq!(rules, ["crash"], "{stuck}");
    let conditions = fixture.object("deployment", "web").await["status"]["conditions"].take();
    let progressing = conditions.as_array().unwrap().iter().find(|one| one["type"] == "Progressing").unwrap();
    assert_eq!(progressing["reason"], "NewReplicaSetAvailable", "{conditions}");
    let path = format!("/api/k8s/workloads/rollout/watch?{}", fixture.query("deployment", "web"));
    fixture.client.get_until(&path, "\"state\":\"stuck\"").await;
    fixture.end().await;
}

/// Day2.md, finding 14: a patch is applied to what was read, or not at all.
#[tokio::test]
async fn concurrent_changes_of_other_clients_are_never_lost() {
    let fixture = Fixture::new("bb-race").await;
    fixture.create_workloads().await;
    let body = |image: &str| {
        json!({"cluster_id": fixture.cluster, "namespace": "bb-race", "type": "deployment", "name": "deployment",
            "images": {"deployment": image}})
    };
    let path = fixture.path("deployment", "deployment");
    let (mut applied, mut refused) = (0, 0);
    for n in 0..40 {
        let image = format!("made:{n}");
        let ours = fixture.client.post("/api/k8s/workloads/set-image", body(&image));
        let patch = json!({"spec": {"minReadySeconds": n + 1}});
        let (ours, theirs) = tokio::join!(ours, fixture.kube.patch(&path, &patch));
        theirs.unwrap();
        let object = fixture.object("deployment", "deployment").await;
        assert_eq!(object["spec"]["minReadySeconds"], n + 1, "the other client's change is lost");
        let set = self::image(&object) == image.as_str();
        match ours.status {
            200 => applied += 1,
            409 => refused += 1,
            _ => panic!("{ours}"),
        }
        assert_eq!(set, ours.status == 200, "{ours}");
        if ours.status == 409 {
            assert_eq!(ours.body["context"]["cause"], "modified");
        }
    }
    assert_eq!(applied + refused, 40);
    fixture.end().await;
}
