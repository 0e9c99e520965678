//! A read of every cluster at once.

use super::Gate;
use crate::{
    access::{AccessRequest, Caller, Permit},
    cluster::{ClusterId, ClusterName},
    error::Result,
};

/// What may be read in one cluster.
pub(crate) struct ClusterPermits {
    /// Which.
    pub(crate) cluster: ClusterId,
    /// Its name.
    pub(crate) name: ClusterName,
    /// A permit for each access asked for, in their order.
    pub(crate) permits: Vec<Permit>,
}

impl Gate {
    /// Allows reads in every registered cluster, by id. The clusters are read once, however many there are. A role
    /// holds in all of them; where grants are of single clusters, those that the caller may not read are left out here.
    ///
    /// # Errors
    /// `RoleTooLow`; `StoreUnavailable`; `AuditUnavailable` when a refusal cannot be recorded.
    pub(crate) async fn allow_in_all_clusters(
        &self,
        caller: &Caller,
        reads: &[AccessRequest],
    ) -> Result<Vec<ClusterPermits>> {
        let mut allowed = Vec::with_capacity(reads.len());
        for access in reads {
            allowed.push(self.authorise(caller, access.clone()).await?);
        }
        let mut clusters = self.clusters.list().await?;
        clusters.sort_by_key(|cluster| cluster.id);
        let within = clusters.into_iter().map(|cluster| {
            let (id, name) = (cluster.id, cluster.name);
            let in_it = |access: &AccessRequest| {
                let access = access.clone().in_cluster(id);
                Permit::new(AccessRequest { cluster_name: Some(name.to_string()), ..access }, None)
            };
            ClusterPermits { cluster: id, permits: allowed.iter().map(in_it).collect(), name }
        });
        Ok(within.collect())
    }
}
