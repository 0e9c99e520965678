//! The registry of clusters with a short memory of what every request asks: the name, and how to reach the cluster.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Cluster, ClusterId, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, ProbeResult,
    StoredConnection,
};
use crate::{
    access::Permit,
    clock::{Clock, Spawner, detached},
    error::Result,
    ttl_cache::TtlCache,
};

/// Names and connections, at most a second old. A change that goes through this is forgotten before it is answered, so
/// everything in a process that asks for them or changes them should be given this one.
pub struct CachedClusters {
    registry: Arc<dyn ClusterRegistry>,
    connections: Arc<dyn Connections>,
    names: TtlCache<ClusterId, ClusterName>,
    ways: TtlCache<ClusterId, StoredConnection>,
    spawner: Arc<dyn Spawner>,
}

impl CachedClusters {
    /// A memory of what these say.
    pub fn new(
        registry: Arc<dyn ClusterRegistry>,
        connections: Arc<dyn Connections>,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        let (names, ways) = (TtlCache::new(clock.clone()), TtlCache::new(clock));
        Self { registry, connections, names, ways, spawner }
    }

    /// Runs a change to its end, whoever waits for it, and forgets.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.spawner, self.names.invalidate_after(self.ways.invalidate_after(work))).await
    }
}

#[async_trait]
impl ClusterRegistry for CachedClusters {
    async fn list(&self) -> Result<Vec<Cluster>> {
        self.registry.list().await
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        self.registry.find(id).await
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        self.names.get(id, self.registry.name(id)).await
    }

    async fn create(&self, permit: &Permit, cluster: ClusterRecord) -> Result<Cluster> {
        // ids are never used again, and absence is not remembered
        self.registry.create(permit, cluster).await
    }

    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.update(&permit, patch, at).await }).await
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let (registry, permit) = (self.registry.clone(), permit.clone());
        self.change(async move { registry.delete(&permit).await }).await
    }

    async fn record_probe(&self, id: ClusterId, version: i64, observation: ProbeResult) -> Result<()> {
        self.registry.record_probe(id, version, observation).await
    }
}

#[async_trait]
impl Connections for CachedClusters {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        self.ways.get(id, self.connections.connection(id)).await
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        self.connections.versions().await
    }
}
