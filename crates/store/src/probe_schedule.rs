//! Probe schedule: one replica at a time claims the next probe of a cluster.

use std::time::Duration;

use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{Result, ids::ClusterId};

use crate::{
    Store,
    db::{change, read},
    schema::{At, clusters},
};

impl Store {
    /// Claims probes of clusters whose last claim is older than `interval`, the oldest first, at most `limit`. Each
    /// cluster is returned to one of the replicas that call at the same time.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn claim_probes(
        &self,
        interval: Duration,
        limit: usize,
        at: Timestamp,
    ) -> Result<Vec<ClusterId>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // a claim in the future was stored before the clock was set back; the clocks of replicas may differ a little
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
}
