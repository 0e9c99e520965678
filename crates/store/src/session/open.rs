//! Opening of sessions.

use diesel::{ExpressionMethods as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    provider::ProviderSession,
    rng::uuid_v7,
    session::{ClientAddress, Session, SessionRecord, ThrottleKey},
    user::PasswordHash,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::Row;
use crate::{
    Store,
    audit::Trail as _,
    db::transact_retried,
    federation::refresh_token_owner,
    rekey::ActiveKey as _,
    schema::{At, login_addresses, provider_sessions, refresh_tokens, sessions, throttles, users},
};

/// Proof with which a user opens a session.
pub(crate) enum Proof {
    /// Knowledge of the password with this hash.
    Password(PasswordHash),
    /// Authentication at a provider.
    Provider(ProviderSession),
}

impl Proof {
    fn refresh_token(&self) -> Option<&SecretString> {
        match self {
            Self::Password(_) => None,
            Self::Provider(origin) => origin.refresh_token.as_ref(),
        }
    }
}

impl Store {
    /// Opens a session, if the user is enabled and the proof still holds.
    ///
    /// # Errors
    /// `BadCredentials`, `StoreUnavailable`.
    pub(crate) async fn open_session(
        &self,
        permit: &Permit,
        record: SessionRecord,
        proof: Proof,
    ) -> Result<Session> {
        let (entry, keyring) = (self.pending_entry(permit)?, self.deps.keyring.clone());
        let uuid = uuid_v7(record.at, &*self.deps.rng);
        transact_retried!(self.db, |conn| {
            let refresh_token = match proof.refresh_token() {
                Some(token) => {
                    let sealer = keyring.keys(&conn.active_key().await?)?.sealer;
                    Some(sealer.seal(&refresh_token_owner(uuid), token.expose_secret().as_bytes())?)
                }
                None => None,
            };
            // locks the row of the user, so that one transaction at a time changes the user's addresses
            let user = diesel::update(users::table.find(record.user_id.0))
                .set(users::last_login_at.eq(At(record.at)))
                .into_boxed()
                .filter(users::disabled.eq(false));
            let proved = match &proof {
                Proof::Password(verified) => user.filter(users::password.eq(verified.phc())),
                Proof::Provider(origin) => user.filter(users::provider.eq(origin.provider.as_str())),
            };
            if proved.execute(conn).await? == 0 {
                return Err(Error::new(Cause::BadCredentials).into());
            }
            if let Some(key) = &record.throttle_key {
                diesel::delete(throttles::table.find(&key.key)).execute(conn).await?;
            }
            if let Some(address) = record.source_ip.map(ClientAddress::of) {
                let login = (
                    login_addresses::user_id.eq(record.user_id.0),
                    login_addresses::address.eq(address.as_str()),
                    login_addresses::last_login_at.eq(At(record.at)),
                );
                diesel::insert_into(login_addresses::table)
                    .values(login)
                    .on_conflict((login_addresses::user_id, login_addresses::address))
                    .do_update()
                    .set(login_addresses::last_login_at.eq(At(record.at)))
                    .execute(conn)
                    .await?;
                let of_user = login_addresses::table.filter(login_addresses::user_id.eq(record.user_id.0));
                let newest: Vec<String> = of_user
                    .select(login_addresses::address)
                    .order_by(login_addresses::last_login_at.desc())
                    .limit(ThrottleKey::ADDRESSES.into())
                    .load(conn)
                    .await?;
                diesel::delete(of_user.filter(login_addresses::address.ne_all(newest))).execute(conn).await?;
            }
            // expired sessions are unusable
            diesel::delete(sessions::table.filter(sessions::expires_at.le(At(record.at))))
                .execute(conn)
                .await?;

            let values = (
                sessions::cookie.eq(record.cookie.0.to_vec()),
                sessions::user_id.eq(record.user_id.0),
                sessions::generation.eq(1),
                sessions::source_ip.eq(record.source_ip.map(|ip| ip.to_string())),
                sessions::user_agent.eq(&record.user_agent),
                sessions::created_at.eq(At(record.at)),
                sessions::last_seen_at.eq(At(record.at)),
                sessions::expires_at.eq(At(record.expires_at)),
                sessions::authenticated_at.eq(At(record.authenticated_at)),
                sessions::factor_at.eq(record.factor_at.map(At)),
            );
            let row: Row = diesel::insert_into(sessions::table)
                .values(values)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let token =
                (refresh_tokens::hash.eq(record.refresh.0.to_vec()), refresh_tokens::session_id.eq(row.id));
            diesel::insert_into(refresh_tokens::table).values(token).execute(conn).await?;
            if let Proof::Provider(origin) = &proof {
                let at_provider = (
                    provider_sessions::session_id.eq(row.id),
                    provider_sessions::uuid.eq(uuid.to_string()),
                    provider_sessions::provider.eq(origin.provider.as_str()),
                    provider_sessions::sid.eq(&origin.sid),
                    provider_sessions::refresh_token.eq(refresh_token),
                    provider_sessions::visited_at.eq(At(record.at)),
                );
                diesel::insert_into(provider_sessions::table).values(at_provider).execute(conn).await?;
            }
            conn.record_success(entry.clone()).await?;
            Ok(Session::from(row))
        })
        // the expired sessions may have had sealed values
        .inspect(|_| self.scrub_later())
    }
}
