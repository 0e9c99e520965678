//! Secrets. Values come in as [`SecretString`]s, and leave by `reveal` only.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    name::{Namespace, ObjectName},
    object::Labels,
    secret::{NewSecret, RevealedSecret, SecretDetail, SecretPatch, SecretRow},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{ByName, Id};
use crate::{
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    query::Params,
    response::{Empty, Response},
    server::Api,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneSecret {
    /// It as it is after the change.
    secret: SecretRow,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneRevealedSecret {
    /// It with its values.
    secret: RevealedSecret,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(who, Params(query)): Authenticated<Params<ByName>>,
) -> Result<Response<SecretDetail>> {
    let ByName { cluster_id, namespace, name } = query;
    Ok(Response::of(api.app.secrets.detail(&who.caller, cluster_id.into(), &namespace, &name).await?))
}

pub(crate) async fn reveal(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ByName>>,
) -> Result<Response<OneRevealedSecret>> {
    let ByName { cluster_id, namespace, name } = body;
    let revealed = api.app.secrets.reveal(&who.caller, cluster_id.into(), &namespace, name).await?;
    Ok(Response::changed(revealed, |secret| OneRevealedSecret { secret }))
}

/// A Secret to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecretBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// `Opaque` when none.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    r#type: Option<String>,
    /// Key to plain text; may be empty.
    #[schema(value_type = BTreeMap<String, String>)]
    data: BTreeMap<String, SecretString>,
    /// Its labels.
    labels: Option<Labels>,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<NewSecretBody>>,
) -> Result<Response<OneSecret>> {
    let NewSecretBody { cluster_id, namespace, name, r#type, data, labels } = body;
    let secret = NewSecret { name, r#type, data, labels: labels.unwrap_or_default() };
    let changed = api.app.secrets.create(&who.caller, cluster_id.into(), &namespace, secret).await?;
    Ok(Response::changed(changed, |secret| OneSecret { secret }).with_message(Message::SecretCreated))
}

/// What is not sent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretPatchBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// All keys, each with plain text or, to keep the value it has, null; may be empty.
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    data: Option<BTreeMap<String, Option<SecretString>>>,
    /// All labels.
    labels: Option<Labels>,
    /// The version that was read; refused when it has changed meanwhile.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    resource_version: Option<String>,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<SecretPatchBody>>,
) -> Result<Response<OneSecret>> {
    let SecretPatchBody { cluster_id, namespace, name, data, labels, resource_version } = body;
    let (cluster, patch) = (cluster_id.into(), SecretPatch { data, labels, resource_version });
    let changed = api.app.secrets.update(&who.caller, cluster, &namespace, name, patch).await?;
    Ok(Response::changed(changed, |secret| OneSecret { secret }).with_message(Message::SecretUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ByName>>,
) -> Result<Response<Empty>> {
    let ByName { cluster_id, namespace, name } = body;
    let changed = api.app.secrets.delete(&who.caller, cluster_id.into(), &namespace, name).await?;
    Ok(Response::changed(changed, |()| Empty {}).with_message(Message::SecretDeleted))
}
