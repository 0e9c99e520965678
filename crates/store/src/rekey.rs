//! A new master key, while servers go on working: what is sealed is sealed anew, a batch a transaction, and the last
//! transaction does the rest and names the new key as the one in use.
//!
//! Whoever seals asks in its transaction which key is in use, and holds that answer until it commits
//! ([`KeyInUse`]). So nothing is sealed with the old key after the last transaction, which waits for those before it. Locks
//! are taken in the order: install, our own tables, head, operations.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, NullableExpressionMethods as _, QueryDsl as _,
    define_sql_function,
    sql_types::{Binary, Integer, Nullable},
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    seal::{Keys, SealedFor},
};
use zeroize::Zeroizing;

use crate::{
    Store,
    audit::Trail as _,
    db::{Postgres, Sqlite, change, read, transact},
    error::{StoreError, corrupt},
    lease::LeaseClock as _,
    schema::{clusters, idempotency_keys, install, leases},
};

define_sql_function! {
    /// A part of bytes, from 1 on; both databases have it.
    fn substr(bytes: Nullable<Binary>, from: Integer, length: Integer) -> Nullable<Binary>;
}

/// Which master key the database is sealed with.
pub(crate) trait KeyInUse {
    /// The fingerprint of the key to seal with, which stays in use until this transaction ends.
    async fn key_in_use(&mut self) -> Result<String, StoreError>;

    /// Waits until nobody is within [`KeyInUse::key_in_use`]; from then on, to this transaction's end, others wait there.
    async fn stop_sealing(&mut self) -> Result<(), StoreError>;
}

impl KeyInUse for Sqlite {
    /// The transaction has the write lock.
    async fn key_in_use(&mut self) -> Result<String, StoreError> {
        Ok(install::table.find(1).select(install::fingerprint).first(self).await?)
    }

