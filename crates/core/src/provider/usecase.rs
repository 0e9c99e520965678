//! Use cases of identity providers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::{
    Admission, Binding, EndedSessions, FederationStore, Liveness, Person, Provider, ProviderKind,
    ProviderPort, ProviderRow, ProviderSession,
};
use crate::{
    access::{Caller, Origin},
    error::{Cause, Error, Result},
    hex::Hex,
    ids::SessionId,
    name::ProviderId,
    session::{Identity, SecretHash, SessionRecord, Sessions, ThrottleKey, Tokens},
    user::{User, Username},
};

/// Lifetime of a session whose provider gave no refresh token: without one the person's groups cannot be read again.
pub const SESSION_WITHOUT_REFRESH: Duration = Duration::from_secs(60 * 60);

/// Lifetime of a session from its login, by how the person's groups are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// They can be read again.
    Possible,
    /// They cannot.
    Impossible,
}

/// Sign-in through identity providers, and what they say later of who signed in.
#[derive(Clone)]
pub struct Federation {
    pub(crate) providers: Arc<BTreeMap<ProviderId, Provider>>,
    pub(crate) store: Arc<dyn FederationStore>,
    pub(crate) sessions: Sessions,
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

    /// Binds the id of a provider to its issuer or directory. For the start of the process, before anybody signs in.
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

    /// Where the browser goes to end the session at its provider: `None` for a local session, and if the provider has
    /// no such page or does not answer. To be called before the session ends.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn end_session_url(&self, session: SessionId) -> Result<Option<String>> {
        let provider = self.store.provider_of(session).await?;
        let Some(ProviderPort::Oidc(port)) =
            provider.and_then(|id| self.providers.get(&id)).map(|provider| &provider.port)
        else {
            return Ok(None);
        };
        // a provider that does not answer must not keep anybody from signing out here
        Ok(port.end_session_url().await.unwrap_or_default())
    }

    /// Ends the session of a cookie. Returns where the browser goes to end the session at its provider, as
    /// [`Federation::end_session_url`].
    ///
    /// # Errors
    /// As [`Sessions::logout`].
    pub async fn logout(&self, cookie: &str, origin: Origin) -> Result<Option<String>> {
        let session = self.sessions.live.by_cookie(cookie).await?.session.id;
        let url = self.end_session_url(session).await?;
        self.sessions.logout(cookie, origin).await?;
        Ok(url)
    }

    /// The user of a person who has signed in just now.
    ///
    /// # Errors
    /// `StoreUnavailable`; `AuditUnavailable`.
    pub(super) async fn admit(&self, provider: &ProviderId, person: Person) -> Result<User> {
        let username = Username::federated(provider, person.name());
        let digest: [u8; 32] = Sha256::digest(person.subject()).into();
        let suffix = Hex([digest[0], digest[1], digest[2], digest[3]]);
        let admission = Admission {
            provider: provider.clone(),
            other_username: Username::federated(provider, &format!("{}-{suffix}", person.name())),
            username,
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

    /// Ends sessions because their provider did, and returns their number; `None` if the logout token was used before.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(super) async fn withdraw(&self, name: &str, ended: EndedSessions) -> Result<Option<usize>> {
        let permit = self.sessions.gate.permit_withdrawal(name);
        self.store.withdraw(&permit, ended, self.liveness()).await
    }

    /// Which sessions are live now.
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
    /// The kind of code that was given here. `None` without one.
    pub(super) factor: Option<&'static str>,
}
