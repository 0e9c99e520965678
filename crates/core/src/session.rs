//! Sessions: signing in and out, the pair of tokens, who is calling, and the throttle on failed logins.
//!
//! A session is a row. The cookie names it, the access token is signed and carries its id and generation, the refresh
//! token is random and used once. A refresh moves the generation on, so the old pair is dead at once.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    access::{Permit, Role},
    error::{Cause, Result},
    inventory::{Cell, Field, ListRow},
    user::{PasswordHash, User, UserId, Username},
};

mod address;
mod cached;
mod live;
mod usecase;

pub use address::ClientAddress;
pub(crate) use cached::{CachedSessions, SessionCache};
pub(crate) use live::LiveSessions;
pub use usecase::{Login, PasswordChange, Sessions, SignedIn, Tokens};

/// A session's id. Shown; never the cookie's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose.
    pub user_id: UserId,
    /// Grows with each refresh; an access token of another generation is dead.
    pub generation: i64,
    /// From where it was opened.
    pub source_ip: Option<String>,
    /// By which client.
    pub user_agent: Option<String>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    pub last_seen_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
}

/// A session as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionRow {
    /// Its id, never the cookie's value.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: SessionId,
    /// Whose, by name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub user: Username,
    /// From where it was opened.
    pub source_ip: Option<String>,
    /// By which client.
    pub user_agent: Option<String>,
    /// When it was opened.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it was last used.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_seen_at: Timestamp,
    /// When it ends at the latest.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// Whether it is the caller's own.
    pub current: bool,
}

impl ListRow for SessionRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::new("user", |row| Cell::text(row.user.as_str())),
        Field::new("source_ip", |row| Cell::from(&row.source_ip)),
        Field::new("user_agent", |row| Cell::from(&row.user_agent)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("last_seen_at", |row| Cell::from(row.last_seen_at)),
        Field::new("expires_at", |row| Cell::from(row.expires_at)),
        Field::new("current", |row| Cell::from(row.current)),
    ];

    fn name(&self) -> &str {
        self.user.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

/// SHA-256 of a random secret that only its owner knows; all that is stored of a cookie or refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// The hash of a secret. Secrets are random, so no salt is needed.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// A session about to be stored.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Whose.
    pub user_id: UserId,
    /// Of the cookie.
    pub cookie: SecretHash,
    /// Of the first refresh token.
    pub refresh: SecretHash,
    /// From where; the address is known to be the user's from then on ([`LoginThrottle::knows`]).
    pub source_ip: Option<IpAddr>,
    /// By which client.
    pub user_agent: Option<String>,
    /// Now.
    pub at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// What failures of this login would have been counted by. Its count starts over.
    pub counted_by: Option<ThrottleKey>,
}

/// What became of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was unused; the session's generation is now this.
    Rotated(i64),
    /// It was used within the grace period: refused, the session lives on.
    JustUsed,
    /// It was used before: somebody replays it, and the session has ended.
    Replayed,
    /// The session never had such a token: refused, the session lives on.
    Unknown,
}

/// The store of sessions and refresh tokens.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Opens a session, notes the user's login and its address, resets `counted_by`; the audit row in the same transaction.
    /// Only for a user who is enabled and has this password still: it was verified a while ago.
    ///
    /// # Errors
    /// `BadCredentials` when the user is gone, is disabled or has another password; `StoreUnavailable`, as everywhere in
    /// this port.
    async fn open(&self, permit: &Permit, session: SessionRecord, verified: &PasswordHash)
    -> Result<Session>;

    /// The session of a cookie and its user, as long as it has not ended. Expiry is the caller's to judge.
    async fn find(&self, cookie: SecretHash) -> Result<Option<(Session, User)>>;

    /// As [`SessionStore::find`], and never from a cache: for a caller who has proof that the session has changed.
    async fn find_uncached(&self, cookie: SecretHash) -> Result<Option<(Session, User)>> {
        self.find(cookie).await
    }

    /// A session and its user, likewise.
    async fn get(&self, id: SessionId) -> Result<Option<(Session, User)>>;

    /// Notes that a session is used.
    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()>;

    /// Uses a refresh token of the session for `fresh`: atomically, so of many at once one wins. The token used again
    /// after `grace` ends the session. The audit row of a rotation, or of a session's end, is in the same transaction.
    async fn rotate(
        &self,
        permit: &Permit,
        id: SessionId,
        presented: SecretHash,
        fresh: SecretHash,
        at: Timestamp,
        grace: Duration,
    ) -> Result<Rotation>;

    /// Ends a session; its audit row in the same transaction. False, and no row, when there is none.
    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool>;

    /// The sessions of one user, or of all, with their users' names; ended ones are not among them.
    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>>;
}

/// Counts failed logins, in the database, so that a restart or another replica forgets nothing.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait LoginThrottle: Send + Sync {
    /// How long until each of these keys may be tried again; the longest. None when all may be tried now.
    ///
    /// # Errors
    /// `StoreUnavailable`, as everywhere in this port.
    async fn blocked(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<Option<Duration>>;

    /// Whether the user has signed in from this address after `since`. Of each user the [`ThrottleKey::ADDRESSES`] newest
    /// addresses are stored.
    async fn knows(&self, username: &Username, address: &ClientAddress, since: Timestamp) -> Result<bool>;

    /// Counts a failure of each key. From the key's limit on, every further failure within the window doubles the
    /// pause.
    async fn failed(&self, keys: &[ThrottleKey], at: Timestamp) -> Result<()>;

    /// Counts a refused attempt. For the first of its minute, which alone is worth an audit row, how many were refused
    /// since the one before it; none for the others, which cost the database nothing.
    async fn refused(&self, key: &ThrottleKey, at: Timestamp) -> Result<Option<u64>>;
}

