//! Probe results are written only if they change something.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{TestDatabase, cluster};
use pilothouse_core::{
    Cause,
    access::{AccessRequest, Resource, Verb},
    cluster::{Cluster, Health, NodeCount, ProbeResult, Report},
    connection::Credential,
    testing::contract::StorePorts,
};

fn report(pods: i64) -> Report {
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
async fn unchanged_probe_result_is_written_every_ten_seconds_at_most() {
    for db in TestDatabase::all() {
        let store = db.open().await;
        let ports = StorePorts::over(Arc::new(store));
        let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod"));
        let record = cluster(&ports, "prod", Credential::Token("canary".into()));
        let id = ports.clusters.create(&permit, record).await.unwrap().id;
        let version = ports.connections.connection(id).await.unwrap().unwrap().version;
        let start = ports.now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let probe = async |seconds, result| -> Cluster {
            ports
                .clusters
                .record_probe(id, version, ProbeResult { at: after(seconds), result })
                .await
                .unwrap();
            ports.clusters.find(id).await.unwrap().unwrap()
        };
        let connected = |row: &Cluster| row.last_connected_at;

        let first = probe(0, Ok(report(40))).await;
        assert_eq!((first.status, connected(&first)), (Health::Online, Some(start)));
        assert_eq!(probe(9, Ok(report(40))).await, first, "nothing changed");
        let counted = probe(9, Ok(report(41))).await;
        assert_eq!((counted.pod_count, connected(&counted)), (Some(41), Some(after(9))));
        assert_eq!(connected(&probe(18, Ok(report(41))).await), Some(after(9)));
        assert_eq!(connected(&probe(19, Ok(report(41))).await), Some(after(19)));

        let down = probe(20, Err(Cause::Unreachable)).await;
        assert_eq!((down.status, connected(&down)), (Health::Offline, Some(after(19))));
        assert_eq!(probe(60, Err(Cause::Unreachable)).await, down, "nothing changed");
        let why = probe(61, Err(Cause::TlsUntrusted)).await;
        assert_eq!(why.status_reason.as_deref(), Some("tls_untrusted"));
        let up = probe(62, Ok(report(41))).await;
        assert_eq!((up.status, connected(&up)), (Health::Online, Some(after(62))));
    }
}

/// SQLite has one writer. A probe that changes nothing does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn unchanged_probe_result_does_not_wait_for_the_writer() {
    let db = TestDatabase::sqlite();
    let store = db.open().await;
    let ports = StorePorts::over(Arc::new(store));
    let permit = ports.permit(AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod"));
    let record = cluster(&ports, "prod", Credential::Token("canary".into()));
    let id = ports.clusters.create(&permit, record).await.unwrap().id;
    let version = ports.connections.connection(id).await.unwrap().unwrap().version;
    let probe_result = ProbeResult { at: ports.now(), result: Ok(report(40)) };
    ports.clusters.record_probe(id, version, probe_result.clone()).await.unwrap();

    let mut writer = db.sqlite_connection();
    common::Batch::batch(&mut writer, "BEGIN IMMEDIATE").unwrap();
    for _ in 0..64 {
        ports.clusters.record_probe(id, version, probe_result.clone()).await.expect("no write");
    }
    common::Batch::batch(&mut writer, "ROLLBACK").unwrap();
}
