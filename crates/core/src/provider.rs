//! Identity providers: people who sign in through OpenID Connect or an LDAP directory instead of a local password.
//!
//! A person is identified by provider and subject, never by a name or an address. The first sign-in creates a user of
//! role `none`, named `<provider>:<name>`; grants to the groups of the provider give rights. Groups are read again
//! while a session lasts ([`Federation::confirm_due`]).

use std::{collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;

use crate::{
    error::{Cause, Error, Result},
    name::{ProviderId, is_invisible},
    rights::Subject,
};

mod confirm;
mod invalidating;
mod ldap_login;
mod oidc_login;
mod refusal;
mod store;
mod usecase;

pub use confirm::{CONFIRMATION_INTERVAL, CONFIRMATION_LIFETIME};
pub use ldap_login::LdapLogin;
pub use oidc_login::{OidcFinish, OidcFinished, OidcStarted};
#[cfg(any(test, feature = "testing"))]
pub use store::MockFederationStore;
pub use store::{
    Admission, Binding, ConfirmationClaim, DueConfirmation, EndedSessions, FederationStore, Liveness,
    LogoutToken, MAX_PENDING_LOGINS, MAX_PENDING_LOGINS_OF_ADDRESS, PendingLogin, ProviderSession,
};
pub use usecase::{Federation, SESSION_WITHOUT_REFRESH};

/// Kind of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// A directory: the password is entered here.
    Ldap,
    /// OpenID Connect: the browser is sent to the provider.
    Oidc,
}

impl ProviderKind {
    /// The value in responses and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ldap => "ldap",
            Self::Oidc => "oidc",
        }
    }
}

/// A provider in the list of ways to sign in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProviderRow {
    /// Id; `local` for users with a password of Pilothouse.
    pub id: String,
    /// `local`, `ldap` or `oidc`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: &'static str,
    /// Label of the button.
    pub label: String,
    /// Where the browser goes to sign in; null where a name and a password are entered here.
    pub start_url: Option<String>,
}

/// A person whom a provider has authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    subject: String,
    name: String,
    display_name: String,
    groups: BTreeSet<String>,
}

impl Person {
    /// Maximum length of a subject in bytes.
    pub const MAX_SUBJECT_BYTES: usize = 255;
    /// Maximum number of groups.
    pub const MAX_GROUPS: usize = 1000;

    /// Creates a person from the data of the provider. `name` is the username at the provider, `display_name` the name
    /// to display.
    ///
    /// # Errors
    /// `SignInRejected` if the subject or the name is empty or too long or has control characters; `GroupsMissing` if
    /// there are more than [`Person::MAX_GROUPS`] groups or one of them has no name or a name that is too long: rights
    /// from incomplete groups would be wrong.
    pub fn new(
        subject: impl Into<String>,
        name: impl Into<String>,
        display_name: Option<String>,
        groups: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let (subject, name) = (subject.into(), name.into());
        let is_usable = |text: &str| {
            !text.is_empty() && text.len() <= Self::MAX_SUBJECT_BYTES && !text.contains(char::is_control)
        };
        if !is_usable(&subject) || !is_usable(&name) {
            return Err(Error::new(Cause::SignInRejected));
        }
        // one group beyond the maximum is enough to refuse
        let groups: BTreeSet<_> = groups.into_iter().take(Self::MAX_GROUPS + 1).collect();
        if groups.len() > Self::MAX_GROUPS
            || groups.iter().any(|group| group.is_empty() || group.len() > Subject::MAX_BYTES)
        {
            return Err(Error::new(Cause::GroupsMissing));
        }
        // same rule as for local users: a display name must not look like the name of another user
        let shown = |name: &str| {
            name.chars().filter(|c| !c.is_control() && !is_invisible(*c)).take(128).collect::<String>()
        };
        let display_name = display_name
            .map(|name| shown(&name))
            .filter(|name| !name.trim().is_empty())
            .unwrap_or_else(|| shown(&name));
        Ok(Self { subject, name, display_name, groups })
    }

