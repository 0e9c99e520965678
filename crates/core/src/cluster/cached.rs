//! Sub-second cache in front of the cluster registry: names and connections, which every request needs.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Cluster, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, ProbeResult};
use crate::{
    access::Permit,
    clock::Clock,
    connection::StoredConnection,
    error::Result,
    ids::ClusterId,
    spawn::{Spawner, detached},
    ttl_cache::TtlCache,
};

/// Cache of names and connections, at most one second old. A change through this type invalidates the cache before the
/// change returns. All code of a process must therefore read and change clusters through the same instance.
pub struct CachedClusters {
    registry: Arc<dyn ClusterRegistry>,
    connections: Arc<dyn Connections>,
    name_cache: TtlCache<ClusterId, ClusterName>,
    connection_cache: TtlCache<ClusterId, StoredConnection>,
    spawner: Arc<dyn Spawner>,
}

impl CachedClusters {
    /// A cache in front of these ports.
    pub fn new(
        registry: Arc<dyn ClusterRegistry>,
        connections: Arc<dyn Connections>,
        clock: Arc<dyn Clock>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        let (name_cache, connection_cache) = (TtlCache::new(clock.clone()), TtlCache::new(clock));
        Self { registry, connections, name_cache, connection_cache, spawner }
    }

    /// Runs a change to completion, even if the caller stops waiting, and invalidates the cache.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(
            &*self.spawner,
            self.name_cache.invalidate_after(self.connection_cache.invalidate_after(work)),
        )
        .await
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
        self.name_cache.get(id, self.registry.name(id)).await
    }

    async fn create(&self, permit: &Permit, cluster: ClusterRecord) -> Result<Cluster> {
        // nothing to invalidate: ids are never reused, and the cache stores no absence
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

    async fn record_probe(&self, id: ClusterId, version: i64, probe_result: ProbeResult) -> Result<()> {
        self.registry.record_probe(id, version, probe_result).await
    }
}

#[async_trait]
impl Connections for CachedClusters {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        self.connection_cache.get(id, self.connections.connection(id)).await
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        self.connections.versions().await
    }
}
