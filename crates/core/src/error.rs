//! The one error of the product: data, not prose.
//!
//! An [`Error`] is a [`Cause`] (what happened) and a [`Context`] (to what). The cause alone decides the public
//! [`Code`], whose fault it was ([`Source`]) and whether a change may have happened all the same. Adapters map
//! their library's errors to causes; the HTTP crate maps causes to words and statuses. No text of a library or
//! of a cluster's answer is part of an error, but for [`Context::message`], which is cleaned and never set
//! where a Secret is involved.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::access::Role;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The closed list of public error codes, as the API document and the contract name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Missing, malformed, unknown or out of range; also the cluster's 400 and 422.
    ValidationError,
    /// Bearer or session missing, invalid, expired or not belonging together.
    AuthenticationError,
    /// Our roles or the cluster's RBAC refuse.
    PermissionDenied,
    /// No such cluster, namespace, workload, pod, container, path.
    ResourceNotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// Name taken, changed meanwhile, quota exceeded and their like.
    ConflictError,
    /// The body is larger than the endpoint takes.
    PayloadTooLarge,
    /// A POST whose body is not `application/json`.
    UnsupportedMediaType,
    /// Too many attempts here, or too many requests for the cluster.
    RateLimited,
    /// A defect of ours.
    InternalError,
    /// The cluster cannot be reached or trusted, or answers nonsense.
    ConnectionError,
    /// Our database or audit trail cannot be written, or too much runs at once.
    ServiceUnavailable,
    /// The cluster did not answer within the deadline.
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

    /// The code as it is written in `error_code`.
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

/// Who said no: Pilothouse itself, or the cluster behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Pilothouse.
    Server,
    /// The cluster's API server, or the way to it.
    Cluster,
}

impl Source {
    /// The word used in `context.source`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "us",
            Self::Cluster => "cluster",
        }
    }
}

/// Declares [`Cause`] as one table: variant, the word in `context.cause`, its code, who said it.
macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $code:ident, $source:ident;)*) => {
        /// What happened, one level finer than [`Code`]. Closed: every cause has words in every language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause { $($(#[$doc])* $variant,)* }

        impl Cause {
            /// Every cause.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in `context.cause`, also the key of the texts; never translated.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The public code.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// Who said it.
            pub const fn source(self) -> Source {
                match self { $(Self::$variant => Source::$source,)* }
            }
        }
    };
}

