use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{MemoryStore, State};
use crate::{
    access::Permit,
    cluster::{
        Cluster, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, Health, ProbeResult,
    },
    connection::StoredConnection,
    error::{Cause, Error, Result},
    ids::ClusterId,
};

#[async_trait]
impl ClusterRegistry for MemoryStore {
    async fn list(&self) -> Result<Vec<Cluster>> {
        Ok(self.lock().clusters.iter().map(|(cluster, _)| cluster.clone()).collect())
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        Ok(self.lock().clusters.iter().map(|(cluster, _)| cluster).find(|cluster| cluster.id == id).cloned())
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        Ok(self.find(id).await?.map(|cluster| cluster.name))
    }

    async fn create(&self, permit: &Permit, record: ClusterRecord) -> Result<Cluster> {
        let mut state = self.write()?;
        state.check_name(&record.name, None)?;
        let cluster = Cluster::registered(ClusterId(state.next_id()), &record);
        state.rights_stamp.0 += 1;
        state.record_success(permit, Some(cluster.id))?;
        let version = state.next_version();
        state.clusters.push((cluster.clone(), StoredConnection { connection: record.connection, version }));
        Ok(cluster)
    }

    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        let mut state = self.write()?;
        let id = permit.cluster()?;
        if let Some(name) = &patch.name {
            state.check_name(name, Some(id))?;
        }
        let version = state.next_version();
        let (cluster, stored) =
            state.clusters.iter_mut().find(|(cluster, _)| cluster.id == id).ok_or_else(|| not_found(id))?;
        if patch.unless_changed_since.is_some_and(|read| cluster.updated_at != read) {
            return Err(Error::new(Cause::Modified).resource("cluster").name(id.to_string()));
        }
        cluster.name = patch.name.unwrap_or_else(|| cluster.name.clone());
        cluster.description = patch.description.unwrap_or_else(|| cluster.description.clone());
        let relabels = patch.labels.is_some();
        cluster.labels = patch.labels.unwrap_or_else(|| cluster.labels.clone());
        cluster.updated_at = at;
        if let Some((auth_type, connection)) = patch.connection {
            cluster.auth_type = auth_type;
            cluster.api_server = connection.server.to_string();
            (cluster.status, cluster.level) = (Health::Offline, Health::Offline.level());
            cluster.status_reason = None;
            (cluster.node_count, cluster.pod_count, cluster.namespace_count) = (None, None, None);
            (cluster.version, cluster.last_connected_at) = (None, None);
            *stored = StoredConnection { connection, version };
        }
        if let Some(probe_result) = patch.probe_result {
            cluster.observe(&probe_result);
        }
        let changed = cluster.clone();
        if relabels {
            state.change_rights(permit)?;
        } else {
            state.record_success(permit, None)?;
        }
        Ok(changed)
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let mut state = self.write()?;
        let id = permit.cluster()?;
        let at =
            state.clusters.iter().position(|(cluster, _)| cluster.id == id).ok_or_else(|| not_found(id))?;
        state.clusters.remove(at);
        state.change_rights(permit)
    }

    async fn record_probe(&self, id: ClusterId, version: i64, probe_result: ProbeResult) -> Result<()> {
        let mut state = self.lock();
        let current = |(cluster, stored): &&mut (Cluster, StoredConnection)| {
            cluster.id == id && stored.version == version
        };
        if let Some((cluster, _)) = state.clusters.iter_mut().find(current) {
            cluster.observe(&probe_result);
        }
        Ok(())
    }
}

#[async_trait]
impl Connections for MemoryStore {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        Ok(self
            .lock()
            .clusters
            .iter()
            .find(|(cluster, _)| cluster.id == id)
            .map(|(_, stored)| stored.clone()))
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        Ok(self.lock().clusters.iter().map(|(cluster, stored)| (cluster.id, stored.version)).collect())
    }
}

impl State {
    fn check_name(&self, name: &ClusterName, except: Option<ClusterId>) -> Result<()> {
        let taken = |cluster: &Cluster| cluster.name.key() == name.key() && Some(cluster.id) != except;
        if self.clusters.iter().any(|(cluster, _)| taken(cluster)) {
            return Err(Error::new(Cause::NameTaken).resource("cluster").name(name.as_str()));
        }
        Ok(())
    }
}

fn not_found(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}
