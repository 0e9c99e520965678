//! What is shown of a Secret: the sizes of its values, never a value.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Base64Length, KeySize},
    inventory::{Cell, Field, Filter, ListRow},
    object::{Labels, Metadata, or_default},
};

/// What we read of a Secret: of each value its length only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SecretObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    r#type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, Base64Length>,
    #[serde(deserialize_with = "or_default")]
    immutable: bool,
}

/// A Secret as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Opaque`, `kubernetes.io/tls` and their like.
    pub r#type: String,
    /// Its keys, by name.
    pub keys: Vec<KeySize>,
    /// Whether it can no longer be changed.
    pub immutable: bool,
    /// Its labels.
    pub labels: Labels,
    /// When it was created.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl SecretRow {
    /// Projects a Secret.
    pub fn project(object: SecretObject) -> Self {
        let SecretObject { metadata, r#type, data, immutable } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            r#type: r#type.unwrap_or_else(opaque),
            keys: data.into_iter().map(|(name, length)| KeySize { name, bytes: length.bytes() }).collect(),
            immutable,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

/// The type of a Secret that says none.
pub(super) fn opaque() -> String {
    "Opaque".to_owned()
}

/// What is shown of one Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretDetail {
    /// Its row.
    pub secret: SecretRow,
    /// Its version, for a later update.
    pub resource_version: String,
    /// Its annotations, without those that hold values, such as the last applied configuration.
    pub annotations: Labels,
}

/// Annotations that hold values: of the Secret itself (`kubectl apply`), of the token it was made of (OpenShift).
const WITH_VALUES: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "openshift.io/token-secret.value"];

impl SecretDetail {
    /// Projects a Secret.
    pub fn project(object: SecretObject) -> Self {
        let Metadata { resource_version, mut annotations, .. } = object.metadata.clone();
        annotations.retain(|name, _| !WITH_VALUES.contains(&name.as_str()));
        Self { secret: SecretRow::project(object), resource_version, annotations }
    }
}

impl ListRow for SecretRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::filtered("type", Filter::Any, |row| Cell::text(&*row.r#type)),
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
    fn what_is_shown_has_sizes_and_no_values() {
        let json = r#"{"metadata": {"name": "s", "resourceVersion": "7", "annotations":
            {"owner": "shop", "kubectl.kubernetes.io/last-applied-configuration": "Y2FuYXJ5"}},
            "data": {"b": "Y2FuYXJ5", "a": ""}, "type": "kubernetes.io/tls"}"#;
        let object: SecretObject = serde_json::from_str(json).unwrap();
        let row = SecretRow::project(object.clone());
        let keys: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(keys, [("a", 0), ("b", 6)]);
        assert!(!serde_json::to_string(&row).unwrap().contains("Y2Fu"));
        let detail = serde_json::to_value(SecretDetail::project(object)).unwrap();
        assert_eq!(detail["annotations"], serde_json::json!({"owner": "shop"}));
        assert_eq!(detail["resource_version"], "7");
        assert!(!detail.to_string().contains("Y2Fu"));
    }
}
