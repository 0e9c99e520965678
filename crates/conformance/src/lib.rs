//! Validation of responses against the OpenAPI document (`docs/openapi.json`), for tests. The tests of the HTTP crate and
//! the black-box tests validate every response, and so the document as well. Not part of a release.
//!
//! The validation is stricter than clients should be: a field that the document does not name is an error here, whereas
//! a client must ignore it, because later versions may add fields.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

/// A request and its response.
pub struct Exchange<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path; it may contain a query.
    pub path: &'a str,
    /// The HTTP status code.
    pub status: u16,
    /// Returns the value of a response header.
    pub header: &'a dyn Fn(&str) -> Option<String>,
    /// The response body.
    pub body: &'a str,
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON");
    close(&mut document);
    document
});

/// Validates a response.
///
/// # Errors
/// The difference from the document.
pub fn check(exchange: &Exchange<'_>) -> Result<(), String> {
    let path = exchange.path.split('?').next().unwrap_or_default();
    // the pages are not part of the document
    if path == "/api/docs"
        || path.starts_with("/api/docs/")
        || path.starts_with("/api/auth/oidc/") && path.contains("/callback")
    {
        return Ok(());
    }
    let path = template(path);
    let (method, status) = (exchange.method.to_lowercase(), exchange.status.to_string());
    let response = match (&DOCUMENT["paths"][path], &DOCUMENT["paths"][path][&method]) {
        (Value::Null, _) => resolve(&DOCUMENT["components"]["responses"]["RESOURCE_NOT_FOUND"]),
        (_, Value::Null) => resolve(&DOCUMENT["components"]["responses"]["METHOD_NOT_ALLOWED"]),
        (_, operation) => resolve(&operation["responses"][&status]),
    };
    if response.is_null() {
        return Err(format!("status {status} is not declared"));
    }
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let value = (exchange.header)(name);
        // 503 has one response for two codes; CONNECTION_ERROR has the header only while the circuit is open
        let optional = match name.as_str() {
            "Idempotency-Replayed" | "Content-Encoding" => true,
            "Retry-After" => exchange.body.contains("CONNECTION_ERROR"),
            _ => false,
        };
        if value.is_none() && !optional {
            return Err(format!("the header {name} is missing"));
        }
        let schema = &resolve(header)["schema"];
        if let Some(text) = value.filter(|_| schema["type"] == "integer") {
            validate(schema, &text.parse().unwrap_or_default())?;
        }
    }
    let media_type = (exchange.header)("content-type").unwrap_or_default();
    if [302, 304].contains(&exchange.status) && media_type.is_empty() && exchange.body.is_empty() {
        return Ok(());
    }
    let media_type = media_type.split(';').next().unwrap_or_default();
    let content = &response["content"][media_type];
    if content.is_null() {
        return Err(format!("the media type {media_type:?} is not declared"));
    }
    if media_type != "application/json" {
        return Ok(());
    }
    let body: Value = serde_json::from_str(exchange.body).map_err(|error| error.to_string())?;
    let codes = response["x-error-codes"].as_array();
    if codes.is_some_and(|codes| !codes.contains(&body["error_code"])) {
        return Err(format!("the code {} is not declared", body["error_code"]));
    }
    validate(&content["schema"], &body)
}

/// The path of the document that a path matches: itself, or one with parameters in its place.
fn template(path: &str) -> &str {
    let matches = |template: &&String| {
        let mut parts = template.split('/').zip(path.split('/'));
        template.split('/').count() == path.split('/').count()
            && parts.all(|(pattern, part)| pattern == part || (pattern.starts_with('{') && !part.is_empty()))
    };
    let paths = || DOCUMENT["paths"].as_object().into_iter().flat_map(|paths| paths.keys());
    if paths().any(|known| known == path) { path } else { paths().find(matches).map_or(path, String::as_str) }
}

/// Validates a value against a schema of the document.
///
/// # Errors
/// Each location that differs, and the difference.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    static VALIDATORS: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let key = schema.to_string();
    let cached = VALIDATORS.lock().expect("lock is not poisoned").get(&key).cloned();
    let validator = cached.unwrap_or_else(|| {
        let mut closed = schema.clone();
        close(&mut closed);
        let schema_with_components =
            json!({"allOf": [closed], "components": {"schemas": DOCUMENT["components"]["schemas"]}});
        let options = jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true);
        let compiled = Arc::new(options.build(&schema_with_components).expect("a schema of the document"));
        VALIDATORS.lock().expect("lock is not poisoned").entry(key).or_insert(compiled).clone()
    });
    let errors: Vec<_> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// The target of a reference; any other part is returned as it is.
fn resolve(part: &'static Value) -> &'static Value {
    let target = part["$ref"].as_str().and_then(|reference| DOCUMENT.pointer(&reference[1..]));
    target.unwrap_or(part)
}

/// Forbids additional properties in all object schemas.
fn close(part: &mut Value) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(close),
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object)
                && fields.get("type").is_some_and(|name| name == "object")
            {
                fields.entry("additionalProperties").or_insert(false.into());
            }
        }
        _ => {}
    }
}
