//! Use cases of requests for grants. Whoever approves a request could make its grant, and is not the requester: both
//! are judged at the approval.

use std::time::Duration;

use jiff::Timestamp;

use super::{ATTEMPTS, Gift, Grants, check_reason, check_size, has_somewhere, own_subject, param, refusal};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Cause, Error, Result},
    grant::{Decision, GrantRequest, RequestRecord},
    ids::GrantRequestId,
    rights::{ClusterScope, Reach, RightResource, RightVerb, RoleName, Subject, covers},
    rows::{ListQuery, Pagination, Row, select},
};

/// A request for a grant to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRequest {
    /// Role of the grant.
    pub role: RoleName,
    /// Clusters of the grant.
    pub clusters: ClusterScope,
    /// Reach of the grant.
    pub reach: Reach,
    /// Duration of the grant from its approval, in seconds.
    pub duration_seconds: u32,
    /// Why the rights are needed.
    pub reason: String,
}

impl Grants {
    /// A page of requests: the caller's own, and those whose whole scope lies where the caller may list or make grants.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn requests(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Request)).await?;
        let now = self.clock.now();
        let sees_others = has_somewhere(caller, RightVerb::List) || has_somewhere(caller, RightVerb::Create);
        let listed = if sees_others { None } else { caller.user_id };
        let mut found = Vec::new();
        if sees_others || listed.is_some() {
            found = self.ports.requests.list(listed, now).await?;
        }
        let visible = found.iter().filter(|request| is_visible(caller, request, now));
        let rows = visible.map(Row::of).collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Asks for a grant. The clusters need not exist: the answer does not tell which clusters do.
    ///
    /// # Errors
    /// `InvalidInput`; `TooMany` if the grant would have too many clusters or namespaces, or the caller has
    /// [`GrantRequest::MAX_PENDING`] pending requests; `NotFound` of the role; `NotSignedIn` for a caller who is no
    /// user; `StoreUnavailable`.
    pub async fn request(&self, caller: &Caller, new: NewRequest) -> Result<GrantRequest> {
        let given = check_reason(Some(&new.reason))?;
        let NewRequest { role, clusters, reach, duration_seconds, reason } = new;
        let access = AccessRequest::to(Verb::Request, Resource::Request).named(role.as_str()).because(given);
        let granted = self.gate.grant(caller, access).await?;
        let user_id = caller.user_id.ok_or_else(|| Error::new(Cause::NotSignedIn))?;
        let granted = granted
            .with("clusters", param(&clusters))
            .with("namespaces", param(&reach))
            .with("duration_seconds", duration_seconds);
        let registry = self.ports.requests.clone();
        let work = async move |permit: Permit| {
            check_size(&clusters, &reach)?;
            let record = RequestRecord { user_id, role, clusters, reach, duration_seconds, reason };
            registry.create(&permit, record).await
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Approves, denies or withdraws a pending request. An approval takes what [`Grants::create`] takes, of somebody
    /// other than the requester; a denial takes `create grants` in the whole scope; a withdrawal takes the requester.
    ///
    /// # Errors
    /// `InvalidInput`; `RoleTooLow`; `OwnRequest`; `NotFound` if there is no such request that the caller sees, or the
    /// role or the user does not exist any more, or the user is disabled; `RequestDecided`; `TooMany`; `Overloaded` if
    /// rights change all the time; `StoreUnavailable`.
    pub async fn decide(
        &self,
        caller: &Caller,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
    ) -> Result<GrantRequest> {
        let given = check_reason(reason.as_deref())?;
        let verb = match decision {
            Decision::Approve => Verb::Approve,
            Decision::Deny => Verb::Deny,
            Decision::Withdraw => Verb::Withdraw,
        };
        let access = AccessRequest::to(verb, Resource::Request).named(id.to_string()).because(given);
        let mut granted = match decision {
            Decision::Approve | Decision::Deny => self.grant_with(caller, RightVerb::Create, access).await?,
            Decision::Withdraw => self.gate.grant(caller, access).await?,
        };
        let judged = self.may_decide(caller, id, decision).await;
        if let Ok(request) = &judged {
            granted = granted
                .with("requested_by", request.username.as_str())
                .with("role", request.role.as_str())
                .with("clusters", param(&request.clusters))
                .with("namespaces", param(&request.reach))
                .with("duration_seconds", request.duration_seconds);
        }
        let (this, caller) = (self.clone(), caller.clone());
        let work = async move |permit: Permit| {
            judged?;
            let requests = &this.ports.requests;
            if decision != Decision::Approve {
                return requests.decide(&permit, id, decision, reason, None).await;
            }
            for _ in 0..ATTEMPTS {
                let (stamp, approver) = this.current(&caller).await?;
                this.may_decide(&approver, id, decision).await?;
                match requests.decide(&permit, id, decision, reason.clone(), Some(stamp)).await {
                    Err(error) if error.cause == Cause::Modified => {}
                    decided => return decided,
                }
            }
            Err(Error::new(Cause::Overloaded))
        };
        self.gate.change_local_granted(granted, work).await
    }

    async fn may_decide(
        &self,
        caller: &Caller,
        id: GrantRequestId,
        decision: Decision,
    ) -> Result<GrantRequest> {
        let (now, right) = (self.clock.now(), (RightVerb::Create, &RightResource::Grants));
        let found = self.ports.requests.find(id, now).await?;
        let visible = found.filter(|request| match decision {
            Decision::Withdraw => is_own(caller, request),
            Decision::Approve | Decision::Deny => is_visible(caller, request, now),
        });
        let not_found = || Error::new(Cause::NotFound).resource("grant_request").name(id.to_string());
        let request = visible.ok_or_else(not_found)?;
        match decision {
            Decision::Withdraw => {}
            Decision::Deny => {
                covers(&caller.rights, right, &request.clusters, &request.reach, now).map_err(refusal)?;
            }
            Decision::Approve if is_own(caller, &request) => {
                return Err(Error::new(Cause::OwnRequest).resource("grant_request").name(id.to_string()));
            }
            Decision::Approve => {
                let until = now + Duration::from_secs(request.duration_seconds.into());
                let gift = Gift {
                    role: &request.role,
                    clusters: &request.clusters,
                    reach: &request.reach,
                    until: Some(until),
                };
                self.may_give(caller, &gift, now).await?;
            }
        }
        Ok(request)
    }
}

fn is_own(caller: &Caller, request: &GrantRequest) -> bool {
    own_subject(caller) == Some(Subject::User(request.user_id))
}

/// Whether a caller sees a request.
fn is_visible(caller: &Caller, request: &GrantRequest, now: Timestamp) -> bool {
    let covered = |verb| {
        let right = (verb, &RightResource::Grants);
        covers(&caller.rights, right, &request.clusters, &request.reach, now).is_ok()
    };
    is_own(caller, request) || covered(RightVerb::List) || covered(RightVerb::Create)
}
