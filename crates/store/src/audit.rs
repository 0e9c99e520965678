//! Audit trail storage: the hash chain, and one `operations` row per operation.
//!
//! Each append locks the row of `audit_head` first. So entries form one sequence without gaps, also when several
//! PostgreSQL sessions append. Locks are always taken in this order: Pilothouse's other tables, `audit_head`,
//! `operations`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, Insertable, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{
        AuditMaintenance, AuditQuery, ChainHash, Checkpoint, CheckpointSigner, CheckpointSink, Head,
        KeyRotation, LastCheckpoint, OperationPage, OperationQuery, StoredCheckpoint, TrailKeys, Trusted,
        VerifiedTrail,
    },
    clock::Clock,
    ids::{ClusterId, OperationId},
    operation::{AuditWriter, CapacityFor, Entry, Operation, Outcome, Status},
    seal::Keyring,
};

use crate::{
    Store,
    db::{Postgres, Sqlite, read, transact},
    error::{StoreError, audit_error, corrupt},
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

use verified::VerifyError;

pub(crate) use count::Counts;
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

/// Context of an append: the instance that writes, and what it needs to verify and sign the trail.
#[derive(Clone)]
pub(crate) struct TrailContext {
    pub(crate) instance: Arc<str>,
    /// Provides the signer of the key that the database names as the key in use.
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Maximum age of an unsigned entry before a checkpoint is due.
    pub(crate) age: Duration,
    /// The part of the trail that this process has verified.
    pub(crate) verified_state: VerifiedState,
    /// Checkpoint sink: keeps checkpoints outside the database.
    pub(crate) checkpoint_sink: Arc<dyn CheckpointSink>,
    /// Key rotation: the signer that takes over with the entry being appended, which names it.
    pub(crate) next_signer: Option<Arc<dyn CheckpointSigner>>,
}

/// Builds new chain entries and checkpoints within a transaction that holds the lock on `audit_head`.
struct ChainAppender {
    trail: String,
    head: Head,
    /// The current signer and the last checkpoint. `None`: this append does not sign.
    signing: Option<(Arc<dyn CheckpointSigner>, LastCheckpoint)>,
    /// The newest checkpoint made by this append.
    signed: Option<Checkpoint>,
    entries: Vec<NewEntry>,
    checkpoints: Vec<NewCheckpoint>,
    key_rotations: Vec<NewKeyRotation>,
}

impl ChainAppender {
    fn of(trail: String, head: Head) -> Self {
        let (entries, checkpoints, key_rotations) = Default::default();
        Self { trail, head, signing: None, signed: None, entries, checkpoints, key_rotations }
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

    /// Signs the last entry if this append may sign and `is_due` returns true.
    fn sign_if(&mut self, now: Timestamp, is_due: impl FnOnce(LastCheckpoint, i64) -> bool) -> Result<()> {
        match &self.signing {
            Some((_, last)) if is_due(*last, self.head.sequence) => self.sign(self.head, now),
            _ => Ok(()),
        }
    }

    /// Signs an entry that was verified, if there is a signer.
    fn sign(&mut self, head: Head, now: Timestamp) -> Result<()> {
        let Some((signer, last)) = &mut self.signing else { return Ok(()) };
        let checkpoint = Checkpoint::sign(&**signer, &self.trail, head, now);
        *last = LastCheckpoint { sequence: checkpoint.sequence, time: checkpoint.time };
        self.checkpoints.push(NewCheckpoint { seq: checkpoint.sequence, line: checkpoint.line()? });
        self.signed = Some(checkpoint);
        Ok(())
    }

    /// Rotates the signing key: signs the current end with the old key, appends the `rekey` entry, and lets the new
    /// key sign the rotation record and that entry.
    fn rotate_key(&mut self, entry: &Entry, to: &Arc<dyn CheckpointSigner>, now: Timestamp) -> Result<()> {
        let is_unsigned = |last: LastCheckpoint, sequence| sequence > last.sequence;
        self.sign_if(now, is_unsigned)?;
        let (signer, last) =
            self.signing.take().ok_or_else(|| Error::internal("a key rotation without the previous key"))?;
        self.add(entry, now)?;
        let rotation = KeyRotation::sign(&**to, &self.trail, self.head, signer.public_key());
        self.key_rotations.push(NewKeyRotation { seq: rotation.sequence, line: rotation.line()? });
        self.signing = Some((to.clone(), last));
        self.sign_if(now, is_unsigned)
    }
}

/// Row of `audit_head`: trail id, number and hash of the last entry.
type HeadRow = (String, i64, Vec<u8>);

fn parse_head((trail, sequence, hash): HeadRow) -> Result<(String, Head)> {
    let hash = ChainHash(hash.try_into().map_err(|_| corrupt("audit_head.hash"))?);
    Ok((trail, Head { sequence, hash }))
}

/// Maximum number of entries that one verification query reads.
const MAX_ENTRIES_PER_QUERY: i64 = 500;

/// Verifies the trail and appends to it, within the caller's transaction.
pub(crate) trait Trail {
    /// Verifies that the trail up to `head` continues the part verified before, and returns the new verified state.
    /// `verified` must have been read before `head`. Without it, verification starts at the newest checkpoint in the
    /// database or in the checkpoint sink.
    async fn verify_trail(
        &mut self,
        trail: &str,
        head: Head,
        verified: Option<VerifiedTrail>,
        context: &TrailContext,
    ) -> Result<VerifiedTrail, VerifyError>;

    /// Calls [`Trail::verify_trail`] and stores the result in the verified state. Returns `None` when the trail does
    /// not match.
    async fn verify_and_record(
        &mut self,
        trail: &str,
        head: Head,
        verified: Option<VerifiedTrail>,
        context: &TrailContext,
    ) -> Result<Option<VerifiedTrail>, StoreError> {
        match self.verify_trail(trail, head, verified, context).await {
            Ok(verified) => {
                context.verified_state.set_verified(&verified);
                Ok(Some(verified))
            }
            Err(VerifyError::Mismatch(reason)) => {
                context.verified_state.set_mismatch(reason, context.clock.monotonic());
                Ok(None)
            }
            Err(VerifyError::Store(error)) => Err(error),
        }
    }

    /// Reads the head without a lock, and the verified state up to it. `verify_again` forces verification even if the
    /// head is already verified, because a checkpoint of that head may have been added.
    async fn verified_head(
        &mut self,
        context: &TrailContext,
        verify_again: bool,
    ) -> Result<(Head, Option<VerifiedTrail>), StoreError>;

    /// Appends the writes in order, and signs the last entry when a checkpoint is due and the trail matches the
    /// verified state. Returns the number of new entries: an intent that has an outcome gets no second one. To be
    /// called at most once per transaction.
    async fn append(&mut self, writes: &[Write], context: &TrailContext) -> Result<u64, StoreError>;

    /// Records the success of a change to Pilothouse's own tables. This is the last step of the change's transaction.
    async fn record_success(&mut self, entry: PendingEntry) -> Result<(), StoreError> {
        self.record_outcome(entry, &Ok(())).await
    }

    /// Like [`Trail::record_success`], for any result: a refused operation may change rows, too.
    async fn record_outcome(&mut self, entry: PendingEntry, result: &Result<()>) -> Result<(), StoreError> {
        let PendingEntry { operation, context } = entry;
        let now = context.clock.now();
        let elapsed_ms = now.duration_since(operation.created_at).as_millis();
        let outcome = Outcome::of(result, i64::try_from(elapsed_ms).unwrap_or(i64::MAX).max(0), now);
        self.append(&[Write::Record(operation, outcome)], &context)
            .await
            .map_err(StoreError::into_audit)
            .map(drop)
    }
}

/// Inserts all rows in one statement, which saves round trips to PostgreSQL. SQLite runs in the same process, so one
/// statement per row costs no more.
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

/// Implements [`Trail`] for one type of connection.
macro_rules! impl_trail {
    ($connection:ty, $insert:ident) => {
        impl Trail for $connection {
            async fn verify_trail(
                &mut self,
                trail: &str,
                head: Head,
                verified: Option<VerifiedTrail>,
                context: &TrailContext,
            ) -> Result<VerifiedTrail, VerifyError> {
                let conn = self;
                let (key, key_rotations) = loop {
                    let key: String =
                        install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                    let key_rotations: Vec<String> = audit_handovers::table
                        .order_by(audit_handovers::seq)
                        .select(audit_handovers::line)
                        .load(conn)
                        .await?;
                    let key_after: String =
                        install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                    // without the lock on `audit_head` a key rotation may commit between the two reads
                    if key_after == key {
                        break (key, key_rotations);
                    }
                };
                let signer = context.keyring.keys(&key)?.signer;
                let keys = TrailKeys::of_lines(trail, signer.public_key(), &key_rotations, &*signer)
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
                let verified = match verified
                    .and_then(|verified| verified.since(beginning.as_deref(), trusted))
                {
                    Some(verified) => verified,
                    None => {
                        let newest: Option<(i64, String)> = audit_checkpoints::table
                            .order_by(audit_checkpoints::seq.desc())
                            .select(columns)
                            .first(conn)
                            .await
                            .optional()?;
                        let unreadable =
                            |error| format!("its checkpoints outside the database cannot be read: {error}");
                        let external = match head {
                            Head::NONE => None,
                            _ => context.checkpoint_sink.last().map_err(unreadable)?,
                        };
                        VerifiedTrail::begin(trail, head, newest.map(read).as_ref(), external, trusted)?
                    }
                };
                let newer: Vec<(i64, String)> = audit_checkpoints::table
                    .filter(audit_checkpoints::seq.gt(verified.last_checkpoint().sequence))
                    .filter(audit_checkpoints::seq.le(head.sequence))
                    .order_by(audit_checkpoints::seq)
                    .select(columns)
                    .load(conn)
                    .await?;
                let newer = newer.into_iter().map(read).collect();
                let mut following = verified.following(trail, newer, trusted)?;
                while following.last() < head.sequence {
                    let entries: Vec<(i64, String)> = audit_log::table
                        .filter(audit_log::seq.gt(following.last()))
                        .filter(audit_log::seq.le(head.sequence))
                        .order_by(audit_log::seq)
                        .limit(MAX_ENTRIES_PER_QUERY)
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

            async fn verified_head(
                &mut self,
                context: &TrailContext,
                verify_again: bool,
            ) -> Result<(Head, Option<VerifiedTrail>), StoreError> {
                // read before the head: other tasks append meanwhile, so a state read later may belong to a later
                // head
                let before = context.verified_state.current();
                let row: HeadRow = audit_head::table
                    .find(1)
                    .select((audit_head::trail, audit_head::seq, audit_head::hash))
                    .get_result(self)
                    .await?;
                let (trail, head) = parse_head(row)?;
                let current = context
                    .verified_state
                    .commit_draft(head)
                    .filter(|verified| verified.head() == head && verified.trail() == trail);
                let verified = match current {
                    Some(verified) if !verify_again => Some(verified),
                    current if context.verified_state.may_verify(context.clock.monotonic()) => {
                        self.verify_and_record(&trail, head, current.or(before), context).await?
                    }
                    _ => None,
                };
                Ok((head, verified))
            }

            async fn append(&mut self, writes: &[Write], context: &TrailContext) -> Result<u64, StoreError> {
                let conn = self;
                // setting a column to itself locks the row before it is read
                let row: HeadRow = diesel::update(audit_head::table.find(1))
                    .set(audit_head::seq.eq(audit_head::seq))
                    .returning((audit_head::trail, audit_head::seq, audit_head::hash))
                    .get_result(conn)
                    .await?;
                let (trail, before) = parse_head(row)?;
                let (now, monotonic) = (context.clock.now(), context.clock.monotonic());
                let max_sequence =
                    before.sequence.saturating_add(i64::try_from(writes.len()).unwrap_or(i64::MAX));
                let verified = context.verified_state.commit_draft(before);
                let is_due = |verified: &VerifiedTrail| {
                    verified.last_checkpoint().is_due(max_sequence, now, context.age)
                };
                let must_verify = context.next_signer.is_some()
                    || verified.as_ref().is_none_or(is_due) && context.verified_state.may_verify(monotonic);
                let mut appender = ChainAppender::of(trail, before);
                // entries of other writers are verified only when this append signs
                let is_here = |verified: &VerifiedTrail| {
                    verified.head() == before && verified.trail() == appender.trail
                };
                let mut current = verified.clone().filter(is_here);
                if must_verify {
                    current = conn.verify_and_record(&appender.trail, before, verified, context).await?;
                    if let Some(verified) = &current {
                        let key: String =
                            install::table.find(1).select(install::fingerprint).get_result(conn).await?;
                        appender.signing =
                            Some((context.keyring.keys(&key)?.signer, verified.last_checkpoint()));
                        for overdue in verified.overdue() {
                            appender.sign(*overdue, now)?;
                        }
                    }
                }

                let new: Vec<_> = writes.iter().filter_map(|write| write.row(&context.instance)).collect();
                if !new.is_empty() {
                    $insert!(conn, operations::table, new);
                }
                for write in writes {
                    if let Write::Finish(id, outcome) = write {
                        let pending = operations::table
                            .filter(operations::operation_id.eq(id.to_string()))
                            .filter(operations::status.eq(Status::Pending.as_str()));
                        // an outcome without details keeps those of the intent
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
                    match &context.next_signer {
                        None => appender.add(&write.entry(), now)?,
                        Some(next) if appender.signing.is_some() => {
                            appender.rotate_key(&write.entry(), next, now)?
                        }
                        Some(_) => {
                            let reason = context.verified_state.mismatch_reason().unwrap_or_default();
                            let details = format!(
                                "the key of a trail that failed verification cannot be rotated: {reason}"
                            );
                            return Err(Error::internal(details).into());
                        }
                    }
                }
                appender.sign_if(now, |last, sequence| last.is_due(sequence, now, context.age))?;
                let ChainAppender { head, signed, entries, checkpoints, key_rotations, .. } = appender;
                if !entries.is_empty() {
                    $insert!(conn, audit_log::table, entries);
                }
                if !checkpoints.is_empty() {
                    $insert!(conn, audit_checkpoints::table, checkpoints);
                }
                if !key_rotations.is_empty() {
                    $insert!(conn, audit_handovers::table, key_rotations);
                }
                diesel::update(audit_head::table.find(1))
                    .set((audit_head::seq.eq(head.sequence), audit_head::hash.eq(head.hash.0.to_vec())))
                    .execute(conn)
                    .await?;
                // if the head is unchanged, it cannot show later whether this transaction committed
                let grown = current.filter(|_| head != before).map(|verified| verified.grown(head, signed));
                context.verified_state.set_draft(grown);
                Ok(head.sequence.abs_diff(before.sequence))
            }
        }
    };
}

impl_trail!(Sqlite, insert_each);
impl_trail!(Postgres, insert_at_once);

/// The audit entry that a change to Pilothouse's own tables appends when it commits.
#[derive(Clone)]
pub(crate) struct PendingEntry {
    operation: Operation,
    context: TrailContext,
}

impl PendingEntry {
    /// Rotates the signing key with this entry.
    pub(crate) fn with_next_signer(mut self, signer: Arc<dyn CheckpointSigner>) -> Self {
        self.context.next_signer = Some(signer);
        self
    }

    /// Sets the cluster id, which a new cluster gets only within the transaction.
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
    /// `Internal` when the gate has recorded no operation for it.
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
}

#[async_trait]
impl AuditMaintenance for Store {
    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
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

    async fn checkpoint(&self, age: Duration) -> Result<()> {
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
