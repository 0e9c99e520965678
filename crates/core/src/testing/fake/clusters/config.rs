//! ConfigMaps and Secrets of the fake clusters.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::FakeClusters;
use crate::{
    access::Permit,
    config::{ConfigApi, ConfigMapDetail, ConfigMapPatch, ConfigMapRow, NewConfigMap},
    error::{Cause, Error, Reason, Result},
    name::ObjectName,
    object::{Labels, parse},
    secret::{NewSecret, RevealedSecret, SecretApi, SecretDetail, SecretPatch, SecretRow},
};

/// Replaces data and labels, if given. A key without a value keeps its stored value. An object with another version
/// than `version` is a conflict.
fn replace(
    object: &mut Value,
    data: Option<BTreeMap<&String, Option<Value>>>,
    labels: Option<&Labels>,
    version: Option<&str>,
) -> Result<()> {
    if version.is_some_and(|version| object["metadata"]["resourceVersion"] != version) {
        return Err(Error::new(Cause::ConflictInCluster));
    }
    if let Some(data) = data {
        let value = |(key, value): (&String, Option<Value>)| {
            let stored = || object["data"].get(key).cloned();
            let value =
                value.or_else(stored).ok_or_else(|| Error::invalid(format!("data.{key}"), Reason::Required));
            Ok((key.clone(), value?))
        };
        object["data"] = data.into_iter().map(value).collect::<Result<_>>()?;
    }
    if let Some(labels) = labels {
        object["metadata"]["labels"] = json!(labels);
    }
    Ok(())
}

#[async_trait]
impl ConfigApi for FakeClusters {
    async fn get_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<Option<ConfigMapDetail>> {
        self.call(permit, name.as_str())?;
        self.find(&Self::key(permit, name)?)?.map(|object| ConfigMapDetail::project(&object)).transpose()
    }

    async fn create_configmap(&self, permit: &Permit, configmap: &NewConfigMap) -> Result<ConfigMapRow> {
        self.call(permit, configmap.name.as_str())?;
        let key = Self::key(permit, &configmap.name)?;
        let metadata = json!({"name": configmap.name, "namespace": key.2, "labels": configmap.labels});
        let object = self.insert(key, json!({"metadata": metadata, "data": configmap.data}))?;
        Ok(ConfigMapRow::project(parse(&object)?))
    }

    async fn update_configmap(
        &self,
        permit: &Permit,
        name: &ObjectName,
        patch: &ConfigMapPatch,
    ) -> Result<ConfigMapRow> {
        self.call(permit, name.as_str())?;
        let ConfigMapPatch { data, labels, resource_version } = patch;
        let data =
            data.as_ref().map(|data| data.iter().map(|(key, text)| (key, Some(json!(text)))).collect());
        let object = self.change(&Self::key(permit, name)?, |object| {
            replace(object, data, labels.as_ref(), resource_version.as_deref())
        })?;
        Ok(ConfigMapRow::project(parse(&object)?))
    }

    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        self.call(permit, name.as_str())?;
        self.remove(&Self::key(permit, name)?)
    }
}

fn in_base64(value: &SecretString) -> Value {
    BASE64.encode(value.expose_secret()).into()
}

#[async_trait]
impl SecretApi for FakeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<SecretDetail>> {
        self.call(permit, name.as_str())?;
        let object = self.find(&Self::key(permit, name)?)?;
        object.map(|object| SecretDetail::project(&object)).transpose()
    }

    async fn reveal(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RevealedSecret>> {
        self.call(permit, name.as_str())?;
        self.find(&Self::key(permit, name)?)?.map(|object| RevealedSecret::project(&object)).transpose()
    }

    async fn create(&self, permit: &Permit, secret: &NewSecret) -> Result<SecretRow> {
        self.call(permit, secret.name.as_str())?;
        let NewSecret { name, r#type, data, labels } = secret;
        let key = Self::key(permit, name)?;
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (key, in_base64(value))).collect();
        let metadata = json!({"name": name, "namespace": key.2, "labels": labels});
        let object = self.insert(key, json!({"metadata": metadata, "type": r#type, "data": data}))?;
        Ok(SecretRow::project(parse(&object)?))
    }

    async fn update(&self, permit: &Permit, name: &ObjectName, patch: &SecretPatch) -> Result<SecretRow> {
        self.call(permit, name.as_str())?;
        let SecretPatch { data, labels, resource_version } = patch;
        let data = data
            .as_ref()
            .map(|data| data.iter().map(|(key, value)| (key, value.as_ref().map(in_base64))).collect());
        let object = self.change(&Self::key(permit, name)?, |object| {
            replace(object, data, labels.as_ref(), resource_version.as_deref())
        })?;
        Ok(SecretRow::project(parse(&object)?))
    }

    async fn delete(&self, permit: &Permit, name: &ObjectName) -> Result<()> {
        self.call(permit, name.as_str())?;
        self.remove(&Self::key(permit, name)?)
    }
}
