//! Shared test helpers: a registry of connections, permits, and a programmable API server.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it, and fails by panicking"
)]

pub(crate) mod kind_server;
pub(crate) mod kinds;
pub(crate) mod server;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    cluster::{ClusterProbe, Connections, Permission, ProbeReason, ProbeTarget, Probed, Report},
    connection::{ApiServer, Connection, Credential, StoredConnection},
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
    namespaces::NamespaceScope,
    rights::{ClusterLabels, EffectiveGrant, GrantRef, Labels, Rights, RoleRules},
    role::Role,
    testing::{
        self,
        fake::{FakeClock, FakeRuntime},
    },
};
use pilothouse_kube::{CacheSettings, Deadlines, EgressRules, KubeClusters, KubeSettings};
use serde_json::{Value, json};

/// The cluster of every test.
pub(crate) const CLUSTER: ClusterId = ClusterId(1);

/// Registry whose connections a test may change.
#[derive(Default)]
pub(crate) struct Registry(pub(crate) Mutex<HashMap<ClusterId, StoredConnection>>);

impl Registry {
    pub(crate) fn set(&self, connection: Connection, version: i64) {
        self.set_of(CLUSTER, connection, version);
    }

    /// As [`Registry::set`] for another cluster.
    pub(crate) fn set_of(&self, cluster: ClusterId, connection: Connection, version: i64) {
        self.0.lock().unwrap().insert(cluster, StoredConnection { connection, version });
    }
}

#[async_trait]
impl Connections for Registry {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        Ok(self.0.lock().unwrap().get(&id).cloned())
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        Ok(self.0.lock().unwrap().iter().map(|(id, stored)| (*id, stored.version)).collect())
    }
}

pub(crate) const SHORT_DEADLINES: Deadlines =
    Deadlines { read: Duration::from_secs(4), write: Duration::from_secs(4), test: Duration::from_secs(4) };

/// An adapter with one registered connection.
pub(crate) fn clusters(connection: Connection, deadlines: Deadlines) -> (KubeClusters, Arc<Registry>) {
    let egress = EgressRules { allow_loopback: true, ..EgressRules::default() };
    clusters_with(connection, KubeSettings { deadlines, egress, ..KubeSettings::default() })
}

/// As [`clusters`] with other settings.
pub(crate) fn clusters_with(connection: Connection, settings: KubeSettings) -> (KubeClusters, Arc<Registry>) {
    let registry = Arc::new(Registry::default());
    registry.set(connection, 1);
    (KubeClusters::new(settings, registry.clone(), FakeRuntime::default().clock), registry)
}

/// As [`clusters`] with a list cache.
pub(crate) fn with_cache(
    connection: Connection,
    deadlines: Deadlines,
    cache_settings: CacheSettings,
) -> (KubeClusters, Arc<Registry>) {
    with_cache_and_clock(connection, deadlines, cache_settings, FakeRuntime::default().clock)
}

/// As [`with_cache`], with the clock of a test.
pub(crate) fn with_cache_and_clock(
    connection: Connection,
    deadlines: Deadlines,
    cache_settings: CacheSettings,
    clock: Arc<FakeClock>,
) -> (KubeClusters, Arc<Registry>) {
    let registry = Arc::new(Registry::default());
    registry.set(connection, 1);
    let settings = KubeSettings {
        deadlines,
        egress: EgressRules { allow_loopback: true, ..EgressRules::default() },
        cache_settings: Some(cache_settings),
        ..KubeSettings::default()
    };
    (KubeClusters::new(settings, registry.clone(), clock), registry)
}

/// A connection with a bearer token.
pub(crate) fn by_token(server: &str, ca: Option<&str>, token: &str) -> Connection {
    Connection {
        server: ApiServer::new(server).unwrap(),
        ca: ca.map(ToOwned::to_owned),
        tls_server_name: None,
        insecure_skip_tls_verify: false,
        credential: Credential::Token(token.to_owned().into()),
    }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

pub(crate) fn object(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

/// A permit for a kind in one namespace, with a recorded operation.
pub(crate) fn permit(verb: Verb, kind: Kind, namespace: &str) -> Permit {
    let access = AccessRequest::to(verb, Resource::Kind(kind))
        .in_cluster(CLUSTER)
        .in_namespace(&self::namespace(namespace));
    testing::permit(&Caller::system(), access)
}

/// A permit for a kind in all namespaces.
pub(crate) fn permit_all(verb: Verb, kind: Kind) -> Permit {
    permit_within(verb, kind, NamespaceScope::All)
}

/// A permit for a kind in the namespaces of a scope.
pub(crate) fn permit_within(verb: Verb, kind: Kind, scope: NamespaceScope) -> Permit {
    let access = AccessRequest::to(verb, Resource::Kind(kind)).in_cluster(CLUSTER).within(scope);
    testing::permit(&Caller::system(), access)
}

/// A caller of the role `none` with these rules in these namespaces; `null`: in the whole cluster.
pub(crate) fn caller(rules: Value, namespaces: Value) -> Caller {
    let grant = EffectiveGrant {
        grant: GrantRef { id: None, role: "own".to_owned(), via_group: None, until: None },
        rules: Arc::new(RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()),
        clusters: serde_json::from_value(json!({"ids": [CLUSTER]})).unwrap(),
        reach: serde_json::from_value(namespaces).unwrap(),
        from: Timestamp::UNIX_EPOCH,
        revoked: false,
    };
    let clusters = ClusterLabels::from([(CLUSTER, Labels::new())]);
    let rights = Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH);
    Caller::system().with_rights(Role::None, Arc::new(rights))
}

/// A permit for a connection test.
pub(crate) fn permit_to_test() -> Permit {
    testing::permit(&Caller::system(), AccessRequest::to(Verb::Test, Resource::NewCluster).new_cluster("new"))
}

/// Probes an unregistered connection.
pub(crate) async fn probe(adapter: &KubeClusters, connection: &Connection) -> Result<Report> {
    adapter.probe(&permit_to_test(), ProbeTarget::New(connection.clone())).await?.result
}

/// Reads the permissions of an unregistered connection.
pub(crate) async fn permissions(adapter: &KubeClusters, connection: &Connection) -> Result<Vec<Permission>> {
    adapter.permissions(&permit_to_test(), ProbeTarget::New(connection.clone())).await
}

/// Probes the registered cluster.
pub(crate) async fn probe_registered(
    adapter: &KubeClusters,
    registry: &Registry,
    reason: ProbeReason,
) -> Result<Probed> {
    let stored = registry.0.lock().unwrap()[&CLUSTER].clone();
    let access = AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(CLUSTER);
    adapter.probe(&testing::permit(&Caller::system(), access), ProbeTarget::Registered(stored, reason)).await
}
