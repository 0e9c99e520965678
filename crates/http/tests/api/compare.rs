//! Responses of the comparison of clusters.

use pilothouse_core::{access::Caller, ids::ClusterId, testing::new_cluster};
use serde_json::{Value, json};

use crate::test_app::{TestApp, seed};

const PATH: &str = "/api/k8s/compare";
const WEB: &str = "namespace=shop&type=deployment&name=web";

/// Registers a second cluster with the same objects.
async fn second_cluster(api: &TestApp) -> ClusterId {
    let second = api.app.clusters.create(&Caller::system(), new_cluster("second")).await.unwrap().value.id;
    seed(&api.fake, second, "shop");
    second
}

fn field<'a>(data: &'a Value, path: &str) -> &'a Value {
    data["fields"].as_array().unwrap().iter().find(|field| field["path"] == path).unwrap()
}

#[actix_web::test]
async fn masked_values_are_shown_to_those_who_see_them_in_details() {
    let api = TestApp::new().await;
    let second = second_cluster(&api).await;
    let (first, second) = (api.cluster.to_string(), second.to_string());
    for (user, value) in [("viewer", "***"), ("super", "canary-env")] {
        let user = api.login(user).await;
        let data = api.get(&user, PATH, WEB).await.data();
        let mut values = json!({});
        values[&first] = json!(value);
        values[&second] = json!(value);
        let expected = json!({"path": "containers/app/env/A", "values": values, "same": true});
        assert_eq!(field(&data, "containers/app/env/A"), &expected);
        assert_eq!(field(&data, "replicas")["values"][&first], 2);
        assert_eq!(data["missing"], json!([]));
        let names: Vec<_> = data["clusters"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
        assert_eq!(names, ["demo", "second"]);
    }
}

#[actix_web::test]
async fn named_clusters_are_compared_and_must_exist() {
    let api = TestApp::new().await;
    let second = second_cluster(&api).await;
    let viewer = api.login("viewer").await;
    let get = async |clusters: &str| api.get(&viewer, PATH, &format!("{WEB}&cluster_id={clusters}")).await;
    let data = get(&second.to_string()).await.data();
    assert_eq!(data["clusters"].as_array().unwrap().len(), 1);
    assert_eq!((&data["clusters"][0]["id"], &data["clusters"][0]["status"]), (&json!(second), &json!("ok")));
    let both = get(&format!("{},{second}", api.cluster)).await.data();
    assert_eq!(both["clusters"].as_array().unwrap().len(), 2);
    assert_eq!(get("999999").await.error().1, "RESOURCE_NOT_FOUND");
    for (clusters, refused) in
        [("1,1", "cluster_id=duplicate"), ("x", "cluster_id=invalid_type"), ("0", "cluster_id=out_of_range")]
    {
        assert_eq!(get(clusters).await.fields(), [refused], "{clusters}");
    }
    let absent = api.get(&viewer, PATH, "namespace=shop&type=job&name=absent").await.data();
    assert_eq!((&absent["fields"], &absent["missing"]), (&json!([]), &json!([api.cluster, second])));
}
