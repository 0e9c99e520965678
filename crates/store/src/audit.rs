//! The audit trail: the chain, and one row per operation beside it.
//!
//! Entries are hashed in one order, the head's: whoever appends first locks the head's row, so that on PostgreSQL, too,
//! every entry follows the one before it without a gap. Locks are always taken in the order: our own tables, head,
//! operations.

use std::sync::Arc;

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, Insertable, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{
        AuditTrail, ChainHash, Entry, Operation, OperationId, OperationPage, OperationQuery, Outcome, Status,
    },
    clock::Clock,
    cluster::ClusterId,
};

use crate::{
    Store,
    db::{Postgres, Sqlite, transact},
    error::{StoreError, audit, corrupt},
    schema::{At, audit_head, audit_log, leases, operations},
};

mod list;
mod writer;

pub(crate) use writer::Writer;

/// Something to be stored in the trail.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// An intent.
    Begin(Operation),
    /// The outcome of an intent; nothing, if it has one.
    Finish(OperationId, Outcome),
    /// An operation that is over.
    Record(Operation, Outcome),
}

impl Write {
    fn operation_id(&self) -> OperationId {
        match self {
            Self::Begin(operation) | Self::Record(operation, _) => operation.id,
            Self::Finish(id, _) => *id,
        }
    }

    /// The entry that tells of it, what kind it is, and when it was.
    fn entry(&self) -> (Entry, &'static str, Timestamp) {
        match self.clone() {
            Self::Begin(operation) => {
                let at = operation.created_at;
                (Entry::Intent { operation }, "intent", at)
            }
            Self::Finish(operation_id, outcome) => {
                let at = outcome.finished_at;
                (Entry::Outcome { operation_id, outcome }, "outcome", at)
            }
            Self::Record(operation, outcome) => {
                let at = outcome.finished_at;
                (Entry::Complete { operation, outcome }, "complete", at)
            }
        }
    }

    /// The row of a new operation.
    fn row(&self, instance: &str) -> Option<NewOperation> {
        match self {
            Self::Begin(operation) => Some(NewOperation::of(operation, None, instance)),
            Self::Record(operation, outcome) => Some(NewOperation::of(operation, Some(outcome), instance)),
            Self::Finish(..) => None,
        }
    }
}

#[derive(Insertable)]
#[diesel(table_name = operations)]
struct NewOperation {
    operation_id: String,
    instance: String,
    operation_type: String,
    resource_type: String,
    cluster_id: Option<i64>,
    cluster_name: Option<String>,
    namespace: Option<String>,
    resource_name: Option<String>,
    searched: String,
    user_id: Option<i64>,
    username: String,
    role: Option<&'static str>,
    source_ip: Option<String>,
    request_id: Option<String>,
    status: &'static str,
    error_code: Option<String>,
    details: Option<String>,
    duration_ms: Option<i64>,
    created_at: At,
    finished_at: Option<At>,
}

impl NewOperation {
    fn of(operation: &Operation, outcome: Option<&Outcome>, instance: &str) -> Self {
        let operation = operation.clone();
        let summary = operation.summary();
        Self {
            operation_id: operation.id.to_string(),
            instance: instance.to_owned(),
            operation_type: operation.operation_type,
            resource_type: operation.resource_type,
            cluster_id: operation.cluster_id.map(|id| id.0),
            cluster_name: operation.cluster_name,
            namespace: operation.namespace,
            searched: operation.resource_name.as_deref().unwrap_or_default().to_lowercase(),
            resource_name: operation.resource_name,
            user_id: operation.user_id.map(|id| id.0),
            username: operation.username,
            role: operation.role.map(|role| role.as_str()),
            source_ip: operation.source_ip.map(|ip| ip.to_string()),
            request_id: operation.request_id,
            status: outcome.map_or(Status::Pending, |outcome| outcome.status).as_str(),
            error_code: outcome.and_then(|outcome| outcome.error_code.clone()),
            details: outcome.and_then(|outcome| outcome.details.clone()).or(summary),
            duration_ms: outcome.map(|outcome| outcome.duration_ms),
            created_at: At(operation.created_at),
            finished_at: outcome.map(|outcome| At(outcome.finished_at)),
        }
    }
}

#[derive(Insertable)]
#[diesel(table_name = audit_log)]
struct NewEntry {
    seq: i64,
    operation_id: String,
    entry: &'static str,
    at: At,
    body: String,
    hash: Vec<u8>,
}

/// Appends to the trail within the caller's transaction.
pub(crate) trait Trail {
    /// Stores these in this order. How many entries that made: an intent that has an outcome takes no second one.
    async fn append(&mut self, writes: &[Write], instance: &str) -> Result<u64, StoreError>;

    /// Stores that the operation of a change to our own tables is done: the last step of its transaction.
    async fn done(&mut self, receipt: Receipt) -> Result<(), StoreError> {
        let Receipt { operation, instance, clock } = receipt;
        let now = clock.now();
        let took = now.duration_since(operation.created_at).as_millis();
        let duration_ms = i64::try_from(took).unwrap_or(i64::MAX).max(0);
        let outcome = Outcome { duration_ms, ..Outcome::success(now) };
        self.append(&[Write::Record(operation, outcome)], &instance)
            .await
            .map_err(StoreError::of_audit)
            .map(drop)
    }
}