causes! {
    /// Fields of the request are missing, malformed or out of range; [`Context::fields`] names them.
    InvalidInput = "invalid_input", ValidationError, Server;
    /// The cluster's address resolves to one that egress rules refuse.
    EgressDenied = "egress_denied", ValidationError, Server;
    /// The cluster's validation or admission refused the object (400, 422).
    RejectedByCluster = "rejected_by_cluster", ValidationError, Cluster;

    /// No bearer token, or no session cookie.
    NotSignedIn = "not_signed_in", AuthenticationError, Server;
    /// A browser sent the request for a page of another origin.
    CrossSite = "cross_site", AuthenticationError, Server;
    /// The bearer token is malformed, forged, or of another install.
    TokenInvalid = "token_invalid", AuthenticationError, Server;
    /// The bearer token has expired or was replaced by a refresh.
    TokenExpired = "token_expired", AuthenticationError, Server;
    /// The session has ended, or never was.
    SessionEnded = "session_ended", AuthenticationError, Server;
    /// Bearer and cookie belong to different sessions.
    SessionMismatch = "session_mismatch", AuthenticationError, Server;
    /// Unknown user, disabled user or wrong password: deliberately one cause.
    BadCredentials = "bad_credentials", AuthenticationError, Server;
    /// The refresh token is unknown or already used.
    RefreshRejected = "refresh_rejected", AuthenticationError, Server;

    /// The caller's role is too low; [`Context::required_role`] says which is needed.
    RoleTooLow = "role_too_low", PermissionDenied, Server;
    /// One of Kubernetes' own namespaces, which are never deleted here.
    ProtectedNamespace = "protected_namespace", PermissionDenied, Server;
    /// The cluster's RBAC refuses the stored credential.
    ForbiddenByCluster = "forbidden_by_cluster", PermissionDenied, Cluster;

    /// We have no such thing.
    NotFound = "not_found", ResourceNotFound, Server;
    /// The cluster has no such thing.
    NotFoundInCluster = "not_found_in_cluster", ResourceNotFound, Cluster;
    /// The path is not one of ours.
    UnknownPath = "unknown_path", ResourceNotFound, Server;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", MethodNotAllowed, Server;

    /// Another row of ours has this name.
    NameTaken = "name_taken", ConflictError, Server;
    /// The row was changed since the caller read it.
    Modified = "modified", ConflictError, Server;
    /// The last enabled super admin cannot be removed, disabled or demoted.
    LastSuperAdmin = "last_super_admin", ConflictError, Server;
    /// A restart of a paused deployment would do nothing until it is resumed.
    RolloutPaused = "rollout_paused", ConflictError, Server;
    /// The caller used this `Idempotency-Key` for another request, which [`Context::name`] names.
    IdempotencyKeyReused = "idempotency_key_reused", ConflictError, Server;
    /// The earlier call with this `Idempotency-Key` is not over; [`Context::name`] is its request id.
    IdempotencyInProgress = "idempotency_in_progress", ConflictError, Server;
    /// The answer to the earlier call with this `Idempotency-Key` was lost; what it asked for may have been done.
    IdempotencyOutcomeUnknown = "idempotency_outcome_unknown", ConflictError, Server;
    /// The cluster already has an object of this name.
    AlreadyExists = "already_exists", ConflictError, Cluster;
    /// The cluster's object was changed between read and write.
    ConflictInCluster = "conflict_in_cluster", ConflictError, Cluster;
    /// A ResourceQuota refuses.
    QuotaExceeded = "quota_exceeded", ConflictError, Cluster;
    /// The namespace is being deleted and takes nothing new.
    NamespaceTerminating = "namespace_terminating", ConflictError, Cluster;
    /// The container has no log yet; [`Context::message`] is its waiting reason.
    ContainerNotStarted = "container_not_started", ConflictError, Cluster;

    /// The body is larger than the endpoint takes.
    BodyTooLarge = "body_too_large", PayloadTooLarge, Server;
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type", UnsupportedMediaType, Server;
    /// Too many failed logins for this account or from this address.
    TooManyLogins = "too_many_logins", RateLimited, Server;
    /// The caller has used too many different `Idempotency-Key`s within a day.
    TooManyIdempotencyKeys = "too_many_idempotency_keys", RateLimited, Server;
    /// The cluster's API server asks for fewer requests (429).
    RateLimitedByCluster = "rate_limited_by_cluster", RateLimited, Cluster;

    /// A defect of ours.
    Internal = "internal", InternalError, Server;

    /// No connection: refused, no route, name not resolved, or not established in time.
    Unreachable = "unreachable", ConnectionError, Cluster;
    /// The server's certificate is not trusted, expired or of another name.
    TlsUntrusted = "tls_untrusted", ConnectionError, Cluster;
    /// The cluster rejected the stored credential (401).
    CredentialRejected = "credential_rejected", ConnectionError, Cluster;
    /// The cluster answered with a redirect, something that is not JSON, or too much.
    UnexpectedAnswer = "unexpected_answer", ConnectionError, Cluster;
    /// The cluster answered 5xx.
    FailingCluster = "failing_cluster", ConnectionError, Cluster;
    /// The connection broke after the request was sent.
    ConnectionLost = "connection_lost", ConnectionError, Cluster;
    /// Not tried: the last attempts failed and the pause is not over.
    CircuitOpen = "circuit_open", ConnectionError, Cluster;

    /// The database cannot be reached or written.
    StoreUnavailable = "store_unavailable", ServiceUnavailable, Server;
    /// The audit trail cannot be written, so nothing is changed.
    AuditUnavailable = "audit_unavailable", ServiceUnavailable, Server;
    /// The list is not kept here, so nobody can watch it: by configuration, or because it is too large. It can be read.
    NotCached = "not_cached", ServiceUnavailable, Server;
    /// What was asked for is more than one request may read from a cluster.
    TooLarge = "too_large", ServiceUnavailable, Server;
    /// Too much runs at once.
    Overloaded = "overloaded", ServiceUnavailable, Server;

    /// The cluster did not answer within the deadline.
    DeadlineExceeded = "deadline_exceeded", TimeoutError, Cluster;
}

