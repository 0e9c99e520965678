//! Routes that tell who has which rights.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    Error,
    error::Reason,
    grant::{AccessQuestion, Explained, MyRight, MyRights, SubjectGrants},
    ids::UserId,
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb},
    role::Role,
    user::Username,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::Api,
    error::Result,
    extract::Authenticated,
    query::{NoParams, Params},
    response::Response,
    routes::params::Id,
};

/// The signed-in user.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignedInUser {
    /// The id.
    #[schema(value_type = i64)]
    id: UserId,
    /// The name.
    username: Username,
    /// The role; its rights are the first of `rights`.
    role: Role,
}

/// The rights of the signed-in user.
#[derive(Serialize, ToSchema)]
pub(crate) struct Mine {
    /// The signed-in user.
    user: SignedInUser,
    /// The rights by each active grant.
    rights: Vec<MyRight>,
    /// For each right, by verb and resource: `all` (in all clusters, with the reach `cluster`), `some` or `none`.
    #[schema(value_type = Object)]
    can: BTreeMap<String, &'static str>,
}

pub(crate) async fn mine(
    api: Data<Api>,
    Authenticated(signed_in, NoParams): Authenticated<NoParams>,
) -> Result<Response<Mine>> {
    let MyRights { role, rights, can } = api.app.grants.mine(&signed_in.caller).await?;
    let user = SignedInUser { id: signed_in.user.id, username: signed_in.user.username, role };
    Ok(Response::of(Mine { user, rights, can }))
}

/// A namespace, or `*` for all.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Namespaces(NamespaceScope);

impl TryFrom<String> for Namespaces {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        NamespaceScope::parse(&text).map(Self)
    }
}

/// Question about a right.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhoParams {
    /// The verb of the right.
    #[param(inline)]
    verb: RightVerb,
    /// The resource of the right: `workloads`, `custom:example.org`.
    #[param(value_type = String, max_length = 260, example = "workloads")]
    resource: RightResource,
    /// The id of the cluster; without it, the right in all clusters.
    #[param(value_type = Id, inline, required = false)]
    cluster_id: Option<Id>,
    /// A namespace, or `*` for all; without it, the right on an object without a namespace.
    #[param(value_type = String, required = false, min_length = 1, max_length = 63)]
    namespace: Option<Namespaces>,
}

/// Question about a right of a user.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainParams {
    /// The verb of the right.
    #[param(inline)]
    verb: RightVerb,
    /// The resource of the right: `workloads`, `custom:example.org`.
    #[param(value_type = String, max_length = 260, example = "workloads")]
    resource: RightResource,
    /// The id of the cluster; without it, the right in all clusters.
    #[param(value_type = Id, inline, required = false)]
    cluster_id: Option<Id>,
    /// A namespace, or `*` for all; without it, the right on an object without a namespace.
    #[param(value_type = String, required = false, min_length = 1, max_length = 63)]
    namespace: Option<Namespaces>,
    /// The id of the user; the default is the signed-in user.
    #[param(value_type = Id, inline, required = false)]
    user_id: Option<Id>,
}

/// A question whose verb exists for its resource.
fn question(
    verb: RightVerb,
    resource: RightResource,
    cluster_id: Option<Id>,
    namespace: Option<Namespaces>,
) -> Result<AccessQuestion, Error> {
    if !resource.verbs().contains(verb) {
        return Err(Error::invalid("verb", Reason::NotAllowed));
    }
    let namespaces = namespace.map_or(NamespaceScope::Unscoped, |Namespaces(scope)| scope);
    Ok(AccessQuestion { verb, resource, cluster: cluster_id.map(Into::into), namespaces })
}

pub(crate) async fn explain(
    api: Data<Api>,
    Authenticated(signed_in, Params(params)): Authenticated<Params<ExplainParams>>,
) -> Result<Response<Explained>> {
    let ExplainParams { verb, resource, cluster_id, namespace, user_id } = params;
    let question = question(verb, resource, cluster_id, namespace)?;
    let user = user_id.map(|id| UserId(id.0));
    Ok(Response::of(api.app.grants.explain(&signed_in.caller, question, user).await?))
}

/// All who have a right.
#[derive(Serialize, ToSchema)]
pub(crate) struct Who {
    /// The subjects that have the right or a part of it: users by id, then groups.
    subjects: Vec<SubjectGrants>,
}

pub(crate) async fn who(
    api: Data<Api>,
    Authenticated(signed_in, Params(params)): Authenticated<Params<WhoParams>>,
) -> Result<Response<Who>> {
    let WhoParams { verb, resource, cluster_id, namespace } = params;
    let question = question(verb, resource, cluster_id, namespace)?;
    Ok(Response::of(Who { subjects: api.app.grants.who(&signed_in.caller, question).await? }))
}
