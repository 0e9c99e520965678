//! Storage port of identity providers: bindings, pending sign-ins, people and their groups.

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

/// Maximum number of pending sign-ins at all OpenID providers. A further sign-in replaces the oldest: if it were
/// refused, clients at a few hundred addresses could block all sign-ins.
pub const MAX_PENDING_LOGINS: usize = 10_000;

/// Maximum number of pending sign-ins from one address. A further sign-in replaces the oldest.
pub const MAX_PENDING_LOGINS_OF_ADDRESS: usize = 64;

/// Binding of the id of a provider to its issuer or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The id.
    pub provider: ProviderId,
    /// Kind.
    pub kind: ProviderKind,
    /// The issuer, or the base below which a directory's users are.
    pub authority: String,
}

/// A pending sign-in at an OpenID provider: begun and not ended.
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

/// Additional data of a session that was opened through a provider.
#[derive(Clone, Debug)]
pub struct ProviderSession {
    /// The provider.
    pub provider: ProviderId,
    /// The provider's id of its session.
    pub sid: Option<String>,
    /// The provider's refresh token. Sealed by the adapter.
    pub refresh_token: Option<SecretString>,
    /// Time of the second factor at the provider, if the provider is trusted for second factors.
    pub factor_at: Option<Timestamp>,
}

/// Condition for a live session: it expires after `at` and was used after `used_after`.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// The current time.
    pub at: Timestamp,
    /// The current time minus the idle timeout.
    pub used_after: Timestamp,
}

/// Selection of the confirmations to claim.
#[derive(Clone, Debug)]
pub struct ConfirmationClaim {
    /// The provider.
    pub provider: ProviderId,
    /// Its kind.
    pub kind: ProviderKind,
    /// The last confirmation, and the last claim, is before this time.
    pub before: Timestamp,
    /// Condition for live sessions, and the time of the claim.
    pub live: Liveness,
    /// Maximum number.
    pub limit: usize,
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
    /// Time of the last confirmation of the user, read with the claim.
    pub confirmed_at: Option<Timestamp>,
}

/// A logout token, which is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutToken {
    /// Hash of its id.
    pub jti: SecretHash,
    /// Time after which it would be refused in any case.
    pub valid_until: Timestamp,
}

/// Sessions that a provider has ended. With `sid` and `subject`, those that match both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedSessions {
    /// One session.
    One(SessionId),
    /// All sessions of a user.
    OfUser(UserId),
    /// Sessions that a logout token of the provider names.
    Named {
        /// The provider.
        provider: ProviderId,
        /// The person.
        subject: Option<String>,
        /// The provider's session.
        sid: Option<String>,
        /// The logout token.
        token: LogoutToken,
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
    /// provider, state and browser, or it has expired. One of several concurrent calls returns it. A wrong browser
    /// removes nothing.
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

    /// Claims confirmations of a provider, the oldest first. For an OpenID provider: each live session with a refresh
    /// token. For a directory: each user with a live session or a valid API token. Each is returned to one of the
    /// replicas that call at the same time. A claim later than the current time, made before the clock was set back,
    /// counts as old.
    async fn claim_due(&self, claim: ConfirmationClaim) -> Result<Vec<DueConfirmation>>;

    /// Releases claimed confirmations, and sets the time of their last claim to `visited_at`.
    async fn release(&self, due: &[DueConfirmation], visited_at: Timestamp) -> Result<()>;

    /// Stores that a person is confirmed at this time: groups, display name, and the refresh token that replaces the
    /// session's. Nothing happens if, since the claim, the user was deleted, the session has ended, the person has lost
    /// the confirmation or, without a session, was confirmed by another sign-in or claim.
    async fn confirm(
        &self,
        due: &DueConfirmation,
        person: &Person,
        refresh_token: Option<SecretString>,
        at: Timestamp,
    ) -> Result<()>;

    /// Ends sessions that their provider has ended, and returns their number; `None`, without a change, if the logout
    /// token was used before. One of several concurrent calls uses it.
    ///
    /// A person without a live session afterwards loses all groups and the confirmation, so that API tokens stop too.
    /// This applies to the user of [`EndedSessions::OfUser`], to the user of a session that ended, and to the person
    /// whom a logout token names without `sid`. It does not apply if no session with the `sid` is stored: then the user
    /// has ended that session in Pilothouse.
    ///
    /// The permit's audit row is stored if a session ended or a person lost the confirmation, in the same transaction.
    async fn withdraw(&self, permit: &Permit, ended: EndedSessions, live: Liveness) -> Result<Option<usize>>;

    /// Time of the last confirmation of a user of a provider; `None` for a local user, and for a user who has lost the
    /// confirmation.
    async fn confirmed_at(&self, user: UserId) -> Result<Option<Timestamp>>;
}
