//! API tokens: credentials of users for their programs, and of service accounts. A token is a ceiling over the rights
//! that its owner has at the moment of each request; it gives no right of its own.

use std::net::IpAddr;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::{Permit, Principal},
    error::Result,
    grant::RightsStamp,
    ids::{TokenId, UserId},
    provider::CONFIRMATION_LIFETIME,
    rights::Ceiling,
    role::Role,
    rows::{Cell, Field, ListRow},
    service_account::ServiceAccount,
    session::SecretHash,
    user::{User, Username},
};

mod cached;
mod live;
mod networks;
mod secret;
mod usecase;

pub(crate) use cached::CachedTokens;
pub(crate) use live::LiveTokens;
pub use networks::Networks;
pub use secret::{TokenKind, TokenSecret};
pub use usecase::{CreatedToken, NewToken, TokenSignedIn, Tokens};

/// An API token as stored. The secret is not part of it: the store has its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// Id.
    pub id: TokenId,
    /// Name, chosen by the person who made it. Not unique.
    pub name: String,
    /// First characters of the secret, by which its owner recognises it ([`TokenSecret::prefix`]).
    pub prefix: String,
    /// The user or service account whose rights the token has.
    pub owner: Principal,
    /// Ceiling to which the rights are cut.
    pub ceiling: Ceiling,
    /// The networks from which it is accepted.
    pub networks: Networks,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Expiry. At this time and later the token is not accepted.
    pub expires_at: Timestamp,
    /// Time of the last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Address of that use.
    pub last_used_ip: Option<IpAddr>,
    /// Time of the revocation.
    pub revoked_at: Option<Timestamp>,
}

impl ApiToken {
    /// Maximum number of live tokens of a user or of a service account.
    pub const MAX_LIVE: usize = 50;

    /// Whether the token is neither revoked nor expired. Such tokens count against [`ApiToken::MAX_LIVE`].
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }
}

/// A token to be stored.
#[derive(Clone, Debug)]
pub struct TokenRecord {
    /// Name.
    pub name: String,
    /// Hash of the secret.
    pub secret: SecretHash,
    /// First characters of the secret.
    pub prefix: String,
    /// Owner.
    pub owner: Principal,
    /// Ceiling.
    pub ceiling: Ceiling,
    /// Networks.
    pub networks: Networks,
    /// Expiry.
    pub expires_at: Timestamp,
}

/// The owner of a token, with the state that decides whether the token is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundOwner {
    /// A user.
    User(User),
    /// A service account.
    ServiceAccount {
        /// The account.
        account: ServiceAccount,
        /// Whether the user who owns the account exists and is not disabled.
        owner_enabled: bool,
    },
}

impl FoundOwner {
    /// Whether tokens of this owner are accepted.
    pub fn is_enabled(&self) -> bool {
        match self {
            Self::User(user) => !user.disabled,
            Self::ServiceAccount { owner_enabled, .. } => *owner_enabled,
        }
    }

    /// Whether the user who owns the token or the service account is a user of an identity provider.
    fn is_federated(&self) -> bool {
        match self {
            Self::User(user) => user.username.is_federated(),
            Self::ServiceAccount { account, .. } => {
                account.owner.as_ref().is_some_and(Username::is_federated)
            }
        }
    }

    /// The role of the user; `none` for a service account.
    pub fn role(&self) -> Role {
        match self {
            Self::User(user) => user.role,
            Self::ServiceAccount { .. } => Role::None,
        }
    }

    /// The name of the owner as a caller: the username, or `sa:<name>`.
    pub fn caller_name(&self) -> String {
        match self {
            Self::User(user) => user.username.to_string(),
            Self::ServiceAccount { account, .. } => account.name.as_caller(),
        }
    }
}

/// A stored token with the data that every request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    /// The token, not revoked.
    pub token: ApiToken,
    /// Its owner.
    pub owner: FoundOwner,
    /// Time at which an identity provider last confirmed the user who owns the token or the service account. None for a
    /// local user, and for a user who no longer exists at the provider.
    pub confirmed_at: Option<Timestamp>,
    /// Whether the user who owns the token has a confirmed second factor. False for a service account, which needs none.
    pub enrolled: bool,
    /// The rights stamp at the time of the read.
    pub rights: RightsStamp,
}

