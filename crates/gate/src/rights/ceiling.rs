//! Ceiling of an API token: what the rights of its owner are cut to.

use pilothouse_types::namespaces::NamespaceSet;
use serde::{Deserialize, Serialize};

use super::{ClusterScope, Reach, RightVerb, RoleName, RoleRules};

/// Ceiling of a token. Each part narrows the rights of the owner; the default narrows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// A role whose rights the token has at most. `None`: all rights of the owner.
    pub role: Option<RoleName>,
    /// Clusters in which the token has rights. [`ClusterScope::All`]: those of the owner.
    pub clusters: ClusterScope,
    /// Namespaces in which the token has rights. [`Reach::Cluster`]: those of the owner, and what has no namespace.
    #[serde(rename = "namespaces")]
    pub reach: Reach,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { role: None, clusters: ClusterScope::All, reach: Reach::Cluster }
    }
}

/// A ceiling with the rules of its role.
#[derive(Clone, Copy, Debug)]
pub struct EffectiveCeiling<'a> {
    /// The ceiling.
    pub ceiling: &'a Ceiling,
    /// The rules of its role, without any rule if the role was deleted. `None` if the ceiling has no role.
    pub rules: Option<&'a RoleRules>,
}
