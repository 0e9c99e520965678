//! How far somebody outside has been told of the trail, and which of the replicas tells them: the one that holds their row,
//! as long as it holds its lease.

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
    /// Claims the telling of this receiver, or keeps it; how far they have been told. None while a replica that lives has it.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn claim_delivery(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>> {
        let (receiver, own) = (receiver.to_owned(), self.author.instance.clone());
        let told: Option<(i64, i64)> = transact!(self.db, |conn| {
            let At(now) = conn.lease_time(at).await?;
            diesel::insert_into(audit_receivers::table)
                .values((
                    audit_receivers::name.eq(&receiver),
                    audit_receivers::seq.eq(0),
                    audit_receivers::checkpoint_seq.eq(0),
                    audit_receivers::instance.eq(&*own),
                ))
                .on_conflict_do_nothing()
                .execute(conn)
                .await?;
            let alive = leases::table.filter(leases::expires_at.gt(At(now))).select(leases::instance);
            let free = audit_receivers::instance.eq(&*own).or(audit_receivers::instance.ne_all(alive));
            Ok(diesel::update(
                audit_receivers::table.filter(audit_receivers::name.eq(&receiver)).filter(free),
            )
            .set(audit_receivers::instance.eq(&*own))
            .returning((audit_receivers::seq, audit_receivers::checkpoint_seq))
            .get_result(conn)
            .await
            .optional()?)
        })?;
        Ok(told.map(|(sequence, checkpoint)| Cursor { sequence, checkpoint }))
    }

    /// Keeps how far they have been told, by whoever still has the telling; false when that is another by now.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn save_cursor(&self, receiver: &str, told: Cursor) -> Result<bool> {
        let (receiver, own) = (receiver.to_owned(), self.author.instance.clone());
        let kept = change!(self.db, |conn| {
            let row = audit_receivers::table.find(receiver).filter(audit_receivers::instance.eq(&*own));
            Ok(diesel::update(row)
                .set((
                    audit_receivers::seq.eq(told.sequence),
                    audit_receivers::checkpoint_seq.eq(told.checkpoint),
                ))
                .execute(conn)
                .await?)
        })?;
        Ok(kept > 0)
    }

    /// How far they have been told; nothing yet without a row.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn cursor(&self, receiver: &str) -> Result<Cursor> {
        let receiver = receiver.to_owned();
        let told: Option<(i64, i64)> = read!(self.db, |conn| {
            let row = audit_receivers::table.find(receiver);
            let columns = (audit_receivers::seq, audit_receivers::checkpoint_seq);
            Ok(row.select(columns).first(conn).await.optional()?)
        })?;
        Ok(told.map_or_else(Cursor::default, |(sequence, checkpoint)| Cursor { sequence, checkpoint }))
    }
}
