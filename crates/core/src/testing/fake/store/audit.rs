use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{
    access::Permit,
    audit::{
        AuditMaintenance, AuditQuery, Head, OperationPage, OperationQuery, OperationRow, StoredCheckpoint,
        StoredEntry, StoredRow, TrailPruner, TrailReader, TrailStart,
    },
    error::{Cause, Error, Result},
    ids::OperationId,
    operation::{AuditWriter, CapacityFor, Entry, Operation, Outcome, Status},
    rows::{Row, select},
};

/// Trail id of every store in memory.
pub(super) const TRAIL: &str = "in memory";

#[async_trait]
impl AuditWriter for MemoryStore {
    fn check_capacity(&self, _: CapacityFor) -> Result<()> {
        if self.full.load(Ordering::Acquire) { Err(Error::new(Cause::AuditUnavailable)) } else { Ok(()) }
    }

    async fn begin(&self, operation: &Operation) -> Result<()> {
        let mut state = self.write()?;
        let row = state.row(operation);
        state.operations.push(row);
        state.append(&Entry::Intent { operation: operation.clone() })
    }

    async fn finish(&self, operation: OperationId, outcome: &Outcome) -> Result<()> {
        let mut state = self.write()?;
        let pending =
            |row: &&mut OperationRow| row.operation_id == operation && row.status == Status::Pending;
        let Some(row) = state.operations.iter_mut().find(pending) else { return Ok(()) };
        *row = row.clone().ended(outcome);
        state.append(&Entry::Outcome { operation_id: operation, outcome: outcome.clone() })
    }

    async fn record(&self, operation: &Operation, outcome: &Outcome) -> Result<()> {
        self.write()?.record_complete(operation.clone(), outcome.clone())
    }
}

#[async_trait]
impl AuditQuery for MemoryStore {
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage> {
        let state = self.lock();
        let within = state.operations.iter().filter(|row| {
            query.user_id.is_none_or(|user| {
                let namespace = row.namespace.as_deref();
                row.user_id == Some(user)
                    || query.audited.iter().any(|part| part.contains(row.cluster_id, namespace))
            }) && query.from.is_none_or(|from| row.created_at >= from)
                && query.to.is_none_or(|to| row.created_at < to)
                && query.before.is_none_or(|before| row.id < before)
                && query.after.is_none_or(|after| row.id > after)
        });
        let rows = within.map(Row::of).collect::<Result<_>>()?;
        let (page, pagination) = select(rows, &query.list);
        // the id is read back from the JSON: the reference implementation keeps rows serialised
        let id = |row: &Row| -> Result<i64> {
            let json: serde_json::Value =
                serde_json::from_str(row.json()).map_err(|error| Error::internal(error.to_string()))?;
            json["id"].as_i64().ok_or_else(|| Error::internal("a row without an id"))
        };
        let ids = page.iter().map(id).collect::<Result<Vec<_>>>()?;
        let logs =
            ids.iter().filter_map(|id| state.operations.iter().find(|row| row.id == *id).cloned()).collect();
        Ok(OperationPage { logs, pagination })
    }

    async fn operations_of(&self, ids: &[OperationId]) -> Result<Vec<OperationRow>> {
        let state = self.lock();
        Ok(state.operations.iter().filter(|row| ids.contains(&row.operation_id)).cloned().collect())
    }
}

#[async_trait]
impl AuditMaintenance for MemoryStore {
    async fn close_orphans(&self, at: Timestamp) -> Result<u64> {
        let pending: Vec<_> = {
            let state = self.write()?;
            state
                .operations
                .iter()
                .filter(|row| row.status == Status::Pending)
                .map(|row| row.operation_id)
                .collect()
        };
        for &id in &pending {
            self.finish(id, &Outcome::orphaned(at)).await?;
        }
        Ok(pending.len() as u64)
    }

    async fn checkpoint(&self, _: Duration) -> Result<()> {
        let mut state = self.write()?;
        // the fake has no clock, so it signs the last entry whatever the age of the last checkpoint
        if state.last_checkpoint().sequence < state.head().sequence {
            let at = state.last_checkpoint().time;
            state.sign(at)?;
        }
        Ok(())
    }
}

#[async_trait]
impl TrailPruner for MemoryStore {
    async fn oldest_pending(&self) -> Result<Option<i64>> {
        let state = self.lock();
        let mut pending = state.operations.iter().filter(|row| row.status == Status::Pending);
        let Some(oldest) = pending.next().map(|row| row.operation_id.to_string()) else { return Ok(None) };
        Ok(state.entries.iter().find(|entry| entry.operation_id == oldest).map(|entry| entry.sequence))
    }

    async fn remove(&self, permit: &Permit, start: &TrailStart) -> Result<u64> {
        let mut state = self.write()?;
        let through = start.head().sequence;
        if state.trail_start.as_ref().is_some_and(|now| now.head().sequence >= through) {
            return Ok(0);
        }
        let (removed, remaining): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.entries).into_iter().partition(|entry| entry.sequence <= through);
        state.entries = remaining;
        let began_in_removed = |row: &OperationRow| {
            let id = row.operation_id.to_string();
            removed.iter().any(|entry| entry.kind != "outcome" && entry.operation_id == id)
        };
        state.operations.retain(|row| !began_in_removed(row));
        state.checkpoints.retain(|stored| stored.sequence >= through);
        state.trail_start = Some(start.clone());
        state.record_success(permit, None)?;
        Ok(removed.len() as u64)
    }
}

#[async_trait]
impl TrailReader for MemoryStore {
    async fn trail_start(&self) -> Result<Option<String>> {
        self.lock().trail_start.as_ref().map(TrailStart::line).transpose()
    }

    async fn head(&self) -> Result<(String, Head)> {
        Ok((TRAIL.to_owned(), self.lock().head()))
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        Ok(slice_after(&self.lock().entries, |entry| entry.sequence > after, limit, Clone::clone))
    }

    fn verified_heads(&self) -> Vec<Head> {
        vec![self.lock().head()]
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        let id = operation.to_string();
        Ok(self.lock().entries.iter().find(|entry| entry.operation_id == id).cloned())
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        Ok(slice_after(&self.lock().operations, |row| row.id > after, limit, OperationRow::stored))
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        Ok(slice_after(&self.lock().checkpoints, |stored| stored.sequence > after, limit, Clone::clone))
    }

    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        let state = self.lock();
        let is_after_start = |entry: &&StoredEntry| from.is_none_or(|from| entry.at >= from.as_microsecond());
        let is_before_end = |entry: &&StoredEntry| to.is_none_or(|to| entry.at < to.as_microsecond());
        let first = state.entries.iter().find(is_after_start).map(|entry| entry.sequence);
        Ok((first, state.entries.iter().rfind(is_before_end).map(|entry| entry.sequence)))
    }
}

fn slice_after<T, U>(all: &[T], after: impl Fn(&T) -> bool, limit: u32, read: impl Fn(&T) -> U) -> Vec<U> {
    all.iter().filter(|one| after(one)).take(limit as usize).map(read).collect()
}
