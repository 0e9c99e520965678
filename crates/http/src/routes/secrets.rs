//! Routes for Secrets. Values are received as [`SecretString`]s, and returned by `reveal` only.

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

use super::{
    object_changes::change_handlers,
    params::{ByName, Id},
};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    query::Params,
    response::{Empty, Response},
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneSecret {
    /// The Secret after the change.
    secret: SecretRow,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneRevealedSecret {
    /// The Secret with its values.
    secret: RevealedSecret,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<ByName>>,
) -> Result<Response<SecretDetail>> {
    let ByName { cluster_id, namespace, name } = query;
    Ok(Response::of(api.app.secrets.detail(signed_in.caller(), cluster_id.into(), &namespace, &name).await?))
}

pub(crate) async fn reveal(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ByName>>,
) -> Result<Response<OneRevealedSecret>> {
    let ByName { cluster_id, namespace, name } = body;
    let revealed = api.app.secrets.reveal(signed_in.caller(), cluster_id.into(), &namespace, name).await?;
    Ok(Response::changed(revealed, |secret| OneRevealedSecret { secret }))
}

/// A Secret to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecretBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// The type; the default is `Opaque`.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    r#type: Option<String>,
    /// Values in plain text by key; may be empty.
    #[schema(value_type = BTreeMap<String, String>)]
    data: BTreeMap<String, SecretString>,
    /// The labels.
    labels: Option<Labels>,
}

/// A change of a Secret. An omitted field is kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretPatchBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// The complete set of keys, each with its new value in plain text, or null to keep the current value. May be
    /// empty.
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    data: Option<BTreeMap<String, Option<SecretString>>>,
    /// The labels; they replace all existing ones.
    labels: Option<Labels>,
    /// The `resource_version` that was read; a conflict if the object was changed since.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    resource_version: Option<String>,
}

change_handlers! {
    secrets => OneSecret { secret };
    create: NewSecretBody { name, r#type, data, labels }
        => NewSecret { name, r#type, data, labels: labels.unwrap_or_default() }, SecretCreated;
    update: SecretPatchBody { data, labels, resource_version }
        => SecretPatch { data, labels, resource_version }, SecretUpdated;
    delete, SecretDeleted;
}
