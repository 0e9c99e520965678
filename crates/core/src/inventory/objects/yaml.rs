//! Writes an object as YAML, in the style of `kubectl get -o yaml`.
//!
//! A text is plain only if every version of YAML reads it as that text. `yes`, `1:30` and `1e3` are therefore quoted.

use std::fmt::Write;

use serde_json::Value;

/// The YAML document of a value.
pub(crate) fn document(value: &Value) -> String {
    let mut yaml = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(&mut yaml, value, 0),
        scalar => {
            inline(&mut yaml, scalar, 0);
            yaml.push('\n');
        }
    }
    yaml
}

/// Writes the lines of a map or list that is not empty, each indented.
fn block(yaml: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                yaml.extend(std::iter::repeat_n(' ', indent));
                member(yaml, name, value, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                yaml.extend(std::iter::repeat_n(' ', indent));
                self::item(yaml, item, indent);
            }
        }
        _ => {}
    }
}

/// Writes a member of a map. The line is indented already.
fn member(yaml: &mut String, name: &str, value: &Value, indent: usize) {
    text(yaml, name);
    yaml.push(':');
    match value {
        Value::Object(_) if !is_empty(value) => {
            yaml.push('\n');
            block(yaml, value, indent + 2);
        }
        // as kubectl, which does not indent the items of a list
        Value::Array(_) if !is_empty(value) => {
            yaml.push('\n');
            block(yaml, value, indent);
        }
        scalar => {
            yaml.push(' ');
            inline(yaml, scalar, indent);
            yaml.push('\n');
        }
    }
}

/// Writes an item of a list. The line is indented already.
fn item(yaml: &mut String, value: &Value, indent: usize) {
    yaml.push_str("- ");
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    yaml.extend(std::iter::repeat_n(' ', indent + 2));
                }
                member(yaml, name, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    yaml.extend(std::iter::repeat_n(' ', indent + 2));
                }
                item(yaml, value, indent + 2);
            }
        }
        scalar => {
            inline(yaml, scalar, indent);
            yaml.push('\n');
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Writes a scalar, an empty map or an empty list. A text of several lines is a block below a line of this indentation.
fn inline(yaml: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(_) => yaml.push_str("{}"),
        Value::Array(_) => yaml.push_str("[]"),
        Value::String(content) => match literal(content) {
            Some((header, lines)) => {
                yaml.push_str(header);
                for line in lines.split('\n') {
                    yaml.push('\n');
                    // an empty line has no indentation
                    if !line.is_empty() {
                        yaml.extend(std::iter::repeat_n(' ', indent + 2));
                        yaml.push_str(line);
                    }
                }
            }
            None => text(yaml, content),
        },
        // null, a boolean or a number is the same in JSON; writing to memory cannot fail
        scalar => {
            let _ = write!(yaml, "{scalar}");
        }
    }
}

/// The header and the lines of a literal block; `None` if a text is not one of several lines, or cannot be such a block
/// without an indicator of its indentation.
fn literal(content: &str) -> Option<(&'static str, &str)> {
    let (header, lines) = match content.strip_suffix('\n') {
        Some(lines) => ("|", lines),
        None => ("|-", content),
    };
    let is_in_line = |c: char| c == '\n' || c == '\t' || !needs_escape(c);
    let begins_plain = lines.starts_with(|c: char| !c.is_whitespace());
    let is_literal = content.contains('\n')
        && begins_plain
        && content.chars().all(is_in_line)
        && lines.split('\n').all(|line| line.is_empty() || !line.trim().is_empty())
        && !lines.ends_with('\n');
    is_literal.then_some((header, lines))
}

