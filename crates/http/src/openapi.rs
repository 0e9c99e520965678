//! The OpenAPI document, read off the route table: parameters, bodies and answers are those of the handlers' types.
//!
//! - `schema.rs`: the schemas of types, and what utoipa cannot know of them.
//! - `responses.rs`: what an operation answers with, refusals included.
//! - `example.rs`: examples, made from the schemas and one table of words.

mod example;
mod responses;
mod schema;

use std::{collections::BTreeMap, sync::LazyLock};

use actix_web::{
    HttpResponse, Responder,
    body::BoxBody,
    http::{Method, header::ContentType},
};
use pilothouse_core::{Code, access::Role};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema, openapi::path::ParameterIn};

use self::{example::Examples, schema::Schemas};
use crate::{
    error::ErrorReply,
    routes::{RequiredAuth, Route, table},
};

/// What a type tells of the operation it stands in.
pub(crate) trait Documented {
    /// Tells it.
    fn describe(docs: &mut Docs);
}

/// What is known of an operation.
#[derive(Default)]
pub(crate) struct Docs {
    /// Its parameters: of the query, and headers that only some operations read.
    pub(crate) parameters: Vec<Value>,
    /// The schema of its body.
    pub(crate) body: Option<Value>,
    /// The schema of `data` in its answer; null where the answer has no envelope.
    pub(crate) answer: Value,
    /// Its media type and what it holds, when its answer is a stream without the envelope.
    pub(crate) stream: Option<(&'static str, &'static str)>,
    /// Whether the answer has an `ETag`, and is 304 for whoever has it.
    pub(crate) revalidated: bool,
    /// Whether the answer sets the session's cookie.
    pub(crate) sets_cookie: bool,
    schemas: Schemas,
}

impl Docs {
    /// A reference to the schema of `T`, which becomes part of the document with all that it refers to.
    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        self.schemas.add::<T>()
    }

    /// The fields of a schema and of all that it is made of, in one object.
    pub(crate) fn flat(&self, schema: &Value) -> Value {
        self.schemas.flat(schema)
    }

    /// The body is a `T`.
    pub(crate) fn request_body<T: ToSchema>(&mut self) {
        self.body = Some(self.schema::<T>());
    }

    /// The query is a `T`.
    pub(crate) fn query<T: IntoParams>(&mut self) {
        self.parameters.extend(T::into_params(|| Some(ParameterIn::Query)).iter().map(schema::parameter));
    }

    /// The data of the answer is a `T`.
    pub(crate) fn response<T: ToSchema>(&mut self) {
        self.answer = self.schema::<T>();
    }
}

/// The OpenAPI 3.1 document of every route.
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
        schemas.complete(&docs.answer);
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

/// The headers that every operation reads.
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
        examples.complete(&mut parameter, &docs.answer);
        parameter
    });
    let role = match route.who {
        RequiredAuth::Anyone => "No authentication.".to_owned(),
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
        // both in one requirement: both are needed
        "security": match route.who {
            RequiredAuth::Anyone => json!([]),
            RequiredAuth::Cookie => json!([{"session": []}]),
            RequiredAuth::Role(_) => json!([{"bearer": [], "session": []}]),
        },
    });
    if let RequiredAuth::Role(role) = route.who
        && role > Role::Viewer
    {
        operation["x-required-role"] = role.as_str().into();
    }
    if let Some(body) = &docs.body {
        let example = examples.request(body);
        // no body is `{}`
        let required = example.as_object().is_some_and(|fields| !fields.is_empty());
        operation["requestBody"] = json!({
            "required": required,
            "content": {"application/json": {"schema": body, "example": example}},
        });
    }
    operation
}

/// `post_api_k8s_workloads_scale`: unique, and as stable as the path.
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

/// Which refusals an operation may answer with; every path answers another method with 405.
fn may_answer(route: &Route, code: Code) -> bool {
    let post = route.method == Method::POST;
    let signed = matches!(route.who, RequiredAuth::Role(_));
    let cluster = signed && route.path.starts_with("/api/k8s/");
    match code {
        Code::InternalError | Code::MethodNotAllowed | Code::ServiceUnavailable => true,
        Code::ValidationError => post || signed,
        Code::AuthenticationError => post || signed,
        Code::PermissionDenied => {
            matches!(route.who, RequiredAuth::Role(role) if cluster || role > Role::Viewer)
        }
        Code::ResourceNotFound => cluster || (signed && post),
        Code::ConflictError => (signed && post) || route.path.starts_with("/api/k8s/pods/logs"),
        Code::PayloadTooLarge | Code::UnsupportedMediaType => post,
        Code::RateLimited => post || cluster,
        Code::ConnectionError | Code::TimeoutError => cluster,
    }
}

/// The document as `/api/openapi.json` serves it: without the envelope.
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
