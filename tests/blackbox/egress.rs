//! Ways round the rules for addresses of clusters, through every door that takes one.

use std::net::TcpListener;

use pilothouse_testbed::Folder;
use serde_json::{Value, json};

use crate::metrics;
use crate::support::{Client, Install, Server, cluster, light, postgres};

/// Hosts that are this machine, its link, everybody or a cloud's metadata, however they are written. Of names only those
/// that need no resolver: what others resolve to is in `crates/kube/tests/hostile/egress.rs`.
const HOSTS: &[&str] = &[
    // this machine
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.0x1",
    "0x7f000001",
    "0x7F.1",
    "0x7f.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "api.localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::1]",
    "[2001:db8::5efe:127.0.0.1]",
    "0",
    "0.0.0.0",
    "0.1.2.3",
    "[::]",
    "[::ffff:0:0]",
    // a cloud's metadata
    "169.254.169.254",
    "169.254.170.2",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
    "[2001:0:a9fe:a9fe::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fd00:42::42]",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    // the link, everybody
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "[ff02::1]",
    // other hosts than they seem
    "k8s.example.com@169.254.169.254",
    "k8s.example.com:443@169.254.169.254",
    "k8s.example.com%2f@127.0.0.1",
    "k8s.example.com\\@127.0.0.1",
    "127.0.0.1\\.example.com",
    "127.0.0.1%00.example.com",
    "127.0.0.1%2eexample.com",
    "127.0.0.1\t",
    "127.0.0.1 .example.com",
    "k8s.example.com\r\nHost: 127.0.0.1",
];

/// Addresses that are not `https://host…`.
const ADDRESSES: &[&str] = &[
    "http://k8s.example.com",
    "//169.254.169.254",
    "169.254.169.254",
    "https:169.254.169.254",
    "https:/169.254.169.254",
    "https:\\\\169.254.169.254",
    "https:///169.254.169.254",
    "https://k8s.example.com#@169.254.169.254",
    "https://k8s.example.com?@169.254.169.254",
    "https://k8s.example.com/../..//169.254.169.254",
    "https://k8s.example.com/%2e%2e/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "unix:///run/containerd/containerd.sock",
    "ftp://127.0.0.1",
];

fn by_token(address: &str) -> Value {
    json!({"auth_type": "token", "api_server": address, "token": "canary", "insecure_skip_tls_verify": true})
}

fn by_kubeconfig(address: &str) -> Value {
    let kubeconfig = json!({
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": address, "tls-server-name": "k8s.example.com"}}],
        "users": [{"name": "u", "user": {"token": "canary"}}],
    });
    json!({"auth_type": "kubeconfig", "kubeconfig": kubeconfig.to_string()})
}

/// Whatever takes the address refuses it; `known` is a registered cluster that is to be moved there.
async fn refused(admin: &Client, known: i64, address: &str) -> Vec<String> {
    let with = |mut body: Value, more: Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let mut causes = Vec::new();
    for connection in [by_token(address), by_kubeconfig(address)] {
        for (path, more) in [
            ("/api/k8s/clusters", json!({"name": "new"})),
            ("/api/k8s/clusters", json!({"name": "new", "skip_test": true})),
            ("/api/k8s/clusters/test", json!({})),
            ("/api/k8s/clusters/update", json!({"id": known})),
            ("/api/k8s/clusters/update", json!({"id": known, "skip_test": true})),
        ] {
            let answer = admin.post(path, with(connection.clone(), more)).await;
            assert_eq!(
                (answer.status, &answer.body["error_code"]),
                (400, &json!("VALIDATION_ERROR")),
                "{address}: {answer}"
            );
            let cause = answer.body["context"]["cause"].as_str().unwrap().to_owned();
            assert!(cause == "egress_denied" || cause == "invalid_input", "{address}: {answer}");
            causes.push(cause);
        }
    }
    causes
}

/// Registers a cluster that nobody tries to reach.
async fn registered(admin: &Client) -> i64 {
    let mut body = by_token("https://192.0.2.7");
    body.as_object_mut()
        .unwrap()
        .extend([("name".to_owned(), json!("known")), ("skip_test".to_owned(), json!(true))]);
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap()
}

async fn only_the_known_one_is_left(admin: &Client) {
    let rows = admin.rows("/api/k8s/clusters", "clusters").await;
    assert_eq!((rows.len(), &rows[0]["api_server"]), (1, &json!("https://192.0.2.7")));
}

