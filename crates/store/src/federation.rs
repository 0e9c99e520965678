//! Storage of identity providers: bindings, and logins that have begun. People and the end of their sessions are in
//! submodules.

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::Permit,
    ids::{SessionId, UserId},
    name::ProviderId,
    provider::{
        Admission, Binding, ConfirmationClaim, DueConfirmation, EndedSessions, FederationStore, Liveness,
        MAX_PENDING_LOGINS, MAX_PENDING_LOGINS_OF_ADDRESS, PendingLogin, Person, ProviderSession,
    },
    session::{ClientAddress, SecretHash, Session, SessionRecord},
    user::User,
};
use secrecy::SecretString;

use crate::{
    Store,
    db::{change, read, transact, transact_retried},
    error::corrupt,
    schema::{At, identity_providers, oidc_logins, provider_sessions, users},
    session::Proof,
};

mod confirm;
mod person;
mod withdraw;

pub(crate) use person::refresh_token_owner;

/// Parses a stored id of a provider.
fn provider_id(text: &str) -> Result<ProviderId> {
    ProviderId::new(text).map_err(|_| corrupt("users.provider"))
}

impl Store {
    async fn bind_provider(&self, binding: &Binding) -> Result<bool> {
        let Binding { provider, kind, authority } = binding.clone();
        transact!(self.db, |conn| {
            let values = (
                identity_providers::id.eq(provider.as_str()),
                identity_providers::kind.eq(kind.as_str()),
                identity_providers::authority.eq(&authority),
            );
            diesel::insert_into(identity_providers::table)
                .values(values)
                .on_conflict(identity_providers::id)
                .do_nothing()
                .execute(conn)
                .await?;
            let bound: (String, String) = identity_providers::table
                .find(provider.as_str())
                .select((identity_providers::kind, identity_providers::authority))
                .first(conn)
                .await?;
            Ok(bound.0 == kind.as_str() && bound.1 == authority)
        })
    }

    async fn begin_login(&self, login: PendingLogin) -> Result<()> {
        // with the new one, at most the maximum
        let [kept, kept_of_all] = [MAX_PENDING_LOGINS_OF_ADDRESS, MAX_PENDING_LOGINS]
            .map(|maximum| i64::try_from(maximum - 1).unwrap_or(i64::MAX));
        transact_retried!(self.db, |conn| {
            let expired = oidc_logins::table.filter(oidc_logins::expires_at.le(At(login.at)));
            diesel::delete(expired).execute(conn).await?;
            if let Some(address) = &login.address {
                let of_address = oidc_logins::table.filter(oidc_logins::address.eq(address.as_str()));
                let newest: Vec<Vec<u8>> = of_address
                    .select(oidc_logins::state)
                    .order_by((oidc_logins::created_at.desc(), oidc_logins::state))
                    .limit(kept)
                    .load(conn)
                    .await?;
                let older = of_address.filter(oidc_logins::state.ne_all(newest));
                diesel::delete(older).execute(conn).await?;
            }
            let pending: i64 = oidc_logins::table.count().get_result(conn).await?;
            if pending > kept_of_all {
                // all have the same lifetime, so the oldest expire first
                let oldest: Vec<Vec<u8>> = oidc_logins::table
                    .select(oidc_logins::state)
                    .order_by(oidc_logins::expires_at)
                    .limit(pending - kept_of_all)
                    .load(conn)
                    .await?;
                let oldest = oidc_logins::table.filter(oidc_logins::state.eq_any(oldest));
                diesel::delete(oldest).execute(conn).await?;
            }
            let values = (
                oidc_logins::state.eq(login.state.0.to_vec()),
                oidc_logins::provider.eq(login.provider.as_str()),
                oidc_logins::browser.eq(login.browser.0.to_vec()),
                oidc_logins::target.eq(&login.to),
                oidc_logins::address.eq(login.address.as_ref().map(ClientAddress::as_str)),
                oidc_logins::created_at.eq(At(login.at)),
                oidc_logins::expires_at.eq(At(login.expires_at)),
            );
            diesel::insert_into(oidc_logins::table).values(values).execute(conn).await?;
            Ok(())
        })
    }

    async fn take_login(
        &self,
        provider: &ProviderId,
        state: SecretHash,
        browser: SecretHash,
        at: Timestamp,
    ) -> Result<Option<String>> {
        let provider = provider.to_string();
        change!(self.db, |conn| {
            // one statement: only one of several concurrent calls finds the row
            let pending = oidc_logins::table
                .find(state.0.to_vec())
                .filter(oidc_logins::provider.eq(provider))
                .filter(oidc_logins::browser.eq(browser.0.to_vec()))
                .filter(oidc_logins::expires_at.gt(At(at)));
            let taken = diesel::delete(pending).returning(oidc_logins::target);
            Ok(taken.get_result::<String>(conn).await.optional()?)
        })
    }

    async fn provider_of_session(&self, session: SessionId) -> Result<Option<ProviderId>> {
        read!(self.db, |conn| {
            let provider: Option<String> = provider_sessions::table
                .find(session.0)
                .select(provider_sessions::provider)
                .first(conn)
                .await
                .optional()?;
            Ok(provider.as_deref().map(provider_id).transpose()?)
        })
    }

    async fn user_confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>> {
        read!(self.db, |conn| {
            let confirmed: Option<Option<At>> =
                users::table.find(user.0).select(users::confirmed_at).first(conn).await.optional()?;
            Ok(confirmed.flatten().map(|at| at.0))
        })
    }
}

#[async_trait]
impl FederationStore for Store {
    async fn bind(&self, binding: &Binding) -> Result<bool> {
        self.bind_provider(binding).await
    }

    async fn begin(&self, login: PendingLogin) -> Result<()> {
        self.begin_login(login).await
    }

    async fn take(
        &self,
        provider: &ProviderId,
        state: SecretHash,
        browser: SecretHash,
        at: Timestamp,
    ) -> Result<Option<String>> {
        self.take_login(provider, state, browser, at).await
    }

    async fn admit(&self, permit: &Permit, admission: Admission) -> Result<User> {
        self.admit_person(permit, admission).await
    }

    async fn user_of(&self, provider: &ProviderId, subject: &str) -> Result<Option<User>> {
        self.user_of_person(provider, subject).await
    }

    async fn open(
        &self,
        permit: &Permit,
        session: SessionRecord,
        origin: ProviderSession,
    ) -> Result<Session> {
        self.open_session(permit, session, Proof::Provider(origin)).await
    }

    async fn provider_of(&self, session: SessionId) -> Result<Option<ProviderId>> {
        self.provider_of_session(session).await
    }

    async fn claim_due(&self, claim: ConfirmationClaim) -> Result<Vec<DueConfirmation>> {
        self.claim_confirmations(&claim).await
    }

    async fn release(&self, due: &[DueConfirmation], visited_at: Timestamp) -> Result<()> {
        self.release_confirmations(due, visited_at).await
    }

    async fn confirm(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()> {
        self.confirm_person(due, person, refresh_token, at).await
    }

    async fn withdraw(&self, permit: &Permit, ended: EndedSessions, live: Liveness) -> Result<Option<usize>> {
        self.withdraw_sessions(permit, ended, live).await
    }

    async fn confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>> {
        self.user_confirmed_at(user).await
    }
}
