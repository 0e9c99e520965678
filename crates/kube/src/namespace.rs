//! [`NamespaceApi`]: creates and deletes namespaces.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Namespace as Manifest;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    kind::Kind,
    name::{Namespace, ObjectName},
    namespace::{NamespaceApi, NamespaceRow},
    object::{Labels, parse},
};

use crate::KubeClusters;

#[async_trait]
impl NamespaceApi for KubeClusters {
    async fn create(&self, permit: &Permit, labels: &Labels) -> Result<NamespaceRow> {
        let name = name(permit.namespace()?)?;
        let object = self.object(permit, Kind::Namespace, &name, self.deadlines().write).await?;
        let manifest = Manifest { metadata: object.metadata(labels), ..Manifest::default() };
        Ok(NamespaceRow::project(parse(&object.create(&manifest).await?)?))
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let name = name(permit.namespace()?)?;
        let object = self.object(permit, Kind::Namespace, &name, self.deadlines().write).await?;
        object.delete().await
    }
}

/// The namespace's name as the name of a `Namespace` object.
fn name(namespace: &Namespace) -> Result<ObjectName> {
    ObjectName::new(namespace.as_str())
        .map_err(|_| Error::internal("the name of a namespace is not a valid object name"))
}
