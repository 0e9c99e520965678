//! Roles: which verbs on which resources. The built-in roles, own roles, and the presets of `users.role`.

use std::fmt;

use pilothouse_types::{
    error::{Error, FieldError, Reason, Result},
    role::Role,
};
use serde::{Deserialize, Serialize};

use super::{RightResource, RightVerb, Verbs};

/// Name of a role: 3 to 40 lower-case letters, digits and hyphens. An own role keeps its name for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(String);

impl RoleName {
    /// Validates a name. The names of the built-in roles are valid; see [`BuiltInRole::parse`].
    ///
    /// # Errors
    /// [`Reason::TooShort`], [`Reason::TooLong`] or [`Reason::InvalidName`].
    pub fn new(text: impl Into<String>) -> Result<Self, Reason> {
        let text = text.into();
        match text.len() {
            0..3 => Err(Reason::TooShort),
            41.. => Err(Reason::TooLong),
            _ if text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') => {
                Ok(Self(text))
            }
            _ => Err(Reason::InvalidName),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RoleName {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(text)
    }
}

impl From<RoleName> for String {
    fn from(name: RoleName) -> Self {
        name.0
    }
}

/// A rule of a role: every verb on every resource of the rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// The verbs.
    pub verbs: Verbs,
    /// The resources.
    pub resources: Vec<RightResource>,
}

/// Rules of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleRules {
    rules: Vec<RoleRule>,
    with_reach_cluster: Vec<RoleRule>,
}

impl RoleRules {
    /// Maximum number of rules of an own role.
    pub const MAX_RULES: usize = 50;

    /// The rules of an own role.
    ///
    /// # Errors
    /// `InvalidInput` that names each refused field: no rule, verb or resource, too many rules, a verb that one of the
    /// resources does not have, or a resource of super admins.
    pub fn new(rules: Vec<RoleRule>) -> Result<Self> {
        let mut refused = Vec::new();
        let mut refuse = |name: String, reason| refused.push(FieldError { name, reason });
        match rules.len() {
            0 => refuse("rules".to_owned(), Reason::Required),
            n if n > Self::MAX_RULES => refuse("rules".to_owned(), Reason::TooLong),
            _ => {}
        }
        for (n, rule) in rules.iter().enumerate() {
            if rule.verbs.is_empty() {
                refuse(format!("rules[{n}].verbs"), Reason::Required);
            }
            if rule.resources.is_empty() {
                refuse(format!("rules[{n}].resources"), Reason::Required);
            }
            for (m, resource) in rule.resources.iter().enumerate() {
                if RightResource::OF_SUPER_ADMINS.contains(resource) {
                    refuse(format!("rules[{n}].resources[{m}]"), Reason::NotAllowed);
                } else if rule.verbs.intersect(resource.verbs()) != rule.verbs {
                    refuse(format!("rules[{n}].verbs"), Reason::NotAllowed);
                }
            }
        }
        if refused.is_empty() {
            Ok(Self { rules, with_reach_cluster: Vec::new() })
        } else {
            Err(Error::fields(refused))
        }
    }

    /// The rules that hold with every reach.
    pub fn rules(&self) -> &[RoleRule] {
        &self.rules
    }

    /// The rules that hold only in a grant with the reach `cluster`. Only built-in roles have such rules.
    pub fn rules_with_reach_cluster(&self) -> &[RoleRule] {
        &self.with_reach_cluster
    }

    /// The rules that hold in a grant: with the reach `cluster`, or with namespaces.
    pub fn effective(&self, reach_is_cluster: bool) -> impl Iterator<Item = &RoleRule> {
        self.rules.iter().chain(self.with_reach_cluster.iter().filter(move |_| reach_is_cluster))
    }

    /// The verbs on a resource in a grant: with the reach `cluster`, or with namespaces.
    pub fn verbs(&self, resource: &RightResource, reach_is_cluster: bool) -> Verbs {
        let rules = self.effective(reach_is_cluster);
        let matching = rules.filter(|rule| rule.resources.iter().any(|own| own.includes(resource)));
        matching.fold(Verbs::NONE, |verbs, rule| verbs.union(rule.verbs))
    }

