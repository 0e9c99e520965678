//! DNS rebinding: a name that has an allowed address at one lookup and a forbidden one at the next.

use std::{
    io,
    net::{IpAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use pilothouse_kube::{EgressRules, KubeSettings, Resolver};

use super::*;

const ALLOWED: &str = "127.0.0.1";
const FORBIDDEN: &str = "127.0.0.2";

/// Gives these answers, one lookup after the other, again and again.
#[derive(Debug)]
struct Turns {
    answers: Vec<Vec<&'static str>>,
    lookups: AtomicUsize,
}

#[async_trait]
impl Resolver for Turns {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let number = self.lookups.fetch_add(1, Ordering::SeqCst);
        let answer = &self.answers[number % self.answers.len()];
        Ok(answer.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

/// A cluster at the allowed address, and a listener at the forbidden one with the same port.
async fn pair() -> (FakeServer, TcpListener) {
    loop {
        // each answer ends its connection, so that every call makes one
        let server = FakeServer::start(|asked, _| {
            let list = r#"{"kind":"PodList","metadata":{},"items":[]}"#;
            let body = if asked.method == "GET" { list } else { r#"{"metadata":{"name":"settings"}}"# };
            Reply::Body(200, vec![("Connection", "close".to_owned())], body.to_owned())
        })
        .await;
        let port = server.address.rsplit(':').next().unwrap();
        // the port may be another test's there
        if let Ok(canary) = TcpListener::bind(format!("{FORBIDDEN}:{port}")) {
            canary.set_nonblocking(true).unwrap();
            return (server, canary);
        }
    }
}

#[tokio::test]
async fn what_was_checked_is_what_is_connected_to_whatever_the_name_server_says_next() {
    let mixed = vec![ALLOWED, FORBIDDEN];
    let cases = [
        vec![vec![ALLOWED], vec![FORBIDDEN]],
        vec![vec![FORBIDDEN], vec![ALLOWED]],
        vec![vec![ALLOWED], vec![ALLOWED], vec![FORBIDDEN]],
        vec![vec![ALLOWED], mixed.clone()],
        vec![mixed.clone(), vec![FORBIDDEN, ALLOWED]],
        vec![vec![ALLOWED], vec!["169.254.169.254", ALLOWED], vec!["::ffff:127.0.0.2"]],
    ];
    for answers in cases {
        let (server, canary) = pair().await;
        let allowed = answers.iter().filter(|answer| **answer == [ALLOWED]).count();
        let (rounds, each) = (4, answers.len());
        let turns = Arc::new(Turns { answers, lookups: AtomicUsize::new(0) });
        let port = server.address.rsplit(':').next().unwrap();
        let mut connection =
            by_token(&format!("https://rebinding.example.com:{port}"), Some(&server.ca), TOKEN);
        connection.tls_server_name = Some(ALLOWED.to_owned());
        let egress = EgressRules {
            allow_loopback: true,
            allow_networks: Some(format!("{ALLOWED}/32").parse().unwrap()),
            ..EgressRules::default()
        };
        let settings =
            KubeSettings { deadlines: SHORT, egress, resolver: turns.clone(), ..KubeSettings::default() };
        let (adapter, registry) = clusters_with(connection, settings);
        let mut refused = 0;
        for call in 0..rounds * each {
            // every call makes a connection
            let result = match call % 2 {
                0 => list_pods(&adapter).await.map(drop),
                _ => create(&adapter).await.map(drop),
            };
            if let Err(error) = result {
                assert_eq!(error.cause, Cause::EgressDenied);
                assert!(!error.outcome_unknown(), "nothing was sent");
                refused += 1;
            }
        }
        assert_eq!(turns.lookups.load(Ordering::SeqCst), rounds * each, "one lookup for each connection");
        assert_eq!(server.asked().len(), rounds * allowed);
        assert_eq!(refused, rounds * (each - allowed));
        for _ in 0..each {
            let probed = probe_registered(&adapter, &registry, ProbeReason::Test).await.unwrap();
            assert!(probed.result.is_err(), "it is no cluster, or refused");
        }
        let accepted = canary.accept().map(drop);
        assert_eq!(
            accepted.unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "no connection to the forbidden address"
        );
    }
}
