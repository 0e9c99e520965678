//! Secrets: list rows and details without values, creation, update, deletion, and reveal, the only use case that
//! returns values.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    config::{check_count, check_sizes},
    error::{Error, Reason, Result},
    gate::{Changed, Gate},
    hex::Hex,
    ids::ClusterId,
    kind::Kind,
    mask::{MaskedFields, sees_masked_values},
    name::{Namespace, ObjectName},
    object::{Labels, check_labels, check_opaque},
    operation::Status,
};

mod revealed;
mod row;

pub use revealed::RevealedSecret;
pub use row::{SecretDetail, SecretObject, SecretRow};

/// A Secret to create. Its `Debug` output contains keys but no values.
#[derive(Clone)]
pub struct NewSecret {
    /// Name.
    pub name: ObjectName,
    /// Type. `None`: `Opaque`.
    pub r#type: Option<String>,
    /// Values by key, not base64-encoded; may be empty.
    pub data: BTreeMap<String, SecretString>,
    /// Labels.
    pub labels: Labels,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret").field("name", &self.name).field("keys", &self.data.keys()).finish()
    }
}

/// Update of a Secret. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default)]
pub struct SecretPatch {
    /// New values by key; they replace all values. A key with `None` keeps its current value.
    pub data: Option<BTreeMap<String, Option<SecretString>>>,
    /// New labels; they replace all labels.
    pub labels: Option<Labels>,
    /// The resource version that the caller read. If the object has another one, the update is a conflict.
    pub resource_version: Option<String>,
}

/// Keyed hash of Secret values for the audit trail. It shows whether a value changed, without revealing it.
pub trait ValueDigest: Send + Sync {
    /// Returns a hash under a key of this installation. `path` is cluster, namespace, name and key. The same value at
    /// the same path always has the same hash. Without the key, the hash cannot be used to test guessed values.
    fn digest(&self, path: &[&str], value: &[u8]) -> Hex<16>;
}

/// Port: reads and changes Secrets in the permit's cluster and namespace. Its errors never contain messages of the
/// cluster, because these may contain a value.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SecretApi: Send + Sync {
    /// Returns a Secret without its values; `None` if it does not exist.
    ///
    /// # Errors
    /// The errors of every call to a cluster, as for all methods of this port.
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<SecretDetail>>;

    /// Returns a Secret's values; `None` if it does not exist.
    async fn reveal(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RevealedSecret>>;

    /// Creates a Secret.
    ///
    /// # Errors
    /// `AlreadyExists`, `QuotaExceeded`, `NamespaceTerminating`, `NotFoundInCluster` (the namespace).
    async fn create(&self, permit: &Permit, secret: &NewSecret) -> Result<SecretRow>;

    /// Updates a Secret.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `ConflictInCluster` if its resource version is not, or does not remain, that of the patch;
    /// `InvalidInput` for a key without a new value that has no current value.
    async fn update(&self, permit: &Permit, name: &ObjectName, patch: &SecretPatch) -> Result<SecretRow>;

    /// Deletes a Secret.
    ///
    /// # Errors
    /// `NotFoundInCluster`.
    async fn delete(&self, permit: &Permit, name: &ObjectName) -> Result<()>;
}

/// Use cases: reading, revealing and changing Secrets.
#[derive(Clone)]
pub struct Secrets {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn SecretApi>,
    pub(crate) digest: Arc<dyn ValueDigest>,
    masked_fields: MaskedFields,
}

