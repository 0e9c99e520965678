//! Coordination of replicas by rows: the lease of this process, claims of probes, and the claim and cursor of webhook
//! delivery.

use std::time::Duration;

use async_trait::async_trait;
use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::Cursor,
    coordinator::{Coordinator, LEASE},
    ids::ClusterId,
};

use crate::{
    Store,
    db::{Database, change, read, transact},
    lease::LeaseClock as _,
    schema::{At, audit_receivers, clusters, install, leases},
};

impl Store {
    async fn take_server_lease(&self, at: Timestamp) -> Result<bool> {
        if let Database::Sqlite(path) = self.lease.database() {
            if !self.lease.try_lock(path)? {
                return Ok(false);
            }
            // the holder of the lock is the only server
            change!(self.db, |conn| {
                diesel::delete(leases::table).execute(conn).await?;
                Ok(())
            })?;
        }
        self.renew_server_lease(at).await?;
        Ok(true)
    }

    async fn renew_server_lease(&self, at: Timestamp) -> Result<()> {
        self.retry_scrub().await;
        let (instance, keyring) = (self.lease.instance().to_owned(), self.deps.keyring.clone());
        transact!(self.db, |conn| {
            let next: Option<String> =
                install::table.find(1).select(install::next_fingerprint).first(conn).await?;
            let next_held = next.filter(|next| keyring.keys(next).is_ok());
            let At(now) = conn.lease_time(at).await?;
            diesel::delete(leases::table.filter(leases::expires_at.le(At(now)))).execute(conn).await?;
            let expires_at = At(now + LEASE);
            diesel::insert_into(leases::table)
                .values((
                    leases::instance.eq(instance),
                    leases::expires_at.eq(expires_at),
                    leases::next_fingerprint.eq(&next_held),
                ))
                .on_conflict(leases::instance)
                .do_update()
                .set((leases::expires_at.eq(expires_at), leases::next_fingerprint.eq(&next_held)))
                .execute(conn)
                .await?;
            Ok(())
        })
    }

    async fn end_server_lease(&self) -> Result<()> {
        let instance = self.lease.instance().to_owned();
        change!(self.db, |conn| {
            diesel::delete(leases::table.find(instance)).execute(conn).await?;
            Ok(())
        })
    }

    async fn claim_due_probes(
        &self,
        interval: Duration,
        limit: usize,
        at: Timestamp,
    ) -> Result<Vec<ClusterId>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let due =
            move || clusters::visited_at.le(At(at - interval)).or(clusters::visited_at.gt(At(at + interval)));
        // usually no probe is due, and then nothing is written
        let due_ids: Vec<i64> = read!(self.db, |conn| {
            let oldest_first = (clusters::visited_at, clusters::id);
            let ids = clusters::table.filter(due()).order_by(oldest_first).limit(limit);
            Ok(ids.select(clusters::id).load(conn).await?)
        })?;
        if due_ids.is_empty() {
            return Ok(Vec::new());
        }
        let claimed: Vec<i64> = change!(self.db, |conn| {
            // one statement: a row that another replica has claimed meanwhile is no longer due
            let still_due = clusters::table.filter(clusters::id.eq_any(due_ids)).filter(due());
            Ok(diesel::update(still_due)
                .set(clusters::visited_at.eq(At(at)))
                .returning(clusters::id)
                .get_results(conn)
                .await?)
        })?;
        Ok(claimed.into_iter().map(ClusterId).collect())
    }

    async fn claim_delivery_to(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>> {
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

    async fn save_delivery_cursor(&self, receiver: &str, cursor: Cursor) -> Result<bool> {
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

    async fn delivery_cursor(&self, receiver: &str) -> Result<Cursor> {
        let receiver = receiver.to_owned();
        let row: Option<(i64, i64)> = read!(self.db, |conn| {
            let row = audit_receivers::table.find(receiver);
            let columns = (audit_receivers::seq, audit_receivers::checkpoint_seq);
            Ok(row.select(columns).first(conn).await.optional()?)
        })?;
        Ok(row.map_or_else(Cursor::default, |(sequence, checkpoint)| Cursor { sequence, checkpoint }))
    }
}

#[async_trait]
impl Coordinator for Store {
    async fn take_lease(&self, at: Timestamp) -> Result<bool> {
        self.take_server_lease(at).await
    }

    async fn renew_lease(&self, at: Timestamp) -> Result<()> {
        self.renew_server_lease(at).await
    }

    async fn end_lease(&self) -> Result<()> {
        self.end_server_lease().await
    }

    async fn claim_probes(&self, interval: Duration, limit: usize, at: Timestamp) -> Result<Vec<ClusterId>> {
        self.claim_due_probes(interval, limit, at).await
    }

    async fn claim_delivery(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>> {
        self.claim_delivery_to(receiver, at).await
    }

    async fn save_cursor(&self, receiver: &str, cursor: Cursor) -> Result<bool> {
        self.save_delivery_cursor(receiver, cursor).await
    }

    async fn cursor(&self, receiver: &str) -> Result<Cursor> {
        self.delivery_cursor(receiver).await
    }
}
