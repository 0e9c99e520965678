//! Documentation of query parameters that several routes share.

use pilothouse_core::rows::MAX_FILTER_VALUES;
use serde_json::{Value, json};

/// A query parameter.
pub(super) fn parameter(name: &str, required: bool, description: &str, schema: Value) -> Value {
    json!({"name": name, "in": "query", "required": required, "description": description, "schema": schema})
}

/// A filter: a query parameter with one or several values of this schema, separated by commas.
pub(super) fn filter(name: &str, description: &str, schema: Value) -> Value {
    let values = json!({"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_FILTER_VALUES});
    let mut parameter = parameter(name, false, description, values);
    parameter["style"] = "form".into();
    parameter["explode"] = false.into();
    parameter
}

/// A parameter with an example.
pub(super) fn with_example(mut parameter: Value, example: &str) -> Value {
    parameter["example"] = example.into();
    parameter
}

/// The parameter for a label selector.
pub(super) fn label() -> Value {
    let schema = json!({"type": "string", "minLength": 1, "maxLength": 1024});
    let description = "A Kubernetes label selector: `app=web,tier in (a,b),!legacy`";
    with_example(parameter("label", false, description, schema), "app=web")
}

/// The parameter for a namespace or all namespaces.
pub(super) fn namespace(description: &str) -> Value {
    let names = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
    let schema = json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": names});
    with_example(parameter("namespace", false, description, schema), "*")
}