impl Secrets {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn SecretApi>, digest: Arc<dyn ValueDigest>) -> Self {
        Self { gate, api, digest, masked_fields: MaskedFields::default() }
    }

    /// Sets the fields that are masked besides values and most annotations.
    #[must_use]
    pub fn with_masked_fields(self, masked_fields: MaskedFields) -> Self {
        Self { masked_fields, ..self }
    }

    /// Returns a Secret without its values. The annotations of [`Secrets::with_masked_fields`] are masked for callers who
    /// may neither update the Secret nor run commands in its namespace.
    ///
    /// # Errors
    /// `NotFoundInCluster`; otherwise as [`SecretApi`].
    pub async fn detail(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<SecretDetail> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, namespace, name)).await?;
        let found = self.api.get(&permit, name).await?;
        let mut detail = found.ok_or_else(|| permit.object_not_found())?;
        if !sees_masked_values(caller, Kind::Secret, cluster, namespace) {
            detail.mask(&self.masked_fields);
        }
        Ok(detail)
    }

    /// Reveals a Secret's values. The intent is durable in the audit trail before they are read.
    ///
    /// # Errors
    /// `NotFoundInCluster`; otherwise as [`Gate::change`].
    pub async fn reveal(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
    ) -> Result<Changed<RevealedSecret>> {
        let access = access(Verb::Reveal, cluster, namespace, &name);
        let api = self.api.clone();
        let work = async move |permit: Permit| {
            let revealed = api.reveal(&permit, &name).await?;
            Ok(revealed.ok_or_else(|| permit.object_not_found())?.into())
        };
        self.gate.change(caller, access, work).await
    }

    /// Creates a Secret. The audit trail records the size of each value and, after the cluster has accepted it, its
    /// keyed hash.
    ///
    /// # Errors
    /// `InvalidInput`; otherwise as [`Gate::change`] and [`SecretApi::create`].
    pub async fn create(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        secret: NewSecret,
    ) -> Result<Changed<SecretRow>> {
        check_count(secret.data.len())?;
        let sizes = secret.data.iter().map(|(key, value)| (key.as_str(), size_in_bytes(value))).collect();
        check_sizes(&sizes)?;
        check_labels(&secret.labels)?;
        secret.r#type.as_deref().map_or(Ok(()), |text| check_opaque("type", text))?;
        let granted = self.gate.grant(caller, access(Verb::Create, cluster, namespace, &secret.name)).await?;
        let granted = granted.with("keys", json!(sizes));
        let values = secret.data.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let hashes = self.hashes(cluster, namespace, &secret.name, values);
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.create(&permit, &secret).await?.into());
        self.gate.change_granted(granted, work, hashes).await
    }

    /// Updates a Secret. The audit trail records the size of each new value and, after the cluster has accepted it, its
    /// keyed hash. It records neither for a value that is kept.
    ///
    /// # Errors
    /// `InvalidInput`; otherwise as [`Gate::change`] and [`SecretApi::update`].
    pub async fn update(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
        patch: SecretPatch,
    ) -> Result<Changed<SecretRow>> {
        if patch.data.is_none() && patch.labels.is_none() {
            return Err(Error::invalid("data", Reason::Required));
        }
        let mut sizes = None;
        if let Some(data) = &patch.data {
            check_count(data.len())?;
            let size = |value: &Option<SecretString>| value.as_ref().map_or(0, size_in_bytes);
            check_sizes(&data.iter().map(|(key, value)| (key.as_str(), size(value))).collect())?;
            sizes = Some(data);
        }
        patch.labels.as_ref().map_or(Ok(()), check_labels)?;
        patch.resource_version.as_deref().map_or(Ok(()), |text| check_opaque("resource_version", text))?;
        let mut granted = self.gate.grant(caller, access(Verb::Update, cluster, namespace, &name)).await?;
        if let Some(data) = sizes {
            let sizes: BTreeMap<_, _> =
                data.iter().map(|(key, value)| (key, value.as_ref().map(size_in_bytes))).collect();
            granted = granted.with("keys", json!(sizes));
        }
        let hashes = patch.data.clone().map(|data| self.hashes(cluster, namespace, &name, data));
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.update(&permit, &name, &patch).await?.into());
        let hashes = move |status| hashes.map_or_else(Vec::new, |hashes| hashes(status));
        self.gate.change_granted(granted, work, hashes).await
    }

    /// Deletes a Secret.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`SecretApi::delete`].
    pub async fn delete(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
    ) -> Result<Changed<()>> {
        let access = access(Verb::Delete, cluster, namespace, &name);
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.delete(&permit, &name).await?.into());
        self.gate.change(caller, access, work).await
    }

    /// Sizes and keyed hashes of the values, for the audit trail. They are computed only after the cluster has accepted
    /// the change. Otherwise a caller without permission, or whose change is refused, could learn from the hash whether
    /// a value equals one of an earlier audit row.
    fn hashes(
        &self,
        cluster: ClusterId,
        namespace: &Namespace,
        name: &ObjectName,
        values: BTreeMap<String, Option<SecretString>>,
    ) -> impl FnOnce(Status) -> Vec<(&'static str, Value)> + Send + 'static + use<> {
        let (digest, cluster) = (self.digest.clone(), cluster.to_string());
        let (namespace, name) = (namespace.clone(), name.clone());
        move |status| {
            if status != Status::Success {
                return Vec::new();
            }
            let shown = |key: &str, value: &SecretString| {
                // the path is part of the hash, so that equal values at different paths have different hashes
                let path = [&cluster, namespace.as_str(), name.as_str(), key];
                let hash = digest.digest(&path, value.expose_secret().as_bytes());
                json!({"bytes": size_in_bytes(value), "hash": hash})
            };
            let keys: Value = values
                .iter()
                .map(|(key, value)| {
                    (key.clone(), value.as_ref().map_or(Value::Null, |value| shown(key, value)))
                })
                .collect();
            vec![("keys", keys)]
        }
    }
}

fn size_in_bytes(value: &SecretString) -> usize {
    value.expose_secret().len()
}

fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace, name: &ObjectName) -> AccessRequest {
    AccessRequest::to_object(verb, Kind::Secret, cluster, namespace, name.as_str())
}
