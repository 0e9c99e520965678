//! Lenient deserialisation of Kubernetes object metadata. Only the fields that Pilothouse uses are read; a missing or
//! null field takes its default.
//!
//! Decoding whole objects costs several times the memory and time (docs/decisions/0002-projection-in-core.md), and one
//! malformed field from a third-party controller must not hide a row.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::{Cause, Error, FieldError, Reason, Result},
    name::{is_label_key, is_label_value},
};

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Fields of `metadata` that Pilothouse reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ObjectMeta")]
pub struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub namespace: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub resource_version: String,
    pub generation: Option<i64>,
    #[serde(deserialize_with = "lenient_time")]
    pub creation_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    pub deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub annotations: Labels,
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes OwnerReference")]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub controller: bool,
}

impl Metadata {
    /// The owner reference with `controller: true`.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }
}

/// Deserialises the fields of an object that a projection uses, from the API server's JSON.
///
/// # Errors
/// `UnexpectedAnswer` if the JSON does not have that shape.
pub fn parse<T: DeserializeOwned>(json: &RawValue) -> Result<T> {
    serde_json::from_str(json.get()).map_err(|_| Error::new(Cause::UnexpectedAnswer))
}

/// Deserialises null as the default, as Go does: the API server writes `null` for some empty lists and maps.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Deserialises a time; `None` if the text is not a valid time.
pub(crate) fn lenient_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Checks labels as the API server does: keys `[prefix/]name`; values empty or at most 63 characters of the same set.
///
/// # Errors
/// `InvalidInput`, naming each label as `labels.<key>`.
pub fn check_labels(labels: &Labels) -> Result<()> {
    let refused: Vec<_> = labels
        .iter()
        .filter(|(name, value)| !is_label_key(name) || !is_label_value(value))
        .map(|(name, _)| FieldError { name: format!("labels.{name}"), reason: Reason::InvalidName })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(Error::fields(refused)) }
}

/// Checks an opaque value that only the API server interprets, such as a version: 1 to 253 visible ASCII characters.
///
/// # Errors
/// `InvalidInput` naming `field`.
pub(crate) fn check_opaque(field: &str, text: &str) -> Result<()> {
    match text.len() {
        0 => Err(Error::invalid(field, Reason::Required)),
        1..=253 if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(()),
        1..=253 => Err(Error::invalid(field, Reason::Malformed)),
        _ => Err(Error::invalid(field, Reason::TooLong)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked_as_by_the_api_server() {
        let check = |key: &str, value: &str| {
            check_labels(&Labels::from([(key.to_owned(), value.to_owned())])).is_ok()
        };
        assert!(check("app", "web") && check("app.kubernetes.io/name", "Web_1.0") && check("a", ""));
        for (key, value) in
            [("", "x"), ("a/b/c", "x"), ("/a", "x"), ("a/", "x"), ("a b", "x"), ("a", "-x"), ("a", "x y")]
        {
            assert!(!check(key, value), "{key:?}={value:?}");
        }
    }

    #[test]
    fn null_and_malformed_fields_deserialise_as_defaults() {
        let json = r#"{"name":null,"labels":null,"creationTimestamp":"yesterday","ownerReferences":null,"extra":{"a":[1]}}"#;
        let metadata: Metadata = serde_json::from_str(json).unwrap();
        assert_eq!(metadata, Metadata::default());
    }
}
