//! Audit trail storage: the hash chain, and one `operations` row per operation.
//!
//! Each append locks the row of `audit_head` first. So entries form one sequence without gaps, also when several
//! PostgreSQL sessions append. Locks are always taken in this order: Pilothouse's other tables, `audit_head`,
//! `operations`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{
        AuditMaintenance, AuditQuery, CheckpointSigner, CheckpointSink, Head, OperationPage, OperationQuery,
        OperationRow, VerifiedTrail,
    },
    clock::Clock,
    ids::{ClusterId, OperationId},
    operation::{AuditWriter, CapacityFor, Entry, Operation, Outcome, Status},
    seal::Keyring,
};

use crate::{
    Store,
    db::{read, transact},
    error::{audit_error, corrupt},
    lease::LeaseClock as _,
    schema::{At, leases, operations},
};

mod appender;
mod audited;
mod count;
mod list;
mod reader;
mod retention;
mod trail;
mod verified;
mod writer;

use appender::NewOperation;

pub(crate) use count::CountCache;
pub(crate) use trail::Trail;
pub(crate) use verified::VerifiedState;
pub(crate) use writer::Writer;

/// A write to the trail.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// The intent of an operation.
    Begin(Operation),
    /// The outcome of an intent. A no-op if the intent already has an outcome.
    Finish(OperationId, Outcome),
    /// An operation that has ended, in one entry.
    Record(Operation, Outcome),
}

impl Write {
    /// The chain entry for this write.
    fn entry(&self) -> Entry {
        match self.clone() {
            Self::Begin(operation) => Entry::Intent { operation },
            Self::Finish(operation_id, outcome) => Entry::Outcome { operation_id, outcome },
            Self::Record(operation, outcome) => Entry::Complete { operation, outcome },
        }
    }

    /// The `operations` row, for a write that starts an operation.
    fn row(&self, instance: &str) -> Option<NewOperation> {
        match self {
            Self::Begin(operation) => Some(NewOperation::of(operation, None, instance)),
            Self::Record(operation, outcome) => Some(NewOperation::of(operation, Some(outcome), instance)),
            Self::Finish(..) => None,
        }
    }
}

/// Context of an append: the instance that writes, and the dependencies for verifying and signing the trail.
#[derive(Clone)]
pub(crate) struct TrailContext {
    pub(crate) instance: Arc<str>,
    /// Provides the signer of the key that the database names as the active key.
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Maximum age of an unsigned entry before a checkpoint is due.
    pub(crate) age: Duration,
    /// The part of the trail that this process has verified.
    pub(crate) verified_state: VerifiedState,
    /// Checkpoint sink: keeps checkpoints outside the database.
    pub(crate) checkpoint_sink: Arc<dyn CheckpointSink>,
    /// The next signer, during a key rotation. The entry being appended names the new key and is signed with it.
    pub(crate) next_signer: Option<Arc<dyn CheckpointSigner>>,
}

/// The audit entry that a change to Pilothouse's own tables appends when it commits.
#[derive(Clone)]
pub(crate) struct PendingEntry {
    operation: Operation,
    context: TrailContext,
}

impl PendingEntry {
    /// Time of the change: the start of its operation.
    pub(crate) fn at(&self) -> Timestamp {
        self.operation.created_at
    }

    /// Name of the user who makes the change.
    pub(crate) fn author(&self) -> &str {
        &self.operation.username
    }

    /// Rotates the signing key with this entry.
    pub(crate) fn with_next_signer(mut self, signer: Arc<dyn CheckpointSigner>) -> Self {
        self.context.next_signer = Some(signer);
        self
    }

    /// Sets the cluster id, which the database assigns to a new cluster within the transaction.
    pub(crate) fn with_cluster(mut self, cluster: ClusterId) -> Self {
        self.operation.cluster_id = Some(cluster);
        self
    }
}

impl Store {
    /// Runs [`Trail::verified_head`] on a reader connection.
    async fn verified_head(&self, verify_again: bool) -> Result<(Head, Option<VerifiedTrail>)> {
        let context = self.trail_context.clone();
        read!(self.db, |conn| conn.verified_head(&context, verify_again).await)
    }

    /// The audit entry for the change that a permit allows.
    ///
    /// # Errors
    /// `Internal` when the permit has no recorded operation.
    pub(crate) fn pending_entry(&self, permit: &Permit) -> Result<PendingEntry> {
        let operation = permit.operation().cloned();
        Ok(PendingEntry {
            operation: operation.ok_or_else(|| Error::internal("a change without a recorded operation"))?,
            context: self.trail_context.clone(),
        })
    }
}

#[async_trait]
impl AuditWriter for Store {
    fn check_capacity(&self, capacity: CapacityFor) -> Result<()> {
        self.reserve.check(capacity)
    }

    async fn begin(&self, operation: &Operation) -> Result<()> {
        self.writer.write(Write::Begin(operation.clone())).await
    }

    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()> {
        self.writer.write(Write::Finish(operation, outcome.clone())).await
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        self.writer.write(Write::Record(operation.clone(), outcome.clone())).await
    }
}

#[async_trait]
impl AuditQuery for Store {
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        list::page(&self.db, &self.counts, query).await
    }

    async fn operations_of(&self, ids: &[OperationId]) -> Result<Vec<OperationRow>> {
        list::of_ids(&self.db, ids).await
    }
}

impl Store {
    async fn close_orphaned_operations(&self, at: Timestamp) -> Result<u64> {
        let (context, lease) = (self.trail_context.clone(), self.lease.clone());
        let closed = transact!(self.db, |conn| {
            let At(now) = conn.lease_time(at).await?;
            let alive = leases::table.filter(leases::expires_at.gt(At(now))).select(leases::instance);
            let orphans: Vec<String> = operations::table
                .filter(operations::status.eq(Status::Pending.as_str()))
                .filter(operations::instance.ne(&*context.instance))
                .filter(operations::created_at.le(At(lease.orphaned_before(now))))
                .filter(operations::instance.ne_all(alive))
                .select(operations::operation_id)
                .order_by(operations::id)
                .load(conn)
                .await?;
            let closing = |id: &String| {
                let id = id.parse().map_err(|_| corrupt("operations.operation_id"))?;
                Ok(Write::Finish(OperationId(id), Outcome::orphaned(at)))
            };
            let writes = orphans.iter().map(closing).collect::<Result<Vec<_>>>()?;
            conn.append(&writes, &context).await
        });
        closed.map_err(audit_error)
    }

    async fn sign_trail_if_due(&self, age: Duration) -> Result<()> {
        // the active key must be current before any signature is checked
        self.refresh_active_key().await?;
        let context = TrailContext { age, ..self.trail_context.clone() };
        let (head, verified) = self.verified_head(false).await.map_err(audit_error)?;
        // checked without the lock first: usually no checkpoint is due
        if verified.is_some_and(|verified| {
            verified.last_checkpoint().is_due(head.sequence, context.clock.now(), age)
        }) {
            transact!(self.db, |conn| conn.append(&[], &context).await).map_err(audit_error)?;
            self.verified_head(true).await.map_err(audit_error)?;
        }
        match self.trail_context.verified_state.mismatch_reason() {
            None => Ok(()),
            Some(reason) => Err(Error::internal(format!("the audit trail is not signed: {reason}"))),
        }
    }
}

#[async_trait]
impl AuditMaintenance for Store {
    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
        self.close_orphaned_operations(at).await
    }

    async fn checkpoint(&self, age: Duration) -> Result<()> {
        self.sign_trail_if_due(age).await
    }
}
