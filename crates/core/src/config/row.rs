//! Row of a ConfigMap: its keys and the sizes of their values.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, ListRow},
};

/// Fields of a ConfigMap that Pilothouse reads. Only the lengths of the values are stored; the texts are dropped during
/// deserialisation.
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

/// Length of a text in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct TextLength(usize);

/// Length in bytes of the data that a base64 text encodes.
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

/// A key and the size of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeySize {
    /// The key.
    pub name: String,
    /// Size of its value in bytes.
    pub bytes: usize,
}

/// List row of a ConfigMap. It contains keys and sizes, never values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigMapRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its keys, `data` and `binaryData` together, sorted by name.
    pub keys: Vec<KeySize>,
    /// Whether it is immutable.
    pub immutable: bool,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
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
            uid: metadata.uid,
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
        Field::new("uid", |row| Cell::text(&*row.uid)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_contains_sizes_and_no_values() {
        let json = r#"{"metadata":{"name":"c","namespace":"n","labels":null},
            "data":{"b":"caf\u00e9","a":""},"binaryData":{"c":"AAEC","d":"AA=="}}"#;
        let row = ConfigMapRow::project(serde_json::from_str(json).unwrap());
        let keys: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(keys, [("a", 0), ("b", 5), ("c", 3), ("d", 1)]);
        assert!(!serde_json::to_string(&row).unwrap().contains("caf"));
    }
}
