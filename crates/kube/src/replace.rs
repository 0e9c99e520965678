//! Merge patch that replaces the data of a ConfigMap or Secret. The patch names all changed and all removed keys.

use std::collections::BTreeMap;

use pilothouse_core::{
    Error, Result,
    error::Reason,
    object::{Labels, Metadata},
};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};

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
pub(crate) struct Current {
    pub(crate) metadata: Metadata,
    data: Option<BTreeMap<String, IgnoredAny>>,
}

impl Replacement<'_> {
    /// The merge patch from the current to the new contents, valid only for the resource version that was read.
    ///
    /// # Errors
    /// `InvalidInput` for a key without a value that the object does not have.
    pub(crate) fn merge_patch(self, current: Current) -> Result<Value> {
        let Current { metadata, data: old } = current;
        let mut patch = json!({"metadata": {"resourceVersion": metadata.resource_version}});
        if let Some(data) = self.data {
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
        if let Some(labels) = self.labels {
            let mut values: Map<_, _> = metadata.labels.keys().map(|key| removal(key)).collect();
            values.extend(labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
            patch["metadata"]["labels"] = values.into();
        }
        Ok(patch)
    }
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
            both.merge_patch(current()),
            Ok(json!({"metadata": {"resourceVersion": "7", "labels": {"a": null, "b": "3"}},
                "data": {"changed": "eQ==", "new": "", "removed": null}}))
        );
        let neither = Replacement { data: None, labels: None, version: None };
        assert_eq!(neither.merge_patch(current()), Ok(json!({"metadata": {"resourceVersion": "7"}})));
    }

    #[test]
    fn missing_key_without_value_is_required() {
        let data = Some(BTreeMap::from([("absent", None)]));
        let refused = Replacement { data, labels: None, version: None }.merge_patch(current());
        assert_eq!(refused, Err(Error::invalid("data.absent", Reason::Required)));
    }
}
