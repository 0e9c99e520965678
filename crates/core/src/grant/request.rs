//! Requests for grants: a user asks for rights for a limited time, and somebody else who could give them decides.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use super::RightsStamp;
use crate::{
    access::Permit,
    error::Result,
    ids::{GrantId, GrantRequestId, UserId},
    rights::{ClusterScope, Reach, RoleName},
    rows::{Cell, Field, Filter, ListRow},
};

/// State of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// It waits for a decision.
    Pending,
    /// It was approved: the grant exists.
    Approved,
    /// It was denied.
    Denied,
    /// The requester withdrew it, or was deleted.
    Withdrawn,
    /// Nobody decided it within [`GrantRequest::LIFETIME`].
    Expired,
}

impl RequestState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Denied, Self::Withdrawn, Self::Expired];

    /// The value in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

/// A request for a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantRequest {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: GrantRequestId,
    /// State as of the read.
    pub state: RequestState,
    /// The user who asks, and to whom the grant is given.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub user_id: UserId,
    /// Name of that user when the request was made.
    pub username: String,
    /// Role of the grant.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub role: RoleName,
    /// Clusters of the grant: `{"all": true}`, `{"ids": [1]}` or `{"labels": "environment=staging"}`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub clusters: ClusterScope,
    /// Patterns of the grant's namespaces; null for the whole cluster.
    #[serde(rename = "namespaces")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub reach: Reach,
    /// Duration of the grant from its approval, in seconds.
    pub duration_seconds: u32,
    /// Why the rights are needed.
    pub reason: String,
    /// Time of the request.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Time of the decision or withdrawal; null before.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub decided_at: Option<Timestamp>,
    /// Name of the user who decided or withdrew it.
    pub decided_by: Option<String>,
    /// Reason of the decision or withdrawal.
    pub decision_reason: Option<String>,
    /// The grant; null unless approved.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub grant_id: Option<GrantId>,
}

impl GrantRequest {
    /// Time that a request waits for a decision.
    pub const LIFETIME: Duration = Duration::from_hours(24);
    /// Maximum number of pending requests of a user.
    pub const MAX_PENDING: usize = 50;

    /// Sets the state `expired` of a request that is stored as pending, if its lifetime is over.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.state == RequestState::Pending && self.created_at + Self::LIFETIME <= now {
            self.state = RequestState::Expired;
        }
        self
    }
}

impl ListRow for GrantRequest {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::filtered(
            "state",
            Filter::OneOf(&["pending", "approved", "denied", "withdrawn", "expired"]),
            |row| Cell::text(row.state.as_str()),
        ),
        Field::filtered("user_id", Filter::Number, |row| Cell::from(row.user_id.0)),
        Field::new("username", |row| Cell::text(&*row.username)),
        Field::new("role", |row| Cell::text(row.role.as_str())),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("decided_at", |row| Cell::from(row.decided_at)),
        Field::new("decided_by", |row| Cell::from(&row.decided_by)),
    ];

    fn name(&self) -> &str {
        &self.username
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        vec![self.role.as_str(), &self.reason]
    }
}

/// A request to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// The user who asks.
    pub user_id: UserId,
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

/// End of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Gives the grant, from the time of the decision on.
    Approve,
    /// Refuses it.
    Deny,
    /// Takes the request back.
    Withdraw,
}

impl Decision {
    /// The state of a request with this decision.
    pub const fn state(self) -> RequestState {
        match self {
            Self::Approve => RequestState::Approved,
            Self::Deny => RequestState::Denied,
            Self::Withdraw => RequestState::Withdrawn,
        }
    }
}

/// Registry of requests. Every change commits its audit row in the same transaction, an approval also the grant and a
/// new rights stamp; author and time are those of the permit's operation.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RequestRegistry: Send + Sync {
    /// Requests with their state at `now`, oldest first: those of one user, or all.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self, user: Option<UserId>, now: Timestamp) -> Result<Vec<GrantRequest>>;

    /// One request with its state at `now`.
    async fn find(&self, id: GrantRequestId, now: Timestamp) -> Result<Option<GrantRequest>>;

    /// Stores a request.
    ///
    /// # Errors
    /// `NotFound` if the user or the role does not exist; `TooMany` if the user has [`GrantRequest::MAX_PENDING`] pending
    /// requests.
    async fn create(&self, permit: &Permit, request: RequestRecord) -> Result<GrantRequest>;

    /// Decides a pending request. One of several concurrent calls succeeds. `judged` is the rights stamp under which an
    /// approval was judged.
    ///
    /// # Errors
    /// `NotFound`; `RequestDecided` if the request is not pending any more; for an approval also `TooMany` if the
    /// user has the maximum number of live grants, `NotFound` if the user or the role does not exist any more or the user
    /// is disabled, and `Modified` if the rights stamp is not `judged` any more.
    async fn decide(
        &self,
        permit: &Permit,
        id: GrantRequestId,
        decision: Decision,
        reason: Option<String>,
        judged: Option<RightsStamp>,
    ) -> Result<GrantRequest>;
}
