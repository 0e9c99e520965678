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
    /// One entry for each access request, in the order of the requests: `None` if the caller may read nothing of it in
    /// this cluster.
    pub permits: Vec<Option<Permit>>,
}

impl ClusterPermits {
    /// Whether the permits cover all that was requested in this cluster.
    pub fn is_complete(&self) -> bool {
        self.permits.iter().all(|permit| permit.as_ref().is_some_and(Permit::is_complete))
    }
}

impl Gate {
    /// Authorises reads in every registered cluster in which the caller has any right, sorted by id, with one read of
    /// the cluster registry. In each cluster, each request is cut to the namespaces that the caller's rights reach
    /// there. What the caller may not read is left out, not refused.
    ///
    /// # Errors
    /// `SecondFactorNotEnrolled`, `SecondFactorStale`, as [`Gate::allow`]; `StoreUnavailable`.
    pub async fn allow_in_all_clusters(
        &self,
        caller: &Caller,
        reads: &[AccessRequest],
    ) -> Result<Vec<ClusterPermits>> {
        for access in reads {
            if let Err(refusal) = self.step_up.check(caller, access, self.clock.now()) {
                self.record_denied(caller, access, None, &refusal).await?;
                return Err(refusal);
            }
        }
        let mut clusters = self.clusters.all().await?;
        clusters.retain(|(id, _)| caller.rights.sees(*id));
        clusters.sort_by_key(|(id, _)| *id);
        let permits = clusters.into_iter().map(|(id, name)| {
            let in_cluster = |access: &AccessRequest| {
                let access = access.clone().in_cluster(id);
                let allowed = caller.judge(&access).ok()?;
                Some(Permit::new(AccessRequest { cluster_name: Some(name.clone()), ..access }, allowed, None))
            };
            ClusterPermits { cluster: id, permits: reads.iter().map(in_cluster).collect(), name }
        });
        Ok(permits.collect())
    }
}