    /// The provider's id of the person, which never changes.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The username at the provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name to display.
    pub fn display_name(&self) -> &str {
        &self.display_name
    }

    /// Names of the person's groups.
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }
}

/// Result of the check of a name and a password by a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordCheck {
    /// The person with this name and password.
    Right(Person),
    /// There is no such person, or several, or the person is disabled, or the password is wrong or empty. The response
    /// to the client does not distinguish these cases.
    Wrong {
        /// The name of the entry, if exactly one was found. Wrong passwords are counted under it.
        name: Option<String>,
    },
}

/// Port to one LDAP directory.
///
/// Every method: `ProviderUnavailable` if the directory does not answer, refuses the search account, or sends an answer
/// that is not valid LDAP.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Directory: Send + Sync {
    /// The person with this name and password: a search, then one bind as the entry that was found. An empty password
    /// is never sent.
    ///
    /// # Errors
    /// As every method; `GroupsMissing` if the groups cannot be read as a whole; `Overloaded` if too many requests to
    /// the directory wait for an answer.
    async fn sign_in(&self, username: &str, password: &SecretString) -> Result<PasswordCheck>;

    /// The person with this subject, as of now. `None` if the directory has no such person any more, or the person is
    /// disabled there.
    ///
    /// # Errors
    /// As [`Directory::sign_in`].
    async fn find(&self, subject: &str) -> Result<Option<Person>>;

    /// Reads the directory as the search account, for a check of the settings.
    ///
    /// # Errors
    /// `ProviderUnavailable` with the reason as message.
    async fn check(&self) -> Result<()>;
}

/// Parameters of an authorization request to an OpenID provider.
#[derive(Clone, Debug)]
pub struct AuthorizationRequest {
    /// Value that the answer must contain. Bound to one browser.
    pub state: String,
    /// Value that the ID token must contain.
    pub nonce: String,
    /// The PKCE verifier. The request contains its SHA-256.
    pub verifier: SecretString,
}

/// The answer of an OpenID provider, as returned by the browser, with the values of the request.
#[derive(Clone, Debug)]
pub struct AuthorizationAnswer {
    /// The authorization code, which can be exchanged once.
    pub code: SecretString,
    /// The issuer that the answer names (RFC 9207).
    pub issuer: Option<String>,
    /// The nonce that the ID token must have.
    pub nonce: String,
    /// The PKCE verifier.
    pub verifier: SecretString,
}

/// A sign-in at an OpenID provider.
#[derive(Clone, Debug)]
pub struct OidcSignIn {
    /// The person who signed in.
    pub person: Person,
    /// Time of the authentication at the provider (`auth_time`), if the provider reports it.
    pub authenticated_at: Option<Timestamp>,
    /// The provider's id of its session (`sid`), which a logout token can name.
    pub sid: Option<String>,
    /// Refresh token of the provider, with which the person's groups are read again.
    pub refresh_token: Option<SecretString>,
}

/// A person read again with a refresh token.
#[derive(Clone, Debug)]
pub struct OidcRenewal {
    /// The person as of now.
    pub person: Person,
    /// The refresh token that replaces the one that was used; `None` if that stays valid.
    pub refresh_token: Option<SecretString>,
}

/// Claims of a verified logout token: the sessions that an OpenID provider has ended. `subject` or `sid` is set, or
/// both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogoutNotice {
    /// Id of the token, which is used once.
    pub jti: String,
    /// Time after which the token would be refused in any case.
    pub valid_until: Timestamp,
    /// The person.
    pub subject: Option<String>,
    /// The provider's id of its session.
    pub sid: Option<String>,
}