impl Cause {
    /// Whether a change that failed so may have happened all the same: the request left, no answer came back that
    /// settles it. The audit trail then says `unknown`, never `failed`. See [`Error::outcome_unknown`].
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

/// Why a field is refused; the word is part of the contract (`context.fields[].reason`) and never translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It must be given.
    Required,
    /// The endpoint knows no such field.
    Unknown,
    /// Given more than once.
    Duplicate,
    /// Of another JSON type, or not a number.
    InvalidType,
    /// Shorter than allowed.
    TooShort,
    /// Longer than allowed.
    TooLong,
    /// A number outside its range.
    OutOfRange,
    /// Not one of the values allowed.
    NotOneOf,
    /// Not a name as Kubernetes writes them (RFC 1123).
    InvalidName,
    /// Not of the required form.
    Malformed,
    /// Known, but not accepted here: it would read a file, run a command or go elsewhere.
    NotSupported,
    /// Allowed only by configuration, or with another field.
    NotAllowed,
    /// Not there in time.
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

    /// The word in `context.fields[].reason`.
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

/// As serde's custom error text, so that a body's reader can tell a rule of ours from a wrong JSON type.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field of the request and why it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path as the caller wrote it: `replicas`, `kubeconfig.users[0].user.exec`.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

/// To what it happened. Everything is optional; nothing here is secret or translated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The fields refused.
    pub fields: Vec<FieldError>,
    /// The lowest role that may do it, when ours was too low.
    pub required_role: Option<Role>,
    /// The verb refused, as RBAC names it.
    pub verb: Option<String>,
    /// The kind of thing, in lower case and singular as in the audit trail.
    pub resource: Option<String>,
    /// The namespace of that thing; none when it has none or all were asked for.
    pub namespace: Option<String>,
    /// The name of that thing, or its id where it is one of ours.
    pub name: Option<String>,
    /// The pod it is a part of: of a container, of a log.
    pub pod: Option<String>,
    /// How long to wait before trying again, as `Retry-After` tells it in whole seconds.
    pub retry_after: Option<Duration>,
    /// What the cluster said, cleaned by [`clean_message`]. Never set where a Secret is involved.
    pub message: Option<String>,
    /// Whether it happened to a read: whatever the cluster did, nothing was changed. Not shown.
    pub of_read: bool,
}

/// A cause and its context. Displayed for logs and audit details; what callers read is written by the HTTP crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What happened.
    pub cause: Cause,
    /// To what. Boxed, so that a `Result` stays small.
    pub context: Box<Context>,
}

/// The most bytes of a refused field's path; the longest key of a Secret fits.
const LONGEST_FIELD: usize = 320;

impl Error {
    /// How many refused fields are named at most.
    pub const MOST_FIELDS: usize = 20;

    /// An error without context yet.
    pub fn new(cause: Cause) -> Self {
        Self { cause, context: Box::default() }
    }

    /// One refused field.
    pub fn invalid(field: impl Into<String>, reason: Reason) -> Self {
        Self::fields(vec![FieldError { name: field.into(), reason }])
    }

