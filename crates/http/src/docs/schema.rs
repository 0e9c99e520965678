//! Schemas of types: utoipa's output, with corrections.

use std::collections::{BTreeMap, btree_map::Entry};

use pilothouse_core::openapi::{NamedSchemas, schemas_of};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::reference;

/// The schema components, by name.
#[derive(Default)]
pub(crate) struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// Adds the schema of `T` and all that it refers to, and returns a reference to it.
    ///
    /// # Panics
    /// When two types of the same name have different schemas. A test builds the document.
    pub(crate) fn add<T: ToSchema>(&mut self) -> Value {
        self.add_all(schemas_of::<T>())
    }

    /// As [`Schemas::add`], for the type whose schema is first.
    pub(super) fn add_all(&mut self, schemas: NamedSchemas) -> Value {
        let first = reference("schemas", &component_name(&schemas[0].0));
        for (name, schema) in schemas {
            self.insert(component_name(&name), json(&schema));
        }
        first
    }

    /// Adds all schemas of `other`.
    pub(crate) fn append(&mut self, other: Self) {
        for (name, schema) in other.0 {
            self.insert(name, schema);
        }
    }

    fn insert(&mut self, name: String, schema: Value) {
        match self.0.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert(schema)),
            Entry::Occupied(entry) => assert!(*entry.get() == schema, "two types are named {}", entry.key()),
        }
    }

    /// The schema that a reference points to; any other schema is returned as it is.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        name.and_then(|name| self.0.get(name)).unwrap_or(schema)
    }

    /// The name of the schema that a reference points to.
    pub(crate) fn name(schema: &Value) -> Option<&str> {
        schema["$ref"].as_str().and_then(|path| path.rsplit('/').next())
    }

    /// Makes nullable fields required in a response schema and all schemas that it refers to: responses contain `null`
    /// for an unknown value, but utoipa documents an `Option` as a field that may be absent.
    pub(crate) fn complete(&mut self, response: &Value) {
        let names: Vec<String> = self.used_by(response).into_keys().map(str::to_owned).collect();
        for name in names {
            self.0.entry(name).and_modify(require_nullable);
        }
    }

    /// An object schema with the fields of all parts: `allOf` and references are resolved.
    pub(crate) fn flat(&self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        let mut properties = schema["properties"].as_object().cloned().unwrap_or_default();
        let mut required = schema["required"].as_array().cloned().unwrap_or_default();
        for part in schema["allOf"].as_array().into_iter().flatten() {
            let part = self.flat(part);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
        }
        json!({"type": "object", "required": required, "properties": properties})
    }

    /// The schemas that a part of the document refers to, directly or indirectly.
    pub(crate) fn used_by(&self, part: &Value) -> BTreeMap<&str, &Value> {
        let mut used = BTreeMap::new();
        let mut pending = references(part);
        while let Some(name) = pending.pop() {
            if let Some((name, schema)) = self.0.get_key_value(&name)
                && used.insert(name.as_str(), schema).is_none()
            {
                pending.extend(references(schema));
            }
        }
        used
    }
}

/// A parameter as JSON; the description of its type becomes its own if it has none.
pub(super) fn parameter(parameter: &impl Serialize) -> Value {
    let mut parameter = json(parameter);
    let described = parameter["schema"].as_object_mut().and_then(|schema| schema.remove("description"));
    if let Some(description) = described
        && parameter["description"].is_null()
    {
        parameter["description"] = description;
    }
    parameter
}

/// A part of utoipa's output as JSON, corrected by [`normalise`].
fn json(part: &impl Serialize) -> Value {
    let mut part = serde_json::to_value(part).unwrap_or_default();
    normalise(&mut part);
    part
}

/// The component name of a schema. utoipa names the alias `Labels` after its Rust type.
fn component_name(name: &str) -> String {
    if name == "BTreeMap" { "Labels".to_owned() } else { name.to_owned() }
}

/// Renames every reference, and moves the description of a nullable schema from its `oneOf` to the schema itself.
fn normalise(part: &mut Value) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(normalise),
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some((section, name)) = reference.rsplit_once('/')
            {
                *reference = format!("{section}/{}", component_name(name));
            }
            let choices = fields.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten();
            let described =
                choices.filter_map(Value::as_object_mut).find_map(|one| one.remove("description"));
            if let Some(description) = described {
                fields.entry("description").or_insert(description);
            }
            fields.values_mut().for_each(normalise);
        }
        _ => {}
    }
}

/// The names of all schemas that a schema refers to.
fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Array(parts) => parts.iter().flat_map(references).collect(),
        Value::Object(fields) => {
            let own = Schemas::name(schema).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        _ => Vec::new(),
    }
}

fn require_nullable(schema: &mut Value) {
    if let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
        parts.iter_mut().for_each(require_nullable);
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    let names: Vec<Value> = properties
        .iter()
        .filter(|(_, schema)| may_be_null(schema))
        .map(|(name, _)| name.clone().into())
        .collect();
    let required = schema.as_object_mut().map(|fields| fields.entry("required").or_insert(json!([])));
    if let Some(required) = required.and_then(Value::as_array_mut) {
        for name in names {
            if !required.contains(&name) {
                required.push(name);
            }
        }
    }
}

fn may_be_null(schema: &Value) -> bool {
    let null = json!("null");
    let typed = |schema: &Value| match &schema["type"] {
        Value::Array(types) => types.contains(&null),
        one => *one == null,
    };
    typed(schema) || schema["oneOf"].as_array().into_iter().flatten().any(typed)
}
