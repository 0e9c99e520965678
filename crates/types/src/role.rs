//! Roles of users, in ascending order of rights.

use serde::{Deserialize, Serialize};

/// The three roles, in ascending order of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// 只读用户: reads, but no Secret values, and only their own audit rows.
    Viewer,
    /// 运维管理员: everything on clusters; no user management.
    OpsAdmin,
    /// 超级管理员: everything.
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
