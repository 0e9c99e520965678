//! Derived power: what a grant gives beyond its rights, because the cluster gives it to whoever has them.

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
    use RightResource::{Access, Clusters, Namespaces, Nodes, Platform, Secrets, Volumes, Workloads};
    let reach_is_cluster = *reach == Reach::Cluster;
    let change = Verbs::of(&[RightVerb::Create, RightVerb::Update]);
    let (update, reveal) = (Verbs::of(&[RightVerb::Update]), Verbs::of(&[RightVerb::Reveal]));
    let has = |verbs: Verbs, resource: &RightResource| {
        (reach_is_cluster || !resource.is_cluster_scoped())
            && !rules.verbs(resource, reach_is_cluster).intersect(verbs).is_empty()
    };
    let verbs_on_pods = [RightVerb::Create, RightVerb::Update, RightVerb::Exec].into_iter();
    let pods: Vec<_> = verbs_on_pods.filter(|verb| has(Verbs::of(&[*verb]), &Workloads)).collect();
    // a pod in a namespace of Kubernetes itself controls the cluster
    let reaches_kube = |verb: &RightVerb| {
        reach.namespaces(*verb).patterns().iter().any(|pattern| pattern.to_string().starts_with("kube-"))
    };
    let mut power = Vec::new();
    if !pods.is_empty() {
        power.push(DerivedPower::SecretsThroughPods);
    }
    let controls_cluster = [Access, Platform, Nodes, Volumes].iter().any(|resource| has(change, resource))
        || has(update, &Namespaces)
        // a changed address sends the Secrets that are written to the cluster to another server
        || has(update, &Clusters)
        // the Secrets there have tokens of controllers
        || (has(reveal, &Secrets) && reaches_kube(&RightVerb::Reveal))
        || pods.iter().any(reaches_kube);
    if controls_cluster {
        power.push(DerivedPower::ClusterAdmin);
    }
    power
}

#[cfg(test)]
mod tests {
    use pilothouse_types::namespaces::NamespacePattern;

    use super::*;
    use crate::rights::{BuiltInRole, RoleRule};

    fn namespaces(pattern: &str) -> Reach {
        Reach::try_from(vec![NamespacePattern::parse(pattern).unwrap()]).unwrap()
    }

    #[test]
    fn roles_have_the_derived_power_of_the_table() {
        const SECRETS: &str = "secrets_through_pods";
        const BOTH: &str = "secrets_through_pods cluster_admin";
        let cases = [
            (BuiltInRole::Viewer, "", "", ""),
            (BuiltInRole::Operator, SECRETS, BOTH, SECRETS),
            (BuiltInRole::Editor, SECRETS, BOTH, BOTH),
            (BuiltInRole::Admin, SECRETS, BOTH, BOTH),
        ];
        for (role, in_namespaces, in_kube, in_cluster) in cases {
            let power = |reach| text(&role.rules(), &reach);
            assert_eq!(power(namespaces("team-a-*")), in_namespaces, "{role:?}");
            assert_eq!(power(namespaces("*")), in_namespaces, "{role:?}");
            assert_eq!(power(namespaces("kube-system")), in_kube, "{role:?}");
            assert_eq!(power(Reach::Cluster), in_cluster, "{role:?}");
        }
    }

    fn text(rules: &RoleRules, reach: &Reach) -> String {
        derived_power(rules, reach).into_iter().map(DerivedPower::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn single_rights_have_the_derived_power_of_the_table() {
        let cases = [
            ("create workloads", "secrets_through_pods", "secrets_through_pods cluster_admin"),
            ("update workloads", "secrets_through_pods", "secrets_through_pods cluster_admin"),
            ("exec workloads", "secrets_through_pods", "secrets_through_pods"),
            ("scale workloads", "", ""),
            ("restart workloads", "", ""),
            ("delete workloads", "", ""),
            ("reveal secrets", "", "cluster_admin"),
            ("update secrets", "", ""),
            ("update config", "", ""),
            ("update clusters", "", "cluster_admin"),
            ("create clusters", "", ""),
            ("update custom", "", ""),
            ("create access", "cluster_admin", "cluster_admin"),
            ("update platform", "cluster_admin", "cluster_admin"),
            ("get platform", "", ""),
            ("update nodes", "", "cluster_admin"),
            ("create volumes", "", "cluster_admin"),
            ("update namespaces", "cluster_admin", "cluster_admin"),
            ("create namespaces", "", ""),
        ];
        for (right, in_namespaces, in_cluster) in cases {
            let (verb, resource) = right.split_once(' ').unwrap();
            let verbs = Verbs::of(&[RightVerb::parse(verb).unwrap()]);
            let resources = vec![RightResource::parse(resource).unwrap()];
            let rules = RoleRules::new(vec![RoleRule { verbs, resources }]).unwrap();
            assert_eq!(text(&rules, &namespaces("team-a")), in_namespaces, "{right}");
            assert_eq!(text(&rules, &Reach::Cluster), in_cluster, "{right}");
        }
    }
}
