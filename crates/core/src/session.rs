//! Sessions: login and logout, access and refresh tokens, authentication of callers.
//!
//! A session is a row in the database. The cookie identifies it, the signed access token contains its id and
//! generation, and the refresh token is random and single-use. A refresh increments the generation, which invalidates
//! the old token pair immediately.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    access::Permit,
    error::{Cause, Result},
    grant::RightsStamp,
    ids::{SessionId, UserId},
    role::Role,
    rows::{Cell, Field, ListRow},
    user::{PasswordHash, User, Username},
};

mod address;
mod cached;
mod invalidating;
mod live;
mod login_throttle;
mod rights;
mod usecase;

pub use address::ClientAddress;
pub(crate) use cached::CachedSessions;
pub(crate) use invalidating::Invalidating;
pub(crate) use live::LiveSessions;
#[cfg(any(test, feature = "testing"))]
pub use login_throttle::MockLoginThrottle;
pub(crate) use login_throttle::account_key;
pub use login_throttle::{LoginThrottle, ThrottleKey};
pub(crate) use rights::{RightsOf, UserRights};
pub use usecase::{Login, PasswordChange, Sessions, SignedIn, Tokens};

/// A session as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Session id.
    pub id: SessionId,
    /// The user who opened the session.
    pub user_id: UserId,
    /// Incremented by each refresh. An access token of another generation is invalid.
    pub generation: i64,
    /// IP address of the client at the login.
    pub source_ip: Option<String>,
    /// `User-Agent` of the client at the login.
    pub user_agent: Option<String>,
    /// Time of the login.
    pub created_at: Timestamp,
    /// Time of the last use, to the minute.
    pub last_seen_at: Timestamp,
    /// Latest end of the session.
    pub expires_at: Timestamp,
    /// Time of the sign-in at Pilothouse: the enrolment of a second factor requires a recent one. The time of the
    /// authentication at an identity provider does not count.
    pub authenticated_at: Timestamp,
    /// Time at which the user last gave a second factor, to Pilothouse or to a trusted identity provider.
    pub factor_at: Option<Timestamp>,
}

/// A stored session with what every request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSession {
    /// The session.
    pub session: Session,
    /// The user who opened it.
    pub user: User,
    /// Whether the user has a confirmed second factor.
    pub enrolled: bool,
    /// The rights stamp at the time of the read.
    pub rights: RightsStamp,
}

/// A session as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionRow {
    /// Its id, never the cookie's value.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: SessionId,
    /// Name of the user who opened it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub user: Username,
    /// IP address of the client that opened it.
    pub source_ip: Option<String>,
    /// `User-Agent` of the client that opened it.
    pub user_agent: Option<String>,
    /// Time of the login.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Time of its last use.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub last_seen_at: Timestamp,
    /// Time at which it ends unless it is used before; at most `expires_at`.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub idle_expires_at: Timestamp,
    /// Latest time at which it ends.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// Whether it is the session of this request.
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
        Field::new("idle_expires_at", |row| Cell::from(row.idle_expires_at)),
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

/// SHA-256 of a random secret that only its owner has. Cookies and refresh tokens are stored in this form only.
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

/// A session to be stored.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// The user who opens the session.
    pub user_id: UserId,
    /// Hash of the cookie.
    pub cookie: SecretHash,
    /// Hash of the first refresh token.
    pub refresh: SecretHash,
    /// IP address of the client. It becomes a known address of the user ([`LoginThrottle::is_known_address`]).
    pub source_ip: Option<IpAddr>,
    /// `User-Agent` of the client.
    pub user_agent: Option<String>,
    /// Time of the login.
    pub at: Timestamp,
    /// Latest end of the session.
    pub expires_at: Timestamp,
    /// As [`Session::authenticated_at`].
    pub authenticated_at: Timestamp,
    /// Time at which the user gave a second factor.
    pub factor_at: Option<Timestamp>,
    /// The key under which failures of this login are counted. Opening the session resets the count.
    pub throttle_key: Option<ThrottleKey>,
}

/// Who caused a request in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// The user. The request counts as a use of the session and extends it.
    User,
    /// The client alone, for instance by a poll. The session is checked, but not extended.
    Background,
}

/// The holder of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshHolder {
    /// One client, which received the token in the body of a response.
    Client,
    /// A browser, whose tabs share the token as a cookie. Exchanges within the grace period give the same pair.
    Browser {
        /// The generation of the session for which the fresh token was derived. The exchange requires that the session
        /// still has it.
        generation: i64,
    },
}

/// An exchange of a refresh token for another one.
#[derive(Clone, Copy, Debug)]
pub struct RefreshExchange {
    /// The holder of the token.
    pub holder: RefreshHolder,
    /// The token that the client presents.
    pub presented: SecretHash,
    /// The token that replaces it.
    pub fresh: SecretHash,
    /// Time of the exchange.
    pub at: Timestamp,
    /// Time after the use of a token during which a second use counts as a client's retry.
    pub grace: Duration,
    /// Who caused the exchange.
    pub activity: Activity,
}

