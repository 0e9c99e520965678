//! Storage of second factors. Seeds are sealed, recovery codes are stored as hashes.
//!
//! A change locks the row of the user first, so that one change of a user's second factor runs at a time.

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable,
    Selectable, SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    ids::{SessionId, UserId},
    seal::{Keyring, SealedFor},
    second_factor::{Confirmation, FactorUse, SecondFactor, SecondFactorStore, TotpSeed},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact_retried},
    error::corrupt,
    rekey::ActiveKey as _,
    schema::{At, recovery_codes, second_factors, sessions, users},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = second_factors)]
struct Row {
    user_id: i64,
    uuid: String,
    seed: Vec<u8>,
    created_at: At,
    confirmed_at: Option<At>,
    last_step: Option<i64>,
}

fn seed_owner(row: Uuid) -> SealedFor {
    SealedFor { row, field: "second_factors.seed" }
}

impl Row {
    fn open(self, keyring: &dyn Keyring) -> Result<SecondFactor> {
        let enrolment = self.uuid.parse().map_err(|_| corrupt("second_factors.uuid"))?;
        let opened = Zeroizing::new(keyring.open(&seed_owner(enrolment), &self.seed)?);
        let seed = opened.as_slice().try_into().map_err(|_| corrupt("second_factors.seed"))?;
        Ok(SecondFactor {
            enrolment,
            user_id: UserId(self.user_id),
            seed: TotpSeed::new(seed),
            created_at: self.created_at.0,
            confirmed_at: self.confirmed_at.map(|at| at.0),
            last_step: self.last_step,
        })
    }
}

fn factor_error(cause: Cause, user: UserId) -> Error {
    Error::new(cause).resource("second_factor").name(user.to_string())
}

/// Locks the row of a user; fails with `NotFound` if there is no such user.
macro_rules! lock_user {
    ($conn:ident, $id:expr) => {
        let row = diesel::update(users::table.find($id.0));
        // setting a column to itself locks the row
        if row.set(users::disabled.eq(users::disabled)).execute($conn).await? == 0 {
            return Err(Error::new(Cause::NotFound).resource("user").name($id.to_string()).into());
        }
    };
}

/// The pending enrolment of a user; fails with `AlreadyEnrolled` if the user has a confirmed second factor.
macro_rules! pending_enrolment {
    ($conn:ident, $user:expr) => {{
        let found: Option<(String, Option<At>)> = second_factors::table
            .find($user.0)
            .select((second_factors::uuid, second_factors::confirmed_at))
            .first($conn)
            .await
            .optional()?;
        if let Some((_, Some(_))) = found {
            let enrolled = Error::new(Cause::AlreadyEnrolled).resource("user");
            return Err(enrolled.name($user.to_string()).into());
        }
        found.map(|(uuid, _)| uuid)
    }};
}

impl Store {
    async fn second_factor(&self, user: UserId) -> Result<Option<SecondFactor>> {
        let found: Option<Row> = read!(self.db, |conn| {
            let row = second_factors::table.find(user.0).select(Row::as_select());
            Ok(row.first(conn).await.optional()?)
        })?;
        found.map(|row| row.open(&*self.deps.keyring)).transpose()
    }

    async fn begin_enrolment(
        &self,
        permit: &Permit,
        user: UserId,
        enrolment: Uuid,
        seed: TotpSeed,
    ) -> Result<()> {
        let (entry, keyring) = (self.pending_entry(permit)?, self.deps.keyring.clone());
        transact_retried!(self.db, |conn| {
            let sealer = keyring.keys(&conn.active_key().await?)?.sealer;
            let sealed = sealer.seal(&seed_owner(enrolment), seed.bytes())?;
            lock_user!(conn, user);
            let replaced = pending_enrolment!(conn, user);
            if replaced.is_some() {
                diesel::delete(second_factors::table.find(user.0)).execute(conn).await?;
            }
            let values = (
                second_factors::user_id.eq(user.0),
                second_factors::uuid.eq(enrolment.to_string()),
                second_factors::seed.eq(sealed),
                second_factors::created_at.eq(At(entry.at())),
            );
            diesel::insert_into(second_factors::table).values(values).execute(conn).await?;
            conn.record_success(entry.clone()).await
        })?;
        self.scrub_later();
        Ok(())
    }

