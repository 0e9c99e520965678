//! Rows of the tables `grants`, `roles` and `grant_requests`.

use diesel::{AsChangeset, Queryable, Selectable};
use pilothouse_core::{
    Error, Result,
    grant::{GrantRequest, OwnRole, RequestState},
    ids::{GrantId, GrantRequestId, UserId},
    rights::{Grant, GrantSource, RoleName, RoleRules, Subject},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::corrupt,
    schema::{At, grant_requests, grants, roles},
};

/// The JSON of a value.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal(format!("serialise a column: {error}")))
}

/// Parses the JSON of a column, which is named in the error.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str, column: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(column))
}

/// A stored grant.
#[derive(Queryable, Selectable)]
#[diesel(table_name = grants)]
pub(super) struct GrantColumns {
    id: i64,
    subject: String,
    role: String,
    clusters: String,
    namespaces: String,
    starts_at: At,
    ends_at: Option<At>,
    reason: Option<String>,
    source: String,
    created_at: At,
    created_by: String,
    revoked_at: Option<At>,
    revoked_by: Option<String>,
}

impl TryFrom<GrantColumns> for Grant {
    type Error = Error;

    fn try_from(row: GrantColumns) -> Result<Self> {
        Ok(Self {
            id: GrantId(row.id),
            subject: Subject::parse(&row.subject).map_err(|_| corrupt("grants.subject"))?,
            role: RoleName::new(row.role).map_err(|_| corrupt("grants.role"))?,
            clusters: from_json(&row.clusters, "grants.clusters")?,
            reach: from_json(&row.namespaces, "grants.namespaces")?,
            from: row.starts_at.0,
            until: row.ends_at.map(|at| at.0),
            reason: row.reason,
            source: GrantSource::parse(&row.source).map_err(|_| corrupt("grants.source"))?,
            created_at: row.created_at.0,
            created_by: row.created_by,
            revoked_at: row.revoked_at.map(|at| at.0),
            revoked_by: row.revoked_by,
        })
    }
}

/// A stored role.
#[derive(Queryable, Selectable)]
#[diesel(table_name = roles)]
pub(super) struct RoleColumns {
    name: String,
    description: String,
    rules: String,
    created_at: At,
    created_by: String,
    updated_at: At,
}

impl TryFrom<RoleColumns> for OwnRole {
    type Error = Error;

    fn try_from(row: RoleColumns) -> Result<Self> {
        Ok(Self {
            name: RoleName::new(row.name).map_err(|_| corrupt("roles.name"))?,
            description: row.description,
            rules: rules_of(&row.rules)?,
            created_at: row.created_at.0,
            created_by: row.created_by,
            updated_at: row.updated_at.0,
        })
    }
}

/// The rules of a stored role.
pub(super) fn rules_of(json: &str) -> Result<RoleRules> {
    RoleRules::new(from_json(json, "roles.rules")?).map_err(|_| corrupt("roles.rules"))
}

/// Columns that a change of a role sets.
#[derive(AsChangeset)]
#[diesel(table_name = roles)]
pub(super) struct RoleChangeset {
    pub(super) description: Option<String>,
    pub(super) rules: Option<String>,
    pub(super) updated_at: At,
}

/// A stored request.
#[derive(Queryable, Selectable)]
#[diesel(table_name = grant_requests)]
pub(super) struct RequestColumns {
    id: i64,
    user_id: i64,
    username: String,
    role: String,
    clusters: String,
    namespaces: String,
    duration_seconds: i64,
    reason: String,
    status: String,
    created_at: At,
    decided_at: Option<At>,
    decided_by: Option<String>,
    decision_reason: Option<String>,
    grant_id: Option<i64>,
}

impl TryFrom<RequestColumns> for GrantRequest {
    type Error = Error;

    fn try_from(row: RequestColumns) -> Result<Self> {
        let state = RequestState::ALL.into_iter().find(|state| state.as_str() == row.status);
        let duration = u32::try_from(row.duration_seconds);
        Ok(Self {
            id: GrantRequestId(row.id),
            state: state.ok_or_else(|| corrupt("grant_requests.status"))?,
            user_id: UserId(row.user_id),
            username: row.username,
            role: RoleName::new(row.role).map_err(|_| corrupt("grant_requests.role"))?,
            clusters: from_json(&row.clusters, "grant_requests.clusters")?,
            reach: from_json(&row.namespaces, "grant_requests.namespaces")?,
            duration_seconds: duration.map_err(|_| corrupt("grant_requests.duration_seconds"))?,
            reason: row.reason,
            created_at: row.created_at.0,
            decided_at: row.decided_at.map(|at| at.0),
            decided_by: row.decided_by,
            decision_reason: row.decision_reason,
            grant_id: row.grant_id.map(GrantId),
        })
    }
}
