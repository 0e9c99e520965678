//! Responses of an operation: its success response, and an error response per status that it may return.

use std::collections::BTreeMap;

use pilothouse_core::{Cause, Code, Error, idempotency::IdempotencyKey};
use serde_json::{Map, Value, json};

use super::Examples;
use crate::{
    docs::{Docs, Schemas, reference},
    error::{ApiError, status},
    language::Language,
    routes::Route,
};

/// The responses of an operation, by status.
pub(super) fn of(
    route: &Route,
    docs: &Docs,
    schemas: &Schemas,
    examples: &Examples<'_>,
) -> BTreeMap<String, Value> {
    let success = if docs.redirects {
        ("302".to_owned(), redirect())
    } else {
        ("200".to_owned(), success(docs, schemas, examples))
    };
    let mut responses = BTreeMap::from([success]);
    if docs.revalidated {
        responses.insert("304".to_owned(), not_modified(docs));
    }
    let errors = error_codes(route).into_iter();
    responses
        .extend(errors.map(|(status, codes)| (status.to_string(), reference("responses", &name(&codes)))));
    responses
}

/// The codes that an operation may return, by status.
fn error_codes(route: &Route) -> BTreeMap<u16, Vec<Code>> {
    let mut by_status = BTreeMap::<u16, Vec<Code>>::new();
    for code in Code::ALL.into_iter().filter(|code| route.may_return(*code)) {
        by_status.entry(status(code).as_u16()).or_default().push(code);
    }
    by_status
}

/// The error responses of all routes, by component name.
pub(super) fn shared<'a>(routes: impl Iterator<Item = &'a Route>) -> BTreeMap<String, Value> {
    let codes = routes.flat_map(|route| error_codes(route).into_values());
    codes.map(|codes| (name(&codes), error_response(&codes))).collect()
}

fn name(codes: &[Code]) -> String {
    codes.iter().map(|code| code.as_str()).collect::<Vec<_>>().join("_OR_")
}

fn success(docs: &Docs, schemas: &Schemas, examples: &Examples<'_>) -> Value {
    let mut headers = shared_headers();
    if docs.sets_cookies {
        headers.insert("Set-Cookie".to_owned(), reference("headers", "Set-Cookie"));
    }
    if docs.parameters.iter().any(|parameter| parameter["name"] == IdempotencyKey::HEADER) {
        headers.insert("Idempotency-Replayed".to_owned(), reference("headers", "Idempotency-Replayed"));
    }
    if docs.revalidated {
        headers.extend(revalidated_headers(docs));
        headers.insert("Content-Encoding".to_owned(), reference("headers", "Content-Encoding"));
    }
    let content = match (docs.stream, &docs.data) {
        // OpenAPI 3.1 cannot describe a single event, and tools differ on whether a schema describes the whole body
        (Some((events @ "text/event-stream", description)), _) => {
            json!({events: {"schema": {"description": description}}})
        }
        (Some((media_type, description)), _) => {
            json!({media_type: {"schema": {"type": "string", "description": description}}})
        }
        (None, Value::Null) => json!({"application/json": {"schema": {"type": "object"}}}),
        (None, data) => {
            let schema = envelope(schemas.flat(data));
            let example = examples.response(&schema);
            json!({"application/json": {"schema": schema, "example": example}})
        }
    };
    json!({"description": "Success", "headers": headers, "content": content})
}

/// The schema of a success: the envelope around `data`.
fn envelope(mut data: Value) -> Value {
    data["description"] = "The requested data.".into();
    data["properties"]["warnings"] = json!({
        "type": "array", "items": {"type": "string"},
        "description": "Warnings; absent when there are none.",
    });
    json!({
        "type": "object",
        "required": ["success", "data", "message"],
        "properties": {
            "success": {"const": true, "type": "boolean", "description": "Always true."},
            "data": data,
            "message": {"type": "string", "description": "Short description of the result."},
        },
    })
}

