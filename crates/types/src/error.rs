//! Error type of all crates. It contains structured data; the HTTP crate writes the messages.
//!
//! An [`Error`] has a [`Cause`] and a [`Context`]. The cause alone determines the public [`Code`], the [`ErrorSource`]
//! and whether a change may have been applied. Adapters map the errors of their libraries to causes; the HTTP crate
//! maps causes to messages and status codes. An error contains no text from a library or from a cluster's response,
//! except [`Context::message`], which is cleaned and never set where a Secret is involved.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{ids::ClusterId, role::Role};

/// Result type of Pilothouse's crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Public error code. The list is closed and defined by the API document and the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Input is missing, malformed, unknown or out of range; also the cluster's 400 and 422.
    ValidationError,
    /// Bearer token or session cookie is missing, invalid, expired, or they belong to different sessions.
    AuthenticationError,
    /// Refused by Pilothouse's roles or by the cluster's RBAC.
    PermissionDenied,
    /// The cluster, namespace, workload, pod, container or path does not exist.
    ResourceNotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// Conflicts: the name is taken, the object was modified, a quota is exceeded, and similar.
    ConflictError,
    /// The body is larger than the endpoint accepts.
    PayloadTooLarge,
    /// A POST whose body is not `application/json`.
    UnsupportedMediaType,
    /// Too many attempts at Pilothouse, or too many requests to the cluster.
    RateLimited,
    /// A defect in Pilothouse.
    InternalError,
    /// The cluster cannot be reached or trusted, or sends an unexpected response.
    ConnectionError,
    /// The database or the audit trail is unavailable, or the server is at a limit.
    ServiceUnavailable,
    /// The cluster did not respond within the deadline.
    TimeoutError,
}

impl Code {
    /// Every code, in the order of the contract's table.
    pub const ALL: [Self; 13] = [
        Self::ValidationError,
        Self::AuthenticationError,
        Self::PermissionDenied,
        Self::ResourceNotFound,
        Self::MethodNotAllowed,
        Self::ConflictError,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::InternalError,
        Self::ConnectionError,
        Self::ServiceUnavailable,
        Self::TimeoutError,
    ];

    /// The value in `error_code`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "VALIDATION_ERROR",
            Self::AuthenticationError => "AUTHENTICATION_ERROR",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceNotFound => "RESOURCE_NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::ConflictError => "CONFLICT_ERROR",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::RateLimited => "RATE_LIMITED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::ConnectionError => "CONNECTION_ERROR",
            Self::ServiceUnavailable => "SERVICE_UNAVAILABLE",
            Self::TimeoutError => "TIMEOUT_ERROR",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Source of an error: Pilothouse or the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorSource {
    /// Pilothouse.
    Server,
    /// The cluster's API server, or the connection to it.
    Cluster,
}

impl ErrorSource {
    /// The value in `context.source`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "us",
            Self::Cluster => "cluster",
        }
    }
}

/// Declares [`Cause`] as one table: variant, value in `context.cause`, code, source.
macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $source:ident;)*) => {
        /// Cause of an error, more specific than [`Code`]. The list is closed: every cause has a message in every
        /// language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)* }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value in `context.cause` and the key of the messages; never translated.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The public code.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The source of the error.
            pub const fn source(self) -> ErrorSource {
                match self { $(Self::$variant => ErrorSource::$source,)* }
            }
        }
    };
}

