//! The audit trail: the chain, and one row per operation beside it.
//!
//! Entries are hashed in one order, the head's: whoever appends first locks the head's row, so that on PostgreSQL, too,
//! every entry follows the one before it without a gap. Locks are always taken in the order: our own tables, head,
//! operations.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, Insertable, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{
        AuditTrail, CapacityFor, ChainHash, Checkpoint, CheckpointSigner, CheckpointSink, Entry, Head,
        KeyRotation, LastCheckpoint, Operation, OperationId, OperationPage, OperationQuery, Outcome, Status,
        StoredCheckpoint, TrailKeys, Trusted, VerifiedTrail,
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
    schema::{
        At, audit_beginning, audit_checkpoints, audit_handovers, audit_head, audit_log, install, leases,
        operations,
    },
};

mod count;
mod list;
mod reader;
mod retention;
mod verified;
mod writer;

use verified::Unfit;

pub(crate) use count::Counts;
pub(crate) use verified::VerifiedState;
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

#[derive(Insertable)]
#[diesel(table_name = audit_handovers)]
struct NewKeyRotation {
    seq: i64,
    line: String,
}

/// Who appends, and signs when that is due.
#[derive(Clone)]
pub(crate) struct TrailContext {
    pub(crate) instance: Arc<str>,
    /// Signs with the key that the database says is in use.
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long an entry waits for a checkpoint.
    pub(crate) age: Duration,
    /// What this process knows of the trail.
    pub(crate) memory: VerifiedState,
    /// Where checkpoints are kept outside the database.
    pub(crate) witness: Arc<dyn CheckpointSink>,
    /// Who signs from the next entry on, which says so.
    pub(crate) successor: Option<Arc<dyn CheckpointSigner>>,
}

/// The chain as it grows within a transaction that holds the head's lock.
struct ChainAppender {
    trail: String,
    head: Head,
    /// Where the trail may be due to be signed: by whom, and what was signed last.
    signing: Option<(Arc<dyn CheckpointSigner>, LastCheckpoint)>,
    /// The last checkpoint that was made.
    signed: Option<Checkpoint>,
    entries: Vec<NewEntry>,
    checkpoints: Vec<NewCheckpoint>,
    handovers: Vec<NewKeyRotation>,
}

impl ChainAppender {
    fn of(trail: String, head: Head) -> Self {
        let (entries, checkpoints, handovers) = Default::default();
        Self { trail, head, signing: None, signed: None, entries, checkpoints, handovers }
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
        self.sign_if(now, |last, sequence| last.is_full(sequence))
    }

    /// Signs the end, where that may be due, and is.
    fn sign_if(&mut self, now: Timestamp, is_due: impl FnOnce(LastCheckpoint, i64) -> bool) -> Result<()> {
        match &self.signing {
            Some((_, last)) if is_due(*last, self.head.sequence) => self.sign(self.head, now),
            _ => Ok(()),
        }
    }

    /// Signs a verified entry, if there is a signer.
    fn sign(&mut self, head: Head, now: Timestamp) -> Result<()> {
        let Some((signer, last)) = &mut self.signing else { return Ok(()) };
        let checkpoint = Checkpoint::sign(&**signer, &self.trail, head, now);
        *last = LastCheckpoint { sequence: checkpoint.sequence, time: checkpoint.time };
        self.checkpoints.push(NewCheckpoint { seq: checkpoint.sequence, line: checkpoint.line()? });
        self.signed = Some(checkpoint);
        Ok(())
    }

    /// Signs what there is, adds the entry that names another key, and lets that key sign that it takes over, and the entry.
    fn rotate_key(&mut self, entry: &Entry, to: &Arc<dyn CheckpointSigner>, now: Timestamp) -> Result<()> {
        let is_unsigned = |last: LastCheckpoint, sequence| sequence > last.sequence;
        self.sign_if(now, is_unsigned)?;
        let (signer, last) =
            self.signing.take().ok_or_else(|| Error::internal("a key rotation without the previous key"))?;
        self.add(entry, now)?;
        let handover = KeyRotation::sign(&**to, &self.trail, self.head, signer.public_key());
        self.handovers.push(NewKeyRotation { seq: handover.sequence, line: handover.line()? });
        self.signing = Some((to.clone(), last));
        self.sign_if(now, is_unsigned)
    }
}

