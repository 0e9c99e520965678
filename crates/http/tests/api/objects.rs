//! Objects of any kind over HTTP: kinds, pages with columns, details, and refusals.

use actix_web::http::StatusCode;
use pilothouse_core::{
    dynamic_kind::DynamicKind, ids::ClusterId, inventory::objects::ServedKind, kind::Kind,
};
use serde_json::{Value, json};

use crate::test_app::{Reply, SignedIn, TestApp};

const BOATS: &str = "boats.day2.example.org";

struct Fixture {
    api: TestApp,
    viewer: SignedIn,
}

impl Fixture {
    /// The cluster of the test application, with two boats.
    async fn new() -> Self {
        let api = TestApp::new().await;
        let served = ServedKind {
            group: "day2.example.org".to_owned(),
            version: "v1".to_owned(),
            plural: "boats".to_owned(),
            kind: "Boat".to_owned(),
            namespaced: true,
            custom: true,
            verbs: ["get", "list", "watch"].map(str::to_owned).into(),
            short_names: vec!["bt".to_owned()],
            ..ServedKind::default()
        };
        let kind = Kind::Dynamic(DynamicKind::new(served.names()).unwrap());
        for (name, place) in [("ship", "sea"), ("raft", "lake")] {
            let boat = json!({"apiVersion": "day2.example.org/v1", "kind": "Boat", "spec": {"crew": ["ann"]},
                "metadata": {"name": name, "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "labels": {"place": place}},
                "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Leaking"}]}});
            api.fake.clusters.put(ClusterId(api.cluster), kind, boat);
        }
        api.fake.clusters.serve(served);
        let viewer = api.login("viewer").await;
        Self { api, viewer }
    }

    async fn get(&self, path: &str, query: &str) -> Reply {
        self.api.get(&self.viewer, path, &format!("cluster_id={}{query}", self.api.cluster)).await
    }

    async fn objects(&self, query: &str) -> Reply {
        self.get("/api/k8s/objects", query).await
    }
}

fn names(data: &Value) -> Vec<&str> {
    data["objects"].as_array().unwrap().iter().filter_map(|row| row["name"].as_str()).collect()
}

#[actix_web::test]
async fn kinds_are_listed_with_the_name_that_selects_them() {
    let fixture = Fixture::new().await;
    let kinds = fixture.get("/api/k8s/kinds", "").await.data()["kinds"].take();
    let find = |resource: &str| {
        kinds.as_array().unwrap().iter().find(|kind| kind["resource"] == resource).cloned().unwrap()
    };
    assert_eq!(
        find(BOATS),
        json!({"resource": BOATS, "group": "day2.example.org", "version": "v1", "kind": "Boat", "namespaced": true,
            "verbs": ["get", "list", "watch"], "short_names": ["bt"], "categories": [], "custom": true})
    );
    assert_eq!(find("pods")["group"], "");
}

#[actix_web::test]
async fn page_of_objects_has_columns_and_cells() {
    let fixture = Fixture::new().await;
    let reply = fixture.objects(&format!("&resource={BOATS}&namespace=*&sort=-cell.0")).await;
    let tag = reply.header("etag").unwrap().to_owned();
    let data = reply.data();
    assert_eq!(names(&data), ["ship", "raft"]);
    assert_eq!(
        data["columns"],
        json!([{"name": "Name", "type": "string", "priority": 0}, {"name": "Age", "type": "date", "priority": 0}])
    );
    assert_eq!(
        (&data["objects"][0]["cells"], &data["scope"]["complete"]),
        (&json!(["ship", null]), &json!(true))
    );
    let selected =
        fixture.objects(&format!("&resource={BOATS}&namespace=shop&label=place%3Dlake")).await.data();
    assert_eq!(names(&selected), ["raft"]);
    let again = fixture.objects(&format!("&resource={BOATS}&namespace=*&sort=-cell.0")).await;
    assert_eq!(again.header("etag"), Some(&*tag));
}

#[actix_web::test]
async fn detail_has_object_yaml_level_and_identity() {
    let fixture = Fixture::new().await;
    let data = fixture
        .get("/api/k8s/objects/detail", &format!("&resource={BOATS}&namespace=shop&name=ship"))
        .await
        .data();
    assert_eq!(
        (&data["level"], &data["reason"], &data["managed_by"]),
        (&json!("warn"), &json!("Leaking"), &Value::Null)
    );
    assert_eq!(data["uid"], "u-1");
    assert_eq!(data["resource_version"], data["object"]["metadata"]["resourceVersion"]);
    assert_eq!(data["object"]["spec"]["crew"], json!(["ann"]));
    assert!(data["yaml"].as_str().unwrap().contains("kind: Boat\n"), "{}", data["yaml"]);
}

#[actix_web::test]
async fn refusals_name_the_cause() {
    let fixture = Fixture::new().await;
    let secrets =
        [("/api/k8s/objects", "&namespace=shop"), ("/api/k8s/objects/detail", "&namespace=shop&name=pass")];
    for (path, more) in secrets {
        let (status, code, cause) = fixture.get(path, &format!("&resource=secrets{more}")).await.error();
        assert_eq!((status, &*code, &*cause), (400, "VALIDATION_ERROR", "secret_refused"), "{path}");
    }
    let absent = fixture.objects("&resource=ships.day2.example.org&namespace=*").await;
    assert_eq!(absent.error().2, "kind_not_served");
    assert_eq!(fixture.objects(&format!("&resource={BOATS}")).await.fields(), ["namespace=required"]);
    assert_eq!(fixture.objects("&resource=nodes&namespace=*").await.fields(), ["namespace=unknown"]);
    let missing =
        fixture.get("/api/k8s/objects/detail", &format!("&resource={BOATS}&namespace=shop&name=boat")).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}
