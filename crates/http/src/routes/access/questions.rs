//! Routes that tell who has which rights.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    error::Reason,
    grant::{AccessQuestion, Explained, MyRight, MyRights},
    ids::UserId,
    namespaces::NamespaceScope,
    rights::{RightResource, RightVerb},
    role::Role,
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

/// The signed-in user or service account.
#[derive(Serialize, ToSchema)]
pub(crate) struct SignedInUser {
    /// The id of the user; null for a service account.
    #[schema(value_type = Option<i64>)]
    id: Option<UserId>,
    /// The name of the user, or `sa:<name>` of a service account.
    username: String,
    /// The role; its rights are the first of `rights`.
    role: Role,
}

/// The rights of the signed-in user.
#[derive(Serialize, ToSchema)]
pub(crate) struct Mine {
    /// The signed-in user or service account.
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
    let MyRights { role, rights, can } = api.app.grants.mine(signed_in.caller()).await?;
    let caller = signed_in.caller();
    let user = SignedInUser { id: caller.user_id, username: caller.username.clone(), role };
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

pub(crate) async fn explain(
    api: Data<Api>,
    Authenticated(signed_in, Params(params)): Authenticated<Params<ExplainParams>>,
) -> Result<Response<Explained>> {
    let ExplainParams { verb, resource, cluster_id, namespace, user_id } = params;
    let namespaces = namespace.map_or(NamespaceScope::Unscoped, |Namespaces(scope)| scope);
    let question = AccessQuestion { verb, resource, cluster: cluster_id.map(Into::into), namespaces };
    let question = question.checked()?;
    let user = user_id.map(|id| UserId(id.0));
    Ok(Response::of(api.app.grants.explain(signed_in.caller(), question, user).await?))
}
