//! Which replica visits a cluster: every cluster is visited again and again, by one of them at a time.

use std::time::Duration;

use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use jiff::Timestamp;
use pilothouse_core::{Result, cluster::ClusterId};

use crate::{
    Store,
    db::{change, read},
    schema::{At, clusters},
};

impl Store {
    /// Claims visits of clusters that nobody set out to visit within the last `interval`, those that have waited longest
    /// first, and no more than `limit`. Of all replicas that ask at once, one is given each.
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
        // a visit that is yet to come was noted before the clock was set back; replicas' clocks may differ a little
        let due =
            move || clusters::visited_at.le(At(at - interval)).or(clusters::visited_at.gt(At(at + interval)));
        // mostly there is none, and then nothing is written
        let waiting: Vec<i64> = read!(self.db, |conn| {
            let longest_first = (clusters::visited_at, clusters::id);
            let ids = clusters::table.filter(due()).order_by(longest_first).limit(limit);
            Ok(ids.select(clusters::id).load(conn).await?)
        })?;
        if waiting.is_empty() {
            return Ok(Vec::new());
        }
        let claimed: Vec<i64> = change!(self.db, |conn| {
            // one statement: a row that another replica has claimed meanwhile is not due any more
            let still_due = clusters::table.filter(clusters::id.eq_any(waiting)).filter(due());
            Ok(diesel::update(still_due)
                .set(clusters::visited_at.eq(At(at)))
                .returning(clusters::id)
                .get_results(conn)
                .await?)
        })?;
        Ok(claimed.into_iter().map(ClusterId).collect())
    }
}
