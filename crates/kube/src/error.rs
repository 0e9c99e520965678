//! The one mapping inward: what a cluster answers, as errors of the core.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use kube::core::{
    Status,
    response::{StatusCause, reason},
};
use pilothouse_core::{
    Cause, Error,
    error::{FieldError, Reason, clean_message},
    kind::Kind,
};

use crate::{request::Call, transport::ExchangeError};

/// When to try again if the cluster does not say.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause passed on: what a cluster asks beyond it is nonsense or an attack.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);
/// The cause by which the API server refuses new objects in a namespace that is being deleted
/// (`k8s.io/api/core/v1.NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
/// How the API server begins when a new object's name is that of one on its way out
/// (`k8s.io/apiserver/pkg/registry/generic/registry.Store.Create`); the reason is `AlreadyExists` all the same.
const BEING_DELETED: &str = "object is being deleted";
/// The most refused fields passed on.
const MOST_FIELDS: usize = 32;

/// Why a call has no good answer. As an [`Error`] it is what the core is told; its parts are for callers that expect it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// What the core is told.
    pub(crate) error: Error,
    /// The status of the answer; none without one.
    pub(crate) code: Option<StatusCode>,
    /// What the cluster said in words, as it came.
    pub(crate) said: String,
    /// The pause the cluster asks for.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the answer was longer than what is read of one.
    pub(crate) too_long: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, code: None, said: String::new(), retry_after: None, too_long: false }
    }
}

impl From<ExchangeError> for Failure {
    fn from(broken: ExchangeError) -> Self {
        let error = Error::new(broken.cause());
        let error = if matches!(broken, ExchangeError::NotConnected(_)) { error.read_only() } else { error };
        Self { too_long: broken == ExchangeError::TooLong, ..error.into() }
    }
}

impl Failure {
    /// Whether the answer had this status.
    pub(crate) fn is(&self, code: StatusCode) -> bool {
        self.code == Some(code)
    }

    /// Whether the object or its namespace is absent, as the API server itself says it.
    pub(crate) fn is_absence(&self) -> bool {
        self.error.cause == Cause::NotFoundInCluster
    }

    /// Reads a refusal: an answer of 400 or more, with as much of its body as was read. One that has a text which must
    /// not be told, as `secret` says, has no text.
    pub(crate) fn refused(
        call: &Call,
        code: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        secret: impl Fn(&str) -> bool,
    ) -> Self {
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let status = status.filter(|status| status.code != 0 && !told(status).any(&secret));
        let seconds = status
            .as_ref()
            .and_then(|status| status.details.as_ref())
            .map(|details| details.retry_after_seconds);
        let retry_after = retry_after(headers)
            .or_else(|| {
                seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()))
            })
            .map(|pause| pause.min(LONGEST_RETRY));
        let mut error = error(call, code, status.as_ref());
        if error.cause == Cause::RateLimitedByCluster {
            error = error.retry_after(retry_after.unwrap_or(RETRY));
        }
        Self {
            error,
            code: Some(code),
            said: status.map(|status| status.message).unwrap_or_default(),
            retry_after,
            too_long: false,
        }
    }
}

/// Whole seconds only. A date is not read: clocks differ, and API servers send seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn error(call: &Call, code: StatusCode, status: Option<&Status>) -> Error {
    let said = match call.kind {
        // it may quote what was sent
        Some(Kind::Secret) => "",
        _ => status.map(|status| status.message.as_str()).unwrap_or_default(),
    };
    match code {
        StatusCode::UNAUTHORIZED => Error::new(Cause::CredentialRejected),
        StatusCode::FORBIDDEN if has_cause(status, NAMESPACE_TERMINATING) => {
            about(Cause::NamespaceTerminating, call).message(said)
        }
        // as the quota plugin writes it; it has no reason of its own
        StatusCode::FORBIDDEN if status.is_some_and(|status| status.message.contains("exceeded quota")) => {
            about(Cause::QuotaExceeded, call).message(said)
        }
        StatusCode::FORBIDDEN => {
            about(Cause::ForbiddenByCluster, call).resource(call.resource).verb(call.verb).message(said)
        }
        StatusCode::TOO_MANY_REQUESTS => about(Cause::RateLimitedByCluster, call),
        code if code.is_server_error() => about(Cause::FailingCluster, call).message(said),
        // what is not said by an API server is said by something in its place
        _ if status.is_none() => Error::new(Cause::UnexpectedAnswer),
        StatusCode::NOT_FOUND => absent(call, status),
        StatusCode::CONFLICT if status.is_some_and(|status| status.reason == reason::ALREADY_EXISTS) => {
            let going = status.is_some_and(|status| status.message.starts_with(BEING_DELETED));
            let gone_soon = call.kind == Some(Kind::Namespace) && going;
            about(if gone_soon { Cause::NamespaceTerminating } else { Cause::AlreadyExists }, call)
        }
        StatusCode::CONFLICT => about(Cause::ConflictInCluster, call).message(said),
        _ => {
            let mut error = about(Cause::RejectedByCluster, call).message(said);
            error.context.fields = fields(status);
            error
        }
    }
}

