//! Error responses: the HTTP status of each of core's codes, and the error envelope.

use std::fmt;

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{StatusCode, header},
};
use pilothouse_core::{
    Cause, Code, Error,
    error::{ErrorSource, MissingRight, Reason},
    role::Role,
};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, schema::Type},
};

use crate::{language::Language, messages::Explanation};

/// The result of every handler and extractor.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Core's error as an actix-web error. [`crate::middleware`] writes its envelope in the language of the request.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    /// The error.
    pub(crate) error: Error,
    /// The methods that the path supports, for the header `Allow` of a 405.
    pub(crate) allow: Option<String>,
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self { error, allow: None }
    }
}

impl From<Cause> for ApiError {
    fn from(cause: Cause) -> Self {
        Error::new(cause).into()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        status(self.error.code())
    }

    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// The HTTP status of each code, as in the table of the contract.
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

/// An error. `message`, `details` and `suggestions` are translated texts for people; the other fields are for programs.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorReply {
    /// Always false.
    success: bool,
    /// The error code, one of a closed list.
    #[schema(schema_with = codes)]
    error_code: Code,
    /// Short description of the error.
    message: String,
    /// Description of the error and of the affected object; never empty.
    pub(crate) details: String,
    /// Possible next steps; at least one.
    suggestions: Vec<String>,
    /// Details for programs; never translated.
    context: ErrorContext,
    /// The request id, as in `X-Request-Id`, the log and the audit trail.
    request_id: String,
}

/// The cause of an error and the affected object. A field without a value is omitted.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorContext {
    /// The cause, more specific than `error_code`.
    #[schema(schema_with = causes)]
    cause: &'static str,
    /// `us` for Pilothouse, `cluster` for the cluster or the connection to it.
    #[schema(schema_with = sources)]
    source: &'static str,
    /// The refused fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    fields: Vec<FieldReply>,
    /// The lowest role that permits the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Role, required = false, nullable = false)]
    required_role: Option<&'static str>,
    /// The right that the caller lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = MissingRightReply, required = false, nullable = false)]
    missing: Option<MissingRightReply>,
    /// The refused verb, as in RBAC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    verb: Option<String>,
    /// The kind of the object, in lower case and singular.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    resource: Option<String>,
    /// The namespace of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    namespace: Option<String>,
    /// The name of the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    name: Option<String>,
    /// The pod that contains the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false)]
    pod: Option<String>,
}

/// A right that the caller lacks.
#[derive(Serialize, ToSchema)]
pub(crate) struct MissingRightReply {
    /// The verb: `list`, `scale`.
    verb: String,
    /// The resource: `workloads`.
    resource: String,
    /// The cluster; null for a right on all clusters.
    cluster_id: Option<i64>,
    /// The namespace; null unless the request was for one.
    namespace: Option<String>,
}

/// A refused field.
#[derive(Serialize, ToSchema)]
pub(crate) struct FieldReply {
    /// The path of the field in the request.
    name: String,
    /// The reason, one of a closed list.
    #[schema(schema_with = reasons)]
    reason: &'static str,
}

impl From<MissingRight> for MissingRightReply {
    fn from(right: MissingRight) -> Self {
        let MissingRight { verb, resource, cluster_id, namespace } = right;
        Self { verb, resource, cluster_id: cluster_id.map(|id| id.0), namespace }
    }
}

fn codes() -> Object {
    one_of("The error code, one of a closed list.", Code::ALL.map(Code::as_str))
}

fn causes() -> Object {
    one_of("The cause, more specific than `error_code`.", Cause::ALL.iter().map(|cause| cause.as_str()))
}

fn sources() -> Object {
    let sources = [ErrorSource::Server, ErrorSource::Cluster].map(ErrorSource::as_str);
    one_of("`us` for Pilothouse, `cluster` for the cluster or the connection to it.", sources)
}

fn reasons() -> Object {
    one_of("The reason, one of a closed list.", Reason::ALL.map(Reason::as_str))
}

