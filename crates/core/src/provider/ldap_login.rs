//! Sign-in with the name and password of an LDAP directory.

use std::slice;

use secrecy::SecretString;

use super::{
    Federation, PasswordCheck, ProviderKind, ProviderPort, ProviderSession,
    refusal::Attempt,
    usecase::{Renewal, SignInClient},
};
use crate::{
    access::Origin,
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
    /// Opens a session for a person of a directory. Failures are counted as for local users, under the entered name and
    /// under the name of the person; wrong codes under the name of the person only. While the person's logins are
    /// paused, a login with another name of the person is refused like a wrong password.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `BadCredentials` for an unknown or disabled person or a wrong or empty
    /// password or a wrong code, without distinction; `SecondFactorRequired` if the password is right and there is no
    /// code, unless the provider's second factor is trusted; `TooManyLogins`; `GroupsMissing`; `ProviderUnavailable`;
    /// `Overloaded`; `StoreUnavailable`; `AuditUnavailable`.
    pub async fn ldap_login(&self, login: LdapLogin) -> Result<(Tokens, Identity)> {
        let LdapLogin { provider, username, password, code, user_agent, origin } = login;
        let provider = self.provider(&provider, ProviderKind::Ldap)?;
        let ProviderPort::Ldap(directory) = &provider.port else {
            return Err(Error::internal("a provider of kind ldap has another port"));
        };
        let (sessions, throttle) = (&self.sessions, &*self.sessions.ports.throttle);
        let address = origin.source_ip.map(ClientAddress::of);
        let typed = Username::federated(&provider.id, &username);
        let account = self.account_of(&typed, address.as_ref()).await?;
        let mut attempt = Attempt::new(typed.as_str(), Some(account), origin.clone());
        self.require_unblocked(&attempt).await?;
        let checked = directory.sign_in(&username, &password).await;
        // concurrent attempts can pass the first check together; this check keeps the result from them
        self.require_unblocked(&attempt).await?;
        let person = match checked {
            Ok(PasswordCheck::Right(person)) => person,
            Ok(PasswordCheck::Wrong { name }) => {
                // the person has other names in the directory, and further spellings of them
                let name = name.map(|name| Username::federated(&provider.id, &name));
                if let Some(name) = name.filter(|name| *name != typed) {
                    attempt.keys.push(self.account_of(&name, address.as_ref()).await?);
                }
                return self.refuse(&attempt, Error::new(Cause::BadCredentials)).await;
            }
            Err(failure) => return self.undecided(&provider.id, attempt, failure).await,
        };
        let user = self.admit(&provider.id, person).await?;
        let own = self.account_of(&user.username, address.as_ref()).await?;
        if user.username != typed
            && throttle.blocked_for(slice::from_ref(&own), sessions.clock.now()).await?.is_some()
        {
            // same refusal as for a wrong password: a pause for the right password alone would confirm a guess
            return self.refuse(&attempt, Error::new(Cause::BadCredentials)).await;
        }
        let trusted = provider.trusts_second_factor;
        // a disabled user is refused when the session opens, regardless of the code
        let factor = if trusted || user.disabled {
            None
        } else {
            let keys: Vec<_> =
                [own.clone()].into_iter().chain(address.as_ref().map(ThrottleKey::address)).collect();
            match sessions.second_factor(&user, code.as_ref(), &keys).await {
                Ok(factor) => factor,
                Err(refusal) => {
                    let Attempt { caller, access, .. } = attempt;
                    return sessions.refused_code(caller, access, keys, &user.username, refusal).await;
                }
            }
        };
        let how = ProviderSession {
            provider: provider.id.clone(),
            sid: None,
            refresh_token: None,
            factor_at: (trusted || factor.is_some()).then(|| sessions.clock.now()),
        };
        let client = SignInClient { origin, user_agent, throttle_key: Some(own), factor };
        match self.open(user, how, Renewal::Possible, client).await {
            // the user is disabled in Pilothouse
            Err(refusal) if refusal.cause == Cause::BadCredentials => self.refuse(&attempt, refusal).await,
            opened => opened,
        }
    }

    /// The key under which failures of a name at this address count.
    async fn account_of(&self, name: &Username, address: Option<&ClientAddress>) -> Result<ThrottleKey> {
        account_key(&*self.sessions.ports.throttle, name, address, self.sessions.clock.now()).await
    }
}
