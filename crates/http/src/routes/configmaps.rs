//! Routes for ConfigMaps.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    config::{ConfigMapDetail, ConfigMapPatch, ConfigMapRow, NewConfigMap},
    name::{Namespace, ObjectName},
    object::Labels,
};
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
pub(crate) struct OneConfigMap {
    /// The ConfigMap after the change.
    configmap: ConfigMapRow,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<ByName>>,
) -> Result<Response<ConfigMapDetail>> {
    let ByName { cluster_id, namespace, name } = query;
    Ok(Response::of(
        api.app.configs.configmap(signed_in.caller(), cluster_id.into(), &namespace, &name).await?,
    ))
}

/// A ConfigMap to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewConfigMapBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// Text values by key; may be empty.
    data: BTreeMap<String, String>,
    /// The labels.
    labels: Option<Labels>,
}

/// A change of a ConfigMap. Omitted fields and binary values are kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMapPatchBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// Text values by key; they replace all existing text values. May be empty.
    data: Option<BTreeMap<String, String>>,
    /// The labels; they replace all existing ones.
    labels: Option<Labels>,
    /// The `resource_version` that was read; a conflict if the object was changed since.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    resource_version: Option<String>,
}

change_handlers! {
    configs => OneConfigMap { configmap };
    create_configmap: NewConfigMapBody { name, data, labels }
        => NewConfigMap { name, data, labels: labels.unwrap_or_default() }, ConfigMapCreated;
    update_configmap: ConfigMapPatchBody { data, labels, resource_version }
        => ConfigMapPatch { data, labels, resource_version }, ConfigMapUpdated;
    delete_configmap, ConfigMapDeleted;
}
