//! Login throttle: counts failed logins in the database, so that the counts survive restarts and are shared by
//! replicas. A login that is refused without a password check costs the client nothing, so it must be cheap for the
//! server: such refusals are counted in memory, and written once a minute.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use diesel::{
    AsChangeset, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    session::{ClientAddress, LoginThrottle, ThrottleKey},
    user::Username,
};

use crate::{
    Store,
    db::{change, read, transact, transact_retried},
    schema::{At, login_addresses, throttles, users},
};

#[derive(AsChangeset, Queryable, Selectable)]
#[diesel(table_name = throttles, treat_none_as_null = true)]
struct Row {
    failures: i64,
    window_start: Option<At>,
    blocked_until: Option<At>,
    refused_minute: i64,
    refused_count: i64,
}

impl Row {
    /// Counts a failure. Failures of a past window are reset, unless a pause that they caused still runs.
    fn fail(&mut self, key: &ThrottleKey, at: Timestamp) {
        let over = self.window_start.is_none_or(|start| start.0 + ThrottleKey::WINDOW <= at);
        let paused = self.blocked_until.is_some_and(|until| until.0 > at);
        if over && !paused {
            (self.failures, self.window_start) = (0, Some(At(at)));
        }
        self.failures += 1;
        let pause = key.pause(u32::try_from(self.failures).unwrap_or(u32::MAX));
        self.blocked_until = pause.map(|pause| At(at + pause));
    }

    /// Counts a refusal and `unwritten` earlier ones. For the first refusal of a minute, returns the number of
    /// refusals before it, from the first refusal of the last minute that had one. Otherwise returns `None`.
    fn refuse(&mut self, minute: i64, unwritten: i64) -> Option<i64> {
        if self.refused_minute == minute {
            self.refused_count += 1 + unwritten;
            return None;
        }
        self.refused_minute = minute;
        Some(std::mem::replace(&mut self.refused_count, 1) + unwritten)
    }
}

/// Whole minutes since 1970.
fn minute(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

/// Refusals that this process has not written yet: per key, the minute of the last write, and the number of refusals
/// since.
#[derive(Clone, Default)]
pub(crate) struct RefusedLogins(Arc<Mutex<HashMap<String, (i64, i64)>>>);

impl RefusedLogins {
    /// Maximum number of keys. Above it, the keys of past minutes are dropped together with their unwritten counts.
    const MAX_KEYS: usize = 4096;

    /// For the first refusal of a minute, returns the number of earlier unwritten ones. Others are counted, and the
    /// result is `None`.
    fn count(&self, key: &str, minute: i64) -> Option<i64> {
        let mut refused = self.lock();
        if let Some((last, unwritten)) = refused.get_mut(key) {
            if *last == minute {
                *unwritten += 1;
                return None;
            }
            *last = minute;
            return Some(std::mem::take(unwritten));
        }
        if refused.len() >= Self::MAX_KEYS {
            refused.retain(|_, (last, _)| *last == minute);
        }
        refused.insert(key.to_owned(), (minute, 0));
        Some(0)
    }

    /// Restores the count of a refusal that could not be written, so that the next refusal is written.
    fn restore(&self, key: &str, unwritten: i64) {
        self.lock().insert(key.to_owned(), (i64::MIN, unwritten + 1));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (i64, i64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the row of a key, locked. Creates it if needed.
macro_rules! locked {
    ($conn:ident, $key:expr, $at:expr) => {{
        let new = (
            throttles::key.eq($key),
            throttles::failures.eq(0),
            throttles::refused_minute.eq(0),
            throttles::refused_count.eq(0),
            throttles::updated_at.eq(At($at)),
        );
        let row: Row = diesel::insert_into(throttles::table)
            .values(new)
            .on_conflict(throttles::key)
            .do_update()
            .set(throttles::updated_at.eq(At($at)))
            .returning(Row::as_returning())
            .get_result($conn)
            .await?;
        row
    }};
}

impl Store {
    async fn login_blocked_for(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<Option<Duration>> {
        let keys: Vec<_> = keys.iter().map(|key| key.key.clone()).collect();
        read!(self.db, |conn| {
            let longest: Option<Option<At>> = throttles::table
                .filter(throttles::key.eq_any(keys))
                .filter(throttles::blocked_until.gt(At(at)))
                .select(throttles::blocked_until)
                .order_by(throttles::blocked_until.desc())
                .first(conn)
                .await
                .optional()?;
            Ok(longest.flatten().map(|until| until.0.duration_since(at).unsigned_abs()))
        })
    }

    async fn is_known_login_address(
        &self,
        username: &Username,
        address: &ClientAddress,
        since: Timestamp,
    ) -> Result<bool> {
        let (username, address) = (username.to_string(), address.as_str().to_owned());
        read!(self.db, |conn| {
            let known = login_addresses::table
                .inner_join(users::table)
                .filter(users::username.eq(username))
                .filter(login_addresses::address.eq(address))
                .filter(login_addresses::last_login_at.gt(At(since)));
            Ok(diesel::select(diesel::dsl::exists(known)).get_result(conn).await?)
        })
    }

    async fn count_failed_login(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<()> {
        let keys = keys.to_vec();
        transact_retried!(self.db, |conn| {
            for key in &keys {
                let mut row = locked!(conn, &key.key, at);
                row.fail(key, at);
                diesel::update(throttles::table.find(&key.key)).set(row).execute(conn).await?;
            }
            Ok(())
        })?;
        // each tried name leaves a row: rows whose windows and pauses have ended are deleted
        let expired = At(at - 2 * ThrottleKey::WINDOW);
        change!(self.db, |conn| {
            diesel::delete(throttles::table.filter(throttles::updated_at.lt(expired))).execute(conn).await?;
            Ok(())
        })
    }

    async fn count_refused_login(&self, key: &ThrottleKey, at: Timestamp) -> Result<Option<u64>> {
        let (key, minute) = (key.key.clone(), minute(at));
        let Some(unwritten) = self.refused_logins.count(&key, minute) else { return Ok(None) };
        let name = key.clone();
        let written = transact!(self.db, |conn| {
            let mut row = locked!(conn, &key, at);
            let before = row.refuse(minute, unwritten);
            diesel::update(throttles::table.find(&key)).set(row).execute(conn).await?;
            Ok(before.map(i64::unsigned_abs))
        });
        written.inspect_err(|_| self.refused_logins.restore(&name, unwritten))
    }
}

#[async_trait]
impl LoginThrottle for Store {
    async fn blocked_for(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<Option<Duration>> {
        self.login_blocked_for(keys, at).await
    }

    async fn is_known_address(
        &self,
        username: &Username,
        address: &ClientAddress,
        since: Timestamp,
    ) -> Result<bool> {
        self.is_known_login_address(username, address, since).await
    }

    async fn failed(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<()> {
        self.count_failed_login(keys, at).await
    }

    async fn refused(&self, key: &ThrottleKey, at: Timestamp) -> Result<Option<u64>> {
        self.count_refused_login(key, at).await
    }
}