    async fn stop_sealing(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl KeyInUse for Postgres {
    async fn key_in_use(&mut self) -> Result<String, StoreError> {
        Ok(install::table.find(1).select(install::fingerprint).for_share().first(self).await?)
    }

    /// Of the table, for which waiters queue: of the row, many that come and go would keep one out who waits for all.
    async fn stop_sealing(&mut self) -> Result<(), StoreError> {
        diesel::sql_query("LOCK TABLE install IN EXCLUSIVE MODE").execute(self).await?;
        Ok(())
    }
}

/// Seals a few values of a column anew that the new key has not sealed; how many there were.
macro_rules! reseal {
    ($conn:ident, $table:ident, $row:ident, $column:ident, $keyring:expr, $sealer:expr, $limit:expr) => {{
        let mark = $sealer.mark();
        let length = i32::try_from(mark.len()).map_err(|_| corrupt("mark"))?;
        let others = substr($table::$column.nullable(), 1, length).ne(mark);
        let found: Vec<(String, Option<Vec<u8>>)> = $table::table
            .filter(others)
            .select(($table::$row, $table::$column.nullable()))
            .limit($limit)
            .load($conn)
            .await?;
        let count = found.len();
        for (row, sealed) in found {
            let Some(sealed) = sealed else { continue };
            let field = concat!(stringify!($table), ".", stringify!($column));
            let owner = SealedFor { row: row.parse().map_err(|_| corrupt(field))?, field };
            let opened = $keyring.open(&owner, &sealed);
            let value = opened.map(Zeroizing::new).map_err(|error| {
                Error::internal(format!(
                    "{error} ({field} of {row}): store it again or delete it, then retry"
                ))
            })?;
            let anew = $sealer.seal(&owner, &value)?;
            // unless it was changed meanwhile
            let as_read = $table::$row.eq(row).and($table::$column.eq(sealed));
            diesel::update($table::table.filter(as_read))
                .set($table::$column.eq(anew))
                .execute($conn)
                .await?;
        }
        count
    }};
}

/// As [`reseal`], of every column that holds what is sealed.
macro_rules! reseal_all {
    ($conn:ident, $keyring:expr, $sealer:expr, $limit:expr) => {
        reseal!($conn, clusters, uuid, credential, $keyring, $sealer, $limit)
            + reseal!($conn, idempotency_keys, id, request, $keyring, $sealer, $limit)
            + reseal!($conn, idempotency_keys, id, reply, $keyring, $sealer, $limit)
    };
}

/// How many values of a column are sealed anew in one transaction.
const BATCH: i64 = 50;

impl Store {
    /// Takes the key into use that the database says is in use.
    ///
    /// # Errors
    /// `StoreUnavailable`; also when that key is not held.
    pub(crate) async fn refresh_active_key(&self) -> Result<()> {
        let fingerprint: String = read!(self.db, |conn| Ok(install::table
            .find(1)
            .select(install::fingerprint)
            .first(conn)
            .await?))?;
        self.deps.keyring.turn_to(&fingerprint).inspect_err(|_| {
            tracing::error!(
                "the database is sealed with a new master key, which this process does not have: use its file as the key file"
            );
        })
    }

    /// Names the key that everything is about to be sealed with. From now on no server starts that does not hold it, and
    /// those that run say in their leases whether they do ([`Store::without_next_key`]).
    ///
    /// # Errors
    /// `Modified` when another key was named before; `StoreUnavailable`.
    pub async fn begin_rekey(&self, next: &str) -> Result<()> {
        let next = next.to_owned();
        let named = change!(self.db, |conn| {
            let free = install::next_fingerprint.is_null().or(install::next_fingerprint.eq(next.clone()));
            let install = install::table.filter(install::id.eq(1).and(free));
            Ok(diesel::update(install).set(install::next_fingerprint.eq(next)).execute(conn).await?)
        })?;
        if named == 0 { Err(Error::new(Cause::Modified).resource("master_key")) } else { Ok(()) }
    }

    /// How many servers live that do not say that they hold this key.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn without_next_key(&self, next: &str, at: Timestamp) -> Result<u64> {
        let next = next.to_owned();
        read!(self.db, |conn| {
            let now = conn.lease_time(at).await?;
            let lacks = leases::next_fingerprint.is_null().or(leases::next_fingerprint.ne(Some(next)));
            let lacking = leases::table.filter(leases::expires_at.gt(now)).filter(lacks.assume_not_null());
            let count: i64 = lacking.count().get_result(conn).await?;
            Ok(count.unsigned_abs())
        })
    }

    /// Seals a few values anew with the next key; how many there were. None: only what others seal meanwhile is left to
    /// [`Store::finish_rekey`].
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal`, naming the row, for a value that does not open.
    pub async fn reseal(&self, next: &str) -> Result<usize> {
        let keyring = self.deps.keyring.clone();
        let sealer = keyring.keys(next)?.sealer;
        transact!(self.db, |conn| Ok(reseal_all!(conn, keyring, sealer, BATCH)))
    }

    /// Seals what is left, signs the end of the trail with the old key, and takes the new one into use; the entry that
    /// says so is signed with it, and so is that it takes over there.
    ///
    /// # Errors
    /// As [`Store::reseal`]; `Internal` when the trail does not follow from what was verified before; `Modified` when `next` is not the key that was named. Then nothing has changed.
    pub async fn finish_rekey(&self, permit: &Permit, next: &str) -> Result<()> {
        let (receipt, next, keyring) = (self.receipt(permit)?, next.to_owned(), self.deps.keyring.clone());
        let Keys { sealer, signer } = keyring.keys(&next)?;
        let receipt = receipt.handing_over_to(signer);
        transact!(self.db, |conn| {
            conn.stop_sealing().await?;
            let named: Option<String> =
                install::table.find(1).select(install::next_fingerprint).first(conn).await?;
            if named.as_ref() != Some(&next) {
                return Err(Error::new(Cause::Modified).resource("master_key").into());
            }
            while reseal_all!(conn, keyring, sealer, BATCH) > 0 {}
            conn.done(receipt).await?;
            let taken = (install::fingerprint.eq(next), install::next_fingerprint.eq(None::<String>));
            diesel::update(install::table.find(1)).set(taken).execute(conn).await?;
            Ok(())
        })?;
        self.refresh_active_key().await
    }
}
