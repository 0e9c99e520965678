//! ConfigMaps: rows without values, creating and deleting.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    access::{Access, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::{Error, FieldError, Reason, Result},
    gate::{Changed, Gate},
    inventory::{Cell, Field, ListRow},
    kind::Kind,
    name::{Namespace, ObjectName},
    object::{Labels, Metadata, or_default},
};

/// What we read of a ConfigMap: of each value its length only, and not even that is kept as text.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigMapObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, TextLength>,
    #[serde(deserialize_with = "or_default")]
    binary_data: BTreeMap<String, Base64Length>,
    #[serde(deserialize_with = "or_default")]
    immutable: bool,
}

/// The length of a text in bytes, without the text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TextLength(usize);

/// The length of what a base64 text stands for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Base64Length(usize);

impl Base64Length {
    pub(crate) fn bytes(self) -> usize {
        self.0
    }
}

impl<'de> Deserialize<'de> for TextLength {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(std::borrow::Cow::<'de, str>::deserialize(from)?.len()))
    }
}

impl<'de> Deserialize<'de> for Base64Length {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let text = text.trim_end_matches('=');
        Ok(Self(text.len() * 3 / 4))
    }
}

/// A key and how many bytes it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeySize {
    /// The key.
    pub name: String,
    /// The length of its value in bytes.
    pub bytes: usize,
}

/// A ConfigMap as it is shown in lists: keys and sizes, never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigMapRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its keys, `data` and `binaryData` together, by name.
    pub keys: Vec<KeySize>,
    /// Whether it can no longer be changed.
    pub immutable: bool,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl ConfigMapRow {
    /// Projects a ConfigMap.
    pub fn project(object: ConfigMapObject) -> Self {
        let ConfigMapObject { metadata, data, binary_data, immutable } = object;
        let data = data.into_iter().map(|(name, TextLength(bytes))| KeySize { name, bytes });
        let binary = binary_data.into_iter().map(|(name, Base64Length(bytes))| KeySize { name, bytes });
        let mut keys: Vec<_> = data.chain(binary).collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            keys,
            immutable,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

impl ListRow for ConfigMapRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("immutable", |row| Cell::from(row.immutable)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

/// A ConfigMap to create. Its `Debug` shows keys only.
#[derive(Clone, PartialEq, Eq)]
pub struct NewConfigMap {
    /// Its name.
    pub name: ObjectName,
    /// Its values; may be empty.
    pub data: BTreeMap<String, String>,
    /// Its labels.
    pub labels: Labels,
}

impl std::fmt::Debug for NewConfigMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewConfigMap").field("name", &self.name).field("keys", &self.data.keys()).finish()
    }
}

/// Checks the keys of `data` as the API server does (`IsConfigMapKey`): 1 to 253 of letters, digits, `-`, `_`, `.`,
/// neither `.` nor starting with `..`; all keys and values together 1 MiB at most.
///
/// # Errors
/// `InvalidInput`, naming each key as `data.<key>`.
pub fn check_data(data: &BTreeMap<String, String>) -> Result<()> {
    check_sizes(&data.iter().map(|(key, value)| (key.as_str(), value.len())).collect())
}

/// As [`check_data`], of keys and the sizes of their values.
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

/// Changes ConfigMaps in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ConfigApi: Send + Sync {
    /// Creates a ConfigMap.
    ///
    /// # Errors
    /// `AlreadyExists`, `QuotaExceeded`, `NamespaceTerminating`, `NotFoundInCluster` (the namespace); else as every
    /// call to a cluster.
    async fn create_configmap(&self, permit: &Permit, configmap: &NewConfigMap) -> Result<ConfigMapRow>;

    /// Deletes a ConfigMap.
    ///
    /// # Errors
    /// `NotFoundInCluster`; else as every call to a cluster.
    async fn delete_configmap(&self, permit: &Permit, name: &ObjectName) -> Result<()>;
}

/// Creates and deletes ConfigMaps.
#[derive(Clone)]
pub struct Configs {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn ConfigApi>,
}

impl Configs {
    /// Creates a ConfigMap. The trail keeps key names and sizes.
    ///
    /// # Errors
    /// `InvalidInput` for keys that Kubernetes refuses; else as [`Gate::change`] and [`ConfigApi::create_configmap`].
    pub async fn create_configmap(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        configmap: NewConfigMap,
    ) -> Result<Changed<ConfigMapRow>> {
        check_data(&configmap.data)?;
        crate::object::check_labels(&configmap.labels)?;
        let sizes: BTreeMap<_, _> =
            configmap.data.iter().map(|(key, value)| (key.as_str(), value.len())).collect();
        let access =
            access(Verb::Create, cluster, namespace, &configmap.name).with("keys", serde_json::json!(sizes));
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.create_configmap(&permit, &configmap).await?.into());
        self.gate.change(caller, access, work).await
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

fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace, name: &ObjectName) -> Access {
    Access::to(verb, Resource::Kind(Kind::ConfigMap))
        .in_cluster(cluster)
        .in_namespace(namespace)
        .named(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_table() {
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
    }

    #[test]
    fn a_row_has_sizes_and_no_values() {
        let json = r#"{"metadata":{"name":"c","namespace":"n","labels":null},
            "data":{"b":"caf\u00e9","a":""},"binaryData":{"c":"AAEC","d":"AA=="}}"#;
        let row = ConfigMapRow::project(serde_json::from_str(json).unwrap());
        let keys: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(keys, [("a", 0), ("b", 5), ("c", 3), ("d", 1)]);
        assert!(!serde_json::to_string(&row).unwrap().contains("caf"));
    }
}
