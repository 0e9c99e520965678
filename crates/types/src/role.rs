//! Roles of users, in ascending order of rights.

use serde::{Deserialize, Serialize};

/// The three roles, in ascending order of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 只读用户: may read, except Secret values and the audit rows of other users.
    Viewer,
    /// 运维管理员: may read and change clusters and their objects, but not users.
    OpsAdmin,
    /// 超级管理员: has all rights.
    SuperAdmin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::OpsAdmin, Self::SuperAdmin];

    /// The value in requests and responses.
    pub const fn as_str(self) -> &'static str {
        match self {
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
