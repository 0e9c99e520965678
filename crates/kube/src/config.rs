//! [`ConfigApi`]: reads and writes ConfigMaps.

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::ConfigMap as Manifest, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use pilothouse_core::{
    Result,
    access::Permit,
    config::{ConfigApi, ConfigMapDetail, ConfigMapPatch, ConfigMapRow, NewConfigMap},
    kind::Kind,
    name::ObjectName,
    object::parse,
};

use crate::{KubeClusters, replace::Replacement, request::Call};

#[async_trait]
impl ConfigApi for KubeClusters {
    async fn get_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<Option<ConfigMapDetail>> {
        let call = Call::get(Kind::ConfigMap, Some(permit.namespace()?), name)?;
        self.client(permit, self.deadlines().read).await?.find_object(&call, ConfigMapDetail::project).await
    }

    async fn create_configmap(&self, permit: &Permit, configmap: &NewConfigMap) -> Result<ConfigMapRow> {
        let NewConfigMap { name, data, labels } = configmap;
        let namespace = permit.namespace()?;
        let metadata = ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            ..ObjectMeta::default()
        };
        let manifest = Manifest { metadata, data: Some(data.clone()), ..Manifest::default() };
        let call = Call::create(Kind::ConfigMap, Some(namespace), name, &manifest)?;
        let client = self.client(permit, self.deadlines().write).await?;
        let object = client.change(&call).await?.object(&call)?;
        Ok(ConfigMapRow::project(parse(&object)?))
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
        let object = self.replace(permit, name, replacement).await?;
        Ok(ConfigMapRow::project(parse(&object)?))
    }

    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        let call = Call::delete(Kind::ConfigMap, Some(permit.namespace()?), name)?;
        self.client(permit, self.deadlines().write).await?.change(&call).await?;
        Ok(())
    }
}
