//! Own roles: named rules that a super admin defines. Built-in roles are constants of [`crate::rights`].

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::Permit,
    error::Result,
    rights::{BuiltInRole, RoleName, RoleRule, RoleRules},
    rows::{Cell, Field, ListRow},
};

/// Maximum number of own roles, without deleted ones.
pub const MAX_OWN_ROLES: usize = 100;

/// An own role as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRole {
    /// Its name. It never changes, and is not used again after the role is deleted.
    pub name: RoleName,
    /// Free text.
    pub description: String,
    /// Its rules.
    pub rules: RoleRules,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Name of the user who created it.
    pub created_by: String,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// A role as displayed, built in or own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RoleRow {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: RoleName,
    /// Free text; empty for a built-in role.
    pub description: String,
    /// Its rules.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub rules: Vec<RoleRule>,
    /// Its further rules in a grant without namespaces. Only built-in roles have such rules.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Object>))]
    pub rules_with_reach_cluster: Vec<RoleRule>,
    /// Whether the role is part of Pilothouse and cannot be changed.
    pub built_in: bool,
    /// Time of creation; null for a built-in role.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// Name of the user who created it; null for a built-in role.
    pub created_by: Option<String>,
    /// Time of the last change; null for a built-in role.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub updated_at: Option<Timestamp>,
}

impl From<OwnRole> for RoleRow {
    fn from(role: OwnRole) -> Self {
        Self {
            name: role.name,
            description: role.description,
            rules: role.rules.rules().to_vec(),
            rules_with_reach_cluster: Vec::new(),
            built_in: false,
            created_at: Some(role.created_at),
            created_by: Some(role.created_by),
            updated_at: Some(role.updated_at),
        }
    }
}

impl From<BuiltInRole> for RoleRow {
    fn from(role: BuiltInRole) -> Self {
        let rules = role.rules();
        Self {
            name: role.into(),
            description: String::new(),
            rules: rules.rules().to_vec(),
            rules_with_reach_cluster: rules.rules_with_reach_cluster().to_vec(),
            built_in: true,
            created_at: None,
            created_by: None,
            updated_at: None,
        }
    }
}

impl ListRow for RoleRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(row.name.as_str())),
        Field::new("built_in", |row| Cell::from(row.built_in)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("created_by", |row| Cell::from(&row.created_by)),
        Field::new("updated_at", |row| Cell::from(row.updated_at)),
    ];

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn search_terms(&self) -> Vec<&str> {
        vec![&self.description]
    }
}

/// An own role to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// Name.
    pub name: RoleName,
    /// Free text.
    pub description: String,
    /// Rules.
    pub rules: RoleRules,
}

/// A change of an own role. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolePatch {
    /// A new description.
    pub description: Option<String>,
    /// New rules; they replace all rules.
    pub rules: Option<RoleRules>,
}

/// Registry of own roles. Every change commits its audit row and a new rights stamp in the same transaction; its author
/// and time are those of the permit's operation.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RoleRegistry: Send + Sync {
    /// The own roles, ordered by name.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self) -> Result<Vec<OwnRole>>;

    /// Creates a role.
    ///
    /// # Errors
    /// `NameTaken` by a built-in role, an own role or a deleted one; `TooMany` if [`MAX_OWN_ROLES`] exist.
    async fn create(&self, permit: &Permit, role: RoleRecord) -> Result<OwnRole>;

    /// Changes a role, and with it the rights of all its grants.
    ///
    /// # Errors
    /// `NotFound`.
    async fn update(&self, permit: &Permit, name: &RoleName, patch: RolePatch) -> Result<OwnRole>;

    /// Deletes a role.
    ///
    /// # Errors
    /// `NotFound`; `RoleInUse` if a live grant or a pending request names the role.
    async fn delete(&self, permit: &Permit, name: &RoleName) -> Result<()>;
}