/// The trail's id, its last entry's number and hash.
type HeadRow = (String, i64, Vec<u8>);

fn head_of((trail, sequence, hash): HeadRow) -> Result<(String, Head)> {
    let hash = ChainHash(hash.try_into().map_err(|_| corrupt("audit_head.hash"))?);
    Ok((trail, Head { sequence, hash }))
}

/// How many entries are looked at in one piece.
const PIECE: i64 = 500;

/// Appends to the trail within the caller's transaction.
pub(crate) trait Trail {
    /// Verifies that a trail which ends with `head` follows from what was known of it before that end was read; what is known
    /// then. Of a process that knows nothing yet, from the last checkpoint in the database or outside it.
    async fn follow(
        &mut self,
        trail: &str,
        head: Head,
        known: Option<VerifiedTrail>,
        by: &TrailContext,
    ) -> Result<VerifiedTrail, Unfit>;

    /// As [`Trail::follow`], with the outcome remembered; none when it does not follow.
    async fn look(
        &mut self,
        trail: &str,
        head: Head,
        known: Option<VerifiedTrail>,
        by: &TrailContext,
    ) -> Result<Option<VerifiedTrail>, StoreError> {
        match self.follow(trail, head, known, by).await {
            Ok(known) => {
                by.memory.verified(&known);
                Ok(Some(known))
            }
            Err(Unfit::Unsound(reason)) => {
                by.memory.unsound(reason, by.clock.monotonic());
                Ok(None)
            }
            Err(Unfit::Unread(error)) => Err(error),
        }
    }

    /// The trail's end, as it is seen without a lock, and what is known of it by then; `anew` where a checkpoint may have been
    /// made of the end that is known.
    async fn seen(
        &mut self,
        by: &TrailContext,
        anew: bool,
    ) -> Result<(Head, Option<VerifiedTrail>), StoreError>;

    /// Stores these in this order, and signs the last entry when that is due and the trail follows from what is known of it.
    /// How many entries that made: an intent that has an outcome takes no second one. At most once in a transaction.
    async fn append(&mut self, writes: &[Write], by: &TrailContext) -> Result<u64, StoreError>;

    /// Stores that the operation of a change to our own tables is done: the last step of its transaction.
    async fn done(&mut self, receipt: PendingEntry) -> Result<(), StoreError> {
        self.ended(receipt, &Ok(())).await
    }

