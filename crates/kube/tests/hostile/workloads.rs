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