fn one_of(description: &str, values: impl IntoIterator<Item = &'static str>) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).description(Some(description));
    text.enum_values(Some(values.into_iter().collect::<Vec<_>>())).build()
}

impl ApiError {
    /// The body of the response.
    pub(crate) fn envelope(&self, language: Language, request_id: &str) -> ErrorReply {
        let Error { cause, context } = &self.error;
        let Explanation { message, details, suggestions } =
            language.catalog().explain(&self.error, self.retry_after());
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
                required_role: context.required_role.map(pilothouse_core::role::Role::as_str),
                missing: context.missing.clone().map(MissingRightReply::from),
                verb: context.verb.clone(),
                resource: context.resource.clone(),
                namespace: context.namespace.clone(),
                name: context.name.clone(),
                pod: context.pod.clone(),
            },
            request_id: request_id.to_owned(),
        }
    }

    /// The response, without the headers that the middleware adds.
    pub(crate) fn render(&self, language: Language, request_id: &str) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status_code());
        if let Some(seconds) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Some(allow) = &self.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        if self.error.code() == Code::AuthenticationError {
            // RFC 9110, 15.5.2 requires a challenge with every 401
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self.envelope(language, request_id))
    }

    /// The header `Retry-After` in whole seconds, at least 1; always present where the contract promises it.
    fn retry_after(&self) -> Option<u64> {
        let required = matches!(self.error.code(), Code::RateLimited | Code::ServiceUnavailable)
            || self.error.cause == Cause::CircuitOpen;
        let given =
            self.error.context.retry_after.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        given.or(required.then_some(1)).map(|seconds| seconds.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fmt::Write as _, fs, time::Duration};

    use pilothouse_core::error::Reason;

    use super::*;

    /// The page that contains the table of causes.
    const API_MD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");

    /// `just error-table` writes the table of causes to docs/api.md instead.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "UPDATE is set by hand for a test run")]
    fn table_of_causes_in_api_md_is_current() {
        let page = fs::read_to_string(API_MD).unwrap();
        let table_start = page.find("| error_code |").unwrap();
        let (before, table) = page.split_at(table_start);
        let after: String = table.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
        let mut current =
            format!("{before}| error_code | status | cause | source | details |\n|---|---|---|---|---|\n");
        let catalog: toml::Table = toml::from_str(include_str!("locales/en.toml")).unwrap();
        for cause in Cause::ALL {
            let (code, name, source) = (cause.code(), cause.as_str(), cause.source().as_str());
            let details = catalog["causes"][name]["details"].as_str().unwrap();
            writeln!(current, "| {code} | {} | {name} | {source} | {details} |", status(code).as_u16())
                .unwrap();
        }
        current.push_str(&after);
        if env::var_os("UPDATE").is_some() {
            fs::write(API_MD, current).unwrap();
        } else {
            assert!(page == current, "docs/api.md is out of date: just error-table");
        }
    }

    #[test]
    fn every_reason_is_in_api_md() {
        let page = fs::read_to_string(API_MD).unwrap();
        for reason in Reason::ALL {
            assert!(page.contains(&format!("`{reason}`")), "docs/api.md lacks {reason}");
        }
    }

    #[test]
    fn retry_after_is_whole_seconds_and_present_where_required() {
        let seconds = |error: Error| ApiError::from(error).retry_after();
        let wait = Error::new(Cause::TooManyLogins).retry_after(Duration::from_millis(1500));
        assert_eq!(seconds(wait), Some(2));
        assert_eq!(seconds(Error::new(Cause::Overloaded).retry_after(Duration::ZERO)), Some(1));
        assert_eq!(seconds(Error::new(Cause::Unreachable)), None);
        for &cause in Cause::ALL {
            let required = matches!(cause.code(), Code::RateLimited | Code::ServiceUnavailable);
            assert!(!required || seconds(Error::new(cause)).is_some(), "{cause:?}");
        }
    }
}
