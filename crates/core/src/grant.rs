//! Grants of rights, own roles and requests for grants: rows, ports and use cases. [`crate::rights`] decides by them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::Permit,
    break_glass::BreakGlassRegistry,
    error::Result,
    ids::GrantId,
    rights::{ClusterLabels, ClusterScope, EffectiveGrant, Grant, Reach, RoleName, Subject},
    rows::{Cell, Field, Filter, ListRow},
};

mod query;
mod request;
mod role;
mod usecase;

pub use query::{GrantQuery, WhoQuery};
#[cfg(any(test, feature = "testing"))]
pub use request::MockRequestRegistry;
pub use request::{Decision, GrantRequest, RequestRecord, RequestRegistry, RequestState};
#[cfg(any(test, feature = "testing"))]
pub use role::MockRoleRegistry;
pub use role::{MAX_OWN_ROLES, OwnRole, RolePatch, RoleRecord, RoleRegistry, RoleRow};
pub use usecase::{
    AccessQuestion, Explained, GrantRefRow, Grants, LayerRow, MissingRow, MyRight, MyRights, NewRequest,
    SubjectGrants,
};
pub(crate) use usecase::{REASON, check_reason, check_text};

/// Rights stamp: another value after each change of grants, own roles, labels of clusters, or roles of users. Rights
/// that were compiled under an equal stamp are current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RightsStamp(pub i64);

/// The rows from which the rights of a caller are compiled, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RightsRows {
    /// The rights stamp of that moment.
    pub stamp: RightsStamp,
    /// The live grants of the caller's subjects with the rules of their roles, by id. Without the preset of the user's
    /// role.
    pub grants: Vec<EffectiveGrant>,
    /// Labels of all registered clusters.
    pub labels: ClusterLabels,
}

/// Port that reads what a caller's rights are compiled from.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RightsSource: Send + Sync {
    /// The rows of a caller with these subjects. For a user among them, the groups that the identity provider last
    /// reported are added. Includes grants that begin after `now`. Rows and groups are consistent: no change of rights
    /// was committed between their reads.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn rights(&self, subjects: &[Subject], now: Timestamp) -> Result<RightsRows>;
}

/// Ports of grants, own roles, requests and break-glass.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct RightsPorts {
    pub source: Arc<dyn RightsSource>,
    pub roles: Arc<dyn RoleRegistry>,
    pub grants: Arc<dyn GrantRegistry>,
    pub requests: Arc<dyn RequestRegistry>,
    pub break_glass: Arc<dyn BreakGlassRegistry>,
}

/// Subject of a grant as displayed. Fields that the type does not have are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubjectRow {
    /// `user`, `group` or `service_account`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: &'static str,
    /// Id of the user or service account.
    pub id: Option<i64>,
    /// Identity provider of the group.
    pub provider: Option<String>,
    /// The provider's name of the group.
    pub name: Option<String>,
}

impl From<&Subject> for SubjectRow {
    fn from(subject: &Subject) -> Self {
        let of_id = |kind, id| Self { kind, id: Some(id), provider: None, name: None };
        match subject {
            Subject::User(id) => of_id("user", id.0),
            Subject::ServiceAccount(id) => of_id("service_account", id.0),
            Subject::Group { provider, name } => {
                Self { kind: "group", id: None, provider: Some(provider.clone()), name: Some(name.clone()) }
            }
        }
    }
}

/// A grant as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantRow {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: GrantId,
    /// Who has the role.
    pub subject: SubjectRow,
    /// Role.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub role: RoleName,
    /// Clusters: `{"all": true}`, `{"ids": [1]}` or `{"labels": "environment=staging"}`.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub clusters: ClusterScope,
    /// Patterns of namespaces; null for the whole cluster.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub namespaces: Reach,
    /// Start.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub from: Timestamp,
    /// End; null without end.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<Timestamp>,
    /// Why the rights were given.
    pub reason: Option<String>,
    /// Origin: `manual`, `request:<id>` for an approved request, or `break_glass`.
    pub source: String,
    /// `active`, `expired`, `revoked` or `future`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub state: &'static str,
    /// Time of creation.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the user who created it.
    pub created_by: String,
    /// Time of the revocation; null unless revoked.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub revoked_at: Option<Timestamp>,
    /// Name of the user who revoked it.
    pub revoked_by: Option<String>,
}

