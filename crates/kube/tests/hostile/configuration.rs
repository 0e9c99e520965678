//! ConfigMaps and Secrets: what is replaced, what is told, what is not.

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

fn to_update() -> Permit {
    permit(Verb::Update, Kind::Secret, "shop")
}

#[tokio::test]
async fn an_update_is_one_read_and_one_patch_of_the_version_read() {
    let server = FakeServer::start(|_, _| secret("7")).await;
    let row = adapter(&server).update(&to_update(), &object("pass"), &patch(Some("7"))).await.unwrap();
    assert_eq!(row.name, "pass");
    let asked = server.asked();
    let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
    assert_eq!(methods, ["GET", "PATCH"]);
    let sent: Value = serde_json::from_str(&asked[1].body).unwrap();
    let data = json!({"new": "Y2FuYXJ5", "old": null});
    assert_eq!(sent, json!({"metadata": {"resourceVersion": "7"}, "data": data}));
    assert!(asked[1].target.ends_with("fieldManager=pilothouse&fieldValidation=Strict"));

    let stale = adapter(&server).update(&to_update(), &object("pass"), &patch(Some("6"))).await.unwrap_err();
    assert_eq!((stale.cause, stale.context.name.as_deref()), (Cause::ConflictInCluster, Some("pass")));
    assert_eq!(server.asked().len(), 3, "what is stale is not sent");
}

#[tokio::test]
async fn an_update_that_is_refused_is_not_sent_again_and_quotes_nothing() {
    let cases = [
        (409, "Conflict", Cause::ConflictInCluster, false),
        (422, "Invalid", Cause::RejectedByCluster, false),
        (503, "ServiceUnavailable", Cause::FailingCluster, true),
    ];
    for (code, reason, cause, doubt) in cases {
        let server = FakeServer::start(move |asked, _| match asked.method.as_str() {
            "GET" => secret("7"),
            _ => Reply::status(code, reason, "data[new]: Invalid value: \"canary\" Y2FuYXJ5", json!({})),
        })
        .await;
        let error = adapter(&server).update(&to_update(), &object("pass"), &patch(None)).await.unwrap_err();
        assert_eq!((error.cause, error.outcome_unknown(), server.asked().len()), (cause, doubt, 2));
        let text = format!("{error} {error:?}");
        assert!(!text.contains("canary") && !text.contains("Y2Fu"), "{text}");
    }
}

#[tokio::test]
async fn a_read_before_an_update_leaves_no_doubt() {
    let nonsense: [Answers; 3] = [
        Box::new(|| Reply::Body(500, vec![], String::new())),
        Box::new(|| Reply::json(200, &json!({"metadata": {"name": "other"}}))),
        Box::new(|| Reply::json(200, &json!({"metadata": {"name": "pass"}, "data": "canary"}))),
    ];
    for reply in nonsense {
        let (server, adapter) = answering(reply).await;
        let error = adapter.update(&to_update(), &object("pass"), &patch(None)).await.unwrap_err();
        assert!(!error.outcome_unknown(), "{error}");
        assert!(server.asked().iter().all(|asked| asked.method == "GET"));
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

#[tokio::test]
async fn a_reveal_bears_the_id_of_its_operation() {
    let server = FakeServer::start(|_, _| secret("7")).await;
    let reveal = permit(Verb::Reveal, Kind::Secret, "shop");
    let revealed = adapter(&server).reveal(&reveal, &object("pass")).await.unwrap().unwrap();
    assert_eq!(revealed.data.len(), 2);
    assert_eq!(server.asked()[0].headers["audit-id"], reveal.operation_id().unwrap().to_string());
}

#[tokio::test]
async fn a_value_that_is_no_base64_is_not_revealed_and_not_quoted() {
    let reply = || {
        let metadata = json!({"name": "pass", "namespace": "shop"});
        Reply::json(200, &json!({"metadata": metadata, "data": {"k": "canary!"}}))
    };
    let (_server, adapter) = answering(reply).await;
    let error =
        adapter.reveal(&permit(Verb::Reveal, Kind::Secret, "shop"), &object("pass")).await.unwrap_err();
    assert_eq!((error.cause, error.outcome_unknown()), (Cause::UnexpectedAnswer, false));
    assert!(!format!("{error} {error:?}").contains("canary"));
}

#[tokio::test]
async fn what_is_absent_is_none_and_a_404_of_something_else_is_an_error() {
    let get = permit(Verb::Get, Kind::Secret, "shop");
    let absent = || Reply::status(404, "NotFound", "canary", json!({"kind": "secrets", "name": "pass"}));
    let (_server, adapter) = answering(absent).await;
    assert_eq!(SecretApi::get(&adapter, &get, &object("pass")).await, Ok(None));
    let update = adapter.update(&to_update(), &object("pass"), &patch(None)).await.unwrap_err();
    assert_eq!((update.cause, update.context.message), (Cause::NotFoundInCluster, None));
    let get = permit(Verb::Get, Kind::ConfigMap, "shop");
    assert_eq!(adapter.get_configmap(&get, &object("pass")).await, Ok(None));

    let (_server, adapter) = answering(|| Reply::Body(404, vec![], "404 page not found".to_owned())).await;
    let error = adapter.get_configmap(&get, &object("pass")).await.unwrap_err();
    assert_eq!(error.cause, Cause::UnexpectedAnswer);
}

#[tokio::test]
async fn a_new_secret_is_sent_once_and_in_base64() {
    let (server, adapter) = answering(|| Reply::Close).await;
    let data = BTreeMap::from([("k".to_owned(), "canary".into())]);
    let secret = NewSecret { name: object("pass"), r#type: None, data, labels: Labels::new() };
    let create = permit(Verb::Create, Kind::Secret, "shop");
    let error = SecretApi::create(&adapter, &create, &secret).await.unwrap_err();
    assert_eq!((error.cause, server.asked().len()), (Cause::ConnectionLost, 1));
    let sent: Value = serde_json::from_str(&server.asked()[0].body).unwrap();
    assert_eq!((&sent["data"], &sent["kind"]), (&json!({"k": "Y2FuYXJ5"}), &json!("Secret")));
}

#[tokio::test]
async fn a_configmap_without_data_is_replaced_all_the_same() {
    let metadata = json!({"name": "c", "resourceVersion": "7", "labels": {"a": "1"}});
    let server =
        FakeServer::start(move |_, _| Reply::json(200, &json!({"metadata": metadata, "data": null}))).await;
    let data = Some(BTreeMap::from([("k".to_owned(), "v".to_owned())]));
    let patch = ConfigMapPatch { data, labels: Some(Labels::new()), resource_version: None };
    let update = permit(Verb::Update, Kind::ConfigMap, "shop");
    adapter(&server).update_configmap(&update, &object("c"), &patch).await.unwrap();
    let sent: Value = serde_json::from_str(&server.asked()[1].body).unwrap();
    let metadata = json!({"resourceVersion": "7", "labels": {"a": null}});
    assert_eq!(sent, json!({"metadata": metadata, "data": {"k": "v"}}));
}
