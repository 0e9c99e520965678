//! Fields of objects that show what belongs to them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::Result,
    kind::Kind,
    object::{Metadata, or_default, parse},
};

/// An object whose dependents are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependee {
    /// Its uid.
    pub uid: String,
    /// Beginnings of the names of the claims of a StatefulSet that retains its claims; an ordinal follows.
    pub retained_claims: Vec<String>,
}

/// An object and its owners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedObject {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// The uids of its owners, each once.
    pub owners: Vec<String>,
    /// Of a StatefulSet, as [`Dependee::retained_claims`].
    pub retained_claims: Vec<String>,
}

#[derive(Deserialize)]
struct WithClaims {
    metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    #[serde(deserialize_with = "or_default")]
    volume_claim_templates: Vec<Template>,
    #[serde(deserialize_with = "or_default")]
    persistent_volume_claim_retention_policy: RetentionPolicy,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RetentionPolicy {
    when_deleted: Option<String>,
}

#[derive(Deserialize)]
struct MetadataOnly {
    metadata: Metadata,
}

impl Dependee {
    /// Projects an object of `kind` from the API server's JSON. Of a StatefulSet the spec is needed, of other kinds the
    /// metadata suffice.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the JSON is not an object of a cluster.
    pub fn project(kind: Kind, object: &RawValue) -> Result<Self> {
        let WithClaims { metadata, spec } = parse(object)?;
        let deletes_claims =
            spec.persistent_volume_claim_retention_policy.when_deleted.as_deref() == Some("Delete");
        let templates = spec.volume_claim_templates.into_iter();
        let templates = templates.filter(|_| kind == Kind::StatefulSet && !deletes_claims);
        let claims = templates.map(|template| format!("{}-{}-", template.metadata.name, metadata.name));
        Ok(Self { retained_claims: claims.collect(), uid: metadata.uid })
    }
}

/// Whether the name of a claim is one of these beginnings and an ordinal.
pub(super) fn is_retained(beginnings: &[String], name: &str) -> bool {
    beginnings.iter().any(|beginning| {
        let ordinal = name.strip_prefix(beginning.as_str());
        ordinal.is_some_and(|ordinal| !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit()))
    })
}

impl OwnedObject {
    /// Projects a StatefulSet from the API server's JSON, with the claims that it retains.
    ///
    /// # Errors
    /// As [`OwnedObject::project`].
    pub fn project_stateful_set(object: &RawValue) -> Result<Self> {
        let Dependee { retained_claims, .. } = Dependee::project(Kind::StatefulSet, object)?;
        Ok(Self { retained_claims, ..Self::project(object)? })
    }

    /// Projects an object from the API server's JSON, of which the metadata suffice.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the JSON is not an object of a cluster.
    pub fn project(object: &RawValue) -> Result<Self> {
        let MetadataOnly { metadata } = parse(object)?;
        let mut owners: Vec<_> = metadata.owner_references.into_iter().map(|owner| owner.uid).collect();
        owners.sort_unstable();
        owners.dedup();
        Ok(Self { uid: metadata.uid, name: metadata.name, owners, retained_claims: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn dependee(kind: Kind, object: &Value) -> Dependee {
        Dependee::project(kind, &serde_json::value::to_raw_value(object).unwrap()).unwrap()
    }

    #[test]
    fn claims_of_a_stateful_set_stay_unless_its_policy_deletes_them() {
        let set = |policy: Value| {
            json!({"metadata": {"name": "db", "uid": "s1"}, "spec": {
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                "persistentVolumeClaimRetentionPolicy": policy}})
        };
        for policy in [json!(null), json!({"whenDeleted": "Retain"}), json!({"whenScaled": "Delete"})] {
            let db = dependee(Kind::StatefulSet, &set(policy));
            let retains = |name: &str| is_retained(&db.retained_claims, name);
            assert!(retains("data-db-0") && retains("data-db-10"));
            for other in ["data-db-", "data-db-x", "data-db-0-copy", "logs-db-0", "data-dbs-0"] {
                assert!(!retains(other), "{other}");
            }
        }
        let deletes = dependee(Kind::StatefulSet, &set(json!({"whenDeleted": "Delete"})));
        assert!(!is_retained(&deletes.retained_claims, "data-db-0"), "it is their owner");
        let other = dependee(Kind::Deployment, &set(json!(null)));
        assert_eq!(other, Dependee { uid: "s1".to_owned(), retained_claims: Vec::new() });
    }

    #[test]
    fn owner_that_is_named_twice_counts_once() {
        let owners = json!([{"uid": "b"}, {"uid": "a"}, {"uid": "b"}]);
        let object = json!({"metadata": {"name": "x", "uid": "u", "ownerReferences": owners}});
        let object = OwnedObject::project(&serde_json::value::to_raw_value(&object).unwrap()).unwrap();
        assert_eq!(object.owners, ["a", "b"]);
    }
}
