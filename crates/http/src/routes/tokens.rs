//! Routes for API tokens.

use actix_web::web::Data;
use pilothouse_core::{
    access::Principal,
    ids::{ServiceAccountId, TokenId},
    rights::{Ceiling, ClusterScope, Reach, RoleName},
    token::{CreatedToken, Networks, NewToken, TokenRow},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{ById, Id};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

/// A token to make. A field of its ceiling that is left out does not narrow the rights of its owner.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTokenBody {
    /// A name, to recognise the token.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// Days until it expires.
    #[schema(minimum = 1, maximum = 365, default = 90)]
    expires_in_days: Option<u32>,
    /// A role whose rights the token has at most.
    #[schema(value_type = Option<String>, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    role: Option<RoleName>,
    /// The clusters in which the token has rights: `{"all": true}`, `{"ids": [1, 2]}` or
    /// `{"labels": "environment in (dev,staging)"}`.
    #[schema(value_type = Option<Object>)]
    clusters: Option<ClusterScope>,
    /// Patterns of the namespaces in which the token has rights, 1 to 100: `name`, `prefix-*`, or `*` for all but
    /// `kube-*`; null for all, and for what has no namespace.
    #[schema(value_type = Option<Vec<String>>)]
    #[serde(default = "whole_clusters")]
    namespaces: Reach,
    /// Networks from which the token is accepted, at most 20, such as `10.0.0.0/8`; none or null for all.
    #[schema(value_type = Option<Vec<String>>)]
    networks: Option<Networks>,
    /// The service account whose token it is; the default is the caller.
    service_account_id: Option<Id>,
}

fn whole_clusters() -> Reach {
    Reach::Cluster
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedTokenResponse {
    /// The token.
    token: TokenRow,
    /// Its secret, for the header `Authorization: Bearer`. It is shown once.
    #[schema(example = "php_0a1B…")]
    secret: String,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewTokenBody>>,
) -> Result<Response<CreatedTokenResponse>> {
    let NewTokenBody { name, expires_in_days, role, clusters, namespaces, networks, service_account_id } =
        body;
    let ceiling = Ceiling { role, clusters: clusters.unwrap_or(ClusterScope::All), reach: namespaces };
    let owner = service_account_id.map(|id| Principal::ServiceAccount(ServiceAccountId(id.0)));
    let networks = networks.unwrap_or_default();
    let new = NewToken { name, expires_in_days, ceiling, networks, owner };
    let CreatedToken { token, secret } = api.app.tokens.create(signed_in.caller(), new).await?;
    let secret = secret.secret().expose_secret().to_owned();
    Ok(Response::of(CreatedTokenResponse { token, secret }).with_message(Message::TokenCreated))
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneToken {
    /// The token after the change.
    token: TokenRow,
}

/// A change of a token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenNameBody {
    /// The id of the token.
    id: Id,
    /// The new name.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<TokenNameBody>>,
) -> Result<Response<OneToken>> {
    let TokenNameBody { id, name } = body;
    let token = api.app.tokens.rename(signed_in.caller(), TokenId(id.0), &name).await?;
    Ok(Response::of(OneToken { token }).with_message(Message::TokenUpdated))
}

pub(crate) async fn revoke(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.tokens.revoke(signed_in.caller(), TokenId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::TokenRevoked))
}
