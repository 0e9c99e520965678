//! Verbs and resources of rights, and which verbs exist for which resources.

use std::{fmt, sync::Arc};

use pilothouse_types::{error::Reason, name::ObjectName};
use serde::{Deserialize, Serialize};

/// Declares [`RightVerb`] with its wire names.
macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// Verb of a right.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum RightVerb { $($(#[$doc])* $variant,)* }

        impl RightVerb {
            /// All verbs, in the order of the variants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value in requests and responses.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

verbs! {
    /// Read rows: lists, search, watches, counts.
    List = "list";
    /// Read one object with its details.
    Get = "get";
    /// Create an object.
    Create = "create";
    /// Change an object.
    Update = "update";
    /// Delete an object.
    Delete = "delete";
    /// Read the logs of containers.
    Logs = "logs";
    /// Run commands in containers: terminals, attaching, debug containers, files.
    Exec = "exec";
    /// Forward connections to ports of pods.
    Forward = "forward";
    /// Change the number of replicas.
    Scale = "scale";
    /// Replace what runs without a change of what is wanted: rollout restarts, new runs of jobs, deletion of a pod that
    /// its controller replaces.
    Restart = "restart";
    /// Read the values of a Secret.
    Reveal = "reveal";
}

impl RightVerb {
    /// Parses a verb; `None` if the text is not a verb.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|verb| verb.as_str() == text)
    }
}

impl fmt::Display for RightVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Set of verbs: one bit per verb.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<RightVerb>", into = "Vec<RightVerb>")]
pub struct Verbs(u16);

impl Verbs {
    /// No verb.
    pub const NONE: Self = Self(0);
    /// The verbs of every resource: list, get, create, update, delete.
    pub const COMMON: Self =
        Self::of(&[RightVerb::List, RightVerb::Get, RightVerb::Create, RightVerb::Update, RightVerb::Delete]);

