//! Users: names, passwords and roles, the user registry port, and the use cases for user management.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::{
    access::Permit,
    error::{Reason, Result},
    hex::Hex,
    ids::{SessionId, UserId},
    name::{MAX_NORMALISED_BYTES, ProviderId},
    rng::Rng,
    role::Role,
    rows::{Cell, Field, Filter, ListRow},
};

mod usecase;

pub use usecase::Users;

/// A user's name: of a local user trimmed, NFKC, case-folded, then 3 to 64 characters of `[a-z0-9._-]`; of a user of an
/// identity provider `<provider>:<name>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(String);

impl Username {
    /// Normalises and checks a name. Logins use the same normalisation, so that no spelling of a name has its own
    /// throttle counter.
    ///
    /// # Errors
    /// [`Reason::Required`], [`Reason::TooShort`], [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        let text = text.trim();
        if text.len() > MAX_NORMALISED_BYTES {
            return Err(Reason::TooLong);
        }
        let folded: String = text.nfkc().collect::<String>().to_lowercase();
        match folded.len() {
            0 => Err(Reason::Required),
            _ if !folded
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)) =>
            {
                Err(Reason::Malformed)
            }
            1..=2 => Err(Reason::TooShort),
            3..=64 => Ok(Self(folded)),
            _ => Err(Reason::TooLong),
        }
    }

    /// Name of a user of an identity provider: `<provider>:<name>`. Never equal to a local name, which has no colon. The
    /// name is normalised as a local one; other characters than `[a-z0-9._@-]` become `_`, and 128 characters stay.
    pub fn federated(provider: &ProviderId, name: &str) -> Self {
        Self(format!("{provider}:{}", usable_name(name, MAX_FEDERATED_CHARS)))
    }

    /// Name of a second person with the same name at the provider: as [`Username::federated`], with a suffix. The end
    /// of a long name is cut off for the suffix.
    pub(crate) fn namesake(provider: &ProviderId, name: &str, suffix: Hex<4>) -> Self {
        let suffix = format!("-{suffix}");
        let name = usable_name(name, MAX_FEDERATED_CHARS - suffix.len());
        Self(format!("{provider}:{name}{suffix}"))
    }

    /// Reads a stored name, local or of a provider.
    ///
    /// # Errors
    /// As [`Username::new`] for a local name; [`Reason::Malformed`].
    pub fn stored(text: &str) -> Result<Self, Reason> {
        let Some((provider, name)) = text.split_once(':') else { return Self::new(text) };
        let read = Self::federated(&ProviderId::new(provider)?, name);
        if read.0 == text { Ok(read) } else { Err(Reason::Malformed) }
    }

    /// Whether the user is a user of an identity provider.
    pub fn is_federated(&self) -> bool {
        self.0.contains(':')
    }

    /// Name of the user that the first start creates.
    pub fn first_admin() -> Self {
        Self("admin".to_owned())
    }

    /// The normalised name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Maximum length of the part of a federated user's name that the provider gives.
const MAX_FEDERATED_CHARS: usize = 128;

/// The first `max` characters of a person's name at a provider, normalised for a username.
fn usable_name(name: &str, max: usize) -> String {
    let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._@-".contains(c);
    let folded = name.trim().nfkc().collect::<String>().to_lowercase();
    folded.chars().take(max).map(|c| if usable(c) { c } else { '_' }).collect()
}

impl TryFrom<String> for Username {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(&text)
    }
}

impl From<Username> for String {
    fn from(name: Username) -> Self {
        name.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A password to be set: 12 to 128 characters after NFKC. Never displayed.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "SecretString")]
pub struct NewPassword(SecretString);

impl NewPassword {
    /// Normalises and checks a password.
    ///
    /// # Errors
    /// [`Reason::TooShort`], [`Reason::TooLong`].
    pub fn new(password: &SecretString) -> Result<Self, Reason> {
        if password.expose_secret().len() > MAX_NORMALISED_BYTES {
            return Err(Reason::TooLong);
        }
        let password = normalise(password);
        match password.expose_secret().chars().count() {
            0..=11 => Err(Reason::TooShort),
            12..=128 => Ok(Self(password)),
            _ => Err(Reason::TooLong),
        }
    }

