//! Sign-in at an OpenID provider: the browser is redirected to the provider and returns with a code.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{
    AuthorizationAnswer, AuthorizationRequest, EndedSessions, Federation, LogoutToken, OpenIdProvider,
    PendingLogin, Provider, ProviderKind, ProviderPort, ProviderSession,
    refusal::Attempt,
    usecase::{Renewal, SignInClient},
};
use crate::{
    access::Origin,
    error::{Cause, Error, Reason, Result},
    session::{ClientAddress, Identity, SecretHash, ThrottleKey, Tokens},
};

/// Maximum time between the start and the end of a sign-in.
const PENDING: Duration = Duration::from_secs(10 * 60);

/// Maximum length of a path of the console in bytes.
const MAX_PATH_BYTES: usize = 2048;

/// A sign-in that has begun.
#[derive(Clone, Debug)]
pub struct OidcStarted {
    /// The address to which the browser is redirected.
    pub location: String,
    /// The secret that the browser keeps in a cookie until it comes back.
    pub browser: SecretString,
}

/// Data with which the browser returns from the provider.
#[derive(Clone, Debug)]
pub struct OidcFinish {
    /// Id of the provider.
    pub provider: String,
    /// The code.
    pub code: SecretString,
    /// The state.
    pub state: SecretString,
    /// The issuer, if the provider names it.
    pub issuer: Option<String>,
    /// The secret of the browser's cookie.
    pub browser: SecretString,
    /// `User-Agent` of the client, for display in the list of sessions only.
    pub user_agent: Option<String>,
    /// Origin of the request.
    pub origin: Origin,
}

/// A successful sign-in.
#[derive(Clone, Debug)]
pub struct OidcFinished {
    /// Tokens of the session.
    pub tokens: Tokens,
    /// The user.
    pub identity: Identity,
    /// Path of the console to which the browser goes.
    pub to: String,
}

impl Federation {
    /// Begins a sign-in. `to` is the path of the console to which the browser returns; anything else counts as `/`.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `TooManyLogins`; `ProviderUnavailable`; `StoreUnavailable`;
    /// `AuditUnavailable`.
    pub async fn oidc_start(&self, provider: &str, to: Option<&str>, origin: &Origin) -> Result<OidcStarted> {
        let (provider, port) = self.open_id(provider)?;
        self.require_unblocked(&Attempt::nameless(&provider.id, origin.clone())).await?;
        let sessions = &self.sessions;
        let [browser, state] = [sessions.secret(), sessions.secret()];
        let location = port
            .authorization_url(&AuthorizationRequest {
                state: state.expose_secret().to_owned(),
                nonce: derived(&browser, "nonce"),
                verifier: derived(&browser, "verifier").into(),
            })
            .await?;
        let at = sessions.clock.now();
        let pending = PendingLogin {
            provider: provider.id.clone(),
            state: SecretHash::of(state.expose_secret()),
            browser: SecretHash::of(browser.expose_secret()),
            to: path_of_the_console(to),
            address: origin.source_ip.map(ClientAddress::of),
            at,
            expires_at: at + PENDING,
        };
        self.store.begin(pending).await?;
        Ok(OidcStarted { location, browser })
    }

    /// Ends a sign-in: exchanges the code, and opens a session for the person. A state is accepted once, from the
    /// browser that began, within ten minutes. A refused one counts as a failed login of its address.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `SignInExpired`, `SignInRejected`, `GroupsMissing`; `BadCredentials` if the
    /// user is disabled here; `TooManyLogins`; `ProviderUnavailable`; `StoreUnavailable`; `AuditUnavailable`.
    pub async fn oidc_finish(&self, finish: OidcFinish) -> Result<OidcFinished> {
        let (provider, port) = self.open_id(&finish.provider)?;
        let attempt = Attempt::nameless(&provider.id, finish.origin.clone());
        self.require_unblocked(&attempt).await?;
        let at = self.sessions.clock.now();
        let [state, browser] =
            [&finish.state, &finish.browser].map(|secret| SecretHash::of(secret.expose_secret()));
        // no audit row: no sign-in was begun, and any client can send this request
        let to = self.store.take(&provider.id, state, browser, at).await?;
        let to = to.ok_or_else(|| Error::new(Cause::SignInExpired))?;
        match self.signed_in(provider, port, &finish, at).await {
            Ok((tokens, identity)) => Ok(OidcFinished { tokens, identity, to }),
            Err(refusal)
                if matches!(
                    refusal.cause,
                    Cause::SignInRejected | Cause::GroupsMissing | Cause::BadCredentials
                ) =>
            {
                // concurrent attempts can pass the first check together; this check limits their audit rows
                self.require_unblocked(&attempt).await?;
                self.refuse(&attempt, refusal).await
            }
            Err(failure) => self.undecided(&provider.id, attempt, failure).await,
        }
    }

