//! Operations: the record of an operation and of its outcome, the entries of the audit trail, and the port that writes
//! them.

use std::{collections::BTreeMap, net::IpAddr};

use async_trait::async_trait;
use jiff::Timestamp;
use pilothouse_types::{
    error::{Error, Result},
    ids::{ClusterId, GrantId, OperationId, TokenId, UserId},
    role::Role,
};
use serde::{Deserialize, Serialize};

mod row_limit;

pub use row_limit::MAX_ROW_BYTES;

/// A requested operation. Fields are declared in the order in which they are hashed; `params` is an allowlist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Operation id.
    pub id: OperationId,
    /// Verb: `create`, `scale`, …
    pub operation_type: String,
    /// Type of the resource: `cluster`, `deployment`, …
    pub resource_type: String,
    /// Id of the cluster concerned. Kept after the cluster is deleted.
    pub cluster_id: Option<ClusterId>,
    /// Name of the cluster when the operation began.
    pub cluster_name: Option<String>,
    /// Namespace of the object concerned.
    pub namespace: Option<String>,
    /// Name of the object concerned.
    pub resource_name: Option<String>,
    /// Id of the user. None for a service account, the system, the command line and a failed login.
    pub user_id: Option<UserId>,
    /// Name of the user when the operation began, or `sa:<service account>`.
    pub username: String,
    /// Role of the user when the operation began.
    pub role: Option<Role>,
    /// The grant that allowed the operation. None if the role did, or if a right was missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant_id: Option<GrantId>,
    /// The API token of the request. None in a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<TokenId>,
    /// Reason that the caller gave for the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Client IP address.
    pub source_ip: Option<IpAddr>,
    /// Request id.
    pub request_id: Option<String>,
    /// Allowlisted parameters of the request, never secret: `{"replicas": 5}`.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Start time, by the server's wall clock.
    pub created_at: Timestamp,
}

impl Operation {
    /// The parameters in one line: `replicas=5`. `None` without parameters. They are the details of the audit row until
    /// the outcome is stored.
    pub fn summary(&self) -> Option<String> {
        let parts = self.params.iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        let line = parts.collect::<Vec<_>>().join(" ");
        (!line.is_empty()).then_some(line)
    }
}

/// Status of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The intent is stored; there is no outcome yet.
    Pending,
    /// The operation succeeded.
    Success,
    /// The operation was refused; nothing changed.
    Failed,
    /// No response shows whether the change was applied.
    Unknown,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Failed, Self::Unknown];

    /// The value in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Outcome of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `success`, `failed` or `unknown`.
    pub status: Status,
    /// Public error code.
    pub error_code: Option<String>,
    /// Details in English, never secret.
    pub details: Option<String>,
    /// Duration in milliseconds.
    pub duration_ms: i64,
    /// End time, by the server's wall clock.
    pub finished_at: Timestamp,
}

impl Outcome {
    /// The outcome recorded for an operation that ended with `result`.
    pub fn of<T>(result: &Result<T>, duration_ms: i64, finished_at: Timestamp) -> Self {
        let (status, error_code, details) = match result {
            Ok(_) => (Status::Success, None, None),
            Err(error) => {
                let code = Some(error.code().as_str().to_owned());
                if error.outcome_unknown() {
                    (Status::Unknown, code, Some(format!("{error}; the change may have been applied")))
                } else {
                    (Status::Failed, code, Some(error.to_string()))
                }
            }
        };
        Self { status, error_code, details, duration_ms, finished_at }
    }

    /// The outcome of a success, with a duration of 0 ms.
    pub fn success(at: Timestamp) -> Self {
        Self { status: Status::Success, error_code: None, details: None, duration_ms: 0, finished_at: at }
    }

    /// The outcome of an operation whose process ended before the operation did.
    pub fn orphaned(at: Timestamp) -> Self {
        Self {
            status: Status::Unknown,
            error_code: None,
            details: Some(
                "the server ended before the outcome was known; the change may have been applied".to_owned(),
            ),
            duration_ms: 0,
            finished_at: at,
        }
    }
}

