//! The audit trail: what is recorded of an operation, the chain that makes a later edit visible, the port that
//! keeps it, and the use cases that show, verify and export it.
//!
//! Entries are only ever added. A change to a cluster is two entries: the intent, durable before the call, and the
//! outcome. A change to our own tables, a refusal and a login are one entry, written in one transaction with what
//! they tell of. Lists are served from one row per operation, which the outcome's transaction completes.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    access::Role,
    cluster::ClusterId,
    error::{Error, Result},
    user::UserId,
};

mod batch;
mod chain;
mod checkpoint;
mod export;
mod k8s;
mod key_rotation;
mod retention;
mod row;
mod row_limit;
mod slots;
mod usecase;
mod verified;
mod verified_range;
mod verify;
mod walk;

pub use batch::{Batch, Cursor};
#[cfg(any(test, feature = "testing"))]
pub use chain::MockTrailReader;
pub use chain::{
    ChainHash, Defect, Fault, Head, Signatures, StoredCheckpoint, StoredEntry, StoredRow, TrailReader,
};
pub use checkpoint::{
    Checkpoint, CheckpointSigner, CheckpointSink, LastCheckpoint, PublicKey, Signature, SignatureVerifier,
};
pub use export::{Export, ExportFormat, ExportQuery, verify_export};
pub use key_rotation::{KeyRotation, TrailKeys};
#[cfg(any(test, feature = "testing"))]
pub use retention::MockRetention;
pub use retention::{Archive, Part, Retained, Retention, TrailStart};
pub use row::{OperationPage, OperationQuery, OperationRow};
pub use row_limit::LARGEST_ROW;
pub use usecase::Audit;
pub(crate) use usecase::AuditPorts;
pub use verified::{TrailFollower, Trusted, VerifiedTrail};
pub use verify::{Verdict, verify};

/// An operation's id, a UUID of version 7; the same id is the `Audit-ID` in the cluster's own audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What somebody set out to do. Fields stand in the order in which they are hashed; `params` is an allowlist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// `create`, `scale`, …
    pub operation_type: String,
    /// `cluster`, `deployment`, …
    pub resource_type: String,
    /// The cluster concerned, also after it was deleted.
    pub cluster_id: Option<ClusterId>,
    /// The cluster's name at the time.
    pub cluster_name: Option<String>,
    /// The namespace concerned.
    pub namespace: Option<String>,
    /// The name of the thing concerned.
    pub resource_name: Option<String>,
    /// Who; none for the system, the command line, a failed login.
    pub user_id: Option<UserId>,
    /// Who, by name at the time.
    pub username: String,
    /// The role at the time.
    pub role: Option<Role>,
    /// From where.
    pub source_ip: Option<IpAddr>,
    /// The request's id.
    pub request_id: Option<String>,
    /// What was asked for, as far as it is worth keeping and never secret: `{"replicas": 5}`.
    pub params: BTreeMap<String, serde_json::Value>,
    /// When, by our wall clock.
    pub created_at: Timestamp,
}

impl Operation {
    /// What was asked for, in one line: `replicas=5`. A row's details until an outcome says more.
    pub fn summary(&self) -> Option<String> {
        let parts = self.params.iter().map(|(name, value)| match value.as_str() {
            Some(text) => format!("{name}={text}"),
            None => format!("{name}={value}"),
        });
        let line = parts.collect::<Vec<_>>().join(" ");
        (!line.is_empty()).then_some(line)
    }
}

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Intent stored, no outcome yet.
    Pending,
    /// Done.
    Success,
    /// Refused; nothing changed.
    Failed,
    /// No answer settles whether it happened.
    Unknown,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Success, Self::Failed, Self::Unknown];

    /// The word in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// What became of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `success`, `failed` or `unknown`.
    pub status: Status,
    /// The public code of the refusal.
    pub error_code: Option<String>,
    /// More, in English, never secret.
    pub details: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// When it ended, by our wall clock.
    pub finished_at: Timestamp,
}

impl Outcome {
    /// What an operation that ended so is recorded as.
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

