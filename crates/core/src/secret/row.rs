//! Row and details of a Secret: its keys and the sizes of their values, never a value.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    annotation::{Hidden, masked},
    config::{Base64Length, KeySize},
    error::Result,
    mask::{MASK, MaskedFields},
    object::{Labels, Metadata, or_default, parse},
    rows::{Cell, Field, Filter, ListRow},
};

/// Fields of a Secret that Pilothouse reads. Only the lengths of the values are stored.
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

/// List row of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its type, such as `Opaque` or `kubernetes.io/tls`.
    pub r#type: String,
    /// Its keys, sorted by name.
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

impl SecretRow {
    /// Projects a Secret.
    pub fn project(object: SecretObject) -> Self {
        let SecretObject { metadata, r#type, data, immutable } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            r#type: r#type.unwrap_or_else(opaque),
            keys: data.into_iter().map(|(name, length)| KeySize { name, bytes: length.bytes() }).collect(),
            immutable,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

/// Default type of a Secret.
pub(super) fn opaque() -> String {
    "Opaque".to_owned()
}

/// Details of one Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretDetail {
    /// Its row.
    pub secret: SecretRow,
    /// Its resource version, for a later update.
    pub resource_version: String,
    /// Its annotations, without the last applied configuration. The value of an annotation is replaced by its size, as
    /// `*** (17 bytes)`, unless the annotation is known to hold nothing secret and contains no value of the Secret.
    pub annotations: Labels,
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Annotations whose values may be shown: the tools that write them store names, kinds and times there.
const SHOWN_ANNOTATIONS: [&str; 19] = [
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

/// The values of a Secret, for the search in its annotations.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Values {
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, String>,
}

impl SecretDetail {
    /// Projects a Secret from the API server's JSON.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a Secret.
    pub fn project(object: &RawValue) -> Result<Self> {
        let mut hidden = Hidden::default();
        for value in parse::<Values>(object)?.data.values() {
            // a value that is not valid base64 is searched for literally
            hidden.insert(&BASE64.decode(value).unwrap_or_else(|_| value.clone().into_bytes()));
        }
        let object: SecretObject = parse(object)?;
        let Metadata { resource_version, mut annotations, .. } = object.metadata.clone();
        annotations.remove(LAST_APPLIED);
        for (name, value) in &mut annotations {
            if !SHOWN_ANNOTATIONS.contains(&name.as_str()) || !hidden.may_show(value) {
                *value = masked(value);
            }
        }
        Ok(Self { secret: SecretRow::project(object), resource_version, annotations })
    }

    /// Masks the annotations among these fields.
    pub(super) fn mask(&mut self, fields: &MaskedFields) {
        let is_masked = |name: &str| fields.contains(&["metadata", "annotations", name]);
        for (_, value) in self.annotations.iter_mut().filter(|(name, _)| is_masked(name)) {
            MASK.clone_into(value);
        }
    }
}

impl ListRow for SecretRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
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
    fn row_contains_sizes_and_no_values() {
        let json = r#"{"metadata": {"name": "s", "resourceVersion": "7"},
            "data": {"b": "Y2FuYXJ5", "a": ""}, "type": "kubernetes.io/tls"}"#;
        let object: SecretObject = serde_json::from_str(json).unwrap();
        let row = SecretRow::project(object);
        let keys: Vec<_> = row.keys.iter().map(|key| (key.name.as_str(), key.bytes)).collect();
        assert_eq!(keys, [("a", 0), ("b", 6)]);
        assert!(!serde_json::to_string(&row).unwrap().contains("Y2Fu"));
    }

    #[test]
    fn annotations_do_not_reveal_values() {
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

    #[test]
    fn shown_annotations_can_be_masked() {
        let annotations =
            serde_json::json!({"meta.helm.sh/release-name": "web", "helm.sh/resource-policy": "keep"});
        let object = serde_json::json!({"metadata": {"name": "s", "annotations": annotations}});
        let object = serde_json::value::to_raw_value(&object).unwrap();
        let mut detail = SecretDetail::project(&object).unwrap();
        detail.mask(&"/data/*, /metadata/annotations/meta.helm.sh~1release-name".parse().unwrap());
        let annotations: Vec<_> = detail.annotations.values().map(String::as_str).collect();
        assert_eq!(annotations, ["keep", "***"]);
    }
}
