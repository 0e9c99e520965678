//! The OpenAPI document, read off the route table: parameters, bodies and answers are those of the handlers' types.

use std::{collections::BTreeMap, sync::LazyLock};

use actix_web::{
    HttpResponse, Responder,
    body::BoxBody,
    http::{Method, header::ContentType},
};
use pilothouse_core::{Code, access::Role};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    error::{ErrorReply, status},
    routes::{Route, Who, table},
    words::Language,
};

/// What a type tells of the operation it stands in.
pub(crate) trait Documented {
    /// Tells it.
    fn describe(docs: &mut Docs);
}

/// What is known of an operation.
#[derive(Default)]
pub(crate) struct Docs {
    /// Its query parameters.
    pub(crate) parameters: Vec<Value>,
    /// The schema of its body.
    pub(crate) body: Option<Value>,
    /// The schema of `data` in its answer.
    pub(crate) answer: Value,
    /// Its media type and what it holds, when its answer is a stream without the envelope.
    pub(crate) stream: Option<(&'static str, &'static str)>,
    /// The schemas they refer to, by name.
    schemas: BTreeMap<String, Value>,
}

impl Docs {
    /// A reference to the schema of `T`, which becomes part of the document with all that it refers to.
    pub(crate) fn schema<T: ToSchema>(&mut self) -> Value {
        let mut parts = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut parts);
        self.schemas.extend(parts.iter().map(|(name, schema)| (in_json(name), json(schema))));
        reference("schemas", &in_json(&T::name()))
    }
}

/// What utoipa made, as JSON.
pub(crate) fn json(part: &impl Serialize) -> Value {
    let mut part = serde_json::to_value(part).unwrap_or_default();
    rename(&mut part);
    part
}

/// The name of a schema; utoipa names the labels, an alias, after the Rust type.
fn in_json(name: &str) -> String {
    if name == "BTreeMap" { "Labels".to_owned() } else { name.to_owned() }
}

/// Renames every reference.
fn rename(part: &mut Value) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(rename),
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref")
                && let Some((section, name)) = reference.rsplit_once('/')
            {
                *reference = format!("{section}/{}", in_json(name));
            }
            fields.values_mut().for_each(rename);
        }
        _ => {}
    }
}

fn reference(section: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{section}/{name}")})
}

/// The OpenAPI 3.1 document of every route.
pub fn document() -> Value {
    let mut schemas = BTreeMap::new();
    let mut paths = BTreeMap::<&str, BTreeMap<String, Value>>::new();
    let mut errors = Docs::default();
    errors.schema::<ErrorReply>();
    schemas.append(&mut errors.schemas);
    for route in table() {
        let mut docs = (route.docs)();
        schemas.append(&mut docs.schemas);
        let operation = operation(&route, &docs);
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    let responses: BTreeMap<_, _> = Code::ALL.into_iter().map(|code| (code.as_str(), error(code))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Pilothouse",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Many Kubernetes clusters through one API. Texts are Chinese, English when Accept-Language prefers en.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": responses,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "access_token"},
                "session": {"type": "apiKey", "in": "cookie", "name": "session_id", "description": "Of the same session as the bearer token"},
            },
        },
    })
}

fn operation(route: &Route, docs: &Docs) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": [tag(route.path)],
        "parameters": docs.parameters,
        "responses": responses(route, docs),
        // both in one requirement: both are needed
        "security": match route.who {
            Who::Anyone => json!([]),
            Who::Cookie => json!([{"session": []}]),
            Who::Role(_) => json!([{"bearer": [], "session": []}]),
        },
    });
    if let Who::Role(role) = route.who
        && role > Role::Viewer
    {
        operation["description"] = format!("Role: {} or higher.", role.as_str()).into();
        operation["x-required-role"] = role.as_str().into();
    }
    if let Some(body) = &docs.body {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": body}}});
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

fn responses(route: &Route, docs: &Docs) -> BTreeMap<String, Value> {
    let success = match docs.stream {
        Some((media_type, what)) => {
            let text = json!({"type": "string", "description": what});
            json!({"description": "A stream", "content": {media_type: {"schema": text}}})
        }
        None => {
            json!({"description": "Success", "content": {"application/json": {"schema": success(route, docs)}}})
        }
    };
    let mut responses = BTreeMap::from([("200".to_owned(), success)]);
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for code in Code::ALL.into_iter().filter(|code| may_answer(route, *code)) {
        by_status.entry(status(code).as_u16()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let response = match codes.as_slice() {
            [code] => reference("responses", code.as_str()),
            codes => {
                let words = codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join(", ");
                json!({"description": words, "content": {"application/json": {"schema": reference("schemas", "ErrorReply")}}})
            }
        };
        responses.insert(status.to_string(), response);
    }
    responses
}

/// Which refusals an operation may answer with; every path answers another method with 405.
fn may_answer(route: &Route, code: Code) -> bool {
    let post = route.method == Method::POST;
    let signed = matches!(route.who, Who::Role(_));
    let cluster = signed && route.path.starts_with("/api/k8s/");
    match code {
        Code::InternalError | Code::MethodNotAllowed | Code::ServiceUnavailable => true,
        Code::ValidationError => post || signed,
        Code::AuthenticationError => post || signed,
        Code::PermissionDenied => matches!(route.who, Who::Role(role) if cluster || role > Role::Viewer),
        Code::ResourceNotFound => cluster || (signed && post),
        Code::ConflictError => (signed && post) || route.path.starts_with("/api/k8s/pods/logs"),
        Code::PayloadTooLarge | Code::UnsupportedMediaType => post,
        Code::RateLimited => post || cluster,
        Code::ConnectionError | Code::TimeoutError => cluster,
    }
}

/// The envelope of a success; the OpenAPI document itself has none.
fn success(route: &Route, docs: &Docs) -> Value {
    if docs.answer.is_null() {
        return json!({"type": "object"});
    }
    let warnings = json!({"type": "object", "properties": {"warnings": {
        "type": "array", "items": {"type": "string"}, "description": "What should be known; only when there is something",
    }}});
    let data = match route.method {
        Method::POST => json!({"allOf": [docs.answer, warnings]}),
        _ => docs.answer.clone(),
    };
    json!({
        "type": "object",
        "required": ["success", "data", "message"],
        "properties": {"success": {"const": true}, "data": data, "message": {"type": "string"}},
    })
}

fn error(code: Code) -> Value {
    let explanation = |cause: &pilothouse_core::Cause| cause.code() == code;
    let causes = pilothouse_core::Cause::ALL.iter().copied().filter(explanation);
    let lines = causes.map(|cause| {
        let details = Language::English.words().explain(&pilothouse_core::Error::new(cause), None).details;
        format!("- `{}`: {details}", cause.as_str())
    });
    let description = format!("{}\n\n{}", code.as_str(), lines.collect::<Vec<_>>().join("\n"));
    let mut response = json!({
        "description": description,
        "content": {"application/json": {"schema": reference("schemas", "ErrorReply")}},
    });
    let header = |name: &str, description: &str| json!({name: {"description": description, "schema": {"type": "string"}}});
    match code {
        Code::RateLimited | Code::ServiceUnavailable => {
            response["headers"] = header("Retry-After", "Seconds, at least 1")
        }
        Code::MethodNotAllowed => response["headers"] = header("Allow", "The methods that the path takes"),
        _ => {}
    }
    response
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
