//! Probes and permissions.

use super::*;

/// A cluster that answers a probe.
pub(super) fn answers_a_probe(asked: &Asked) -> Reply {
    match asked.target.split('?').next().unwrap_or_default() {
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
async fn a_probe_tells_what_it_may_read() {
    let server = FakeServer::start(|asked, _| answers_a_probe(asked)).await;
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
async fn a_probe_refuses_what_is_no_cluster_and_what_does_not_know_us() {
    let probed = async |reply: fn(&Asked) -> Option<Reply>| {
        let server =
            FakeServer::start(move |asked, _| reply(asked).unwrap_or_else(|| answers_a_probe(asked))).await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        probe(&adapter(&server), &connection).await.map_err(|error| error.cause)
    };
    let cause =
        probed(|asked| (asked.target == "/version").then(|| Reply::json(200, &json!({"gitVersion": "<b>"}))))
            .await;
    assert_eq!(cause.unwrap_err(), Cause::UnexpectedAnswer);
    let cause =
        probed(|asked| (asked.target == "/version").then(|| Reply::json(200, &json!({"hello": 1})))).await;
    assert_eq!(cause.unwrap_err(), Cause::UnexpectedAnswer);
    let cause = probed(|asked| {
        asked
            .target
            .ends_with("selfsubjectreviews")
            .then(|| Reply::json(201, &json!({"status": {"userInfo": {"username": "system:anonymous"}}})))
    })
    .await;
    assert_eq!(cause.unwrap_err(), Cause::CredentialRejected);
    let cause = probed(|asked| {
        let refusal = "selfsubjectreviews is forbidden: User \"system:anonymous\" cannot create resource";
        asked
            .target
            .ends_with("selfsubjectreviews")
            .then(|| Reply::status(403, "Forbidden", refusal, json!({})))
    })
    .await;
    assert_eq!(cause.unwrap_err(), Cause::CredentialRejected);
    let report = probed(|asked| {
        asked.target.ends_with("selfsubjectreviews").then(|| Reply::Body(404, vec![], String::new()))
    })
    .await;
    assert_eq!(report.unwrap().identity, None);
}

#[tokio::test]
async fn permissions_name_what_is_missing() {
    let server = FakeServer::start(|asked, _| {
        let may_not =
            asked.body.contains(r#""verb":"patch""#) || asked.body.contains(r#""subresource":"log""#);
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
    assert_eq!(missing("read_logs"), "get pods/log");
    assert_eq!(missing("scale_workloads"), "patch deployments.apps, patch statefulsets.apps");
}
