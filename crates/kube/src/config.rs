//! [`ConfigApi`]: reads and writes ConfigMaps.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap as Manifest;
use pilothouse_core::{
    Result,
    access::Permit,
    config::{ConfigApi, ConfigMapDetail, ConfigMapPatch, ConfigMapRow, NewConfigMap},
    kind::Kind,
    name::ObjectName,
    object::parse,
};
use serde_json::value::RawValue;

use crate::{KubeClusters, replace::Replacement};

#[async_trait]
impl ConfigApi for KubeClusters {
    async fn get_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<Option<ConfigMapDetail>> {
        let object = self.object(permit, Kind::ConfigMap, name, self.deadlines().read).await?;
        object.find(ConfigMapDetail::project).await
    }

    async fn create_configmap(&self, permit: &Permit, configmap: &NewConfigMap) -> Result<ConfigMapRow> {
        let NewConfigMap { name, data, labels } = configmap;
        let object = self.object(permit, Kind::ConfigMap, name, self.deadlines().write).await?;
        let metadata = object.metadata(labels);
        row(&object.create(&Manifest { metadata, data: Some(data.clone()), ..Manifest::default() }).await?)
    }

    async fn update_configmap(
        &self,
        permit: &Permit,
        name: &ObjectName,
        patch: &ConfigMapPatch,
    ) -> Result<ConfigMapRow> {
        let ConfigMapPatch { data, labels, resource_version } = patch;
        let text = |(key, text): (_, &String)| (String::as_str(key), Some(text.as_str().into()));
        let replacement = Replacement {
            data: data.as_ref().map(|data| data.iter().map(text).collect()),
            labels: labels.as_ref(),
            version: resource_version.as_deref(),
        };
        let object = self.object(permit, Kind::ConfigMap, name, self.deadlines().write).await?;
        row(&object.replace(replacement).await?)
    }

    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        self.object(permit, Kind::ConfigMap, name, self.deadlines().write).await?.delete().await
    }
}

fn row(object: &RawValue) -> Result<ConfigMapRow> {
    Ok(ConfigMapRow::project(parse(object)?))
}