#[tokio::test]
async fn every_way_round_is_refused_at_every_door() {
    // whoever gets through calls here
    let canary = TcpListener::bind("0.0.0.0:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let port = canary.local_addr().unwrap().port();
    let server =
        Install::new().set("EGRESS_ALLOW_LOOPBACK", "false").set("ALLOW_INSECURE_TLS", "true").start().await;
    let admin = server.admin().await;
    let known = registered(&admin).await;
    for host in HOSTS {
        refused(&admin, known, &format!("https://{host}:{port}")).await;
    }
    for address in ADDRESSES {
        refused(&admin, known, address).await;
    }
    only_the_known_one_is_left(&admin).await;
    assert_eq!(canary.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody got through");
    server.stop().await;
}

#[tokio::test]
async fn where_we_listen_and_where_the_database_is_there_is_no_cluster() {
    let install = match postgres() {
        Some(postgres) => Install::on(&postgres.database().unwrap()),
        None => Install::on_sqlite(),
    };
    let server = install
        .set("METRICS_LISTEN", "127.0.0.1:0")
        .set("LOG_FORMAT", "json")
        .set("ALLOW_INSECURE_TLS", "true")
        .start()
        .await;
    let admin = server.admin().await;
    let known = registered(&admin).await;
    let metrics = metrics::address(&server);
    let mut ports = vec![server.address.rsplit(':').next().unwrap(), metrics.rsplit(':').next().unwrap()];
    let url = server.install.postgres_url();
    let database =
        url.as_deref().and_then(|url| url.split('@').nth(1)?.split('/').next()?.rsplit(':').next());
    ports.extend(database);
    for port in &ports {
        port.parse::<u16>().expect("a port");
        for host in ["127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0"]
        {
            let causes = refused(&admin, known, &format!("https://{host}:{port}")).await;
            assert!(causes.iter().all(|cause| cause == "egress_denied"), "{host}:{port} {causes:?}");
        }
        // a name is resolved when it is used
        let answer =
            admin.post("/api/k8s/clusters/test", by_token(&format!("https://localhost:{port}"))).await;
        assert_eq!(answer.refused("VALIDATION_ERROR")["context"]["cause"], "egress_denied");
    }
    only_the_known_one_is_left(&admin).await;
}

#[tokio::test]
async fn outside_the_networks_that_are_named_there_is_no_cluster() {
    let plane = light().await;
    let server = Install::new().set("EGRESS_ALLOW_NETWORKS", "192.0.2.0/24, 127.0.0.0/8").start().await;
    let admin = server.admin().await;
    let body = json!({"name": "near", "auth_type": "kubeconfig", "kubeconfig": plane.kubeconfig()});
    let near = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap();
    for host in ["10.0.0.1", "203.0.113.7", "[2001:db8::1]", "[::1]", "[::ffff:10.0.0.1]"] {
        let mut body = by_token(&format!("https://{host}:6443"));
        body.as_object_mut().unwrap().remove("insecure_skip_tls_verify");
        let answer = admin.post("/api/k8s/clusters/test", body).await;
        assert_eq!(answer.refused("VALIDATION_ERROR")["context"]["cause"], "egress_denied", "{host}");
    }
    // what was registered before a network was taken out is not reached any more
    let server = server.stop().await.set("EGRESS_ALLOW_NETWORKS", "192.0.2.0/24").start().await;
    let admin = server.admin().await;
    let refusal =
        admin.get(format!("/api/k8s/namespaces?cluster_id={near}")).await.refused("VALIDATION_ERROR");
    assert_eq!(refusal["context"]["cause"], "egress_denied");
}

#[tokio::test]
async fn no_proxy_and_no_kubeconfig_of_the_environment_is_used() {
    let plane = light().await;
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let elsewhere = Folder::create().unwrap();
    let kubeconfig = elsewhere.path().join("config");
    let text = by_kubeconfig(&url.replace("http:", "https:"))["kubeconfig"].as_str().unwrap().to_owned();
    std::fs::write(&kubeconfig, text).unwrap();
    let mut install = Install::new().variable("KUBECONFIG", kubeconfig.to_str().unwrap());
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        install = install.variable(name, &url);
    }
    let server: Server = install.start().await;
    let admin = server.admin().await;
    let id = cluster(&admin, "direct", &plane).await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the proxy was called");
}
