//! [`NamespaceApi`]: creates and deletes namespaces.

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::Namespace as Manifest, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use pilothouse_core::{
    Error, Result,
    access::Permit,
    kind::Kind,
    name::{Namespace, ObjectName},
    namespace::{NamespaceApi, NamespaceRow},
    object::{Labels, parse},
};

use crate::{KubeClusters, request::Call};

#[async_trait]
impl NamespaceApi for KubeClusters {
    async fn create(&self, permit: &Permit, labels: &Labels) -> Result<NamespaceRow> {
        let name = name(permit.namespace()?)?;
        let metadata = ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            ..ObjectMeta::default()
        };
        let manifest = Manifest { metadata, ..Manifest::default() };
        let call = Call::create(Kind::Namespace, None, &name, &manifest)?;
        let client = self.client(permit, self.deadlines().write).await?;
        let object = client.change(&call).await?.object(&call)?;
        Ok(NamespaceRow::project(parse(&object)?))
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let call = Call::delete(Kind::Namespace, None, &name(permit.namespace()?)?)?;
        self.client(permit, self.deadlines().write).await?.change(&call).await?;
        Ok(())
    }
}

/// The namespace's name as the name of a `Namespace` object.
fn name(namespace: &Namespace) -> Result<ObjectName> {
    ObjectName::new(namespace.as_str())
        .map_err(|_| Error::internal("the name of a namespace is not a valid object name"))
}
