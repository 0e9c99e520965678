//! ConfigMaps and Secrets with values, and the endpoints of a Service.

use pilothouse_core::{
    config::ConfigMapPatch,
    secret::{NewSecret, SecretApi, SecretPatch},
};

use super::*;

#[tokio::test]
async fn configmap_update_keeps_binary_data() {
    let (plane, adapter, admin, namespace) = fixture("config-update").await;
    let mut mixed = samples::config_map(&namespace, "mixed");
    mixed["binaryData"] = json!({"bytes": "/wA="});
    mixed["metadata"]["labels"] = json!({"app": "web"});
    admin.apply(&mixed).await.unwrap();
    let get = permit(Verb::Get, Kind::ConfigMap, &namespace);
    let detail = adapter.get_configmap(&get, &object("mixed")).await.unwrap().unwrap();
    assert_eq!(
        (json!(detail.data), json!(detail.binary_data)),
        (mixed["data"].clone(), json!({"bytes": "/wA="}))
    );

    let update = permit(Verb::Update, Kind::ConfigMap, &namespace);
    let data =
        Some(BTreeMap::from([("greeting".to_owned(), "再见".to_owned()), ("new".to_owned(), String::new())]));
    let patch = ConfigMapPatch { data, labels: None, resource_version: Some(detail.resource_version) };
    let row = adapter.update_configmap(&update, &object("mixed"), &patch).await.unwrap();
    assert_eq!(row.labels, Labels::from([("app".to_owned(), "web".to_owned())]));
    assert!(audited(plane, &update, "patch", "mixed"));
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/mixed");
    let stored = admin.get(&path).await.unwrap();
    assert_eq!(
        (&stored["data"], &stored["binaryData"]),
        (&json!({"greeting": "再见", "new": ""}), &json!({"bytes": "/wA="}))
    );
    let error = adapter.update_configmap(&update, &object("mixed"), &patch).await.unwrap_err();
    assert_eq!(error.cause, Cause::ConflictInCluster);

    let relabel = ConfigMapPatch { labels: Some(Labels::new()), ..ConfigMapPatch::default() };
    adapter.update_configmap(&update, &object("mixed"), &relabel).await.unwrap();
    assert_eq!(admin.get(&path).await.unwrap()["metadata"]["labels"], json!(null));

    admin.patch(&path, &json!({"immutable": true})).await.unwrap();
    let patch = ConfigMapPatch { resource_version: None, ..patch };
    let data = Some(BTreeMap::from([("greeting".to_owned(), "again".to_owned())]));
    let changed = ConfigMapPatch { data, ..patch };
    let error = adapter.update_configmap(&update, &object("mixed"), &changed).await.unwrap_err();
    assert_eq!(error.cause, Cause::RejectedByCluster);
}

