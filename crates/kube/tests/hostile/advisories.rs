//! Advisories of comparable products on connections to clusters, reproduced as tests. docs/advisories.md has the whole
//! list.

use pilothouse_core::inventory::LISTS;

use super::*;

/// Rancher: `Impersonate-User` and headers named in `Connection` were forwarded to the cluster with the server's own
/// credential. The adapter sends only its own headers, none of a caller.
#[tokio::test]
async fn cve_2021_31999_only_adapter_headers_are_sent() {
    const SENT_HEADERS: [&str; 7] =
        ["accept", "audit-id", "authorization", "content-length", "content-type", "host", "user-agent"];
    let server = FakeServer::start(|request, _| match request.method.as_str() {
        "GET" => pod_list(&[], ""),
        _ => Reply::json(201, &json!({"metadata": {"name": "settings"}})),
    })
    .await;
    let adapter = adapter(&server);
    list_pods(&adapter).await.unwrap();
    create(&adapter).await.unwrap();
    permissions(&adapter, &by_token(&server.address, Some(&server.ca), TOKEN)).await.unwrap_err();
    for request in server.requests() {
        let unexpected: Vec<_> =
            request.headers.keys().filter(|name| !SENT_HEADERS.contains(&name.as_str())).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
    }
}

/// Headlamp: a client stayed in use after its credential was replaced or revoked.
#[tokio::test]
async fn cve_2025_14269_a_client_ends_with_its_credential() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, registry) =
        clusters(by_token(&server.address, Some(&server.ca), "first-token"), SHORT_DEADLINES);
    list_pods(&adapter).await.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "second-token"), 2);
    list_pods(&adapter).await.unwrap();
    registry.0.lock().unwrap().clear();
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::NotFound);
    let sent: Vec<_> =
        server.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer first-token", "Bearer second-token"]);
}

/// Steve: certificates were not verified.
#[tokio::test]
async fn cve_2023_32198_untrusted_certificate_gets_no_request() {
    for certificate in [ServerCert::Expired, ServerCert::OtherName, ServerCert::OtherAuthority] {
        let server = FakeServer::with_certificate(certificate, |_, _| pod_list(&[], "")).await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        let (adapter, _) = clusters(connection.clone(), SHORT_DEADLINES);
        assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
        let changed = create(&adapter).await.unwrap_err();
        assert_eq!(changed.cause, Cause::TlsUntrusted);
        assert!(!changed.outcome_unknown());
        let probed = probe(&adapter, &connection).await.unwrap_err();
        assert_eq!(probed.cause, Cause::TlsUntrusted);
        assert!(server.requests().is_empty(), "no request and no token was sent");
    }
    // without a CA the system's roots apply, which do not include this server's
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, _) = clusters(by_token(&server.address, None, TOKEN), SHORT_DEADLINES);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
}

/// Argo CD: a malformed object crashed the server.
#[tokio::test]
async fn cve_2025_59531_malformed_object_does_not_panic() {
    let malformed_values = || {
        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1e300),
            json!("x"),
            json!([]),
            json!([null]),
            json!({}),
        ];
        values.into_iter()
    };
    for info in LISTS.iter().filter(|info| info.project.is_some()) {
        let mut objects: Vec<_> = malformed_values().collect();
        for value in malformed_values() {
            objects.push(json!({"metadata": value}));
            objects.push(json!({"metadata": {"name": "x", "labels": value}, "spec": {}, "status": {}}));
            objects.push(json!({"metadata": {"name": "x"}, "spec": value, "status": value, "data": value}));
            objects.push(json!({"metadata": {"name": "x"}, "spec": {"replicas": value, "template": value,
                "containers": [value], "ports": [value], "rules": [value]},
                "status": {"conditions": [value], "containerStatuses": [value], "capacity": value}}));
            objects.push(
                json!({"metadata": {"name": "x", "creationTimestamp": value, "ownerReferences": [value]}}),
            );
        }
        let (kinds, owner) = (info.kinds.to_vec(), info.owner.map(|_| object("x")));
        let query = ListQuery { kinds, owner, ..ListQuery::default() };
        let permit = permit_all(Verb::List, info.kinds[0]);
        let (count, reads) = (objects.len(), objects.len() * info.kinds.len());
        // each object once for each kind of the list, in any order
        let server = FakeServer::start(move |_, before| {
            Reply::json(200, &json!({"kind": "OddList", "metadata": {}, "items": [objects[before % count]]}))
        })
        .await;
        let adapter = adapter(&server);
        for read in 0..reads {
            // rows or an error; a panic would fail the test
            if let Err(error) = adapter.page(&permit, info.list, &query).await {
                assert_eq!(error.cause, Cause::UnexpectedAnswer, "{:?}: object {read}", info.list);
            }
        }
    }
}

/// Kubernetes: a redirect, or a failed upgrade, gave the caller an open connection to a target chosen by the cluster.
#[tokio::test]
async fn cve_2020_8559_neither_a_redirect_nor_an_upgrade_is_followed() {
    let elsewhere = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let target = elsewhere.address.clone();
    let (server, adapter) =
        server_with_reply(move || Reply::Body(302, vec![("Location", target.clone())], String::new())).await;
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
    assert_eq!((server.requests().len(), elsewhere.requests().len()), (1, 0));
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let (server, adapter) = server_with_reply(move || Reply::Raw(upgrade)).await;
    assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
    assert!(server.requests()[0].headers.keys().all(|name| name != "upgrade" && name != "connection"));
}

/// Kubernetes: a crafted name changed the path.
#[tokio::test]
async fn cve_2022_3162_name_is_one_path_segment_or_invalid() {
    use pilothouse_core::name::{ContainerName, Namespace, ObjectName};
    for name in [
        "..",
        ".",
        "a/b",
        "../../secrets",
        "a%2fb",
        "a?watch=true",
        "a#b",
        "a\\b",
        "a b",
        "a\0",
        "",
        "a;b",
        "A",
        "kube-system/secrets/x",
        "/",
        "%2e%2e",
        "a\n",
        "ａ",
    ] {
        assert!(ObjectName::new(name).is_err() || !name.contains(['/', '%', '?', '#', '\\']), "{name:?}");
        assert!(Namespace::new(name).is_err(), "{name:?}");
        assert!(ContainerName::new(name).is_err(), "{name:?}");
    }
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    list_pods(&adapter(&server)).await.unwrap();
    assert!(server.requests()[0].target.starts_with("/api/v1/namespaces/shop/pods?"));
}
