//! Routes for roles and grants.

pub(super) mod break_glass;
pub(super) mod questions;
pub(super) mod requests;

use actix_web::web::Data;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    error::Reason,
    grant::{GrantRecord, GrantRow, RolePatch, RoleRecord, RoleRow},
    ids::{GrantId, ServiceAccountId, UserId},
    rights::{ClusterScope, Reach, RoleName, RoleRule, RoleRules, Subject},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{Id, optional_timestamp};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneRole {
    /// The role after the change.
    role: RoleRow,
}

/// A role to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRoleBody {
    /// The name; it cannot be changed, and is not used again after the role is deleted.
    #[schema(value_type = String, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    name: RoleName,
    /// A free text.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// The rules, 1 to 50: each gives every one of its verbs on every one of its resources.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<RoleRule>,
}

pub(crate) async fn create_role(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewRoleBody>>,
) -> Result<Response<OneRole>> {
    let NewRoleBody { name, description, rules } = body;
    let record =
        RoleRecord { name, description: description.unwrap_or_default(), rules: RoleRules::new(rules)? };
    let role = api.app.grants.create_role(signed_in.caller(), record).await?;
    Ok(Response::of(OneRole { role }).with_message(Message::RoleCreated))
}

/// A change of a role. An omitted field is kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleChangeBody {
    /// The name of the role.
    #[schema(value_type = String, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    name: RoleName,
    /// The new description.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// The new rules, 1 to 50; they replace all rules, for all grants of the role.
    #[schema(value_type = Option<Vec<Object>>)]
    rules: Option<Vec<RoleRule>>,
}

pub(crate) async fn update_role(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<RoleChangeBody>>,
) -> Result<Response<OneRole>> {
    let RoleChangeBody { name, description, rules } = body;
    let patch = RolePatch { description, rules: rules.map(RoleRules::new).transpose()? };
    let role = api.app.grants.update_role(signed_in.caller(), name, patch).await?;
    Ok(Response::of(OneRole { role }).with_message(Message::RoleUpdated))
}

/// The name of a role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleNameBody {
    /// The name of the role.
    #[schema(value_type = String, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    name: RoleName,
}

pub(crate) async fn delete_role(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<RoleNameBody>>,
) -> Result<Response<Empty>> {
    api.app.grants.delete_role(signed_in.caller(), body.name).await?;
    Ok(Response::of(Empty {}).with_message(Message::RoleDeleted))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneGrant {
    /// The grant after the change.
    grant: GrantRow,
}

/// The type of a subject.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SubjectType {
    User,
    Group,
    ServiceAccount,
}

/// The subject of a grant: a user or a service account by `id`, or a group by `provider` and `name`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubjectBody {
    /// The type of the subject.
    r#type: SubjectType,
    /// The id of the user or service account.
    id: Option<Id>,
    /// The identity provider of the group.
    #[schema(min_length = 1, max_length = 256)]
    provider: Option<String>,
    /// The provider's name of the group.
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
}

impl TryFrom<SubjectBody> for Subject {
    type Error = Error;

    fn try_from(body: SubjectBody) -> Result<Self, Error> {
        let refused = |field: &str, reason| Error::invalid(format!("subject.{field}"), reason);
        let SubjectBody { r#type, id, provider, name } = body;
        if let SubjectType::Group = r#type {
            if id.is_some() {
                return Err(refused("id", Reason::NotAllowed));
            }
            let provider = provider.ok_or_else(|| refused("provider", Reason::Required))?;
            let name = name.ok_or_else(|| refused("name", Reason::Required))?;
            return Self::group(provider, name).map_err(|reason| Error::invalid("subject", reason));
        }
        for (field, text) in [("provider", provider), ("name", name)] {
            if text.is_some() {
                return Err(refused(field, Reason::NotAllowed));
            }
        }
        let Id(id) = id.ok_or_else(|| refused("id", Reason::Required))?;
        Ok(match r#type {
            SubjectType::ServiceAccount => Self::ServiceAccount(ServiceAccountId(id)),
            SubjectType::User | SubjectType::Group => Self::User(UserId(id)),
        })
    }
}

/// A grant to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGrantBody {
    subject: SubjectBody,
    /// The role: a built-in or an own one.
    #[schema(value_type = String, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    role: RoleName,
    /// The clusters: `{"all": true}`, `{"ids": [1, 2]}` or `{"labels": "environment in (dev,staging)"}`.
    #[schema(value_type = Object)]
    clusters: ClusterScope,
    /// Patterns of namespaces, 1 to 100: `name`, `prefix-*`, or `*` for all but `kube-*`; null for the whole cluster.
    #[schema(value_type = Option<Vec<String>>, required = true)]
    namespaces: Reach,
    /// The start, not in the past; the default is now.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, deserialize_with = "optional_timestamp")]
    from: Option<Timestamp>,
    /// The end; without it, the grant holds until it is revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default, deserialize_with = "optional_timestamp")]
    until: Option<Timestamp>,
    /// Why the rights are given.
    #[schema(min_length = 5, max_length = 500)]
    reason: Option<String>,
}

pub(crate) async fn create_grant(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewGrantBody>>,
) -> Result<Response<OneGrant>> {
    let NewGrantBody { subject, role, clusters, namespaces: reach, from, until, reason } = body;
    let subject = Subject::try_from(subject)?;
    let record = GrantRecord { subject, role, clusters, reach, from, until, reason };
    let changed = api.app.grants.create(signed_in.caller(), record).await?;
    Ok(Response::changed(changed, |grant| OneGrant { grant }).with_message(Message::GrantCreated))
}

/// The id of a row, and why it is changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdAndReasonBody {
    /// The id of the row.
    id: Id,
    /// Why it is changed.
    #[schema(min_length = 5, max_length = 500)]
    reason: Option<String>,
}

pub(crate) async fn revoke_grant(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<IdAndReasonBody>>,
) -> Result<Response<OneGrant>> {
    let IdAndReasonBody { id, reason } = body;
    let grant = api.app.grants.revoke(signed_in.caller(), GrantId(id.0), reason).await?;
    Ok(Response::of(OneGrant { grant }).with_message(Message::GrantRevoked))
}
