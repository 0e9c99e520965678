//! Example values, made from the schemas: an object from its fields, a field from `examples.toml`. Each field name thus
//! has one example, and no example lacks a field. A test validates all of them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::docs::Schemas;

/// The contents of `examples.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleTable {
    /// By field name, for every field whose type the value matches.
    fields: BTreeMap<String, Value>,
    /// By type and field name, where the value differs in one type.
    types: BTreeMap<String, BTreeMap<String, Value>>,
    /// Complete requests by type, where the required fields are not enough.
    requests: BTreeMap<String, Value>,
}

/// Generates examples.
pub(super) struct Examples<'a> {
    schemas: &'a Schemas,
    table: &'static ExampleTable,
}

impl<'a> Examples<'a> {
    /// A generator for these schemas.
    pub(super) fn of(schemas: &'a Schemas) -> Self {
        static TABLE: LazyLock<ExampleTable> = LazyLock::new(|| {
            toml::from_str(include_str!("examples.toml"))
                .expect("the embedded table is valid, which a test checks")
        });
        Self { schemas, table: &TABLE }
    }

    /// An example request: its required fields.
    pub(super) fn request(&self, schema: &Value) -> Value {
        let name = Schemas::name(schema).unwrap_or_default();
        let complete = self.table.requests.get(name).cloned();
        complete.unwrap_or_else(|| self.object(name, self.schemas.resolve(schema), true))
    }

    /// An example response: its required fields.
    pub(super) fn response(&self, schema: &Value) -> Value {
        self.value("", "", schema)
    }

    /// Adds an example to a parameter. The example of a list parameter is that of the row field of the same name.
    pub(super) fn complete(&self, parameter: &mut Value, data: &Value) {
        let mut fields = data["properties"].as_object().into_iter().flatten();
        let row = fields.find_map(|(_, field)| Schemas::name(&field["items"])).unwrap_or_default();
        if parameter["example"].is_null() {
            let name = parameter["name"].as_str().unwrap_or_default();
            parameter["example"] = match &parameter["schema"]["items"] {
                Value::Null => self.value(row, name, &parameter["schema"]),
                // a value of a filter is an example of the field
                items => json!([self.value(row, name, items)]),
            };
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
            // an object is looked up by its type, a scalar by the type that contains it
            let scope =
                if resolved["type"] == "object" || resolved["allOf"].is_array() { target } else { scope };
            return self.value(scope, name, resolved);
        }
        let defaults = [&schema["example"], &schema["const"], &schema["default"], &schema["enum"][0]];
        if let Some(default) = defaults.into_iter().find(|value| !value.is_null()) {
            let value = self
                .table
                .fields
                .get(name)
                .filter(|value| schema["enum"].as_array().is_some_and(|all| all.contains(value)));
            return value.unwrap_or(default).clone();
        }
        let is_object = schema["properties"].is_object() || schema["allOf"].is_array();
        if let Some(value) = self.table.fields.get(name).filter(|value| !is_object && fits(value, schema)) {
            return value.clone();
        }
        if let Some(choice) = ["oneOf", "anyOf"]
            .iter()
            .flat_map(|key| schema[*key].as_array().into_iter().flatten())
            .find(|one| one["type"] != "null")
        {
            return self.value(scope, name, choice);
        }
        if is_object {
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

/// Whether a value has one of the types that a schema allows.
fn fits(value: &Value, schema: &Value) -> bool {
    types(schema).any(|name| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        "array" => value.as_array().is_some_and(|all| all.iter().all(|item| fits(item, &schema["items"]))),
        "object" => value.is_object(),
        _ => false,
    })
}
