//! Derived power: what a grant gives beyond its rights, because the cluster gives it to whoever has them.

use pilothouse_types::namespaces::{NamespacePattern, NamespaceSet};

use super::{Reach, RightResource, RightVerb, RoleRules, Verbs};

/// Power beyond the rights of a grant. Whoever makes such a grant is warned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DerivedPower {
    /// The Secrets and service accounts of the namespaces, through pods: whoever creates or changes a pod, or runs a
    /// command in one, reads what it mounts.
    SecretsThroughPods,
    /// The whole cluster, as a cluster admin.
    ClusterAdmin,
}

impl DerivedPower {
    /// The value in warnings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SecretsThroughPods => "secrets_through_pods",
            Self::ClusterAdmin => "cluster_admin",
        }
    }
}

/// The power that a role with a reach gives beyond its rights, sorted. `docs/access.md` has the table.
pub fn derived_power(rules: &RoleRules, reach: &Reach) -> Vec<DerivedPower> {
    use RightResource::{Access, Namespaces, Nodes, Platform, Volumes, Workloads};
    let reach_is_cluster = *reach == Reach::Cluster;
    let change = Verbs::of(&[RightVerb::Create, RightVerb::Update]);
    let has = |verbs: Verbs, resource: &RightResource| {
        (reach_is_cluster || !resource.is_cluster_scoped())
            && !rules.verbs(resource, reach_is_cluster).intersect(verbs).is_empty()
    };
    let pods = [RightVerb::Create, RightVerb::Update, RightVerb::Exec]
        .into_iter()
        .filter(|verb| has(Verbs::of(&[*verb]), &Workloads));
    let kube =
        NamespacePattern::parse("kube-*").map(|pattern| NamespaceSet::new([pattern])).unwrap_or_default();
    let reaches_kube = |verb: RightVerb| !reach.namespaces(verb).intersect(&kube).is_empty();
    let mut power = Vec::new();
    if pods.clone().next().is_some() {
        power.push(DerivedPower::SecretsThroughPods);
    }
    let controls_cluster = [Access, Platform, Nodes, Volumes].iter().any(|resource| has(change, resource))
        || has(Verbs::of(&[RightVerb::Update]), &Namespaces)
        || pods.clone().any(reaches_kube);
    if controls_cluster {
        power.push(DerivedPower::ClusterAdmin);
    }
    power
}