/// Entry of the hash chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// An operation is about to be sent to a cluster.
    Intent {
        /// The operation.
        operation: Operation,
    },
    /// The operation ended.
    Outcome {
        /// Id of the operation.
        operation_id: OperationId,
        /// The outcome.
        outcome: Outcome,
    },
    /// An operation and its outcome in one entry: changes to Pilothouse's own tables, refusals, logins.
    Complete {
        /// The operation.
        operation: Operation,
        /// The outcome.
        outcome: Outcome,
    },
}

impl Entry {
    /// Id of the operation that the entry records.
    pub fn operation_id(&self) -> OperationId {
        match self {
            Self::Intent { operation } | Self::Complete { operation, .. } => operation.id,
            Self::Outcome { operation_id, .. } => *operation_id,
        }
    }

    /// The kind of entry: `intent`, `outcome` or `complete`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Intent { .. } => "intent",
            Self::Outcome { .. } => "outcome",
            Self::Complete { .. } => "complete",
        }
    }

    /// Time of the entry: the start of the operation for an intent, its end for the other kinds.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Intent { operation } => operation.created_at,
            Self::Outcome { outcome, .. } | Self::Complete { outcome, .. } => outcome.finished_at,
        }
    }

    /// Canonical text: the bytes that are stored and hashed. The serialisation of existing entries must never change,
    /// so a field added later must be omitted when it is `None`.
    ///
    /// # Errors
    /// `Internal` if the entry cannot be serialised.
    pub fn canonical(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("audit entry: {error}")))
    }
}

/// Class of callers for which a capacity check is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityFor {
    /// Signed-in users and the system.
    Authenticated,
    /// Login attempts. Their audit rows must not use up the capacity left for authenticated callers.
    Anonymous,
}

/// Port that writes the audit trail. Every write is durable when the call returns.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditWriter: Send + Sync {
    /// Checks that there is capacity for new operations of these callers. A reserve is kept for the outcomes of running
    /// operations and for operations that free disk space. The default implementation, which cannot measure capacity,
    /// always succeeds.
    ///
    /// # Errors
    /// `AuditUnavailable` when there is no capacity.
    fn check_capacity(&self, _callers: CapacityFor) -> Result<()> {
        Ok(())
    }

    /// Stores an intent. The operation is `pending` until its outcome is stored, or until this process is known to have
    /// ended.
    ///
    /// # Errors
    /// `AuditUnavailable`: either nothing was stored, or the operation will be closed as `unknown`.
    async fn begin(&self, operation: &Operation) -> Result<()>;

    /// Stores the outcome of an intent. A second outcome for the same operation changes nothing.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()>;

    /// Stores an operation that has ended already: a refusal, a login, a connection test.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use pilothouse_types::error::Cause;

    use super::*;

    #[test]
    fn outcome_is_unknown_only_if_the_change_may_have_been_applied() {
        let of_error = |error: Error| {
            let outcome = Outcome::of::<()>(&Err(error), 1, Timestamp::UNIX_EPOCH);
            (outcome.status, outcome.error_code)
        };
        let timeout = Error::new(Cause::DeadlineExceeded);
        assert_eq!(of_error(timeout.clone()), (Status::Unknown, Some("TIMEOUT_ERROR".to_owned())));
        assert_eq!(of_error(timeout.read_only()), (Status::Failed, Some("TIMEOUT_ERROR".to_owned())));
        let refusal = Error::new(Cause::ForbiddenByCluster);
        assert_eq!(of_error(refusal), (Status::Failed, Some("PERMISSION_DENIED".to_owned())));
        assert_eq!(Outcome::of(&Ok(()), 1, Timestamp::UNIX_EPOCH).status, Status::Success);
    }
}