impl GrantRow {
    /// The row of a grant at this time.
    pub fn of(grant: &Grant, now: Timestamp) -> Self {
        Self {
            id: grant.id,
            subject: SubjectRow::from(&grant.subject),
            role: grant.role.clone(),
            clusters: grant.clusters.clone(),
            namespaces: grant.reach.clone(),
            from: grant.from,
            until: grant.until,
            reason: grant.reason.clone(),
            source: grant.source.to_string(),
            state: grant.state(now).as_str(),
            created_at: grant.created_at,
            created_by: grant.created_by.clone(),
            revoked_at: grant.revoked_at,
            revoked_by: grant.revoked_by.clone(),
        }
    }

    /// Id of the user who has the grant, other than through a group.
    fn user_id(&self) -> Option<i64> {
        self.subject.id.filter(|_| self.subject.kind == "user")
    }
}

impl ListRow for GrantRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::filtered("subject_type", Filter::OneOf(&["user", "group", "service_account"]), |row| {
            Cell::text(row.subject.kind)
        }),
        Field::filtered("user_id", Filter::Number, |row| Cell::from(row.user_id())),
        Field::new("role", |row| Cell::text(row.role.as_str())),
        Field::new("from", |row| Cell::from(row.from)),
        Field::new("until", |row| Cell::from(row.until)),
        Field::new("source", |row| Cell::text(&*row.source)),
        Field::filtered("state", Filter::OneOf(&["active", "expired", "revoked", "future"]), |row| {
            Cell::text(row.state)
        }),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("created_by", |row| Cell::text(&*row.created_by)),
        Field::new("revoked_at", |row| Cell::from(row.revoked_at)),
        Field::new("revoked_by", |row| Cell::from(&row.revoked_by)),
    ];

    fn name(&self) -> &str {
        self.role.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        let texts = [&self.reason, &self.subject.provider, &self.subject.name];
        texts.into_iter().flatten().map(String::as_str).chain([&*self.created_by]).collect()
    }
}

/// A grant to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Who gets the rights.
    pub subject: Subject,
    /// Role.
    pub role: RoleName,
    /// Clusters.
    pub clusters: ClusterScope,
    /// Namespaces, or the whole cluster.
    pub reach: Reach,
    /// Start; the time of the operation if `None`.
    pub from: Option<Timestamp>,
    /// End; `None`: until it is revoked.
    pub until: Option<Timestamp>,
    /// Why the rights are given.
    pub reason: Option<String>,
}

impl GrantRecord {
    /// The grant that the approval of a request at this time gives.
    pub fn of_request(request: &GrantRequest, at: Timestamp) -> Self {
        Self {
            subject: Subject::User(request.user_id),
            role: request.role.clone(),
            clusters: request.clusters.clone(),
            reach: request.reach.clone(),
            from: Some(at),
            until: Some(at + Duration::from_secs(request.duration_seconds.into())),
            reason: Some(request.reason.clone()),
        }
    }
}

/// Registry of grants. Every change commits its audit row and a new rights stamp in the same transaction; its author
/// and time are those of the permit's operation.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait GrantRegistry: Send + Sync {
    /// Grants, oldest first: those of one subject, or all. With `live_at` without those that are revoked or have ended
    /// at that time.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self, subject: Option<Subject>, live_at: Option<Timestamp>) -> Result<Vec<Grant>>;

    /// One grant.
    async fn find(&self, id: GrantId) -> Result<Option<Grant>>;

    /// Stores a grant. `judged` is the rights stamp under which it was judged.
    ///
    /// # Errors
    /// `NotFound` if the user, the service account or the role does not exist; `TooMany` if the subject has [`Grant::MAX_LIVE`] live grants;
    /// `Modified` if the rights stamp is not `judged` any more.
    async fn create(&self, permit: &Permit, grant: GrantRecord, judged: Option<RightsStamp>)
    -> Result<Grant>;

    /// Revokes a grant. A grant that is revoked or has ended stays as it is.
    ///
    /// # Errors
    /// `NotFound`.
    async fn revoke(&self, permit: &Permit, id: GrantId) -> Result<Grant>;
}