/// An error with what the call was about.
pub(crate) fn about(cause: Cause, call: &Call) -> Error {
    let mut error = Error::new(cause).resource(call.kind.map_or(call.resource, |kind| kind.info().singular));
    error.context.namespace = call.namespace.as_ref().map(ToString::to_string);
    error.context.name = call.name.as_ref().map(ToString::to_string);
    error
}

/// What is absent: the object, or the namespace it was to be made in.
fn absent(call: &Call, status: Option<&Status>) -> Error {
    let details = status.and_then(|status| status.details.as_ref());
    let namespace_missing = details.is_some_and(|details| details.kind == Kind::Namespace.info().plural);
    match &call.namespace {
        Some(namespace) if namespace_missing => Error::new(Cause::NotFoundInCluster)
            .resource(Kind::Namespace.info().singular)
            .name(namespace.as_str()),
        _ => about(Cause::NotFoundInCluster, call),
    }
}

fn causes(status: Option<&Status>) -> &[StatusCause] {
    status.and_then(|status| status.details.as_ref()).map(|details| &details.causes[..]).unwrap_or_default()
}

fn has_cause(status: Option<&Status>, reason: &str) -> bool {
    causes(status).iter().any(|cause| cause.reason == reason)
}

/// The texts of a refusal that are passed on.
fn told(status: &Status) -> impl Iterator<Item = &str> {
    let fields = causes(Some(status)).iter().map(|cause| cause.field.as_str());
    [status.message.as_str()].into_iter().chain(fields)
}

/// The refused fields, as `k8s.io/apimachinery/pkg/util/validation/field` names them and why.
fn fields(status: Option<&Status>) -> Vec<FieldError> {
    let named = causes(status).iter().filter(|cause| !cause.field.is_empty());
    let field = |cause: &StatusCause| FieldError {
        name: clean_message(&cause.field),
        reason: match cause.reason.as_str() {
            "FieldValueRequired" => Reason::Required,
            "FieldValueDuplicate" => Reason::Duplicate,
            "FieldValueNotSupported" => Reason::NotOneOf,
            "FieldValueForbidden" => Reason::NotAllowed,
            "FieldValueTooLong" | "FieldValueTooMany" => Reason::TooLong,
            "FieldValueTypeInvalid" => Reason::InvalidType,
            _ => Reason::Malformed,
        },
    };
    named.take(MOST_FIELDS).map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilothouse_core::name::{NamespaceScope, ObjectName};

    /// The first two bytes are the status. Whatever the cluster says, what is passed on is clean, and of a Secret nothing.
    #[test]
    fn fuzz_refusals() {
        let words = [
            "\"kind\":\"Status\"",
            "\"code\":409",
            "\"reason\":\"AlreadyExists\"",
            "\"message\":\"",
            "\"details\":{",
            "\"causes\":[{\"field\":\"",
            "\"retryAfterSeconds\":-1",
            "exceeded quota",
            "\\u001b[31m",
            "\\u202e",
            "canary",
        ];
        let name = ObjectName::new("name").unwrap();
        let namespace = pilothouse_core::name::Namespace::new("shop").unwrap();
        let calls =
            [Kind::Secret, Kind::ConfigMap].map(|kind| Call::get(kind, Some(&namespace), &name).unwrap());
        let list = Call::list(Kind::Pod, &NamespaceScope::All, &Default::default()).unwrap();
        pilothouse_fuzz::fuzz("refusals", &words, |input| {
            let (status, body) = input.split_at(input.len().min(2));
            let status = status.iter().fold(0, |status, byte| status * 256 + u16::from(*byte));
            let code = StatusCode::from_u16(400 + status % 200).unwrap();
            for call in calls.iter().chain([&list]) {
                let failure =
                    Failure::refused(call, code, &HeaderMap::new(), body, |text| text.contains("canary"));
                let context = &failure.error.context;
                let texts = context.message.iter().chain(context.fields.iter().map(|field| &field.name));
                for text in texts {
                    assert!(!text.contains("canary") && !text.chars().any(char::is_control), "{text:?}");
                    assert!(text.len() < 8192, "{} bytes", text.len());
                }
                assert!(context.message.is_none() || call.kind != Some(Kind::Secret));
                assert!(context.fields.len() <= MOST_FIELDS);
                assert!(failure.retry_after.is_none_or(|pause| pause <= LONGEST_RETRY));
            }
        });
    }
}
