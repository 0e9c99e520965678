//! ConfigMaps: list rows without values, details with values, creation, update, deletion.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    error::{Error, FieldError, Reason, Result},
    gate::{Changed, Gate},
    ids::ClusterId,
    kind::Kind,
    mask::{MASK, MaskedFields, sees_masked_values},
    name::{Namespace, ObjectName},
    object::{Labels, Metadata, check_labels, check_opaque, or_default, parse},
};

mod row;

pub(crate) use row::Base64Length;
pub use row::{ConfigMapObject, ConfigMapRow, KeySize};

/// A ConfigMap to create. Its `Debug` output contains keys but no values.
#[derive(Clone, PartialEq, Eq)]
pub struct NewConfigMap {
    /// Name.
    pub name: ObjectName,
    /// Values by key; may be empty.
    pub data: BTreeMap<String, String>,
    /// Labels.
    pub labels: Labels,
}

impl fmt::Debug for NewConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewConfigMap").field("name", &self.name).field("keys", &self.data.keys()).finish()
    }
}

/// Update of a ConfigMap. Fields that are `None` and binary values stay unchanged. Its `Debug` output contains keys but
/// no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConfigMapPatch {
    /// New text values by key; they replace all text values.
    pub data: Option<BTreeMap<String, String>>,
    /// New labels; they replace all labels.
    pub labels: Option<Labels>,
    /// The resource version that the caller read. If the object has another one, the update is a conflict.
    pub resource_version: Option<String>,
}

impl fmt::Debug for ConfigMapPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.data.as_ref().map(BTreeMap::keys);
        f.debug_struct("ConfigMapPatch").field("keys", &keys).field("labels", &self.labels).finish()
    }
}

/// A ConfigMap with its values.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigMapDetail {
    /// Its row.
    pub configmap: ConfigMapRow,
    /// Text values by key; `***` if masked.
    pub data: BTreeMap<String, String>,
    /// Binary values by key, as base64; `***` if masked.
    pub binary_data: BTreeMap<String, String>,
    /// Its resource version, for a later update.
    pub resource_version: String,
}

impl fmt::Debug for ConfigMapDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { configmap, resource_version, .. } = self;
        f.debug_struct("ConfigMapDetail")
            .field("configmap", configmap)
            .field("resource_version", resource_version)
            .finish()
    }
}

/// Fields of a ConfigMap that Pilothouse reads for its details.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WithValues {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    binary_data: BTreeMap<String, String>,
}

impl ConfigMapDetail {
    /// Projects a ConfigMap from the API server's JSON.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a ConfigMap.
    pub fn project(object: &RawValue) -> Result<Self> {
        let WithValues { metadata, data, binary_data } = parse(object)?;
        let configmap = ConfigMapRow::project(parse(object)?);
        Ok(Self { configmap, data, binary_data, resource_version: metadata.resource_version })
    }

    /// Masks the values of these fields.
    fn mask(&mut self, fields: &MaskedFields) {
        for (name, values) in [("data", &mut self.data), ("binaryData", &mut self.binary_data)] {
            for (_, value) in values.iter_mut().filter(|(key, _)| fields.contains(&[name, key.as_str()])) {
                MASK.clone_into(value);
            }
        }
    }
}

/// Maximum number of keys in one write of a Secret or ConfigMap. Kubernetes has no such limit; its limit of 1 MiB
/// allows half a million keys.
const MAX_KEYS: usize = 1_000;

/// Checks the keys of `data` as the API server does (`IsConfigMapKey`): 1 to 253 letters, digits, `-`, `_`, `.`; not
/// `.`, and not starting with `..`. At most 1,000 keys; at most 1 MiB for all keys and values together.
///
/// # Errors
/// `InvalidInput`, naming keys as `data.<key>`.
pub fn check_data(data: &BTreeMap<String, String>) -> Result<()> {
    check_count(data.len())?;
    check_sizes(&sizes(data))
}

/// Checks the number of keys, before they are processed.
pub(crate) fn check_count(keys: usize) -> Result<()> {
    if keys > MAX_KEYS { Err(Error::invalid("data", Reason::TooLong)) } else { Ok(()) }
}

/// As [`check_data`], for keys and the sizes of their values in bytes. [`check_count`] checks the number of keys.
pub(crate) fn check_sizes(sizes: &BTreeMap<&str, usize>) -> Result<()> {
    let reason = |key: &str| match key {
        "" => Some(Reason::Required),
        key if key.len() > 253 => Some(Reason::TooLong),
        key if key == "." || key.starts_with("..") => Some(Reason::InvalidName),
        key if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
            Some(Reason::InvalidName)
        }
        _ => None,
    };
    let refused =
        sizes.keys().filter_map(|key| Some(FieldError { name: format!("data.{key}"), reason: reason(key)? }));
    let mut refused: Vec<_> = refused.collect();
    if sizes.iter().map(|(key, size)| key.len() + size).sum::<usize>() > 1 << 20 {
        refused.push(FieldError { name: "data".to_owned(), reason: Reason::TooLong });
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::fields(refused)) }
}

fn sizes(data: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    data.iter().map(|(key, value)| (key.as_str(), value.len())).collect()
}