    /// A random password: 24 characters of 6 bits each, without characters that are easily confused.
    pub fn random(rng: &dyn Rng) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789-_+=.:@";
        let mut bytes = [0; 24];
        rng.fill(&mut bytes);
        Self(bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 63)])).collect::<String>().into())
    }

    /// The normalised password, for hashing, or to return a random password to the caller.
    pub fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl TryFrom<SecretString> for NewPassword {
    type Error = Reason;
    fn try_from(password: SecretString) -> Result<Self, Reason> {
        Self::new(&password)
    }
}

/// Normalises a password to NFKC, so that the same characters entered on another keyboard are the same password.
pub(crate) fn normalise(password: &SecretString) -> SecretString {
    password.expose_secret().nfkc().collect::<String>().into()
}

/// Hash of a password as a PHC string. The `Debug` output omits the hash.
#[derive(Clone)]
pub struct PasswordHash(SecretString);

impl PasswordHash {
    /// Creates a hash from a PHC string of the hasher or the store.
    pub fn new(phc: String) -> Self {
        Self(phc.into())
    }

    /// The PHC string, for the hasher and the store only.
    pub fn phc(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// A user as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct User {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: UserId,
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub username: Username,
    /// Display name.
    pub display_name: String,
    /// Its role.
    pub role: Role,
    /// Whether the user is barred from logging in.
    pub disabled: bool,
    /// Time of creation.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Time of the last login; null before the first.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_login_at: Option<Timestamp>,
}

impl ListRow for User {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::new("username", |row| Cell::text(row.username.as_str())),
        Field::new("display_name", |row| Cell::text(&*row.display_name)),
        Field::filtered("role", Filter::OneOf(&["none", "viewer", "ops_admin", "super_admin"]), |row| {
            Cell::text(row.role.as_str())
        }),
        Field::filtered("disabled", Filter::OneOf(&["true", "false"]), |row| Cell::from(row.disabled)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("last_login_at", |row| Cell::from(row.last_login_at)),
    ];

    fn name(&self) -> &str {
        self.username.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

/// A user to be created.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// Username.
    pub username: Username,
    /// Password.
    pub password: NewPassword,
    /// Role.
    pub role: Role,
    /// Display name; the username if `None`.
    pub display_name: Option<String>,
}

/// A user to be stored.
#[derive(Clone, Debug)]
pub struct UserRecord {
    /// Username.
    pub username: Username,
    /// Hash of the password.
    pub password: PasswordHash,
    /// Role, valid in all clusters and namespaces.
    pub role: Role,
    /// Display name.
    pub display_name: String,
    /// Time of creation.
    pub at: Timestamp,
}

/// A change of a user. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPatch {
    /// A new role.
    pub role: Option<Role>,
    /// A new display name.
    pub display_name: Option<String>,
    /// A new disabled state.
    pub disabled: Option<bool>,
}

/// The author of a password change.
#[derive(Clone, Debug)]
pub enum SetBy {
    /// An administrator, without proof of the old password.
    Administrator,
    /// The user, in a session and with the old password.
    Owner {
        /// The session of the request.
        session: SessionId,
        /// The hash that the old password was verified against. It may be out of date, because verifying and hashing
        /// take time.
        verified: PasswordHash,
    },
}

/// User registry port. Every change commits its audit row in the same transaction, and ends sessions where
/// documented.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait UserRegistry: Send + Sync {
    /// All users.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self) -> Result<Vec<User>>;

    /// A user by name, with the hash of the password. `None` for a user of an identity provider, who has none.
    async fn credentials(&self, username: &Username) -> Result<Option<(User, PasswordHash)>>;

    /// Creates a user.
    ///
    /// # Errors
    /// `NameTaken`.
    async fn create(&self, permit: &Permit, user: UserRecord) -> Result<User>;

    /// Creates the first user. `None`, without an audit row, if a user exists. Safe to call from several replicas
    /// concurrently.
    async fn create_first(&self, permit: &Permit, user: UserRecord) -> Result<Option<User>>;

    /// Changes a user. Disabling the user or changing the role ends the user's sessions.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperAdmin`.
    async fn update(&self, permit: &Permit, id: UserId, patch: UserPatch, at: Timestamp) -> Result<User>;

    /// Deletes a user, ends the user's sessions, revokes the user's tokens, and leaves the user's service accounts without an
    /// owner.
    ///
    /// # Errors
    /// `NotFound`, `LastSuperAdmin`.
    async fn delete(&self, permit: &Permit, id: UserId) -> Result<()>;

