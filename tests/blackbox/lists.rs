//! Lists and details, compared with the objects in the cluster.

use std::{collections::BTreeSet, fs, path::Path};

use pilothouse_core::{
    inventory::{LISTS, ListInfo},
    rows::ListScope,
};
use pilothouse_testbed::{Admin, path_of, shared, shared_has_node, workloads};
use serde_json::{Value, json};

use crate::support::{
    Client, Install, PASSWORD, Server, apply, delete_namespace, eventually, eventually_ok, names,
    register_cluster, warnings,
};

/// Golden objects. `<key of the list>.json` contains objects to create, `<key>.expected.json` the expected rows. The
/// folder `node` contains those that need a node.
///
/// `{namespace}` stands for a namespace that only these objects use; cluster-scoped objects have it in their name. In
/// an expected row, `{/a/b}` stands for the value at this JSON pointer of the object as the cluster returns it (null
/// if absent), and `{any}` for any value.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/blackbox/objects");

/// The lists of objects of a cluster.
fn cluster_lists() -> impl Iterator<Item = &'static ListInfo> {
    LISTS.iter().filter(|info| info.scope != ListScope::Local)
}

/// Reads golden objects or rows.
fn golden(file: &str, namespace: &str) -> Vec<Value> {
    let text = fs::read_to_string(format!("{GOLDEN}/{file}")).unwrap_or_else(|e| panic!("{file}: {e}"));
    serde_json::from_str(&text.replace("{namespace}", namespace)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Creates a namespace with a unique name.
async fn unique_namespace(kube: &Admin) -> String {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "golden-"}});
    let created = kube.post("/api/v1/namespaces", &namespace).await.unwrap();
    created["metadata"]["name"].as_str().unwrap().to_owned()
}

/// The rows of a list, for all its kinds, and whether the response has warnings other than of the absent API of usage. The owner of a list, if any, is `web`.
async fn rows(
    admin: &Client,
    cluster: i64,
    info: &ListInfo,
    namespace: &str,
) -> Result<(Vec<Value>, bool), String> {
    let scope = match info.scope {
        ListScope::Namespaced if info.owner.is_some() => format!("&namespace={namespace}&name=web"),
        ListScope::Namespaced => format!("&namespace={namespace}"),
        _ => String::new(),
    };
    let types = info.more_kinds.iter().map(|kind| format!("&type={}", kind.info().singular));
    let (mut rows, mut warned) = (Vec::new(), false);
    for r#type in [String::new()].into_iter().chain(types) {
        let path = format!("{}?cluster_id={cluster}&per_page=500{scope}{}", info.path, r#type);
        let response = admin.get(path).await;
        if response.status != 200 {
            return Err(response.to_string());
        }
        let data = response.data();
        rows.extend(data[info.key].as_array().unwrap().iter().cloned());
        warned |= !warnings(&data).is_empty();
    }
    Ok((rows, warned))
}

/// The objects of a list, read from the cluster.
async fn cluster_objects(kube: &Admin, info: &ListInfo, namespace: &str) -> Vec<Value> {
    let mut objects = Vec::new();
    for kind in info.kinds.iter().chain(info.more_kinds) {
        let (version, plural) = (kind.api_version(), kind.info().plural);
        let root = if version.contains('/') { "apis" } else { "api" };
        let scope = if kind.info().namespaced { format!("namespaces/{namespace}/") } else { String::new() };
        let list = kube.get(&format!("/{root}/{version}/{scope}{plural}")).await.unwrap();
        objects.extend(list["items"].as_array().unwrap().iter().cloned());
    }
    objects
}

/// Reports whether a row of the list equals an expected row, whose placeholders are filled in from the object.
fn row_matches(row: &Value, expected: &Value, object: &Value) -> bool {
    match (expected, row) {
        (Value::String(text), _) if text == "{any}" => true,
        (Value::String(text), _) if text.starts_with("{/") => {
            row == object.pointer(&text[1..text.len() - 1]).unwrap_or(&Value::Null)
        }
        (Value::Array(expected), Value::Array(row)) => {
            row.len() == expected.len()
                && row.iter().zip(expected).all(|(row, expected)| row_matches(row, expected, object))
        }
        (Value::Object(expected), Value::Object(row)) => {
            row.len() == expected.len()
                && expected
                    .iter()
                    .all(|(key, expected)| row.get(key).is_some_and(|row| row_matches(row, expected, object)))
        }
        _ => row == expected,
    }
}

