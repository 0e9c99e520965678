//! Rollouts: conditions of patches, revisions, and warnings about a pod template.

use pilothouse_core::{
    json_patch::JsonPatch,
    object::Metadata,
    rollout::RolloutApi,
    workload::{Reference, StoredRevision},
};

use super::*;

fn metadata() -> Metadata {
    Metadata { uid: "d1".to_owned(), generation: Some(3), ..Metadata::default() }
}

fn web() -> Value {
    json!({"metadata": {"name": "web", "namespace": "shop", "uid": "d1"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}})
}

#[tokio::test]
async fn patch_whose_condition_does_not_hold_is_modified() {
    let generic = "the server rejected our request due to an error in our request";
    let cause =
        json!({"causes": [{"reason": "FieldValueInvalid", "message": "canary", "field": "spec.paused"}]});
    let quoting =
        " \"\" is invalid: patch: Invalid value: \"{canary}\": strict decoding error: unknown field \"x\"";
    let quoted = json!({"causes": [{"reason": "FieldValueInvalid", "message": "canary", "field": "patch"}]});
    for (code, reason, message, details, expected, passed_on) in [
        (422, "Invalid", generic, json!({}), Cause::Modified, None),
        (
            422,
            "Invalid",
            "spec.paused is invalid",
            cause,
            Cause::RejectedByCluster,
            Some("spec.paused is invalid"),
        ),
        (422, "Invalid", quoting, quoted, Cause::RejectedByCluster, Some("unknown field \"x\"")),
        (409, "Conflict", "modified", json!({}), Cause::ConflictInCluster, Some("modified")),
    ] {
        let (server, adapter) =
            server_with_reply(move || Reply::status(code, reason, message, details.clone())).await;
        let patch = JsonPatch::of(&metadata()).add("/spec/paused", true);
        let pause = permit(Verb::Pause, Kind::Deployment, "shop");
        let error = RolloutApi::patch(&adapter, &pause, &object("web"), &patch).await.unwrap_err();
        assert_eq!((error.cause, error.context.message.as_deref()), (expected, passed_on), "{message}");
        assert_eq!(error.context.name.as_deref(), Some("web"));
        assert!(!error.outcome_unknown(), "nothing was applied");
        let requests = server.requests();
        assert_eq!(requests.len(), 1, "a change is sent once");
        assert_eq!(
            (&*requests[0].method, &*requests[0].headers["content-type"]),
            ("PATCH", "application/json-patch+json")
        );
        assert_eq!(
            serde_json::from_str::<Value>(&requests[0].body).unwrap(),
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "d1"},
                {"op": "test", "path": "/metadata/generation", "value": 3},
                {"op": "add", "path": "/spec/paused", "value": true},
            ])
        );
    }
}

