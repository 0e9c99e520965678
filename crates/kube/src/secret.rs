//! [`SecretApi`]: reads and writes Secrets. `error.rs` drops the cluster's messages about them: they may quote a value.

use async_trait::async_trait;
use k8s_openapi::{
    ByteString, api::core::v1::Secret as Manifest, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use pilothouse_core::{
    Result,
    access::Permit,
    kind::Kind,
    name::ObjectName,
    object::parse,
    secret::{NewSecret, RevealedSecret, SecretApi, SecretDetail, SecretPatch, SecretRow},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{json, value::RawValue};

use crate::{KubeClusters, replace::Replacement, request::Call};

#[async_trait]
impl SecretApi for KubeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<SecretDetail>> {
        self.secret(permit, name, SecretDetail::project).await
    }

    async fn reveal(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RevealedSecret>> {
        self.secret(permit, name, RevealedSecret::project).await
    }

    async fn create(&self, permit: &Permit, secret: &NewSecret) -> Result<SecretRow> {
        let NewSecret { name, r#type, data, labels } = secret;
        let namespace = permit.namespace()?;
        let metadata = ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(namespace.to_string()),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            ..ObjectMeta::default()
        };
        let data = data.iter().map(|(key, value)| (key.clone(), bytes(value))).collect();
        let manifest = Manifest { metadata, type_: r#type.clone(), data: Some(data), ..Manifest::default() };
        let call = Call::create(Kind::Secret, Some(namespace), name, &manifest)?;
        let client = self.client(permit, self.deadlines().write).await?;
        let object = client.change(&call).await?.object(&call)?;
        Ok(SecretRow::project(parse(&object)?))
    }

    async fn update(&self, permit: &Permit, name: &ObjectName, patch: &SecretPatch) -> Result<SecretRow> {
        let SecretPatch { data, labels, resource_version } = patch;
        let value = |(key, value): (_, &Option<SecretString>)| {
            (String::as_str(key), value.as_ref().map(|value| json!(bytes(value))))
        };
        let replacement = Replacement {
            data: data.as_ref().map(|data| data.iter().map(value).collect()),
            labels: labels.as_ref(),
            version: resource_version.as_deref(),
        };
        let object = self.replace(permit, name, replacement).await?;
        Ok(SecretRow::project(parse(&object)?))
    }

    async fn delete(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        let call = Call::delete(Kind::Secret, Some(permit.namespace()?), name)?;
        self.client(permit, self.deadlines().write).await?.change(&call).await?;
        Ok(())
    }
}

impl KubeClusters {
    async fn secret<T: Send + 'static>(
        &self,
        permit: &Permit,
        name: &ObjectName,
        project: fn(&RawValue) -> Result<T>,
    ) -> Result<Option<T>> {
        let call = Call::get(Kind::Secret, Some(permit.namespace()?), name)?;
        self.client(permit, self.deadlines().read).await?.find_object(&call, project).await
    }
}

/// A value for the API, which serialises it as base64.
fn bytes(value: &SecretString) -> ByteString {
    ByteString(value.expose_secret().as_bytes().to_vec())
}
