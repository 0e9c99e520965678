//! Probes and permissions.

use super::*;

/// Replies of a cluster to a probe.
pub(super) fn probe_reply(request: &RecordedRequest) -> Reply {
    match request.target.split('?').next().unwrap_or_default() {
        "/version" => Reply::json(200, &json!({"gitVersion": "v1.37.2", "major": "1"})),
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => {
            Reply::json(201, &json!({"status": {"userInfo": {"username": "somebody"}}}))
        }
        "/api/v1/nodes" => {
            let node =
                |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
            let items = json!([node("True"), node("Unknown"), {}]);
            Reply::json(200, &json!({"kind": "NodeList", "metadata": {}, "items": items}))
        }
        "/api/v1/pods" => Reply::json(
            200,
            &json!({"kind": "PodList", "metadata": {"continue": "x", "remainingItemCount": 41}, "items": [{}]}),
        ),
        "/api/v1/namespaces" => Reply::status(403, "Forbidden", "no", json!({})),
        _ => Reply::Body(404, vec![], String::new()),
    }
}

#[tokio::test]
async fn probe_reports_readable_parts() {
    let server = FakeServer::start(|request, _| probe_reply(request)).await;
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let report = probe(&adapter(&server), &connection).await.unwrap();
    assert_eq!((report.version.as_str(), report.identity.as_deref()), ("v1.37.2", Some("somebody")));
    assert_eq!(report.nodes.map(|nodes| (nodes.ready, nodes.total)), Some((1, 3)));
    assert_eq!((report.pods, report.namespaces), (Some(42), None));
    let certificates: Vec<_> =
        report.certificates.iter().map(|end| format!("{} {}", end.what, end.expires_at)).collect();
    assert_eq!(certificates, ["api_server 2120-01-01T00:00:00Z", "ca 2120-06-01T00:00:00Z"]);
}

#[tokio::test]
async fn probe_rejects_non_cluster_and_anonymous_user() {
    let probed = async |reply: fn(&RecordedRequest) -> Option<Reply>| {
        let server =
            FakeServer::start(move |request, _| reply(request).unwrap_or_else(|| probe_reply(request))).await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        probe(&adapter(&server), &connection).await.map_err(|error| error.cause)
    };
    let cause = probed(|request| {
        (request.target == "/version").then(|| Reply::json(200, &json!({"gitVersion": "<b>"})))
    })
    .await;
    assert_eq!(cause.unwrap_err(), Cause::UnexpectedAnswer);
    let cause =
        probed(|request| (request.target == "/version").then(|| Reply::json(200, &json!({"hello": 1}))))
            .await;
    assert_eq!(cause.unwrap_err(), Cause::UnexpectedAnswer);
    let cause = probed(|request| {
        request
            .target
            .ends_with("selfsubjectreviews")
            .then(|| Reply::json(201, &json!({"status": {"userInfo": {"username": "system:anonymous"}}})))
    })
    .await;
    assert_eq!(cause.unwrap_err(), Cause::CredentialRejected);
    let cause = probed(|request| {
        let refusal = "selfsubjectreviews is forbidden: User \"system:anonymous\" cannot create resource";
        request
            .target
            .ends_with("selfsubjectreviews")
            .then(|| Reply::status(403, "Forbidden", refusal, json!({})))
    })
    .await;
    assert_eq!(cause.unwrap_err(), Cause::CredentialRejected);
    let report = probed(|request| {
        request.target.ends_with("selfsubjectreviews").then(|| Reply::Body(404, vec![], String::new()))
    })
    .await;
    assert_eq!(report.unwrap().identity, None);
}

#[tokio::test]
async fn permissions_name_missing_needs() {
    let server = FakeServer::start(|request, _| {
        let may_not =
            request.body.contains(r#""verb":"patch""#) || request.body.contains(r#""subresource":"log""#);
        Reply::json(201, &json!({"spec": {}, "status": {"allowed": !may_not}}))
    })
    .await;
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let permissions = permissions(&adapter(&server), &connection).await.unwrap();
    let missing = |feature: &str| {
        let found = permissions.iter().find(|permission| permission.feature == feature).unwrap();
        assert_eq!(found.allowed, found.missing.is_empty());
        found.missing.join(", ")
    };
    assert_eq!(missing("list_pods"), "");
    assert_eq!([missing("read_logs"), missing("read_workload_logs")], ["get pods/log", "get pods/log"]);
    assert_eq!(missing("show_problems"), "");
    assert_eq!(missing("scale_workloads"), "patch deployments.apps, patch statefulsets.apps");
}
