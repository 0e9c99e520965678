//! Egress rules: no connection to a denied address, by a name, a redirect, or the expected name of a certificate.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use pilothouse_core::connection::{ApiServer, Connection};
use pilothouse_kube::{EgressRules, KubeSettings, OwnSocket, Resolver};
use tokio::net::TcpListener;

use super::*;

/// Resolver that returns the same addresses for every name.
#[derive(Debug)]
struct FixedResolver(Vec<&'static str>);

#[async_trait]
impl Resolver for FixedResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(self.0.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

fn adapter_resolving_to(connection: &Connection, ips: &[&'static str], egress: EgressRules) -> KubeClusters {
    let resolver = Arc::new(FixedResolver(ips.to_vec()));
    clusters_with(
        connection.clone(),
        KubeSettings { deadlines: SHORT_DEADLINES, egress, resolver, ..KubeSettings::default() },
    )
    .0
}

fn lenient() -> EgressRules {
    EgressRules { allow_loopback: true, ..EgressRules::default() }
}

/// Expects a probe, a read and a write to be denied.
async fn expect_denied(adapter: &KubeClusters, connection: &Connection) {
    let probed = probe(adapter, connection).await.unwrap_err();
    assert_eq!(probed.cause, Cause::EgressDenied);
    assert_eq!(list_pods(adapter).await.unwrap_err().cause, Cause::EgressDenied);
    let changed = create(adapter).await.unwrap_err();
    assert_eq!(changed.cause, Cause::EgressDenied);
    assert!(!changed.outcome_unknown(), "nothing was sent");
}

#[tokio::test]
async fn name_of_denied_address_is_denied_everywhere() {
    let denied_ips = [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:0:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "::a9fe:a9fe",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ];
    let connection = by_token("https://metadata.google.internal", None, TOKEN);
    for ip in denied_ips {
        expect_denied(&adapter_resolving_to(&connection, &[ip], lenient()), &connection).await;
        expect_denied(&adapter_resolving_to(&connection, &["203.0.113.7", ip], lenient()), &connection).await;
    }
    for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
        expect_denied(&adapter_resolving_to(&connection, &[ip], EgressRules::default()), &connection).await;
    }
    let only = EgressRules { allow_networks: Some("10.0.0.0/8".parse().unwrap()), ..lenient() };
    for ip in ["127.0.0.1", "192.168.0.1", "203.0.113.7", "2001:db8::1"] {
        expect_denied(&adapter_resolving_to(&connection, &[ip], only.clone()), &connection).await;
    }
}

#[tokio::test]
async fn own_socket_is_denied_even_if_loopback_is_allowed() {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket: SocketAddr = own.local_addr().unwrap();
    let connection = by_token(&format!("https://us.example.com:{}", socket.port()), None, TOKEN);
    let database = OwnSocket { host: "db.example.com".to_owned(), port: socket.port() };
    for own in [OwnSocket::from(socket), database] {
        let rules = EgressRules { own: vec![own], ..lenient() };
        expect_denied(&adapter_resolving_to(&connection, &["127.0.0.1"], rules), &connection).await;
    }
    let accepted = own.into_std().unwrap().accept();
    assert_eq!(accepted.unwrap_err().kind(), io::ErrorKind::WouldBlock, "no connection was accepted");
}

#[tokio::test]
async fn redirect_is_followed_by_neither_read_nor_write() {
    let elsewhere = FakeServer::start(|_, _| pod_list(&[], "")).await;
    for status in [301, 302, 303, 307, 308] {
        for target in
            [elsewhere.address.clone(), "https://169.254.169.254/latest/".to_owned(), "/version".to_owned()]
        {
            let (server, adapter) = server_with_reply(move || {
                Reply::Body(status, vec![("Location", target.clone())], "{}".to_owned())
            })
            .await;
            assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
            assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
            assert_eq!(server.requests().len(), 2, "one request each");
        }
    }
    assert!(elsewhere.requests().is_empty());
}

/// `tls-server-name` sets the expected certificate name, never the address.
#[tokio::test]
async fn tls_server_name_does_not_change_the_address() {
    let canary = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let connection_to = |server: &str, name: &str| Connection {
        server: ApiServer::new(server).unwrap(),
        tls_server_name: Some(name.to_owned()),
        ..by_token("https://unused.example.com", Some(&canary.ca), TOKEN)
    };
    let port = canary.address.rsplit(':').next().unwrap();
    let connection = connection_to(&format!("https://169.254.169.254:{port}"), "127.0.0.1");
    expect_denied(&adapter_resolving_to(&connection, &[], lenient()), &connection).await;
    let connection = connection_to(&format!("https://metadata.example.com:{port}"), "127.0.0.1");
    expect_denied(&adapter_resolving_to(&connection, &["169.254.169.254"], lenient()), &connection).await;
    let connection = connection_to(&format!("https://127.0.0.1:{port}"), "k8s.example.com");
    expect_denied(&adapter_resolving_to(&connection, &["10.0.0.1"], EgressRules::default()), &connection)
        .await;
    assert!(canary.requests().is_empty());

    let connection = connection_to(&format!("https://k8s.example.com:{port}"), "127.0.0.1");
    let adapter = adapter_resolving_to(&connection, &["127.0.0.1"], lenient());
    assert!(
        list_pods(&adapter).await.is_ok(),
        "the address comes from the host, the certificate name from tls-server-name"
    );
    assert_eq!(canary.requests()[0].headers["host"], format!("k8s.example.com:{port}"));
}
