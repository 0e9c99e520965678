//! Writes of workloads and namespaces, with the reads around them.

use super::*;

#[tokio::test]
async fn failed_autoscaler_check_does_not_hide_the_scale() {
    for (code, warnings) in
        [(403, vec![Warning::Unreadable("horizontalpodautoscalers")]), (500, vec![]), (404, vec![])]
    {
        let server = FakeServer::start(move |request, _| match request.method.as_str() {
            "PATCH" => Reply::json(
                200,
                &json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 3}}),
            ),
            _ => Reply::Body(code, vec![], String::new()),
        })
        .await;
        let permit = permit(Verb::Scale, Kind::Deployment, "shop");
        let scaled =
            adapter(&server).scale(&permit, &object("web"), Replicas::try_from(3).unwrap()).await.unwrap();
        assert_eq!((scaled.value.replicas, scaled.warnings), (Some(3), warnings));
        assert_eq!(server.requests()[0].body, r#"{"spec":{"replicas":3}}"#);
        assert_eq!(server.requests()[0].headers["content-type"], "application/merge-patch+json");
    }
}

#[tokio::test]
async fn paused_deployment_is_not_restarted() {
    let server = FakeServer::start(|_, _| {
        Reply::json(200, &json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"paused": true}}))
    })
    .await;
    let permit = permit(Verb::Restart, Kind::Deployment, "shop");
    let error =
        adapter(&server).restart(&permit, &object("web"), "2026-01-02T03:04:05.6Z".parse().unwrap()).await;
    let error = error.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::RolloutPaused, Some("web")));
    assert!(server.requests().iter().all(|request| request.method == "GET"));
}

/// The annotation has a resolution of 1 s, so a second restart in the same second would change nothing.
#[tokio::test]
async fn second_restart_within_one_second_is_a_conflict() {
    let restarted = |at: &str| {
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": at});
        let template = json!({"metadata": {"annotations": annotations}});
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"template": template}})
    };
    let at = "2026-01-02T03:04:05.6Z".parse().unwrap();
    for (last, sent) in [
        ("2026-01-02T03:04:05Z", false),
        ("2026-01-02T04:04:05+01:00", false),
        ("2026-01-02T03:04:04Z", true),
    ] {
        let deployment = restarted(last);
        let (server, adapter) = server_with_reply(move || Reply::json(200, &deployment)).await;
        let result =
            adapter.restart(&permit(Verb::Restart, Kind::Deployment, "shop"), &object("web"), at).await;
        assert_eq!(
            result.as_ref().err().map(|error| error.cause),
            (!sent).then_some(Cause::ConflictInCluster),
            "{last}"
        );
        assert_eq!(server.requests().iter().any(|request| request.method == "PATCH"), sent, "{last}");
    }
}

/// A Deployment's pods are found by its ReplicaSets; where those are not readable, by their names.
#[tokio::test]
async fn detail_omits_unreadable_kinds_with_warning() {
    let owner = |kind: &str, name: &str, uid: &str| json!([{"kind": kind, "name": name, "uid": uid, "controller": true}]);
    let pod = |name: &str, owners: Value, hash: Value| json!({"metadata": {"name": name, "namespace": "shop", "ownerReferences": owners, "labels": {"pod-template-hash": hash}}});
    let pods = json!([
        pod("web-abc-1", owner("ReplicaSet", "web-abc", "r1"), json!("abc")),
        pod("other-abc-1", owner("ReplicaSet", "other-abc", "r2"), json!("abc")),
        pod("web-abc-2", owner("StatefulSet", "web-abc", "s1"), json!("abc")),
    ]);
    let replica_sets = json!([{"metadata": {"name": "web-abc", "namespace": "shop", "uid": "r1",
        "ownerReferences": owner("Deployment", "web", "d1")}}]);
    for (unreadable, found, revisions) in [
        ("", vec!["web-abc-1"], 1),
        ("replicasets", vec!["web-abc-1"], 0),
        ("pods", vec![], 1),
        ("events", vec!["web-abc-1"], 1),
    ] {
        let (pods, replica_sets) = (pods.clone(), replica_sets.clone());
        let server = FakeServer::start(move |request, _| {
            let list =
                |items: &Value| Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": items}));
            match request
                .target
                .split(['?', '/'])
                .rfind(|part| ["pods", "replicasets", "events", "web"].contains(part))
            {
                Some(plural) if plural == unreadable => Reply::status(403, "Forbidden", "may not", json!({})),
                Some("pods") => list(&pods),
                Some("replicasets") => list(&replica_sets),
                Some("events") => list(&json!([])),
                _ => Reply::json(
                    200,
                    &json!({"metadata": {"name": "web", "namespace": "shop", "uid": "d1"},
                    "spec": {"selector": {"matchLabels": {"app": "web"}}}}),
                ),
            }
        })
        .await;
        let get = permit(Verb::Get, Kind::Deployment, "shop");
        let parts = WorkloadApi::get(&adapter(&server), &get, &object("web")).await.unwrap().unwrap();
        let names: Vec<_> = parts.pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!((names, parts.revisions.len()), (found, revisions), "{unreadable}");
        let warnings: Vec<_> = parts.warnings.iter().map(Warning::subject).collect();
        assert_eq!(warnings, if unreadable.is_empty() { vec![] } else { vec![unreadable] });
    }
}

