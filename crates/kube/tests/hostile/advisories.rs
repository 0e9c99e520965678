//! What went wrong in other products on their way to a cluster, tried here. docs/advisories.md has the whole list.

use pilothouse_core::inventory::LISTS;

use super::*;

/// Rancher: what a client sent as `Impersonate-User` or named in `Connection` reached the cluster, as the server's own.
/// What the adapter sends is exactly this; no caller's header comes near it.
#[tokio::test]
async fn cve_2021_31999_no_header_but_ours_is_sent() {
    const OURS: [&str; 7] =
        ["accept", "audit-id", "authorization", "content-length", "content-type", "host", "user-agent"];
    let server = FakeServer::start(|asked, _| match asked.method.as_str() {
        "GET" => pod_list(&[], ""),
        _ => Reply::json(201, &json!({"metadata": {"name": "settings"}})),
    })
    .await;
    let adapter = adapter(&server);
    list_pods(&adapter).await.unwrap();
    create(&adapter).await.unwrap();
    permissions(&adapter, &by_token(&server.address, Some(&server.ca), TOKEN)).await.unwrap_err();
    for asked in server.asked() {
        let foreign: Vec<_> = asked.headers.keys().filter(|name| !OURS.contains(&name.as_str())).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
    }
}

/// Headlamp: a client stayed in use after its credential was changed or taken away.
#[tokio::test]
async fn cve_2025_14269_a_client_ends_with_its_credential() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, registry) = clusters(by_token(&server.address, Some(&server.ca), "first-token"), SHORT);
    list_pods(&adapter).await.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "second-token"), 2);
    list_pods(&adapter).await.unwrap();
    registry.0.lock().unwrap().clear();
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::NotFound);
    let sent: Vec<_> = server.asked().iter().map(|asked| asked.headers["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer first-token", "Bearer second-token"]);
}

/// Steve: certificates were not checked.
#[tokio::test]
async fn cve_2023_32198_a_certificate_that_proves_nothing_is_not_talked_to() {
    for shows in [Shows::Expired, Shows::OtherName, Shows::OtherAuthority] {
        let server = FakeServer::showing(shows, |_, _| pod_list(&[], "")).await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        let (adapter, _) = clusters(connection.clone(), SHORT);
        assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
        let changed = create(&adapter).await.unwrap_err();
        assert_eq!(changed.cause, Cause::TlsUntrusted);
        assert!(!changed.outcome_unknown());
        let probed = probe(&adapter, &connection).await.unwrap_err();
        assert_eq!(probed.cause, Cause::TlsUntrusted);
        assert!(server.asked().is_empty(), "it saw no request, and no token");
    }
    // without a CA the system's roots decide, which do not know this one
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, _) = clusters(by_token(&server.address, None, TOKEN), SHORT);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
}

/// Argo CD: an object of an odd shape brought the server down.
#[tokio::test]
async fn cve_2025_59531_an_object_of_an_odd_shape_panics_nobody() {
    let odd = || {
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
        let mut objects: Vec<_> = odd().collect();
        for value in odd() {
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
        // each object once for each kind of the list, whichever is asked for first
        let server = FakeServer::start(move |_, before| {
            Reply::json(200, &json!({"kind": "OddList", "metadata": {}, "items": [objects[before % count]]}))
        })
        .await;
        let adapter = adapter(&server);
        for read in 0..reads {
            // rows or a refusal; a panic would fail the test
            if let Err(error) = adapter.page(&permit, info.list, &query).await {
                assert_eq!(error.cause, Cause::UnexpectedAnswer, "{:?}: object {read}", info.list);
            }
        }
    }
}

/// Kubernetes: a redirect, or an upgrade that failed, handed the caller an open connection to a place of the cluster's
/// choice.
#[tokio::test]
async fn cve_2020_8559_neither_a_redirect_nor_an_upgrade_is_followed() {
    let elsewhere = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let target = elsewhere.address.clone();
    let (server, adapter) =
        answering(move || Reply::Body(302, vec![("Location", target.clone())], String::new())).await;
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
    assert_eq!((server.asked().len(), elsewhere.asked().len()), (1, 0));
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    let (server, adapter) = answering(move || Reply::Raw(upgrade)).await;
    assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
    assert!(server.asked()[0].headers.keys().all(|name| name != "upgrade" && name != "connection"));
}

/// Kubernetes: a crafted name was another path.
#[tokio::test]
async fn cve_2022_3162_a_name_is_one_segment_of_a_path_or_none() {
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
    assert!(server.asked()[0].target.starts_with("/api/v1/namespaces/shop/pods?"));
}
