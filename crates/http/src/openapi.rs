//! OpenAPI document, generated from the route table: parameters, bodies and responses are those of the handlers' types
//! (`docs.rs`).
//!
//! - `responses.rs`: the responses of an operation, errors included.
//! - `example.rs`: example values, made from the schemas and the table `examples.toml`.

mod example;
mod responses;

use std::{collections::BTreeMap, sync::LazyLock};

use actix_web::http::Method;
use pilothouse_core::role::Role;
use serde_json::{Value, json};

use self::example::Examples;
use crate::{
    docs::{Docs, Schemas, reference},
    error::ErrorReply,
    extract::RequiredAuth,
    routes::{Route, table},
};

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
        schemas.append(docs.take_schemas());
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
                "token": {"type": "http", "scheme": "bearer", "description": "An API token (`php_…`, `phs_…`), without the cookie `session_id`"},
            },
        },
    })
}

/// The text of the document, generated at the first call.
pub(crate) fn document_text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    &TEXT
}

/// The header parameters that several operations have.
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
        "X-Background": {
            "name": "X-Background", "in": "header", "required": false, "example": "true",
            "description": "`true`: the user did not cause the request, for instance a poll. The session is checked, but not extended. Any other value is ignored.",
            "schema": {"type": "string"},
        },
    })
}

fn operation(route: &Route, docs: &Docs, schemas: &Schemas, examples: &Examples<'_>) -> Value {
    let reads_background = match route.auth {
        RequiredAuth::Public => false,
        RequiredAuth::Cookie => route.path == "/api/auth/refresh",
        RequiredAuth::SignedIn | RequiredAuth::Right(..) => route.method == Method::GET,
    };
    let headers =
        ["Accept-Language", "X-Request-Id"].into_iter().chain(reads_background.then_some("X-Background"));
    let shared = headers.map(|name| reference("parameters", name));
    let own = docs.parameters.iter().cloned().map(|mut parameter| {
        examples.complete(&mut parameter, &docs.data);
        parameter
    });
    let role = route.auth.role().filter(|role| *role > Role::Viewer);
    let required = match (&route.auth, role) {
        (RequiredAuth::Public, _) => "No authentication.".to_owned(),
        (RequiredAuth::Cookie, _) => "Requires the session cookie.".to_owned(),
        (RequiredAuth::SignedIn, _) => "Any signed-in user.".to_owned(),
        (RequiredAuth::Right(verb, resource), None) => format!("Right: {verb} {resource}."),
        (RequiredAuth::Right(verb, resource), Some(role)) => {
            format!("Right: {verb} {resource}. Role: {} or higher, or a grant.", role.as_str())
        }
    };
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "description": required,
        "tags": [tag(route.path)],
        "parameters": own.chain(shared).collect::<Vec<_>>(),
        "responses": responses::of(route, docs, schemas, examples),
        // both schemes in one object: both are required
        "security": match route.auth {
            RequiredAuth::Public => json!([]),
            RequiredAuth::Cookie => json!([{"session": []}]),
            RequiredAuth::SignedIn | RequiredAuth::Right(..) if takes_tokens(route) => {
                json!([{"bearer": [], "session": []}, {"token": []}])
            }
            RequiredAuth::SignedIn | RequiredAuth::Right(..) => json!([{"bearer": [], "session": []}]),
        },
    });
    if let Some(role) = role {
        operation["x-required-role"] = role.as_str().into();
    }
    if let RequiredAuth::Right(verb, resource) = &route.auth {
        operation["x-required-right"] = json!({"verb": verb, "resource": resource});
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
    if let Some(form) = &docs.form {
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/x-www-form-urlencoded": form},
        });
    }
    operation
}

/// Whether an operation takes an API token: not a change of accounts, credentials or rights.
fn takes_tokens(route: &Route) -> bool {
    let is_own = ["/api/auth/", "/api/access/"].iter().any(|prefix| route.path.starts_with(prefix));
    route.method == Method::GET || !is_own
}

/// The operation id, such as `post_api_k8s_workloads_scale`: unique, and as stable as the path.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_end_matches(".json").replace(['/', '-'], "_").replace(['{', '}'], "");
    format!("{}{path}", route.method.as_str().to_lowercase())
}

fn tag(path: &str) -> &str {
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some("api"), Some("k8s"), Some(subject)) => subject,
        (Some("api"), Some(subject @ ("auth" | "access")), _) => subject,
        _ => "service",
    }
}
