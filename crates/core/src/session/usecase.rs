//! Session use cases: login, logout, refresh (`refresh.rs`), authentication, password change, list and revoke.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::{
    Activity, Claims, ClientAddress, FoundSession, Identity, Lifetimes, LiveSessions, SecretHash, Session,
    SessionPorts, SessionRecord, SessionRow, ThrottleKey, account_key,
};
use crate::{
    access::{AccessRequest, Caller, Factor, Origin, Permit, Resource, Verb},
    clock::Clock,
    error::{Cause, Error, Reason, Result},
    gate::Gate,
    ids::SessionId,
    rights::{Extent, RightResource, RightVerb},
    rng::Rng,
    role::Role,
    rows::{ListQuery, Pagination, Row, select},
    second_factor::{CodeCheck, RequireSecondFactor},
    ttl_cache::TtlCache,
    user::{InitialPassword, NewPassword, PasswordHasher, SetBy, User, UserRegistry, Username, normalise},
};

mod factor;
mod refresh;

/// A login request.
#[derive(Clone, Debug)]
pub struct Login {
    /// The username as entered.
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

/// A change of the caller's own password.
#[derive(Clone, Debug)]
pub struct PasswordChange {
    /// The current password.
    pub old: SecretString,
    /// The new password.
    pub new: NewPassword,
}

/// Tokens issued by a login or refresh. The `Debug` output contains no secret.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The bearer token.
    pub access_token: SecretString,
    /// Lifetime of the access token.
    pub expires_in: Duration,
    /// The refresh token for the next refresh.
    pub refresh_token: SecretString,
    /// The cookie's value.
    pub session_id: SecretString,
}

/// An authenticated user: bearer token and cookie are valid and belong to the same session.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The caller, for the gate.
    pub caller: Caller,
    /// The session.
    pub session: Session,
    /// Time at which the session ends unless it is used before.
    pub idle_expires_at: Timestamp,
    /// The user.
    pub user: User,
}

impl SignedIn {
    /// The session as displayed to its owner.
    pub fn session_row(&self) -> SessionRow {
        session_row(&self.session, self.idle_expires_at, &self.user.username, Some(self.session.id))
    }
}

/// Session use cases.
#[derive(Clone)]
pub struct Sessions {
    pub(crate) gate: Gate,
    pub(crate) ports: SessionPorts,
    pub(crate) live: LiveSessions,
    /// Cache of verified access tokens, by hash: a burst of requests carries the same token.
    pub(crate) verified: Arc<TtlCache<SecretHash, Claims>>,
    pub(crate) users: Arc<dyn UserRegistry>,
    pub(crate) hasher: Arc<dyn PasswordHasher>,
    pub(crate) factors: CodeCheck,
    pub(crate) require_factor: RequireSecondFactor,
    pub(crate) initial: Arc<dyn InitialPassword>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) lifetimes: Lifetimes,
}

/// Minimum interval between two records of a session's use. A short idle timeout lowers it to an eighth of that
/// timeout, so that a session in use does not expire.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