    /// Stores what became of the operation, likewise: a refusal may change something, too.
    async fn ended(&mut self, receipt: PendingEntry, result: &Result<()>) -> Result<(), StoreError> {
        let PendingEntry { operation, by } = receipt;
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
            async fn follow(
                &mut self,
                trail: &str,
                head: Head,
                known: Option<VerifiedTrail>,
                by: &TrailContext,
            ) -> Result<VerifiedTrail, Unfit> {
                let conn = self;
                let (key, handovers) = loop {
                    let key: String =
                        install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                    let handovers: Vec<String> = audit_handovers::table
                        .order_by(audit_handovers::seq)
                        .select(audit_handovers::line)
                        .load(conn)
                        .await?;
                    let still: String =
                        install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                    // without the head's lock a new key may take over between the two
                    if still == key {
                        break (key, handovers);
                    }
                };
                let signer = by.keyring.keys(&key)?.signer;
                let keys = TrailKeys::of_lines(trail, signer.public_key(), &handovers, &*signer)
                    .map_err(|defect| defect.details)?;
                let trusted = Trusted { keys: &keys, verifier: &*signer };
                let read = |(sequence, line)| StoredCheckpoint { sequence, line };
                let columns = (audit_checkpoints::seq, audit_checkpoints::line);
                let beginning: Option<String> = audit_beginning::table
                    .find(1)
                    .select(audit_beginning::line)
                    .first(conn)
                    .await
                    .optional()?;
                let known = match known.and_then(|known| known.since(beginning.as_deref(), trusted)) {
                    Some(known) => known,
                    None => {
                        let newest: Option<(i64, String)> = audit_checkpoints::table
                            .order_by(audit_checkpoints::seq.desc())
                            .select(columns)
                            .first(conn)
                            .await
                            .optional()?;
                        let unreadable =
                            |error| format!("its checkpoints outside the database cannot be read: {error}");
                        let kept = match head {
                            Head::NONE => None,
                            _ => by.witness.last().map_err(unreadable)?,
                        };
                        VerifiedTrail::begin(trail, head, newest.map(read).as_ref(), kept, trusted)?
                    }
                };
                let since: Vec<(i64, String)> = audit_checkpoints::table
                    .filter(audit_checkpoints::seq.gt(known.last_checkpoint().sequence))
                    .filter(audit_checkpoints::seq.le(head.sequence))
                    .order_by(audit_checkpoints::seq)
                    .select(columns)
                    .load(conn)
                    .await?;
                let since = since.into_iter().map(read).collect();
                let mut following = known.following(trail, since, trusted)?;
                while following.last() < head.sequence {
                    let entries: Vec<(i64, String)> = audit_log::table
                        .filter(audit_log::seq.gt(following.last()))
                        .filter(audit_log::seq.le(head.sequence))
                        .order_by(audit_log::seq)
                        .limit(PIECE)
                        .select((audit_log::seq, audit_log::body))
                        .load(conn)
                        .await?;
                    if entries.is_empty() {
                        break;
                    }
                    for (sequence, text) in entries {
                        following.entry(sequence, &text)?;
                    }
                }
                Ok(following.end(head)?)
            }

            async fn seen(
                &mut self,
                by: &TrailContext,
                anew: bool,
            ) -> Result<(Head, Option<VerifiedTrail>), StoreError> {
                // others go on, and what is known after the end was read may be of a later one
                let before = by.memory.known();
                let row: HeadRow = audit_head::table
                    .find(1)
                    .select((audit_head::trail, audit_head::seq, audit_head::hash))
                    .get_result(self)
                    .await?;
                let (trail, head) = head_of(row)?;
                let here = by.memory.at(head).filter(|known| known.head() == head && known.trail() == trail);
                let known = match here {
                    Some(known) if !anew => Some(known),
                    here if by.memory.may_look(by.clock.monotonic()) => {
                        self.look(&trail, head, here.or(before), by).await?
                    }
                    _ => None,
                };
                Ok((head, known))
            }

            async fn append(&mut self, writes: &[Write], by: &TrailContext) -> Result<u64, StoreError> {
                let conn = self;
                // setting a column to itself locks the row before it is read
                let row: HeadRow = diesel::update(audit_head::table.find(1))
                    .set(audit_head::seq.eq(audit_head::seq))
                    .returning((audit_head::trail, audit_head::seq, audit_head::hash))
                    .get_result(conn)
                    .await?;
                let (trail, before) = head_of(row)?;
                let (now, monotonic) = (by.clock.now(), by.clock.monotonic());
                let most = before.sequence.saturating_add(i64::try_from(writes.len()).unwrap_or(i64::MAX));
                let known = by.memory.at(before);
                let is_due = |known: &VerifiedTrail| known.last_checkpoint().is_due(most, now, by.age);
                let due = by.successor.is_some()
                    || known.as_ref().is_none_or(is_due) && by.memory.may_look(monotonic);
                let mut growth = ChainAppender::of(trail, before);
                // what others appended since is looked at when it is to be signed
                let is_here = |known: &VerifiedTrail| known.head() == before && known.trail() == growth.trail;
                let mut here = known.clone().filter(is_here);
                if due {
                    here = conn.look(&growth.trail, before, known, by).await?;
                    if let Some(known) = &here {
                        let key: String =
                            install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                        growth.signing = Some((by.keyring.keys(&key)?.signer, known.last_checkpoint()));
                        for overdue in known.overdue() {
                            growth.sign(*overdue, now)?;
                        }
                    }
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
                    match &by.successor {
                        None => growth.add(&write.entry(), now)?,
                        Some(next) if growth.signing.is_some() => {
                            growth.rotate_key(&write.entry(), next, now)?
                        }
                        Some(_) => {
                            let reason = by.memory.reason().unwrap_or_default();
                            let details = format!(
                                "the key of a trail that failed verification cannot be rotated: {reason}"
                            );
                            return Err(Error::internal(details).into());
                        }
                    }
                }
                growth.sign_if(now, |last, sequence| last.is_due(sequence, now, by.age))?;
                let ChainAppender { head, signed, entries, checkpoints, handovers, .. } = growth;
                if !entries.is_empty() {
                    $insert!(conn, audit_log::table, entries);
                }
                if !checkpoints.is_empty() {
                    $insert!(conn, audit_checkpoints::table, checkpoints);
                }
                if !handovers.is_empty() {
                    $insert!(conn, audit_handovers::table, handovers);
                }
                diesel::update(audit_head::table.find(1))
                    .set((audit_head::seq.eq(head.sequence), audit_head::hash.eq(head.hash.0.to_vec())))
                    .execute(conn)
                    .await?;
                // an end that was there before does not tell whether this was committed
                let grown = here.filter(|_| head != before).map(|known| known.grown(head, signed));
                by.memory.draft(grown);
                Ok(head.sequence.abs_diff(before.sequence))
            }
        }
    };
}