/// PostgreSQL takes many rows in one statement; for SQLite, in the same process, one by one is as good.
macro_rules! insert_at_once {
    ($conn:ident, $table:expr, $rows:ident) => {
        diesel::insert_into($table).values($rows).execute($conn).await?
    };
}

macro_rules! insert_each {
    ($conn:ident, $table:expr, $rows:ident) => {
        for row in $rows {
            diesel::insert_into($table).values(row).execute($conn).await?;
        }
    };
}

/// The same steps for each kind of connection.
macro_rules! trail {
    ($connection:ty, $insert:ident) => {
        impl Trail for $connection {
            async fn append(&mut self, writes: &[Write], instance: &str) -> Result<u64, StoreError> {
                let conn = self;
                // setting a column to itself locks the row before it is read
                let (mut seq, hash): (i64, Vec<u8>) = diesel::update(audit_head::table.find(1))
                    .set(audit_head::seq.eq(audit_head::seq))
                    .returning((audit_head::seq, audit_head::hash))
                    .get_result(conn)
                    .await?;
                let mut hash = ChainHash(hash.try_into().map_err(|_| corrupt("audit_head.hash"))?);
                let before = seq;

                let new: Vec<_> = writes.iter().filter_map(|write| write.row(instance)).collect();
                if !new.is_empty() {
                    $insert!(conn, operations::table, new);
                }
                let mut entries = Vec::with_capacity(writes.len());
                for write in writes {
                    if let Write::Finish(id, outcome) = write {
                        let pending = operations::table
                            .filter(operations::operation_id.eq(id.to_string()))
                            .filter(operations::status.eq(Status::Pending.as_str()));
                        // without any, what was asked for stays
                        let details = outcome.details.as_ref().map(|details| operations::details.eq(details));
                        let closed = diesel::update(pending)
                            .set((
                                operations::status.eq(outcome.status.as_str()),
                                operations::error_code.eq(&outcome.error_code),
                                details,
                                operations::duration_ms.eq(outcome.duration_ms),
                                operations::finished_at.eq(At(outcome.finished_at)),
                            ))
                            .execute(conn)
                            .await?;
                        if closed == 0 {
                            continue;
                        }
                    }
                    let (entry, kind, at) = write.entry();
                    let body = entry.canonical()?;
                    seq += 1;
                    hash = hash.next(seq, &body);
                    entries.push(NewEntry {
                        seq,
                        operation_id: write.operation_id().to_string(),
                        entry: kind,
                        at: At(at),
                        body,
                        hash: hash.0.to_vec(),
                    });
                }
                if seq > before {
                    $insert!(conn, audit_log::table, entries);
                    diesel::update(audit_head::table.find(1))
                        .set((audit_head::seq.eq(seq), audit_head::hash.eq(hash.0.to_vec())))
                        .execute(conn)
                        .await?;
                }
                Ok(seq.abs_diff(before))
            }
        }
    };
}

trail!(Sqlite, insert_each);
trail!(Postgres, insert_at_once);

/// What a change to our own tables will leave in the trail.
pub(crate) struct Receipt {
    operation: Operation,
    instance: String,
    clock: Arc<dyn Clock>,
}

impl Receipt {
    /// Of a cluster that has its id only now.
    pub(crate) fn concerning(mut self, cluster: ClusterId) -> Self {
        self.operation.cluster_id = Some(cluster);
        self
    }
}

impl Store {
    /// The receipt for a permit's change.
    ///
    /// # Errors
    /// `Internal` when the gate has recorded no operation for it.
    pub(crate) fn receipt(&self, permit: &Permit) -> Result<Receipt> {
        let operation = permit.operation().cloned();
        Ok(Receipt {
            operation: operation.ok_or_else(|| Error::internal("a change without a recorded operation"))?,
            instance: self.lease.instance().to_owned(),
            clock: self.lent.clock.clone(),
        })
    }
}

#[async_trait]
impl AuditTrail for Store {
    async fn begin(&self, operation: &Operation) -> Result<()> {
        self.writer.write(Write::Begin(operation.clone())).await
    }

    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()> {
        self.writer.write(Write::Finish(operation, outcome.clone())).await
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        self.writer.write(Write::Record(operation.clone(), outcome.clone())).await
    }

    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
        let instance = self.lease.instance().to_owned();
        let closed = transact!(self.db, |conn| {
            let alive = leases::table.filter(leases::expires_at.gt(At(at))).select(leases::instance);
            let orphans: Vec<String> = operations::table
                .filter(operations::status.eq(Status::Pending.as_str()))
                .filter(operations::instance.ne(&instance))
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
            conn.append(&writes, &instance).await
        });
        closed.map_err(audit)
    }

    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        list::page(&self.db, query).await
    }
}
