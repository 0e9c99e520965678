//! Replaces the data of a ConfigMap or Secret: reads the existing keys, then sends one merge patch that names all
//! changed and removed ones.

use std::collections::BTreeMap;

use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    error::Reason,
    name::ObjectName,
    object::{Labels, Metadata, parse},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{KubeClusters, error, request::Call};

/// New contents of an object; fields that are none stay unchanged.
pub(crate) struct Replacement<'a> {
    /// All data; a key without a value keeps its current one.
    pub(crate) data: Option<BTreeMap<&'a str, Option<Value>>>,
    /// All labels.
    pub(crate) labels: Option<&'a Labels>,
    /// The expected resource version; a different one is a conflict.
    pub(crate) version: Option<&'a str>,
}

/// The object before the write: only the keys of its data.
#[derive(Deserialize)]
struct Current {
    metadata: Metadata,
    data: Option<BTreeMap<String, IgnoredAny>>,
}

impl KubeClusters {
    /// Replaces the contents of the permit's object of this name, unless it changes between the read and the write.
    ///
    /// # Errors
    /// `ConflictInCluster`; `InvalidInput` for a key without a value that does not exist; otherwise as every call to a
    /// cluster.
    pub(crate) async fn replace(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replacement: Replacement<'_>,
    ) -> Result<Box<RawValue>> {
        let client = self.client(permit, self.deadlines().write).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let get = Call::get(kind, Some(namespace), name)?;
        let current = client.with_timeout(self.deadlines().read).get_object(&get, parse::<Current>).await?;
        if replacement.version.is_some_and(|version| version != current.metadata.resource_version) {
            return Err(error::about(Cause::ConflictInCluster, &get));
        }
        let patch = Call::patch(kind, Some(namespace), name, &patch(current, replacement)?)?;
        client.change(&patch).await?.object(&patch)
    }
}

/// The merge patch from the current to the new contents, valid only for the resource version that was read.
fn patch(current: Current, replacement: Replacement<'_>) -> Result<Value> {
    let Current { metadata, data: old } = current;
    let mut patch = json!({"metadata": {"resourceVersion": metadata.resource_version}});
    if let Some(data) = replacement.data {
        let old = old.unwrap_or_default();
        let mut values: Map<_, _> =
            old.keys().filter(|key| !data.contains_key(key.as_str())).map(|key| removal(key)).collect();
        for (key, value) in data {
            match value {
                Some(value) => drop(values.insert(key.to_owned(), value)),
                None if old.contains_key(key) => {}
                None => return Err(Error::invalid(format!("data.{key}"), Reason::Required)),
            }
        }
        patch["data"] = values.into();
    }
    if let Some(labels) = replacement.labels {
        let mut values: Map<_, _> = metadata.labels.keys().map(|key| removal(key)).collect();
        values.extend(labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        patch["metadata"]["labels"] = values.into();
    }
    Ok(patch)
}

/// The merge patch entry that removes a key.
fn removal(key: &str) -> (String, Value) {
    (key.to_owned(), Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current() -> Current {
        let object = json!({"metadata": {"resourceVersion": "7", "labels": {"a": "1", "b": "2"}},
            "data": {"kept": "eA==", "changed": "eA==", "removed": "eA=="}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn patch_names_changed_and_removed_keys_only() {
        let data =
            BTreeMap::from([("kept", None), ("changed", Some(json!("eQ=="))), ("new", Some(json!("")))]);
        let labels = Labels::from([("b".to_owned(), "3".to_owned())]);
        let both = Replacement { data: Some(data), labels: Some(&labels), version: Some("7") };
        assert_eq!(
            patch(current(), both),
            Ok(json!({"metadata": {"resourceVersion": "7", "labels": {"a": null, "b": "3"}},
                "data": {"changed": "eQ==", "new": "", "removed": null}}))
        );
        let neither = Replacement { data: None, labels: None, version: None };
        assert_eq!(patch(current(), neither), Ok(json!({"metadata": {"resourceVersion": "7"}})));
    }

    #[test]
    fn missing_key_without_value_is_required() {
        let data = Some(BTreeMap::from([("absent", None)]));
        let refused = patch(current(), Replacement { data, labels: None, version: None });
        assert_eq!(refused, Err(Error::invalid("data.absent", Reason::Required)));
    }
}