impl FoundToken {
    /// Whether the token is accepted, apart from its expiry: it is not revoked, the owner is enabled, and the provider
    /// of a federated owner has confirmed them within [`CONFIRMATION_LIFETIME`].
    fn is_accepted(&self, now: Timestamp) -> bool {
        let is_confirmed = || self.confirmed_at.is_some_and(|at| now < at + CONFIRMATION_LIFETIME);
        let is_known = !self.owner.is_federated() || is_confirmed();
        self.token.revoked_at.is_none() && self.owner.is_enabled() && is_known
    }
}

/// Port for the storage of API tokens. A change for a caller commits its audit row in the same transaction; its time is
/// that of the permit's operation.
///
/// Tokens of a user are revoked in the transaction of the user's deletion and of the reset of the password by an
/// administrator, those of a service account in the transaction of its deletion.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Stores a token.
    ///
    /// # Errors
    /// `NotFound` if the owner or the role of the ceiling does not exist; `TooMany` if the owner has
    /// [`ApiToken::MAX_LIVE`] live tokens; `StoreUnavailable`, as for every method of this port.
    async fn create(&self, permit: &Permit, token: TokenRecord) -> Result<ApiToken>;

    /// Reads the token with this hash and all data of [`FoundToken`], in one query; `None` if the token is revoked. The
    /// caller checks the expiry, the owner and the networks.
    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>>;

    /// The token with this id, under the same conditions as [`TokenStore::find`].
    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>>;

    /// The tokens that are not revoked, by id, each with its owner: those of a user and of the service accounts that
    /// the user owns, or all.
    async fn list(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>>;

    /// Changes the name of a token that is not revoked.
    ///
    /// # Errors
    /// `NotFound`.
    async fn rename(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken>;

    /// Revokes a token. Returns false, without an audit row, if there is no such token or it is revoked already.
    async fn revoke(&self, permit: &Permit, id: TokenId) -> Result<bool>;

    /// Records the use of a token. A use before the recorded one changes nothing.
    async fn touch(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()>;
}

/// Owner of a token as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenOwnerRow {
    /// `user` or `service_account`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub kind: &'static str,
    /// Id of the user or service account.
    pub id: i64,
    /// Its name.
    pub name: String,
}

impl From<&FoundOwner> for TokenOwnerRow {
    fn from(owner: &FoundOwner) -> Self {
        match owner {
            FoundOwner::User(user) => Self { kind: "user", id: user.id.0, name: user.username.to_string() },
            FoundOwner::ServiceAccount { account, .. } => {
                Self { kind: "service_account", id: account.id.0, name: account.name.to_string() }
            }
        }
    }
}

/// A token as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRow {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// Whose rights it has.
    pub owner: TokenOwnerRow,
    /// What the rights are cut to: `{role, clusters, namespaces}`. Null in `role` and `namespaces`, and `{"all": true}`
    /// in `clusters`, do not narrow.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub ceiling: Ceiling,
    /// Networks from which it is accepted; empty: all.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub networks: Networks,
    /// Time of creation.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Expiry.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
    /// Time of the last use, to the minute; null before the first.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_used_at: Option<Timestamp>,
    /// Address of that use.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub last_used_ip: Option<IpAddr>,
}

impl TokenRow {
    /// The row of a token.
    pub fn of(token: &ApiToken, owner: &FoundOwner) -> Self {
        let token = token.clone();
        Self {
            id: token.id,
            name: token.name,
            prefix: token.prefix,
            owner: TokenOwnerRow::from(owner),
            ceiling: token.ceiling,
            networks: token.networks,
            created_at: token.created_at,
            expires_at: token.expires_at,
            last_used_at: token.last_used_at,
            last_used_ip: token.last_used_ip,
        }
    }
}

impl ListRow for TokenRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("prefix", |row| Cell::text(&*row.prefix)),
        Field::new("owner", |row| Cell::text(&*row.owner.name)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("expires_at", |row| Cell::from(row.expires_at)),
        Field::new("last_used_at", |row| Cell::from(row.last_used_at)),
        Field::new("last_used_ip", |row| Cell::from(&row.last_used_ip.map(|ip| ip.to_string()))),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        vec![&*self.prefix, &*self.owner.name]
    }
}
