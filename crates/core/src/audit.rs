//! The audit trail: what is recorded of an operation, the chain that makes a later edit visible, the port that
//! keeps it, and the use case that shows it.
//!
//! Entries are only ever added. A change to a cluster is two entries: the intent, durable before the call, and the
//! outcome. A change to our own tables, a refusal and a login are one entry, written in one transaction with what
//! they tell of. Lists are served from one row per operation, which the outcome's transaction completes.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    access::{Access, Caller, Resource, Role, Verb},
    cluster::ClusterId,
    error::{Error, Reason, Result},
    gate::Gate,
    inventory::{Cell, Field, Filter, List, ListQuery, ListRow, Pagination, number},
    user::UserId,
};

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
                if error.leaves_doubt() {
                    (Status::Unknown, code, Some(format!("{error}; the change may have happened")))
                } else {
                    (Status::Failed, code, Some(error.to_string()))
                }
            }
        };
        Self { status, error_code, details, duration_ms, finished_at }
    }

    /// Says first what was asked for, then what became of it.
    pub fn telling(mut self, operation: &Operation) -> Self {
        let parts: Vec<_> = operation.summary().into_iter().chain(self.details).collect();
        self.details = (!parts.is_empty()).then(|| parts.join("; "));
        self
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
                "the server ended before the outcome was known; the change may have happened".to_owned(),
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
    /// The text that is stored and hashed; a database keeps it to the byte.
    ///
    /// # Errors
    /// `Internal`, should an entry not serialise.
    pub fn canonical(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("audit entry: {error}")))
    }
}

/// The hash of one entry and of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What stands before the first entry.
    pub const GENESIS: Self = Self([0; 32]);

    /// The hash of the entry `seq` (1 for the first, without gaps) with this canonical text, after `self`:
    /// SHA-256 over the previous hash, the sequence number in eight big-endian bytes, and the text.
    pub fn next(self, seq: i64, canonical: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(seq.to_be_bytes());
        hasher.update(canonical.as_bytes());
        Self(hasher.finalize().into())
    }
}

/// The trail's store. Everything it accepts is durable when it returns.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditTrail: Send + Sync {
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

    /// A page of operations.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage>;
}

/// Which operations to show.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationQuery {
    /// Page, search, sort and the filters on row fields.
    pub list: ListQuery,
    /// Only this user's.
    pub user_id: Option<UserId>,
    /// Created at or after.
    pub from: Option<Timestamp>,
    /// Created before.
    pub to: Option<Timestamp>,
    /// Only rows with a smaller id: a cursor.
    pub before: Option<i64>,
}

impl OperationQuery {
    /// Reads query parameters: those of every list, and `from`, `to`, `before`.
    ///
    /// # Errors
    /// `InvalidInput`, naming every parameter refused.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self> {
        let own = |name: &str| matches!(name, "from" | "to" | "before");
        let (own, rest): (Vec<_>, Vec<_>) = pairs.iter().cloned().partition(|(name, _)| own(name));
        let mut refused = Vec::new();
        let list = ListQuery::parse(List::Operations, &rest).unwrap_or_else(|error| {
            refused.extend(error.context.fields);
            ListQuery::default()
        });
        let mut query = Self { list, user_id: None, from: None, to: None, before: None };
        for (i, (name, value)) in own.iter().enumerate() {
            let mut refuse = |reason| refused.push(crate::error::FieldError { name: name.clone(), reason });
            if own[..i].iter().any(|(earlier, _)| earlier == name) {
                refuse(Reason::Duplicate);
                continue;
            }
            match name.as_str() {
                "before" => match number(value, 1, i64::MAX as u64) {
                    Ok(id) => query.before = Some(id.cast_signed()),
                    Err(reason) => refuse(reason),
                },
                name => match value.parse() {
                    Ok(time) if name == "from" => query.from = Some(time),
                    Ok(time) => query.to = Some(time),
                    Err(_) => refuse(Reason::Malformed),
                },
            }
        }
        if refused.is_empty() { Ok(query) } else { Err(Error::fields(refused)) }
    }
}

/// A page of operations and its place among all.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationPage {
    /// The rows.
    pub logs: Vec<OperationRow>,
    /// Where they stand.
    pub pagination: Pagination,
}

/// One operation as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[allow(missing_docs, reason = "the fields of Operation and Outcome, whose docs say what they mean")]
pub struct OperationRow {
    /// Grows with time; never used again.
    pub id: i64,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub operation_id: OperationId,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub cluster_id: Option<ClusterId>,
    pub cluster_name: Option<String>,
    pub operation_type: String,
    pub resource_type: String,
    pub resource_name: Option<String>,
    pub namespace: Option<String>,
    pub status: Status,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub user_id: Option<UserId>,
    pub username: String,
    pub role: Option<Role>,
    pub source_ip: Option<String>,
    pub request_id: Option<String>,
    pub duration_ms: Option<i64>,
    pub error_code: Option<String>,
    pub details: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub finished_at: Option<Timestamp>,
}