/// The error response of one status, with one of these codes.
fn error_response(codes: &[Code]) -> Value {
    let causes = || Cause::ALL.iter().copied().filter(|cause| codes.contains(&cause.code()));
    let example =
        |cause: Cause| ApiError::from(Error::new(cause).read_only()).envelope(Language::English, "0b1c7d9e");
    let lines = causes()
        .map(|cause| format!("- {} `{}`: {}", cause.code().as_str(), cause.as_str(), example(cause).details));
    let examples = causes().map(|cause| {
        (cause.as_str().to_owned(), json!({"summary": cause.code().as_str(), "value": example(cause)}))
    });
    let names = codes.iter().map(|code| code.as_str()).collect::<Vec<_>>();
    let mut headers = shared_headers();
    for (code, header) in [
        (Code::RateLimited, "Retry-After"),
        (Code::ServiceUnavailable, "Retry-After"),
        (Code::ConnectionError, "Retry-After"),
        (Code::MethodNotAllowed, "Allow"),
        (Code::AuthenticationError, "WWW-Authenticate"),
    ] {
        if codes.contains(&code) {
            headers.insert(header.to_owned(), reference("headers", header));
        }
    }
    json!({
        "description": format!("{}\n\n{}", names.join(", "), lines.collect::<Vec<_>>().join("\n")),
        "x-error-codes": names,
        "headers": headers,
        "content": {"application/json": {
            "schema": reference("schemas", "ErrorReply"),
            "examples": examples.collect::<Map<_, _>>(),
        }},
    })
}

/// The 302 response, which sets a cookie.
fn redirect() -> Value {
    let mut headers = shared_headers();
    for name in ["Location", "Set-Cookie"] {
        headers.insert(name.to_owned(), reference("headers", name));
    }
    json!({"description": "The browser goes to the location.", "headers": headers})
}

/// The 304 response.
fn not_modified(docs: &Docs) -> Value {
    let mut headers = shared_headers();
    headers.extend(revalidated_headers(docs));
    json!({"description": "The page is unchanged since the response with this `ETag`.", "headers": headers})
}

/// The headers of a list response; `X-As-Of` only where the data has `as_of`.
fn revalidated_headers(docs: &Docs) -> Map<String, Value> {
    let as_of = docs.data["properties"]["as_of"].is_object().then_some("X-As-Of");
    let names = ["ETag", "Vary"].into_iter().chain(as_of);
    names.map(|name| (name.to_owned(), reference("headers", name))).collect()
}

/// The headers of every response.
fn shared_headers() -> Map<String, Value> {
    ["X-Request-Id", "Cache-Control", "X-Content-Type-Options"]
        .map(|name| (name.to_owned(), reference("headers", name)))
        .into_iter()
        .collect()
}

/// The header components.
pub(super) fn headers() -> Value {
    let text = json!({"type": "string"});
    json!({
        "X-Request-Id": {"description": "The request id, as in the log and the audit trail.", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}},
        "Cache-Control": {"description": "`no-store`; for a page of a list `private, no-cache`: it may be cached, but is revalidated each time with `If-None-Match`.", "schema": text},
        "X-Content-Type-Options": {"description": "`nosniff`.", "schema": text},
        "ETag": {"description": "Weak tag of the page without `as_of`, for `If-None-Match`.", "schema": text},
        "Vary": {"description": "The request headers that change the response.", "schema": text},
        "X-As-Of": {"description": "The same as `as_of`; also present without a body.", "schema": {"type": "string", "format": "date-time"}},
        "Content-Encoding": {"description": "`gzip` for a page of 4 KiB or more, if the client accepts it.", "required": false, "schema": text},
        "Set-Cookie": {"description": "The session: `session_id=…; HttpOnly; SameSite=Strict; Path=/`, and the refresh token of a browser: `refresh_token=…; HttpOnly; SameSite=Strict; Path=/api/auth/refresh`; or the cookie of a sign-in at an identity provider; each with `Secure` unless served on loopback without TLS.", "schema": text},
        "Location": {"description": "The address to which the browser goes.", "schema": text},
        "Idempotency-Replayed": {"description": "`true` when the response is the stored one of an earlier request with the same `Idempotency-Key`.", "required": false, "schema": text},
        "Retry-After": {"description": "Seconds to wait before a retry, at least 1; always present with RATE_LIMITED and SERVICE_UNAVAILABLE, and while the circuit of a cluster is open.", "schema": {"type": "integer", "minimum": 1}},
        "Allow": {"description": "The methods that the path supports.", "schema": text},
        "WWW-Authenticate": {"description": "`Bearer`.", "schema": text},
    })
}
