//! Retention: removes the oldest part of the trail and stores the signed start of the rest, in one transaction.

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, dsl::min};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Error, Result,
    access::Permit,
    audit::{Head, TrailPruner, TrailStart},
    operation::Status,
};

use super::Trail as _;
use crate::{
    Store,
    db::{read, transact},
    error::audit_error,
    schema::{audit_beginning, audit_checkpoints, audit_handovers, audit_head, audit_log, operations},
};

impl Store {
    async fn oldest_pending_intent(&self) -> Result<Option<i64>> {
        read!(self.db, |conn| {
            let pending = operations::table
                .filter(operations::status.eq(Status::Pending.as_str()))
                .select(operations::operation_id);
            let intents = audit_log::table.filter(audit_log::operation_id.eq_any(pending));
            Ok(intents.select(min(audit_log::seq)).first(conn).await?)
        })
    }

    async fn remove_through(&self, permit: &Permit, start: &TrailStart) -> Result<u64> {
        let entry = self.pending_entry(permit)?;
        let Head { sequence: through, hash } = start.head();
        let line = start.line()?;
        let removed = transact!(self.db, |conn| {
            // locks `audit_head` as an append does: of two concurrent removals the second finds the part removed
            diesel::update(audit_head::table.find(1))
                .set(audit_head::seq.eq(audit_head::seq))
                .execute(conn)
                .await?;
            let current_start: Option<i64> =
                audit_beginning::table.find(1).select(audit_beginning::seq).first(conn).await.optional()?;
            if current_start.is_some_and(|current_start| current_start >= through) {
                return Ok(0);
            }
            let stored_hash: Option<Vec<u8>> =
                audit_log::table.find(through).select(audit_log::hash).first(conn).await.optional()?;
            if stored_hash.as_deref() != Some(&hash.0[..]) {
                let why = format!("entry {through} of the audit trail differs from the archived one");
                return Err(Error::internal(why).into());
            }
            diesel::insert_into(audit_beginning::table)
                .values((
                    audit_beginning::id.eq(1),
                    audit_beginning::seq.eq(through),
                    audit_beginning::line.eq(&line),
                ))
                .on_conflict(audit_beginning::id)
                .do_update()
                .set((audit_beginning::seq.eq(through), audit_beginning::line.eq(&line)))
                .execute(conn)
                .await?;
            let began = audit_log::table
                .filter(audit_log::seq.le(through))
                .filter(audit_log::entry.ne("outcome"))
                .select(audit_log::operation_id);
            diesel::delete(operations::table.filter(operations::operation_id.eq_any(began)))
                .execute(conn)
                .await?;
            let removed =
                diesel::delete(audit_log::table.filter(audit_log::seq.le(through))).execute(conn).await?;
            diesel::delete(audit_checkpoints::table.filter(audit_checkpoints::seq.lt(through)))
                .execute(conn)
                .await?;
            diesel::delete(audit_handovers::table.filter(audit_handovers::seq.le(through)))
                .execute(conn)
                .await?;
            conn.record_success(entry).await?;
            Ok(removed as u64)
        });
        removed.map_err(audit_error)
    }
}

#[async_trait]
impl TrailPruner for Store {
    async fn oldest_pending(&self) -> Result<Option<i64>> {
        self.oldest_pending_intent().await
    }

    async fn remove(&self, permit: &Permit, start: &TrailStart) -> Result<u64> {
        self.remove_through(permit, start).await
    }
}
