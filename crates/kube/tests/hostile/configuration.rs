//! ConfigMaps and Secrets: replacing, revealing, and what errors must not contain.

use pilothouse_core::{
    config::ConfigMapPatch,
    secret::{NewSecret, SecretApi, SecretPatch},
};

use super::*;

fn secret(version: &str) -> Reply {
    // "canary" in base64
    let data = json!({"kept": "Y2FuYXJ5", "old": "Y2FuYXJ5"});
    let metadata = json!({"name": "pass", "namespace": "shop", "resourceVersion": version});
    Reply::json(200, &json!({"metadata": metadata, "data": data}))
}

fn patch(version: Option<&str>) -> SecretPatch {
    let data = BTreeMap::from([("kept".to_owned(), None), ("new".to_owned(), Some("canary".into()))]);
    SecretPatch { data: Some(data), resource_version: version.map(ToOwned::to_owned), labels: None }
}

fn update_permit() -> Permit {
    permit(Verb::Update, Kind::Secret, "shop")
}

#[tokio::test]
async fn update_is_one_read_and_one_patch_of_that_version() {
    let server = FakeServer::start(|_, _| secret("7")).await;
    let row = adapter(&server).update(&update_permit(), &object("pass"), &patch(Some("7"))).await.unwrap();
    assert_eq!(row.name, "pass");
    let requests = server.requests();
    let methods: Vec<_> = requests.iter().map(|request| request.method.as_str()).collect();
    assert_eq!(methods, ["GET", "PATCH"]);
    let sent: Value = serde_json::from_str(&requests[1].body).unwrap();
    let data = json!({"new": "Y2FuYXJ5", "old": null});
    assert_eq!(sent, json!({"metadata": {"resourceVersion": "7"}, "data": data}));
    assert!(requests[1].target.ends_with("fieldManager=pilothouse&fieldValidation=Strict"));

    let stale =
        adapter(&server).update(&update_permit(), &object("pass"), &patch(Some("6"))).await.unwrap_err();
    assert_eq!((stale.cause, stale.context.name.as_deref()), (Cause::ConflictInCluster, Some("pass")));
    assert_eq!(server.requests().len(), 3, "a stale update is not sent");
}

#[tokio::test]
async fn refused_update_is_not_retried_and_quotes_no_value() {
    let cases = [
        (409, "Conflict", Cause::ConflictInCluster, false),
        (422, "Invalid", Cause::RejectedByCluster, false),
        (503, "ServiceUnavailable", Cause::FailingCluster, true),
    ];
    for (code, reason, cause, outcome_unknown) in cases {
        let server = FakeServer::start(move |request, _| match request.method.as_str() {
            "GET" => secret("7"),
            _ => Reply::status(code, reason, "data[new]: Invalid value: \"canary\" Y2FuYXJ5", json!({})),
        })
        .await;
        let error =
            adapter(&server).update(&update_permit(), &object("pass"), &patch(None)).await.unwrap_err();
        assert_eq!(
            (error.cause, error.outcome_unknown(), server.requests().len()),
            (cause, outcome_unknown, 2)
        );
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary") && !text.contains("Y2Fu"), "{text}");
    }
}

