//! Adapter from the cluster registry to the gate's port for cluster names.

use std::sync::Arc;

use async_trait::async_trait;

use super::ClusterRegistry;
use crate::{error::Result, gate::ClusterNames, ids::ClusterId};

/// The names of the clusters in a registry.
pub struct RegistryNames(pub Arc<dyn ClusterRegistry>);

#[async_trait]
impl ClusterNames for RegistryNames {
    async fn name(&self, id: ClusterId) -> Result<Option<String>> {
        Ok(self.0.name(id).await?.map(String::from))
    }

    async fn all(&self) -> Result<Vec<(ClusterId, String)>> {
        let clusters = self.0.list().await?;
        Ok(clusters.into_iter().map(|cluster| (cluster.id, cluster.name.into())).collect())
    }
}