    async fn confirm_enrolment(
        &self,
        permit: &Permit,
        user: UserId,
        confirmation: Confirmation,
    ) -> Result<()> {
        let entry = self.pending_entry(permit)?;
        let Confirmation { enrolment, step, recovery, session } = confirmation;
        transact_retried!(self.db, |conn| {
            lock_user!(conn, user);
            if pending_enrolment!(conn, user) != Some(enrolment.to_string()) {
                return Err(factor_error(Cause::NotFound, user).into());
            }
            let own_session = sessions::table.find(session.0).filter(sessions::user_id.eq(user.0));
            let renewed =
                diesel::update(own_session).set(sessions::factor_at.eq(At(entry.at()))).execute(conn).await?;
            if renewed == 0 {
                return Err(Error::new(Cause::SessionEnded).into());
            }
            let confirmed =
                (second_factors::confirmed_at.eq(At(entry.at())), second_factors::last_step.eq(step));
            diesel::update(second_factors::table.find(user.0)).set(confirmed).execute(conn).await?;
            for code in &recovery {
                let values = (recovery_codes::user_id.eq(user.0), recovery_codes::hash.eq(code.0.to_vec()));
                diesel::insert_into(recovery_codes::table).values(values).execute(conn).await?;
            }
            conn.record_success(entry.clone()).await
        })
    }

    async fn spend_factor(&self, user: UserId, factor_use: FactorUse) -> Result<bool> {
        change!(self.db, |conn| {
            // one statement: only one of several concurrent calls changes the row
            let spent = match factor_use {
                FactorUse::Step(step) => {
                    let is_new = second_factors::last_step.is_null().or(second_factors::last_step.lt(step));
                    let confirmed = second_factors::table
                        .find(user.0)
                        .filter(second_factors::confirmed_at.is_not_null())
                        .filter(is_new);
                    diesel::update(confirmed).set(second_factors::last_step.eq(step)).execute(conn).await?
                }
                // codes are stored when the second factor is confirmed
                FactorUse::Recovery(code) => {
                    let unused = recovery_codes::table
                        .filter(recovery_codes::user_id.eq(user.0))
                        .filter(recovery_codes::hash.eq(code.0.to_vec()));
                    diesel::delete(unused).execute(conn).await?
                }
            };
            Ok(spent > 0)
        })
    }

    async fn remove_factor(&self, permit: &Permit, user: UserId, keep: Option<SessionId>) -> Result<()> {
        let entry = self.pending_entry(permit)?;
        transact_retried!(self.db, |conn| {
            lock_user!(conn, user);
            // the database deletes the recovery codes, too (ON DELETE CASCADE)
            let removed = diesel::delete(second_factors::table.find(user.0)).execute(conn).await?;
            if removed == 0 {
                return Err(factor_error(Cause::NotFound, user).into());
            }
            // ids begin at 1, so 0 keeps no session
            let kept = keep.map_or(0, |session| session.0);
            let of_user = sessions::table.filter(sessions::user_id.eq(user.0));
            diesel::delete(of_user.filter(sessions::id.ne(kept))).execute(conn).await?;
            diesel::update(of_user).set(sessions::factor_at.eq(None::<At>)).execute(conn).await?;
            conn.record_success(entry.clone()).await
        })?;
        self.scrub_later();
        Ok(())
    }
}

#[async_trait]
impl SecondFactorStore for Store {
    async fn find(&self, user: UserId) -> Result<Option<SecondFactor>> {
        self.second_factor(user).await
    }

    async fn begin(&self, permit: &Permit, user: UserId, enrolment: Uuid, seed: TotpSeed) -> Result<()> {
        self.begin_enrolment(permit, user, enrolment, seed).await
    }

    async fn confirm(&self, permit: &Permit, user: UserId, confirmation: Confirmation) -> Result<()> {
        self.confirm_enrolment(permit, user, confirmation).await
    }

    async fn spend(&self, user: UserId, factor_use: FactorUse) -> Result<bool> {
        self.spend_factor(user, factor_use).await
    }

    async fn remove(&self, permit: &Permit, user: UserId, keep: Option<SessionId>) -> Result<()> {
        self.remove_factor(permit, user, keep).await
    }
}
