//! Use cases of identity providers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::{Either, select};
use secrecy::ExposeSecret;

use super::{
    Admission, Binding, EndedSessions, FederationStore, Liveness, Person, Provider, ProviderKind,
    ProviderPort, ProviderRow, ProviderSession,
};
use crate::{
    access::{Caller, Origin, Verb},
    error::{Cause, Error, Result},
    hex::Hex,
    name::ProviderId,
    role::Role,
    session::{Identity, SecretHash, SessionRecord, Sessions, ThrottleKey, Tokens},
    spawn::Spawner,
    user::{User, Username},
};

/// Lifetime of a session whose provider issued no refresh token: the person's groups cannot be read again.
pub const SESSION_WITHOUT_REFRESH: Duration = Duration::from_secs(60 * 60);

/// Maximum time for which the response to a logout waits for the address of the provider's logout page.
const END_SESSION_URL_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the person's groups can be read again during a session. Decides the lifetime of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The groups can be read again.
    Possible,
    /// The groups cannot be read again.
    Impossible,
}

/// Use cases of identity providers: sign-in, and later confirmations and logouts by the provider.
#[derive(Clone)]
pub struct Federation {
    pub(crate) providers: Arc<BTreeMap<ProviderId, Provider>>,
    pub(crate) store: Arc<dyn FederationStore>,
    pub(crate) sessions: Sessions,
    pub(crate) spawner: Arc<dyn Spawner>,
}

impl Federation {
    /// The ways to sign in: local users first, then the providers by id.
    pub fn list(&self) -> Vec<ProviderRow> {
        let local = ProviderRow {
            id: "local".to_owned(),
            kind: "local",
            label: "Pilothouse".to_owned(),
            start_url: None,
        };
        [local].into_iter().chain(self.providers.values().map(Provider::row)).collect()
    }

    /// Ids of the configured providers.
    pub fn provider_ids(&self) -> impl Iterator<Item = &ProviderId> {
        self.providers.keys()
    }

    /// Binds the id of a provider to its issuer or directory. Called at the start of the process, before any sign-in.
    ///
    /// # Errors
    /// `ProviderRebound` if the id is bound to another issuer, directory or kind; `StoreUnavailable`.
    pub async fn bind(&self, binding: &Binding) -> Result<()> {
        if self.store.bind(binding).await? {
            Ok(())
        } else {
            Err(Error::new(Cause::ProviderRebound).name(binding.provider.as_str()))
        }
    }

    /// A configured provider of this kind.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn provider(&self, id: &str, kind: ProviderKind) -> Result<&Provider> {
        let found = ProviderId::new(id).ok().and_then(|id| self.providers.get(&id));
        found
            .filter(|provider| provider.kind() == kind)
            .ok_or_else(|| Error::new(Cause::NotFound).resource("provider").name(id))
    }

    /// Ends the session of a cookie, then returns where the browser goes to end the session at its provider: `None` for
    /// a local session, and if the provider has no such page, or does not answer within 2 s.
    ///
    /// # Errors
    /// As [`Sessions::logout`].
    pub async fn logout(&self, cookie: &str, origin: Origin) -> Result<Option<String>> {
        let session = self.sessions.live.by_cookie(cookie).await?.session.id;
        // the provider is read first, because an ended session has none
        let provider = self.store.provider_of(session).await?;
        // the session ends before the request to the provider, because the client may disconnect meanwhile
        self.sessions.logout(cookie, origin).await?;
        Ok(self.end_session_url(provider.as_ref()).await)
    }

    async fn end_session_url(&self, provider: Option<&ProviderId>) -> Option<String> {
        let ProviderPort::Oidc(port) = &self.providers.get(provider?)?.port else { return None };
        match select(port.end_session_url(), self.spawner.sleep(END_SESSION_URL_TIMEOUT)).await {
            Either::Left((url, _)) => url.unwrap_or_default(),
            Either::Right(_) => None,
        }
    }

    /// The user of a person who has signed in just now.
    ///
    /// # Errors
    /// `StoreUnavailable`; `AuditUnavailable`, also if there is no capacity for audit rows of anonymous callers: then
    /// only a super admin can sign in, as with a password.
    pub(super) async fn admit(&self, provider: &ProviderId, person: Person) -> Result<User> {
        if let Err(no_capacity) = self.sessions.gate.capacity_for(Verb::Login) {
            let user = self.store.user_of(provider, person.subject()).await?;
            user.filter(|user| user.role == Role::SuperAdmin && !user.disabled).ok_or(no_capacity)?;
        }
        // the suffix is random, because another person could have taken a predictable name
        let mut suffix = [0; 4];
        self.sessions.rng.fill(&mut suffix);
        let admission = Admission {
            provider: provider.clone(),
            other_username: Username::namesake(provider, person.name(), Hex(suffix)),
            username: Username::federated(provider, person.name()),
            person,
            at: self.sessions.clock.now(),
        };
        let permit = self.sessions.gate.permit_admission(admission.username.as_str());
        self.store.admit(&permit, admission).await
    }

    /// Opens a session for an admitted user.
    ///
    /// # Errors
    /// `BadCredentials` if the user is disabled; `StoreUnavailable`; `AuditUnavailable`.
    pub(super) async fn open(
        &self,
        user: User,
        how: ProviderSession,
        renewal: Renewal,
        client: SignInClient,
    ) -> Result<(Tokens, Identity)> {
        let SignInClient { origin, user_agent, throttle_key, factor } = client;
        let at = self.sessions.clock.now();
        let lifetime = match renewal {
            Renewal::Possible => self.sessions.lifetimes.absolute,
            Renewal::Impossible => self.sessions.lifetimes.absolute.min(SESSION_WITHOUT_REFRESH),
        };
        let [cookie, refresh] = [self.sessions.secret(), self.sessions.secret()];
        let caller = Caller {
            user_id: Some(user.id),
            ..Caller::anonymous(user.username.as_str(), origin.clone()).with_role(user.role)
        };
        let permit = match factor {
            Some(factor) => self.sessions.gate.permit_login_with_factor(&caller, factor),
            None => self.sessions.gate.permit_login(&caller),
        };
        let record = SessionRecord {
            user_id: user.id,
            cookie: SecretHash::of(cookie.expose_secret()),
            refresh: SecretHash::of(refresh.expose_secret()),
            source_ip: origin.source_ip,
            user_agent: user_agent.map(|agent| agent.chars().filter(|c| !c.is_control()).take(256).collect()),
            at,
            expires_at: at + lifetime,
            authenticated_at: at,
            factor_at: how.factor_at,
            throttle_key,
        };
        let session = self.store.open(&permit, record, how).await?;
        Ok((self.sessions.tokens(&session, cookie, refresh, at)?, Identity::from(&user)))
    }

    /// Ends sessions that their provider has ended, and returns their number; `None` if the logout token was used
    /// before.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(super) async fn withdraw(&self, name: &str, ended: EndedSessions) -> Result<Option<usize>> {
        let permit = self.sessions.gate.permit_withdrawal(name);
        self.store.withdraw(&permit, ended, self.liveness()).await
    }

    /// Condition for sessions that are live now.
    pub(super) fn liveness(&self) -> Liveness {
        let at = self.sessions.clock.now();
        Liveness { at, used_after: at - self.sessions.lifetimes.idle }
    }
}

/// The client of a sign-in.
pub(super) struct SignInClient {
    pub(super) origin: Origin,
    pub(super) user_agent: Option<String>,
    pub(super) throttle_key: Option<ThrottleKey>,
    /// The kind of code that was given to Pilothouse. `None` without one.
    pub(super) factor: Option<&'static str>,
}