#[test]
fn every_list_has_golden_objects_and_every_golden_file_a_list() {
    let files = |folder: &str| {
        let entries = fs::read_dir(Path::new(GOLDEN).join(folder)).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.ends_with(".json"))
    };
    let mut files: BTreeSet<String> = files(".").chain(files("node")).collect();
    for ListInfo { key, .. } in cluster_lists() {
        for file in [format!("{key}.json"), format!("{key}.expected.json")] {
            assert!(files.remove(&file), "the file tests/blackbox/objects/{file} is missing");
        }
    }
    assert!(files.is_empty(), "no list has these golden files: {files:?}");
}

#[tokio::test]
async fn cached_and_uncached_lists_return_the_expected_rows_of_golden_objects() {
    let plane = shared().await.unwrap();
    let has_node = shared_has_node().await.expect("a node, if one is required");
    let kube = plane.client();
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let cached = register_cluster(&admin, "cached", plane).await;
    // the lists of a credential that may not watch are not cached
    let account = unique_namespace(&kube).await;
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]);
    let token = kube.service_account_token(&account, "reader", rules).await.unwrap();
    let body = json!({
        "name": "uncached", "auth_type": "token", "api_server": plane.server(), "token": token,
        "ca_certificate": plane.ca_pem(),
    });
    let uncached = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap();

    let folders: &[&str] = if has_node { &["", "node/"] } else { &[""] };
    for (info, folder) in cluster_lists().flat_map(|info| folders.iter().map(move |folder| (info, folder))) {
        let file = format!("{folder}{}", info.key);
        if !Path::new(GOLDEN).join(format!("{file}.json")).exists() {
            continue;
        }
        let namespace = unique_namespace(&kube).await;
        let objects = golden(&format!("{file}.json"), &namespace);
        apply(&kube, &objects).await;
        let expected_rows = golden(&format!("{file}.expected.json"), &namespace);
        assert!(!expected_rows.is_empty(), "{file} has no expected rows");
        for (cluster, is_cached) in [(cached, true), (uncached, false)] {
            // controllers change the objects and the cache follows, so everything is read until it matches
            eventually_ok(async || {
                let (rows, warned) = rows(&admin, cluster, info, &namespace).await?;
                let objects = cluster_objects(&kube, info, &namespace).await;
                for expected in &expected_rows {
                    let found = objects.iter().any(|object| {
                        let mut rows = rows.iter().filter(|row| row["name"] == object["metadata"]["name"]);
                        rows.any(|row| row_matches(row, expected, object))
                    });
                    if !found {
                        let rows = json!(rows);
                        return Err(format!("{file}: no row is {expected:#}\nbut the rows are {rows:#}"));
                    }
                }
                if warned != is_cached { Ok(()) } else { Err(format!("{file}: warnings: {warned}")) }
            })
            .await;
        }
        let cluster_scoped = objects.iter().map(|object| (object, &object["metadata"]));
        for (object, metadata) in cluster_scoped.filter(|(_, metadata)| metadata["namespace"].is_null()) {
            if metadata["name"] != namespace {
                kube.delete(&path_of(object)).await.unwrap();
            }
        }
        delete_namespace(&kube, &namespace).await;
    }
    for kind in ["clusterroles", "clusterrolebindings"] {
        kube.delete(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}/{account}:reader")).await.unwrap();
    }
    delete_namespace(&kube, &account).await;
}

