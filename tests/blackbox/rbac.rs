//! The credentials of docs/rbac, applied to a real control plane: the permissions of each, and the responses to
//! requests that they do not permit.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use pilothouse_core::{inventory::LISTS, rows::ListScope};
use pilothouse_testbed::{ControlPlane, path_of, shared, shared_has_node, workloads};
use serde_json::{Value, json};

use crate::support::{Client, Server, apply, create_namespace, delete_namespace, eventually, warnings};

const VIEW_MANIFEST: &str = include_str!("../../docs/rbac/view.yaml");
const OPERATE_MANIFEST: &str = include_str!("../../docs/rbac/operate.yaml");
const FULL_MANIFEST: &str = include_str!("../../docs/rbac/full.yaml");
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
const REVISION_TIMEOUT: Duration = Duration::from_secs(30);

/// Applies a manifest. Returns the token in its last object, a Secret that the cluster fills.
async fn token(plane: &ControlPlane, manifest: &str) -> String {
    let objects: Vec<Value> =
        manifest.split("\n---\n").map(|part| serde_saphyr::from_str(part).unwrap()).collect();
    let admin = plane.client();
    apply(&admin, &objects).await;
    let path = path_of(objects.last().unwrap());
    let filled = |secret: &Value| secret["data"]["token"].is_string();
    let secret = admin.wait_until(&path, filled, TOKEN_TIMEOUT).await.unwrap();
    String::from_utf8(BASE64.decode(secret["data"]["token"].as_str().unwrap()).unwrap()).unwrap()
}

/// A server, its admin, and the connection settings with this token.
async fn fixture(plane: &ControlPlane, token: &str) -> (Server, Client, Value) {
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let configuration = json!({
        "auth_type": "token", "api_server": plane.server(), "token": token, "ca_certificate": plane.ca_pem(),
    });
    (server, admin, configuration)
}

async fn register(admin: &Client, name: &str, mut configuration: Value) -> i64 {
    configuration["name"] = json!(name);
    admin.post("/api/k8s/clusters", configuration).await.data()["cluster"]["id"].as_i64().unwrap()
}

/// Creates objects to read and change, in a namespace of the test's own.
async fn seed(plane: &ControlPlane, name: &str) {
    let admin = plane.client();
    create_namespace(&admin, name).await;
    let of = |version: &str, kind: &str, object: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": object, "namespace": name}});
    let mut service = of("v1", "Service", "web");
    service["spec"] = json!({"ports": [{"port": 80}], "selector": {"app": "web"}});
    let mut secret = of("v1", "Secret", "login");
    secret["stringData"] = json!({"key": "value"});
    let (web, mut held) = (workloads::deployment(name, "web", 1), workloads::deployment(name, "held", 1));
    held["spec"]["paused"] = json!(true);
    let mut held_report = workloads::cron_job(name, "held");
    held_report["spec"]["suspend"] = json!(true);
    apply(
        &admin,
        &[
            web.clone(),
            held,
            workloads::stateful_set(name, "db", 1),
            workloads::daemon_set(name, "agent"),
            workloads::job(name, "migrate"),
            workloads::cron_job(name, "report"),
            held_report,
            workloads::pod(name, "talker"),
            workloads::pod(name, "leaver"),
            // of no workload that is scaled here
            workloads::autoscaler(name, "limits", "absent"),
            workloads::config_map(name, "settings"),
            service,
            secret,
        ],
    )
    .await;
    // a second revision of the deployment
    let revisions = format!("/apis/apps/v1/namespaces/{name}/replicasets?labelSelector=app%3Dweb");
    let has = |n: usize| move |list: &Value| list["items"].as_array().is_some_and(|items| items.len() == n);
    admin.wait_until(&revisions, has(1), REVISION_TIMEOUT).await.unwrap();
    let annotated = json!({"spec": {"template": {"metadata": {"annotations": {"revision": "second"}}}}});
    admin.patch(&path_of(&web), &annotated).await.unwrap();
    admin.wait_until(&revisions, has(2), REVISION_TIMEOUT).await.unwrap();
}

