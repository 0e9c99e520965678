//! Core's error on its way out: the status of each code, and the envelope.

use std::fmt;

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header},
};
use pilothouse_core::{
    Cause, Code, Error,
    access::Role,
    error::{Reason, Source},
};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, schema::Type},
};

use crate::messages::{Explanation, Language};

/// The result of every handler and extractor.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Core's error as actix-web takes one. [`crate::middleware`] writes the envelope, for it alone knows language and request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What happened.
    pub(crate) error: Error,
    /// The methods that the path takes, for the header `Allow` of a 405.
    pub(crate) allow: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, allow: None }
    }
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Error::new(cause).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        status(self.error.code())
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// The status of each code, as in the contract's table.
pub(crate) const fn status(code: Code) -> StatusCode {
    match code {
        Code::ValidationError => StatusCode::BAD_REQUEST,
        Code::AuthenticationError => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceNotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::ConflictError => StatusCode::CONFLICT,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        Code::ConnectionError | Code::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::TimeoutError => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Every error. `message`, `details` and `suggestions` are for people and translated, the rest is for machines.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorReply {
    /// Always false.
    success: bool,
    /// One of a closed list.
    #[schema(schema_with = codes)]
    error_code: Code,
    /// What happened, in a few words.
    message: String,
    /// What happened to what; never empty.
    pub(crate) details: String,
    /// What to do about it; at least one.
    suggestions: Vec<String>,
    /// For machines: never translated.
    context: ErrorContext,
    /// As in `X-Request-Id`, the log and the audit trail.
    request_id: String,
}

/// To what it happened; only what is known is there.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorContext {
    /// What happened, one level finer than `error_code`.
    #[schema(schema_with = causes)]
    cause: &'static str,
    /// `us`, or `cluster` when the cluster or the way to it refused.
    #[schema(schema_with = sources)]
    source: &'static str,
    /// The fields refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    fields: Vec<FieldReply>,
    /// The lowest role that may do it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Role, required = false, nullable = false)]
    required_role: Option<&'static str>,
    /// The verb refused, as RBAC names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    verb: Option<String>,
    /// The kind of thing, in lower case and singular.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    resource: Option<String>,
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    namespace: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    name: Option<String>,
    /// The pod that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    pod: Option<String>,
}

/// A field refused.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldReply {
    /// Its path, as the caller wrote it.
    name: String,
    /// Why: one of a closed list of words.
    #[schema(schema_with = reasons)]
    reason: &'static str,
}

fn codes() -> Object {
    one_of("One of a closed list.", Code::ALL.map(Code::as_str))
}

fn causes() -> Object {
    one_of("What happened, one level finer than `error_code`.", Cause::ALL.iter().map(|cause| cause.as_str()))
}

fn sources() -> Object {
    let sources = [Source::Server, Source::Cluster].map(Source::as_str);
    one_of("`us` for Pilothouse, `cluster` for the cluster or the connection to it.", sources)
}

fn reasons() -> Object {
    one_of("Why.", Reason::ALL.map(Reason::as_str))
}

fn one_of(description: &str, words: impl IntoIterator<Item = &'static str>) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    text.enum_values(Some(words.into_iter().collect::<Vec<_>>())).build()
}

impl Failure {
    /// The body of the answer.
    pub(crate) fn envelope(&self, language: Language, request_id: &str) -> ErrorReply {
        let Error { cause, context } = &self.error;
        let Explanation { message, details, suggestions } =
            language.words().explain(&self.error, self.retry_after());
        let fields = context
            .fields
            .iter()
            .map(|field| FieldReply { name: field.name.clone(), reason: field.reason.as_str() });
        ErrorReply {
            success: false,
            error_code: cause.code(),
            message,
            details,
            suggestions,
            context: ErrorContext {
                cause: cause.as_str(),
                source: cause.source().as_str(),
                fields: fields.collect(),
                required_role: context.required_role.map(|role| role.as_str()),
                verb: context.verb.clone(),
                resource: context.resource.clone(),
                namespace: context.namespace.clone(),
                name: context.name.clone(),
                pod: context.pod.clone(),
            },
            request_id: request_id.to_owned(),
        }
    }

    /// The whole answer but for the headers that every reply has.
    pub(crate) fn render(&self, language: Language, request_id: &str) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status_code());
        if let Some(seconds) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        if self.error.code() == Code::AuthenticationError {
            // RFC 9110 asks for a challenge with every 401
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self.envelope(language, request_id))
    }

    /// Whole seconds, at least one; always there where the contract promises the header.
    fn retry_after(&self) -> Option<u64> {
        let promised = matches!(self.error.code(), Code::RateLimited | Code::ServiceUnavailable)
            || self.error.cause == Cause::CircuitOpen;
        let known =
            self.error.context.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        known.or(promised.then_some(1)).map(|seconds| seconds.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use pilothouse_core::error::Reason;

    use super::*;

    #[test]
    fn the_page_on_the_api_says_of_every_code_and_cause_what_callers_are_told() {
        let page = include_str!("../../../docs/api.md");
        let words: toml::Table = toml::from_str(include_str!("locales/en.toml")).unwrap();
        let of = |line: &str, code: &Code| line.starts_with(&format!("| {} |", code.as_str()));
        let mut rows: BTreeSet<_> =
            page.lines().filter(|line| Code::ALL.iter().any(|code| of(line, code))).collect();
        for cause in Cause::ALL {
            let (code, word, source) = (cause.code(), cause.as_str(), cause.source().as_str());
            let status = status(code).as_u16();
            let details = words["causes"][word]["details"].as_str().unwrap();
            let row = format!("| {} | {status} | {word} | {source} | {details} |", code.as_str());
            assert!(rows.remove(&*row), "docs/api.md lacks\n{row}");
        }
        assert!(rows.is_empty(), "docs/api.md tells of causes that there are not: {rows:#?}");
        for reason in Reason::ALL {
            assert!(page.contains(&format!("`{reason}`")), "docs/api.md lacks {reason}");
        }
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let table = Code::ALL.map(|code| (code.as_str(), status(code).as_u16()));
        assert_eq!(
            table,
            [
                ("VALIDATION_ERROR", 400),
                ("AUTHENTICATION_ERROR", 401),
                ("PERMISSION_DENIED", 403),
                ("RESOURCE_NOT_FOUND", 404),
                ("METHOD_NOT_ALLOWED", 405),
                ("CONFLICT_ERROR", 409),
                ("PAYLOAD_TOO_LARGE", 413),
                ("UNSUPPORTED_MEDIA_TYPE", 415),
                ("RATE_LIMITED", 429),
                ("INTERNAL_ERROR", 500),
                ("CONNECTION_ERROR", 503),
                ("SERVICE_UNAVAILABLE", 503),
                ("TIMEOUT_ERROR", 504),
            ]
        );
    }

    #[test]
    fn retry_after_is_whole_seconds_and_there_where_promised() {
        let seconds = |error: Error| Failure::from(error).retry_after();
        let wait = Error::new(Cause::TooManyLogins).retry_after(Duration::from_millis(1500));
        assert_eq!(seconds(wait), Some(2));
        assert_eq!(seconds(Error::new(Cause::Overloaded).retry_after(Duration::ZERO)), Some(1));
        assert_eq!(seconds(Error::new(Cause::Unreachable)), None);
        for &cause in Cause::ALL {
            let promised = matches!(cause.code(), Code::RateLimited | Code::ServiceUnavailable);
            assert!(!promised || seconds(Error::new(cause)).is_some(), "{cause:?}");
        }
    }
}