/// Port: reads and changes ConfigMaps in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ConfigApi: Send + Sync {
    /// Returns a ConfigMap with its values; `None` if it does not exist.
    ///
    /// # Errors
    /// The errors of every call to a cluster.
    async fn get_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<Option<ConfigMapDetail>>;

    /// Creates a ConfigMap.
    ///
    /// # Errors
    /// `AlreadyExists`, `QuotaExceeded`, `NamespaceTerminating`, `NotFoundInCluster` (the namespace); otherwise as
    /// every call to a cluster.
    async fn create_configmap(&self, permit: &Permit, configmap: &NewConfigMap) -> Result<ConfigMapRow>;

    /// Updates a ConfigMap.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `ConflictInCluster` if its resource version is not, or does not remain, that of the patch;
    /// otherwise as every call to a cluster.
    async fn update_configmap(
        &self,
        permit: &Permit,
        name: &ObjectName,
        patch: &ConfigMapPatch,
    ) -> Result<ConfigMapRow>;

    /// Deletes a ConfigMap.
    ///
    /// # Errors
    /// `NotFoundInCluster`; and the errors of every call to a cluster.
    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()>;
}

/// Use cases: reading and changing ConfigMaps.
#[derive(Clone)]
pub struct Configs {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn ConfigApi>,
    masked_fields: MaskedFields,
}

impl Configs {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn ConfigApi>) -> Self {
        Self { gate, api, masked_fields: MaskedFields::default() }
    }

    /// Sets the fields that are masked.
    #[must_use]
    pub fn with_masked_fields(self, masked_fields: MaskedFields) -> Self {
        Self { masked_fields, ..self }
    }

    /// Returns a ConfigMap with its values. The fields of [`Configs::with_masked_fields`] are masked for callers who may
    /// neither update the ConfigMap nor run commands in its namespace.
    ///
    /// # Errors
    /// `NotFoundInCluster`; otherwise as [`Gate::allow`] and [`ConfigApi::get_configmap`].
    pub async fn configmap(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<ConfigMapDetail> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, namespace, name)).await?;
        let found = self.api.get_configmap(&permit, name).await?;
        let mut detail = found.ok_or_else(|| permit.object_not_found())?;
        if !sees_masked_values(caller, Kind::ConfigMap, cluster, namespace) {
            detail.mask(&self.masked_fields);
        }
        Ok(detail)
    }

    /// Creates a ConfigMap. The audit trail records key names and sizes.
    ///
    /// # Errors
    /// `InvalidInput` for keys that Kubernetes refuses; otherwise as [`Gate::change`] and
    /// [`ConfigApi::create_configmap`].
    pub async fn create_configmap(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        configmap: NewConfigMap,
    ) -> Result<Changed<ConfigMapRow>> {
        check_data(&configmap.data)?;
        check_labels(&configmap.labels)?;
        let access = access(Verb::Create, cluster, namespace, &configmap.name);
        let granted = self.gate.grant(caller, access).await?;
        let granted = granted.with("keys", serde_json::json!(sizes(&configmap.data)));
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.create_configmap(&permit, &configmap).await?.into());
        self.gate.change_granted(granted, work, |_| Vec::new()).await
    }

    /// Updates a ConfigMap. The audit trail records key names and sizes.
    ///
    /// # Errors
    /// `InvalidInput` if the patch is empty, and as in [`Configs::create_configmap`]; otherwise as [`Gate::change`]
    /// and [`ConfigApi::update_configmap`].
    pub async fn update_configmap(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
        patch: ConfigMapPatch,
    ) -> Result<Changed<ConfigMapRow>> {
        if patch.data.is_none() && patch.labels.is_none() {
            return Err(Error::invalid("data", Reason::Required));
        }
        patch.data.as_ref().map_or(Ok(()), check_data)?;
        patch.labels.as_ref().map_or(Ok(()), check_labels)?;
        patch.resource_version.as_deref().map_or(Ok(()), |text| check_opaque("resource_version", text))?;
        let mut granted = self.gate.grant(caller, access(Verb::Update, cluster, namespace, &name)).await?;
        if let Some(data) = &patch.data {
            granted = granted.with("keys", serde_json::json!(sizes(data)));
        }
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.update_configmap(&permit, &name, &patch).await?.into());
        self.gate.change_granted(granted, work, |_| Vec::new()).await
    }

    /// Deletes a ConfigMap.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`ConfigApi::delete_configmap`].
    pub async fn delete_configmap(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
    ) -> Result<Changed<()>> {
        let access = access(Verb::Delete, cluster, namespace, &name);
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.delete_configmap(&permit, &name).await?.into());
        self.gate.change(caller, access, work).await
    }
}

fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace, name: &ObjectName) -> AccessRequest {
    AccessRequest::to_object(verb, Kind::ConfigMap, cluster, namespace, name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_keys_are_checked_as_by_the_api_server() {
        let check = |key: &str| {
            let data = BTreeMap::from([(key.to_owned(), String::new())]);
            check_data(&data).map_err(|error| error.context.fields[0].reason)
        };
        for good in ["a", "A.b-c_d", "..a".trim_start_matches('.'), "0"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let cases = [
            ("", Reason::Required),
            (".", Reason::InvalidName),
            ("..a", Reason::InvalidName),
            ("a/b", Reason::InvalidName),
        ];
        for (bad, reason) in cases {
            assert_eq!(check(bad), Err(reason), "{bad}");
        }
        assert_eq!(check(&"k".repeat(254)), Err(Reason::TooLong));
        let large = BTreeMap::from([("k".to_owned(), "v".repeat(1 << 20))]);
        assert_eq!(check_data(&large).unwrap_err().context.fields[0].name, "data");
        let many = |n: usize| (0..n).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(check_data(&many(MAX_KEYS)), Ok(()));
        assert_eq!(check_data(&many(MAX_KEYS + 1)), Err(Error::invalid("data", Reason::TooLong)));
    }
}
