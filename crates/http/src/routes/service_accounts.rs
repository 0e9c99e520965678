//! Routes for service accounts.

use actix_web::web::Data;
use pilothouse_core::{
    ids::{ServiceAccountId, UserId},
    service_account::{ServiceAccount, ServiceAccountName, ServiceAccountPatch, ServiceAccountRecord},
};
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

#[derive(Serialize, ToSchema)]
pub(crate) struct OneServiceAccount {
    /// The service account after the change.
    service_account: ServiceAccount,
}

/// A service account to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewServiceAccountBody {
    /// The name; it cannot be changed.
    #[schema(value_type = String, min_length = 3, max_length = 64, pattern = "^[a-z0-9._-]+$")]
    name: ServiceAccountName,
    /// What it is for.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// The user who is responsible for it and may make tokens of it.
    owner_user_id: Id,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewServiceAccountBody>>,
) -> Result<Response<OneServiceAccount>> {
    let NewServiceAccountBody { name, description, owner_user_id } = body;
    let record = ServiceAccountRecord {
        name,
        description: description.unwrap_or_default(),
        owner_user_id: UserId(owner_user_id.0),
    };
    let service_account = api.app.service_accounts.create(signed_in.caller(), record).await?;
    Ok(Response::of(OneServiceAccount { service_account }).with_message(Message::ServiceAccountCreated))
}

/// A change of a service account. An omitted field is kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceAccountChangeBody {
    /// The id of the service account.
    id: Id,
    /// The new description.
    #[schema(max_length = 1024)]
    description: Option<String>,
    /// The new owner.
    owner_user_id: Option<Id>,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ServiceAccountChangeBody>>,
) -> Result<Response<OneServiceAccount>> {
    let ServiceAccountChangeBody { id, description, owner_user_id } = body;
    let owner_user_id = owner_user_id.map(|id| UserId(id.0));
    let patch = ServiceAccountPatch { description, owner_user_id };
    let accounts = &api.app.service_accounts;
    let service_account = accounts.update(signed_in.caller(), ServiceAccountId(id.0), patch).await?;
    Ok(Response::of(OneServiceAccount { service_account }).with_message(Message::ServiceAccountUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ById>>,
) -> Result<Response<Empty>> {
    api.app.service_accounts.delete(signed_in.caller(), ServiceAccountId(body.id.0)).await?;
    Ok(Response::of(Empty {}).with_message(Message::ServiceAccountDeleted))
}
