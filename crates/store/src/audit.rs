//! The audit trail: the chain, and one row per operation beside it.
//!
//! Entries are hashed in one order, the head's: whoever appends first locks the head's row, so that on PostgreSQL, too,
//! every entry follows the one before it without a gap. Locks are always taken in the order: our own tables, head,
//! operations.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, Insertable, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{
        AuditTrail, ChainHash, Checkpoint, CheckpointSigner, Entry, Head, LastCheckpoint, Operation,
        OperationId, OperationPage, OperationQuery, Outcome, RoomFor, Status,
    },
    clock::Clock,
    cluster::ClusterId,
    seal::Keyring,
};

use crate::{
    Store,
    db::{Postgres, Sqlite, read, transact},
    error::{StoreError, audit, corrupt},
    lease::LeaseClock as _,
    schema::{At, audit_checkpoints, audit_head, audit_log, install, leases, operations},
};

mod count;
mod list;
mod reader;
mod retention;
mod writer;

pub(crate) use count::Counts;
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
    /// The entry that tells of it.
    fn entry(&self) -> Entry {
        match self.clone() {
            Self::Begin(operation) => Entry::Intent { operation },
            Self::Finish(operation_id, outcome) => Entry::Outcome { operation_id, outcome },
            Self::Record(operation, outcome) => Entry::Complete { operation, outcome },
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

#[derive(Insertable)]
#[diesel(table_name = audit_checkpoints)]
struct NewCheckpoint {
    seq: i64,
    line: String,
}

/// Who appends, and signs when that is due.
#[derive(Clone)]
pub(crate) struct Author {
    pub(crate) instance: Arc<str>,
    /// Signs with the key that the database says is in use.
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long an entry waits for a checkpoint.
    pub(crate) age: Duration,
}

/// The chain as it grows within a transaction that holds the head's lock.
struct Growth {
    trail: String,
    head: Head,
    signed: LastCheckpoint,
    /// Where the trail may be due to be signed.
    signer: Option<Arc<dyn CheckpointSigner>>,
    entries: Vec<NewEntry>,
    checkpoints: Vec<NewCheckpoint>,
}

impl Growth {
    fn of((trail, seq, hash, signed_seq, signed_at): HeadRow) -> Result<Self> {
        let hash = ChainHash(hash.try_into().map_err(|_| corrupt("audit_head.hash"))?);
        let signed = LastCheckpoint { sequence: signed_seq, time: signed_at.0 };
        let head = Head { sequence: seq, hash };
        Ok(Self { trail, head, signed, signer: None, entries: Vec::new(), checkpoints: Vec::new() })
    }

    fn add(&mut self, entry: &Entry, now: Timestamp) -> Result<()> {
        let body = entry.canonical()?;
        self.head = self.head.then(&body);
        self.entries.push(NewEntry {
            seq: self.head.sequence,
            operation_id: entry.operation_id().to_string(),
            entry: entry.kind(),
            at: At(entry.at()),
            body,
            hash: self.head.hash.0.to_vec(),
        });
        if self.signed.is_full(self.head.sequence) { self.sign(now) } else { Ok(()) }
    }

    fn sign(&mut self, now: Timestamp) -> Result<()> {
        let signer = self.signer.as_ref().ok_or_else(|| Error::internal("a checkpoint without a signer"))?;
        let checkpoint = Checkpoint::sign(&**signer, &self.trail, self.head, now);
        self.signed = LastCheckpoint { sequence: checkpoint.sequence, time: checkpoint.time };
        self.checkpoints.push(NewCheckpoint { seq: checkpoint.sequence, line: checkpoint.line()? });
        Ok(())
    }
}

/// The trail's id, its last entry's number and hash, the last one signed, and when.
type HeadRow = (String, i64, Vec<u8>, i64, At);

/// Appends to the trail within the caller's transaction.
pub(crate) trait Trail {
    /// Stores these in this order, and signs the last entry when that is due. How many entries that made: an intent that
    /// has an outcome takes no second one.
    async fn append(&mut self, writes: &[Write], by: &Author) -> Result<u64, StoreError>;

    /// Stores that the operation of a change to our own tables is done: the last step of its transaction.
    async fn done(&mut self, receipt: Receipt) -> Result<(), StoreError> {
        self.ended(receipt, &Ok(())).await
    }

    /// Stores what became of the operation, likewise: a refusal may change something, too.
    async fn ended(&mut self, receipt: Receipt, result: &Result<()>) -> Result<(), StoreError> {
        let Receipt { operation, by } = receipt;
        let now = by.clock.now();
        let took = now.duration_since(operation.created_at).as_millis();
        let outcome = Outcome::of(result, i64::try_from(took).unwrap_or(i64::MAX).max(0), now);
        self.append(&[Write::Record(operation, outcome)], &by).await.map_err(StoreError::of_audit).map(drop)
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
            async fn append(&mut self, writes: &[Write], by: &Author) -> Result<u64, StoreError> {
                let conn = self;
                // setting a column to itself locks the row before it is read
                let head: HeadRow = diesel::update(audit_head::table.find(1))
                    .set(audit_head::seq.eq(audit_head::seq))
                    .returning((
                        audit_head::trail,
                        audit_head::seq,
                        audit_head::hash,
                        audit_head::signed_seq,
                        audit_head::signed_at,
                    ))
                    .get_result(conn)
                    .await?;
                let mut growth = Growth::of(head)?;
                let (before, now) = (growth.head.sequence, by.clock.now());
                let most = i64::try_from(writes.len()).unwrap_or(i64::MAX);
                if growth.signed.is_due(before.saturating_add(most), now, by.age) {
                    let key: String =
                        install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                    growth.signer = Some(by.keyring.keys(&key)?.signer);
                }

                let new: Vec<_> = writes.iter().filter_map(|write| write.row(&by.instance)).collect();
                if !new.is_empty() {
                    $insert!(conn, operations::table, new);
                }
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
                    growth.add(&write.entry(), now)?;
                }
                if growth.signed.is_due(growth.head.sequence, now, by.age) {
                    growth.sign(now)?;
                }
                let Growth { head, signed, entries, checkpoints, .. } = growth;
                if !entries.is_empty() {
                    $insert!(conn, audit_log::table, entries);
                }
                if !checkpoints.is_empty() {
                    $insert!(conn, audit_checkpoints::table, checkpoints);
                }
                diesel::update(audit_head::table.find(1))
                    .set((
                        audit_head::seq.eq(head.sequence),
                        audit_head::hash.eq(head.hash.0.to_vec()),
                        audit_head::signed_seq.eq(signed.sequence),
                        audit_head::signed_at.eq(At(signed.time)),
                    ))
                    .execute(conn)
                    .await?;
                Ok(head.sequence.abs_diff(before))
            }
        }
    };
}

