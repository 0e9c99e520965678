//! Tests of the adapter against misbehaving API servers: every bad response ends as an error of the core, before the
//! deadline, and without a retry where a write may have been applied.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../common/mod.rs"]
mod common;

mod advisories;
mod budgets;
mod cache;
mod configuration;
mod connection;
mod connection_changed;
mod diagnosis;
mod egress;
mod follow;
mod freshness;
mod levels;
mod lists;
mod logs;
mod malformed_objects;
mod objects;
mod old_cluster;
mod older;
mod older_changes;
mod probe;
mod probes;
mod rebinding;
mod refusals;
mod rollouts;
mod small_changes;
mod usage;
mod watch_server;
mod workloads;
mod worlds;

use std::{collections::BTreeMap, time::Duration};

use common::{
    CLUSTER, Registry, SHORT_DEADLINES, by_token, caller, clusters, clusters_with, object, permissions,
    permit, permit_all, permit_within, probe, probe_registered,
    server::{BodyPart, FakeServer, RecordedRequest, Reply, ServerCert},
};
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Permit, Resource, Verb},
    cluster::{ClusterProbe, ProbeReason},
    config::{ConfigApi, ConfigMapRow, NewConfigMap},
    error::Reason,
    gate::Warning,
    inventory::{Inventory, List, Listing},
    kind::Kind,
    name::ContainerName,
    namespace::NamespaceApi,
    namespaces::{NamespacePattern, NamespaceScope, NamespaceSet},
    object::Labels,
    pod::{Follow, FollowStart, LogChunks, LogOptions, PodApi, PodLogs},
    rows::{ListQuery, Row},
    streams::StreamEnd,
    testing::judged_permit,
    workload::{Replicas, WorkloadApi},
};
use pilothouse_kube::{Deadlines, KubeClusters};
use serde_json::{Value, json};

const TOKEN: &str = "canary-token";

fn adapter(server: &FakeServer) -> KubeClusters {
    clusters(by_token(&server.address, Some(&server.ca), TOKEN), SHORT_DEADLINES).0
}

async fn server_with_reply(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (FakeServer, KubeClusters) {
    let server = FakeServer::start(move |_, _| reply()).await;
    let adapter = adapter(&server);
    (server, adapter)
}

/// A function that builds the same reply for every request.
type ReplyFn = Box<dyn Fn() -> Reply + Send + Sync>;

/// Sends a read.
async fn list_pods(adapter: &KubeClusters) -> Result<Listing> {
    let query = ListQuery {
        cluster: Some(CLUSTER),
        namespaces: NamespaceScope::One(common::namespace("shop")),
        ..ListQuery::default()
    };
    adapter.page(&permit(Verb::List, Kind::Pod, "shop"), List::Pods, &query).await
}

/// Sends a write.
async fn create(adapter: &KubeClusters) -> Result<ConfigMapRow> {
    create_under(adapter, &permit(Verb::Create, Kind::ConfigMap, "shop")).await
}

async fn create_under(adapter: &KubeClusters, permit: &Permit) -> Result<ConfigMapRow> {
    let configmap = NewConfigMap {
        name: object("settings"),
        data: BTreeMap::from([("key".to_owned(), "value".to_owned())]),
        labels: Labels::new(),
    };
    adapter.create_configmap(permit, &configmap).await
}

fn pod_list(names: &[&str], next: &str) -> Reply {
    let items: Vec<_> =
        names.iter().map(|name| json!({"metadata": {"name": name, "namespace": "shop"}})).collect();
    Reply::json(200, &json!({"kind": "PodList", "metadata": {"continue": next}, "items": items}))
}

/// The namespaces `team-*`.
fn team() -> NamespaceScope {
    NamespaceScope::Set(NamespaceSet::new([NamespacePattern::parse("team-*").unwrap()]))
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.rows.iter().map(Row::name).collect()
}
