//! Protocol of discovery and of printed tables: the checks hold for a real API server and for the fake one of the other
//! tests.

use super::{
    common::{
        kind_server::{KindServer, Protocol},
        kinds::ServedKind,
    },
    *,
};

const AS_DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn get(client: &Admin, accept: &str, path: &str) -> Value {
    serde_json::from_str(&client.text_as(accept, path).await.unwrap()).unwrap()
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let items = list.as_array().unwrap().iter();
    let mut found = items.filter(|item| item[key] == *name);
    found.next().unwrap_or_else(|| panic!("no {name} in {list}"))
}

/// Columns as name, type and priority.
fn columns(table: &Value) -> Vec<Value> {
    let columns = table["columnDefinitions"].as_array().into_iter().flatten();
    columns.map(|column| json!([column["name"], column["type"], column["priority"]])).collect()
}

/// The checks, of Deployments in a namespace that has exactly the Deployment `web`.
async fn check(client: &Admin, namespace: &str) {
    let expected = ServedKind::deployments();

    let groups = get(client, AS_DISCOVERY, "/apis").await;
    assert_eq!(
        (&groups["kind"], &groups["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let apps =
        groups["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "apps").unwrap();
    let version = named(&apps["versions"], "version", "v1");
    assert_eq!(version["freshness"], "Current");
    let deployments = named(&version["resources"], "resource", "deployments");
    assert_eq!(deployments["responseKind"], json!({"group": "", "version": "", "kind": "Deployment"}));
    assert_eq!(
        (&deployments["scope"], &deployments["singularResource"]),
        (&json!("Namespaced"), &json!("deployment"))
    );
    assert_eq!(deployments["shortNames"], json!(expected.short_names));
    assert_eq!(sorted(&deployments["verbs"]), sorted(&json!(expected.verbs)));

    let groups = get(client, "application/json", "/apis").await;
    assert_eq!(groups["kind"], "APIGroupList");
    let apps = named(&groups["groups"], "name", "apps");
    assert_eq!(apps["preferredVersion"], json!({"groupVersion": "apps/v1", "version": "v1"}));
    let resources = get(client, "application/json", "/apis/apps/v1").await;
    assert_eq!(
        (&resources["kind"], &resources["groupVersion"]),
        (&json!("APIResourceList"), &json!("apps/v1"))
    );
    let deployments = named(&resources["resources"], "name", "deployments");
    assert_eq!((&deployments["kind"], &deployments["namespaced"]), (&json!("Deployment"), &json!(true)));
    assert_eq!(sorted(&deployments["verbs"]), sorted(&json!(expected.verbs)));

    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let table = get(client, AS_TABLE, &path).await;
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert!(table["metadata"]["resourceVersion"].is_string(), "{table}");
    let expected_columns: Vec<_> =
        expected.columns.iter().map(|(name, kind, priority)| json!([name, kind, priority])).collect();
    assert_eq!(columns(&table), expected_columns);
    check_row(&table, namespace, expected_columns.len());

    let watch = format!(
        "{path}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3"
    );
    let body = client.text_as(AS_TABLE, &watch).await.unwrap();
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let added = &events[0];
    assert_eq!((&added["type"], columns(&added["object"])), (&json!("ADDED"), expected_columns));
    check_row(&added["object"], namespace, expected.columns.len());
    let bookmark = named(&json!(events), "type", "BOOKMARK").clone();
    assert_eq!(columns(&bookmark["object"]), Vec::<Value>::new(), "{bookmark}");
    let metadata = &bookmark["object"]["rows"][0]["object"]["metadata"];
    assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true", "{bookmark}");
    assert!(metadata["resourceVersion"].is_string(), "{bookmark}");

    let absent = client.get(&format!("/apis/apps/v1/namespaces/{namespace}/boats")).await;
    assert!(matches!(absent, Err(pilothouse_testbed::Error::Status { code: 404, .. })), "{absent:?}");
}

fn sorted(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(ToString::to_string).collect()
}

/// The only row of a table: one cell per column, and the metadata of `web`.
fn check_row(table: &Value, namespace: &str, cells: usize) {
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{table}");
    assert_eq!(rows[0]["cells"].as_array().unwrap().len(), cells, "{table}");
    assert_eq!(rows[0]["cells"][0], "web", "{table}");
    let object = &rows[0]["object"];
    assert_eq!(
        (&object["kind"], &object["apiVersion"]),
        (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(
        (&object["metadata"]["name"], &object["metadata"]["namespace"]),
        (&json!("web"), &json!(namespace))
    );
}

#[tokio::test]
async fn real_api_server_follows_the_protocol_of_discovery_and_tables() {
    let (_, _, admin, namespace) = fixture("kinds").await;
    admin.apply(&samples::deployment(&namespace, "web", 0)).await.unwrap();
    check(&admin, &namespace).await;
    admin.delete(&format!("/api/v1/namespaces/{namespace}")).await.unwrap();
}

#[tokio::test]
async fn fake_api_server_follows_the_protocol_of_discovery_and_tables() {
    let fake = KindServer::start(Protocol::V1_37, vec![ServedKind::deployments()]).await;
    let cells = json!(["web", "0/0", 0, 0, "1s", "web", "busybox:1", "app=web"]);
    let object = json!({"metadata": {"name": "web", "namespace": "shop"}});
    fake.apply("deployments", object, cells.as_array().unwrap().clone());
    let client = Admin::with_token(&fake.server.address, &fake.server.ca, "any").unwrap();
    check(&client, "shop").await;
}

#[tokio::test]
async fn fake_of_an_older_version_has_its_discovery_and_watches() {
    let fake = KindServer::start(Protocol::BY_GROUP, vec![ServedKind::deployments()]).await;
    let client = Admin::with_token(&fake.server.address, &fake.server.ca, "any").unwrap();
    assert_eq!(get(&client, AS_DISCOVERY, "/apis").await["kind"], "APIGroupList");
    let watch = client.get("/apis/apps/v1/deployments?watch=true&sendInitialEvents=true").await;
    assert!(matches!(watch, Err(pilothouse_testbed::Error::Status { code: 422, .. })), "{watch:?}");

    fake.serve(ServedKind::node_metrics());
    fake.fail("metrics.k8s.io", true);
    let groups = get(&client, "application/json", "/apis").await;
    named(&groups["groups"], "name", "metrics.k8s.io");
    let resources = client.get("/apis/metrics.k8s.io/v1beta1").await;
    assert!(matches!(resources, Err(pilothouse_testbed::Error::Status { code: 503, .. })), "{resources:?}");
    fake.fail("metrics.k8s.io", false);
    let watch = client.get("/apis/metrics.k8s.io/v1beta1/nodes?watch=true").await;
    assert!(matches!(watch, Err(pilothouse_testbed::Error::Status { code: 405, .. })), "{watch:?}");
    fake.remove("metrics.k8s.io", "nodes");
    assert_eq!(client.try_get("/apis/metrics.k8s.io/v1beta1").await.unwrap(), None);
}