    /// Whether the rules are those of super admins: no other role contains the users.
    pub fn of_super_admin(&self) -> bool {
        !self.verbs(&RightResource::Users, true).is_empty()
    }

    fn and(mut self, verbs: Verbs, resources: &[RightResource]) -> Self {
        self.rules.push(RoleRule { verbs, resources: resources.to_vec() });
        self
    }

    fn and_with_reach_cluster(mut self, verbs: Verbs, resources: &[RightResource]) -> Self {
        self.with_reach_cluster.push(RoleRule { verbs, resources: resources.to_vec() });
        self
    }
}

/// Built-in role, in ascending order of rights. Each contains the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuiltInRole {
    /// Read all resources of a cluster, and logs.
    Viewer,
    /// Also terminals, forwarded ports, scaling and restarts.
    Operator,
    /// Also create, update and delete workloads, config, secrets, network and storage.
    Editor,
    /// Also custom resources, values of Secrets, the namespaces whose names match, and the audit trail; with the reach
    /// `cluster` also all other resources of the cluster.
    Admin,
}

impl BuiltInRole {
    /// All built-in roles, in ascending order of rights.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Editor, Self::Admin];

    /// The name of the role.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }

    /// The built-in role with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// The roles that give a right in a grant with the reach `cluster`, the weakest first.
    pub fn with_right(verb: RightVerb, resource: &RightResource) -> Vec<Self> {
        Self::ALL.into_iter().filter(|role| role.rules().verbs(resource, true).contains(verb)).collect()
    }

    /// The rules of the role.
    pub fn rules(self) -> RoleRules {
        use RightResource::{
            Access, Audit, Config, Custom, Namespaces, Network, Nodes, Platform, Quotas, Secrets, Storage,
            Volumes, Workloads,
        };
        use RightVerb::{Create, Delete, Exec, Forward, Get, List, Logs, Restart, Reveal, Scale, Update};
        let write = Verbs::of(&[Create, Update, Delete]);
        match self {
            Self::Viewer => RoleRules::default()
                .and(Verbs::of(&[List, Get]), &RightResource::OF_CLUSTERS)
                .and(Verbs::of(&[Logs]), &[Workloads]),
            Self::Operator => {
                Self::Viewer.rules().and(Verbs::of(&[Exec, Forward, Scale, Restart]), &[Workloads])
            }
            Self::Editor => {
                Self::Operator.rules().and(write, &[Workloads, Config, Secrets, Network, Storage])
            }
            Self::Admin => Self::Editor
                .rules()
                .and(write, &[Custom])
                .and(Verbs::of(&[Reveal]), &[Secrets])
                .and(Verbs::of(&[Create, Delete]), &[Namespaces])
                .and(Verbs::of(&[List]), &[Audit])
                .and_with_reach_cluster(write, &[Quotas, Nodes, Volumes, Access, Platform])
                .and_with_reach_cluster(Verbs::of(&[Update]), &[Namespaces]),
        }
    }
}

impl From<BuiltInRole> for RoleName {
    fn from(role: BuiltInRole) -> Self {
        Self(role.as_str().to_owned())
    }
}

/// The rules of a value of `users.role`: a grant on all clusters with the reach `cluster`, without end.
pub fn preset(role: Role) -> RoleRules {
    match role {
        Role::None => RoleRules::default(),
        Role::Viewer => BuiltInRole::Viewer.rules(),
        Role::OpsAdmin => {
            BuiltInRole::Admin.rules().and(Verbs::COMMON, &[RightResource::Clusters, RightResource::Audit])
        }
        Role::SuperAdmin => RightResource::all()
            .fold(RoleRules::default(), |rules, resource| rules.and(resource.verbs(), &[resource])),
    }
}