causes! {
    /// Fields of the request are missing, malformed or out of range; [`Context::fields`] names them.
    InvalidInput = "invalid_input", ValidationError, Server;
    /// The cluster's address resolves to an IP address that the egress rules refuse.
    EgressDenied = "egress_denied", ValidationError, Server;
    /// Validation or admission of the cluster refused the object (400, 422).
    RejectedByCluster = "rejected_by_cluster", ValidationError, Cluster;
    /// The cluster's version of Kubernetes does not have what the request needs.
    ClusterTooOld = "cluster_too_old", ValidationError, Cluster;
    /// The cluster does not serve this kind of object, or offers no such read of it; [`Context::resource`] names it.
    KindNotServed = "kind_not_served", ValidationError, Cluster;
    /// Secrets are not read as objects of any kind, because their values would be shown.
    SecretRefused = "secret_refused", ValidationError, Server;

    /// No bearer token, or no session cookie.
    NotSignedIn = "not_signed_in", AuthenticationError, Server;
    /// A browser sent the request on behalf of a page of another origin.
    CrossSite = "cross_site", AuthenticationError, Server;
    /// The bearer token is malformed, forged, issued by another install, or an API token that is revoked or whose owner
    /// is disabled or absent.
    TokenInvalid = "token_invalid", AuthenticationError, Server;
    /// The bearer token has expired or was replaced by a refresh.
    TokenExpired = "token_expired", AuthenticationError, Server;
    /// The API token was sent from an address outside its networks.
    TokenNetwork = "token_network", AuthenticationError, Server;
    /// The session has ended or never existed.
    SessionEnded = "session_ended", AuthenticationError, Server;
    /// The bearer token and the session cookie belong to different sessions.
    SessionMismatch = "session_mismatch", AuthenticationError, Server;
    /// Unknown user, disabled user or wrong password; deliberately one cause.
    BadCredentials = "bad_credentials", AuthenticationError, Server;
    /// The refresh token is unknown or already used.
    RefreshRejected = "refresh_rejected", AuthenticationError, Server;
    /// The user has a second factor: the password is right, but the login has no code.
    SecondFactorRequired = "second_factor_required", AuthenticationError, Server;
    /// The operation needs a second factor that the user gave in this session, for most operations within 10 minutes.
    SecondFactorStale = "second_factor_stale", AuthenticationError, Server;
    /// The operation needs a login within the last 10 minutes.
    LoginStale = "login_stale", AuthenticationError, Server;

    /// A sign-in at an identity provider was not begun by this browser, has ended, or took longer than ten minutes.
    SignInExpired = "sign_in_expired", AuthenticationError, Server;
    /// The identity provider refused the sign-in, or its answer does not verify.
    SignInRejected = "sign_in_rejected", AuthenticationError, Server;
    /// The identity provider did not send all groups of the person.
    GroupsMissing = "groups_missing", AuthenticationError, Server;

    /// The caller lacks a right: [`Context::missing`]. [`Context::required_role`] is the lowest sufficient role.
    RoleTooLow = "role_too_low", PermissionDenied, Server;
    /// An API token does not allow this operation, regardless of the rights of its owner.
    TokenNotAllowed = "token_not_allowed", PermissionDenied, Server;
    /// The caller's rights have changed since the stream was opened. Reason for the end of a stream.
    RightsChanged = "rights_changed", PermissionDenied, Server;
    /// The user has no second factor, and needs one for this operation or by the settings for any.
    SecondFactorNotEnrolled = "second_factor_not_enrolled", PermissionDenied, Server;
    /// The settings do not allow this operation to the user, regardless of the user's rights.
    NotAllowedBySettings = "not_allowed_by_settings", PermissionDenied, Server;
    /// A user approves their own request for rights, or reviews their own use of break-glass.
    OwnRequest = "own_request", PermissionDenied, Server;
    /// The namespace is one of Kubernetes' own, which Pilothouse never deletes.
    ProtectedNamespace = "protected_namespace", PermissionDenied, Server;
    /// The cluster's RBAC refuses the stored credential.
    ForbiddenByCluster = "forbidden_by_cluster", PermissionDenied, Cluster;

    /// The object does not exist in Pilothouse.
    NotFound = "not_found", ResourceNotFound, Server;
    /// The object does not exist in the cluster.
    NotFoundInCluster = "not_found_in_cluster", ResourceNotFound, Cluster;
    /// The API has no such path.
    UnknownPath = "unknown_path", ResourceNotFound, Server;
    /// The path exists, but not with this method.
    MethodNotAllowed = "method_not_allowed", MethodNotAllowed, Server;

    /// Another Pilothouse object has this name.
    NameTaken = "name_taken", ConflictError, Server;
    /// The row or the object was changed, or replaced by another one of its name, since the caller read it.
    Modified = "modified", ConflictError, Server;
    /// The user has a second factor already.
    AlreadyEnrolled = "already_enrolled", ConflictError, Server;
    /// The last enabled super admin cannot be removed, disabled or demoted.
    LastSuperAdmin = "last_super_admin", ConflictError, Server;
    /// The limit of live grants of a subject, of clusters or namespaces in a grant, of pending requests of a user, of
    /// live API tokens of a user or service account, or of own roles is reached.
    TooMany = "too_many", ConflictError, Server;
    /// Live grants or pending requests name the role, so it cannot be deleted.
    RoleInUse = "role_in_use", ConflictError, Server;
    /// The request for rights was approved, denied or withdrawn before, or has expired; or the use of break-glass was
    /// reviewed before.
    RequestDecided = "request_decided", ConflictError, Server;
    /// The user signs in through an identity provider, and has no password here.
    FederatedUser = "federated_user", ConflictError, Server;
    /// The id of an identity provider, [`Context::name`], was used for another issuer or directory before.
    ProviderRebound = "provider_rebound", ConflictError, Server;
    /// A restart of a paused deployment would do nothing until it is resumed.
    RolloutPaused = "rollout_paused", ConflictError, Server;
    /// The caller used this `Idempotency-Key` for another request, which [`Context::name`] names.
    IdempotencyKeyReused = "idempotency_key_reused", ConflictError, Server;
    /// The earlier request with this `Idempotency-Key` is still running; [`Context::name`] is its request id.
    IdempotencyInProgress = "idempotency_in_progress", ConflictError, Server;
    /// The response to the earlier request with this `Idempotency-Key` was lost; its change may have been applied.
    IdempotencyOutcomeUnknown = "idempotency_outcome_unknown", ConflictError, Server;
    /// The cluster already has an object of this name.
    AlreadyExists = "already_exists", ConflictError, Cluster;
    /// The cluster's object was changed between read and write.
    ConflictInCluster = "conflict_in_cluster", ConflictError, Cluster;
    /// A ResourceQuota refused the object.
    QuotaExceeded = "quota_exceeded", ConflictError, Cluster;
    /// A PodDisruptionBudget does not allow the eviction; [`Context::message`] has its numbers.
    EvictRefused = "evict_refused", ConflictError, Cluster;
    /// The namespace is being deleted and accepts no new objects.
    NamespaceTerminating = "namespace_terminating", ConflictError, Cluster;
    /// The container has no log yet; [`Context::message`] is its waiting reason.
    ContainerNotStarted = "container_not_started", ConflictError, Cluster;

    /// The body is larger than the endpoint accepts.
    BodyTooLarge = "body_too_large", PayloadTooLarge, Server;
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", UnsupportedMediaType, Server;
    /// Too many failed logins for this account or from this address.
    TooManyLogins = "too_many_logins", RateLimited, Server;
    /// The caller has used too many different `Idempotency-Key`s within a day.
    TooManyIdempotencyKeys = "too_many_idempotency_keys", RateLimited, Server;
    /// The cluster's API server limits the request rate (429).
    RateLimitedByCluster = "rate_limited_by_cluster", RateLimited, Cluster;

    /// A defect in Pilothouse.
    Internal = "internal", InternalError, Server;

    /// No connection: refused, no route, name not resolved, or not established within the timeout.
    Unreachable = "unreachable", ConnectionError, Cluster;
    /// The server's certificate is not trusted, expired, or issued for another name.
    TlsUntrusted = "tls_untrusted", ConnectionError, Cluster;
    /// The cluster rejected the stored credential (401).
    CredentialRejected = "credential_rejected", ConnectionError, Cluster;
    /// The cluster responded with a redirect, with a body that is not JSON, or with a body that is too large.
    UnexpectedAnswer = "unexpected_answer", ConnectionError, Cluster;
    /// The cluster responded with a 5xx status.
    FailingCluster = "failing_cluster", ConnectionError, Cluster;
    /// The connection broke after the request was sent.
    ConnectionLost = "connection_lost", ConnectionError, Cluster;
    /// The circuit breaker is open: the last attempts failed, and the pause is not over. Nothing was sent.
    CircuitOpen = "circuit_open", ConnectionError, Cluster;

    /// The database cannot be reached or written.
    StoreUnavailable = "store_unavailable", ServiceUnavailable, Server;
    /// The audit trail cannot be written, so nothing is changed.
    AuditUnavailable = "audit_unavailable", ServiceUnavailable, Server;
    /// The list is not cached, by configuration or because it is too large, so it cannot be watched. It can be read.
    NotCached = "not_cached", ServiceUnavailable, Server;
    /// The request needs more data than one request may read from a cluster.
    TooLarge = "too_large", ServiceUnavailable, Server;
    /// The identity provider cannot be reached, or does not work.
    ProviderUnavailable = "provider_unavailable", ServiceUnavailable, Server;
    /// The server is at its concurrency limit.
    Overloaded = "overloaded", ServiceUnavailable, Server;

    /// The cluster did not respond within the deadline.
    DeadlineExceeded = "deadline_exceeded", TimeoutError, Cluster;
}

