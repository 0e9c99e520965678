//! Port for what is stored of identity providers: bindings, sign-ins that have begun, people and their groups.

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;

use super::{Person, ProviderKind};
use crate::{
    access::Permit,
    error::Result,
    ids::{SessionId, UserId},
    name::ProviderId,
    session::{ClientAddress, SecretHash, Session, SessionRecord},
    user::{User, Username},
};

/// Maximum number of sign-ins at all OpenID providers that have begun and not ended. A further one replaces the oldest:
/// if it were refused, clients at a few hundred addresses could keep everybody from signing in.
pub const MAX_PENDING_LOGINS: usize = 10_000;

/// Maximum number of such sign-ins from one address. A further one replaces the oldest.
pub const MAX_PENDING_LOGINS_OF_ADDRESS: usize = 64;

/// What the id of a provider stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The id.
    pub provider: ProviderId,
    /// Kind.
    pub kind: ProviderKind,
    /// The issuer, or the base below which a directory's users are.
    pub authority: String,
}

/// A sign-in at an OpenID provider that has begun.
#[derive(Clone, Debug)]
pub struct PendingLogin {
    /// The provider.
    pub provider: ProviderId,
    /// Hash of the state.
    pub state: SecretHash,
    /// Hash of the browser's cookie.
    pub browser: SecretHash,
    /// Path of the console to which the browser returns.
    pub to: String,
    /// Address of the browser.
    pub address: Option<ClientAddress>,
    /// Time of the start.
    pub at: Timestamp,
    /// Latest end.
    pub expires_at: Timestamp,
}

/// A person to be admitted as a user.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The provider.
    pub provider: ProviderId,
    /// The person.
    pub person: Person,
    /// Name of a new user.
    pub username: Username,
    /// Name of a new user if another user has the first one.
    pub other_username: Username,
    /// Time of the sign-in.
    pub at: Timestamp,
}

/// What a session has besides, if a provider has opened it.
#[derive(Clone, Debug)]
pub struct ProviderSession {
    /// The provider.
    pub provider: ProviderId,
    /// The provider's id of its session.
    pub sid: Option<String>,
    /// The provider's refresh token. Sealed by the adapter.
    pub refresh_token: Option<SecretString>,
    /// When the person gave a second factor at a provider that is trusted with it.
    pub factor_at: Option<Timestamp>,
}

/// A person whose groups are to be read again.
#[derive(Clone, Debug)]
pub struct DueConfirmation {
    /// The user.
    pub user_id: UserId,
    /// Name of the user.
    pub username: Username,
    /// The provider.
    pub provider: ProviderId,
    /// The provider's id of the person.
    pub subject: String,
    /// The session to which the refresh token belongs. `None` for a person of a directory.
    pub session: Option<SessionId>,
    /// The provider's refresh token.
    pub refresh_token: Option<SecretString>,
}

/// Sessions that a provider has ended. With `sid` and `subject`, those that match both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedSessions {
    /// One session.
    One(SessionId),
    /// All sessions of a user.
    OfUser(UserId),
    /// Sessions by what the provider calls them.
    Named {
        /// The provider.
        provider: ProviderId,
        /// The person.
        subject: Option<String>,
        /// The provider's session.
        sid: Option<String>,
    },
}

/// Storage of identity providers. Changes of a person's groups replace the rights stamp in the same transaction.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait FederationStore: Send + Sync {
    /// Binds a provider's id, for ever. Returns false if the id is bound to something else.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn bind(&self, binding: &Binding) -> Result<bool>;

    /// Stores the beginning of a sign-in, and removes those that have expired, and the oldest ones beyond
    /// [`MAX_PENDING_LOGINS`] and [`MAX_PENDING_LOGINS_OF_ADDRESS`].
    async fn begin(&self, login: PendingLogin) -> Result<()>;

    /// Ends a sign-in that has begun: removes it and returns its path of the console. `None` if there is none with this
    /// provider, state and browser, or it has expired. One of several concurrent calls gets it. A wrong browser removes
    /// nothing.
    async fn take(
        &self,
        provider: &ProviderId,
        state: SecretHash,
        browser: SecretHash,
        at: Timestamp,
    ) -> Result<Option<String>>;

    /// The user of a person. Creates the user, of role `none` and without a password, if provider and subject are new;
    /// the permit's audit row is stored only then. Otherwise updates the display name. Replaces the person's groups and
    /// records that they are confirmed. Safe to call from several replicas concurrently.
    async fn admit(&self, permit: &Permit, admission: Admission) -> Result<User>;

    /// The user of a person; `None` if provider and subject are new.
    async fn user_of(&self, provider: &ProviderId, subject: &str) -> Result<Option<User>>;

    /// Opens a session, as [`crate::session::SessionStore::open`], for a user of a provider.
    ///
    /// # Errors
    /// `BadCredentials` if the user does not exist, is disabled, or is not of this provider.
    async fn open(&self, permit: &Permit, session: SessionRecord, origin: ProviderSession)
    -> Result<Session>;

    /// The provider that opened a session; `None` for a local one, or one that has ended.
    async fn provider_of(&self, session: SessionId) -> Result<Option<ProviderId>>;

    /// Claims up to `limit` confirmations whose last one, and last claim, is before `before`, the oldest first. For an
    /// OpenID provider: each live session with a refresh token. For a directory: each user with a live session or a
    /// valid API token. Each is returned to one of the replicas that call at the same time. A claim later than `at`,
    /// made before the clock was set back, counts as old.
    async fn claim_due(&self, before: Timestamp, at: Timestamp, limit: usize)
    -> Result<Vec<DueConfirmation>>;

    /// Stores that a person is confirmed at this time: groups, display name, and the refresh token that replaces the
    /// session's. Nothing happens if the user was deleted meanwhile; the session may have ended.
    async fn confirm(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()>;

    /// Ends sessions because their provider did, and returns their number. A person who then has no live session of the
    /// provider loses all groups and is not confirmed any more, so that API tokens stop too. The permit's audit row is
    /// stored if a session ended or a person lost the confirmation, in the same transaction.
    async fn withdraw(&self, permit: &Permit, ended: EndedSessions, at: Timestamp) -> Result<usize>;

    /// Records the use of a logout token until a time. Returns false if it was used before. One of several concurrent
    /// calls gets true.
    async fn first_use(&self, provider: &ProviderId, jti: SecretHash, until: Timestamp) -> Result<bool>;

    /// When a user of a provider was last confirmed; `None` for a local user, or one who is not confirmed any more.
    async fn confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>>;
}
