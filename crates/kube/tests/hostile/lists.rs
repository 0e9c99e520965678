//! Uncached lists in chunks, and their warnings.

use super::*;

#[tokio::test]
async fn chunked_list_starts_over_once_after_expired_token() {
    let server =
        FakeServer::start(|request, before| match (before, request.target.contains("continue=next")) {
            (0, false) => pod_list(&["a", "b"], "next"),
            (1, true) => Reply::status(410, "Expired", "too old", json!({})),
            (2, false) => pod_list(&["b"], "next"),
            (3, true) => pod_list(&["c"], ""),
            _ => Reply::Body(500, vec![], String::new()),
        })
        .await;
    assert_eq!(names(&list_pods(&adapter(&server)).await.unwrap()), ["b", "c"]);
    assert!(server.requests().iter().all(|request| request.target.contains("limit=500")));

    let expired = |request: &RecordedRequest, _| match request.target.contains("continue=next") {
        false => pod_list(&["a"], "next"),
        true => Reply::status(410, "Expired", "too old", json!({})),
    };
    let server = FakeServer::start(expired).await;
    assert!(list_pods(&adapter(&server)).await.is_err());
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn unserved_or_unreadable_kind_is_a_warning() {
    let server = FakeServer::start(|request, _| match request.target.split('?').next() {
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

    // a server without the core group is not a cluster
    let query = ListQuery::default();
    let error = adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await.unwrap_err();
    assert_eq!(error.cause, Cause::UnexpectedAnswer);
}

#[tokio::test]
async fn joined_kind_is_not_read_for_a_caller_who_may_not_list_it() {
    let server = FakeServer::start(|_, _| {
        let items = json!([{"metadata": {"name": "a"}}]);
        Reply::json(200, &json!({"kind": "NodeList", "metadata": {}, "items": items}))
    })
    .await;
    let ann = caller(json!([{"verbs": ["list"], "resources": ["nodes"]}]), Value::Null);
    let access = AccessRequest::to(Verb::List, Resource::Kind(Kind::Node)).in_cluster(CLUSTER);
    let permit = judged_permit(&ann, access).unwrap();
    let query = ListQuery { kinds: vec![Kind::Node], ..ListQuery::default() };
    let listing = adapter(&server).page(&permit, List::Nodes, &query).await.unwrap();
    let pods: Vec<_> = listing.rows.iter().map(|row| row.parse::<Value>().unwrap()["pods"].clone()).collect();
    assert_eq!((pods, listing.warnings), (vec![Value::Null], vec![Warning::Unreadable("pods")]));
    assert!(server.requests().iter().all(|request| request.target.starts_with("/api/v1/nodes")));
}

#[tokio::test]
async fn nodes_have_the_count_of_their_pods() {
    let (node, pod) = (
        |name: &str| json!({"metadata": {"name": name}}),
        |node: Option<&str>| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}}),
    );
    let nodes = json!({"kind": "NodeList", "metadata": {}, "items": [node("a"), node("b")]});
    let pods =
        json!({"kind": "PodList", "metadata": {}, "items": [pod(Some("a")), pod(None), pod(Some("a"))]});
    let server = FakeServer::start(move |request, _| {
        Reply::json(200, if request.target.starts_with("/api/v1/nodes") { &nodes } else { &pods })
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
async fn cluster_messages_about_secrets_are_dropped() {
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
async fn endpoints_are_selected_by_an_existing_service() {
    let reply = |request: &RecordedRequest, services: Value| match request.target.split('?').next() {
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
    let existing = move |request: &RecordedRequest, _| reply(request, json!([{"metadata": {"name": "web"}}]));
    let server = FakeServer::start(existing).await;
    let listing = adapter(&server).page(&list, List::Endpoints, &query).await.unwrap();
    assert_eq!(names(&listing), ["web-x", "web-x"]);
    let mut requests: Vec<_> = server.requests().into_iter().map(|request| request.target).collect();
    requests.sort();
    assert_eq!(
        requests,
        [
            "/api/v1/namespaces/shop/services?&fieldSelector=metadata.name%3Dweb&limit=1",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?&labelSelector=kubernetes.io%2Fservice-name%3Dweb&limit=500",
        ]
    );

    let server = FakeServer::start(move |request, _| reply(request, json!([]))).await;
    let error = adapter(&server).page(&list, List::Endpoints, &query).await.unwrap_err();
    let context = &error.context;
    assert_eq!((error.cause, context.resource.as_deref()), (Cause::NotFoundInCluster, Some("service")));
    assert_eq!((context.namespace.as_deref(), context.name.as_deref()), (Some("shop"), Some("web")));
}

#[tokio::test]
async fn permit_for_a_set_reads_all_namespaces_and_returns_rows_of_the_set() {
    let object = |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace}});
    let server = FakeServer::start(move |request, _| {
        let (kind, items) = match request.target.split('?').next() {
            Some("/api/v1/pods") => {
                ("PodList", json!([object("a", "team-a"), object("b", "shop"), object("c", "team-b")]))
            }
            Some("/api/v1/namespaces") => {
                ("NamespaceList", json!([{"metadata": {"name": "shop"}}, {"metadata": {"name": "team-a"}}]))
            }
            _ => ("List", json!([])),
        };
        Reply::json(200, &json!({"kind": kind, "metadata": {}, "items": items}))
    })
    .await;
    let adapter = adapter(&server);
    let page = async |kind: Kind, list: List, query: &ListQuery| {
        adapter.page(&permit_within(Verb::List, kind, team()), list, query).await
    };
    let all = ListQuery::default();
    let pods = page(Kind::Pod, List::Pods, &all).await.unwrap();
    assert_eq!((names(&pods), pods.pagination.total), (vec!["a", "c"], 2));
    assert!(server.requests()[0].target.starts_with("/api/v1/pods?"));
    let one = |namespace| ListQuery {
        namespaces: NamespaceScope::One(common::namespace(namespace)),
        ..ListQuery::default()
    };
    assert_eq!(names(&page(Kind::Pod, List::Pods, &one("team-b")).await.unwrap()), ["c"]);
    assert_eq!(names(&page(Kind::Namespace, List::Namespaces, &all).await.unwrap()), ["team-a"]);
    let counts = adapter.count(&permit_within(Verb::List, Kind::Pod, team()), List::Pods).await.unwrap();
    assert_eq!(counts.total, 2);
}

/// What other namespaces contain is not read, so it counts against no limit of the request.
#[tokio::test]
async fn set_of_few_names_is_listed_by_namespace() {
    let server = FakeServer::start(|request, _| {
        let list = |kind: &str, items: Value| {
            Reply::json(200, &json!({"kind": kind, "metadata": {}, "items": items}))
        };
        let object =
            |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace}});
        match request.target.split('?').next().unwrap() {
            "/api/v1/namespaces/shop/pods" => {
                list("PodList", json!([object("b", "shop"), object("d", "shop")]))
            }
            "/api/v1/namespaces/bank/pods" => list("PodList", json!([object("a", "bank")])),
            "/apis/apps/v1/namespaces/shop/deployments" => {
                list("DeploymentList", json!([object("web", "shop")]))
            }
            "/apis/apps/v1/namespaces/bank/deployments" => list("DeploymentList", json!(null)),
            target if target.contains("/cronjobs") => {
                Reply::Body(404, vec![], "404 page not found".to_owned())
            }
            _ => Reply::Body(500, vec![], String::new()),
        }
    })
    .await;
    let adapter = adapter(&server);
    let names_of = |names: &[&str]| {
        let patterns = names.iter().map(|name| NamespacePattern::parse(name).unwrap());
        NamespaceScope::Set(NamespaceSet::new(patterns))
    };
    let few = names_of(&["shop", "bank"]);
    let permit = permit_within(Verb::List, Kind::Pod, few.clone());
    let pods = adapter.page(&permit, List::Pods, &ListQuery::default()).await.unwrap();
    assert_eq!((names(&pods), pods.pagination.total), (vec!["a", "b", "d"], 3));

    let query = ListQuery { kinds: vec![Kind::Deployment, Kind::CronJob], ..ListQuery::default() };
    let permit = permit_within(Verb::List, Kind::Deployment, few);
    let workloads = adapter.page(&permit, List::Workloads, &query).await.unwrap();
    assert_eq!(names(&workloads), ["web"]);
    assert_eq!(workloads.warnings, [Warning::NotServed("cronjobs")], "one warning, not one per namespace");
}

#[tokio::test]
async fn owner_outside_the_set_does_not_exist() {
    let server = FakeServer::start(|request, _| {
        let service = |namespace: &str| json!({"metadata": {"name": "web", "namespace": namespace}});
        let items = match request.target.starts_with("/api/v1/services") {
            true => json!([service("shop"), service("team-a")]),
            false => json!([]),
        };
        Reply::json(200, &json!({"kind": "List", "metadata": {}, "items": items}))
    })
    .await;
    let query = ListQuery { owner: Some(object("web")), ..ListQuery::default() };
    let page = async |pattern: &str| {
        let scope = NamespaceScope::Set(NamespaceSet::new([NamespacePattern::parse(pattern).unwrap()]));
        let permit = permit_within(Verb::List, Kind::EndpointSlice, scope);
        adapter(&server).page(&permit, List::Endpoints, &query).await
    };
    assert_eq!(page("team-*").await.unwrap().rows.len(), 0);
    let error = page("other-*").await.unwrap_err();
    assert_eq!((error.cause, error.context.namespace.as_deref()), (Cause::NotFoundInCluster, None));
}