#[tokio::test]
async fn workload_list_is_paged_sorted_and_searched_over_all_types() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    apply(&kube, &workloads::samples("bb-lists")).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "lists", plane).await;

    // Without a type: Deployments, StatefulSets and DaemonSets, in one order with one total.
    let path = format!("/api/k8s/workloads?cluster_id={id}&namespace=bb-lists&per_page=2");
    let first = admin.get(&path).await.data();
    assert_eq!(first["pagination"], json!({"page": 1, "per_page": 2, "total": 3, "pages": 2}));
    assert_eq!(names(first["workloads"].as_array().unwrap()), ["agent", "db"]);
    assert_eq!((&first["stale"], first["as_of"].is_string()), (&json!(false), true));
    assert_eq!(names(&admin.rows(format!("{path}&page=2"), "workloads").await), ["web"]);
    assert_eq!(admin.rows(format!("{path}&page=3"), "workloads").await, Vec::<Value>::new());
    let sorted = admin.rows(format!("{path}&sort=-name"), "workloads").await;
    assert_eq!(names(&sorted), ["web", "db"]);
    assert_eq!(names(&admin.rows(format!("{path}&search=E"), "workloads").await), ["agent", "web"]);
    admin.get(format!("{path}&colour=blue")).await.refused("VALIDATION_ERROR");
    admin.get(format!("/api/k8s/workloads?cluster_id={id}")).await.refused("VALIDATION_ERROR");

    // In all namespaces: at least the objects of this one.
    let all_namespaces =
        admin.rows(format!("/api/k8s/workloads?cluster_id={id}&namespace=*&per_page=500"), "workloads");
    let all_namespaces = all_namespaces.await;
    assert_eq!(all_namespaces.iter().filter(|row| row["namespace"] == "bb-lists").count(), 3);

    // the filter finds the pods of a deployment, whose owner is a replica set
    let pods = format!("/api/k8s/pods?cluster_id={id}&namespace=bb-lists&workload=deployment/web");
    eventually("the pods of the deployment", async || {
        (admin.rows(&pods, "pods").await.len() == 2).then_some(())
    })
    .await;
    delete_namespace(&kube, "bb-lists").await;
}

#[tokio::test]
async fn workload_detail_is_complete_and_masks_values_by_right() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let mut deployment = workloads::deployment("bb-detail", "web", 1);
    deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "GREETING", "value": "hello-canary"}]);
    apply(&kube, &[workloads::namespace("bb-detail"), deployment]).await;
    let masked_fields = "/spec/template/spec/containers/*/command";
    let server = Install::new().set("MASKED_FIELDS", masked_fields).start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "detail", plane).await;
    let path =
        format!("/api/k8s/workloads/detail?cluster_id={id}&namespace=bb-detail&type=deployment&name=web");

    let detail = eventually("the detail has pods, events and revisions", async || {
        let detail = admin.get(&path).await.data();
        let filled = |key: &str| detail[key].as_array().is_some_and(|list| !list.is_empty());
        (filled("pods") && filled("events") && filled("revisions")).then_some(detail)
    })
    .await;
    let object = kube.get("/apis/apps/v1/namespaces/bb-detail/deployments/web").await.unwrap();
    assert_eq!(detail["workload"]["name"], "web");
    assert_eq!(detail["containers"][0]["image"], workloads::IMAGE);
    assert_eq!(detail["containers"][0]["requests"], json!({"cpu": "10m", "memory": "8Mi"}));
    assert_eq!(detail["containers"][0]["env"], json!(["GREETING"]));
    assert_eq!(detail["manifest"]["metadata"]["uid"], object["metadata"]["uid"]);
    assert_eq!(detail["manifest"]["spec"]["template"], object["spec"]["template"]);
    assert!(detail["manifest"]["metadata"].get("managedFields").is_none());

    let viewer = server.user(&admin, "viewer").await;
    let masked = viewer.get(&path).await.data();
    assert_eq!(masked["containers"][0]["env"], json!(["GREETING"]));
    assert!(!masked.to_string().contains("hello-canary"));
    assert_eq!(masked["manifest"]["spec"]["template"]["spec"]["containers"][0]["command"], "***");

    // whoever may open a terminal in the namespace sees the values
    let user = admin.add_user("operator", "none").await;
    let operator = server.client().sign_in("operator", PASSWORD).await;
    let grant = json!({"subject": {"type": "user", "id": user}, "role": "operator", "clusters": {"ids": [id]},
        "namespaces": ["bb-detail"]});
    let grant = admin.post("/api/access/grants", grant).await.data()["grant"]["id"].clone();
    let shown = operator.get(&path).await.data();
    assert_eq!(shown["manifest"]["spec"]["template"], object["spec"]["template"]);
    let scale = json!({"cluster_id": id, "namespace": "bb-detail", "type": "deployment", "name": "web", "replicas": 1});
    operator.post("/api/k8s/workloads/scale", scale).await.data();
    let rows = admin.operations(format!("cluster_id={id}&operation_type=scale")).await;
    assert_eq!((rows.len(), &rows[0]["grant_id"]), (1, &grant), "the audit row names the grant");
    let missing = path.replace("name=web", "name=nobody");
    let refused = admin.get(&missing).await.refused("RESOURCE_NOT_FOUND");
    assert_eq!(
        (&refused["context"]["source"], &refused["context"]["name"]),
        (&json!("cluster"), &json!("nobody"))
    );
    delete_namespace(&plane.client(), "bb-detail").await;
}