impl Cause {
    /// Whether a change that failed with this cause may have been applied: the request was sent, and no response shows
    /// the outcome. The audit trail then records `unknown`, never `failed`. See [`Error::outcome_unknown`].
    pub const fn outcome_unknown(self) -> bool {
        matches!(
            self,
            Self::UnexpectedAnswer
                | Self::FailingCluster
                | Self::ConnectionLost
                | Self::DeadlineExceeded
                | Self::Internal
        )
    }
}

/// Reason why a field is refused. Its value is part of the contract (`context.fields[].reason`) and never translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The field is required.
    Required,
    /// The endpoint has no such field.
    Unknown,
    /// The field is given more than once.
    Duplicate,
    /// The value has another JSON type, or is not a number.
    InvalidType,
    /// The value is shorter than allowed.
    TooShort,
    /// The value is longer than allowed.
    TooLong,
    /// The number is outside its range.
    OutOfRange,
    /// The value is not one of the allowed values.
    NotOneOf,
    /// The value is not a valid Kubernetes name (RFC 1123).
    InvalidName,
    /// The value is not in the required form.
    Malformed,
    /// The field is known, but not accepted: it would read a file, run a command or connect to another address.
    NotSupported,
    /// The field is allowed only by configuration, or only together with another field.
    NotAllowed,
    /// The field was not received within the timeout.
    TooSlow,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Required,
        Self::Unknown,
        Self::Duplicate,
        Self::InvalidType,
        Self::TooShort,
        Self::TooLong,
        Self::OutOfRange,
        Self::NotOneOf,
        Self::InvalidName,
        Self::Malformed,
        Self::NotSupported,
        Self::NotAllowed,
        Self::TooSlow,
    ];

    /// The value in `context.fields[].reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Unknown => "unknown",
            Self::Duplicate => "duplicate",
            Self::InvalidType => "invalid_type",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::OutOfRange => "out_of_range",
            Self::NotOneOf => "not_one_of",
            Self::InvalidName => "invalid_name",
            Self::Malformed => "malformed",
            Self::NotSupported => "not_supported",
            Self::NotAllowed => "not_allowed",
            Self::TooSlow => "too_slow",
        }
    }
}