#[tokio::test]
async fn patch_without_a_response_has_an_unknown_outcome() {
    let (_server, adapter) = server_with_reply(|| Reply::Disconnect).await;
    let pause = permit(Verb::Pause, Kind::Deployment, "shop");
    let patch = JsonPatch::of(&metadata()).add("/spec/paused", true);
    let error = RolloutApi::patch(&adapter, &pause, &object("web"), &patch).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

#[tokio::test]
async fn history_has_only_own_revisions() {
    let owned =
        |kind: &str, uid: &str| json!([{"kind": kind, "name": "web", "uid": uid, "controller": true}]);
    let set = |name: &str, owners: Value| {
        let annotations = json!({"deployment.kubernetes.io/revision": "7"});
        let metadata = json!({"name": name, "namespace": "shop", "uid": name, "annotations": annotations,
            "ownerReferences": owners});
        json!({"metadata": metadata, "spec": {"template": {"spec": {}}}})
    };
    let sets = json!([
        set("web-own", owned("Deployment", "d1")),
        // of a deployment of the same name that was deleted
        set("web-old", owned("Deployment", "d0")),
        set("web-none", Value::Null),
    ]);
    for refused in [false, true] {
        let sets = sets.clone();
        let server = FakeServer::start(move |request, _| {
            if !request.target.starts_with("/apis/apps/v1/namespaces/shop/replicasets?") {
                Reply::json(200, &web())
            } else if refused {
                Reply::status(403, "Forbidden", "may not", json!({}))
            } else {
                Reply::json(200, &json!({"kind": "ReplicaSetList", "metadata": {}, "items": sets}))
            }
        })
        .await;
        let undo = permit(Verb::Undo, Kind::Deployment, "shop");
        let history = RolloutApi::history(&adapter(&server), &undo, &object("web")).await.unwrap().unwrap();
        let names: Vec<_> =
            history.revisions.iter().map(|revision: &StoredRevision| &*revision.name).collect();
        assert_eq!(names, if refused { vec![] } else { vec!["web-own"] });
        assert_eq!(history.unreadable, refused.then_some(Warning::Unreadable("replicasets")));
        let selected = server.requests()[1].target.contains("labelSelector=app%3Dweb");
        assert!(selected, "{:?}", server.requests()[1]);
    }
    let (_server, adapter) =
        server_with_reply(|| Reply::status(404, "NotFound", "no", json!({"kind": "deployments"}))).await;
    let undo = permit(Verb::Undo, Kind::Deployment, "shop");
    assert!(RolloutApi::history(&adapter, &undo, &object("web")).await.unwrap().is_none());
}

fn references() -> Vec<Reference> {
    let reference = |(kind, name): (Kind, &str)| Reference { kind, name: object(name) };
    [(Kind::ConfigMap, "there"), (Kind::ConfigMap, "gone"), (Kind::Secret, "login"), (Kind::Secret, "tls")]
        .map(reference)
        .into()
}

#[tokio::test]
async fn references_are_checked_by_their_metadata() {
    let server = FakeServer::start(|request, _| {
        let path = request.target.split('?').next().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "there" => {
                Reply::json(200, &json!({"kind": "PartialObjectMetadata", "metadata": {"name": "there"}}))
            }
            "gone" => Reply::status(404, "NotFound", "no", json!({"kind": "configmaps", "name": "gone"})),
            "horizontalpodautoscalers" => Reply::Body(500, vec![], String::new()),
            _ => Reply::status(403, "Forbidden", "may not", json!({})),
        }
    })
    .await;
    let undo = permit(Verb::Undo, Kind::Deployment, "shop");
    let warnings = RolloutApi::advice(&adapter(&server), &undo, &object("web"), &references()).await;
    let missing = Warning::MissingReference("configmap/gone".to_owned());
    assert_eq!(warnings, [missing, Warning::Unreadable("secrets")]);
    let of_references = |request: &&RecordedRequest| !request.target.contains("horizontalpodautoscalers");
    for request in server.requests().iter().filter(of_references) {
        assert!(request.headers["accept"].contains("as=PartialObjectMetadata"), "{request:?}");
    }
}

/// What the caller may not list is not read: the answer would reveal whether it exists.
#[tokio::test]
async fn references_that_the_caller_may_not_list_are_not_read() {
    let server = FakeServer::start(|_, _| Reply::Body(500, vec![], String::new())).await;
    let ann = caller(json!([{"verbs": ["list", "update"], "resources": ["workloads"]}]), json!(["shop"]));
    let access = AccessRequest::to(Verb::Undo, Resource::Kind(Kind::Deployment)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access.in_namespace(&common::namespace("shop"))).unwrap();
    let warnings = RolloutApi::advice(&adapter(&server), &permit, &object("web"), &references()).await;
    assert_eq!(warnings, [Warning::Unreadable("configmaps"), Warning::Unreadable("secrets")]);
    let requests = server.requests();
    assert!(
        requests.iter().all(|request| request.target.contains("horizontalpodautoscalers")),
        "{requests:?}"
    );
}