    /// The set of these verbs.
    pub const fn of(verbs: &[RightVerb]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < verbs.len() {
            bits |= 1 << verbs[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// Whether the set contains the verb.
    pub const fn contains(self, verb: RightVerb) -> bool {
        self.0 & (1 << verb as u16) != 0
    }

    /// The verbs of either set.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The verbs of both sets.
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The verbs, in the order of [`RightVerb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = RightVerb> {
        RightVerb::ALL.iter().copied().filter(move |verb| self.contains(*verb))
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl From<Vec<RightVerb>> for Verbs {
    fn from(verbs: Vec<RightVerb>) -> Self {
        Self::of(&verbs)
    }
}

impl From<Verbs> for Vec<RightVerb> {
    fn from(verbs: Verbs) -> Self {
        verbs.iter().collect()
    }
}

/// An API group that custom resources define: `cert-manager.io`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiGroup(Arc<str>);

impl ApiGroup {
    /// Validates an API group: an RFC 1123 subdomain with a dot, as Kubernetes requires of the group of a custom
    /// resource definition. Groups that end in `k8s.io` are refused: their objects are of the resource `platform` or of
    /// another resource of Kubernetes, never custom.
    ///
    /// # Errors
    /// As [`ObjectName::new`]; [`Reason::NotAllowed`] for a group that ends in `k8s.io`.
    pub fn new(text: &str) -> Result<Self, Reason> {
        ObjectName::new(text)?;
        if !text.contains('.') {
            Err(Reason::InvalidName)
        } else if text.ends_with("k8s.io") {
            Err(Reason::NotAllowed)
        } else {
            Ok(Self(text.into()))
        }
    }

    /// The group as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Resource of a right: a set of kinds of objects, each kind being an API group with a resource name. A resource name
/// alone selects no kind: `namespaces` of a custom group is not the resource `namespaces`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RightResource {
    /// Pods, `apps`, `batch`, `autoscaling`, `policy`.
    Workloads,
    /// ConfigMaps.
    Config,
    /// Secrets. Their values take the verb `reveal`.
    Secrets,
    /// Services, Ingresses, NetworkPolicies, `gateway.networking.k8s.io`, reading endpoints.
    Network,
    /// PersistentVolumeClaims and VolumeSnapshots.
    Storage,
    /// Reading events.
    Events,
    /// ResourceQuotas and LimitRanges.
    Quotas,
    /// Namespaces. Each is judged by its own name.
    Namespaces,
    /// Nodes.
    Nodes,
    /// PersistentVolumes and `storage.k8s.io`.
    Volumes,
    /// ServiceAccounts, RBAC and certificates.
    Access,
    /// All custom resources.
    Custom,
    /// The custom resources of one API group.
    CustomGroup(ApiGroup),
    /// All other kinds; the subresources `status` and `finalizers`; writing endpoints and events.
    Platform,
    /// Registered clusters.
    Clusters,
    /// The audit trail.
    Audit,
    /// Recordings of terminals.
    Recordings,
    /// Grants.
    Grants,
    /// Users. Super admins only; in no role.
    Users,
    /// API tokens of others. Super admins only; in no role.
    Tokens,
    /// The master key, the database and the removal of history. Super admins only; in no role.
    Keys,
}

impl RightResource {
    /// The resources of a cluster, without [`RightResource::CustomGroup`].
    pub const OF_CLUSTERS: [Self; 13] = [
        Self::Workloads,
        Self::Config,
        Self::Secrets,
        Self::Network,
        Self::Storage,
        Self::Events,
        Self::Quotas,
        Self::Namespaces,
        Self::Nodes,
        Self::Volumes,
        Self::Access,
        Self::Custom,
        Self::Platform,
    ];

    /// Pilothouse's own resources that roles may contain.
    pub const OWN: [Self; 4] = [Self::Clusters, Self::Audit, Self::Recordings, Self::Grants];

    /// Resources of super admins only, which no role contains.
    pub const OF_SUPER_ADMINS: [Self; 3] = [Self::Users, Self::Tokens, Self::Keys];

    /// Every resource without [`RightResource::CustomGroup`].
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OF_CLUSTERS.into_iter().chain(Self::OWN).chain(Self::OF_SUPER_ADMINS)
    }

    /// The value in requests and responses, without the group of [`RightResource::CustomGroup`].
    const fn name(&self) -> &'static str {
        match self {
            Self::Workloads => "workloads",
            Self::Config => "config",
            Self::Secrets => "secrets",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Events => "events",
            Self::Quotas => "quotas",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Volumes => "volumes",
            Self::Access => "access",
            Self::Custom | Self::CustomGroup(_) => "custom",
            Self::Platform => "platform",
            Self::Clusters => "clusters",
            Self::Audit => "audit",
            Self::Recordings => "recordings",
            Self::Grants => "grants",
            Self::Users => "users",
            Self::Tokens => "tokens",
            Self::Keys => "keys",
        }
    }

    /// Parses a resource: `workloads`, `custom:<API group>`.
    ///
    /// # Errors
    /// [`Reason::NotOneOf`] for an unknown resource; as [`ApiGroup::new`] for a custom group.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        match text.strip_prefix("custom:") {
            Some(group) => ApiGroup::new(group).map(Self::CustomGroup),
            None => Self::all().find(|resource| resource.name() == text).ok_or(Reason::NotOneOf),
        }
    }

    /// The verbs that exist for the resource. Another pair of verb and resource is not a right.
    pub const fn verbs(&self) -> Verbs {
        let more: &[RightVerb] = match self {
            Self::Workloads => {
                &[RightVerb::Logs, RightVerb::Exec, RightVerb::Forward, RightVerb::Scale, RightVerb::Restart]
            }
            Self::Secrets => &[RightVerb::Reveal],
            _ => &[],
        };
        Verbs::COMMON.union(Verbs::of(more))
    }

    /// Whether a right on the resource takes the reach `cluster`: its objects have no namespace, or (`storage.k8s.io`)
    /// are for the whole cluster. Every other resource also has kinds without a namespace, for instance ClusterRoles;
    /// a request for one of them is unscoped, and takes the reach `cluster` too.
    pub const fn is_cluster_scoped(&self) -> bool {
        matches!(self, Self::Nodes | Self::Volumes | Self::Clusters | Self::Users | Self::Tokens | Self::Keys)
    }

    /// Whether a right on this resource is one on `other`: the same, or `custom` for `custom:<group>`.
    pub fn includes(&self, other: &Self) -> bool {
        self == other || matches!((self, other), (Self::Custom, Self::CustomGroup(_)))
    }
}

impl fmt::Display for RightResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CustomGroup(group) => write!(f, "custom:{}", group.as_str()),
            other => f.write_str(other.name()),
        }
    }
}

impl TryFrom<String> for RightResource {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<RightResource> for String {
    fn from(resource: RightResource) -> Self {
        resource.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_resources_have_the_names_of_the_contract() {
        let names: Vec<_> = RightVerb::ALL.iter().map(|verb| verb.as_str()).collect();
        assert_eq!(names.join(" "), "list get create update delete logs exec forward scale restart reveal");
        for &verb in RightVerb::ALL {
            assert_eq!(RightVerb::parse(verb.as_str()), Some(verb));
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str());
        }
        assert_eq!(RightVerb::parse("watch"), None);
        let names: Vec<_> = RightResource::all().map(|resource| resource.to_string()).collect();
        let expected = "workloads config secrets network storage events quotas namespaces nodes volumes access custom \
                        platform clusters audit recordings grants users tokens keys";
        assert_eq!(names.join(" "), expected);
        for resource in RightResource::all() {
            assert_eq!(RightResource::parse(&resource.to_string()), Ok(resource));
        }
    }

    #[test]
    fn logs_exec_forward_scale_restart_need_workloads_and_reveal_needs_secrets() {
        for resource in RightResource::all() {
            for &verb in RightVerb::ALL {
                let exists = match verb.as_str() {
                    "list" | "get" | "create" | "update" | "delete" => true,
                    "reveal" => resource == RightResource::Secrets,
                    _ => resource == RightResource::Workloads,
                };
                assert_eq!(resource.verbs().contains(verb), exists, "{verb} {resource}");
            }
        }
    }

    #[test]
    fn custom_group_is_a_domain_outside_k8s_io() {
        let custom = |group: &str| RightResource::parse(&format!("custom:{group}"));
        for group in ["cert-manager.io", "a.b.example.org", "k8s.io.example.org"] {
            assert_eq!(custom(group).map(|resource| resource.to_string()), Ok(format!("custom:{group}")));
        }
        let refused = [
            ("", Reason::Required),
            ("apps", Reason::InvalidName),
            ("Example.org", Reason::InvalidName),
            ("*", Reason::InvalidName),
            ("k8s.io", Reason::NotAllowed),
            ("gateway.networking.k8s.io", Reason::NotAllowed),
        ];
        for (group, reason) in refused {
            assert_eq!(custom(group), Err(reason), "{group:?}");
        }
        assert_eq!(RightResource::parse("customs"), Err(Reason::NotOneOf));
        assert_eq!(RightResource::parse("Workloads"), Err(Reason::NotOneOf));
        assert_eq!(RightResource::parse(""), Err(Reason::NotOneOf));
    }

    #[test]
    fn custom_includes_every_custom_group_and_nothing_else() {
        let group = |text| RightResource::parse(text).unwrap();
        let (a, b) = (group("custom:a.example.org"), group("custom:b.example.org"));
        assert!(RightResource::Custom.includes(&a));
        assert!(a.includes(&a));
        assert!(!a.includes(&b));
        assert!(!a.includes(&RightResource::Custom));
        assert!(!RightResource::Custom.includes(&RightResource::Platform));
    }

    #[test]
    fn set_of_verbs_contains_what_it_was_made_of() {
        let set = Verbs::of(&[RightVerb::Reveal, RightVerb::List]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [RightVerb::List, RightVerb::Reveal]);
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["list","reveal"]"#);
        assert_eq!(serde_json::from_str::<Verbs>(r#"["reveal","list","list"]"#).unwrap(), set);
        assert_eq!(set.intersect(Verbs::COMMON), Verbs::of(&[RightVerb::List]));
        assert!(Verbs::NONE.is_empty() && !set.is_empty());
    }
}