    async fn signed_in(
        &self,
        provider: &Provider,
        port: &dyn OpenIdProvider,
        finish: &OidcFinish,
        now: Timestamp,
    ) -> Result<(Tokens, Identity)> {
        let answer = AuthorizationAnswer {
            code: finish.code.clone(),
            issuer: finish.issuer.clone(),
            nonce: derived(&finish.browser, "nonce"),
            verifier: derived(&finish.browser, "verifier").into(),
        };
        let sign_in = port.redeem(&answer).await?;
        let user = self.admit(&provider.id, sign_in.person).await?;
        let renewal = if sign_in.refresh_token.is_some() { Renewal::Possible } else { Renewal::Impossible };
        let how = ProviderSession {
            provider: provider.id.clone(),
            sid: sign_in.sid,
            refresh_token: sign_in.refresh_token,
            // never in the future, even if the clock of the provider is ahead
            factor_at: sign_in
                .authenticated_at
                .filter(|_| provider.trusts_second_factor)
                .map(|factor_at| factor_at.min(now)),
        };
        let client = SignInClient {
            origin: finish.origin.clone(),
            user_agent: finish.user_agent.clone(),
            throttle_key: None,
            factor: None,
        };
        self.open(user, how, renewal, client).await
    }

    /// Ends the sessions that a logout token of the provider names. A token is accepted once. Refused ones count as failed
    /// logins of their address.
    ///
    /// # Errors
    /// `NotFound` for an unknown provider; `InvalidInput` naming `logout_token` if it does not verify or was used
    /// before; `TooManyLogins`; `ProviderUnavailable`; `StoreUnavailable`.
    pub async fn backchannel_logout(
        &self,
        provider: &str,
        logout_token: &str,
        origin: &Origin,
    ) -> Result<()> {
        let (throttle, clock) = (&self.sessions.ports.throttle, &self.sessions.clock);
        let address = origin.source_ip.map(ClientAddress::of);
        let keys: Vec<_> = address.as_ref().map(ThrottleKey::address).into_iter().collect();
        if let Some(pause) = throttle.blocked_for(&keys, clock.now()).await? {
            return Err(Error::new(Cause::TooManyLogins).retry_after(pause));
        }
        let ended = self.end_named(provider, logout_token).await;
        if ended.as_ref().is_err_and(|error| error.cause == Cause::InvalidInput) {
            throttle.failed(&keys, clock.now()).await?;
        }
        ended
    }

    async fn end_named(&self, provider: &str, logout_token: &str) -> Result<()> {
        let (provider, port) = self.open_id(provider)?;
        let malformed = || Error::invalid("logout_token", Reason::Malformed);
        let notice = port.verify_logout(logout_token).await.map_err(|error| match error.cause {
            Cause::SignInRejected => malformed(),
            _ => error,
        })?;
        let ended = EndedSessions::Named {
            provider: provider.id.clone(),
            subject: notice.subject,
            sid: notice.sid,
            token: LogoutToken { jti: SecretHash::of(&notice.jti), valid_until: notice.valid_until },
        };
        self.withdraw(provider.id.as_str(), ended).await?.map(drop).ok_or_else(malformed)
    }

    fn open_id(&self, id: &str) -> Result<(&Provider, &dyn OpenIdProvider)> {
        let provider = self.provider(id, ProviderKind::Oidc)?;
        match &provider.port {
            ProviderPort::Oidc(port) => Ok((provider, &**port)),
            ProviderPort::Ldap(_) => Err(Error::internal("a provider of kind oidc has another port")),
        }
    }
}

/// A value of 256 bits that can be computed only from the browser's cookie, so that the database stores no secret of a
/// sign-in.
fn derived(browser: &SecretString, purpose: &str) -> String {
    let digest =
        Sha256::new().chain_update(purpose).chain_update([0_u8]).chain_update(browser.expose_secret());
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

/// A path of the console: it begins with one slash, which no browser reads as a host, and is not of the API.
fn path_of_the_console(to: Option<&str>) -> String {
    let is_path = |to: &&str| {
        to.len() <= MAX_PATH_BYTES
            && to.starts_with('/')
            && !to[1..].starts_with(['/', '\\'])
            && !to.chars().any(|c| c.is_control() || c == '\\')
            && !to.starts_with("/api")
    };
    to.filter(is_path).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browser_returns_only_to_a_path_of_the_console() {
        for path in ["/", "/clusters/1?ns=shop#logs", "/apps"] {
            assert_eq!(path_of_the_console(Some(path)), path);
        }
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        for other in [
            "",
            "//evil.example",
            "/\\evil.example",
            "/a\\b",
            "https://evil.example",
            "javascript:alert(1)",
            "/a\nb",
            "/\t/evil.example",
            "/api/auth/logout",
            &long,
        ] {
            assert_eq!(path_of_the_console(Some(other)), "/", "{other:?}");
        }
        assert_eq!(path_of_the_console(None), "/");
    }

    #[test]
    fn derived_values_differ_by_purpose_and_browser() {
        let [one, two] = ["one", "two"].map(SecretString::from);
        let verifier = derived(&one, "verifier");
        assert_eq!(verifier.len(), 43, "the shortest verifier that RFC 7636 allows");
        assert_ne!(verifier, derived(&one, "nonce"));
        assert_ne!(verifier, derived(&two, "verifier"));
        assert_eq!(verifier, derived(&one, "verifier"));
    }
}
