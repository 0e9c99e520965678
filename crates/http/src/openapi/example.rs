//! Examples, made from the schemas: an object of its fields, a field from `examples.toml`. So that each word has one
//! example, and an example cannot lack a field. A test validates every one of them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Schemas;

/// The examples of fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// By name, whatever it is a field of, where it fits.
    words: BTreeMap<String, Value>,
    /// By type and name, where the type's differs.
    types: BTreeMap<String, BTreeMap<String, Value>>,
    /// Whole requests, by type, where the fields required are not enough.
    requests: BTreeMap<String, Value>,
}

/// Makes examples.
pub(super) struct Examples<'a> {
    schemas: &'a Schemas,
    table: &'static Table,
}

impl<'a> Examples<'a> {
    /// Of these schemas.
    pub(super) fn of(schemas: &'a Schemas) -> Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            toml::from_str(include_str!("examples.toml")).expect("the embedded table is read by a test")
        });
        Self { schemas, table: &TABLE }
    }

    /// A request: the fields that are required.
    pub(super) fn request(&self, schema: &Value) -> Value {
        let name = Schemas::name(schema).unwrap_or_default();
        let whole = self.table.requests.get(name).cloned();
        whole.unwrap_or_else(|| self.object(name, self.schemas.resolve(schema), true))
    }

    /// An answer: every field that is always there.
    pub(super) fn answer(&self, schema: &Value) -> Value {
        self.value("", "", schema)
    }

    /// Adds an example to a parameter; of a list, as the field of that name in a row.
    pub(super) fn complete(&self, parameter: &mut Value, answer: &Value) {
        let mut fields = answer["properties"].as_object().into_iter().flatten();
        let row = fields.find_map(|(_, field)| Schemas::name(&field["items"])).unwrap_or_default();
        if parameter["example"].is_null() {
            let name = parameter["name"].as_str().unwrap_or_default();
            parameter["example"] = self.value(row, name, &parameter["schema"]);
        }
    }

    fn object(&self, scope: &str, schema: &Value, request: bool) -> Value {
        let flat = self.schemas.flat(schema);
        let required = flat["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let field = |name: &str| {
            let schema = &flat["properties"][name];
            let schema = if request { self.schemas.resolve(schema) } else { schema };
            (name.to_owned(), self.value(scope, name, schema))
        };
        required.map(field).collect::<Map<_, _>>().into()
    }

    fn value(&self, scope: &str, name: &str, schema: &Value) -> Value {
        let own = self.table.types.get(scope).and_then(|fields| fields.get(name));
        if let Some(own) = own.filter(|_| schema["default"].is_null()) {
            return own.clone();
        }
        if let Some(target) = Schemas::name(schema) {
            let resolved = self.schemas.resolve(schema);
            // a row has the name of its type, a value of its own keeps the name of its field
            let scope =
                if resolved["type"] == "object" || resolved["allOf"].is_array() { target } else { scope };
            return self.value(scope, name, resolved);
        }
        let known = [&schema["example"], &schema["const"], &schema["default"], &schema["enum"][0]];
        if let Some(known) = known.into_iter().find(|value| !value.is_null()) {
            let word = self
                .table
                .words
                .get(name)
                .filter(|word| schema["enum"].as_array().is_some_and(|all| all.contains(word)));
            return word.unwrap_or(known).clone();
        }
        let fields = schema["properties"].is_object() || schema["allOf"].is_array();
        if let Some(word) = self.table.words.get(name).filter(|word| !fields && fits(word, schema)) {
            return word.clone();
        }
        if let Some(choice) = ["oneOf", "anyOf"]
            .iter()
            .flat_map(|key| schema[*key].as_array().into_iter().flatten())
            .find(|one| one["type"] != "null")
        {
            return self.value(scope, name, choice);
        }
        if fields {
            return self.object(scope, schema, false);
        }
        match (types(schema).next(), schema["format"].as_str()) {
            (Some("array"), _) => json!([self.value(scope, name, &schema["items"])]),
            (Some("object"), _) => json!({}),
            (Some("integer"), _) => json!(1),
            (Some("boolean"), _) => json!(false),
            (Some("string"), Some("date-time")) => "2026-11-22T21:27:37Z".into(),
            _ => Value::Null,
        }
    }
}

/// The types that a schema allows.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    one.into_iter().chain(schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str))
}

/// Whether a word is of the type, or of one of the types, that a schema allows.
fn fits(word: &Value, schema: &Value) -> bool {
    types(schema).any(|name| match name {
        "string" => word.is_string(),
        "integer" => word.is_i64(),
        "boolean" => word.is_boolean(),
        "array" => word.as_array().is_some_and(|all| all.iter().all(|one| fits(one, &schema["items"]))),
        "object" => word.is_object(),
        _ => false,
    })
}
