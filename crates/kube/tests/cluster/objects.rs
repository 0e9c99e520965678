//! Creating and deleting namespaces and ConfigMaps.

use super::*;

#[tokio::test]
async fn configmaps_are_created_and_deleted() {
    let (plane, adapter, admin, namespace) = fixture("configmaps").await;
    let permitted = permit(Verb::Create, Kind::ConfigMap, &namespace);
    let row = create_under(&adapter, &permitted, "settings").await.unwrap();
    assert_eq!(
        (row.name.as_str(), row.keys[0].name.as_str(), row.keys[0].bytes),
        ("settings", "greeting", 6)
    );
    assert!(audited(plane, &permitted, "create", "settings"));

    let path = format!("/api/v1/namespaces/{namespace}/configmaps/settings");
    let stored = admin.get(&path).await.unwrap();
    assert_eq!(
        (&stored["data"], &stored["metadata"]["labels"]),
        (&json!({"greeting": "你好"}), &json!({"app": "web"}))
    );
    assert_eq!(stored["metadata"]["managedFields"][0]["manager"], "pilothouse");
    let listing = page(&adapter, List::ConfigMaps, &namespace).await;
    let listed: Value = serde_json::from_str(listing.rows.last().unwrap().json()).unwrap();
    assert_eq!(listed, serde_json::to_value(&row).unwrap());

    assert_eq!(create(&adapter, &namespace, "settings").await.unwrap_err().cause, Cause::AlreadyExists);
    let error = create(&adapter, "no-such-namespace", "settings").await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("namespace"))
    );
    assert_eq!(error.context.name.as_deref(), Some("no-such-namespace"));

    let delete = permit(Verb::Delete, Kind::ConfigMap, &namespace);
    adapter.delete_configmap(&delete, &object("settings")).await.unwrap();
    assert!(audited(plane, &delete, "delete", "settings"));
    assert_eq!(admin.try_get(&path).await.unwrap(), None);
    let error = adapter.delete_configmap(&delete, &object("settings")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("configmap"))
    );
}

#[tokio::test]
async fn quota_and_terminating_namespace_have_their_own_causes() {
    let (_, adapter, admin, namespace) = fixture("refusing").await;
    let mut held = samples::config_map(&namespace, "held");
    held["metadata"]["finalizers"] = json!(["pilothouse.test/held"]);
    admin.apply(&held).await.unwrap();
    let mut quota = samples::resource_quota(&namespace, "limits");
    quota["spec"] = json!({"hard": {"count/configmaps": "0"}});
    admin.apply(&quota).await.unwrap();
    let path = format!("/api/v1/namespaces/{namespace}/resourcequotas/limits");
    admin.wait_until(&path, |quota| quota["status"]["used"].is_object(), TEST_TIMEOUT).await.unwrap();
    assert_eq!(create(&adapter, &namespace, "one-too-many").await.unwrap_err().cause, Cause::QuotaExceeded);

    let listing =
        adapter.page(&permit_all(Verb::List, Kind::Namespace), List::Namespaces, &ListQuery::default()).await;
    let listing = listing.unwrap();
    let row = listing.rows.iter().find(|row| row.name() == namespace).unwrap();
    let row: Value = serde_json::from_str(row.json()).unwrap();
    assert_eq!(row["resource_quota"]["hard"], json!({"count/configmaps": "0"}));
    admin.delete(&path).await.unwrap();

    NamespaceApi::delete(&adapter, &permit(Verb::Delete, Kind::Namespace, &namespace)).await.unwrap();
    assert_eq!(
        create(&adapter, &namespace, "too-late").await.unwrap_err().cause,
        Cause::NamespaceTerminating
    );
    admin
        .patch(&pilothouse_testbed::path_of(&held), &json!({"metadata": {"finalizers": null}}))
        .await
        .unwrap();
}

#[tokio::test]
async fn namespaces_are_created_and_deleted() {
    let (plane, adapter, admin, other) = fixture("namespaces").await;
    let name = format!("{other}-new");
    let create = permit(Verb::Create, Kind::Namespace, &name);
    let labels = Labels::from([("team".to_owned(), "shop".to_owned())]);
    let row = adapter.create(&create, &labels).await.unwrap();
    assert_eq!(
        (row.name.as_str(), row.status.as_str(), &row.labels["team"]),
        (name.as_str(), "Active", &"shop".to_owned())
    );
    assert!(audited(plane, &create, "create", &name));
    assert_eq!(adapter.create(&create, &labels).await.unwrap_err().cause, Cause::AlreadyExists);

    let delete = permit(Verb::Delete, Kind::Namespace, &name);
    NamespaceApi::delete(&adapter, &delete).await.unwrap();
    assert!(audited(plane, &delete, "delete", &name));
    let end = tokio::time::Instant::now() + TEST_TIMEOUT;
    while admin.try_get(&format!("/api/v1/namespaces/{name}")).await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < end, "the namespace is deleted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = NamespaceApi::delete(&adapter, &delete).await.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::NotFoundInCluster, Some(name.as_str())));
}
