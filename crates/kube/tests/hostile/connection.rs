//! The way to the cluster: who is trusted, what is sent, with which credential.

use std::time::Instant;

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_server_that_cannot_be_trusted_gets_no_request() {
    for shows in [Shows::Expired, Shows::OtherName, Shows::OtherAuthority] {
        let server = FakeServer::showing(shows, |_, _| pod_list(&[], "")).await;
        for result in
            [list_pods(&adapter(&server)).await.map(drop), create(&adapter(&server)).await.map(drop)]
        {
            assert_eq!(result.unwrap_err().cause, Cause::TlsUntrusted);
        }
        // no CA: the machine's roots, which do not know this server; a CA that is none is not "any"
        for ca in [None, Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), Some("")] {
            let (adapter, _) = clusters(by_token(&server.address, ca, TOKEN), SHORT);
            assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::TlsUntrusted);
        }
        assert_eq!(server.asked().len(), 0);

        let mut connection = by_token(&server.address, None, TOKEN);
        connection.insecure_skip_tls_verify = true;
        list_pods(&clusters(connection, SHORT).0)
            .await
            .expect("the connection says that any certificate will do");
    }
    let server = FakeServer::showing(Shows::OtherName, |_, _| pod_list(&[], "")).await;
    let mut connection = by_token(&server.address, Some(&server.ca), TOKEN);
    connection.tls_server_name = Some("elsewhere.invalid".to_owned());
    list_pods(&clusters(connection, SHORT).0).await.expect("the name that the connection expects");
}

#[tokio::test]
async fn no_connection_and_a_refused_address_are_told_apart() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let (adapter, _) = clusters(by_token(&address, None, TOKEN), SHORT);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::Unreachable);

    let (adapter, _) = clusters(by_token("https://169.254.169.254", None, TOKEN), SHORT);
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::EgressDenied);
    assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::EgressDenied);
}

/// Somebody is there, and says nothing: not even who they are.
#[tokio::test]
async fn a_silent_handshake_is_a_deadline_and_nothing_was_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let (adapter, _) = clusters(by_token(&address, None, TOKEN), Deadlines::default());
    let (read, written) = tokio::join!(list_pods(&adapter), create(&adapter));
    assert_eq!(read.unwrap_err().cause, Cause::DeadlineExceeded);
    let written = written.unwrap_err();
    assert_eq!((written.cause, written.outcome_unknown()), (Cause::DeadlineExceeded, false));
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_left_alone_and_nobody_waits_for_it() {
    let (server, adapter) = answering(|| Reply::Silence).await;
    let causes = async |calls: usize| {
        let results = join_all((0..calls).map(|_| list_pods(&adapter))).await;
        results.into_iter().map(|result| result.unwrap_err().cause).collect::<Vec<_>>()
    };
    assert_eq!(causes(5).await, [Cause::DeadlineExceeded; 5]);
    let asked = server.asked().len();
    let started = Instant::now();
    assert_eq!(causes(100).await, [Cause::CircuitOpen; 100]);
    let refused = create(&adapter).await.unwrap_err();
    assert!(!refused.outcome_unknown(), "nothing was sent");
    assert!(refused.context.retry_after.is_some());
    assert!(started.elapsed() < SHORT.read, "nobody waited");
    assert_eq!(server.asked().len(), asked);
}

#[tokio::test]
async fn the_headers_sent_are_exactly_these() {
    let server = FakeServer::start(|asked, _| match asked.method.as_str() {
        "GET" => pod_list(&[], ""),
        _ => Reply::json(201, &json!({"metadata": {"name": "settings"}})),
    })
    .await;
    let adapter = adapter(&server);
    list_pods(&adapter).await.unwrap();
    let permitted = permit(Verb::Create, Kind::ConfigMap, "shop");
    create_under(&adapter, &permitted).await.unwrap();
    let asked = server.asked();
    let sent = |asked: &Asked| asked.headers.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
    assert_eq!(sent(&asked[0]), "accept audit-id authorization host user-agent");
    assert_eq!(sent(&asked[1]), "accept audit-id authorization content-length content-type host user-agent");
    let header = |name: &str| asked[1].headers[name].clone();
    assert_eq!(header("accept"), "application/json");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("authorization"), format!("Bearer {TOKEN}"));
    assert!(header("user-agent").starts_with("pilothouse/"));
    assert_eq!(header("audit-id"), permitted.operation_id().unwrap().to_string());
    assert_eq!(
        asked[1].target,
        "/api/v1/namespaces/shop/configmaps?fieldManager=pilothouse&fieldValidation=Strict"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&asked[1].body).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "shop"}, "data": {"key": "value"}})
    );
}

#[tokio::test]
async fn a_permit_cannot_be_spent_elsewhere() {
    let (server, adapter) = answering(|| pod_list(&[], "")).await;
    let configmap = NewConfigMap { name: object("settings"), data: BTreeMap::new(), labels: Labels::new() };
    let wrong_kind = permit(Verb::Create, Kind::Pod, "shop");
    assert_eq!(adapter.create_configmap(&wrong_kind, &configmap).await.unwrap_err().cause, Cause::Internal);
    let no_namespace = permit_all(Verb::Create, Kind::ConfigMap);
    assert_eq!(adapter.create_configmap(&no_namespace, &configmap).await.unwrap_err().cause, Cause::Internal);
    let other = permit(Verb::Logs, Kind::ConfigMap, "shop");
    assert_eq!(logs::logs_under(&adapter, &other, None).await.unwrap_err().cause, Cause::Internal);
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn an_older_credential_is_never_used_again() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let (adapter, registry) = clusters(by_token(&server.address, Some(&server.ca), "old"), SHORT);
    list_pods(&adapter).await.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "new"), 2);
    list_pods(&adapter).await.unwrap();
    let tokens: Vec<_> = server.asked().iter().map(|asked| asked.headers["authorization"].clone()).collect();
    assert_eq!(tokens, ["Bearer old", "Bearer new"]);
    registry.0.lock().unwrap().clear();
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::NotFound);
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_path_of_the_server_comes_before_every_path() {
    let server = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let address = format!("{}/k8s/clusters/c-1", server.address);
    let (adapter, _) = clusters(by_token(&address, Some(&server.ca), TOKEN), SHORT);
    list_pods(&adapter).await.unwrap();
    assert_eq!(server.asked()[0].target, "/k8s/clusters/c-1/api/v1/namespaces/shop/pods?&limit=500");
}