#[tokio::test]
async fn failed_read_before_update_has_a_known_outcome() {
    let bad_replies: [ReplyFn; 3] = [
        Box::new(|| Reply::Body(500, vec![], String::new())),
        Box::new(|| Reply::json(200, &json!({"metadata": {"name": "other"}}))),
        Box::new(|| Reply::json(200, &json!({"metadata": {"name": "pass"}, "data": "canary"}))),
    ];
    for reply in bad_replies {
        let (server, adapter) = server_with_reply(reply).await;
        let error = adapter.update(&update_permit(), &object("pass"), &patch(None)).await.unwrap_err();
        assert!(!error.outcome_unknown(), "{error}");
        assert!(server.requests().iter().all(|request| request.method == "GET"));
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

#[tokio::test]
async fn permit_of_another_kind_sends_nothing() {
    let server = FakeServer::start(|_, _| secret("7")).await;
    let get = permit(Verb::Get, Kind::ConfigMap, "shop");
    let read = SecretApi::get(&adapter(&server), &get, &object("pass")).await.unwrap_err();
    let update = permit(Verb::Update, Kind::ConfigMap, "shop");
    let written = adapter(&server).update(&update, &object("pass"), &patch(None)).await.unwrap_err();
    assert_eq!((read.cause, written.cause), (Cause::Internal, Cause::Internal));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn reveal_carries_its_operation_id() {
    let server = FakeServer::start(|_, _| secret("7")).await;
    let reveal = permit(Verb::Reveal, Kind::Secret, "shop");
    let revealed = adapter(&server).reveal(&reveal, &object("pass")).await.unwrap().unwrap();
    assert_eq!(revealed.data.len(), 2);
    assert_eq!(server.requests()[0].headers["audit-id"], reveal.operation_id().unwrap().to_string());
}

#[tokio::test]
async fn invalid_base64_value_is_neither_revealed_nor_quoted() {
    let reply = || {
        let metadata = json!({"name": "pass", "namespace": "shop"});
        Reply::json(200, &json!({"metadata": metadata, "data": {"k": "canary!"}}))
    };
    let (_server, adapter) = server_with_reply(reply).await;
    let error =
        adapter.reveal(&permit(Verb::Reveal, Kind::Secret, "shop"), &object("pass")).await.unwrap_err();
    assert_eq!((error.cause, error.outcome_unknown()), (Cause::UnexpectedAnswer, false));
    assert!(!format!("{error} {error:?}").contains("canary"));
}

#[tokio::test]
async fn missing_object_is_none_and_404_without_status_is_an_error() {
    let get = permit(Verb::Get, Kind::Secret, "shop");
    let absent = || Reply::status(404, "NotFound", "canary", json!({"kind": "secrets", "name": "pass"}));
    let (_server, adapter) = server_with_reply(absent).await;
    assert_eq!(SecretApi::get(&adapter, &get, &object("pass")).await, Ok(None));
    let update = adapter.update(&update_permit(), &object("pass"), &patch(None)).await.unwrap_err();
    assert_eq!((update.cause, update.context.message), (Cause::NotFoundInCluster, None));
    let get = permit(Verb::Get, Kind::ConfigMap, "shop");
    assert_eq!(adapter.get_configmap(&get, &object("pass")).await, Ok(None));

    let (_server, adapter) =
        server_with_reply(|| Reply::Body(404, vec![], "404 page not found".to_owned())).await;
    let error = adapter.get_configmap(&get, &object("pass")).await.unwrap_err();
    assert_eq!(error.cause, Cause::UnexpectedAnswer);
}

#[tokio::test]
async fn new_secret_is_sent_once_in_base64() {
    let (server, adapter) = server_with_reply(|| Reply::Disconnect).await;
    let data = BTreeMap::from([("k".to_owned(), "canary".into())]);
    let secret = NewSecret { name: object("pass"), r#type: None, data, labels: Labels::new() };
    let create = permit(Verb::Create, Kind::Secret, "shop");
    let error = SecretApi::create(&adapter, &create, &secret).await.unwrap_err();
    assert_eq!((error.cause, server.requests().len()), (Cause::ConnectionLost, 1));
    let sent: Value = serde_json::from_str(&server.requests()[0].body).unwrap();
    assert_eq!((&sent["data"], &sent["kind"]), (&json!({"k": "Y2FuYXJ5"}), &json!("Secret")));
}

#[tokio::test]
async fn configmap_without_data_is_replaced() {
    let metadata = json!({"name": "c", "resourceVersion": "7", "labels": {"a": "1"}});
    let server =
        FakeServer::start(move |_, _| Reply::json(200, &json!({"metadata": metadata, "data": null}))).await;
    let data = Some(BTreeMap::from([("k".to_owned(), "v".to_owned())]));
    let patch = ConfigMapPatch { data, labels: Some(Labels::new()), resource_version: None };
    let update = permit(Verb::Update, Kind::ConfigMap, "shop");
    adapter(&server).update_configmap(&update, &object("c"), &patch).await.unwrap();
    let sent: Value = serde_json::from_str(&server.requests()[1].body).unwrap();
    let metadata = json!({"resourceVersion": "7", "labels": {"a": null}});
    assert_eq!(sent, json!({"metadata": metadata, "data": {"k": "v"}}));
}
