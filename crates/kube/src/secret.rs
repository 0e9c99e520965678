//! [`SecretApi`]: reads and writes Secrets. `error.rs` drops the cluster's messages about them: they may quote a value.

use async_trait::async_trait;
use k8s_openapi::{ByteString, api::core::v1::Secret as Manifest};
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

use crate::{KubeClusters, replace::Replacement};

#[async_trait]
impl SecretApi for KubeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<SecretDetail>> {
        let object = self.object(permit, Kind::Secret, name, self.deadlines().read).await?;
        object.find(SecretDetail::project).await
    }

    async fn reveal(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RevealedSecret>> {
        let object = self.object(permit, Kind::Secret, name, self.deadlines().read).await?;
        object.find(RevealedSecret::project).await
    }

    async fn create(&self, permit: &Permit, secret: &NewSecret) -> Result<SecretRow> {
        let NewSecret { name, r#type, data, labels } = secret;
        let object = self.object(permit, Kind::Secret, name, self.deadlines().write).await?;
        let metadata = object.metadata(labels);
        let data = data.iter().map(|(key, value)| (key.clone(), bytes(value))).collect();
        let manifest = Manifest { metadata, type_: r#type.clone(), data: Some(data), ..Manifest::default() };
        row(&object.create(&manifest).await?)
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
        let object = self.object(permit, Kind::Secret, name, self.deadlines().write).await?;
        row(&object.replace(replacement).await?)
    }

    async fn delete(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        self.object(permit, Kind::Secret, name, self.deadlines().write).await?.delete().await
    }
}

fn row(object: &RawValue) -> Result<SecretRow> {
    Ok(SecretRow::project(parse(object)?))
}

/// A value for the API, which serialises it as base64.
fn bytes(value: &SecretString) -> ByteString {
    ByteString(value.expose_secret().as_bytes().to_vec())
}