trail!(Sqlite, insert_each);
trail!(Postgres, insert_at_once);

/// What a change to our own tables will leave in the trail.
#[derive(Clone)]
pub(crate) struct Receipt {
    operation: Operation,
    by: Author,
}

impl Receipt {
    /// To be signed at once.
    pub(crate) fn signed_at_once(mut self) -> Self {
        self.by.age = Duration::ZERO;
        self
    }

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
            by: self.author.clone(),
        })
    }
}

#[async_trait]
impl AuditTrail for Store {
    fn room(&self, whose: RoomFor) -> Result<()> {
        self.reserve.check(whose)
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

    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
        let (by, lease) = (self.author.clone(), self.lease.clone());
        let closed = transact!(self.db, |conn| {
            let At(now) = conn.lease_time(at).await?;
            let alive = leases::table.filter(leases::expires_at.gt(At(now))).select(leases::instance);
            let orphans: Vec<String> = operations::table
                .filter(operations::status.eq(Status::Pending.as_str()))
                .filter(operations::instance.ne(&*by.instance))
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
            conn.append(&writes, &by).await
        });
        closed.map_err(audit)
    }

    async fn checkpoint(&self, age: Duration) -> Result<()> {
        // before anybody looks at who has signed
        self.turn_to_key_in_use().await?;
        let (db, by) = (self.db.clone(), Author { age, ..self.author.clone() });
        let due = async {
            let last: (i64, i64, At) = read!(db, |conn| Ok(audit_head::table
                .find(1)
                .select((audit_head::seq, audit_head::signed_seq, audit_head::signed_at))
                .get_result(conn)
                .await?))?;
            let (seq, sequence, At(time)) = last;
            Ok(LastCheckpoint { sequence, time }.is_due(seq, by.clock.now(), age))
        };
        // looked at before the lock is taken: most of the time there is nothing to sign
        if due.await.map_err(audit)? {
            transact!(self.db, |conn| conn.append(&[], &by).await).map_err(audit)?;
        }
        Ok(())
    }

    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        list::page(&self.db, &self.counts, query).await
    }
}
