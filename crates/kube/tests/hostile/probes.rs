//! Concurrent probes: a cluster is probed once at a time, within its concurrency limit and circuit breaker.

use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::future::{Either, join, join_all, select};
use pilothouse_core::cluster::{ProbeTarget, Probed};
use pilothouse_kube::{EgressRules, KubeSettings, Resolver};
use tokio::time::{Instant, sleep};

use super::*;

const BRIEF_DEADLINES: Deadlines =
    Deadlines { read: Duration::from_secs(2), write: Duration::from_secs(2), test: Duration::from_secs(2) };

fn registered(server: &FakeServer) -> (KubeClusters, Arc<Registry>) {
    clusters(by_token(&server.address, Some(&server.ca), TOKEN), BRIEF_DEADLINES)
}

/// Runs `count` probes concurrently.
async fn probe_concurrently(
    adapter: &KubeClusters,
    registry: &Registry,
    reason: ProbeReason,
    count: usize,
) -> Vec<Result<Probed>> {
    join_all((0..count).map(|_| probe_registered(adapter, registry, reason))).await
}

fn cause(probed: &Result<Probed>) -> Option<Cause> {
    probed
        .as_ref()
        .map_or_else(|error| Some(error.cause), |probed| probed.result.as_ref().err().map(|e| e.cause))
}

#[tokio::test]
async fn concurrent_status_probes_of_hanging_cluster_share_one_request() {
    let server = FakeServer::start(|_, _| Reply::NoResponse).await;
    let (adapter, registry) = registered(&server);
    let results = probe_concurrently(&adapter, &registry, ProbeReason::Status, 300).await;
    assert!(results.iter().all(|result| cause(result) == Some(Cause::DeadlineExceeded)), "{results:?}");
    assert_eq!((server.requests().len(), server.accepted()), (1, 1));
    let recorded = results.iter().filter(|result| result.as_ref().is_ok_and(|probed| probed.record)).count();
    assert_eq!(recorded, 1, "one caller records the result");
}

#[tokio::test]
async fn status_is_reused_for_one_second_and_test_always_probes() {
    let server = FakeServer::start(|request, _| super::probe::probe_reply(request)).await;
    let (adapter, registry) = registered(&server);
    let versions = || server.requests().iter().filter(|request| request.target == "/version").count();
    let ask = async |reason| {
        let probed = probe_registered(&adapter, &registry, reason).await.unwrap();
        assert!(probed.result.is_ok(), "{probed:?}");
        probed
    };
    assert!(!ask(ProbeReason::Test).await.record, "a test is not recorded");
    // on a loaded machine 1 s may pass before the next request
    let status = ask(ProbeReason::Status).await;
    let before = versions();
    assert!(before <= 2 && status.record, "the first status that shares a probe records the result");
    ask(ProbeReason::Test).await;
    assert_eq!(versions(), before + 1);
    let end = Instant::now() + Duration::from_secs(20);
    while versions() < before + 2 {
        assert!(Instant::now() < end, "a status older than 1 s is not reused");
        ask(ProbeReason::Scheduled).await;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn probe_is_per_connection_version_and_older_one_is_refused() {
    let server = FakeServer::start(|request, _| super::probe::probe_reply(request)).await;
    let (adapter, registry) = registered(&server);
    let older = registry.0.lock().unwrap()[&CLUSTER].clone();
    probe_registered(&adapter, &registry, ProbeReason::Status).await.unwrap().result.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "second"), 2);
    probe_registered(&adapter, &registry, ProbeReason::Status).await.unwrap().result.unwrap();
    let requests = server.requests();
    assert_eq!(requests.last().unwrap().headers["authorization"], "Bearer second");

    let permit = permit_for_status();
    for reason in [ProbeReason::Status, ProbeReason::Test, ProbeReason::Scheduled] {
        let refused = adapter.probe(&permit, ProbeTarget::Registered(older.clone(), reason)).await;
        assert_eq!(refused.unwrap_err().cause, Cause::Unreachable);
    }
    assert_eq!(server.requests().len(), requests.len(), "nothing is sent with the older credential");
}

#[tokio::test]
async fn open_circuit_admits_only_scheduled_probes() {
    let server = FakeServer::start(|_, _| Reply::NoResponse).await;
    let (adapter, registry) = registered(&server);
    let reads = join_all((0..5).map(|_| list_pods(&adapter))).await;
    assert!(reads.iter().all(Result::is_err));
    let before = server.requests().len();
    for reason in [ProbeReason::Status, ProbeReason::Test] {
        for result in probe_concurrently(&adapter, &registry, reason, 20).await {
            let refused = result.unwrap_err();
            assert_eq!(refused.cause, Cause::CircuitOpen);
            assert!(refused.context.retry_after.is_some());
        }
    }
    let stored = registry.0.lock().unwrap()[&CLUSTER].clone();
    let target = ProbeTarget::Registered(stored, ProbeReason::Test);
    let refused = adapter.permissions(&permit_for_status(), target).await.unwrap_err();
    assert_eq!(refused.cause, Cause::CircuitOpen);
    assert_eq!(server.requests().len(), before, "nothing is sent");
    let probed = probe_registered(&adapter, &registry, ProbeReason::Scheduled).await.unwrap();
    assert_eq!(probed.result.unwrap_err().cause, Cause::DeadlineExceeded);
    assert_eq!(server.requests().len(), before + 1);
}

