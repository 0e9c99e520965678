//! Lists in chunks, and what is missing from them.

use super::*;

#[tokio::test]
async fn a_list_is_read_in_chunks_and_starts_over_once_when_its_place_is_forgotten() {
    let server = FakeServer::start(|asked, before| match (before, asked.target.contains("continue=next")) {
        (0, false) => pod_list(&["a", "b"], "next"),
        (1, true) => Reply::status(410, "Expired", "too old", json!({})),
        (2, false) => pod_list(&["b"], "next"),
        (3, true) => pod_list(&["c"], ""),
        _ => Reply::Body(500, vec![], String::new()),
    })
    .await;
    assert_eq!(names(&list_pods(&adapter(&server)).await.unwrap()), ["b", "c"]);
    assert!(server.asked().iter().all(|asked| asked.target.contains("limit=500")));

    let expired = |asked: &Asked, _| match asked.target.contains("continue=next") {
        false => pod_list(&["a"], "next"),
        true => Reply::status(410, "Expired", "too old", json!({})),
    };
    let server = FakeServer::start(expired).await;
    assert!(list_pods(&adapter(&server)).await.is_err());
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn what_is_not_served_or_not_readable_is_a_warning() {
    let server = FakeServer::start(|asked, _| match asked.target.split('?').next() {
        Some("/apis/apps/v1/deployments") => {
            Reply::json(200, &json!({"kind": "DeploymentList", "metadata": {}, "items": null}))
        }
        Some("/api/v1/namespaces") => {
            let items = json!([{"metadata": {"name": "shop"}}]);
            Reply::json(200, &json!({"kind": "NamespaceList", "metadata": {}, "items": items}))
        }
        Some("/api/v1/resourcequotas") => Reply::status(403, "Forbidden", "no", json!({})),
        _ => Reply::Body(404, vec![], "404 page not found".to_owned()),
    })
    .await;
    let adapter = adapter(&server);
    let query = ListQuery { kinds: vec![Kind::Deployment, Kind::CronJob], ..ListQuery::default() };
    let listing =
        adapter.page(&permit_all(Verb::List, Kind::Deployment), List::Workloads, &query).await.unwrap();
    assert_eq!((listing.rows.len(), listing.warnings), (0, vec![Warning::NotServed("cronjobs")]));

    let listing =
        adapter.page(&permit_all(Verb::List, Kind::Namespace), List::Namespaces, &ListQuery::default()).await;
    let listing = listing.unwrap();
    assert_eq!(names(&listing), ["shop"]);
    assert_eq!(listing.warnings, [Warning::Unreadable("resourcequotas")]);

    // without the core group it is no cluster
    let query = ListQuery::default();
    let error = adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
    assert_eq!(error.cause, Cause::UnexpectedAnswer);
}

#[tokio::test]
async fn nodes_are_told_with_the_pods_that_live_on_them() {
    let (node, pod) = (
        |name: &str| json!({"metadata": {"name": name}}),
        |node: Option<&str>| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}}),
    );
    let nodes = json!({"kind": "NodeList", "metadata": {}, "items": [node("a"), node("b")]});
    let pods =
        json!({"kind": "PodList", "metadata": {}, "items": [pod(Some("a")), pod(None), pod(Some("a"))]});
    let server = FakeServer::start(move |asked, _| {
        Reply::json(200, if asked.target.starts_with("/api/v1/nodes") { &nodes } else { &pods })
    })
    .await;
    let permit = permit_all(Verb::List, Kind::Node);
    let listing = adapter(&server).page(&permit, List::Nodes, &ListQuery::default()).await.unwrap();
    let counted: Vec<_> = listing
        .rows
        .iter()
        .map(|row| (row.name(), serde_json::from_str::<Value>(row.json()).unwrap()["pods"].clone()))
        .collect();
    assert_eq!(counted, [("a", json!(2)), ("b", json!(0))]);
}

#[tokio::test]
async fn of_secrets_nothing_that_a_cluster_says_is_told() {
    let refusal = || Reply::status(422, "Invalid", "data[key]: Invalid value: canary", json!({}));
    for code in [403, 422, 500] {
        let server = FakeServer::start(move |_, _| match code {
            422 => refusal(),
            code => Reply::status(code, "Forbidden", "canary", json!({})),
        })
        .await;
        let permit = permit_all(Verb::List, Kind::Secret);
        let error = adapter(&server).page(&permit, List::Secrets, &ListQuery::default()).await.unwrap_err();
        assert_eq!(error.context.message, None, "{code}");
    }
}

#[tokio::test]
async fn the_endpoints_of_a_service_are_asked_for_by_its_name_and_it_must_exist() {
    let answer = |asked: &Asked, services: Value| match asked.target.split('?').next() {
        Some("/api/v1/namespaces/shop/services") => {
            Reply::json(200, &json!({"kind": "ServiceList", "metadata": {}, "items": services}))
        }
        _ => {
            let endpoints = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]);
            let slice = json!({"metadata": {"name": "web-x", "namespace": "shop"}, "endpoints": endpoints});
            Reply::json(200, &json!({"kind": "EndpointSliceList", "metadata": {}, "items": [slice]}))
        }
    };
    let query = ListQuery { owner: Some(object("web")), ..ListQuery::default() };
    let list = permit(Verb::List, Kind::EndpointSlice, "shop");
    let there = move |asked: &Asked, _| answer(asked, json!([{"metadata": {"name": "web"}}]));
    let server = FakeServer::start(there).await;
    let listing = adapter(&server).page(&list, List::Endpoints, &query).await.unwrap();
    assert_eq!(names(&listing), ["web-x", "web-x"]);
    let mut asked: Vec<_> = server.asked().into_iter().map(|asked| asked.target).collect();
    asked.sort();
    assert_eq!(
        asked,
        [
            "/api/v1/namespaces/shop/services?&fieldSelector=metadata.name%3Dweb&limit=1",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?&labelSelector=kubernetes.io%2Fservice-name%3Dweb&limit=500",
        ]
    );

    let server = FakeServer::start(move |asked, _| answer(asked, json!([]))).await;
    let error = adapter(&server).page(&list, List::Endpoints, &query).await.unwrap_err();
    let context = &error.context;
    assert_eq!((error.cause, context.resource.as_deref()), (Cause::NotFoundInCluster, Some("service")));
    assert_eq!((context.namespace.as_deref(), context.name.as_deref()), (Some("shop"), Some("web")));
}