/// Formats a reason by its contract value. The custom errors of serde have this text, so that the parser of a body can
/// distinguish a refused value from a wrong JSON type.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refused field of a request, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field as sent by the caller: `replicas`, `kubeconfig.users[0].user.exec`.
    pub name: String,
    /// Reason of the refusal.
    pub reason: Reason,
}

/// Right that a refused caller lacks: `context.missing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingRight {
    /// Verb of the right: `list`, `scale`.
    pub verb: String,
    /// Resource of the right: `workloads`.
    pub resource: String,
    /// Cluster in which the right is missing. `None` for a right on all clusters.
    pub cluster_id: Option<ClusterId>,
    /// Namespace, if the request was for one.
    pub namespace: Option<String>,
}

/// Context of an error. All fields are optional; none is secret or translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Refused fields.
    pub fields: Vec<FieldError>,
    /// Lowest sufficient role, when the caller's role is too low.
    pub required_role: Option<Role>,
    /// The right that the caller lacks.
    pub missing: Option<MissingRight>,
    /// Refused verb, as named by RBAC.
    pub verb: Option<String>,
    /// Kind of the object, in lower case and singular, as in the audit trail.
    pub resource: Option<String>,
    /// Namespace of the object. None when it has no namespace, or all namespaces were requested.
    pub namespace: Option<String>,
    /// Name of the object, or its id for a Pilothouse object.
    pub name: Option<String>,
    /// Pod to which the object belongs: for a container or a log.
    pub pod: Option<String>,
    /// Time to wait before a retry; sent as `Retry-After` in whole seconds.
    pub retry_after: Option<Duration>,
    /// Message from the cluster, cleaned by [`clean_message`]. Never set where a Secret is involved.
    pub message: Option<String>,
    /// Whether the failed request was a read, so that nothing was changed in any case. Not part of a response.
    pub read_only: bool,
}

/// Error: a cause and its context. `Display` is for logs and audit details; the HTTP crate writes the messages for
/// callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Cause. It determines the public code and the source.
    pub cause: Cause,
    /// Context. Boxed to keep `Result` small.
    pub context: Box<Context>,
}

/// Maximum length of a refused field's path in bytes; the longest key of a Secret fits.
const MAX_FIELD_PATH_BYTES: usize = 320;

impl Error {
    /// Maximum number of refused fields in an error.
    pub const MAX_FIELDS: usize = 20;

    /// Creates an error without context.
    pub fn new(cause: Cause) -> Self {
        Self { cause, context: Box::default() }
    }

    /// Creates an error for one refused field.
    pub fn invalid(field: impl Into<String>, reason: Reason) -> Self {
        Self::fields(vec![FieldError { name: field.into(), reason }])
    }

    /// Creates an error for several refused fields. The first [`Error::MAX_FIELDS`] are named, and long paths are
    /// truncated, to limit how much of the request is sent back.
    pub fn fields(mut fields: Vec<FieldError>) -> Self {
        fields.truncate(Self::MAX_FIELDS);
        for field in &mut fields {
            if field.name.len() > MAX_FIELD_PATH_BYTES {
                field.name.truncate(field.name.floor_char_boundary(MAX_FIELD_PATH_BYTES));
                field.name.push('…');
            }
        }
        let mut error = Self::new(Cause::InvalidInput);
        error.context.fields = fields;
        error
    }