/// Result of presenting a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The token was unused. Contains the session's new generation.
    Rotated(i64),
    /// A browser's token, and the session's newest token was issued within the grace period. Nothing was changed.
    Repeated {
        /// The session's generation.
        generation: i64,
        /// Time at which the newest token was issued.
        issued_at: Timestamp,
        /// The newest token.
        newest: SecretHash,
    },
    /// The token was used within the grace period. Refused; the session continues. For a browser also: the session has
    /// another generation than the exchange requires.
    JustUsed,
    /// The token was used earlier than the grace period: a replay. The session has ended.
    Replayed,
    /// The token was never issued for this session. Refused; the session continues.
    Unknown,
}

/// Port for the storage of sessions and refresh tokens.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Opens a session, records the user's login and address, and resets `throttle_key`; the audit row is in the same
    /// transaction. Requires that the user is still enabled and still has the password `verified`, because the
    /// verification took place earlier.
    ///
    /// # Errors
    /// `BadCredentials` if the user does not exist, is disabled or has another password; `StoreUnavailable`, as for
    /// every method of this port.
    async fn open(&self, permit: &Permit, session: SessionRecord, verified: &PasswordHash)
    -> Result<Session>;

    /// The session of a cookie, its user and the rights stamp, in one query; `None` if the session has ended. The
    /// caller checks the expiry.
    async fn find(&self, cookie: SecretHash) -> Result<Option<FoundSession>>;

    /// As [`SessionStore::find`], but never from a cache: for a caller with proof that the session has changed.
    async fn find_uncached(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.find(cookie).await
    }

    /// The session with this id, under the same conditions as [`SessionStore::find`].
    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>>;

    /// Records the use of a session.
    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()>;

    /// Sets [`Session::factor_at`], after the user has given a second factor. The audit row is in the same transaction.
    ///
    /// # Errors
    /// `SessionEnded` if there is no such session.
    async fn renew_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()>;

    /// Exchanges a refresh token of the session for another one, and records the use of the session if its user caused
    /// the exchange. Atomic: one of several concurrent calls rotates. A second use of a token after the grace period
    /// ends the session. The audit row of a rotation, or of the end of the session, is in the same transaction. For a
    /// browser nothing is exchanged within the grace period after a rotation ([`Rotation::Repeated`]).
    async fn rotate(&self, permit: &Permit, id: SessionId, exchange: RefreshExchange) -> Result<Rotation>;

    /// Ends a session, and stores its audit row in the same transaction. Returns false, without an audit row, if
    /// there is no such session.
    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool>;

    /// The sessions of one user, or of all users, with user names. Excludes ended sessions.
    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>>;
}

/// Claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub user_id: UserId,
    /// The session.
    pub session_id: SessionId,
    /// The session's generation.
    pub generation: i64,
    /// Time of issue.
    pub issued_at: Timestamp,
    /// Expiry.
    pub expires_at: Timestamp,
}

/// Port that signs and verifies access tokens, and derives the refresh tokens of browsers.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait TokenCodec: Send + Sync {
    /// Signs a token. The same claims give the same token at every replica.
    ///
    /// # Errors
    /// `Internal` if the token cannot be signed.
    fn sign(&self, claims: &Claims) -> Result<SecretString>;

    /// Verifies a token: it must be signed by this installation and not expired.
    ///
    /// # Errors
    /// The cause of the refusal: `TokenInvalid` or `TokenExpired`.
    fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, Cause>;

    /// The refresh token of a browser for a generation of its session: a keyed digest, the same at every replica, which
    /// cannot be computed without the key. `cookie` identifies the session, and is never reused.
    fn refresh_token(&self, cookie: SecretHash, generation: i64) -> SecretString;
}

/// Lifetimes of tokens and sessions. A session ends at the earlier of `idle` and `absolute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Lifetime of an access token, from its issue. A refresh issues a new token.
    pub access: Duration,
    /// Lifetime of a session, from its last request. Each request restarts it, except those in the background.
    pub idle: Duration,
    /// Lifetime of a session, from its login, regardless of its use.
    pub absolute: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self { access: minutes(10), idle: minutes(30), absolute: minutes(8 * 60) }
    }
}

/// Time after the use of a refresh token during which a second use counts as a client's retry: refused, but the
/// session continues. Refreshes of a browser within this time give the same pair of tokens.
pub const REFRESH_GRACE: Duration = Duration::from_secs(10);

/// The user and role of a caller, for rows and responses.
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

/// The ports that [`Sessions`] uses.
#[derive(Clone)]
pub(crate) struct SessionPorts {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) throttle: Arc<dyn LoginThrottle>,
    pub(crate) tokens: Arc<dyn TokenCodec>,
}