impl Sessions {
    /// Opens a session for a user with a valid password, and with a valid code if the user has a second factor.
    ///
    /// # Errors
    /// `BadCredentials` for an unknown or disabled user, a wrong password or a wrong code, without distinction;
    /// `SecondFactorRequired` if the password is right and there is no code; `TooManyLogins`; `Overloaded`;
    /// `StoreUnavailable`; `AuditUnavailable`, also if there is no capacity for audit rows of anonymous callers: then
    /// only a super admin can log in, to free capacity.
    pub async fn login(&self, login: Login) -> Result<(Tokens, Identity)> {
        // anonymous callers cause audit rows, so they must not use the last capacity; whether the caller is a super
        // admin is known only after the password check
        let capacity = self.gate.capacity_for(Verb::Login);
        let username = Username::new(&login.username).ok();
        let address = login.origin.source_ip.map(ClientAddress::of);
        let account = match &username {
            Some(name) => {
                Some(account_key(&*self.ports.throttle, name, address.as_ref(), self.clock.now()).await?)
            }
            None => None,
        };
        let keys: Vec<_> =
            account.iter().cloned().chain(address.as_ref().map(ThrottleKey::address)).collect();
        let shown = username.as_ref().map_or("-", Username::as_str);
        let access = AccessRequest::to(Verb::Login, Resource::Session).named(shown);
        let anonymous = Caller::anonymous(shown, login.origin.clone());

        if let Some(pause) = self.ports.throttle.blocked_for(&keys, self.clock.now()).await? {
            return self.throttled(anonymous, access, keys, pause).await;
        }
        let found = match &username {
            Some(username) => self.users.credentials(username).await?,
            None => None,
        };
        let enabled = found.filter(|(user, _)| !user.disabled);
        let hash = enabled.as_ref().map(|(_, hash)| hash);
        let password_matches = self.hasher.verify(&normalise(&login.password), hash).await?;
        // concurrent attempts can pass the first check together; this check keeps the result of the password check
        // from them
        if let Some(pause) = self.ports.throttle.blocked_for(&keys, self.clock.now()).await? {
            return self.throttled(anonymous, access, keys, pause).await;
        }
        if !password_matches {
            let refusal = Error::new(Cause::BadCredentials);
            self.ports.throttle.failed(&keys, self.clock.now()).await?;
            self.gate.record_refused_login(&anonymous, &access, &refusal).await?;
            return Err(refusal);
        }
        let (user, verified) = enabled.ok_or_else(|| Error::internal("a password matched no user"))?;
        if user.role != Role::SuperAdmin {
            capacity?;
        }

        let factor = match self.second_factor(&user, login.code.as_ref(), &keys).await {
            Ok(factor) => factor,
            Err(refusal) => {
                return self.refused_code(anonymous, access, keys, &user.username, refusal).await;
            }
        };

        let at = self.clock.now();
        let [cookie, refresh] = [self.secret(), self.secret()];
        let caller = Caller { user_id: Some(user.id), ..anonymous.clone().with_role(user.role) };
        let permit = match factor {
            Some(factor) => self.gate.permit_login_with_factor(&caller, factor),
            None => self.gate.permit_login(&caller),
        };
        let record = SessionRecord {
            user_id: user.id,
            cookie: SecretHash::of(cookie.expose_secret()),
            refresh: SecretHash::of(refresh.expose_secret()),
            source_ip: login.origin.source_ip,
            user_agent: login
                .user_agent
                .map(|agent| agent.chars().filter(|c| !c.is_control()).take(256).collect()),
            at,
            expires_at: at + self.lifetimes.absolute,
            authenticated_at: at,
            factor_at: factor.map(|_| at),
            throttle_key: account,
        };
        let session = match self.ports.store.open(&permit, record, &verified).await {
            // the password was changed, or the user disabled, during the verification
            Err(refusal) if refusal.cause == Cause::BadCredentials => {
                self.gate.record_refused_login(&anonymous, &access, &refusal).await?;
                return Err(refusal);
            }
            opened => opened?,
        };
        Ok((self.tokens(&session, cookie, refresh, at)?, Identity::from(&user)))
    }

    /// Refuses a throttled login. Writes at most one audit row per minute for an address and account. A blocked
    /// address gets one row for all usernames; otherwise each username would add a row.
    pub(crate) async fn throttled<T>(
        &self,
        mut caller: Caller,
        mut access: AccessRequest,
        mut keys: Vec<ThrottleKey>,
        pause: Duration,
    ) -> Result<T> {
        if let Some(address) =
            caller.origin.source_ip.map(ClientAddress::of).as_ref().map(ThrottleKey::address)
            && self
                .ports
                .throttle
                .blocked_for(std::slice::from_ref(&address), self.clock.now())
                .await?
                .is_some()
        {
            keys = vec![address];
            caller = Caller::anonymous("-", caller.origin);
            access = access.named("-");
        }
        let refusal = Error::new(Cause::TooManyLogins).retry_after(pause);
        let joined = keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>().join(" ");
        let key = ThrottleKey { key: joined, limit: u32::MAX };
        if let Some(count) = self.ports.throttle.refused(&key, self.clock.now()).await? {
            self.gate.record_refused_login(&caller, &access.with("refused_before", count), &refusal).await?;
        }
        Err(refusal)
    }

