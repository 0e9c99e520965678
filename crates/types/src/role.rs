//! Roles of users, in ascending order of rights.

use serde::{Deserialize, Serialize};

/// Role of a user, in ascending order of rights: rights in all clusters and namespaces, besides the user's grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 无角色: may sign in and has the user's own account, sessions and audit rows. All other rights come from grants.
    None,
    /// 只读用户: may read, except Secret values and the audit rows of other users.
    Viewer,
    /// 运维管理员: may read and change clusters and their objects, but not users.
    OpsAdmin,
    /// 超级管理员: has all rights.
    SuperAdmin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::None, Self::Viewer, Self::OpsAdmin, Self::SuperAdmin];

    /// The value in requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Viewer => "viewer",
            Self::OpsAdmin => "ops_admin",
            Self::SuperAdmin => "super_admin",
        }
    }

    /// Parses a role; `None` if the text is not a role.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}
