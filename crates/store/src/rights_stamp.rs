//! Rights stamp: a random number that each change of rights replaces.
//!
//! A transaction that changes rights replaces the stamp before it reads anything else. The lock of that row makes these
//! transactions run one after another: each counts grants, roles and super admins as the one before it left them.

use diesel::{ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use pilothouse_core::grant::RightsStamp;

use crate::{
    Store,
    db::{Postgres, Sqlite},
    error::StoreError,
    schema::rights_stamp,
};

/// The rights stamp within a transaction.
pub(crate) trait StampedRights {
    /// Replaces the stamp by another number, and locks it until the transaction ends.
    async fn replace_rights_stamp(&mut self, stamp: i64) -> Result<(), StoreError>;

    /// Locks the stamp until the transaction ends: no other transaction changes rights meanwhile.
    async fn lock_rights_stamp(&mut self) -> Result<(), StoreError>;

    /// Whether the stamp is still the one under which a change was judged; locks it. `None` is every stamp.
    async fn has_rights_stamp(&mut self, judged: Option<RightsStamp>) -> Result<bool, StoreError>;
}

macro_rules! impl_stamped_rights {
    ($connection:ty) => {
        impl StampedRights for $connection {
            async fn replace_rights_stamp(&mut self, stamp: i64) -> Result<(), StoreError> {
                let row = diesel::update(rights_stamp::table.find(1));
                row.set(rights_stamp::stamp.eq(stamp)).execute(self).await?;
                Ok(())
            }

            async fn lock_rights_stamp(&mut self) -> Result<(), StoreError> {
                // setting a column to itself locks the row; SQLite has no FOR UPDATE
                let row = diesel::update(rights_stamp::table.find(1));
                row.set(rights_stamp::stamp.eq(rights_stamp::stamp)).execute(self).await?;
                Ok(())
            }

            async fn has_rights_stamp(&mut self, judged: Option<RightsStamp>) -> Result<bool, StoreError> {
                let Some(RightsStamp(judged)) = judged else { return Ok(true) };
                self.lock_rights_stamp().await?;
                let stamp: i64 = rights_stamp::table.find(1).select(rights_stamp::stamp).first(self).await?;
                Ok(stamp == judged)
            }
        }
    };
}

impl_stamped_rights!(Sqlite);
impl_stamped_rights!(Postgres);

impl Store {
    /// A new value of the rights stamp. Random rather than counted: a counter would repeat a value after a failover
    /// that lost the last commits, and the server would then use rights that were compiled from the lost rows.
    pub(crate) fn new_rights_stamp(&self) -> i64 {
        let mut bytes = [0; 8];
        self.deps.rng.fill(&mut bytes);
        i64::from_ne_bytes(bytes)
    }
}
