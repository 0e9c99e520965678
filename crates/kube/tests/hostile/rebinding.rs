//! DNS rebinding: a name with an allowed address at one lookup and a denied one at the next.

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
const DENIED: &str = "127.0.0.2";

/// Resolver that returns these answers in turn, repeatedly.
#[derive(Debug)]
struct AlternatingResolver {
    answers: Vec<Vec<&'static str>>,
    lookups: AtomicUsize,
}

#[async_trait]
impl Resolver for AlternatingResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let lookup = self.lookups.fetch_add(1, Ordering::SeqCst);
        let answer = &self.answers[lookup % self.answers.len()];
        Ok(answer.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

/// A cluster at the allowed address, and a listener at the denied one with the same port.
async fn cluster_and_canary() -> (FakeServer, TcpListener) {
    loop {
        // each response closes its connection, so that every call dials
        let server = FakeServer::start(|request, _| {
            let list = r#"{"kind":"PodList","metadata":{},"items":[]}"#;
            let body = if request.method == "GET" { list } else { r#"{"metadata":{"name":"settings"}}"# };
            Reply::Body(200, vec![("Connection", "close".to_owned())], body.to_owned())
        })
        .await;
        let port = server.address.rsplit(':').next().unwrap();
        // another test may use the port on that address
        if let Ok(canary) = TcpListener::bind(format!("{DENIED}:{port}")) {
            canary.set_nonblocking(true).unwrap();
            return (server, canary);
        }
    }
}

#[tokio::test]
async fn dialer_connects_only_to_checked_addresses() {
    let mixed = vec![ALLOWED, DENIED];
    let cases = [
        vec![vec![ALLOWED], vec![DENIED]],
        vec![vec![DENIED], vec![ALLOWED]],
        vec![vec![ALLOWED], vec![ALLOWED], vec![DENIED]],
        vec![vec![ALLOWED], mixed.clone()],
        vec![mixed.clone(), vec![DENIED, ALLOWED]],
        vec![vec![ALLOWED], vec!["169.254.169.254", ALLOWED], vec!["::ffff:127.0.0.2"]],
    ];
    for answers in cases {
        let (server, canary) = cluster_and_canary().await;
        let allowed = answers.iter().filter(|answer| **answer == [ALLOWED]).count();
        let (rounds, lookups_per_round) = (4, answers.len());
        let resolver = Arc::new(AlternatingResolver { answers, lookups: AtomicUsize::new(0) });
        let port = server.address.rsplit(':').next().unwrap();
        let mut connection =
            by_token(&format!("https://rebinding.example.com:{port}"), Some(&server.ca), TOKEN);
        connection.tls_server_name = Some(ALLOWED.to_owned());
        let egress = EgressRules {
            allow_loopback: true,
            allow_networks: Some(format!("{ALLOWED}/32").parse().unwrap()),
            ..EgressRules::default()
        };
        let settings = KubeSettings {
            deadlines: SHORT_DEADLINES,
            egress,
            resolver: resolver.clone(),
            ..KubeSettings::default()
        };
        let (adapter, registry) = clusters_with(connection, settings);
        let mut refused = 0;
        for call in 0..rounds * lookups_per_round {
            // every call dials
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
        assert_eq!(
            resolver.lookups.load(Ordering::SeqCst),
            rounds * lookups_per_round,
            "one lookup per connection"
        );
        assert_eq!(server.requests().len(), rounds * allowed);
        assert_eq!(refused, rounds * (lookups_per_round - allowed));
        for _ in 0..lookups_per_round {
            let probed = probe_registered(&adapter, &registry, ProbeReason::Test).await.unwrap();
            assert!(probed.result.is_err(), "an invalid response, or denied");
        }
        let accepted = canary.accept().map(drop);
        assert_eq!(
            accepted.unwrap_err().kind(),
            io::ErrorKind::WouldBlock,
            "no connection to the denied address"
        );
    }
}