    /// Sets a password and ends the user's sessions, except the session of an owner's change. A change by an administrator
    /// also revokes the user's tokens.
    ///
    /// # Errors
    /// For an administrator: `NotFound`. For an owner: `SessionEnded` if the session or the user does not exist any
    /// more, or if the password was changed since it was verified; that change remains in effect.
    async fn set_password(
        &self,
        permit: &Permit,
        id: UserId,
        password: PasswordHash,
        by: SetBy,
        at: Timestamp,
    ) -> Result<()>;
}

/// Password hasher port. Hashes are computed on a bounded pool: logins beyond its capacity are queued or refused, and
/// do not slow other requests.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PasswordHasher: Send + Sync {
    /// Hashes a password.
    ///
    /// # Errors
    /// `Overloaded` if too many requests wait.
    async fn hash(&self, password: &SecretString) -> Result<PasswordHash>;

    /// Whether the password matches the hash. Without a hash the result is false, after the same computing time.
    ///
    /// # Errors
    /// `Overloaded` if too many requests wait.
    async fn verify<'a>(&self, password: &SecretString, hash: Option<&'a PasswordHash>) -> Result<bool>;
}

/// Port that delivers the first admin's random password to the operator.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait InitialPassword: Send + Sync {
    /// Publishes the password: on a terminal, else in a file that only the operator can read. Durable when this
    /// returns.
    ///
    /// # Errors
    /// `Internal` if the password cannot be published.
    fn publish(&self, password: &SecretString) -> Result<()>;

    /// Removes the published password, because it was changed or its user was not created.
    fn remove(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames_are_normalised_and_limited() {
        for variant in ["admin", " Admin ", "ＡＤＭＩＮ", "ADMIN\t"] {
            assert_eq!(Username::new(variant).as_ref().map(Username::as_str), Ok("admin"), "{variant:?}");
        }
        let cases = [
            ("", Reason::Required),
            ("ab", Reason::TooShort),
            ("a b c", Reason::Malformed),
            ("adm\u{200b}in", Reason::Malformed),
            ("аdmin", Reason::Malformed), // a Cyrillic а
        ];
        for (text, reason) in cases {
            assert_eq!(Username::new(text), Err(reason), "{text:?}");
        }
        assert_eq!(Username::new(&"a".repeat(65)), Err(Reason::TooLong));
    }

    #[test]
    fn federated_names_are_never_local_and_are_read_back() {
        let corp = ProviderId::new("corp").unwrap();
        let cases = [
            ("Mei", "corp:mei"),
            (" mei@Example.COM ", "corp:mei@example.com"),
            ("CORP\\mei", "corp:corp_mei"),
            ("mei:admin", "corp:mei_admin"),
            ("梅", "corp:_"),
            ("", "corp:"),
        ];
        for (name, shown) in cases {
            let federated = Username::federated(&corp, name);
            assert_eq!(federated.as_str(), shown);
            assert!(federated.is_federated());
            assert!(Username::new(federated.as_str()).is_err(), "{shown} is no local name");
            assert_eq!(Username::stored(shown), Ok(federated));
        }
        assert_eq!(Username::stored("admin"), Username::new("admin"));
        assert_eq!(Username::stored("corp:Mei"), Err(Reason::Malformed));
        assert_eq!(Username::stored("Corp:mei"), Err(Reason::Malformed));
        assert!(!Username::first_admin().is_federated());
        let long = "a".repeat(200);
        let other = Username::namesake(&corp, &long, Hex([0xab; 4]));
        for name in [&Username::federated(&corp, &long), &other] {
            assert_eq!(name.as_str().len(), "corp:".len() + 128);
        }
        assert!(other.as_str().ends_with("a-abababab"), "{other}");
        assert_eq!(Username::stored(other.as_str()), Ok(other));
    }

    #[test]
    fn passwords_have_12_to_128_characters() {
        let check = |text: &str| NewPassword::new(&SecretString::from(text)).map(drop);
        assert_eq!(check(&"密".repeat(12)), Ok(()));
        assert_eq!(check(&"a".repeat(11)), Err(Reason::TooShort));
        assert_eq!(check(&"a".repeat(129)), Err(Reason::TooLong));
        assert!(
            !format!("{:?}", NewPassword::new(&SecretString::from("canary-canary")).unwrap())
                .contains("canary")
        );
    }
}