/// The paths of all lists and single reads of a cluster, except Secrets.
fn reads(id: i64, namespace: &str) -> Vec<String> {
    let lists =
        LISTS.iter().filter(|list| list.scope != ListScope::Local && list.key != "secrets").map(|list| {
            let scope = match list.scope {
                ListScope::Namespaced if list.owner.is_some() => format!("&namespace={namespace}&name=web"),
                ListScope::Namespaced => "&namespace=*".to_owned(),
                _ => String::new(),
            };
            format!("{}?cluster_id={id}{scope}", list.path)
        });
    let types = ["deployment/web", "statefulset/db", "daemonset/agent", "job/migrate", "cronjob/report"];
    let detail = types.iter().filter_map(|workload| workload.split_once('/')).map(|(kind, name)| {
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace={namespace}&type={kind}&name={name}")
    });
    let web = format!("cluster_id={id}&namespace={namespace}&type=deployment&name=web");
    let rollouts = ["history?", "history/diff?from=1&to=2&", "rollout?"]
        .map(|path| format!("/api/k8s/workloads/{path}{web}"));
    let of_types =
        ["job", "cronjob"].map(|kind| format!("/api/k8s/workloads?cluster_id={id}&namespace=*&type={kind}"));
    let diagnosed = ["pod/talker", "deployment/web", "cronjob/report", "service/web"]
        .iter()
        .filter_map(|object| object.split_once('/'))
        .map(|(kind, name)| {
            format!("/api/k8s/diagnose?cluster_id={id}&namespace={namespace}&type={kind}&name={name}")
        });
    let rest = [
        format!("/api/k8s/compare?cluster_id={id}&namespace={namespace}&type=deployment&name=web"),
        format!("/api/k8s/metrics/series?cluster_id={id}&kind=pod&namespace={namespace}&name=talker"),
        format!("/api/k8s/kinds?cluster_id={id}"),
        format!("/api/k8s/objects?cluster_id={id}&resource=configmaps&namespace={namespace}"),
        format!("/api/k8s/objects/detail?cluster_id={id}&resource=pods&namespace={namespace}&name=talker"),
        format!("/api/k8s/configmaps/detail?cluster_id={id}&namespace={namespace}&name=settings"),
        format!("/api/k8s/clusters/status?id={id}"),
        "/api/k8s/search?kind=pods&q=web".to_owned(),
        "/api/k8s/overview".to_owned(),
        "/api/k8s/problems".to_owned(),
    ];
    lists.chain(detail).chain(rollouts).chain(of_types).chain(diagnosed).chain(rest).collect()
}

/// Warnings that these changes have with every credential: `jobs/rerun` while the job runs, `pods/resize` always.
const WARNED: [&str; 2] = ["jobs/rerun", "pods/resize"];

/// All changes, in an executable order, each with the verb and resource of the first missing permission. The uid of a pod is
/// set later. No node of the shared cluster is cordoned.
fn changes(namespace: &str) -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let new = format!("{namespace}-new");
    let of = |more: Value| {
        let mut body = json!({"namespace": namespace});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    vec![
        ("namespaces", json!({"name": new}), "create", "namespace"),
        ("namespaces/delete", json!({"namespace": new}), "delete", "namespace"),
        (
            "workloads/scale",
            of(json!({"type": "deployment", "name": "web", "replicas": 2})),
            "patch",
            "deployment",
        ),
        (
            "workloads/scale",
            of(json!({"type": "statefulset", "name": "db", "replicas": 2})),
            "patch",
            "statefulset",
        ),
        ("workloads/restart", of(json!({"type": "deployment", "name": "web"})), "patch", "deployment"),
        ("workloads/restart", of(json!({"type": "statefulset", "name": "db"})), "patch", "statefulset"),
        ("workloads/restart", of(json!({"type": "daemonset", "name": "agent"})), "patch", "daemonset"),
        ("cronjobs/suspend", of(json!({"name": "report"})), "patch", "cronjob"),
        ("cronjobs/resume", of(json!({"name": "held"})), "patch", "cronjob"),
        ("cronjobs/run", of(json!({"name": "report"})), "create", "job"),
        ("jobs/rerun", of(json!({"name": "migrate"})), "create", "job"),
        ("jobs/suspend", of(json!({"name": "migrate"})), "patch", "job"),
        (
            "autoscalers/update",
            of(json!({"name": "limits", "min": 2, "max": 4})),
            "get",
            "horizontalpodautoscaler",
        ),
        ("nodes/cordon", json!({"name": "absent"}), "patch", "node"),
        ("nodes/uncordon", json!({"name": "absent"}), "patch", "node"),
        (
            "pods/resize",
            of(json!({"pod_name": "talker", "container": "talker", "requests": {"cpu": "20m"}})),
            "patch",
            "pods/resize",
        ),
        ("pods/evict", of(json!({"pod_name": "leaver"})), "create", "pods/eviction"),
        ("pods/delete", of(json!({"pod_name": "talker"})), "delete", "pod"),
        (
            "workloads/undo",
            of(json!({"type": "deployment", "name": "web", "to_revision": 1})),
            "patch",
            "deployment",
        ),
        ("workloads/pause", of(json!({"type": "deployment", "name": "web"})), "patch", "deployment"),
        ("workloads/resume", of(json!({"type": "deployment", "name": "held"})), "patch", "deployment"),
        (
            "workloads/set-image",
            of(json!({"type": "statefulset", "name": "db", "images": {"db": "other:1"}})),
            "patch",
            "statefulset",
        ),
        (
            "workloads/set-image",
            of(json!({"type": "daemonset", "name": "agent", "images": {"agent": "other:1"}})),
            "patch",
            "daemonset",
        ),
        ("configmaps", of(json!({"name": "new", "data": {"k": "v"}})), "create", "configmap"),
        ("configmaps/update", of(json!({"name": "settings", "data": {"k": "v"}})), "patch", "configmap"),
        ("configmaps/delete", of(json!({"name": "settings"})), "delete", "configmap"),
        ("secrets", of(json!({"name": "new", "data": {"k": "v"}})), "create", "secret"),
        ("secrets/reveal", of(json!({"name": "login"})), "get", "secret"),
        ("secrets/update", of(json!({"name": "login", "data": {"key": null, "l": "v"}})), "get", "secret"),
        ("secrets/delete", of(json!({"name": "login"})), "delete", "secret"),
    ]
}

