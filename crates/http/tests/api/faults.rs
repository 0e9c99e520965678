//! Faults of a field or parameter, and the table of faults that some fields accept, each with its reason.

use serde_json::Value;

/// A fault: its name and the value to send.
pub(crate) type Fault = (&'static str, String);

/// The faults of a query parameter, percent-encoded.
pub(crate) fn of_parameter(schema: &Value) -> Vec<Fault> {
    // a parameter with several values is tested with one
    let schema = if kind(schema) == "array" { &schema["items"] } else { schema };
    let mut faults: Vec<Fault> = vec![
        ("empty", String::new()),
        ("slash", "a%2Fb".to_owned()),
        ("raw slash", "../../x".to_owned()),
        ("dots", "..".to_owned()),
        ("nul", "a%00b".to_owned()),
        ("newline", "a%0Ab".to_owned()),
        ("emoji", "%F0%9F%98%80".to_owned()),
        ("right to left", "a%E2%80%AEb".to_owned()),
        ("no escape", "%".to_owned()),
        ("half an escape", "%4".to_owned()),
        ("no digits", "%zz".to_owned()),
        ("no UTF-8", "%ff".to_owned()),
        ("surrogate", "%ED%A0%80".to_owned()),
        ("too long", "x".repeat(5000)),
    ];
    if kind(schema) != "string" || schema.get("enum").is_some() || schema["format"] == "date-time" {
        let wrong = [
            ("text", "x"),
            ("negative", "-1"),
            ("overflow", "9223372036854775808"),
            ("beyond 64 bits", "18446744073709551616"),
            ("1e400", "1e400"),
            ("fraction", "1.5"),
            ("plus", "%2B1"),
            ("space", "+1"),
            ("hex", "0x1"),
            ("null", "null"),
        ];
        faults.extend(wrong.map(|(name, value)| (name, value.to_owned())));
    }
    if kind(schema) == "integer" {
        faults.push(("zero", "0".to_owned()));
    }
    faults
}

/// The faults of a body field, as JSON.
pub(crate) fn of_field(schema: &Value, longest: usize) -> Vec<Fault> {
    let deep = 10_000.min(longest / 6);
    let mut faults: Vec<Fault> = vec![
        ("array", "[]".to_owned()),
        ("fraction", "1.5".to_owned()),
        ("1e400", "1e400".to_owned()),
        ("beyond 64 bits", "-99999999999999999999".to_owned()),
        ("deep array", "[".repeat(deep) + &"]".repeat(deep)),
        ("deep object", r#"{"a":"#.repeat(deep) + "1" + &"}".repeat(deep)),
        ("half a surrogate", r#""\ud800""#.to_owned()),
        ("raw newline", "\"a\nb\"".to_owned()),
    ];
    let mut add = |pairs: &[(&'static str, &str)]| {
        faults.extend(pairs.iter().map(|(name, value)| (*name, (*value).to_owned())));
    };
    if !nullable(schema) {
        add(&[("null", "null")]);
    }
    if kind(schema) != "boolean" {
        add(&[("boolean", "true")]);
    }
    if kind(schema) != "object" {
        add(&[("object", "{}")]);
    }
    match kind(schema) {
        "integer" => add(&[("text", "\"1\""), ("negative", "-1"), ("overflow", "9223372036854775808")]),
        "boolean" => add(&[("text", "\"true\""), ("number", "1")]),
        "object" => {
            add(&[
                ("text", "\"x\""),
                ("number", "1"),
                ("number within", r#"{"a":1}"#),
                ("array within", r#"{"a":[]}"#),
                ("object within", r#"{"a":{}}"#),
                ("twice within", r#"{"a":"1","a":"2"}"#),
                ("empty key", r#"{"":"x"}"#),
                ("dots as key", r#"{"..":"x"}"#),
                ("slashes as key", r#"{"a/b/c":"x"}"#),
                ("nul in key", r#"{"a\u0000":"x"}"#),
                ("newline in key", r#"{"a\n":"x"}"#),
                ("emoji as key", r#"{"😀":"x"}"#),
                ("right to left in key", r#"{"a\u202eb":"x"}"#),
                ("nul in value", r#"{"a":"x\u0000"}"#),
                ("newline in value", r#"{"a":"x\ny"}"#),
                ("emoji as value", r#"{"a":"😀"}"#),
                ("right to left in value", r#"{"a":"x\u202ey"}"#),
                ("slash in value", r#"{"a":"x/y"}"#),
            ]);
            faults.push(("key too long", format!(r#"{{"{}":"x"}}"#, "k".repeat(400))));
        }
        _ => {
            add(&[
                ("number", "7"),
                ("empty", r#""""#),
                ("blank", r#"" \t""#),
                ("slash", r#""a/b""#),
                ("dots", r#""..""#),
                ("nul", r#""a\u0000b""#),
                ("newline", r#""a\nb""#),
                ("emoji", r#""😀""#),
                ("right to left", r#""a\u202eb""#),
                ("percent", r#""a%2fb""#),
            ]);
            faults.push(("too long", format!("\"{}\"", "x".repeat(longest))));
        }
    }
    faults
}

/// The JSON type of a schema; of a nullable schema the type that is not null.
pub(crate) fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(types) => {
            types.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("string")
        }
        kind => kind.as_str().unwrap_or("string"),
    }
}

/// Whether a schema accepts null.
fn nullable(schema: &Value) -> bool {
    let among = |list: &Value| {
        list.as_array().is_some_and(|types| types.iter().any(|one| one == "null" || one["type"] == "null"))
    };
    among(&schema["type"]) || among(&schema["oneOf"])
}

/// Accepted faults: the end of the path, fields, faults, and the reason.
#[rustfmt::skip]
const ALLOWED: &[(&str, &[&str], &[&str], &str)] = &[
    ("/login", &["username", "password", "code"], ANY_TEXT, "unknown credentials are a failed login: 401"),
    ("/confirm", &["code"], ANY_TEXT, "a text that is no code is refused like a wrong one: 401"),
    ("/verify", &["code"], ANY_TEXT, "a text that is no code is refused like a wrong one: 401"),
    ("/disable", &["code"], ANY_TEXT, "a text that is no code is refused like a wrong one: 401"),
    ("/tokens", &["name"], &["slash", "dots", "emoji", "percent"], "free text, one line"),
    ("/tokens/update", &["name"], &["slash", "dots", "emoji", "percent"], "free text, one line"),
    ("/tokens", &["networks"], &["array"], "no network: all networks"),
    ("/review", &["note"], &["percent"], "free text, several lines"),
    ("/login", &["provider"], ANY_TEXT, "an unknown provider is not found: 404"),
    ("/refresh", &["refresh_token"], ANY_TEXT, "an unknown token is refused like a used one: 401"),
    ("", &["description"], &["empty", "blank", "slash", "dots", "newline", "emoji", "percent"], "free text, several lines"),
    ("", &["display_name"], &["slash", "dots", "emoji", "percent"], "free text, one line"),
    ("/clusters", &["name"], &["slash", "dots", "emoji", "percent"], "a name in Pilothouse; never part of a path"),
    ("/clusters/update", &["name"], &["slash", "dots", "emoji", "percent"], "a name in Pilothouse; never part of a path"),
    ("", &["reason"], &["percent"], "free text, several lines"),
    ("", &["token"], &["slash", "dots", "percent"], "opaque; any header value"),
    ("/set-image", &["images"], &["slash in value"], "an image has slashes; an unknown container is not found: 404"),
    ("/configmaps", &["data"], ANY_VALUE, "a value is any text"),
    ("/configmaps/update", &["data"], ANY_VALUE, "a value is any text"),
    ("/secrets", &["data"], ANY_VALUE, "a value is any text"),
    ("/secrets/update", &["data"], ANY_VALUE, "a value is any text"),
    ("/secrets", &["type"], &["slash", "raw slash", "dots", "percent"], "such as kubernetes.io/tls; only compared"),
    ("/configmaps/update", &["resource_version"], &["slash", "dots", "percent"], "opaque; a mismatch is a conflict"),
    ("/autoscalers/update", &["resource_version"], &["slash", "dots", "percent"], "opaque; a mismatch is a conflict"),
    ("/secrets/update", &["resource_version"], &["slash", "dots", "percent"], "opaque; a mismatch is a conflict"),
    ("", &["search"], &["empty", "slash", "raw slash", "dots", "emoji"], "compared with names, some of them free text; empty matches all"),
    ("", &["node", "storage_class", "operation_type", "resource_type"], COMPARED, "only compared with rows"),
    ("/pods", &["status"], COMPARED, "only compared with rows"),
    ("/events", &["type"], COMPARED, "only compared with rows"),
    ("/search", &["q"], &["slash", "raw slash", "dots", "emoji"], "a part of a name, some of them free text"),
    ("/workloads/logs/stream", &["q"], &["slash", "raw slash", "dots", "emoji"], "a part of a line"),
    ("/workloads/logs/stream", &["re"], &["slash", "raw slash", "dots", "emoji"], "an expression"),
    ("/search", &["status", "type"], COMPARED, "only compared with rows"),
    ("/k8s/watch", &["status", "type"], COMPARED, "only compared with rows"),
    ("/search", &["workload", "object"], &["slash"], "two parts"),
    ("/k8s/watch", &["workload", "object"], &["slash"], "two parts"),
    ("/pods", &["workload"], &["slash"], "type/name"),
    ("/events", &["object"], &["slash"], "Kind/name"),
    ("", &["label"], &["slash"], "a prefix and the name of a label"),
    ("/autoscalers", &["target"], &["slash"], "Kind/name"),
    ("/audit/operations", &["namespace", "username"], COMPARED, "only compared with rows"),
];

const ANY_TEXT: &[&str] =
    &["empty", "blank", "slash", "dots", "nul", "newline", "emoji", "right to left", "percent", "too long"];
const ANY_VALUE: &[&str] =
    &["nul in value", "newline in value", "emoji as value", "right to left in value", "slash in value"];
const COMPARED: &[&str] = &["slash", "raw slash", "dots"];

/// The reason why this field of this path accepts the fault; none if it does not.
pub(crate) fn allowed(path: &str, field: &str, fault: &str) -> Option<&'static str> {
    let entry = ALLOWED.iter().find(|(end, fields, faults, _)| {
        path.ends_with(end) && fields.contains(&field) && faults.contains(&fault)
    });
    entry.map(|(_, _, _, reason)| *reason)
}
