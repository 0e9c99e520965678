//! Request bodies of the maximum size.

use serde_json::{Map, Value, json};

/// Maximum size of a request body, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Variants of a valid body at the maximum size, each with its name: padded, and with a large value in every map or
/// string field.
pub(crate) fn variants(document: &Value, path: &str, good: &str) -> Vec<(String, String)> {
    let body: Map<String, Value> =
        if good.is_empty() { Map::new() } else { serde_json::from_str(good).unwrap() };
    let mut all = vec![("padded".to_owned(), padded(good))];
    for (field, schema) in fields(document, path) {
        let values: Vec<(&str, Value)> = match kind(document, schema) {
            "object" => vec![
                ("most keys", map(10_000, 40)),
                ("longest keys", map(1_000, 253)),
                (
                    "longest values",
                    Value::Object(
                        (0..9).map(|n| (format!("k{n}"), json!("v".repeat(MAX_BODY_BYTES / 10)))).collect(),
                    ),
                ),
            ],
            "string" => vec![("longest text", json!("x".repeat(MAX_BODY_BYTES - 2_000)))],
            _ => vec![],
        };
        for (label, value) in values {
            let mut body = body.clone();
            body.insert(field.clone(), value);
            all.push((format!("{label} in {field}"), padded(&Value::Object(body).to_string())));
        }
    }
    if body.get("auth_type").is_some_and(|kind| kind == "kubeconfig") {
        for (label, text) in kubeconfigs() {
            let mut body = body.clone();
            body.insert("kubeconfig".to_owned(), json!(text));
            all.push((label.to_owned(), padded(&Value::Object(body).to_string())));
        }
    }
    all
}

/// Kubeconfigs of a small size that are expensive to parse.
fn kubeconfigs() -> [(&'static str, String); 3] {
    let mut merged = "m0: &m0 {k: v}\n".to_owned();
    for level in 1..6 {
        let aliases = vec![format!("*m{}", level - 1); 40].join(", ");
        merged.push_str(&format!("m{level}: &m{level}\n  <<: [{aliases}]\n"));
    }
    let mut aliased = "a0: &a0 [x, x]\n".to_owned();
    for level in 1..8 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        aliased.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let nodes = format!("[{}]", vec!["x"; 120_000].join(","));
    [("merge keys", merged), ("aliases", aliased), ("many nodes", nodes)]
}

fn map(keys: usize, length: usize) -> Value {
    Value::Object((0..keys).map(|n| (format!("{n:0length$}"), json!("v"))).collect())
}

/// A body padded with spaces by half of the remaining size.
fn padded(body: &str) -> String {
    let spaces = MAX_BODY_BYTES.saturating_sub(body.len()) / 2;
    format!("{body}{}", " ".repeat(spaces))
}

/// Adds an unknown field at the end of a body.
#[allow(dead_code, reason = "used by tests/viewer only")]
pub(crate) fn with_unknown_field(body: &str) -> String {
    let body = body.trim_end();
    let Some(object) = body.strip_suffix('}') else { return r#"{"nope":1}"#.to_owned() };
    let comma = if object.trim_end().ends_with('{') { "" } else { "," };
    padded(&format!("{object}{comma}\"nope\":1}}"))
}

/// The fields of a route's body, with their schemas.
fn fields<'a>(document: &'a Value, path: &str) -> Vec<(String, &'a Value)> {
    let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    let properties = resolve(document, schema)["properties"].as_object();
    properties.into_iter().flatten().map(|(name, schema)| (name.clone(), schema)).collect()
}

fn kind<'a>(document: &'a Value, schema: &'a Value) -> &'a str {
    match &resolve(document, schema)["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
        }
        _ => "",
    }
}

/// The schema behind a reference; of a nullable schema the one that is not null.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return resolve(document, document.pointer(&reference[1..]).unwrap());
    }
    let all = schema["oneOf"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] != "null").map_or(schema, |one| resolve(document, one))
}
