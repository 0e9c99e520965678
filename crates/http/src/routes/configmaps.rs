//! ConfigMaps.

use std::collections::BTreeMap;

use actix_web::web::Data;
use pilothouse_core::{
    config::{ConfigMapRow, NewConfigMap},
    name::{Namespace, ObjectName},
    object::Labels,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::input::Id;
use crate::{
    answer::{Answer, Empty},
    body::Body,
    entry::Signed,
    error::Result,
    server::Api,
    words::Message,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneConfigMap {
    configmap: ConfigMapRow,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewConfigMapBody {
    #[schema(value_type = i64, minimum = 1)]
    cluster_id: Id,
    #[schema(value_type = String, max_length = 63)]
    namespace: Namespace,
    #[schema(value_type = String, max_length = 253)]
    name: ObjectName,
    /// Key to text; may be empty.
    data: BTreeMap<String, String>,
    labels: Option<Labels>,
}

pub(crate) async fn create(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<NewConfigMapBody>>,
) -> Result<Answer<OneConfigMap>> {
    let configmap =
        NewConfigMap { name: body.name, data: body.data, labels: body.labels.unwrap_or_default() };
    let (cluster, namespace) = (body.cluster_id.into(), body.namespace);
    let changed = api.app.configs.create_configmap(&who.caller, cluster, &namespace, configmap).await?;
    Ok(Answer::changed(changed, |configmap| OneConfigMap { configmap }).saying(Message::ConfigMapCreated))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMapBody {
    #[schema(value_type = i64, minimum = 1)]
    cluster_id: Id,
    #[schema(value_type = String, max_length = 63)]
    namespace: Namespace,
    #[schema(value_type = String, max_length = 253)]
    name: ObjectName,
}

pub(crate) async fn delete(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<ConfigMapBody>>,
) -> Result<Answer<Empty>> {
    let (cluster, namespace) = (body.cluster_id.into(), body.namespace);
    let changed = api.app.configs.delete_configmap(&who.caller, cluster, &namespace, body.name).await?;
    Ok(Answer::changed(changed, |()| Empty {}).saying(Message::ConfigMapDeleted))
}
