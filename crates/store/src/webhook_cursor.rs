//! Webhook delivery cursor: the position up to which a receiver got the audit trail. The replica that holds the row,
//! and has a live lease, delivers.

use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{Result, audit::Cursor};

use crate::{
    Store,
    db::{change, read, transact},
    lease::LeaseClock as _,
    schema::{At, audit_receivers, leases},
};

impl Store {
    /// Claims delivery to a receiver, or extends the claim, and returns its cursor. `None` while another live replica
    /// holds the claim.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn claim_delivery(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>> {
        let (receiver, instance) = (receiver.to_owned(), self.trail_context.instance.clone());
        let row: Option<(i64, i64)> = transact!(self.db, |conn| {
            let At(now) = conn.lease_time(at).await?;
            diesel::insert_into(audit_receivers::table)
                .values((
                    audit_receivers::name.eq(&receiver),
                    audit_receivers::seq.eq(0),
                    audit_receivers::checkpoint_seq.eq(0),
                    audit_receivers::instance.eq(&*instance),
                ))
                .on_conflict_do_nothing()
                .execute(conn)
                .await?;
            let alive = leases::table.filter(leases::expires_at.gt(At(now))).select(leases::instance);
            let free = audit_receivers::instance.eq(&*instance).or(audit_receivers::instance.ne_all(alive));
            Ok(diesel::update(
                audit_receivers::table.filter(audit_receivers::name.eq(&receiver)).filter(free),
            )
            .set(audit_receivers::instance.eq(&*instance))
            .returning((audit_receivers::seq, audit_receivers::checkpoint_seq))
            .get_result(conn)
            .await
            .optional()?)
        })?;
        Ok(row.map(|(sequence, checkpoint)| Cursor { sequence, checkpoint }))
    }

    /// Saves the cursor if this process still holds the claim. Returns false if another replica holds it.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn save_cursor(&self, receiver: &str, cursor: Cursor) -> Result<bool> {
        let (receiver, instance) = (receiver.to_owned(), self.trail_context.instance.clone());
        let updated = change!(self.db, |conn| {
            let row = audit_receivers::table.find(receiver).filter(audit_receivers::instance.eq(&*instance));
            Ok(diesel::update(row)
                .set((
                    audit_receivers::seq.eq(cursor.sequence),
                    audit_receivers::checkpoint_seq.eq(cursor.checkpoint),
                ))
                .execute(conn)
                .await?)
        })?;
        Ok(updated > 0)
    }

    /// The cursor of a receiver; the start of the trail if there is no row.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn cursor(&self, receiver: &str) -> Result<Cursor> {
        let receiver = receiver.to_owned();
        let row: Option<(i64, i64)> = read!(self.db, |conn| {
            let row = audit_receivers::table.find(receiver);
            let columns = (audit_receivers::seq, audit_receivers::checkpoint_seq);
            Ok(row.select(columns).first(conn).await.optional()?)
        })?;
        Ok(row.map_or_else(Cursor::default, |(sequence, checkpoint)| Cursor { sequence, checkpoint }))
    }
}
