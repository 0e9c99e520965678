//! What probes found is written when it is news.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Place, cluster};
use pilothouse_core::{
    Cause,
    access::{AccessRequest, Resource, Verb},
    cluster::{Cluster, Credential, Health, NodeCount, ProbeResult, Report},
    testing::contract::StorePorts,
};

fn found(pods: i64) -> Report {
    Report {
        version: "v1.37.2".to_owned(),
        latency: Duration::from_millis(3),
        identity: None,
        nodes: Some(NodeCount { ready: 2, total: 3 }),
        pods: Some(pods),
        namespaces: None,
        certificates: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_finds_what_the_last_one_found_writes_nothing_for_ten_seconds() {
    for place in Place::all() {
        let store = place.open().await;
        let ports = StorePorts::over(Arc::new(store));
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod"));
        let record = cluster(&ports, "prod", Credential::Token("canary".into()));
        let id = ports.clusters.create(&permit, record).await.unwrap().id;
        let version = ports.connections.connection(id).await.unwrap().unwrap().version;
        let start = ports.now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let observe = async |seconds, result| -> Cluster {
            ports
                .clusters
                .record_probe(id, version, ProbeResult { at: after(seconds), result })
                .await
                .unwrap();
            ports.clusters.find(id).await.unwrap().unwrap()
        };
        let connected = |row: &Cluster| row.last_connected_at;

        let first = observe(0, Ok(found(40))).await;
        assert_eq!((first.status, connected(&first)), (Health::Online, Some(start)));
        assert_eq!(observe(9, Ok(found(40))).await, first, "nothing is new");
        let counted = observe(9, Ok(found(41))).await;
        assert_eq!((counted.pod_count, connected(&counted)), (Some(41), Some(after(9))));
        assert_eq!(connected(&observe(18, Ok(found(41))).await), Some(after(9)));
        assert_eq!(connected(&observe(19, Ok(found(41))).await), Some(after(19)));

        let down = observe(20, Err(Cause::Unreachable)).await;
        assert_eq!((down.status, connected(&down)), (Health::Offline, Some(after(19))));
        assert_eq!(observe(60, Err(Cause::Unreachable)).await, down, "nothing is new");
        let why = observe(61, Err(Cause::TlsUntrusted)).await;
        assert_eq!(why.status_reason.as_deref(), Some("tls_untrusted"));
        let up = observe(62, Ok(found(41))).await;
        assert_eq!((up.status, connected(&up)), (Health::Online, Some(after(62))));
    }
}

/// SQLite has one writer. A probe that finds nothing new does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_without_news_does_not_wait_for_a_writer() {
    let place = Place::sqlite();
    let store = place.open().await;
    let ports = StorePorts::over(Arc::new(store));
    let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod"));
    let record = cluster(&ports, "prod", Credential::Token("canary".into()));
    let id = ports.clusters.create(&permit, record).await.unwrap().id;
    let version = ports.connections.connection(id).await.unwrap().unwrap().version;
    let observation = ProbeResult { at: ports.now(), result: Ok(found(40)) };
    ports.clusters.record_probe(id, version, observation.clone()).await.unwrap();

    let mut writer = place.sqlite_connection();
    common::Batch::batch(&mut writer, "BEGIN IMMEDIATE").unwrap();
    for _ in 0..64 {
        ports.clusters.record_probe(id, version, observation.clone()).await.expect("it does not write");
    }
    common::Batch::batch(&mut writer, "ROLLBACK").unwrap();
}
