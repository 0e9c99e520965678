//! Labels of clusters as rights: a grant by labels reaches the clusters that have them. Whoever changes what a grant
//! reaches needs the right to give that.

use super::Clusters;
use crate::{
    access::{Caller, Granted, StepUpAction},
    error::{Cause, Error, Result},
    ids::{ClusterId, GrantId},
    object::Labels,
    rights::{
        BuiltInRole, ClusterScope, Given, Grant, Missing, RightResource, RightVerb, covers, includes,
        weakest_preset,
    },
};

impl Clusters {
    /// Checks a change of a cluster's labels, from `before` to `after`, and adds the live grants whose clusters it changes
    /// to the audit row. `cluster` and `before` are `None` for a new cluster: then the caller needs rights on all clusters.
    /// Such a change requires the same second factor as the creation of a grant.
    ///
    /// # Errors
    /// `RoleTooLow` with the first right of such a grant that the caller lacks; `TokenNotAllowed`,
    /// `SecondFactorNotEnrolled`, `SecondFactorStale`; `StoreUnavailable`.
    pub(super) async fn granted_with_labels(
        &self,
        granted: Granted,
        cluster: Option<ClusterId>,
        before: Option<&Labels>,
        after: &Labels,
    ) -> Result<Granted> {
        let changed = self.grants_changed_by(granted.caller(), cluster, before, after).await;
        match changed {
            Ok(grants) if grants.is_empty() => Ok(granted),
            Ok(grants) => {
                let granted = granted.with("grants", serde_json::json!(grants));
                self.gate.require_factor_for(&granted, StepUpAction::Grants).await?;
                Ok(granted)
            }
            Err(refusal) if refusal.cause == Cause::RoleTooLow => {
                self.gate.refuse_granted(&granted, refusal).await
            }
            Err(error) => Err(error),
        }
    }

    async fn grants_changed_by(
        &self,
        caller: &Caller,
        cluster: Option<ClusterId>,
        before: Option<&Labels>,
        after: &Labels,
    ) -> Result<Vec<GrantId>> {
        let Some(rights) = self.rights.as_ref().filter(|_| before != Some(after)) else {
            return Ok(Vec::new());
        };
        let now = self.clock.now();
        let reaches = |grant: &Grant, labels: &Labels| match &grant.clusters {
            ClusterScope::Labels(terms) => terms.match_labels(labels),
            ClusterScope::All | ClusterScope::Ids(_) => false,
        };
        let mut changed = rights.grants.list(None, Some(now)).await?;
        changed.retain(|grant| before.is_some_and(|before| reaches(grant, before)) != reaches(grant, after));
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        // no grant names the id 0: ids begin at 1
        let clusters = ClusterScope::Ids([cluster.unwrap_or(ClusterId(0))].into());
        let own = rights.roles.list().await?;
        for grant in &changed {
            let own = || own.iter().find(|role| role.name == grant.role).map(|role| role.rules.clone());
            let rules = BuiltInRole::parse(grant.role.as_str()).map(BuiltInRole::rules).or_else(own);
            let rules =
                rules.ok_or_else(|| Error::internal("a live grant has a role that does not exist"))?;
            let given = Given { rules: &rules, clusters: &clusters, reach: &grant.reach, until: grant.until };
            let right = (RightVerb::Create, &RightResource::Grants);
            let may_give = covers(&caller.rights, right, &clusters, &grant.reach, now);
            may_give
                .and_then(|()| includes(&caller.rights, &given))
                .map_err(|missing| refusal(Missing { cluster, ..missing }))?;
        }
        Ok(changed.into_iter().map(|grant| grant.id).collect())
    }
}

fn refusal(missing: Missing) -> Error {
    Error::role_too_low(weakest_preset(missing.verb, &missing.resource)).missing(missing.into())
}