impl OperationRow {
    /// The row of an operation that has just begun. Its id is the store's to give.
    pub fn begun(id: i64, operation: &Operation) -> Self {
        let details = operation.summary();
        let operation = operation.clone();
        Self {
            id,
            operation_id: operation.id,
            cluster_id: operation.cluster_id,
            cluster_name: operation.cluster_name,
            operation_type: operation.operation_type,
            resource_type: operation.resource_type,
            resource_name: operation.resource_name,
            namespace: operation.namespace,
            status: Status::Pending,
            user_id: operation.user_id,
            username: operation.username,
            role: operation.role,
            source_ip: operation.source_ip.map(|ip| ip.to_string()),
            request_id: operation.request_id,
            duration_ms: None,
            error_code: None,
            details,
            created_at: operation.created_at,
            finished_at: None,
        }
    }

    /// The same row once the operation has ended.
    #[must_use]
    pub fn ended(self, outcome: &Outcome) -> Self {
        let Outcome { status, error_code, details, duration_ms, finished_at } = outcome.clone();
        Self {
            status,
            error_code,
            // without any, what was asked for stays
            details: details.or(self.details),
            duration_ms: Some(duration_ms),
            finished_at: Some(finished_at),
            ..self
        }
    }
}

impl ListRow for OperationRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id)),
        Field::new("operation_id", |row| Cell::text(row.operation_id.to_string())),
        Field::filtered("cluster_id", Filter::Number, |row| Cell::from(row.cluster_id.map(|id| id.0))),
        Field::new("cluster_name", |row| Cell::from(&row.cluster_name)),
        Field::filtered("operation_type", Filter::Any, |row| Cell::text(&*row.operation_type)),
        Field::filtered("resource_type", Filter::Any, |row| Cell::text(&*row.resource_type)),
        Field::new("resource_name", |row| Cell::from(&row.resource_name)),
        Field::filtered("namespace", Filter::Any, |row| Cell::from(&row.namespace)),
        Field::filtered("status", Filter::OneOf(&["success", "failed", "pending", "unknown"]), |row| {
            Cell::text(row.status.as_str())
        }),
        Field::new("user_id", |row| Cell::from(row.user_id.map(|id| id.0))),
        Field::filtered("username", Filter::Any, |row| Cell::text(&*row.username)),
        Field::new("role", |row| Cell::from(&row.role.map(|role| role.as_str().to_owned()))),
        Field::new("source_ip", |row| Cell::from(&row.source_ip)),
        Field::new("request_id", |row| Cell::from(&row.request_id)),
        Field::new("duration_ms", |row| Cell::from(row.duration_ms)),
        Field::new("error_code", |row| Cell::from(&row.error_code)),
        Field::new("details", |row| Cell::from(&row.details)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("finished_at", |row| Cell::from(row.finished_at)),
    ];

    fn name(&self) -> &str {
        self.resource_name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

/// Shows the trail.
#[derive(Clone)]
pub struct Audit {
    pub(crate) gate: Gate,
    pub(crate) trail: Arc<dyn AuditTrail>,
}

impl Audit {
    /// A page of operations. A viewer sees only their own.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn operations(&self, caller: &Caller, mut query: OperationQuery) -> Result<OperationPage> {
        self.gate.allow(caller, Access::to(Verb::List, Resource::Operation)).await?;
        if caller.role == Some(Role::Viewer) {
            query.user_id = caller.user_id;
        }
        self.trail.operations(&query).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn the_chain_depends_on_every_part() {
        let first = ChainHash::GENESIS.next(1, "a");
        assert_ne!(first, ChainHash::GENESIS.next(2, "a"));
        assert_ne!(first, ChainHash::GENESIS.next(1, "b"));
        assert_ne!(first.next(2, "a"), ChainHash::GENESIS.next(2, "a"));
    }

    #[test]
    fn only_a_refusal_is_failed() {
        let at = Timestamp::UNIX_EPOCH;
        for &cause in Cause::ALL {
            let outcome = Outcome::of::<()>(&Err(Error::new(cause)), 1, at);
            let expected = if cause.leaves_doubt() { Status::Unknown } else { Status::Failed };
            assert_eq!(outcome.status, expected, "{cause:?}");
            assert_eq!(outcome.error_code.as_deref(), Some(cause.code().as_str()));
            let before = Outcome::of::<()>(&Err(Error::new(cause).of_read()), 1, at);
            assert_eq!(before.status, Status::Failed, "the read before a change changes nothing");
        }
        assert_eq!(Outcome::of(&Ok(()), 1, at).status, Status::Success);
    }

    #[test]
    fn cursors_and_times_are_read_or_named() {
        let pairs = |text: &[(&str, &str)]| -> Vec<_> {
            text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let query =
            OperationQuery::parse(&pairs(&[("from", "2026-01-01T00:00:00Z"), ("before", "7")])).unwrap();
        assert_eq!((query.before, query.from.is_some(), query.to), (Some(7), true, None));
        let error = OperationQuery::parse(&pairs(&[("before", "0"), ("to", "x"), ("to", "y"), ("nope", "")]))
            .unwrap_err();
        let mut refused: Vec<_> =
            error.context.fields.iter().map(|f| (f.name.as_str(), f.reason.as_str())).collect();
        refused.sort_unstable();
        assert_eq!(
            refused,
            [("before", "out_of_range"), ("nope", "unknown"), ("to", "duplicate"), ("to", "malformed")]
        );
    }
}