/// The API server is the reference: it evaluates the same selectors on the same objects.
#[tokio::test]
async fn label_selectors_select_the_same_objects_as_the_api_server() {
    let plane = shared().await.unwrap();
    let kube = plane.client();
    let namespace = unique_namespace(&kube).await;
    let labels = [
        json!({"app": "web", "tier": "a", "n": "12"}),
        json!({"app": "web", "tier": "", "example.com/team": "shop"}),
        json!({"app": "api", "n": "x"}),
        json!({"legacy": "", "in": "notin"}),
        json!({}),
    ];
    let objects: Vec<_> = (0..)
        .zip(&labels)
        .map(|(n, labels)| {
            let metadata = json!({"name": format!("c{n}"), "namespace": namespace, "labels": labels});
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
        })
        .collect();
    apply(&kube, &objects).await;
    let server = Server::fresh().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "labels", plane).await;
    let encoded = |selector: &str| {
        [(" ", "%20"), ("<", "%3C"), (">", "%3E")]
            .iter()
            .fold(selector.to_owned(), |text, (from, to)| text.replace(from, to))
    };
    let selectors = [
        "app=web",
        "app==web",
        "app!=web",
        "app",
        "!app",
        "! app",
        "tier=",
        "tier in (,a)",
        "tier in (,)",
        "tier in ()",
        "tier!=",
        "app in (web,api)",
        "app notin (web)",
        "app notin (web,api),!legacy",
        "app=web,tier=a",
        "n>11",
        "n<13",
        "n>12",
        "example.com/team",
        "example.com/team=shop",
        "in in (notin)",
        "in notin (notin)",
        " app = web ",
        "absent!=x",
        "app=web,!n",
    ];
    for selector in selectors {
        let text = encoded(selector);
        let of_cluster = format!("/api/v1/namespaces/{namespace}/configmaps?labelSelector={text}");
        let of_list =
            format!("/api/k8s/configmaps?cluster_id={id}&namespace={namespace}&per_page=500&label={text}");
        // the cluster adds a ConfigMap of its own to each namespace
        eventually_ok(async || {
            let list = kube.get(&of_cluster).await.map_err(|error| format!("{selector}: {error}"))?;
            let items = list["items"].as_array().unwrap().iter();
            let expected: Vec<_> = items.map(|item| item["metadata"]["name"].clone()).collect();
            let rows = admin.rows(&of_list, "configmaps").await;
            let found: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
            if found == expected { Ok(()) } else { Err(format!("{selector}: {found:?}, not {expected:?}")) }
        })
        .await;
    }
    for malformed in ["app in (a", "app=a=b", ",app", "app,", "!", "a/b/c", "-a", "n>x", "app=-x", "app in a"]
    {
        let text = encoded(malformed);
        let refused =
            kube.get(&format!("/api/v1/namespaces/{namespace}/configmaps?labelSelector={text}")).await;
        assert!(refused.is_err(), "{malformed}");
        let path = format!("/api/k8s/configmaps?cluster_id={id}&namespace={namespace}&label={text}");
        admin.get(&path).await.refused("VALIDATION_ERROR");
    }
    delete_namespace(&kube, &namespace).await;
}
