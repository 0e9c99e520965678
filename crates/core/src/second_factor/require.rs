//! Setting `require_second_factor`: the users that must have a second factor.

use crate::{
    rights::{BuiltInRole, Extent, RightResource, RightVerb, Rights},
    role::Role,
};

/// Users that must have a second factor: the setting `require_second_factor`. Such a user without a second factor can
/// only enrol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireSecondFactor {
    /// No user.
    #[default]
    None,
    /// Users of the roles ops_admin and super_admin, and users who have a grant of the role `admin`, or of a role with a
    /// right on `grants`.
    Admins,
    /// Every user.
    All,
}

impl RequireSecondFactor {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::None, Self::Admins, Self::All];

    /// The value in the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Admins => "admins",
            Self::All => "all",
        }
    }

    /// Parses the setting; `None` for an invalid value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.as_str() == text)
    }

    /// Whether a user with this role and these rights must have a second factor.
    pub fn of(self, role: Role, rights: &Rights) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Admins => role >= Role::OpsAdmin || has_admin_grant(rights) || has_right_on_grants(rights),
        }
    }
}

/// Whether a grant of the built-in role `admin` is active: each gives the right to reveal Secrets, with any reach.
fn has_admin_grant(rights: &Rights) -> bool {
    let secrets = RightResource::Secrets;
    let mut grants = rights.grants_with(RightVerb::Reveal, &secrets);
    grants.any(|grant| grant.role == BuiltInRole::Admin.as_str())
}

fn has_right_on_grants(rights: &Rights) -> bool {
    let verbs = [RightVerb::List, RightVerb::Get, RightVerb::Create, RightVerb::Update, RightVerb::Delete];
    verbs.into_iter().any(|verb| rights.extent(verb, &RightResource::Grants) != Extent::None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{
        ids::{ClusterId, GrantId},
        namespaces::NamespacePattern,
        rights::{ClusterLabels, ClusterScope, EffectiveGrant, GrantRef, Labels, Reach, RoleRules},
    };

    /// The rights of one grant of a role with these rules in cluster 1.
    fn rights(role: &str, rules: RoleRules, reach: Reach) -> Rights {
        let grant = EffectiveGrant {
            grant: GrantRef { id: Some(GrantId(1)), role: role.to_owned(), via_group: None, until: None },
            rules: Arc::new(rules),
            clusters: ClusterScope::Ids([ClusterId(1)].into()),
            reach,
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let clusters = ClusterLabels::from([(ClusterId(1), Labels::new())]);
        Rights::compile(&[grant], &clusters, Timestamp::UNIX_EPOCH)
    }

    fn own_role(verb: &str, resource: &str) -> RoleRules {
        let rule = json!({"verbs": [verb], "resources": [resource]});
        RoleRules::new(vec![serde_json::from_value(rule).unwrap()]).unwrap()
    }

    #[test]
    fn admins_are_roles_and_grants_with_power() {
        let admins = RequireSecondFactor::Admins;
        for (role, required) in
            [(Role::None, false), (Role::Viewer, false), (Role::OpsAdmin, true), (Role::SuperAdmin, true)]
        {
            assert_eq!(admins.of(role, &Rights::preset(role)), required, "{role:?}");
        }
        let team = || Reach::try_from(vec![NamespacePattern::parse("team-*").unwrap()]).unwrap();
        let cases = [
            (rights("admin", BuiltInRole::Admin.rules(), Reach::Cluster), true),
            (rights("admin", BuiltInRole::Admin.rules(), team()), true),
            (rights("editor", BuiltInRole::Editor.rules(), Reach::Cluster), false),
            (rights("revealer", own_role("reveal", "secrets"), team()), false),
            (rights("giver", own_role("create", "grants"), Reach::Cluster), true),
            (rights("auditor", own_role("list", "grants"), Reach::Cluster), true),
        ];
        for (n, (rights, required)) in cases.iter().enumerate() {
            assert_eq!(admins.of(Role::None, rights), *required, "case {n}");
            assert!(!RequireSecondFactor::None.of(Role::None, rights));
            assert!(RequireSecondFactor::All.of(Role::None, rights));
        }
    }

    #[test]
    fn values_have_a_text_form() {
        for value in RequireSecondFactor::ALL {
            assert_eq!(RequireSecondFactor::parse(value.as_str()), Some(value));
        }
        assert_eq!(RequireSecondFactor::parse("some"), None);
    }
}
