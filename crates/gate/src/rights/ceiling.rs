//! Ceiling of an API token: the limits to which the rights of its owner are cut.

use std::sync::Arc;

use pilothouse_types::role::Role;
use serde::{Deserialize, Serialize};

use super::{ClusterScope, EffectiveGrant, Reach, RoleName, RoleRules};

/// Ceiling of a token. Each part narrows the rights of the owner; the default narrows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceiling {
    /// A role whose rights the token has at most. `None`: all rights of the owner.
    pub role: Option<RoleName>,
    /// Clusters in which the token has rights. [`ClusterScope::All`]: those of the owner.
    pub clusters: ClusterScope,
    /// Namespaces in which the token has rights. [`Reach::Cluster`]: those of the owner, and objects without a
    /// namespace.
    #[serde(rename = "namespaces")]
    pub reach: Reach,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self { role: None, clusters: ClusterScope::All, reach: Reach::Cluster }
    }
}

impl Ceiling {
    /// The ceiling as a grant, for [`super::Rights::compile_within`]: a token has the rights that its owner has and this
    /// grant would give. `rules` are those of the role, or the default (no right) if the role was deleted; without a
    /// role they have no effect.
    pub fn as_grant(&self, rules: Arc<RoleRules>) -> EffectiveGrant {
        let everything = EffectiveGrant::preset(Role::SuperAdmin);
        EffectiveGrant {
            rules: if self.role.is_some() { rules } else { everything.rules },
            clusters: self.clusters.clone(),
            reach: self.reach.clone(),
            ..everything
        }
    }
}
