//! What is shown of a Secret: the sizes of its values, never a value.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    annotation::{Hidden, masked},
    config::{Base64Length, KeySize},
    error::Result,
    inventory::{Cell, Field, Filter, ListRow},
    object::{Labels, Metadata, or_default, parse},
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
    /// Its annotations, without the last applied configuration. Most are shown by their names and sizes, as
    /// `*** (17 bytes)`: those that are not known to hold nothing secret, and those that hold a value of the Secret.
    pub annotations: Labels,
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations whose values are shown: their writers put names, kinds and times into them.
const SHOWN: [&str; 19] = [
    "argocd.argoproj.io/tracking-id",
    "cert-manager.io/alt-names",
    "cert-manager.io/certificate-name",
    "cert-manager.io/common-name",
    "cert-manager.io/ip-sans",
    "cert-manager.io/issuer-group",
    "cert-manager.io/issuer-kind",
    "cert-manager.io/issuer-name",
    "cert-manager.io/uri-sans",
    "helm.sh/resource-policy",
    "kubernetes.io/service-account.name",
    "kubernetes.io/service-account.uid",
    "meta.helm.sh/release-name",
    "meta.helm.sh/release-namespace",
    "reflector.v1.k8s.emberstack.com/reflects",
    "replicator.v1.mittwald.de/replicate-from",
    "replicator.v1.mittwald.de/replicated-at",
    "sealedsecrets.bitnami.com/cluster-wide",
    "sealedsecrets.bitnami.com/namespace-wide",
];

/// The values of a Secret, to look for them in its annotations.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Values {
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, String>,
}

impl SecretDetail {
    /// Projects a Secret, as the API server wrote it.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when it is none.
    pub fn project(object: &RawValue) -> Result<Self> {
        let mut hidden = Hidden::default();
        for value in parse::<Values>(object)?.data.values() {
            // what is no base64 is a value as it is
            hidden.insert(&BASE64.decode(value).unwrap_or_else(|_| value.clone().into_bytes()));
        }
        let object: SecretObject = parse(object)?;
        let Metadata { resource_version, mut annotations, .. } = object.metadata.clone();
        annotations.remove(LAST_APPLIED);
        for (name, value) in &mut annotations {
            if !SHOWN.contains(&name.as_str()) || !hidden.may_show(value) {
                *value = masked(value);
            }
        }
        Ok(Self { secret: SecretRow::project(object), resource_version, annotations })
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
        let json = r#"{"metadata": {"name": "s", "resourceVersion": "7"},
            "data": {"b": "Y2FuYXJ5", "a": ""}, "type": "kubernetes.io/tls"}"#;
        let object: SecretObject = serde_json::from_str(json).unwrap();
        let row = SecretRow::project(object);
        let keys: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(keys, [("a", 0), ("b", 6)]);
        assert!(!serde_json::to_string(&row).unwrap().contains("Y2Fu"));
    }

    #[test]
    fn no_annotation_shows_a_value() {
        let object = serde_json::json!({
            "metadata": {"name": "s", "resourceVersion": "7", "annotations": {
                LAST_APPLIED: "Y2FuYXJ5",
                "owner": "shop",
                "note": "the password is canary",
                "kapp.k14s.io/original": r#"{"data":{"b":"Y2FuYXJ5"}}"#,
                "openshift.io/token-secret.value": "an earlier value",
                "kubernetes.io/service-account.name": "default",
                "cert-manager.io/common-name": "canary.example.org",
                "cert-manager.io/alt-names": "x".repeat(300),
                "meta.helm.sh/release-name": "Y2FuYXJ5",
            }},
            "data": {"b": "Y2FuYXJ5", "not base64": "!", "short": "YQ=="},
        });
        let object = serde_json::value::to_raw_value(&object).unwrap();
        let detail = serde_json::to_value(SecretDetail::project(&object).unwrap()).unwrap();
        assert_eq!(
            detail["annotations"],
            serde_json::json!({
                "owner": "*** (4 bytes)",
                "note": "*** (22 bytes)",
                "kapp.k14s.io/original": "*** (25 bytes)",
                "openshift.io/token-secret.value": "*** (16 bytes)",
                "kubernetes.io/service-account.name": "default",
                "cert-manager.io/common-name": "*** (18 bytes)",
                "cert-manager.io/alt-names": "*** (300 bytes)",
                "meta.helm.sh/release-name": "*** (8 bytes)",
            })
        );
        assert_eq!(detail["resource_version"], "7");
    }
}
