//! Maps responses of a cluster and transport failures to errors of the core.

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
    name::{Namespace, ObjectName},
};

use crate::{
    apiserver_messages,
    request::{Call, POD_EVICTION, POD_RESIZE},
    transport::ExchangeError,
};

/// Pause after a 429 without `Retry-After`.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is passed on: a larger one is an error or an attack.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Cause in the `Status` that refuses a new object in a namespace that is being deleted
/// (`k8s.io/api/core/v1.NamespaceTerminatingCause`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
/// Cause in the `Status` that refuses an eviction because of a PodDisruptionBudget
/// (`k8s.io/api/policy/v1.DisruptionBudgetCause`).
const DISRUPTION_BUDGET: &str = "DisruptionBudget";
/// Causes in the `Status` with which the admission of pods refuses a resize
/// (`k8s.io/kubernetes/plugin/pkg/admission/podresize`).
const RESIZE_REFUSALS: [&str; 2] = ["NodeCapacity", "UnsupportedPlatform"];
/// Maximum number of rejected fields that are passed on.
const MAX_FIELDS: usize = 32;

/// Failure of a call. Converts into the [`Error`] for the core; its other fields serve callers that expect certain
/// failures.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The error for the core.
    pub(crate) error: Error,
    /// The HTTP status; none without a response.
    pub(crate) code: Option<StatusCode>,
    /// The cluster's message, unfiltered.
    pub(crate) cluster_message: String,
    /// The cluster's `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the response was longer than the call's limit.
    pub(crate) too_long: bool,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, code: None, cluster_message: String::new(), retry_after: None, too_long: false }
    }
}

impl From<ExchangeError> for Failure {
    fn from(exchange_error: ExchangeError) -> Self {
        let error = Error::new(exchange_error.cause());
        let error =
            if matches!(exchange_error, ExchangeError::NotConnected(_)) { error.read_only() } else { error };
        Self { too_long: exchange_error == ExchangeError::TooLong, ..error.into() }
    }
}

impl Failure {
    /// Whether the response had this status.
    pub(crate) fn is(&self, code: StatusCode) -> bool {
        self.code == Some(code)
    }

    /// Whether the object or its namespace does not exist, according to a `Status` of the API server.
    pub(crate) fn is_not_found(&self) -> bool {
        self.error.cause == Cause::NotFoundInCluster
    }

    /// Parses an error response (400 or above) from the part of its body that was read. Drops the whole `Status` if
    /// `is_secret` matches one of its texts.
    pub(crate) fn refused(
        call: &Call,
        code: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        is_secret: impl Fn(&str) -> bool,
    ) -> Self {
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let status = status.filter(|status| status.code != 0 && !passed_on_texts(status).any(&is_secret));
        let seconds = status
            .as_ref()
            .and_then(|status| status.details.as_ref())
            .map(|details| details.retry_after_seconds);
        let retry_after = retry_after(headers)
            .or_else(|| {
                seconds.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()))
            })
            .map(|pause| pause.min(MAX_RETRY_AFTER));
        let mut error = error(call, code, status.as_ref());
        if error.cause == Cause::RateLimitedByCluster {
            error = error.retry_after(retry_after.unwrap_or(DEFAULT_RETRY_AFTER));
        }
        Self {
            error,
            code: Some(code),
            cluster_message: status.map(|status| status.message).unwrap_or_default(),
            retry_after,
            too_long: false,
        }
    }
}

/// The `Retry-After` header, if it is a number of seconds. Dates are ignored: clocks differ, and API servers send
/// seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn error(call: &Call, code: StatusCode, status: Option<&Status>) -> Error {
    let cluster_message = match call.kind {
        // the message may quote the values that were sent
        Some(Kind::Secret) => "",
        _ => status
            .map(|status| apiserver_messages::without_patched_object(&status.message))
            .unwrap_or_default(),
    };
    match code {
        StatusCode::UNAUTHORIZED => Error::new(Cause::CredentialRejected),
        StatusCode::FORBIDDEN if has_cause(status, NAMESPACE_TERMINATING) => {
            about(Cause::NamespaceTerminating, call).message(cluster_message)
        }
        StatusCode::FORBIDDEN
            if status.is_some_and(|status| apiserver_messages::is_quota_exceeded(&status.message)) =>
        {
            about(Cause::QuotaExceeded, call).message(cluster_message)
        }
        StatusCode::FORBIDDEN
            if call.resource == POD_RESIZE
                && RESIZE_REFUSALS.iter().any(|cause| has_cause(status, cause)) =>
        {
            about(Cause::RejectedByCluster, call).message(cluster_message)
        }
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
            if call.resource == POD_EVICTION && has_cause(status, DISRUPTION_BUDGET) =>
        {
            let numbers = causes(status).iter().find(|cause| cause.reason == DISRUPTION_BUDGET);
            let numbers = numbers.map(|cause| cause.message.as_str()).filter(|text| !text.is_empty());
            about(Cause::EvictRefused, call).message(numbers.unwrap_or(cluster_message))
        }
        // several budgets select the pod: nothing was done
        StatusCode::INTERNAL_SERVER_ERROR
            if call.resource == POD_EVICTION && apiserver_messages::has_several_budgets(cluster_message) =>
        {
            about(Cause::EvictRefused, call).message(cluster_message)
        }
        // the pod was read before, so the server does not have the subresource
        StatusCode::NOT_FOUND
            if call.resource == POD_RESIZE && apiserver_messages::is_unknown_path(cluster_message) =>
        {
            about(Cause::ClusterTooOld, call).resource(POD_RESIZE)
        }
        StatusCode::FORBIDDEN => about(Cause::ForbiddenByCluster, call)
            .resource(call.resource)
            .verb(call.verb)
            .message(cluster_message),
        StatusCode::TOO_MANY_REQUESTS => about(Cause::RateLimitedByCluster, call),
        code if code.is_server_error() => about(Cause::FailingCluster, call).message(cluster_message),
        // without a `Status` the response is not an API server's
        _ if status.is_none() => Error::new(Cause::UnexpectedAnswer),
        StatusCode::NOT_FOUND => not_found(call, status),
        StatusCode::CONFLICT if status.is_some_and(|status| status.reason == reason::ALREADY_EXISTS) => {
            let is_terminating =
                status.is_some_and(|status| apiserver_messages::is_being_deleted(&status.message));
            let namespace_terminating = call.kind == Some(Kind::Namespace) && is_terminating;
            about(
                if namespace_terminating { Cause::NamespaceTerminating } else { Cause::AlreadyExists },
                call,
            )
        }
        StatusCode::UNPROCESSABLE_ENTITY
            if call.verb == "patch"
                && status.is_some_and(|status| apiserver_messages::is_patch_not_applied(&status.message)) =>
        {
            about(Cause::Modified, call)
        }
        StatusCode::CONFLICT => about(Cause::ConflictInCluster, call).message(cluster_message),
        _ => {
            let mut error = about(Cause::RejectedByCluster, call).message(cluster_message);
            error.context.fields = fields(status);
            error
        }
    }
}

