//! Use cases of break-glass: use, list and review.

use std::sync::Arc;

use super::{BreakGlassRecord, BreakGlassRegistry, BreakGlassRow, BreakGlassSettings};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    clock::Clock,
    error::{Cause, Error, Result},
    gate::Gate,
    grant::{REASON, RightsSource, check_reason, check_text},
    ids::{BreakGlassId, ClusterId},
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb},
    rows::{ListQuery, Pagination, Row, select},
};

/// Use cases of break-glass.
#[derive(Clone)]
pub struct BreakGlass {
    pub(crate) gate: Gate,
    pub(crate) registry: Arc<dyn BreakGlassRegistry>,
    pub(crate) source: Arc<dyn RightsSource>,
    pub(crate) settings: Arc<BreakGlassSettings>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl BreakGlass {
    /// Gives the caller the role `admin` with the reach `cluster` in a cluster for an hour. The settings name the users
    /// and networks; the second factor must be fresh, regardless of the setting `step_up`.
    ///
    /// # Errors
    /// `InvalidInput`; `NotAllowedBySettings`; `SecondFactorNotEnrolled`, `SecondFactorStale`; `NotFound` of the cluster;
    /// `TooMany` after the second use within 24 hours; `NotSignedIn` for a caller who is no user; `StoreUnavailable`.
    pub async fn open(&self, caller: &Caller, cluster: ClusterId, reason: String) -> Result<BreakGlassRow> {
        let given = check_reason(Some(&reason))?;
        // the caller may have no right in the cluster, so the cluster is only a parameter of the request
        let access = AccessRequest::to(Verb::BreakGlass, Resource::Grant)
            .named(&caller.username)
            .with("cluster_id", cluster.0)
            .because(given);
        let granted = self.gate.grant(caller, access).await?;
        let Some(user_id) = caller.user_id else {
            return self.gate.refuse_granted(&granted, Error::new(Cause::NotSignedIn)).await;
        };
        let now = self.clock.now();
        if !self.settings.allows(&caller.username, caller.origin.source_ip) {
            return self.gate.refuse_granted(&granted, Error::new(Cause::NotAllowedBySettings)).await;
        }
        if let Err(refusal) = caller.factor.require_fresh(now) {
            return self.gate.refuse_granted(&granted, refusal).await;
        }
        if !self.source.rights(&[], now).await?.labels.contains_key(&cluster) {
            let absent = Error::new(Cause::NotFound).resource("cluster").name(cluster.to_string());
            return self.gate.refuse_granted(&granted, absent).await;
        }
        let registry = self.registry.clone();
        let record = BreakGlassRecord { user_id, cluster, reason };
        let work = async move |permit: Permit| registry.open(&permit, record).await;
        self.gate.change_local_granted(granted, work).await
    }

    /// A page of uses: the caller's own, or those of all users for a super admin.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Grant)).await?;
        let all = caller.grant_of(RightVerb::List, RightResource::Users, None, &NamespaceScope::Unscoped);
        let rows = match (all, caller.user_id) {
            (Some(_), _) => self.registry.list(None).await?,
            (None, Some(own)) => self.registry.list(Some(own)).await?,
            (None, None) => Vec::new(),
        };
        let rows = rows.iter().map(Row::of).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Stores the review of a use, by a super admin other than its user.
    ///
    /// # Errors
    /// `InvalidInput`; `RoleTooLow`; `OwnRequest`; `NotFound`; `RequestDecided` if it was reviewed before;
    /// `StoreUnavailable`.
    pub async fn review(&self, caller: &Caller, id: BreakGlassId, note: String) -> Result<BreakGlassRow> {
        check_text("note", Some(&note), REASON)?;
        let access = AccessRequest::to(Verb::Review, Resource::Grant).named(id.to_string());
        let mut granted = self.gate.grant(caller, access).await?.with("note", note.as_str());
        let refused = |cause| Error::new(cause).resource("break_glass").name(id.to_string());
        let Some(found) = self.registry.find(id).await? else {
            return self.gate.refuse_granted(&granted, refused(Cause::NotFound)).await;
        };
        granted = granted.with("used_by", found.username.as_str()).with("cluster_id", found.cluster_id.0);
        if caller.user_id == Some(found.user_id) {
            return self.gate.refuse_granted(&granted, refused(Cause::OwnRequest)).await;
        }
        let registry = self.registry.clone();
        let work = async move |permit: Permit| registry.review(&permit, id, note).await;
        self.gate.change_local_granted(granted, work).await
    }
}
