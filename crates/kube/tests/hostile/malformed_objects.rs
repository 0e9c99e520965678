//! Malformed and large objects: the readable fields of each object are shown, and no object hides the others.

use pilothouse_core::{inventory::LISTS, kind::KINDS, secret::SecretApi};

use super::*;

/// Reads a list from a server that returns these objects for every kind.
async fn list_with_objects(list: List, objects: Value) -> Listing {
    let info = list.info();
    let kinds = [info.kinds, info.more_kinds].concat();
    let query =
        ListQuery { kinds: kinds.clone(), owner: info.owner.map(|_| object("x")), ..ListQuery::default() };
    let server = FakeServer::start(move |_, _| {
        Reply::json(200, &json!({"kind": "OddList", "metadata": {}, "items": objects}))
    })
    .await;
    adapter(&server)
        .page(&permit_all(Verb::List, info.kinds[0]), list, &query)
        .await
        .unwrap_or_else(|error| panic!("{list:?}: {error}"))
}

fn cluster_lists() -> impl Iterator<Item = List> {
    LISTS.iter().filter(|info| info.project.is_some()).map(|info| info.list)
}

#[tokio::test]
async fn empty_object_is_a_row() {
    for list in cluster_lists() {
        let kinds = list.info().kinds.len() + list.info().more_kinds.len();
        // an EndpointSlice without addresses has no rows
        let rows_of_one = if list == List::Endpoints { 0 } else { kinds };
        let empty_objects = [
            json!({}),
            json!({"metadata": null, "spec": null, "status": null, "data": null}),
            json!({"metadata": {}, "spec": {}, "status": {}}),
            json!({"metadata": {"name": "x", "labels": null, "annotations": null, "ownerReferences": null,
                "creationTimestamp": null}}),
        ];
        for object in empty_objects {
            let listing = list_with_objects(list, json!([object])).await;
            assert_eq!(listing.rows.len(), rows_of_one, "{list:?} {object}");
            assert!(listing.rows.iter().all(|row| row.json().contains("\"labels\":{}")), "{list:?}");
        }
        let listing = list_with_objects(list, json!([{"metadata": {"name": "x"}}, {}])).await;
        assert_eq!(listing.rows.len(), 2 * rows_of_one, "{list:?}");
    }
}

#[tokio::test]
async fn configmap_of_1_mib_is_shown_with_any_escaping() {
    // in JSON a control character takes six bytes
    for value in ["x".repeat(1 << 20), "\u{1}".repeat(1 << 20)] {
        let metadata = json!({"name": "large", "namespace": "shop", "resourceVersion": "7"});
        let body = json!({"metadata": metadata, "data": {"k": value}}).to_string();
        let (_server, adapter) = server_with_reply(move || Reply::Body(200, vec![], body.clone())).await;
        let get = permit(Verb::Get, Kind::ConfigMap, "shop");
        let detail = adapter.get_configmap(&get, &object("large")).await.unwrap().unwrap();
        assert_eq!((detail.data["k"].len(), detail.configmap.keys[0].bytes), (1 << 20, 1 << 20));
    }
}

/// 500 objects of 1 MiB exceed the size limit of a response: the adapter then requests fewer objects from the same
/// position.
#[tokio::test]
async fn list_of_large_objects_is_read_in_smaller_chunks() {
    let server = FakeServer::start(|request, _| {
        let parameter =
            |name: &str| request.target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name));
        match (parameter("continue="), parameter("limit=").unwrap()) {
            (None, "500") | (Some("b"), "50") => Reply::Endless,
            (None, "50") => pod_list(&["a"], "b"),
            (Some("b"), "5") => pod_list(&["b", "c"], ""),
            _ => Reply::Body(500, vec![], String::new()),
        }
    })
    .await;
    assert_eq!(names(&list_pods(&adapter(&server)).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn binary_secret_value_is_shown_in_base64() {
    let metadata = json!({"name": "pass", "namespace": "shop"});
    let secret = json!({"metadata": metadata, "data": {"bytes": "/wA=", "text": "YQ=="}});
    let (_server, adapter) = server_with_reply(move || Reply::json(200, &secret)).await;
    let reveal = permit(Verb::Reveal, Kind::Secret, "shop");
    let revealed = adapter.reveal(&reveal, &object("pass")).await.unwrap().unwrap();
    let revealed = serde_json::to_value(revealed).unwrap();
    assert_eq!(
        (&revealed["data"], &revealed["binary_data"]),
        (&json!({"text": "a"}), &json!({"bytes": "/wA="}))
    );
}

/// Every API group except the core group may be missing.
#[tokio::test]
async fn missing_api_group_is_an_empty_list_with_warning() {
    let missing = |request: &RecordedRequest, _| match request.target.starts_with("/api/v1/") {
        true => Reply::json(
            200,
            &json!({"kind": "AnyList", "metadata": {}, "items": [{"metadata": {"name": "x"}}]}),
        ),
        false => Reply::Body(404, vec![], "404 page not found\n".to_owned()),
    };
    for list in cluster_lists() {
        let info = list.info();
        let server = FakeServer::start(missing).await;
        let query = ListQuery {
            owner: info.owner.map(|_| object("x")),
            kinds: info.kinds.to_vec(),
            ..ListQuery::default()
        };
        let listing =
            adapter(&server).page(&permit_all(Verb::List, info.kinds[0]), list, &query).await.unwrap();
        let missing_kinds: Vec<_> = info.kinds.iter().filter(|kind| !kind.info().group.is_empty()).collect();
        let warnings: Vec<_> =
            missing_kinds.iter().map(|kind| Warning::NotServed(kind.info().plural)).collect();
        assert_eq!(listing.warnings, warnings, "{list:?}");
        assert_eq!(listing.rows.is_empty(), !missing_kinds.is_empty(), "{list:?}");
    }
    assert!(KINDS.iter().any(|kind| kind.info().group == "discovery.k8s.io"));
}
