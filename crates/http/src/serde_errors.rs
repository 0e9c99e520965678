//! Maps serde errors of a body or query to the refused field and a [`Reason`].
//!
//! serde reports errors as text only, so this module depends on the wording of serde, which the tests check. No part of
//! that text is returned to the caller, because it may quote the input.

use std::fmt::Display;

use pilothouse_core::{
    Error,
    error::{FieldError, Reason},
};
use serde_path_to_error::Path;

/// The field name that stands for the whole body in an error.
pub(crate) const BODY: &str = "body";

/// The field and the reason of a deserialisation error.
pub(crate) fn field_error(path: &Path, error: &impl Display) -> FieldError {
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

/// The error for a body that is not valid JSON.
pub(crate) fn malformed_body() -> Error {
    Error::invalid(BODY, Reason::Malformed)
}

/// The error for a body that does not arrive in time.
pub(crate) fn body_timeout() -> Error {
    Error::invalid(BODY, Reason::TooSlow)
}

/// Joins a path and a field. The path from serde may already end in the field.
fn join(path: &str, field: &str) -> String {
    match path {
        "." => field.to_owned(),
        path if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        path => format!("{path}.{field}"),
    }
}

fn reason(text: &str) -> Reason {
    // serde_json appends the position in the text
    let rule = text.split(" at line ").next().unwrap_or(text);
    let known = Reason::ALL.into_iter().find(|reason| reason.as_str() == rule);
    known.unwrap_or_else(|| {
        let starts_with = |prefix| text.starts_with(prefix);
        if starts_with("invalid type: ") || starts_with("expected value") {
            Reason::InvalidType
        } else if starts_with("invalid value: ")
            || starts_with("invalid length ")
            || starts_with("number out of range")
        {
            Reason::OutOfRange
        } else if starts_with("unknown variant ") {
            Reason::NotOneOf
        } else {
            Reason::Malformed
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pilothouse_core::{ids::SessionId, name::Namespace, workload::WorkloadType};
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only its errors are tested")]
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
    #[allow(dead_code, reason = "only its errors are tested")]
    struct Inner {
        key: String,
    }

    fn refused(json: &str) -> (String, &'static str) {
        let mut json = serde_json::Deserializer::from_str(json);
        let Err(error) = serde_path_to_error::deserialize::<_, Sample>(&mut json) else { panic!("accepted") };
        let FieldError { name, reason } = field_error(error.path(), error.inner());
        (name, reason.as_str())
    }

    #[test]
    fn serde_messages_map_to_reasons() {
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
    fn every_reason_round_trips_through_serde_text() {
        for expected in Reason::ALL {
            assert_eq!(reason(&format!("{expected} at line 1 column 2")), expected);
            assert_eq!(reason(expected.as_str()), expected);
        }
    }
}