#[tokio::test]
async fn secrets_are_created_updated_revealed_and_deleted() {
    let (plane, adapter, admin, namespace) = fixture("secrets").await;
    let data = [("password", "canary"), ("user", "安")];
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    let labels = Labels::from([("app".to_owned(), "web".to_owned())]);
    let secret = NewSecret { name: object("pass"), r#type: Some("shop/pass".to_owned()), data, labels };
    let create = permit(Verb::Create, Kind::Secret, &namespace);
    let row = SecretApi::create(&adapter, &create, &secret).await.unwrap();
    assert_eq!((row.r#type.as_str(), row.keys.len(), row.keys[0].bytes), ("shop/pass", 2, 6));
    assert!(audited(plane, &create, "create", "pass"));
    let duplicate = SecretApi::create(&adapter, &create, &secret).await.unwrap_err();
    assert_eq!(duplicate.cause, Cause::AlreadyExists);

    // as after kubectl apply, with a binary value
    let path = format!("/api/v1/namespaces/{namespace}/secrets/pass");
    let applied = json!({"kubectl.kubernetes.io/last-applied-configuration": "canary", "owner": "shop"});
    let bytes = json!({"metadata": {"annotations": applied}, "data": {"bytes": "/wA="}});
    let stored = admin.patch(&path, &bytes).await.unwrap();
    let get = permit(Verb::Get, Kind::Secret, &namespace);
    let detail = SecretApi::get(&adapter, &get, &object("pass")).await.unwrap().unwrap();
    assert_eq!(detail.annotations, Labels::from([("owner".to_owned(), "*** (4 bytes)".to_owned())]));
    assert_eq!(stored["metadata"]["resourceVersion"], detail.resource_version.as_str());
    assert!(!serde_json::to_string(&detail).unwrap().contains("canary"));

    let reveal = permit(Verb::Reveal, Kind::Secret, &namespace);
    let revealed = adapter.reveal(&reveal, &object("pass")).await.unwrap().unwrap();
    assert_eq!(
        serde_json::to_value(&revealed).unwrap(),
        json!({"name": "pass", "namespace": namespace, "type": "shop/pass",
            "data": {"password": "canary", "user": "安"}, "binary_data": {"bytes": "/wA="}})
    );

    let update = permit(Verb::Update, Kind::Secret, &namespace);
    let data = BTreeMap::from([("bytes".to_owned(), None), ("password".to_owned(), Some("新".into()))]);
    let patch =
        SecretPatch { data: Some(data), labels: None, resource_version: Some(detail.resource_version) };
    let row = adapter.update(&update, &object("pass"), &patch).await.unwrap();
    assert_eq!(row.labels.len(), 1, "omitted labels stay");
    let stored = admin.get(&path).await.unwrap();
    assert_eq!(stored["data"], json!({"bytes": "/wA=", "password": "5paw"}));
    let stale = adapter.update(&update, &object("pass"), &patch).await.unwrap_err();
    assert_eq!(stale.cause, Cause::ConflictInCluster);

    let delete = permit(Verb::Delete, Kind::Secret, &namespace);
    SecretApi::delete(&adapter, &delete, &object("pass")).await.unwrap();
    assert_eq!(admin.try_get(&path).await.unwrap(), None);
    assert!(adapter.reveal(&reveal, &object("pass")).await.unwrap().is_none());
    let error = SecretApi::delete(&adapter, &delete, &object("pass")).await.unwrap_err();
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFoundInCluster, Some("secret")));
}

#[tokio::test]
async fn endpoints_are_listed_for_an_existing_service() {
    let (_, adapter, admin, namespace) = fixture("endpoints").await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"ports": [{"port": 80}]}})
    };
    for name in ["web", "idle"] {
        admin.apply(&service(name)).await.unwrap();
    }
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-x", "namespace": namespace, "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.9.8.7"], "conditions": {"ready": false}}, {"addresses": ["10.9.8.8"]}],
        "ports": [{"port": 8080, "name": "http", "protocol": "TCP"}]});
    admin
        .post(&format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"), &slice)
        .await
        .unwrap();
    let list = permit(Verb::List, Kind::EndpointSlice, &namespace);
    let page = async |name: &str| {
        let kinds = List::Endpoints.info().kinds.to_vec();
        let query = ListQuery { kinds, owner: Some(object(name)), ..ListQuery::default() };
        adapter.page(&list, List::Endpoints, &query).await
    };
    let listing = page("web").await.unwrap();
    let rows: Vec<Value> = listing.rows.iter().map(|row| serde_json::from_str(row.json()).unwrap()).collect();
    let endpoints: Vec<_> = rows.iter().map(|row| (row["ip"].clone(), row["ready"].clone())).collect();
    assert_eq!(endpoints, [(json!("10.9.8.7"), json!(false)), (json!("10.9.8.8"), json!(true))]);
    assert_eq!(rows[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert!(page("idle").await.unwrap().rows.is_empty());
    let longer_than_any_service = "a".repeat(80);
    for absent in ["none", &longer_than_any_service] {
        assert_eq!(page(absent).await.unwrap_err().cause, Cause::NotFoundInCluster, "{absent}");
    }
}
