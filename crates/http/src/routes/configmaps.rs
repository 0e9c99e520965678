//! ConfigMaps.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    config::{ConfigMapDetail, ConfigMapPatch, ConfigMapRow, NewConfigMap},
    name::{Namespace, ObjectName},
    object::Labels,
};
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
pub(crate) struct OneConfigMap {
    /// It as it is after the change.
    configmap: ConfigMapRow,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(who, Params(query)): Authenticated<Params<ByName>>,
) -> Result<Response<ConfigMapDetail>> {
    let ByName { cluster_id, namespace, name } = query;
    Ok(Response::of(api.app.configs.configmap(&who.caller, cluster_id.into(), &namespace, &name).await?))
}

/// A ConfigMap to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewConfigMapBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// Key to text; may be empty.
    data: BTreeMap<String, String>,
    /// Its labels.
    labels: Option<Labels>,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<NewConfigMapBody>>,
) -> Result<Response<OneConfigMap>> {
    let configmap =
        NewConfigMap { name: body.name, data: body.data, labels: body.labels.unwrap_or_default() };
    let (cluster, namespace) = (body.cluster_id.into(), body.namespace);
    let changed = api.app.configs.create_configmap(&who.caller, cluster, &namespace, configmap).await?;
    Ok(Response::changed(changed, |configmap| OneConfigMap { configmap })
        .with_message(Message::ConfigMapCreated))
}

/// What is not sent stays, and so do values that are no text.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMapPatchBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// All values that are text; may be empty.
    data: Option<BTreeMap<String, String>>,
    /// All labels.
    labels: Option<Labels>,
    /// The version that was read; refused when it has changed meanwhile.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    resource_version: Option<String>,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ConfigMapPatchBody>>,
) -> Result<Response<OneConfigMap>> {
    let ConfigMapPatchBody { cluster_id, namespace, name, data, labels, resource_version } = body;
    let (cluster, patch) = (cluster_id.into(), ConfigMapPatch { data, labels, resource_version });
    let changed = api.app.configs.update_configmap(&who.caller, cluster, &namespace, name, patch).await?;
    Ok(Response::changed(changed, |configmap| OneConfigMap { configmap })
        .with_message(Message::ConfigMapUpdated))
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ByName>>,
) -> Result<Response<Empty>> {
    let ByName { cluster_id, namespace, name } = body;
    let changed = api.app.configs.delete_configmap(&who.caller, cluster_id.into(), &namespace, name).await?;
    Ok(Response::changed(changed, |()| Empty {}).with_message(Message::ConfigMapDeleted))
}
