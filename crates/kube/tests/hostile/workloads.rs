//! Changes with reads around them.

use super::*;

#[tokio::test]
async fn nothing_after_a_scale_hides_that_it_was_done() {
    for (code, warnings) in
        [(403, vec![Warning::Unreadable("horizontalpodautoscalers")]), (500, vec![]), (404, vec![])]
    {
        let server = FakeServer::start(move |asked, _| match asked.method.as_str() {
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
        assert_eq!(server.asked()[0].body, r#"{"spec":{"replicas":3}}"#);
        assert_eq!(server.asked()[0].headers["content-type"], "application/merge-patch+json");
    }
}

#[tokio::test]
async fn a_paused_deployment_is_not_restarted() {
    let server = FakeServer::start(|_, _| {
        Reply::json(200, &json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"paused": true}}))
    })
    .await;
    let permit = permit(Verb::Restart, Kind::Deployment, "shop");
    let error =
        adapter(&server).restart(&permit, &object("web"), "2026-01-02T03:04:05.6Z".parse().unwrap()).await;
    let error = error.unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::RolloutPaused, Some("web")));
    assert!(server.asked().iter().all(|asked| asked.method == "GET"));
}

/// The annotation counts seconds, so that a second restart in the same one would change nothing.
#[tokio::test]
async fn a_second_restart_within_the_same_second_is_a_conflict() {
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
        let (server, adapter) = answering(move || Reply::json(200, &deployment)).await;
        let result =
            adapter.restart(&permit(Verb::Restart, Kind::Deployment, "shop"), &object("web"), at).await;
        assert_eq!(
            result.as_ref().err().map(|error| error.cause),
            (!sent).then_some(Cause::ConflictInCluster),
            "{last}"
        );
        assert_eq!(server.asked().iter().any(|asked| asked.method == "PATCH"), sent, "{last}");
    }
}

/// A deployment's pods are found by its replica sets; where those may not be read, by the names they bear.
#[tokio::test]
async fn a_detail_is_told_without_what_may_not_be_read() {
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
        let server = FakeServer::start(move |asked, _| {
            let list =
                |items: &Value| Reply::json(200, &json!({"kind": "AnyList", "metadata": {}, "items": items}));
            match asked
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
        let warnings: Vec<_> = parts.warnings.iter().map(Warning::about).collect();
        assert_eq!(warnings, if unreadable.is_empty() { vec![] } else { vec![unreadable] });
    }
}

/// As the API server says it of an object that is on its way out (`k8s.io/apiserver/pkg/registry/generic/registry`).
#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_not_merely_there() {
    let details = json!({"kind": "namespaces", "name": "shop"});
    for (message, cause) in [
        ("namespaces \"shop\" already exists", Cause::AlreadyExists),
        ("object is being deleted: namespaces \"shop\" already exists", Cause::NamespaceTerminating),
    ] {
        let details = details.clone();
        let (_server, adapter) =
            answering(move || Reply::status(409, "AlreadyExists", message, details.clone())).await;
        let create = permit(Verb::Create, Kind::Namespace, "shop");
        let error = NamespaceApi::create(&adapter, &create, &Labels::new()).await.unwrap_err();
        assert_eq!((error.cause, error.context.name.as_deref()), (cause, Some("shop")));
    }
}

#[tokio::test]
async fn deletions_name_what_is_absent() {
    let (_server, adapter) =
        answering(|| Reply::status(404, "NotFound", "no", json!({"kind": "namespaces"}))).await;
    let error =
        NamespaceApi::delete(&adapter, &permit(Verb::Delete, Kind::Namespace, "shop")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.context.resource.as_deref()),
        (Cause::NotFoundInCluster, Some("namespace"))
    );
    assert_eq!(error.context.name.as_deref(), Some("shop"));
}
