//! Documentation of a handler's types: the part of an operation that each type describes, collected in [`Docs`].
//! `openapi.rs` assembles the document from it.
//!
//! - `schema.rs`: the schemas of types, with corrections of utoipa's output.

mod schema;

use pilothouse_core::inventory::ListInfo;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema, openapi::path::ParameterIn};

pub(crate) use self::schema::Schemas;

/// A type of a handler's signature that describes its part of the operation.
pub(crate) trait Documented {
    /// Adds the part of this type to the description of the operation.
    fn describe(docs: &mut Docs);
}

/// The description of an operation.
#[derive(Default)]
pub(crate) struct Docs {
    /// Query parameters, and headers that only some operations read.
    pub(crate) parameters: Vec<Value>,
    /// The schema of the request body, JSON.
    pub(crate) body: Option<Value>,
    /// The schema and the example of the request body, a form.
    pub(crate) form: Option<Value>,
    /// The schema of `data` in the response; null for a response without the envelope.
    pub(crate) data: Value,
    /// Media type and description of a response that is a stream without the envelope.
    pub(crate) stream: Option<(&'static str, &'static str)>,
    /// Whether the response is a redirect (302) without a body.
    pub(crate) redirects: bool,
    /// Whether the response has an `ETag`, and is 304 for a matching `If-None-Match`.
    pub(crate) revalidated: bool,
    /// Whether the response sets the cookies of a session.
    pub(crate) sets_cookies: bool,
    schemas: Schemas,
}

impl Docs {
    /// Adds the schema of `T` and all schemas that it refers to, and returns a reference to it.
    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        self.schemas.add::<T>()
    }

    /// Adds the schema of a list's rows and all schemas that it refers to, and returns a reference to it.
    pub(crate) fn row_schema(&mut self, info: &ListInfo) -> Value {
        self.schemas.add_all((info.schemas)())
    }

    /// Takes the schemas that the other fields refer to.
    pub(crate) fn take_schemas(&mut self) -> Schemas {
        std::mem::take(&mut self.schemas)
    }

    /// An object schema with the fields of all parts of a schema.
    pub(crate) fn flat(&self, schema: &Value) -> Value {
        self.schemas.flat(schema)
    }

    /// Sets the type of the request body.
    pub(crate) fn request_body<T: ToSchema>(&mut self) {
        self.body = Some(self.schema::<T>());
    }

    /// Sets the request body to a form with one required field.
    pub(crate) fn form_field(&mut self, name: &str, description: &str, example: &str) {
        self.form = Some(json!({
            "schema": {
                "type": "object",
                "required": [name],
                "properties": {name: {"type": "string", "description": description}},
            },
            "example": {name: example},
        }));
    }

    /// Adds the fields of `T` as query parameters.
    pub(crate) fn query<T: IntoParams>(&mut self) {
        self.parameters.extend(T::into_params(|| Some(ParameterIn::Query)).iter().map(schema::parameter));
    }

    /// Sets the type of `data` in the response.
    pub(crate) fn response<T: ToSchema>(&mut self) {
        self.data = self.schema::<T>();
    }
}

/// A reference to a component of the document.
pub(crate) fn reference(section: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{section}/{name}")})
}
