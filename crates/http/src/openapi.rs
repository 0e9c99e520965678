//! OpenAPI document, generated from the route table: parameters, bodies and responses are those of the handlers' types.
//!
//! - `schema.rs`: the schemas of types, with corrections of utoipa's output.
//! - `responses.rs`: the responses of an operation, errors included.
//! - `example.rs`: example values, made from the schemas and the table `examples.toml`.

mod example;
mod responses;
mod schema;

use std::{collections::BTreeMap, sync::LazyLock};

use actix_web::{
    HttpResponse, Responder,
    body::BoxBody,
    http::{Method, header::ContentType},
};
use pilothouse_core::{Code, role::Role};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema, openapi::path::ParameterIn};

use self::{example::Examples, schema::Schemas};
use crate::{
    error::ErrorReply,
    routes::{RequiredAuth, Route, table},
};

/// A type of a handler's signature that describes its part of the operation.
pub(crate) trait Documented {
    /// Adds its part to the description of the operation.
    fn describe(docs: &mut Docs);
}

/// The description of an operation.
#[derive(Default)]
pub(crate) struct Docs {
    /// Query parameters, and headers that only some operations read.
    pub(crate) parameters: Vec<Value>,
    /// The schema of the request body.
    pub(crate) body: Option<Value>,
    /// The schema of `data` in the response; null for a response without the envelope.
    pub(crate) data: Value,
    /// Media type and description of a response that is a stream without the envelope.
    pub(crate) stream: Option<(&'static str, &'static str)>,
    /// Whether the response has an `ETag`, and is 304 for a matching `If-None-Match`.
    pub(crate) revalidated: bool,
    /// Whether the response sets the session cookie.
    pub(crate) sets_cookie: bool,
    schemas: Schemas,
}

impl Docs {
    /// Adds the schema of `T` and all schemas that it refers to, and returns a reference to it.
    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        self.schemas.add::<T>()
    }

    /// An object schema with the fields of all parts of a schema.
    pub(crate) fn flat(&self, schema: &Value) -> Value {
        self.schemas.flat(schema)
    }

    /// Sets the type of the request body.
    pub(crate) fn request_body<T: ToSchema>(&mut self) {
        self.body = Some(self.schema::<T>());
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

/// The OpenAPI 3.1 document of all routes.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    schemas.add::<ErrorReply>();
    let described = table().into_iter().map(|route| {
        let docs = (route.docs)();
        (route, docs)
    });
    let mut routes: Vec<(Route, Docs)> = described.collect();
    for (_, docs) in &mut routes {
        schemas.append(&mut docs.schemas);
    }
    for (_, docs) in &routes {
        schemas.complete(&docs.data);
    }
    let examples = Examples::of(&schemas);
    let mut paths = BTreeMap::<&str, BTreeMap<String, Value>>::new();
    for (route, docs) in &routes {
        let operation = operation(route, docs, &schemas, &examples);
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    let responses = responses::shared(routes.iter().map(|(route, _)| route));
    let used = schemas.used_by(&json!([paths, responses]));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Pilothouse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One API for many Kubernetes clusters. Texts are Chinese, or English when Accept-Language prefers en.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": used,
            "responses": responses,
            "headers": responses::headers(),
            "parameters": parameters(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "access_token"},
                "session": {"type": "apiKey", "in": "cookie", "name": "session_id", "description": "Of the same session as the bearer token"},
            },
        },
    })
}

fn reference(section: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{section}/{name}")})
}

/// The header parameters of every operation.
fn parameters() -> Value {
    json!({
        "Accept-Language": {
            "name": "Accept-Language", "in": "header", "required": false, "example": "en",
            "description": "Texts are English when it prefers `en`, Chinese otherwise.",
            "schema": {"type": "string"},
        },
        "X-Request-Id": {
            "name": "X-Request-Id", "in": "header", "required": false, "example": "deploy-42",
            "description": "The request id for the response, the log and the audit trail: 1 to 64 characters of `A-Z a-z 0-9 . _ -`. Any other value is replaced by a generated id.",
            "schema": {"type": "string"},
        },
    })
}

fn operation(route: &Route, docs: &Docs, schemas: &Schemas, examples: &Examples<'_>) -> Value {
    let shared = ["Accept-Language", "X-Request-Id"].map(|name| reference("parameters", name));
    let own = docs.parameters.iter().cloned().map(|mut parameter| {
        examples.complete(&mut parameter, &docs.data);
        parameter
    });
    let role = match route.auth {
        RequiredAuth::Public => "No authentication.".to_owned(),
        RequiredAuth::Cookie => "Requires the session cookie.".to_owned(),
        RequiredAuth::Role(Role::Viewer) => "Any signed-in user.".to_owned(),
        RequiredAuth::Role(role) => format!("Role: {} or higher.", role.as_str()),
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": role,
        "tags": [tag(route.path)],
        "parameters": own.chain(shared).collect::<Vec<_>>(),
        "responses": responses::of(route, docs, schemas, examples),
        // both schemes in one object: both are required
        "security": match route.auth {
            RequiredAuth::Public => json!([]),
            RequiredAuth::Cookie => json!([{"session": []}]),
            RequiredAuth::Role(_) => json!([{"bearer": [], "session": []}]),
        },
    });
    if let RequiredAuth::Role(role) = route.auth
        && role > Role::Viewer
    {
        operation["x-required-role"] = role.as_str().into();
    }
    if let Some(body) = &docs.body {
        let example = examples.request(body);
        // an empty body is read as `{}`
        let required = example.as_object().is_some_and(|fields| !fields.is_empty());
        operation["requestBody"] = json!({
            "required": required,
            "content": {"application/json": {"schema": body, "example": example}},
        });
    }
    operation
}

/// The operation id, such as `post_api_k8s_workloads_scale`: unique, and as stable as the path.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_end_matches(".json").replace(['/', '-'], "_");
    format!("{}{path}", route.method.as_str().to_lowercase())
}

fn tag(path: &str) -> &str {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), Some("k8s"), Some(subject)) => subject,
        (Some("api"), Some("auth"), _) => "auth",
        _ => "service",
    }
}

/// Whether an operation may return this code. 405 belongs to every path, because any other method gets it.
fn may_return(route: &Route, code: Code) -> bool {
    let post = route.method == Method::POST;
    let signed = matches!(route.auth, RequiredAuth::Role(_));
    let cluster = signed && route.path.starts_with("/api/k8s/");
    match code {
        Code::InternalError | Code::MethodNotAllowed | Code::ServiceUnavailable => true,
        Code::ValidationError => post || signed,
        Code::AuthenticationError => post || signed,
        Code::PermissionDenied => {
            matches!(route.auth, RequiredAuth::Role(role) if cluster || role > Role::Viewer)
        }
        Code::ResourceNotFound => cluster || (signed && post),
        Code::ConflictError => (signed && post) || route.path.starts_with("/api/k8s/pods/logs"),
        Code::PayloadTooLarge | Code::UnsupportedMediaType => post,
        Code::RateLimited => post || cluster,
        Code::ConnectionError | Code::TimeoutError => cluster,
    }
}

/// The response of `/api/openapi.json`: the document without the envelope.
pub(crate) struct Document;

impl Responder for Document {
    type Body = BoxBody;

    fn respond_to(self, _: &actix_web::HttpRequest) -> HttpResponse {
        static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
        HttpResponse::Ok().content_type(ContentType::json()).body(TEXT.as_str())
    }
}

impl Documented for Document {
    fn describe(_: &mut Docs) {}
}