    /// Creates an error for a defect in Pilothouse. `what` is written to the log only, never sent to a caller.
    pub fn internal(what: impl Into<String>) -> Self {
        let mut error = Self::new(Cause::Internal);
        error.context.message = Some(clean_message(&what.into()));
        error
    }

    /// Creates an error for a caller whose role is below `role`.
    pub fn role_too_low(role: Role) -> Self {
        let mut error = Self::new(Cause::RoleTooLow);
        error.context.required_role = Some(role);
        error
    }

    /// Sets the right that the caller lacks.
    pub fn missing(mut self, right: MissingRight) -> Self {
        self.context.missing = Some(right);
        self
    }

    /// The public code.
    pub fn code(&self) -> Code {
        self.cause.code()
    }

    /// Whether a change that ended with this error may have been applied.
    pub fn outcome_unknown(&self) -> bool {
        self.cause.outcome_unknown() && !self.context.read_only
    }

    /// Marks the error as one of a read (also a read before a change), or from before anything was sent: nothing was
    /// changed.
    pub fn read_only(mut self) -> Self {
        self.context.read_only = true;
        self
    }

    /// Sets the kind of the object.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.context.resource = Some(resource.into());
        self
    }

    /// Sets the namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.context.namespace = Some(namespace.into());
        self
    }

    /// Sets the name of the object.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.context.name = Some(name.into());
        self
    }

    /// Sets the refused verb.
    pub fn verb(mut self, verb: impl Into<String>) -> Self {
        self.context.verb = Some(verb.into());
        self
    }

    /// Sets the time to wait before a retry.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.context.retry_after = Some(after);
        self
    }

    /// Sets the cluster's message, cleaned.
    pub fn message(mut self, text: &str) -> Self {
        self.context.message = Some(clean_message(text)).filter(|text| !text.is_empty());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code(), self.cause.as_str())?;
        for field in &self.context.fields {
            write!(f, " {}={}", field.name.escape_debug(), field.reason)?;
        }
        let Context { verb, resource, namespace, pod, name, .. } = &*self.context;
        for value in [verb, resource, namespace, pod, name].into_iter().flatten() {
            write!(f, " {}", value.escape_debug())?;
        }
        match &self.context.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Cleans a text from an external source: at most 512 characters, with control characters (terminal escapes, line
/// breaks) replaced by spaces.
pub fn clean_message(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_values_are_unique() {
        let mut values: Vec<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), Cause::ALL.len());
    }

    #[test]
    fn every_code_has_a_cause() {
        for code in Code::ALL {
            assert!(Cause::ALL.iter().any(|cause| cause.code() == code), "{code} is never used");
        }
    }

    #[test]
    fn outcome_is_unknown_if_the_change_was_sent_and_no_response_shows_the_outcome() {
        let unknown = [
            Cause::UnexpectedAnswer,
            Cause::FailingCluster,
            Cause::ConnectionLost,
            Cause::DeadlineExceeded,
            Cause::Internal,
        ];
        for &cause in Cause::ALL {
            assert_eq!(Error::new(cause).outcome_unknown(), unknown.contains(&cause), "{cause:?}");
            assert!(!Error::new(cause).read_only().outcome_unknown(), "{cause:?} of a read");
        }
    }

    #[test]
    fn number_and_length_of_refused_fields_are_limited() {
        let field = |name: String| FieldError { name, reason: Reason::Unknown };
        let many = Error::fields((0..10_000).map(|n| field(n.to_string())).collect());
        assert_eq!(many.context.fields.len(), Error::MAX_FIELDS);
        assert_eq!(many.context.fields[19].name, "19");
        let key = format!("data.{}", "k".repeat(253));
        assert_eq!(Error::invalid(key.as_str(), Reason::TooLong).context.fields[0].name, key);
        for long in ["x".repeat(1 << 20), "写".repeat(1 << 20)] {
            let name = &Error::invalid(long, Reason::Unknown).context.fields[0].name;
            assert!(name.len() <= MAX_FIELD_PATH_BYTES + 3 && name.ends_with('…'), "{name}");
        }
    }

    #[test]
    fn messages_are_cleaned() {
        assert_eq!(clean_message("  \x1b[31mred\nline\0 "), "[31mred line");
        assert_eq!(clean_message(&"x".repeat(2000)).len(), 512);
    }
}