/// Sets the cluster of a change, and the uid of its pod.
async fn complete(plane: &ControlPlane, body: &mut Value, id: i64) {
    body["cluster_id"] = json!(id);
    if let (Some(namespace), Some(pod)) = (body["namespace"].as_str(), body["pod_name"].as_str()) {
        let pod = plane.client().get(&format!("/api/v1/namespaces/{namespace}/pods/{pod}")).await.unwrap();
        body["uid"] = pod["metadata"]["uid"].clone();
    }
}

fn secrets(id: i64, namespace: &str) -> [(String, &'static str); 2] {
    let of = format!("cluster_id={id}&namespace={namespace}");
    [(format!("/api/k8s/secrets?{of}"), "list"), (format!("/api/k8s/secrets/detail?{of}&name=login"), "get")]
}

/// The allowed features of a connection test; and the others, with their missing permissions.
fn features(test: &Value) -> (Vec<&str>, Vec<(&str, &Value)>) {
    let (allowed, refused): (Vec<_>, Vec<_>) =
        test["permissions"].as_array().unwrap().iter().partition(|permission| permission["allowed"] == true);
    let missing = |permission: &&Value| permission["missing"] == json!([]);
    assert!(allowed.iter().all(missing) && !refused.iter().any(missing), "{test}");
    (
        allowed.iter().filter_map(|permission| permission["feature"].as_str()).collect(),
        refused
            .iter()
            .filter_map(|permission| Some((permission["feature"].as_str()?, &permission["missing"])))
            .collect(),
    )
}

/// Checks all reads except those of Secrets. A credential that may not list CustomResourceDefinitions gets a warning for the
/// kinds that the cluster serves.
async fn check_all_reads(admin: &Client, id: i64, namespace: &str, lists_definitions: bool) {
    for path in reads(id, namespace) {
        let data = admin.get(&path).await.data();
        let unknown_definitions = !lists_definitions && path.starts_with("/api/k8s/kinds?");
        let (found, expected) = (warnings(&data), usize::from(unknown_definitions));
        assert_eq!(found.len(), expected, "{path}: {data}");
        assert!(
            found.iter().all(|warning| warning.contains("customresourcedefinitions")),
            "{path}: {found:?}"
        );
        // without a node, no log can be read
        let unreadable = data["unreadable"].as_array().into_iter().flatten();
        assert_eq!(unreadable.filter(|source| **source != "logs").count(), 0, "{path}: {data}");
    }
    if shared_has_node().await.expect("a node, if one is required") {
        let logs = format!("/api/k8s/pods/logs?cluster_id={id}&namespace={namespace}&pod_name=talker");
        eventually("the pod has a log line", async || {
            let response = admin.get(&logs).await;
            assert_ne!(response.status, 403, "{response}");
            (response.status == 200 && response.body["data"]["logs"] != "").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn view_credential_reads_all_but_secrets_and_changes_nothing() {
    let plane = shared().await.unwrap();
    seed(plane, "rbac-view").await;
    let token = token(plane, VIEW_MANIFEST).await;
    let (_server, admin, configuration) = fixture(plane, &token).await;

    // the connection test reports the exact permissions before anything is stored
    let test = admin.post("/api/k8s/clusters/test", configuration.clone()).await.data();
    assert_eq!(test["identity"], "system:serviceaccount:pilothouse:pilothouse-view");
    let (allowed, refused) = features(&test);
    let permits = |feature: &str| {
        let verb = feature.split_once('_').map_or(feature, |(verb, _)| verb);
        let beyond = ["_secrets", "_objects", "_dependents"].iter().any(|end| feature.ends_with(end));
        ["list", "watch", "show", "read", "diagnose", "compare"].contains(&verb) && !beyond
    };
    assert!(allowed.iter().all(|feature| permits(feature)), "{allowed:?}");
    assert!(!refused.iter().any(|(feature, _)| permits(feature)), "{refused:?}");
    let missing = |wanted: &str| refused.iter().find(|(feature, _)| *feature == wanted).unwrap().1;
    assert_eq!(missing("list_secrets"), &json!(["list secrets"]));
    assert_eq!(missing("delete_namespaces"), &json!(["delete namespaces"]));
    assert_eq!(missing("list_objects"), &json!(["list *.*"]));
    assert!(admin.rows("/api/k8s/clusters", "clusters").await.is_empty(), "nothing is stored yet");

    let id = register(&admin, "view", configuration).await;
    check_all_reads(&admin, id, "rbac-view", false).await;
    for (path, verb) in secrets(id, "rbac-view") {
        let refused = admin.get(&path).await.refused("PERMISSION_DENIED");
        let context = &refused["context"];
        assert_eq!(
            [&context["cause"], &context["verb"], &context["resource"], &context["namespace"]],
            ["forbidden_by_cluster", verb, "secret", "rbac-view"],
            "{path}"
        );
    }
    for (path, mut body, verb, resource) in changes("rbac-view") {
        complete(plane, &mut body, id).await;
        let response = admin.post(&format!("/api/k8s/{path}"), body).await;
        if path.starts_with("nodes/") {
            // the credential may read nodes; there is none of this name
            response.refused("RESOURCE_NOT_FOUND");
            continue;
        }
        let refused = response.refused("PERMISSION_DENIED");
        let context = &refused["context"];
        assert_eq!(
            [&context["source"], &context["verb"], &context["resource"]],
            ["cluster", verb, resource],
            "{path}: {refused}"
        );
        if resource != "namespace" {
            assert_eq!(context["namespace"], "rbac-view", "{path}: {refused}");
        }
    }
    let rows = admin.operations(format!("cluster_id={id}&status=failed")).await;
    assert_eq!(rows.len(), changes("").len(), "each refusal is recorded: {rows:#?}");
    delete_namespace(&plane.client(), "rbac-view").await;
}

#[tokio::test]
async fn operate_credential_reads_and_changes_everything() {
    let plane = shared().await.unwrap();
    seed(plane, "rbac-operate").await;
    let token = token(plane, OPERATE_MANIFEST).await;
    let (_server, admin, configuration) = fixture(plane, &token).await;
    let test = admin.post("/api/k8s/clusters/test", configuration.clone()).await.data();
    let refused: Vec<_> = features(&test).1.into_iter().map(|(feature, _)| feature).collect();
    assert_eq!(refused, ["list_objects", "watch_objects", "show_objects", "show_dependents"]);

    let id = register(&admin, "operate", configuration).await;
    check_all_reads(&admin, id, "rbac-operate", false).await;
    for (path, _) in secrets(id, "rbac-operate") {
        admin.get(&path).await.data();
    }
    for (path, mut body, ..) in changes("rbac-operate") {
        complete(plane, &mut body, id).await;
        let response = admin.post(&format!("/api/k8s/{path}"), body).await;
        if path.starts_with("nodes/") {
            // the credential may read and change nodes; there is none of this name
            let refused = response.refused("RESOURCE_NOT_FOUND");
            assert_eq!(refused["context"]["cause"], "not_found_in_cluster", "{path}");
            continue;
        }
        let data = response.data();
        let warned = data.get("warnings").is_some_and(|warnings| *warnings != json!([]));
        assert!(!warned || WARNED.contains(&path), "{path}: {data}");
    }
    delete_namespace(&plane.client(), "rbac-operate").await;
}

/// The full credential allows every feature, and reads kinds of which Pilothouse has no list.
#[tokio::test]
async fn full_credential_allows_every_feature() {
    let plane = shared().await.unwrap();
    seed(plane, "rbac-full").await;
    let token = token(plane, FULL_MANIFEST).await;
    let (_server, admin, configuration) = fixture(plane, &token).await;
    let test = admin.post("/api/k8s/clusters/test", configuration.clone()).await.data();
    assert_eq!(features(&test).1, []);
    let id = register(&admin, "full", configuration).await;
    check_all_reads(&admin, id, "rbac-full", true).await;
    let accounts = "resource=serviceaccounts&namespace=rbac-full";
    let rows = admin.rows(format!("/api/k8s/objects?cluster_id={id}&{accounts}"), "objects").await;
    assert!(rows.iter().any(|row| row["name"] == "default"), "{rows:?}");
    let web = "resource=deployments.apps&namespace=rbac-full&name=web";
    let found = admin.get(format!("/api/k8s/dependents?cluster_id={id}&{web}")).await.data();
    let mut dependents = found["tree"].as_array().unwrap().iter();
    assert!(dependents.any(|row| row["kind"] == "ReplicaSet"), "{found}");
    assert_eq!(found["note"], Value::Null, "every kind is read: {found}");
    delete_namespace(&plane.client(), "rbac-full").await;
}

/// These tests cover all endpoints that send requests to a cluster.
#[test]
fn every_cluster_endpoint_is_tested_with_the_credentials() {
    // registry and trail are in Pilothouse's database; the streams and the download need the same permissions as the
    // log and the list; dependents are read of every kind, which only the full credential allows
    let is_exempt = |path: &str| {
        let registry = ["/api/k8s/clusters", "/api/k8s/clusters/update", "/api/k8s/clusters/delete"];
        let rest = [
            "/api/k8s/clusters/test",
            "/api/k8s/dependents",
            "/api/k8s/live",
            "/api/k8s/pods/logs",
            "/api/k8s/pods/logs/download",
            "/api/k8s/pods/logs/stream",
            "/api/k8s/watch",
            "/api/k8s/workloads/logs/stream",
            "/api/k8s/workloads/rollout/watch",
        ];
        registry.contains(&path) || rest.contains(&path) || path.starts_with("/api/k8s/audit/")
    };
    let mut tested: Vec<String> =
        reads(1, "a").into_iter().chain(secrets(1, "a").map(|(path, _)| path)).collect();
    tested.extend(changes("a").into_iter().map(|(path, ..)| format!("/api/k8s/{path}")));
    for (method, path) in pilothouse_http::endpoints() {
        let is_tested = tested.iter().any(|tested| tested.split('?').next() == Some(path));
        let towards_a_cluster = path.starts_with("/api/k8s/") && !is_exempt(path);
        assert!(
            is_tested || !towards_a_cluster,
            "{method} {path} is not tested with the credentials of docs/rbac"
        );
    }
}

#[tokio::test]
async fn namespace_credential_reads_only_its_namespace() {
    let plane = shared().await.unwrap();
    seed(plane, "rbac-team").await;
    let kube = plane.client();
    let token = kube.service_account_token("rbac-team", "team", json!([])).await.unwrap();
    let metadata = json!({"name": "team", "namespace": "rbac-team"});
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": metadata,
        "rules": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch"]}],
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "team"},
        "subjects": [{"kind": "ServiceAccount", "name": "team", "namespace": "rbac-team"}],
    });
    apply(&kube, &[role, binding]).await;
    let (_server, admin, configuration) = fixture(plane, &token).await;

    // registration succeeds; counts without permission are null
    let test = admin.post("/api/k8s/clusters/test", configuration.clone()).await.data();
    assert_eq!(
        (&test["node_count"], features(&test).0),
        (&Value::Null, vec![]),
        "no permission applies to all namespaces"
    );
    let id = register(&admin, "team", configuration).await;
    let row = admin.rows("/api/k8s/clusters", "clusters").await.remove(0);
    assert_eq!(row["status"], "online");
    for count in ["node_count", "pod_count", "namespace_count"] {
        assert_eq!(row[count], Value::Null, "{count}");
    }

    let workloads = |scope: &str| admin.get(format!("/api/k8s/workloads?cluster_id={id}&{scope}"));
    let rows = workloads("namespace=rbac-team&type=deployment").await.data();
    let names: Vec<_> = rows["workloads"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["held", "web"]);
    for scope in ["namespace=*&type=deployment", "namespace=rbac-team", "namespace=default&type=deployment"] {
        let refused = workloads(scope).await.refused("PERMISSION_DENIED");
        assert_eq!(refused["context"]["source"], "cluster", "{scope}");
    }
    let scale = json!({
        "cluster_id": id, "namespace": "rbac-team", "type": "deployment", "name": "web", "replicas": 3,
    });
    let scaled = admin.post("/api/k8s/workloads/scale", scale).await.data();
    assert_eq!(scaled["workload"]["replicas"], 3);
    assert_eq!(
        scaled["warnings"].as_array().map(Vec::len),
        Some(1),
        "one warning: autoscalers cannot be listed"
    );
    delete_namespace(&plane.client(), "rbac-team").await;
}