trail!(Sqlite, insert_each);
trail!(Postgres, insert_at_once);

/// What a change to our own tables will leave in the trail.
#[derive(Clone)]
pub(crate) struct PendingEntry {
    operation: Operation,
    by: TrailContext,
}

impl PendingEntry {
    /// By which the trail is handed over to another key.
    pub(crate) fn handing_over_to(mut self, signer: Arc<dyn CheckpointSigner>) -> Self {
        self.by.successor = Some(signer);
        self
    }

    /// Of a cluster that has its id only now.
    pub(crate) fn concerning(mut self, cluster: ClusterId) -> Self {
        self.operation.cluster_id = Some(cluster);
        self
    }
}

impl Store {
    /// As [`Trail::seen`].
    async fn end_of_trail(&self, anew: bool) -> Result<(Head, Option<VerifiedTrail>)> {
        let by = self.author.clone();
        read!(self.db, |conn| conn.seen(&by, anew).await)
    }

    /// The receipt for a permit's change.
    ///
    /// # Errors
    /// `Internal` when the gate has recorded no operation for it.
    pub(crate) fn receipt(&self, permit: &Permit) -> Result<PendingEntry> {
        let operation = permit.operation().cloned();
        Ok(PendingEntry {
            operation: operation.ok_or_else(|| Error::internal("a change without a recorded operation"))?,
            by: self.author.clone(),
        })
    }
}

#[async_trait]
impl AuditTrail for Store {
    fn check_capacity(&self, whose: CapacityFor) -> Result<()> {
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
        self.refresh_active_key().await?;
        let by = TrailContext { age, ..self.author.clone() };
        let (head, known) = self.end_of_trail(false).await.map_err(audit)?;
        // looked at before the lock is taken: most of the time there is nothing to sign
        if known.is_some_and(|known| known.last_checkpoint().is_due(head.sequence, by.clock.now(), age)) {
            transact!(self.db, |conn| conn.append(&[], &by).await).map_err(audit)?;
            self.end_of_trail(true).await.map_err(audit)?;
        }
        match self.author.memory.reason() {
            None => Ok(()),
            Some(reason) => Err(Error::internal(format!("the audit trail is not signed: {reason}"))),
        }
    }

    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        list::page(&self.db, &self.counts, query).await
    }
}
