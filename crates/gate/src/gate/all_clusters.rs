//! Authorisation of reads in all clusters at once.

use pilothouse_types::{error::Result, ids::ClusterId};

use super::Gate;
use crate::access::{AccessRequest, Caller, Permit};

/// Permits for the reads in one cluster.
pub struct ClusterPermits {
    /// Cluster id.
    pub cluster: ClusterId,
    /// Cluster name.
    pub name: String,
    /// One permit for each access request, in the order of the requests.
    pub permits: Vec<Permit>,
}

impl Gate {
    /// Authorises reads in every registered cluster, sorted by id, with one read of the cluster registry. A role is
    /// valid in all clusters. If grants for single clusters are added, this is the place that omits clusters the caller
    /// may not read.
    ///
    /// # Errors
    /// `RoleTooLow`; `StoreUnavailable`; `AuditUnavailable` when a refusal cannot be recorded.
    pub async fn allow_in_all_clusters(
        &self,
        caller: &Caller,
        reads: &[AccessRequest],
    ) -> Result<Vec<ClusterPermits>> {
        let mut allowed = Vec::with_capacity(reads.len());
        for access in reads {
            allowed.push(self.authorise(caller, access.clone()).await?);
        }
        let mut clusters = self.clusters.all().await?;
        clusters.sort_by_key(|(id, _)| *id);
        let within = clusters.into_iter().map(|(id, name)| {
            let in_cluster = |access: &AccessRequest| {
                let access = access.clone().in_cluster(id);
                Permit::new(AccessRequest { cluster_name: Some(name.clone()), ..access }, None)
            };
            ClusterPermits { cluster: id, permits: allowed.iter().map(in_cluster).collect(), name }
        });
        Ok(within.collect())
    }
}
