//! Addresses that a cluster may not have, by whatever way they come: names, redirects, a certificate's name.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;
use pilothouse_core::cluster::{ApiServer, Connection};
use pilothouse_kube::{EgressRules, KubeSettings, OwnSocket, Resolver};
use tokio::net::TcpListener;

use super::*;

/// A resolver that gives every name the same addresses.
#[derive(Debug)]
struct Everything(Vec<&'static str>);

#[async_trait]
impl Resolver for Everything {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(self.0.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

fn resolving(connection: &Connection, ips: &[&'static str], egress: EgressRules) -> KubeClusters {
    let resolver = Arc::new(Everything(ips.to_vec()));
    clusters_with(
        connection.clone(),
        KubeSettings { deadlines: SHORT, egress, resolver, ..KubeSettings::default() },
    )
    .0
}

fn lenient() -> EgressRules {
    EgressRules { allow_loopback: true, ..EgressRules::default() }
}

/// A probe, a read and a change.
async fn refused(adapter: &KubeClusters, connection: &Connection) {
    let probed = probe(adapter, connection).await.unwrap_err();
    assert_eq!(probed.cause, Cause::EgressDenied);
    assert_eq!(list_pods(adapter).await.unwrap_err().cause, Cause::EgressDenied);
    let changed = create(adapter).await.unwrap_err();
    assert_eq!(changed.cause, Cause::EgressDenied);
    assert!(!changed.outcome_unknown(), "nothing was sent");
}

#[tokio::test]
async fn a_name_of_a_forbidden_address_is_refused_wherever_it_is_used() {
    let never = [
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
    for ip in never {
        refused(&resolving(&connection, &[ip], lenient()), &connection).await;
        refused(&resolving(&connection, &["203.0.113.7", ip], lenient()), &connection).await;
    }
    for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
        refused(&resolving(&connection, &[ip], EgressRules::default()), &connection).await;
    }
    let only = EgressRules { allow_networks: Some("10.0.0.0/8".parse().unwrap()), ..lenient() };
    for ip in ["127.0.0.1", "192.168.0.1", "203.0.113.7", "2001:db8::1"] {
        refused(&resolving(&connection, &[ip], only.clone()), &connection).await;
    }
}

#[tokio::test]
async fn a_name_of_ours_is_refused_although_loopback_is_allowed() {
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket: SocketAddr = own.local_addr().unwrap();
    let connection = by_token(&format!("https://us.example.com:{}", socket.port()), None, TOKEN);
    let database = OwnSocket { host: "db.example.com".to_owned(), port: socket.port() };
    for own in [OwnSocket::from(socket), database] {
        let rules = EgressRules { own: vec![own], ..lenient() };
        refused(&resolving(&connection, &["127.0.0.1"], rules), &connection).await;
    }
    let accepted = own.into_std().unwrap().accept();
    assert_eq!(accepted.unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody has called");
}

#[tokio::test]
async fn a_redirect_is_followed_by_neither_a_read_nor_a_change() {
    let elsewhere = FakeServer::start(|_, _| pod_list(&[], "")).await;
    for status in [301, 302, 303, 307, 308] {
        for target in
            [elsewhere.address.clone(), "https://169.254.169.254/latest/".to_owned(), "/version".to_owned()]
        {
            let (server, adapter) =
                answering(move || Reply::Body(status, vec![("Location", target.clone())], "{}".to_owned()))
                    .await;
            assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
            assert_eq!(create(&adapter).await.unwrap_err().cause, Cause::UnexpectedAnswer);
            assert_eq!(server.asked().len(), 2, "once each");
        }
    }
    assert!(elsewhere.asked().is_empty());
}

/// `tls-server-name` says whose certificate is expected, never where to go.
#[tokio::test]
async fn the_name_in_a_certificate_is_not_where_a_connection_goes() {
    let canary = FakeServer::start(|_, _| pod_list(&[], "")).await;
    let away = |server: &str, name: &str| Connection {
        server: ApiServer::new(server).unwrap(),
        tls_server_name: Some(name.to_owned()),
        ..by_token("https://unused.example.com", Some(&canary.ca), TOKEN)
    };
    let port = canary.address.rsplit(':').next().unwrap();
    let connection = away(&format!("https://169.254.169.254:{port}"), "127.0.0.1");
    refused(&resolving(&connection, &[], lenient()), &connection).await;
    let connection = away(&format!("https://metadata.example.com:{port}"), "127.0.0.1");
    refused(&resolving(&connection, &["169.254.169.254"], lenient()), &connection).await;
    let connection = away(&format!("https://127.0.0.1:{port}"), "k8s.example.com");
    refused(&resolving(&connection, &["10.0.0.1"], EgressRules::default()), &connection).await;
    assert!(canary.asked().is_empty());

    let connection = away(&format!("https://k8s.example.com:{port}"), "127.0.0.1");
    let adapter = resolving(&connection, &["127.0.0.1"], lenient());
    assert!(list_pods(&adapter).await.is_ok(), "the address is the host's, the certificate 127.0.0.1's");
    assert_eq!(canary.asked()[0].headers["host"], format!("k8s.example.com:{port}"));
}
