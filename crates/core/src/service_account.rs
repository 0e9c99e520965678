//! Service accounts: callers that are programs. They sign in by API tokens only and have only the rights of their grants.

use std::fmt;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::Permit,
    error::{Reason, Result},
    ids::{ServiceAccountId, UserId},
    rows::{Cell, Field, ListRow},
    user::Username,
};

mod usecase;

pub use usecase::ServiceAccounts;

/// Name of a service account: 3 to 64 characters of `[a-z0-9._-]`. The audit trail names it `sa:<name>`, which is no
/// username, because usernames have no colon.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceAccountName(String);

impl ServiceAccountName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Reason::Required`], [`Reason::TooShort`], [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: impl Into<String>) -> Result<Self, Reason> {
        let text = text.into();
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        match text.len() {
            0 => Err(Reason::Required),
            65.. => Err(Reason::TooLong),
            _ if !text.bytes().all(is_allowed) => Err(Reason::Malformed),
            1..=2 => Err(Reason::TooShort),
            _ => Ok(Self(text)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the account as a caller, as in the audit trail: `sa:<name>`.
    pub fn as_caller(&self) -> String {
        format!("sa:{}", self.0)
    }
}

impl TryFrom<String> for ServiceAccountName {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(text)
    }
}

impl From<ServiceAccountName> for String {
    fn from(name: ServiceAccountName) -> Self {
        name.0
    }
}

impl fmt::Display for ServiceAccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service account, as stored and as displayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceAccount {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ServiceAccountId,
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: ServiceAccountName,
    /// What it is for.
    pub description: String,
    /// Id of the user who is responsible for it and may make tokens of it. Null after the user was deleted: the account
    /// is then out of use until it has another owner.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub owner_user_id: Option<UserId>,
    /// Name of that user.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub owner: Option<Username>,
    /// Time of creation.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the user who created it.
    pub created_by: String,
}

impl ListRow for ServiceAccount {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::new("name", |row| Cell::text(row.name.as_str())),
        Field::new("description", |row| Cell::text(&*row.description)),
        Field::new("owner_user_id", |row| Cell::from(row.owner_user_id.map(|id| id.0))),
        Field::new("owner", |row| Cell::from(&row.owner.as_ref().map(ToString::to_string))),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("created_by", |row| Cell::text(&*row.created_by)),
    ];

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        let owner = self.owner.as_ref().map(Username::as_str);
        [Some(&*self.description), owner].into_iter().flatten().collect()
    }
}

/// A service account to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountRecord {
    /// Name.
    pub name: ServiceAccountName,
    /// What it is for.
    pub description: String,
    /// The owner.
    pub owner_user_id: UserId,
}

/// A change of a service account. Fields that are `None` stay unchanged. The name never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccountPatch {
    /// The new description.
    pub description: Option<String>,
    /// The new owner.
    pub owner_user_id: Option<UserId>,
}

/// Port for the storage of service accounts. Every change commits its audit row in the same transaction; its author and
/// time are those of the permit's operation. The deletion of a user leaves the user's service accounts without an
/// owner, and changes the [`crate::grant::RightsStamp`].
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ServiceAccountStore: Send + Sync {
    /// All service accounts, by id.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self) -> Result<Vec<ServiceAccount>>;

    /// One service account.
    async fn find(&self, id: ServiceAccountId) -> Result<Option<ServiceAccount>>;

    /// Creates a service account.
    ///
    /// # Errors
    /// `NameTaken`; `NotFound` if there is no such owner.
    async fn create(&self, permit: &Permit, account: ServiceAccountRecord) -> Result<ServiceAccount>;

    /// Changes a service account.
    ///
    /// # Errors
    /// `NotFound` of the account or of the owner.
    async fn update(
        &self,
        permit: &Permit,
        id: ServiceAccountId,
        patch: ServiceAccountPatch,
    ) -> Result<ServiceAccount>;

    /// Deletes a service account, revokes its live grants and its tokens, and changes the rights stamp.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, permit: &Permit, id: ServiceAccountId) -> Result<()>;
}