    /// Several refused fields. The first [`Error::MOST_FIELDS`] are named, each by so much of its path as fits: what is sent
    /// is not sent back many times over.
    pub fn fields(mut fields: Vec<FieldError>) -> Self {
        fields.truncate(Self::MOST_FIELDS);
        for field in &mut fields {
            if field.name.len() > LONGEST_FIELD {
                field.name.truncate(field.name.floor_char_boundary(LONGEST_FIELD));
                field.name.push('…');
            }
        }
        let mut error = Self::new(Cause::InvalidInput);
        error.context.fields = fields;
        error
    }

    /// A defect of ours. `what` goes to the log only, never to a caller.
    pub fn internal(what: impl Into<String>) -> Self {
        let mut error = Self::new(Cause::Internal);
        error.context.message = Some(clean_message(&what.into()));
        error
    }

    /// The caller's role is below `role`.
    pub fn role_too_low(role: Role) -> Self {
        let mut error = Self::new(Cause::RoleTooLow);
        error.context.required_role = Some(role);
        error
    }

    /// The public code.
    pub fn code(&self) -> Code {
        self.cause.code()
    }

    /// Whether a change that ended so may have happened all the same.
    pub fn outcome_unknown(&self) -> bool {
        self.cause.outcome_unknown() && !self.context.of_read
    }

    /// It happened to a read, such as one before a change, or before anything was sent: nothing was changed.
    pub fn read_only(mut self) -> Self {
        self.context.of_read = true;
        self
    }

    /// Names the kind of thing concerned.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.context.resource = Some(resource.into());
        self
    }

    /// Names the namespace concerned.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.context.namespace = Some(namespace.into());
        self
    }

    /// Names the thing concerned.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.context.name = Some(name.into());
        self
    }

    /// Names the verb refused.
    pub fn verb(mut self, verb: impl Into<String>) -> Self {
        self.context.verb = Some(verb.into());
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.context.retry_after = Some(after);
        self
    }

    /// Adds what the cluster said, cleaned.
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
        for word in [verb, resource, namespace, pod, name].into_iter().flatten() {
            write!(f, " {}", word.escape_debug())?;
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

/// At most 512 characters of a text from outside, control characters (terminal escapes, line breaks) as spaces.
pub fn clean_message(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique() {
        let mut words: Vec<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Cause::ALL.len());
    }

    #[test]
    fn every_code_has_a_cause() {
        for code in Code::ALL {
            assert!(Cause::ALL.iter().any(|cause| cause.code() == code), "{code} is never used");
        }
    }

    #[test]
    fn a_refusal_leaves_no_doubt() {
        for cause in Cause::ALL {
            let refused =
                !matches!(cause.code(), Code::ConnectionError | Code::TimeoutError | Code::InternalError);
            assert!(!(refused && cause.outcome_unknown()), "{cause:?}");
        }
    }

    #[test]
    fn few_fields_are_named_and_none_is_quoted_at_length() {
        let field = |name: String| FieldError { name, reason: Reason::Unknown };
        let many = Error::fields((0..10_000).map(|n| field(n.to_string())).collect());
        assert_eq!(many.context.fields.len(), Error::MOST_FIELDS);
        assert_eq!(many.context.fields[19].name, "19");
        let key = format!("data.{}", "k".repeat(253));
        assert_eq!(Error::invalid(key.as_str(), Reason::TooLong).context.fields[0].name, key);
        for long in ["x".repeat(1 << 20), "写".repeat(1 << 20)] {
            let name = &Error::invalid(long, Reason::Unknown).context.fields[0].name;
            assert!(name.len() <= LONGEST_FIELD + 3 && name.ends_with('…'), "{name}");
        }
    }

    #[test]
    fn messages_are_cleaned() {
        assert_eq!(clean_message("  \x1b[31mred\nline\0 "), "[31mred line");
        assert_eq!(clean_message(&"x".repeat(2000)).len(), 512);
    }
}