/// The weakest value of `users.role` that has a right: `required_role` of a refusal.
pub fn weakest_preset(verb: RightVerb, resource: &RightResource) -> Role {
    let has_right = |role: &Role| preset(*role).verbs(resource, true).contains(verb);
    [Role::Viewer, Role::OpsAdmin].into_iter().find(has_right).unwrap_or(Role::SuperAdmin)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roles × verbs × resources, as in `docs/access.md`: for each role what it adds to the one before. A resource with
    /// `!` takes the reach `cluster`.
    const ADDED: [(BuiltInRole, &[(&str, &str)]); 4] = [
        (
            BuiltInRole::Viewer,
            &[
                (
                    "list get",
                    "workloads config secrets network storage events quotas namespaces nodes volumes access custom \
                     platform",
                ),
                ("logs", "workloads"),
            ],
        ),
        (BuiltInRole::Operator, &[("exec forward scale restart", "workloads")]),
        (BuiltInRole::Editor, &[("create update delete", "workloads config secrets network storage")]),
        (
            BuiltInRole::Admin,
            &[
                ("create update delete", "custom quotas! nodes! volumes! access! platform!"),
                ("reveal", "secrets"),
                ("create delete", "namespaces"),
                ("update", "namespaces!"),
                ("list", "audit"),
            ],
        ),
    ];

    #[test]
    fn built_in_roles_have_exactly_the_rights_of_the_table() {
        let mut expected = std::collections::BTreeMap::new();
        for (role, added) in ADDED {
            for (verbs, resources) in added {
                for (verb, resource) in
                    verbs.split(' ').flat_map(|v| resources.split(' ').map(move |r| (v, r)))
                {
                    let (name, needs_cluster) = match resource.strip_suffix('!') {
                        Some(name) => (name, true),
                        None => (resource, false),
                    };
                    expected.insert((verb, name), needs_cluster);
                }
            }
            let rules = role.rules();
            for resource in RightResource::all() {
                for &verb in RightVerb::ALL {
                    let name = resource.to_string();
                    let found = expected.get(&(verb.as_str(), &*name));
                    let with = |cluster| rules.verbs(&resource, cluster).contains(verb);
                    assert_eq!(with(true), found.is_some(), "{role:?} {verb} {resource}, reach cluster");
                    assert_eq!(with(false), found == Some(&false), "{role:?} {verb} {resource}, namespaces");
                }
            }
        }
        let group = RightResource::parse("custom:example.org").unwrap();
        assert!(BuiltInRole::Admin.rules().verbs(&group, false).contains(RightVerb::Delete));
        assert!(!BuiltInRole::Editor.rules().verbs(&group, true).contains(RightVerb::Delete));
    }

    #[test]
    fn rules_contain_no_pair_that_does_not_exist() {
        let all = BuiltInRole::ALL.map(BuiltInRole::rules).into_iter().chain(Role::ALL.map(preset));
        for rules in all {
            for rule in rules.effective(true) {
                for resource in &rule.resources {
                    assert_eq!(rule.verbs.intersect(resource.verbs()), rule.verbs, "{resource}");
                }
            }
        }
    }

    #[test]
    fn only_super_admins_have_users_tokens_keys_grants_and_recordings() {
        use RightResource::{Grants, Keys, Recordings, Tokens, Users};
        for resource in [Users, Tokens, Keys, Grants, Recordings] {
            assert_eq!(weakest_preset(RightVerb::List, &resource), Role::SuperAdmin, "{resource}");
            assert!(preset(Role::SuperAdmin).verbs(&resource, false).contains(RightVerb::Delete));
            for role in BuiltInRole::ALL {
                assert!(role.rules().verbs(&resource, true).is_empty(), "{role:?} {resource}");
            }
        }
        for role in [Role::None, Role::Viewer, Role::OpsAdmin] {
            assert!(!preset(role).of_super_admin(), "{role:?}");
        }
        assert!(preset(Role::SuperAdmin).of_super_admin());
        assert_eq!(preset(Role::None), RoleRules::default());
    }

    #[test]
    fn weakest_preset_of_a_right_is_the_one_of_the_contract() {
        let cases = [
            ("list", "workloads", Role::Viewer),
            ("logs", "workloads", Role::Viewer),
            ("exec", "workloads", Role::OpsAdmin),
            ("scale", "workloads", Role::OpsAdmin),
            ("reveal", "secrets", Role::OpsAdmin),
            ("update", "nodes", Role::OpsAdmin),
            ("list", "audit", Role::OpsAdmin),
            ("create", "clusters", Role::OpsAdmin),
            ("create", "grants", Role::SuperAdmin),
            ("get", "recordings", Role::SuperAdmin),
            ("list", "users", Role::SuperAdmin),
        ];
        for (verb, resource, role) in cases {
            let (verb, resource) = (RightVerb::parse(verb).unwrap(), RightResource::parse(resource).unwrap());
            assert_eq!(weakest_preset(verb, &resource), role, "{verb} {resource}");
        }
    }

    #[test]
    fn roles_with_a_right_are_the_weakest_and_those_above_it() {
        let names = |verb, resource| {
            let roles = BuiltInRole::with_right(verb, &resource);
            roles.into_iter().map(BuiltInRole::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(RightVerb::Restart, RightResource::Workloads), "operator editor admin");
        assert_eq!(names(RightVerb::Update, RightResource::Nodes), "admin");
        assert_eq!(names(RightVerb::List, RightResource::Users), "");
    }

    #[test]
    fn own_role_names_are_short_and_lower_case() {
        for name in ["abc", "on-call-2", &"a".repeat(40)] {
            assert_eq!(RoleName::new(name).map(String::from).as_deref(), Ok(name));
        }
        let refused = [
            ("", Reason::TooShort),
            ("ab", Reason::TooShort),
            ("Abc", Reason::InvalidName),
            ("a_b", Reason::InvalidName),
            ("äb", Reason::InvalidName),
        ];
        for (name, reason) in refused {
            assert_eq!(RoleName::new(name), Err(reason), "{name:?}");
        }
        assert_eq!(RoleName::new("a".repeat(41)), Err(Reason::TooLong));
        for role in BuiltInRole::ALL {
            assert_eq!(RoleName::new(role.as_str()), Ok(role.into()));
            assert_eq!(BuiltInRole::parse(role.as_str()), Some(role));
        }
        assert_eq!(BuiltInRole::parse("super_admin"), None);
    }

    #[test]
    fn own_rules_have_verbs_that_exist_for_all_their_resources() {
        let rule = |json: &str| serde_json::from_str::<RoleRule>(json);
        let refused = |json: &str| match RoleRules::new(vec![rule(json).expect(json)]) {
            Ok(_) => panic!("{json} was accepted"),
            Err(error) => (error.context.fields[0].name.clone(), error.context.fields[0].reason),
        };
        let verbs = ("rules[0].verbs".to_owned(), Reason::NotAllowed);
        assert_eq!(refused(r#"{"verbs":["logs"],"resources":["config"]}"#), verbs);
        assert_eq!(refused(r#"{"verbs":["reveal"],"resources":["secrets","config"]}"#), verbs);
        assert_eq!(refused(r#"{"verbs":["restart"],"resources":["custom:example.org"]}"#), verbs);
        for resource in ["users", "tokens", "keys"] {
            let json = format!(r#"{{"verbs":["list"],"resources":["audit","{resource}"]}}"#);
            assert_eq!(refused(&json), ("rules[0].resources[1]".to_owned(), Reason::NotAllowed));
        }
        assert_eq!(refused(r#"{"verbs":[],"resources":["config"]}"#).1, Reason::Required);
        assert_eq!(refused(r#"{"verbs":["list"],"resources":[]}"#).1, Reason::Required);
        assert!(RoleRules::new(Vec::new()).is_err());
        for json in
            [r#"{"verbs":["watch"],"resources":["config"]}"#, r#"{"verbs":["list"],"resources":["pods"]}"#]
        {
            assert!(rule(json).is_err(), "{json}");
        }
        let json = r#"{"verbs":["list","restart"],"resources":["workloads"]}"#;
        let own = RoleRules::new(vec![rule(json).unwrap()]).unwrap();
        assert_eq!(serde_json::to_string(&own.rules()[0]).unwrap(), json);
        assert!(own.verbs(&RightResource::Workloads, false).contains(RightVerb::Restart));
        assert!(!own.verbs(&RightResource::Workloads, true).contains(RightVerb::Get));
    }
}