/// Port to one OpenID provider.
///
/// Every method: `ProviderUnavailable` if the provider cannot be reached, fails, or publishes no usable configuration
/// or keys.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait OpenIdProvider: Send + Sync {
    /// The address to which a browser goes to sign in.
    ///
    /// # Errors
    /// As every method.
    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<String>;

    /// Exchanges a code and verifies the ID token.
    ///
    /// # Errors
    /// As every method; `SignInRejected` if the provider refuses the code or its answer does not verify;
    /// `GroupsMissing` if the answer does not have all groups of the person.
    async fn redeem(&self, answer: &AuthorizationAnswer) -> Result<OidcSignIn>;

    /// Reads a person again. `None` if the provider refuses the person or the refresh token, or answers with another
    /// person.
    ///
    /// # Errors
    /// As [`OpenIdProvider::redeem`].
    async fn renew(&self, subject: &str, refresh_token: &SecretString) -> Result<Option<OidcRenewal>>;

    /// Verifies a logout token of a back-channel logout. The method does not check whether the token was used before.
    ///
    /// # Errors
    /// As every method; `SignInRejected` if it does not verify.
    async fn verify_logout(&self, logout_token: &str) -> Result<LogoutNotice>;

    /// The address to which a browser goes to end the session at the provider; `None` if the provider has none.
    ///
    /// # Errors
    /// As every method.
    async fn end_session_url(&self) -> Result<Option<String>>;

    /// Reads configuration and keys, for a check of the settings.
    ///
    /// # Errors
    /// `ProviderUnavailable` with the reason as message.
    async fn check(&self) -> Result<()>;
}

/// The port to a provider, by its kind.
#[derive(Clone)]
pub enum ProviderPort {
    /// A directory.
    Ldap(Arc<dyn Directory>),
    /// An OpenID provider.
    Oidc(Arc<dyn OpenIdProvider>),
}

/// A configured provider.
#[derive(Clone)]
pub struct Provider {
    /// Id.
    pub id: ProviderId,
    /// Label of the button.
    pub label: String,
    /// Whether a sign-in there counts as a second factor.
    pub trusts_second_factor: bool,
    /// The port.
    pub port: ProviderPort,
}

impl Provider {
    /// Kind.
    pub fn kind(&self) -> ProviderKind {
        match self.port {
            ProviderPort::Ldap(_) => ProviderKind::Ldap,
            ProviderPort::Oidc(_) => ProviderKind::Oidc,
        }
    }

    /// The row in the list of ways to sign in.
    pub fn row(&self) -> ProviderRow {
        let start_url = match self.kind() {
            ProviderKind::Ldap => None,
            ProviderKind::Oidc => Some(format!("/api/auth/oidc/{}/start", self.id)),
        };
        ProviderRow {
            id: self.id.to_string(),
            kind: self.kind().as_str(),
            label: self.label.clone(),
            start_url,
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("id", &self.id).field("kind", &self.kind()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_needs_a_subject_and_a_complete_list_of_groups() {
        let person = |subject: &str, groups: Vec<String>| {
            Person::new(subject, "mei", None, groups).map(drop).map_err(|error| error.cause)
        };
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(person("1", names(Person::MAX_GROUPS)), Ok(()));
        assert_eq!(person("1", names(Person::MAX_GROUPS + 1)), Err(Cause::GroupsMissing));
        assert_eq!(person("1", vec![String::new()]), Err(Cause::GroupsMissing));
        assert_eq!(person("1", vec!["g".repeat(257)]), Err(Cause::GroupsMissing));
        for subject in [String::new(), "s".repeat(256), "a\u{0}b".to_owned()] {
            assert_eq!(person(&subject, Vec::new()), Err(Cause::SignInRejected), "{subject:?}");
        }
    }

    #[test]
    fn display_name_falls_back_to_the_name() {
        let shown = |display_name: Option<&str>| {
            let person = Person::new("1", "mei", display_name.map(str::to_owned), []).unwrap();
            person.display_name().to_owned()
        };
        assert_eq!(shown(None), "mei");
        assert_eq!(shown(Some(" \n ")), "mei");
        assert_eq!(shown(Some("Mei\u{1b} 梅")), "Mei 梅");
        assert_eq!(shown(Some("\u{202e}M\u{200b}ei\u{feff}")), "Mei");
        assert_eq!(shown(Some("\u{200b}\u{2066}")), "mei");
    }
}
