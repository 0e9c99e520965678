//! Connections to a cluster: trust, headers, credentials.

use std::time::Instant;

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn untrusted_server_gets_no_request() {
    for certificate in [ServerCert::Expired, ServerCert::OtherName, ServerCert::OtherAuthority] {
        let server = FakeServer::with_certificate(certificate, |_, _| pod_list(&[], "")).await;
        for result in
            [list_pods(&adapter(&server)).await.map(drop), create(&adapter(&server)).await.map(drop)]
        {
            assert_eq!(result.unwrap_err().cause, Cause::TlsUntrusted);
        }
        // without a CA the machine's roots apply, which do not include this server's; a malformed CA does not disable
        // verification
        for ca in [None, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Some("")] {
            let (adapter, _) = clusters(by_token(&server.address, ca, TOKEN), SHORT_DEADLINES);
            assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
        }
        assert_eq!(server.requests().len(), 0);

        let mut connection = by_token(&server.address, None, TOKEN);
        connection.insecure_skip_tls_verify = true;
        list_pods(&clusters(connection, SHORT_DEADLINES).0)
            .await
            .expect("insecure_skip_tls_verify accepts any certificate");
    }
    let server = FakeServer::with_certificate(ServerCert::OtherName, |_, _| pod_list(&[], "")).await;
    let mut connection = by_token(&server.address, Some(&server.ca), TOKEN);
    connection.tls_server_name = Some("elsewhere.invalid".to_owned());
    list_pods(&clusters(connection, SHORT_DEADLINES).0).await.expect("the expected server name");
}

#[tokio::test]
async fn unreachable_and_denied_addresses_have_different_causes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let (adapter, _) = clusters(by_token(&address, None, TOKEN), SHORT_DEADLINES);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::Unreachable);

    let (adapter, _) = clusters(by_token("https://169.254.169.254", None, TOKEN), SHORT_DEADLINES);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::EgressDenied);
    assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::EgressDenied);
}

/// The peer accepts the connection and sends nothing.
#[tokio::test]
async fn silent_handshake_exceeds_deadline_and_sends_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (adapter, _) = clusters(by_token(&address, None, TOKEN), Deadlines::default());
    let (read, written) = tokio::join!(list_pods(&adapter), create(&adapter));
    assert_eq!(read.unwrap_err().cause, Cause::DeadlineExceeded);
    let written = written.unwrap_err();
    assert_eq!((written.cause, written.outcome_unknown()), (Cause::DeadlineExceeded, false));
}

#[tokio::test]
async fn open_circuit_refuses_calls_without_waiting() {
    let (server, adapter) = server_with_reply(|| Reply::NoResponse).await;
    let causes = async |calls: usize| {
        let results = join_all((0..calls).map(|_| list_pods(&adapter))).await;
        results.into_iter().map(|result| result.unwrap_err().cause).collect::<Vec<_>>()
    };
    assert_eq!(causes(5).await, [Cause::DeadlineExceeded; 5]);
    let requests = server.requests().len();
    let started = Instant::now();
    assert_eq!(causes(100).await, [Cause::CircuitOpen; 100]);
    let refused = create(&adapter).await.unwrap_err();
    assert!(!refused.outcome_unknown(), "nothing was sent");
    assert!(refused.context.retry_after.is_some());
    assert!(started.elapsed() < SHORT_DEADLINES.read, "no call waited");
    assert_eq!(server.requests().len(), requests);
}

#[tokio::test]
async fn request_has_exactly_the_expected_headers() {
    let server = FakeServer::start(|request, _| match request.method.as_str() {
        "GET" => pod_list(&[], ""),
        _ => Reply::json(201, &json!({"metadata": {"name": "settings"}})),
    })
    .await;
    let adapter = adapter(&server);
    list_pods(&adapter).await.unwrap();
    let permitted = permit(Verb::Create, Kind::ConfigMap, "shop");
    create_under(&adapter, &permitted).await.unwrap();
    let requests = server.requests();
    let sent =
        |request: &RecordedRequest| request.headers.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!(sent(&requests[0]), "accept audit-id authorization host user-agent");
    assert_eq!(
        sent(&requests[1]),
        "accept audit-id authorization content-length content-type host user-agent"
    );
    let header = |name: &str| requests[1].headers[name].clone();
    assert_eq!(header("accept"), "application/json");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("authorization"), format!("Bearer {TOKEN}"));
    assert!(header("user-agent").starts_with("pilothouse/"));
    assert_eq!(header("audit-id"), permitted.operation_id().unwrap().to_string());
    assert_eq!(
        requests[1].target,
        "/api/v1/namespaces/shop/configmaps?fieldManager=pilothouse&fieldValidation=Strict"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&requests[1].body).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "shop"}, "data": {"key": "value"}})
    );
}

#[tokio::test]
async fn permit_is_limited_to_its_kind_and_namespace() {
    let (server, adapter) = server_with_reply(|| pod_list(&[], "")).await;
    let configmap = NewConfigMap { name: object("settings"), data: BTreeMap::new(), labels: Labels::new() };
    let wrong_kind = permit(Verb::Create, Kind::Pod, "shop");
    assert_eq!(adapter.create_configmap(&wrong_kind, &configmap).await.unwrap_err().cause, Cause::Internal);
    let no_namespace = permit_all(Verb::Create, Kind::ConfigMap);
    assert_eq!(adapter.create_configmap(&no_namespace, &configmap).await.unwrap_err().cause, Cause::Internal);
    let set = permit_within(Verb::Create, Kind::ConfigMap, team());
    assert_eq!(adapter.create_configmap(&set, &configmap).await.unwrap_err().cause, Cause::Internal);
    let unscoped = permit_within(Verb::List, Kind::Pod, NamespaceScope::Unscoped);
    let page = adapter.page(&unscoped, List::Pods, &ListQuery::default()).await;
    assert_eq!(page.unwrap_err().cause, Cause::Internal);
    let other = permit(Verb::Logs, Kind::ConfigMap, "shop");
    assert_eq!(logs::logs_under(&adapter, &other, None).await.unwrap_err().cause, Cause::Internal);
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn older_credential_is_never_used_again() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, registry) = clusters(by_token(&server.address, Some(&server.ca), "old"), SHORT_DEADLINES);
    list_pods(&adapter).await.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "new"), 2);
    list_pods(&adapter).await.unwrap();
    let tokens: Vec<_> =
        server.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer old", "Bearer new"]);
    registry.0.lock().unwrap().clear();
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::NotFound);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn server_path_prefixes_every_request_path() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let address = format!("{}/k8s/clusters/c-1", server.address);
    let (adapter, _) = clusters(by_token(&address, Some(&server.ca), TOKEN), SHORT_DEADLINES);
    list_pods(&adapter).await.unwrap();
    assert_eq!(server.requests()[0].target, "/k8s/clusters/c-1/api/v1/namespaces/shop/pods?&limit=500");
}
