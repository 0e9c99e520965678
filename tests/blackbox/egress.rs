//! Attempts to bypass the egress rules, through each endpoint that accepts a cluster address.

use std::net::TcpListener;

use pilothouse_testbed::Folder;
use serde_json::{Value, json};

use crate::metrics;
use crate::support::{Client, Install, Server, postgres, register_cluster, shared_control_plane};

/// Hosts that denote this machine, its link, multicast, broadcast or a cloud's metadata service, in all notations.
/// Names are only those that need no resolver; resolution is tested in `crates/kube/tests/hostile/egress.rs`.
const HOSTS: &[&str] = &[
    // loopback
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
    // a cloud's metadata service
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
    // link-local, multicast, broadcast
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "224.0.0.1",
    "239.255.255.250",
    "255.255.255.255",
    "[ff02::1]",
    // addresses whose host is not the apparent one
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

/// Addresses without the form `https://host…`.
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

/// Checks that each endpoint refuses the address; `known` is a registered cluster that is updated to it. Returns the
/// causes.
async fn check_refused(admin: &Client, known: i64, address: &str) -> Vec<String> {
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
            let response = admin.post(path, with(connection.clone(), more)).await;
            assert_eq!(
                (response.status, &response.body["error_code"]),
                (400, &json!("VALIDATION_ERROR")),
                "{address}: {response}"
            );
            let cause = response.body["context"]["cause"].as_str().unwrap().to_owned();
            assert!(cause == "egress_denied" || cause == "invalid_input", "{address}: {response}");
            causes.push(cause);
        }
    }
    causes
}

/// Registers a cluster without a connection test.
async fn register_unreachable(admin: &Client) -> i64 {
    let mut body = by_token("https://192.0.2.7");
    body.as_object_mut()
        .unwrap()
        .extend([("name".to_owned(), json!("known")), ("skip_test".to_owned(), json!(true))]);
    admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap()
}

async fn check_only_known_cluster(admin: &Client) {
    let rows = admin.rows("/api/k8s/clusters", "clusters").await;
    assert_eq!((rows.len(), &rows[0]["api_server"]), (1, &json!("https://192.0.2.7")));
}

#[tokio::test]
async fn every_egress_bypass_is_refused_by_every_endpoint() {
    // a successful bypass would connect to this listener
    let canary = TcpListener::bind("0.0.0.0:0").unwrap();
    canary.set_nonblocking(true).unwrap();
    let port = canary.local_addr().unwrap().port();
    let server =
        Install::new().set("EGRESS_ALLOW_LOOPBACK", "false").set("ALLOW_INSECURE_TLS", "true").start().await;
    let admin = server.admin().await;
    let known = register_unreachable(&admin).await;
    for host in HOSTS {
        check_refused(&admin, known, &format!("https://{host}:{port}")).await;
    }
    for address in ADDRESSES {
        check_refused(&admin, known, address).await;
    }
    check_only_known_cluster(&admin).await;
    assert_eq!(canary.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "no connection was made");
    server.stop().await;
}

#[tokio::test]
async fn own_listeners_and_database_are_refused_as_clusters() {
    let install = match postgres() {
        Some(postgres) => Install::on_postgres(&postgres.database().unwrap()),
        None => Install::on_sqlite(),
    };
    let server = install
        .set("METRICS_LISTEN", "127.0.0.1:0")
        .set("LOG_FORMAT", "json")
        .set("ALLOW_INSECURE_TLS", "true")
        .start()
        .await;
    let admin = server.admin().await;
    let known = register_unreachable(&admin).await;
    let metrics = metrics::address(&server);
    let mut ports = vec![server.address.rsplit(':').next().unwrap(), metrics.rsplit(':').next().unwrap()];
    let url = server.install.postgres_url();
    let database =
        url.as_deref().and_then(|url| url.split('@').nth(1)?.split('/').next()?.rsplit(':').next());
    ports.extend(database);
    for port in &ports {
        port.parse::<u16>().expect("a port number");
        for host in ["127.0.0.1", "127.8.8.8", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0.0.0.0"]
        {
            let causes = check_refused(&admin, known, &format!("https://{host}:{port}")).await;
            assert!(causes.iter().all(|cause| cause == "egress_denied"), "{host}:{port} {causes:?}");
        }
        // a name is resolved when it is used
        let response =
            admin.post("/api/k8s/clusters/test", by_token(&format!("https://localhost:{port}"))).await;
        assert_eq!(response.refused("VALIDATION_ERROR")["context"]["cause"], "egress_denied");
    }
    check_only_known_cluster(&admin).await;
}

#[tokio::test]
async fn addresses_outside_the_allowed_networks_are_refused() {
    let plane = shared_control_plane().await;
    let server = Install::new().set("EGRESS_ALLOW_NETWORKS", "192.0.2.0/24, 127.0.0.0/8").start().await;
    let admin = server.admin().await;
    let body = json!({"name": "near", "auth_type": "kubeconfig", "kubeconfig": plane.kubeconfig()});
    let near_id = admin.post("/api/k8s/clusters", body).await.data()["cluster"]["id"].as_i64().unwrap();
    for host in ["10.0.0.1", "203.0.113.7", "[2001:db8::1]", "[::1]", "[::ffff:10.0.0.1]"] {
        let mut body = by_token(&format!("https://{host}:6443"));
        body.as_object_mut().unwrap().remove("insecure_skip_tls_verify");
        let response = admin.post("/api/k8s/clusters/test", body).await;
        assert_eq!(response.refused("VALIDATION_ERROR")["context"]["cause"], "egress_denied", "{host}");
    }
    // a cluster registered before its network was removed from the setting is no longer reached
    let server = server.stop().await.set("EGRESS_ALLOW_NETWORKS", "192.0.2.0/24").start().await;
    let admin = server.admin().await;
    let refusal =
        admin.get(format!("/api/k8s/namespaces?cluster_id={near_id}")).await.refused("VALIDATION_ERROR");
    assert_eq!(refusal["context"]["cause"], "egress_denied");
}

#[tokio::test]
async fn proxy_and_kubeconfig_of_the_environment_are_ignored() {
    let plane = shared_control_plane().await;
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let other_folder = Folder::create().unwrap();
    let kubeconfig = other_folder.path().join("config");
    let text = by_kubeconfig(&url.replace("http:", "https:"))["kubeconfig"].as_str().unwrap().to_owned();
    std::fs::write(&kubeconfig, text).unwrap();
    let mut install = Install::new().env("KUBECONFIG", kubeconfig.to_str().unwrap());
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        install = install.env(name, &url);
    }
    let server: Server = install.start().await;
    let admin = server.admin().await;
    let id = register_cluster(&admin, "direct", plane).await;
    assert!(!admin.rows(format!("/api/k8s/namespaces?cluster_id={id}"), "namespaces").await.is_empty());
    assert_eq!(
        proxy.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "the proxy got no connection"
    );
}