    /// Authenticates a request. Bearer token and cookie must both be valid and belong to the same session. Role and
    /// rights are read from the database, not from the token: current if this process changed them, otherwise at most
    /// one second old. A request that the user caused extends the session.
    ///
    /// # Errors
    /// Errors with code `AuthenticationError`; `StoreUnavailable`.
    pub async fn authenticate(
        &self,
        bearer: &str,
        cookie: &str,
        origin: Origin,
        activity: Activity,
    ) -> Result<SignedIn> {
        let now = self.clock.now();
        let claims = self.claims(bearer, now).await?;
        let mut found = self.live.by_cookie_and_token(cookie, &claims).await?;
        if claims.session_id != found.session.id || claims.user_id != found.user.id {
            return Err(Error::new(Cause::SessionMismatch));
        }
        if claims.generation != found.session.generation {
            return Err(Error::new(Cause::TokenExpired));
        }
        let last_seen_at = found.session.last_seen_at;
        let touch_interval = TOUCH_INTERVAL.min(self.lifetimes.idle / 8);
        if activity == Activity::User
            && now.duration_since(last_seen_at).unsigned_abs() >= touch_interval
            // if this write fails the session expires earlier; authentication itself requires no write
            && self.ports.store.touch(found.session.id, now).await.is_ok()
        {
            found.session.last_seen_at = last_seen_at.max(now);
        }
        let rights = self.live.rights.of(&found).await?;
        let FoundSession { session, user, enrolled, .. } = found;
        let required = self.require_factor.of(user.role, &rights);
        let factor = Factor { enrolled, required, at: session.factor_at };
        let caller = Caller { factor, ..caller(&user, &session, origin).with_rights(user.role, rights) };
        let idle_expires_at = self.live.idle_expires_at(&session);
        Ok(SignedIn { caller, session, idle_expires_at, user })
    }

    /// The claims of an access token.
    ///
    /// # Errors
    /// Errors with code `AuthenticationError`.
    async fn claims(&self, bearer: &str, now: Timestamp) -> Result<Claims> {
        let verify = async { self.ports.tokens.verify(bearer, now).map(Some).map_err(Error::new) };
        let claims = self.verified.get(SecretHash::of(bearer), verify).await?;
        // a cached token may have expired since it was verified
        claims.filter(|claims| now < claims.expires_at).ok_or_else(|| Error::new(Cause::TokenExpired))
    }