/// Writes a text, plain or in double quotes.
fn text(yaml: &mut String, text: &str) {
    if is_plain(text) {
        yaml.push_str(text);
        return;
    }
    yaml.push('"');
    for c in text.chars() {
        match c {
            '"' => yaml.push_str("\\\""),
            '\\' => yaml.push_str("\\\\"),
            '\n' => yaml.push_str("\\n"),
            '\t' => yaml.push_str("\\t"),
            c if needs_escape(c) => {
                let _ = write!(yaml, "\\u{:04x}", u32::from(c));
            }
            c => yaml.push(c),
        }
    }
    yaml.push('"');
}

/// Whether a character is a control character, a byte order mark, or a line break of some version of YAML. All of them
/// have at most four hexadecimal digits.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Words that some version or reader of YAML does not take as texts, in lower case.
const WORDS: [&str; 12] =
    ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"];

/// Whether every version of YAML reads a text without quotes as this text.
fn is_plain(text: &str) -> bool {
    // what begins with a digit, a sign or a dot may be a number or a time
    let begins_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_.-:@+=()$;<>~ ".contains(c);
    begins_plain
        && text.chars().all(allowed)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&&*text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn object_is_written_as_by_kubectl() {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"annotations": {}, "labels": {"app.kubernetes.io/name": "web", "on": "yes"}, "name": "web"},
            "spec": {
                "containers": [
                    {"args": ["-c", "a: b", "1"], "env": [], "image": "nginx:1.25", "command": ["sh\necho\n", " x\ny"]},
                    [["nested"], {}],
                ],
                "replicas": 3, "ratio": 0.5, "paused": false, "none": null,
            },
        });
        let expected = r#"apiVersion: v1
kind: Pod
metadata:
  annotations: {}
  labels:
    app.kubernetes.io/name: web
    "on": "yes"
  name: web
spec:
  containers:
  - args:
    - "-c"
    - "a: b"
    - "1"
    command:
    - |
      sh
      echo
    - " x\ny"
    env: []
    image: nginx:1.25
  - - - nested
    - {}
  none: null
  paused: false
  ratio: 0.5
  replicas: 3
"#;
        assert_eq!(document(&sorted(&object)), expected);
        assert_eq!(
            (document(&json!({})), document(&json!("yes"))),
            ("{}\n".to_owned(), "\"yes\"\n".to_owned())
        );
    }

    /// The value with the members of its maps in order, whatever the order of `serde_json`'s maps.
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.clone(), sorted(value))).collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(Map::from_iter(fields))
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            scalar => scalar.clone(),
        }
    }

    #[test]
    fn texts_that_could_be_something_else_are_quoted() {
        for plain in ["web", "nginx:1.25", "a b", "/healthz", "https://a.b/c", "shop/web-0", "a:b"] {
            assert!(is_plain(plain), "{plain}");
        }
        for quoted in [
            "",
            "yes",
            "No",
            "ON",
            "NaN",
            "null",
            "Null",
            "~",
            "true",
            "1",
            "1e3",
            "0x1f",
            "1:30",
            "2026-01-01",
            ".inf",
            "-",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "{}",
            "[a]",
            "'a'",
            "\"a\"",
            "%a",
            "@a",
            "`a",
            " a",
            "a ",
            "a\u{2028}b",
            "=",
            "<<",
        ] {
            assert!(!is_plain(quoted), "{quoted:?}");
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z]{1,8}",
            "[ -~]{0,16}",
            "[a-z :#\\-\n\t]{0,24}",
            "\\PC{0,8}",
            prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned),
            prop::sample::select(vec![
                "\u{85}",
                "a\u{2029}b\n",
                "\u{feff}",
                "a\r\nb",
                "a\n\n",
                "\na\n",
                "a\n b\n  c"
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<i16>().prop_map(|number| Value::from(f64::from(number) + 0.5)),
            texts().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(texts(), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn document_is_read_as_the_same_value(value in values()) {
            let yaml = document(&value);
            let read: Value = serde_saphyr::from_str(&yaml).map_err(|error| TestCaseError::fail(format!("{error}\n{yaml}")))?;
            prop_assert_eq!(read, value, "{}", yaml);
        }
    }
}