/// What the credential may read and the caller may not is not read.
#[tokio::test]
async fn detail_omits_kinds_that_the_caller_may_not_list() {
    let server = FakeServer::start(|request, _| {
        if request.target.starts_with("/apis/apps/v1/namespaces/shop/deployments/web") {
            let spec = json!({"selector": {"matchLabels": {"app": "web"}}});
            let metadata = json!({"name": "web", "namespace": "shop", "uid": "d1"});
            Reply::json(200, &json!({"metadata": metadata, "spec": spec}))
        } else {
            Reply::json(200, &json!({"kind": "EventList", "metadata": {}, "items": []}))
        }
    })
    .await;
    let rules =
        json!([{"verbs": ["get"], "resources": ["workloads"]}, {"verbs": ["list"], "resources": ["events"]}]);
    let ann = caller(rules, json!(["shop"]));
    let access = AccessRequest::to(Verb::Get, Resource::Kind(Kind::Deployment)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access.in_namespace(&common::namespace("shop"))).unwrap();
    let parts = WorkloadApi::get(&adapter(&server), &permit, &object("web")).await.unwrap().unwrap();
    assert!(parts.pods.is_empty() && parts.revisions.is_empty());
    let mut warnings: Vec<_> = parts.warnings.iter().map(Warning::subject).collect();
    warnings.sort_unstable();
    assert_eq!(warnings, ["pods", "replicasets"]);
    let requests = server.requests();
    let paths: Vec<_> = requests.iter().filter_map(|request| request.target.split('?').next()).collect();
    assert_eq!(paths, ["/apis/apps/v1/namespaces/shop/deployments/web", "/api/v1/namespaces/shop/events"]);
}

#[tokio::test]
async fn scale_without_the_right_to_list_autoscalers_does_not_read_them() {
    let server = FakeServer::start(|_, _| {
        let metadata = json!({"name": "web", "namespace": "shop"});
        Reply::json(200, &json!({"metadata": metadata, "spec": {"replicas": 3}}))
    })
    .await;
    let ann = caller(json!([{"verbs": ["scale"], "resources": ["workloads"]}]), json!(["shop"]));
    let access = AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access.in_namespace(&common::namespace("shop"))).unwrap();
    let scaled = adapter(&server).scale(&permit, &object("web"), Replicas::try_from(3).unwrap()).await;
    assert_eq!(scaled.unwrap().warnings, [Warning::Unreadable("horizontalpodautoscalers")]);
    let methods: Vec<_> = server.requests().into_iter().map(|request| request.method).collect();
    assert_eq!(methods, ["PATCH"]);
}

/// As the API server responds for an object that is being deleted (`k8s.io/apiserver/pkg/registry/generic/registry`).
#[tokio::test]
async fn namespace_being_deleted_is_terminating_not_existing() {
    let details = json!({"kind": "namespaces", "name": "shop"});
    for (message, cause) in [
        ("namespaces \"shop\" already exists", Cause::AlreadyExists),
        ("object is being deleted: namespaces \"shop\" already exists", Cause::NamespaceTerminating),
    ] {
        let details = details.clone();
        let (_server, adapter) =
            server_with_reply(move || Reply::status(409, "AlreadyExists", message, details.clone())).await;
        let create = permit(Verb::Create, Kind::Namespace, "shop");
        let error = NamespaceApi::create(&adapter, &create, &Labels::new()).await.unwrap_err();
        assert_eq!((error.cause, error.context.name.as_deref()), (cause, Some("shop")));
    }
}

#[tokio::test]
async fn deletion_error_names_the_missing_object() {
    let (_server, adapter) =
        server_with_reply(|| Reply::status(404, "NotFound", "no", json!({"kind": "namespaces"}))).await;
    let error =
        NamespaceApi::delete(&adapter, &permit(Verb::Delete, Kind::Namespace, "shop")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("namespace"))
    );
    assert_eq!(error.context.name.as_deref(), Some("shop"));
}
