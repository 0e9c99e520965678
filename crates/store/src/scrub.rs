//! Scrubbing: removes deleted and replaced values from the files of the database.
//!
//! SQLite overwrites such values with zeros in the database file (`PRAGMA secure_delete`), but the write-ahead log holds
//! old pages until it is truncated. PostgreSQL keeps old versions of a row in the file of the table until the table is
//! rewritten.

use std::sync::atomic::Ordering;

use diesel::{QueryableByName, sql_query, sql_types::Integer};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use pilothouse_core::Result;

use crate::{
    Store,
    db::{Postgres, Sqlite, change},
    error::StoreError,
};

#[derive(QueryableByName)]
struct WalCheckpoint {
    #[diesel(sql_type = Integer)]
    busy: i32,
}

trait Scrub {
    /// Truncates the write-ahead log. False when a reader prevents it.
    async fn truncate_wal(&mut self) -> Result<bool, StoreError>;

    /// Removes all old versions of sealed values. False when a reader prevents it.
    async fn remove_old_versions(&mut self) -> Result<bool, StoreError>;
}

impl Scrub for Sqlite {
    async fn truncate_wal(&mut self) -> Result<bool, StoreError> {
        // waits only 200 ms for a long reader such as an export, because other writers wait meanwhile
        self.batch_execute("PRAGMA busy_timeout = 200").await?;
        let truncated = sql_query("PRAGMA wal_checkpoint(TRUNCATE)").get_result::<WalCheckpoint>(self).await;
        self.batch_execute("PRAGMA busy_timeout = 5000").await?;
        Ok(truncated?.busy == 0)
    }

    async fn remove_old_versions(&mut self) -> Result<bool, StoreError> {
        self.truncate_wal().await
    }
}

impl Scrub for Postgres {
    /// A no-op: the log also serves archives and replicas, and no client can truncate it.
    async fn truncate_wal(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn remove_old_versions(&mut self) -> Result<bool, StoreError> {
        let tables = ["clusters", "idempotency_keys", "provider_sessions", "second_factors"];
        for table in tables {
            self.batch_execute(&format!("VACUUM (FULL) {table}")).await?;
        }
        Ok(true)
    }
}

impl Store {
    /// Removes values that are sealed with a retired master key from the files of the database. To be called after
    /// [`Store::finish_rekey`], and again if it returns false or fails. On PostgreSQL the write-ahead log, its
    /// archives and freed disk blocks are out of reach.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn scrub(&self) -> Result<bool> {
        change!(self.db, |conn| conn.remove_old_versions().await)
    }

    /// To be called after a sealed value was deleted or replaced. Removes the old value now or, while a reader uses
    /// an older state of the database, in a later [`Store::retry_scrub`].
    pub(crate) async fn scrub_overwritten(&self) {
        self.scrub_pending.store(true, Ordering::Release);
        self.retry_scrub().await;
    }

    /// As [`Store::scrub_overwritten`], but only within seconds: for values that are deleted or replaced often.
    pub(crate) fn scrub_later(&self) {
        self.scrub_pending.store(true, Ordering::Release);
    }

    /// Truncates the write-ahead log if it may still hold an overwritten value. Called several times a minute.
    pub(crate) async fn retry_scrub(&self) {
        if !self.scrub_pending.swap(false, Ordering::AcqRel) {
            return;
        }
        let truncated: Result<bool> = async { change!(self.db, |conn| conn.truncate_wal().await) }.await;
        if !truncated.is_ok_and(|truncated| truncated) {
            self.scrub_pending.store(true, Ordering::Release);
        }
    }
}
