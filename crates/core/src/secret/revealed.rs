//! Revealed values of a Secret. No other module serialises values of Secrets.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::row::opaque;
use crate::{
    error::{Cause, Error, Result},
    object::{Metadata, or_default, parse},
};

/// The values of a Secret, returned only by a reveal. Its `Debug` output contains keys but no values.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevealedSecret {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its type.
    pub r#type: String,
    /// Values that are valid UTF-8, by key, as text.
    #[serde(serialize_with = "exposed")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub data: BTreeMap<String, SecretString>,
    /// All other values by key, as base64.
    #[serde(serialize_with = "exposed")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub binary_data: BTreeMap<String, SecretString>,
}

impl fmt::Debug for RevealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.data.keys().chain(self.binary_data.keys());
        f.debug_struct("RevealedSecret")
            .field("name", &self.name)
            .field("keys", &keys.collect::<Vec<_>>())
            .finish()
    }
}

/// Serialises the values of a Secret. No other code does so.
fn exposed<S: Serializer>(values: &BTreeMap<String, SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(key, value)| (key, value.expose_secret())))
}

/// Fields of a Secret that Pilothouse reads for a reveal.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WithValues {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    r#type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, SecretString>,
}

impl RevealedSecret {
    /// Projects a Secret from the API server's JSON.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a Secret, or a value is not valid base64.
    pub fn project(object: &RawValue) -> Result<Self> {
        let WithValues { metadata, r#type, data: values } = parse(object)?;
        let (mut data, mut binary_data) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in values {
            let bytes = BASE64.decode(value.expose_secret());
            match String::from_utf8(bytes.map_err(|_| Error::new(Cause::UnexpectedAnswer))?) {
                Ok(text) => data.insert(key, text.into()),
                Err(_) => binary_data.insert(key, value),
            };
        }
        Ok(Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            r#type: r#type.unwrap_or_else(opaque),
            data,
            binary_data,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    #[test]
    fn reveal_returns_text_or_base64_and_debug_omits_values() {
        let object = json!({"metadata": {"name": "s", "namespace": "n"}, "type": null,
            "data": {"text": "Y2FuYXJ5IMOk", "bytes": "/wA=", "empty": ""}});
        let revealed = RevealedSecret::project(&to_raw_value(&object).unwrap()).unwrap();
        assert_eq!(
            serde_json::to_value(&revealed).unwrap(),
            json!({"name": "s", "namespace": "n", "type": "Opaque",
                "data": {"empty": "", "text": "canary ä"}, "binary_data": {"bytes": "/wA="}})
        );
        let debug = format!("{revealed:?}");
        assert!(debug.contains("text") && !debug.contains("canary") && !debug.contains("/wA="), "{debug}");
    }

    #[test]
    fn invalid_base64_is_an_error_without_the_value() {
        for data in [json!({"k": "canary!"}), json!({"k": 7}), json!("canary")] {
            let object = to_raw_value(&json!({"metadata": {"name": "s"}, "data": data})).unwrap();
            let error = RevealedSecret::project(&object).unwrap_err();
            assert_eq!(error.cause, Cause::UnexpectedAnswer);
            assert!(!format!("{error} {error:?}").contains("canary"));
        }
    }
}
