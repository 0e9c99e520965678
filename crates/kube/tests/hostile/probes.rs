//! Many probes at once: one cluster is asked once at a time, within the places and the circuit of its other calls.

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

const BRIEF: Deadlines =
    Deadlines { read: Duration::from_secs(2), write: Duration::from_secs(2), test: Duration::from_secs(2) };

fn registered(server: &FakeServer) -> (KubeClusters, Arc<Registry>) {
    clusters(by_token(&server.address, Some(&server.ca), TOKEN), BRIEF)
}

/// So many probes at once.
async fn at_once(
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
async fn however_many_ask_for_its_status_a_hanging_cluster_is_asked_once() {
    let server = FakeServer::start(|_, _| Reply::Silence).await;
    let (adapter, registry) = registered(&server);
    let answers = at_once(&adapter, &registry, ProbeReason::Status, 300).await;
    assert!(answers.iter().all(|answer| cause(answer) == Some(Cause::DeadlineExceeded)), "{answers:?}");
    assert_eq!((server.asked().len(), server.accepted()), (1, 1));
    let recorded = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|probed| probed.record)).count();
    assert_eq!(recorded, 1, "one of them stores it");
}

#[tokio::test]
async fn a_status_of_a_second_ago_is_as_good_and_a_test_asks_anew() {
    let server = FakeServer::start(|asked, _| super::probe::answers_a_probe(asked)).await;
    let (adapter, registry) = registered(&server);
    let versions = || server.asked().iter().filter(|asked| asked.target == "/version").count();
    let ask = async |reason| {
        let probed = probe_registered(&adapter, &registry, reason).await.unwrap();
        assert!(probed.result.is_ok(), "{probed:?}");
        probed
    };
    assert!(!ask(ProbeReason::Test).await.record, "a test keeps nothing");
    // on a busy machine the second may be over before the next one asks
    let status = ask(ProbeReason::Status).await;
    let before = versions();
    assert!(before <= 2 && status.record, "of those who share a probe the first status stores it");
    ask(ProbeReason::Test).await;
    assert_eq!(versions(), before + 1);
    let end = Instant::now() + Duration::from_secs(20);
    while versions() < before + 2 {
        assert!(Instant::now() < end, "a status that is older than a second is asked for anew");
        ask(ProbeReason::Scheduled).await;
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn another_version_of_the_connection_is_another_probe_and_an_older_one_none() {
    let server = FakeServer::start(|asked, _| super::probe::answers_a_probe(asked)).await;
    let (adapter, registry) = registered(&server);
    let older = registry.0.lock().unwrap()[&CLUSTER].clone();
    probe_registered(&adapter, &registry, ProbeReason::Status).await.unwrap().result.unwrap();
    registry.set(by_token(&server.address, Some(&server.ca), "second"), 2);
    probe_registered(&adapter, &registry, ProbeReason::Status).await.unwrap().result.unwrap();
    let asked = server.asked();
    assert_eq!(asked.last().unwrap().headers["authorization"], "Bearer second");

    let permit = permit_for_status();
    for reason in [ProbeReason::Status, ProbeReason::Test, ProbeReason::Scheduled] {
        let refused = adapter.probe(&permit, ProbeTarget::Registered(older.clone(), reason)).await;
        assert_eq!(refused.unwrap_err().cause, Cause::Unreachable);
    }
    assert_eq!(server.asked().len(), asked.len(), "nothing is sent with the older credential");
}

#[tokio::test]
async fn while_the_circuit_is_open_only_the_prober_asks() {
    let server = FakeServer::start(|_, _| Reply::Silence).await;
    let (adapter, registry) = registered(&server);
    let reads = join_all((0..5).map(|_| list_pods(&adapter))).await;
    assert!(reads.iter().all(Result::is_err));
    let before = server.asked().len();
    for reason in [ProbeReason::Status, ProbeReason::Test] {
        for answer in at_once(&adapter, &registry, reason, 20).await {
            let refused = answer.unwrap_err();
            assert_eq!(refused.cause, Cause::CircuitOpen);
            assert!(refused.context.retry_after.is_some());
        }
    }
    let stored = registry.0.lock().unwrap()[&CLUSTER].clone();
    let target = ProbeTarget::Registered(stored, ProbeReason::Test);
    let refused = adapter.permissions(&permit_for_status(), target).await.unwrap_err();
    assert_eq!(refused.cause, Cause::CircuitOpen);
    assert_eq!(server.asked().len(), before, "nothing is sent");
    let visit = probe_registered(&adapter, &registry, ProbeReason::Scheduled).await.unwrap();
    assert_eq!(visit.result.unwrap_err().cause, Cause::DeadlineExceeded);
    assert_eq!(server.asked().len(), before + 1);
}

#[tokio::test]
async fn a_probe_that_is_answered_closes_the_circuit() {
    let server = FakeServer::start(|asked, before| match before {
        0..5 => Reply::Silence,
        _ if asked.target.contains("/pods?&limit=500") => pod_list(&[], ""),
        _ => super::probe::answers_a_probe(asked),
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
async fn a_probe_takes_a_place_of_the_cluster() {
    let server = FakeServer::start(|_, _| Reply::Silence).await;
    let deadlines = Deadlines { read: Duration::from_secs(30), ..BRIEF };
    let (adapter, registry) = clusters(by_token(&server.address, Some(&server.ca), TOKEN), deadlines);
    let reads = join_all((0..32).map(|_| list_pods(&adapter)));
    let probes = async {
        let end = Instant::now() + Duration::from_secs(20);
        while server.asked().len() < 32 {
            assert!(Instant::now() < end, "32 reads are under way");
            sleep(Duration::from_millis(5)).await;
        }
        at_once(&adapter, &registry, ProbeReason::Status, 10).await
    };
    let probes = match select(pin!(reads), pin!(probes)).await {
        Either::Left(_) => panic!("reads of a cluster that is silent end after 30 s"),
        Either::Right((probes, _)) => probes,
    };
    assert!(probes.iter().all(|answer| answer.as_ref().is_err_and(|e| e.cause == Cause::Overloaded)));
    assert_eq!(server.asked().len(), 32);
}

#[tokio::test]
async fn however_many_ask_what_it_may_do_a_cluster_is_asked_once() {
    let server =
        FakeServer::start(|_, _| Reply::json(201, &json!({"spec": {}, "status": {"allowed": true}}))).await;
    let (adapter, registry) = registered(&server);
    let stored = registry.0.lock().unwrap()[&CLUSTER].clone();
    let ask = || {
        let target = ProbeTarget::Registered(stored.clone(), ProbeReason::Test);
        async { adapter.permissions(&permit_for_status(), target).await }
    };
    assert!(ask().await.is_ok());
    let once = server.asked().len();
    assert!(join_all((0..100).map(|_| ask())).await.iter().all(Result::is_ok));
    assert_eq!(server.asked().len(), 2 * once);
}

/// Connections that are not registered have places of their own: four to one address.
#[tokio::test]
async fn tests_of_new_connections_to_one_address_are_few_at_once() {
    let server = FakeServer::start(|_, _| Reply::Silence).await;
    let (adapter, _) = registered(&server);
    let connection = by_token(&server.address, Some(&server.ca), TOKEN);
    let answers = join_all((0..40).map(|_| probe(&adapter, &connection))).await;
    let causes: Vec<_> = answers.into_iter().map(|answer| answer.unwrap_err().cause).collect();
    let expected = [Cause::DeadlineExceeded, Cause::Overloaded];
    assert!(causes.iter().all(|cause| expected.contains(cause)), "{causes:?}");
    assert!(server.asked().len() <= 4, "{}", server.asked().len());
}

/// Never answers for a name, and counts how often it was asked.
#[derive(Debug, Default)]
struct Silent(AtomicUsize);

#[async_trait]
impl Resolver for Silent {
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_name_without_an_answer_is_looked_up_once_by_all_calls_together() {
    let silent = Arc::new(Silent::default());
    let connection = by_token("https://silent.example.com", None, TOKEN);
    let settings = KubeSettings {
        deadlines: BRIEF,
        egress: EgressRules::default(),
        resolver: silent.clone(),
        ..KubeSettings::default()
    };
    let (adapter, registry) = clusters_with(connection, settings);
    for _ in 0..2 {
        let reads = join_all((0..50).map(|_| list_pods(&adapter)));
        let (reads, probes) = join(reads, at_once(&adapter, &registry, ProbeReason::Scheduled, 50)).await;
        assert!(reads.iter().all(Result::is_err) && probes.iter().all(|answer| cause(answer).is_some()));
    }
    assert_eq!(silent.0.load(Ordering::SeqCst), 1);
}

fn permit_for_status() -> Permit {
    use pilothouse_core::{
        access::{AccessRequest, Caller, Resource},
        testing,
    };
    testing::permit(&Caller::system(), AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER))
}