#[tokio::test]
async fn successful_probe_closes_the_circuit() {
    let server = FakeServer::start(|request, before| match before {
        0..5 => Reply::NoResponse,
        _ if request.target.contains("/pods?&limit=500") => pod_list(&[], ""),
        _ => super::probe::probe_reply(request),
    })
    .await;
    let (adapter, registry) = registered(&server);
    let reads = join_all((0..5).map(|_| list_pods(&adapter))).await;
    assert!(reads.iter().all(Result::is_err));
    assert_eq!(list_pods(&adapter).await.unwrap_err().cause, Cause::CircuitOpen);
    probe_registered(&adapter, &registry, ProbeReason::Scheduled).await.unwrap().result.unwrap();
    list_pods(&adapter).await.expect("the circuit is closed");
}

#[tokio::test]
async fn probe_counts_against_concurrency_limit_of_cluster() {
    let server = FakeServer::start(|_, _| Reply::NoResponse).await;
    let deadlines = Deadlines { read: Duration::from_secs(30), ..BRIEF_DEADLINES };
    let (adapter, registry) = clusters(by_token(&server.address, Some(&server.ca), TOKEN), deadlines);
    let reads = join_all((0..32).map(|_| list_pods(&adapter)));
    let probes = async {
        let end = Instant::now() + Duration::from_secs(20);
        while server.requests().len() < 32 {
            assert!(Instant::now() < end, "32 reads are running");
            sleep(Duration::from_millis(5)).await;
        }
        probe_concurrently(&adapter, &registry, ProbeReason::Status, 10).await
    };
    let probes = match select(pin!(reads), pin!(probes)).await {
        Either::Left(_) => panic!("a read ended before its deadline of 30 s"),
        Either::Right((probes, _)) => probes,
    };
    assert!(probes.iter().all(|result| result.as_ref().is_err_and(|e| e.cause == Cause::Overloaded)));
    assert_eq!(server.requests().len(), 32);
}

#[tokio::test]
async fn concurrent_permission_checks_share_one_run() {
    let server =
        FakeServer::start(|_, _| Reply::json(201, &json!({"spec": {}, "status": {"allowed": true}}))).await;
    let (adapter, registry) = registered(&server);
    let stored = registry.0.lock().unwrap()[&CLUSTER].clone();
    let ask = || {
        let target = ProbeTarget::Registered(stored.clone(), ProbeReason::Test);
        async { adapter.permissions(&permit_for_status(), target).await }
    };
    assert!(ask().await.is_ok());
    let requests_per_run = server.requests().len();
    assert!(join_all((0..100).map(|_| ask())).await.iter().all(Result::is_ok));
    assert_eq!(server.requests().len(), 2 * requests_per_run);
}

/// Connection tests of unregistered clusters have their own limit: four per address.
#[tokio::test]
async fn connection_tests_are_limited_per_address() {
    let server = FakeServer::start(|_, _| Reply::NoResponse).await;
    let (adapter, _) = registered(&server);
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let results = join_all((0..40).map(|_| probe(&adapter, &connection))).await;
    let causes: Vec<_> = results.into_iter().map(|result| result.unwrap_err().cause).collect();
    let expected = [Cause::DeadlineExceeded, Cause::Overloaded];
    assert!(causes.iter().all(|cause| expected.contains(cause)), "{causes:?}");
    assert!(server.requests().len() <= 4, "{}", server.requests().len());
}

/// Resolver that never answers and counts its lookups.
#[derive(Debug, Default)]
struct HangingResolver(AtomicUsize);

#[async_trait]
impl Resolver for HangingResolver {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn hanging_name_is_looked_up_once_for_all_calls() {
    let resolver = Arc::new(HangingResolver::default());
    let connection = by_token("https://silent.example.com", None, TOKEN);
    let settings = KubeSettings {
        deadlines: BRIEF_DEADLINES,
        egress: EgressRules::default(),
        resolver: resolver.clone(),
        ..KubeSettings::default()
    };
    let (adapter, registry) = clusters_with(connection, settings);
    for _ in 0..2 {
        let reads = join_all((0..50).map(|_| list_pods(&adapter)));
        let (reads, probes) =
            join(reads, probe_concurrently(&adapter, &registry, ProbeReason::Scheduled, 50)).await;
        assert!(reads.iter().all(Result::is_err) && probes.iter().all(|result| cause(result).is_some()));
    }
    assert_eq!(resolver.0.load(Ordering::SeqCst), 1);
}

fn permit_for_status() -> Permit {
    use pilothouse_core::{
        access::{AccessRequest, Caller, Resource},
        testing,
    };
    testing::permit(&Caller::system(), AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER))
}
