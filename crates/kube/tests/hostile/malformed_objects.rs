//! Odd and large objects: each is shown as well as can be, and none hides the others.

use pilothouse_core::{inventory::LISTS, kind::KINDS, secret::SecretApi};

use super::*;

/// A list answered with these objects, whatever its kind.
async fn listed(list: List, objects: Value) -> Listing {
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

fn of_a_cluster() -> impl Iterator<Item = List> {
    LISTS.iter().filter(|info| info.project.is_some()).map(|info| info.list)
}

#[tokio::test]
async fn an_object_with_nothing_in_it_is_a_row() {
    for list in of_a_cluster() {
        let kinds = list.info().kinds.len() + list.info().more_kinds.len();
        // an EndpointSlice without addresses has no rows
        let rows_of_one = if list == List::Endpoints { 0 } else { kinds };
        let bare = [
            json!({}),
            json!({"metadata": null, "spec": null, "status": null, "data": null}),
            json!({"metadata": {}, "spec": {}, "status": {}}),
            json!({"metadata": {"name": "x", "labels": null, "annotations": null, "ownerReferences": null,
                "creationTimestamp": null}}),
        ];
        for object in bare {
            let listing = listed(list, json!([object])).await;
            assert_eq!(listing.rows.len(), rows_of_one, "{list:?} {object}");
            assert!(listing.rows.iter().all(|row| row.json().contains("\"labels\":{}")), "{list:?}");
        }
        let listing = listed(list, json!([{"metadata": {"name": "x"}}, {}])).await;
        assert_eq!(listing.rows.len(), 2 * rows_of_one, "{list:?}");
    }
}

#[tokio::test]
async fn a_configmap_of_a_mebibyte_is_shown_however_it_is_written() {
    // in JSON a control character is six bytes
    for value in ["x".repeat(1 << 20), "\u{1}".repeat(1 << 20)] {
        let metadata = json!({"name": "large", "namespace": "shop", "resourceVersion": "7"});
        let body = json!({"metadata": metadata, "data": {"k": value}}).to_string();
        let (_server, adapter) = answering(move || Reply::Body(200, vec![], body.clone())).await;
        let get = permit(Verb::Get, Kind::ConfigMap, "shop");
        let detail = adapter.get_configmap(&get, &object("large")).await.unwrap().unwrap();
        assert_eq!((detail.data["k"].len(), detail.configmap.keys[0].bytes), (1 << 20, 1 << 20));
    }
}

/// 500 objects of a mebibyte are more than is read of one answer: then fewer are asked for, from the same place on.
#[tokio::test]
async fn a_list_of_large_objects_is_read_in_smaller_chunks() {
    let server = FakeServer::start(|asked, _| {
        let asks = |name: &str| asked.target.split(['?', '&']).find_map(|pair| pair.strip_prefix(name));
        match (asks("continue="), asks("limit=").unwrap()) {
            (None, "500") | (Some("b"), "50") => Reply::Endless,
            (None, "50") => pod_list(&["a"], "b"),
            (Some("b"), "5") => pod_list(&["b", "c"], ""),
            _ => Reply::Body(500, vec![], String::new()),
        }
    })
    .await;
    assert_eq!(names(&list_pods(&adapter(&server)).await.unwrap()), ["a", "b", "c"]);
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_secrets_value_that_is_no_text_is_told_in_base64() {
    let metadata = json!({"name": "pass", "namespace": "shop"});
    let secret = json!({"metadata": metadata, "data": {"bytes": "/wA=", "text": "YQ=="}});
    let (_server, adapter) = answering(move || Reply::json(200, &secret)).await;
    let reveal = permit(Verb::Reveal, Kind::Secret, "shop");
    let revealed = adapter.reveal(&reveal, &object("pass")).await.unwrap().unwrap();
    let revealed = serde_json::to_value(revealed).unwrap();
    assert_eq!(
        (&revealed["data"], &revealed["binary_data"]),
        (&json!({"text": "a"}), &json!({"bytes": "/wA="}))
    );
}

/// Every group but the core one may be missing: an empty list that says so.
#[tokio::test]
async fn a_group_that_a_cluster_lacks_is_an_empty_list_and_a_warning() {
    let missing = |asked: &Asked, _| match asked.target.starts_with("/api/v1/") {
        true => Reply::json(
            200,
            &json!({"kind": "AnyList", "metadata": {}, "items": [{"metadata": {"name": "x"}}]}),
        ),
        false => Reply::Body(404, vec![], "404 page not found\n".to_owned()),
    };
    for list in of_a_cluster() {
        let info = list.info();
        let server = FakeServer::start(missing).await;
        let query = ListQuery {
            owner: info.owner.map(|_| object("x")),
            kinds: info.kinds.to_vec(),
            ..ListQuery::default()
        };
        let listing =
            adapter(&server).page(&permit_all(Verb::List, info.kinds[0]), list, &query).await.unwrap();
        let lacking: Vec<_> = info.kinds.iter().filter(|kind| !kind.info().group.is_empty()).collect();
        let warnings: Vec<_> = lacking.iter().map(|kind| Warning::NotServed(kind.info().plural)).collect();
        assert_eq!(listing.warnings, warnings, "{list:?}");
        assert_eq!(listing.rows.is_empty(), !lacking.is_empty(), "{list:?}");
    }
    assert!(KINDS.iter().any(|kind| kind.info().group == "discovery.k8s.io"));
}
