//! [`ConfigApi`].

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::ConfigMap as Manifest, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use pilothouse_core::{
    Result,
    access::Permit,
    config::{ConfigApi, ConfigMapRow, NewConfigMap},
    kind::Kind,
    name::ObjectName,
    object::parse,
};

use crate::{KubeClusters, request::Call};

#[async_trait]
impl ConfigApi for KubeClusters {
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
        let visit = self.visit(permit, self.deadlines().write).await?;
        let object = visit.change(&call).await?.object(&call)?;
        Ok(ConfigMapRow::project(parse(&object)?))
    }

    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        let call = Call::delete(Kind::ConfigMap, Some(permit.namespace()?), name)?;
        self.visit(permit, self.deadlines().write).await?.change(&call).await?;
        Ok(())
    }
}