/// An error with the call's kind, namespace and name.
pub(crate) fn about(cause: Cause, call: &Call) -> Error {
    let resource = call.kind.map_or(call.resource, |kind| kind.info().singular);
    about_object(cause, resource, call.namespace.as_ref(), call.name.as_ref())
}

/// An error with an object's kind, namespace and name.
pub(crate) fn about_object(
    cause: Cause,
    resource: &str,
    namespace: Option<&Namespace>,
    name: Option<&ObjectName>,
) -> Error {
    let mut error = Error::new(cause).resource(resource);
    error.context.namespace = namespace.map(ToString::to_string);
    error.context.name = name.map(ToString::to_string);
    error
}

/// The error for a missing object, or for the missing namespace of a new object.
fn not_found(call: &Call, status: Option<&Status>) -> Error {
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

/// The texts of a `Status` that are passed on.
fn passed_on_texts(status: &Status) -> impl Iterator<Item = &str> {
    let causes = causes(Some(status)).iter();
    let texts = causes.flat_map(|cause| [cause.field.as_str(), cause.message.as_str()]);
    [status.message.as_str()].into_iter().chain(texts)
}

/// The rejected fields and reasons, as in `k8s.io/apimachinery/pkg/util/validation/field`.
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
    named.take(MAX_FIELDS).map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilothouse_core::namespaces::NamespaceScope;

    /// The first two input bytes select the HTTP status. The texts that are passed on contain no control characters,
    /// and none comes from a Secret.
    #[test]
    fn fuzz_refusals() {
        let dictionary = [
            "\"kind\":\"Status\"",
            "\"code\":409",
            "\"reason\":\"AlreadyExists\"",
            "\"message\":\"",
            "\"details\":{",
            "\"causes\":[{\"field\":\"",
            "\"retryAfterSeconds\":-1",
            "exceeded quota",
            "\"reason\":\"DisruptionBudget\"",
            "\\u001b[31m",
            "\\u202e",
            "canary",
        ];
        let name = ObjectName::new("name").unwrap();
        let namespace = Namespace::new("shop").unwrap();
        let calls =
            [Kind::Secret, Kind::ConfigMap].map(|kind| Call::get(kind, Some(&namespace), &name).unwrap());
        let list = Call::list(Kind::Pod, &NamespaceScope::All, &Default::default()).unwrap();
        let evict = Call::evict(&namespace, &name, "u").unwrap();
        pilothouse_fuzz::fuzz("refusals", &dictionary, |input| {
            let (status, body) = input.split_at(input.len().min(2));
            let status = status.iter().fold(0, |status, byte| status * 256 + u16::from(*byte));
            let code = StatusCode::from_u16(400 + status % 200).unwrap();
            for call in calls.iter().chain([&list, &evict]) {
                let failure =
                    Failure::refused(call, code, &HeaderMap::new(), body, |text| text.contains("canary"));
                let context = &failure.error.context;
                let texts = context.message.iter().chain(context.fields.iter().map(|field| &field.name));
                for text in texts {
                    assert!(!text.contains("canary") && !text.chars().any(char::is_control), "{text:?}");
                    assert!(text.len() < 8192, "{} bytes", text.len());
                }
                assert!(context.message.is_none() || call.kind != Some(Kind::Secret));
                assert!(context.fields.len() <= MAX_FIELDS);
                assert!(failure.retry_after.is_none_or(|pause| pause <= MAX_RETRY_AFTER));
            }
        });
    }
}
