//! What is overwritten or deleted leaves the files of the database, too.
//!
//! SQLite overwrites it with zeros where it stood (`PRAGMA secure_delete`), but the write-ahead log holds pages as they
//! were until it is emptied. PostgreSQL leaves old versions of a row in the table's file until that is written anew.

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
struct Emptied {
    #[diesel(sql_type = Integer)]
    busy: i32,
}

trait Scrub {
    /// Empties the write-ahead log, where it holds what is deleted; false when others read from it.
    async fn empty_log(&mut self) -> Result<bool, StoreError>;

    /// Removes all old versions of what is sealed; false when others stand in the way.
    async fn remove_old_versions(&mut self) -> Result<bool, StoreError>;
}

impl Scrub for Sqlite {
    async fn empty_log(&mut self) -> Result<bool, StoreError> {
        // whoever reads an older state for long, such as an export, is not waited for: other changes would wait as well
        self.batch_execute("PRAGMA busy_timeout = 200").await?;
        let emptied = sql_query("PRAGMA wal_checkpoint(TRUNCATE)").get_result::<Emptied>(self).await;
        self.batch_execute("PRAGMA busy_timeout = 5000").await?;
        Ok(emptied?.busy == 0)
    }

    async fn remove_old_versions(&mut self) -> Result<bool, StoreError> {
        self.empty_log().await
    }
}

impl Scrub for Postgres {
    /// PostgreSQL's log is its archives' and replicas', too; no client can empty it.
    async fn empty_log(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn remove_old_versions(&mut self) -> Result<bool, StoreError> {
        for table in ["clusters", "idempotency_keys"] {
            self.batch_execute(&format!("VACUUM (FULL) {table}")).await?;
        }
        Ok(true)
    }
}

impl Store {
    /// Removes from the database's files what is sealed with a master key that is no longer in use. To be called after
    /// [`Store::finish_rekey`], and again when it says false or fails. On PostgreSQL the write-ahead log, its archives
    /// and what the disk's blocks held are out of reach.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn scrub(&self) -> Result<bool> {
        change!(self.db, |conn| conn.remove_old_versions().await)
    }

    /// A sealed value was deleted or replaced. What is left of it is removed now, or, where others read an older state of
    /// the database, once they have ended.
    pub(crate) async fn forget_overwritten(&self) {
        self.overwritten.store(true, Ordering::Release);
        self.forget_what_is_left().await;
    }

    /// The same, if there is something left from before. Several times a minute.
    pub(crate) async fn forget_what_is_left(&self) {
        if !self.overwritten.swap(false, Ordering::AcqRel) {
            return;
        }
        let emptied: Result<bool> = async { change!(self.db, |conn| conn.empty_log().await) }.await;
        if !emptied.is_ok_and(|emptied| emptied) {
            self.overwritten.store(true, Ordering::Release);
        }
    }
}