    /// Done, at once.
    pub fn success(at: Timestamp) -> Self {
        Self { status: Status::Success, error_code: None, details: None, duration_ms: 0, finished_at: at }
    }

    /// The process that held the operation ended before it did.
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

/// One entry of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// An operation is about to be sent to a cluster.
    Intent {
        /// What.
        operation: Operation,
    },
    /// It ended.
    Outcome {
        /// Which.
        operation_id: OperationId,
        /// How.
        outcome: Outcome,
    },
    /// An operation and its outcome in one: our own tables, refusals, logins.
    Complete {
        /// What.
        operation: Operation,
        /// How it ended.
        outcome: Outcome,
    },
}

impl Entry {
    /// Which operation it tells of.
    pub fn operation_id(&self) -> OperationId {
        match self {
            Self::Intent { operation } | Self::Complete { operation, .. } => operation.id,
            Self::Outcome { operation_id, .. } => *operation_id,
        }
    }

    /// The word of its kind: `intent`, `outcome` or `complete`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Intent { .. } => "intent",
            Self::Outcome { .. } => "outcome",
            Self::Complete { .. } => "complete",
        }
    }

    /// The moment it tells of: the beginning of an intent, the end of the others.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Intent { operation } => operation.created_at,
            Self::Outcome { outcome, .. } | Self::Complete { outcome, .. } => outcome.finished_at,
        }
    }

    /// The text that is stored and hashed; a database keeps it to the byte. An entry once written must be written so for
    /// ever: a field added later is left out where it is none.
    ///
    /// # Errors
    /// `Internal`, should an entry not serialise.
    pub fn canonical(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("audit entry: {error}")))
    }
}

/// Whose operations there must be room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityFor {
    /// Of people who are signed in, and of the system.
    Authenticated,
    /// Of whoever signs in or tries to: they leave rows, and must not take the last of the room from the others.
    Anonymous,
}

/// The trail's store. Everything it accepts is durable when it returns.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditTrail: Send + Sync {
    /// Whether there is room for their new operations: what is kept back is for the outcomes of those under way, and for what
    /// makes room. A trail that does not know, as by default, says yes.
    ///
    /// # Errors
    /// `AuditUnavailable` when there is not.
    fn check_capacity(&self, _whose: CapacityFor) -> Result<()> {
        Ok(())
    }

    /// Stores an intent. Until its outcome, or until this process is known to have ended, it is `pending`.
    ///
    /// # Errors
    /// `AuditUnavailable`; then nothing is stored, or it will be closed as `unknown`.
    async fn begin(&self, operation: &Operation) -> Result<()>;

    /// Stores the outcome of an intent. A second outcome for the same operation changes nothing.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()>;

    /// Stores an operation that is over: a refusal, a login, a test.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()>;

    /// Closes as `unknown` what a process that has ended left pending; the number closed.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn close_orphans(&self, at: Timestamp) -> Result<u64>;

    /// Signs the last entry, unless it is signed already or the last checkpoint is younger than `age`. What appends signs
    /// by itself once that is [`Checkpoint::AGE`]; this is for the quiet after it, and for the end. Only what follows from what
    /// was verified before is signed. A trail without checkpoints, as by default, does nothing.
    ///
    /// # Errors
    /// `AuditUnavailable`; `Internal` when the trail does not follow from what was verified before.
    async fn checkpoint(&self, age: Duration) -> Result<()> {
        let _ = age;
        Ok(())
    }

    /// A page of operations.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn only_a_refusal_is_failed() {
        let at = Timestamp::UNIX_EPOCH;
        for &cause in Cause::ALL {
            let outcome = Outcome::of::<()>(&Err(Error::new(cause)), 1, at);
            let expected = if cause.outcome_unknown() { Status::Unknown } else { Status::Failed };
            assert_eq!(outcome.status, expected, "{cause:?}");
            assert_eq!(outcome.error_code.as_deref(), Some(cause.code().as_str()));
            let before = Outcome::of::<()>(&Err(Error::new(cause).read_only()), 1, at);
            assert_eq!(before.status, Status::Failed, "the read before a change changes nothing");
        }
        assert_eq!(Outcome::of(&Ok(()), 1, at).status, Status::Success);
    }
}
