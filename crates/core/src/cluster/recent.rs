//! The registry of clusters with a short memory of what every request asks: the name, and how to reach the cluster.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Cluster, ClusterId, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, Observation,
    StoredConnection,
};
use crate::{
    access::Permit,
    clock::{Clock, Tasks, detached},
    error::Result,
    recent::Recent,
};

/// Names and connections, at most a second old. A change that goes through this is forgotten before it is answered, so
/// everything in a process that asks for them or changes them should be given this one.
pub struct RecentClusters {
    registry: Arc<dyn ClusterRegistry>,
    connections: Arc<dyn Connections>,
    names: Recent<ClusterId, ClusterName>,
    ways: Recent<ClusterId, StoredConnection>,
    tasks: Arc<dyn Tasks>,
}

impl RecentClusters {
    /// A memory of what these say.
    pub fn new(
        registry: Arc<dyn ClusterRegistry>,
        connections: Arc<dyn Connections>,
        clock: Arc<dyn Clock>,
        tasks: Arc<dyn Tasks>,
    ) -> Self {
        let (names, ways) = (Recent::new(clock.clone()), Recent::new(clock));
        Self { registry, connections, names, ways, tasks }
    }

    /// Runs a change to its end, whoever waits for it, and forgets.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        detached(&*self.tasks, self.names.forgetting(self.ways.forgetting(work))).await
    }
}

#[async_trait]
impl ClusterRegistry for RecentClusters {
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

    async fn observed(&self, id: ClusterId, version: i64, observation: Observation) -> Result<()> {
        self.registry.observed(id, version, observation).await
    }
}

#[async_trait]
impl Connections for RecentClusters {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        self.ways.get(id, self.connections.connection(id)).await
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        self.connections.versions().await
    }
}
