//! Verification of the trail, and appends to it, within a transaction.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::{
    Error, Result,
    audit::{ChainHash, Head, StoredCheckpoint, TrailKeys, Trusted, VerifiedTrail},
    operation::{Outcome, Status},
};

use super::{PendingEntry, TrailContext, Write, appender::ChainAppender, verified::VerifyError};
use crate::{
    db::{Postgres, Sqlite},
    error::{StoreError, corrupt},
    schema::{
        At, audit_beginning, audit_checkpoints, audit_handovers, audit_head, audit_log, install, operations,
    },
};

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
                let trail_start: Option<String> = audit_beginning::table
                    .find(1)
                    .select(audit_beginning::line)
                    .first(conn)
                    .await
                    .optional()?;
                let verified = match verified
                    .and_then(|verified| verified.since(trail_start.as_deref(), trusted))
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
                            |error| format!("the checkpoints outside the database cannot be read: {error}");
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
                let is_current = |verified: &VerifiedTrail| {
                    verified.head() == before && verified.trail() == appender.trail
                };
                let mut current = verified.clone().filter(is_current);
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
                // a later read of an unchanged head would not prove that this transaction has committed
                let grown = current.filter(|_| head != before).map(|verified| verified.grown(head, signed));
                context.verified_state.set_draft(grown);
                Ok(head.sequence.abs_diff(before.sequence))
            }
        }
    };
}

impl_trail!(Sqlite, insert_each);
impl_trail!(Postgres, insert_at_once);
