//! Online rotation of the master key. Sealed values are resealed in batches, one transaction per batch. The last
//! transaction reseals the rest and makes the new key the active one.
//!
//! A transaction that seals reads the active key and locks that value until it commits ([`ActiveKey`]). So nothing is
//! sealed with the old key after the last transaction, which waits for those before it. Locks are taken in this
//! order: `install`, Pilothouse's other tables, `audit_head`, `operations`.

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
    schema::{clusters, idempotency_keys, install, leases, provider_sessions, second_factors},
};

define_sql_function! {
    /// SQL `substr` of a byte string, with positions from 1.
    fn substr(bytes: Nullable<Binary>, from: Integer, length: Integer) -> Nullable<Binary>;
}

/// The active master key, read and locked within a transaction.
pub(crate) trait ActiveKey {
    /// The fingerprint of the key to seal with. The key stays active until this transaction ends.
    async fn active_key(&mut self) -> Result<String, StoreError>;

    /// Waits for all transactions that hold the lock of [`ActiveKey::active_key`], and blocks new ones until this
    /// transaction ends.
    async fn stop_sealing(&mut self) -> Result<(), StoreError>;
}

impl ActiveKey for Sqlite {
    /// The transaction already has the write lock.
    async fn active_key(&mut self) -> Result<String, StoreError> {
        Ok(install::table.find(1).select(install::fingerprint).first(self).await?)
    }

    async fn stop_sealing(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl ActiveKey for Postgres {
    async fn active_key(&mut self) -> Result<String, StoreError> {
        Ok(install::table.find(1).select(install::fingerprint).for_share().first(self).await?)
    }

    /// Locks the table, whose lock queue is fair. With a lock on the row, new share locks could starve this one.
    async fn stop_sealing(&mut self) -> Result<(), StoreError> {
        diesel::sql_query("LOCK TABLE install IN EXCLUSIVE MODE").execute(self).await?;
        Ok(())
    }
}

/// Reseals up to `$limit` values of a column that are not sealed with the new key. Returns their number.
macro_rules! reseal {
    ($conn:ident, $table:ident, $row:ident, $column:ident, $keyring:expr, $sealer:expr, $limit:expr) => {{
        let mark = $sealer.mark();
        let length = i32::try_from(mark.len()).map_err(|_| corrupt("mark"))?;
        let other_keys = substr($table::$column.nullable(), 1, length).ne(mark);
        let found: Vec<(String, Option<Vec<u8>>)> = $table::table
            .filter(other_keys)
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
                    "{error} ({field} of {row}): store the value again or delete its row, then retry"
                ))
            })?;
            let resealed = $sealer.seal(&owner, &value)?;
            // a value that was changed since it was read is not overwritten
            let as_read = $table::$row.eq(row).and($table::$column.eq(sealed));
            diesel::update($table::table.filter(as_read))
                .set($table::$column.eq(resealed))
                .execute($conn)
                .await?;
        }
        count
    }};
}

/// Runs [`reseal`] for every sealed column.
macro_rules! reseal_all {
    ($conn:ident, $keyring:expr, $sealer:expr, $limit:expr) => {
        reseal!($conn, clusters, uuid, credential, $keyring, $sealer, $limit)
            + reseal!($conn, idempotency_keys, id, request, $keyring, $sealer, $limit)
            + reseal!($conn, idempotency_keys, id, reply, $keyring, $sealer, $limit)
            + reseal!($conn, second_factors, uuid, seed, $keyring, $sealer, $limit)
            + reseal!($conn, provider_sessions, uuid, refresh_token, $keyring, $sealer, $limit)
    };
}

/// Maximum number of values of a column that one transaction reseals.
const RESEAL_BATCH: i64 = 50;

impl Store {
    /// Activates the key that the database names as the active key.
    ///
    /// # Errors
    /// `StoreUnavailable`, also when that key is not in the key files.
    pub(crate) async fn refresh_active_key(&self) -> Result<()> {
        let fingerprint: String = read!(self.db, |conn| Ok(install::table
            .find(1)
            .select(install::fingerprint)
            .first(conn)
            .await?))?;
        self.deps.keyring.set_active(&fingerprint).inspect_err(|_| {
            tracing::error!(
                "the database is sealed with a new master key, which this process does not have: use the file of the new \
                 key as the key file"
            );
        })
    }

    /// Stores the fingerprint of the next key. From then on, a server without this key does not start, and the lease
    /// of a running server records whether it has the key ([`Store::servers_without_key`]).
    ///
    /// # Errors
    /// `Modified` when another next key is stored already; `StoreUnavailable`.
    pub async fn begin_rekey(&self, next: &str) -> Result<()> {
        let next = next.to_owned();
        let stored = change!(self.db, |conn| {
            let free = install::next_fingerprint.is_null().or(install::next_fingerprint.eq(next.clone()));
            let install = install::table.filter(install::id.eq(1).and(free));
            Ok(diesel::update(install).set(install::next_fingerprint.eq(next)).execute(conn).await?)
        })?;
        if stored == 0 { Err(Error::new(Cause::Modified).resource("master_key")) } else { Ok(()) }
    }

    /// The number of live servers whose lease does not record this key.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn servers_without_key(&self, next: &str, at: Timestamp) -> Result<u64> {
        let next = next.to_owned();
        read!(self.db, |conn| {
            let now = conn.lease_time(at).await?;
            let lacks_next = leases::next_fingerprint.is_null().or(leases::next_fingerprint.ne(Some(next)));
            let without_next =
                leases::table.filter(leases::expires_at.gt(now)).filter(lacks_next.assume_not_null());
            let count: i64 = without_next.count().get_result(conn).await?;
            Ok(count.unsigned_abs())
        })
    }

    /// Reseals a batch of values with the next key and returns their number. At zero only values that are sealed
    /// concurrently are left, for [`Store::finish_rekey`].
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal`, with the row, for a value that cannot be opened.
    pub async fn reseal(&self, next: &str) -> Result<usize> {
        let keyring = self.deps.keyring.clone();
        let sealer = keyring.keys(next)?.sealer;
        transact!(self.db, |conn| Ok(reseal_all!(conn, keyring, sealer, RESEAL_BATCH)))
    }

    /// Reseals the rest, signs the end of the trail with the old key, and makes the new key the active one. The new
    /// key signs the audit entry of the rotation, and the rotation record.
    ///
    /// # Errors
    /// As [`Store::reseal`]; `Internal` when the trail does not match the part verified before; `Modified` when
    /// `next` is not the stored next key. Nothing is changed then.
    pub async fn finish_rekey(&self, permit: &Permit, next: &str) -> Result<()> {
        let (entry, next, keyring) =
            (self.pending_entry(permit)?, next.to_owned(), self.deps.keyring.clone());
        let Keys { sealer, signer } = keyring.keys(&next)?;
        let entry = entry.with_next_signer(signer);
        transact!(self.db, |conn| {
            conn.stop_sealing().await?;
            let stored: Option<String> =
                install::table.find(1).select(install::next_fingerprint).first(conn).await?;
            if stored.as_ref() != Some(&next) {
                return Err(Error::new(Cause::Modified).resource("master_key").into());
            }
            while reseal_all!(conn, keyring, sealer, RESEAL_BATCH) > 0 {}
            conn.record_success(entry).await?;
            let taken = (install::fingerprint.eq(next), install::next_fingerprint.eq(None::<String>));
            diesel::update(install::table.find(1)).set(taken).execute(conn).await?;
            Ok(())
        })?;
        self.refresh_active_key().await
    }
}
