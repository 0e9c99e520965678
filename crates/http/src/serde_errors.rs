//! What serde says of a malformed body or query, as the field it is about and a [`Reason`].
//!
//! serde hands over text only. Its wording is part of what this module stands on, so the tests pin it. No part of that
//! text reaches a caller: it may quote what was sent.

use std::fmt::Display;

use pilothouse_core::{
    Error,
    error::{FieldError, Reason},
};
use serde_path_to_error::Path;

/// The name of the body as a whole among the fields refused.
pub(crate) const BODY: &str = "body";

/// The refusal of a value that does not fit its type: where, and why.
pub(crate) fn data(path: &Path, error: &impl Display) -> FieldError {
    let text = error.to_string();
    let path = path.to_string();
    let quoted = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    for (prefix, reason) in [
        ("missing field `", Reason::Required),
        ("unknown field `", Reason::Unknown),
        ("duplicate field `", Reason::Duplicate),
    ] {
        if let Some(field) = quoted(prefix) {
            return FieldError { name: join(&path, field), reason };
        }
    }
    let name = if path == "." { BODY.to_owned() } else { path };
    FieldError { name, reason: reason(&text) }
}

/// The refusal of a body that is no JSON at all.
pub(crate) fn no_json() -> Error {
    Error::invalid(BODY, Reason::Malformed)
}

/// The refusal of a body that is not there in time.
pub(crate) fn too_slow() -> Error {
    Error::invalid(BODY, Reason::TooSlow)
}

/// The path of a field; serde's path may end in it already.
fn join(path: &str, field: &str) -> String {
    match path {
        "." => field.to_owned(),
        path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        path => format!("{path}.{field}"),
    }
}

fn reason(text: &str) -> Reason {
    // serde_json adds where in the text it was
    let rule = text.split(" at line ").next().unwrap_or(text);
    let ours = Reason::ALL.into_iter().find(|reason| reason.as_str() == rule);
    ours.unwrap_or_else(|| {
        let said = |prefix| text.starts_with(prefix);
        if said("invalid type: ") || said("expected value") {
            Reason::InvalidType
        } else if said("invalid value: ") || said("invalid length ") || said("number out of range") {
            Reason::OutOfRange
        } else if said("unknown variant ") {
            Reason::NotOneOf
        } else {
            Reason::Malformed
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pilothouse_core::{name::Namespace, session::SessionId, workload::WorkloadType};
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its refusals are looked at")]
    struct Sample {
        id: SessionId,
        namespace: Option<Namespace>,
        r#type: Option<WorkloadType>,
        small: Option<u8>,
        at: Option<jiff::Timestamp>,
        inner: Option<Inner>,
        labels: Option<BTreeMap<String, String>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its refusals are looked at")]
    struct Inner {
        key: String,
    }

    fn refused(json: &str) -> (String, &'static str) {
        let mut json = serde_json::Deserializer::from_str(json);
        let Err(error) = serde_path_to_error::deserialize::<_, Sample>(&mut json) else { panic!("accepted") };
        let FieldError { name, reason } = data(error.path(), error.inner());
        (name, reason.as_str())
    }

    #[test]
    fn serde_is_understood() {
        let cases = [
            ("{}", "id", "required"),
            (r#"{"id":1,"nope":2}"#, "nope", "unknown"),
            (r#"{"id":1,"id":2}"#, "id", "duplicate"),
            (r#"{"id":"1"}"#, "id", "invalid_type"),
            (r#"{"id":null}"#, "id", "invalid_type"),
            (r#"{"id":1,"type":1}"#, "type", "invalid_type"),
            (r#"{"id":1.5}"#, "id", "invalid_type"),
            (r#"{"id":1e400}"#, "id", "out_of_range"),
            (r#"{"id":1,"small":256}"#, "small", "out_of_range"),
            (r#"{"id":1,"small":-1}"#, "small", "out_of_range"),
            (r#"{"id":1,"namespace":"A"}"#, "namespace", "invalid_name"),
            (r#"{"id":1,"namespace":""}"#, "namespace", "required"),
            (r#"{"id":1,"namespace":7}"#, "namespace", "invalid_type"),
            (r#"{"id":1,"type":"pod"}"#, "type", "not_one_of"),
            (r#"{"id":1,"at":"today"}"#, "at", "malformed"),
            (r#"{"id":1,"labels":{"a":1}}"#, "labels.a", "invalid_type"),
            (r#"{"id":1,"inner":{}}"#, "inner.key", "required"),
            (r#"{"id":1,"inner":{"key":"","other":1}}"#, "inner.other", "unknown"),
            ("7", "body", "invalid_type"),
        ];
        for (json, name, reason) in cases {
            assert_eq!(refused(json), (name.to_owned(), reason), "{json}");
        }
    }

    #[test]
    fn every_rule_of_ours_is_read_back() {
        for rule in Reason::ALL {
            assert_eq!(reason(&format!("{rule} at line 1 column 2")), rule);
            assert_eq!(reason(rule.as_str()), rule);
        }
    }
}