/// What failed logins and wrong passwords are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ThrottleKey {
    /// `account:<name>`, `account:<name>@<address>`, `address:<address>` or `session:<id>`.
    pub key: String,
    /// Failures within the window before the pauses begin.
    pub limit: u32,
}

impl ThrottleKey {
    /// The window in which failures count, and the longest pause.
    pub const WINDOW: Duration = Duration::from_secs(15 * 60);
    /// The pause after the failure that reaches the limit; each further failure doubles it.
    pub const FIRST_PAUSE: Duration = Duration::from_secs(30);
    /// How long after a login its address is known to be the user's.
    pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);
    /// How many addresses of one user are known at once. Each is one more budget of guesses, for whoever is there.
    pub const ADDRESSES: u32 = 8;

    /// Of an account, whether it exists or not: for logins from addresses that are not known to be its user's.
    pub fn account(username: &Username) -> Self {
        Self { key: format!("account:{username}"), limit: 5 }
    }

    /// Of an account at an address that is known to be its user's. Failures elsewhere do not count here, so that they
    /// do not keep the user out.
    pub fn account_at(username: &Username, address: &ClientAddress) -> Self {
        Self { key: format!("account:{username}@{}", address.as_str()), limit: 5 }
    }

    /// Of an address.
    pub fn address(address: &ClientAddress) -> Self {
        Self { key: format!("address:{}", address.as_str()), limit: 100 }
    }

    /// Of a session: for wrong old passwords in changes of the password. Nobody without the session can use it up.
    pub fn session(session: SessionId) -> Self {
        Self { key: format!("session:{session}"), limit: 5 }
    }

    /// The pause after this many failures within the window: none below the limit, then 30 s, doubled by each
    /// further failure, 15 minutes at most.
    pub fn pause(&self, failures: u32) -> Option<Duration> {
        let beyond = failures.checked_sub(self.limit)?;
        Some(Self::FIRST_PAUSE.saturating_mul(1 << beyond.min(10)).min(Self::WINDOW))
    }
}

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub user_id: UserId,
    /// The session.
    pub session_id: SessionId,
    /// The session's generation.
    pub generation: i64,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Signs and reads access tokens.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait TokenCodec: Send + Sync {
    /// Signs a token.
    ///
    /// # Errors
    /// `Internal`.
    fn sign(&self, claims: &Claims) -> Result<SecretString>;

    /// Reads a token that this install signed and that has not expired.
    ///
    /// # Errors
    /// The cause of the refusal: `TokenInvalid` or `TokenExpired`.
    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause>;
}

/// How long tokens and sessions are good for. A session ends at whichever of its two ends comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// An access token, from when it is issued; a refresh gives a new one.
    pub access: Duration,
    /// A session, from its last call; each call begins it anew.
    pub idle: Duration,
    /// A session, from its login, whatever it is used for.
    pub absolute: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self { access: minutes(10), idle: minutes(30), absolute: minutes(8 * 60) }
    }
}

/// How long after its use a refresh token's second use is taken for a client's retry: refused, but harmless.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);

/// Who is calling, as far as a role goes: for rows and replies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Identity {
    /// The user's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: UserId,
    /// The user's name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub username: Username,
    /// The name to show.
    pub display_name: String,
    /// The role.
    pub role: Role,
}

impl From<&User> for Identity {
    fn from(user: &User) -> Self {
        Self {
            id: user.id,
            username: user.username.clone(),
            display_name: user.display_name.clone(),
            role: user.role,
        }
    }
}

/// The ports that [`Sessions`] stands on.
#[derive(Clone)]
pub(crate) struct SessionPorts {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) throttle: Arc<dyn LoginThrottle>,
    pub(crate) tokens: Arc<dyn TokenCodec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_never_last_for_ever() {
        let key = ThrottleKey::account(&Username::new("admin").unwrap());
        assert_eq!(key.pause(4), None);
        let pauses: Vec<_> = (5..12).map(|n| key.pause(n).unwrap().as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(key.pause(u32::MAX), Some(ThrottleKey::WINDOW));
    }

    #[test]
    fn no_two_keys_are_one() {
        let (name, address) =
            (Username::new("admin").unwrap(), ClientAddress::of("10.0.0.1".parse().unwrap()));
        let keys = [
            ThrottleKey::account(&name),
            ThrottleKey::account_at(&name, &address),
            ThrottleKey::address(&address),
            ThrottleKey::session(SessionId(1)),
        ];
        assert_eq!(
            keys.clone().map(|key| key.key),
            ["account:admin", "account:admin@10.0.0.1", "address:10.0.0.1", "session:1"]
        );
        assert!(Username::new("admin@10.0.0.1").is_err(), "no name is another's account at an address");
    }
}
