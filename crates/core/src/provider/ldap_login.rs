//! Sign-in with the name and password of an LDAP directory.

use secrecy::SecretString;

use super::{
    Federation, ProviderKind, ProviderPort, ProviderSession,
    usecase::{Renewal, SignInClient},
};
use crate::{
    access::{AccessRequest, Caller, Origin, Resource, Verb},
    error::{Cause, Error, Result},
    session::{ClientAddress, Identity, ThrottleKey, Tokens, account_key},
    user::Username,
};

/// A sign-in with name and password at a directory.
#[derive(Clone, Debug)]
pub struct LdapLogin {
    /// Id of the provider.
    pub provider: String,
    /// The name as entered.
    pub username: String,
    /// The password as entered.
    pub password: SecretString,
    /// A one-time code or a recovery code, as entered.
    pub code: Option<SecretString>,
    /// `User-Agent` of the client, for display in the list of sessions only.
    pub user_agent: Option<String>,
    /// Origin of the request.
    pub origin: Origin,
}

impl Federation {
    /// Opens a session for a person of a directory. Failures count as those of local users, under the name that was
    /// entered.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `BadCredentials` for an unknown or disabled person or a wrong or empty
    /// password or a wrong code, without distinction; `SecondFactorRequired` if the password is right and there is no
    /// code, unless the provider's second factor is trusted; `TooManyLogins`; `GroupsMissing`; `ProviderUnavailable`;
    /// `StoreUnavailable`; `AuditUnavailable`.
    pub async fn ldap_login(&self, login: LdapLogin) -> Result<(Tokens, Identity)> {
        let LdapLogin { provider, username, password, code, user_agent, origin } = login;
        let provider = self.provider(&provider, ProviderKind::Ldap)?;
        let ProviderPort::Ldap(directory) = &provider.port else {
            return Err(Error::internal("a provider of kind ldap has another port"));
        };
        let (sessions, gate) = (&self.sessions, &self.sessions.gate);
        let shown = Username::federated(&provider.id, &username);
        let address = origin.source_ip.map(ClientAddress::of);
        let now = sessions.clock.now();
        let account = account_key(&*sessions.ports.throttle, &shown, address.as_ref(), now).await?;
        let keys: Vec<_> =
            [account.clone()].into_iter().chain(address.as_ref().map(ThrottleKey::address)).collect();
        let access = AccessRequest::to(Verb::Login, Resource::Session).named(shown.as_str());
        let anonymous = Caller::anonymous(shown.as_str(), origin.clone());

        let throttle = &sessions.ports.throttle;
        if let Some(pause) = throttle.blocked_for(&keys, sessions.clock.now()).await? {
            return sessions.throttled(anonymous, access, keys, pause).await;
        }
        let found = directory.sign_in(&username, &password).await;
        // concurrent attempts can pass the first check together; this check keeps the result from them
        if let Some(pause) = throttle.blocked_for(&keys, sessions.clock.now()).await? {
            return sessions.throttled(anonymous, access, keys, pause).await;
        }
        let refused = match found {
            Ok(Some(person)) => {
                let user = self.admit(&provider.id, person).await?;
                let trusted = provider.trusts_second_factor;
                // a disabled user is refused when the session opens, whatever the code
                let factor = if trusted || user.disabled {
                    None
                } else {
                    match sessions.second_factor(&user, code.as_ref(), &keys).await {
                        Ok(factor) => factor,
                        Err(refusal) => {
                            return sessions
                                .refused_code(anonymous, access, keys, &user.username, refusal)
                                .await;
                        }
                    }
                };
                let how = ProviderSession {
                    provider: provider.id.clone(),
                    sid: None,
                    refresh_token: None,
                    factor_at: (trusted || factor.is_some()).then(|| sessions.clock.now()),
                };
                let client = SignInClient { origin, user_agent, throttle_key: Some(account), factor };
                match self.open(user, how, Renewal::Possible, client).await {
                    // disabled here
                    Err(error) if error.cause == Cause::BadCredentials => error,
                    opened => return opened,
                }
            }
            Ok(None) => {
                throttle.failed(&keys, sessions.clock.now()).await?;
                Error::new(Cause::BadCredentials)
            }
            Err(error) => error,
        };
        gate.record_refused_login(&anonymous, &access, &refused).await?;
        Err(refused)
    }
}