    /// Checks that a cookie belongs to a live session, before the rest of a request without a bearer token is read.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub async fn check_cookie(&self, cookie: &str) -> Result<()> {
        self.live.by_cookie(cookie).await.map(drop)
    }

    /// Ends the session of a cookie.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub async fn logout(&self, cookie: &str, origin: Origin) -> Result<()> {
        let FoundSession { session, user, .. } = self.live.by_cookie(cookie).await?;
        let permit = self.gate.permit_logout(&caller(&user, &session, origin));
        self.ports.store.end(&permit, session.id).await?;
        Ok(())
    }

    /// Changes the caller's own password and ends the caller's other sessions.
    ///
    /// # Errors
    /// `FederatedUser` for a user of an identity provider; `InvalidInput` naming `old_password` if it is wrong;
    /// `SessionEnded`, without a change, if the session ended or the password was changed meanwhile; `TooManyLogins`;
    /// `Overloaded`; `StoreUnavailable`.
    pub async fn change_password(&self, signed_in: &SignedIn, change: PasswordChange) -> Result<()> {
        if signed_in.user.username.is_federated() {
            return Err(Error::new(Cause::FederatedUser));
        }
        let keys = [ThrottleKey::session(signed_in.session.id)];
        let now = self.clock.now();
        if let Some(pause) = self.ports.throttle.blocked_for(&keys, now).await? {
            return Err(Error::new(Cause::TooManyLogins).retry_after(pause));
        }
        let found = self.users.credentials(&signed_in.user.username).await?;
        let (_, verified) = found.ok_or_else(|| Error::new(Cause::SessionEnded))?;
        let password_matches = self.hasher.verify(&normalise(&change.old), Some(&verified)).await?;
        if let Some(pause) = self.ports.throttle.blocked_for(&keys, now).await? {
            return Err(Error::new(Cause::TooManyLogins).retry_after(pause));
        }
        if !password_matches {
            self.ports.throttle.failed(&keys, now).await?;
            return Err(Error::invalid("old_password", Reason::NotAllowed));
        }
        let access = AccessRequest::to(Verb::ChangePassword, Resource::OwnAccount)
            .named(signed_in.user.username.as_str());
        let (users, hasher, id) = (self.users.clone(), self.hasher.clone(), signed_in.user.id);
        let by = SetBy::Owner { session: signed_in.session.id, verified };
        let initial = (signed_in.user.username == Username::first_admin()).then(|| self.initial.clone());
        let work = async move |permit: Permit| {
            let hash = hasher.hash(change.new.secret()).await?;
            users.set_password(&permit, id, hash, by, now).await?;
            initial.inspect(|initial| initial.remove());
            Ok(())
        };
        self.gate.change_local(&signed_in.caller, access, work).await
    }

    /// A page of sessions: the caller's own, or those of all users for a super admin.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn list(&self, caller: &Caller, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Session)).await?;
        let now = self.clock.now();
        let sessions = self.visible(caller).await?;
        let live = sessions.iter().filter(|(session, _)| self.live.is_live(session, now));
        let rows = live
            .map(|(session, user)| {
                let idle_expires_at = self.live.idle_expires_at(session);
                Row::of(&session_row(session, idle_expires_at, user, caller.session))
            })
            .collect::<Result<_>>()?;
        Ok(select(rows, query))
    }

    /// Ends a session: one of the caller's own, or any session for a super admin. Another user's session is reported
    /// as not found, like one that does not exist.
    ///
    /// # Errors
    /// `NotFound`; `StoreUnavailable`.
    pub async fn revoke(&self, caller: &Caller, id: SessionId) -> Result<()> {
        let found = self.visible(caller).await?.into_iter().find(|(session, _)| session.id == id);
        let absent = move || Error::new(Cause::NotFound).resource("session").name(id.to_string());
        let name = found.map(|(_, user)| user.to_string());
        let access = AccessRequest::to(Verb::Revoke, Resource::Session)
            .named(name.clone().unwrap_or_else(|| id.to_string()));
        let store = self.ports.store.clone();
        let work = async move |permit: Permit| {
            let ended = name.is_some() && store.end(&permit, id).await?;
            if ended { Ok(()) } else { Err(absent()) }
        };
        self.gate.change_local(caller, access, work).await
    }

    /// The sessions that the caller may list and end: the caller's own, or those of all users for a super admin.
    async fn visible(&self, caller: &Caller) -> Result<Vec<(Session, Username)>> {
        let sees_all = caller.rights.extent(RightVerb::List, &RightResource::Users) != Extent::None;
        match caller.user_id {
            _ if sees_all => self.ports.store.list(None).await,
            Some(user) => self.ports.store.list(Some(user)).await,
            // a service account has no session
            None => Ok(Vec::new()),
        }
    }

    /// Issues the access token of a session, and returns it with the other tokens.
    pub(crate) fn tokens(
        &self,
        session: &Session,
        cookie: SecretString,
        refresh: SecretString,
        at: Timestamp,
    ) -> Result<Tokens> {
        let claims = Claims {
            user_id: session.user_id,
            session_id: session.id,
            generation: session.generation,
            issued_at: at,
            expires_at: at + self.lifetimes.access,
        };
        Ok(Tokens {
            access_token: self.ports.tokens.sign(&claims)?,
            expires_in: self.lifetimes.access,
            refresh_token: refresh,
            session_id: cookie,
        })
    }

    /// 256 random bits in hexadecimal.
    pub(crate) fn secret(&self) -> SecretString {
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>().into()
    }
}

/// The user of a session, without grants: enough for operations on the session itself.
fn caller(user: &User, session: &Session, origin: Origin) -> Caller {
    Caller {
        user_id: Some(user.id),
        session: Some(session.id),
        ..Caller::anonymous(user.username.as_str(), origin).with_role(user.role)
    }
}

/// The row of a session. `current` is the session of the request.
fn session_row(
    session: &Session,
    idle_expires_at: Timestamp,
    user: &Username,
    current: Option<SessionId>,
) -> SessionRow {
    SessionRow {
        id: session.id,
        user: user.clone(),
        source_ip: session.source_ip.clone(),
        user_agent: session.user_agent.clone(),
        created_at: session.created_at,
        last_seen_at: session.last_seen_at,
        idle_expires_at,
        expires_at: session.expires_at,
        current: current == Some(session.id),
    }
}
