//! Permissions of a cluster's credential: the table of features with the permissions that they need, and the check with
//! SelfSubjectAccessReviews which features a credential allows.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use pilothouse_core::{Cause, Error, Result, cluster::Permission, inventory::LISTS, kind::Kind};

use crate::{
    client::ClusterClient,
    request::{Call, SELF_SUBJECT_ACCESS},
};

/// Maximum number of concurrent reviews.
const MAX_CONCURRENT_REVIEWS: usize = 8;

/// A required permission: verb, resource, subresource.
pub(crate) type Need = (&'static str, Target, Option<&'static str>);

/// Resource of a permission. Manifests name resources in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Objects of a kind.
    Kind(Kind),
    /// Usage of CPU and memory of nodes or pods.
    Usage(Kind),
    /// Objects of every kind.
    Any,
}

impl Target {
    /// The API group; empty for the core group.
    pub(crate) const fn group(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.info().group,
            Self::Usage(_) => "metrics.k8s.io",
            Self::Any => "*",
        }
    }

    /// The plural in lower case.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Kind(kind) | Self::Usage(kind) => kind.info().plural,
            Self::Any => "*",
        }
    }
}

/// A credential with a manifest in `docs/rbac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// Reads everything except Secrets, because Kubernetes has no permission to list their names without their
    /// values, and except kinds that Pilothouse has no list of.
    View,
    /// Reads and changes everything of which Pilothouse has lists.
    Operate,
    /// Besides, reads objects of every kind.
    Full,
}

impl Credential {
    /// All credentials.
    pub const ALL: [Self; 3] = [Self::View, Self::Operate, Self::Full];

    /// Name of the credential. Its manifest is `docs/rbac/<name>.yaml`, its service account `pilothouse-<name>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Full => "full",
        }
    }

    /// The permissions that the features of the credential need.
    pub(crate) fn needs(self) -> impl Iterator<Item = Need> {
        let is_allowed = move |feature: &Feature| feature.credential <= self;
        features().into_iter().filter(is_allowed).flat_map(|feature| feature.needs)
    }
}

/// An operation, or a group of operations, with the permissions that a credential needs for it.
struct Feature {
    /// Name of the feature in the response of a connection test.
    name: String,
    /// The least credential of `docs/rbac` that allows the feature.
    credential: Credential,
    needs: Vec<Need>,
}

const fn may(verb: &'static str, kind: Kind) -> Need {
    (verb, Target::Kind(kind), None)
}

const fn on_part(verb: &'static str, kind: Kind, subresource: &'static str) -> Need {
    (verb, Target::Kind(kind), Some(subresource))
}

const fn on_usage(verb: &'static str, kind: Kind) -> Need {
    (verb, Target::Usage(kind), None)
}

const fn on_any(verb: &'static str) -> Need {
    (verb, Target::Any, None)
}

/// Features besides lists, with the least credential that allows each, and the permissions that its requests need.
const FEATURES: &[(&str, Credential, &[Need])] = &[
    ("create_namespaces", Credential::Operate, &[may("create", Kind::Namespace)]),
    ("delete_namespaces", Credential::Operate, &[may("delete", Kind::Namespace)]),
    (
        "show_workloads",
        Credential::View,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("get", Kind::Job),
            may("get", Kind::CronJob),
            may("list", Kind::Job),
            may("list", Kind::Pod),
            may("list", Kind::Event),
            may("list", Kind::ReplicaSet),
            may("list", Kind::ControllerRevision),
        ],
    ),
    (
        "diagnose",
        Credential::View,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("get", Kind::Job),
            may("get", Kind::CronJob),
            may("get", Kind::Pod),
            on_part("get", Kind::Pod, "log"),
            may("get", Kind::Service),
            may("get", Kind::Ingress),
            may("get", Kind::PersistentVolumeClaim),
            may("get", Kind::Node),
            may("list", Kind::Pod),
            may("list", Kind::Event),
            may("list", Kind::ReplicaSet),
            may("list", Kind::Job),
            may("list", Kind::EndpointSlice),
            may("list", Kind::Node),
            may("list", Kind::HorizontalPodAutoscaler),
            may("list", Kind::PodDisruptionBudget),
        ],
    ),
    (
        "compare_workloads",
        Credential::View,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("get", Kind::Job),
            may("get", Kind::CronJob),
            may("get", Kind::ConfigMap),
        ],
    ),
    (
        "show_rollouts",
        Credential::View,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("list", Kind::Pod),
            may("list", Kind::ReplicaSet),
            may("list", Kind::ControllerRevision),
        ],
    ),
    (
        "show_usage",
        Credential::View,
        &[
            on_usage("list", Kind::Node),
            on_usage("list", Kind::Pod),
            may("get", Kind::Node),
            may("get", Kind::Pod),
        ],
    ),
    ("list_objects", Credential::Full, &[on_any("list")]),
    ("watch_objects", Credential::Full, &[on_any("watch")]),
    ("show_objects", Credential::Full, &[on_any("get")]),
    ("show_dependents", Credential::Full, &[on_any("list")]),
    (
        "scale_workloads",
        Credential::Operate,
        &[
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("list", Kind::HorizontalPodAutoscaler),
        ],
    ),
    (
        "restart_workloads",
        Credential::Operate,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("patch", Kind::DaemonSet),
        ],
    ),
    (
        "suspend_jobs",
        Credential::Operate,
        &[
            may("get", Kind::Job),
            may("get", Kind::CronJob),
            may("patch", Kind::Job),
            may("patch", Kind::CronJob),
        ],
    ),
    (
        "run_jobs",
        Credential::Operate,
        &[may("get", Kind::Job), may("get", Kind::CronJob), may("create", Kind::Job)],
    ),
    (
        "update_autoscalers",
        Credential::Operate,
        &[may("get", Kind::HorizontalPodAutoscaler), may("patch", Kind::HorizontalPodAutoscaler)],
    ),
    ("cordon_nodes", Credential::Operate, &[may("get", Kind::Node), may("patch", Kind::Node)]),
    ("delete_pods", Credential::Operate, &[may("get", Kind::Pod), may("delete", Kind::Pod)]),
    ("evict_pods", Credential::Operate, &[may("get", Kind::Pod), on_part("create", Kind::Pod, "eviction")]),
    ("resize_pods", Credential::Operate, &[may("get", Kind::Pod), on_part("patch", Kind::Pod, "resize")]),
    (
        "undo_rollouts",
        Credential::Operate,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("list", Kind::ReplicaSet),
            may("list", Kind::ControllerRevision),
            may("list", Kind::HorizontalPodAutoscaler),
            may("get", Kind::ConfigMap),
            may("get", Kind::Secret),
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("patch", Kind::DaemonSet),
        ],
    ),
    ("pause_rollouts", Credential::Operate, &[may("get", Kind::Deployment), may("patch", Kind::Deployment)]),
    (
        "set_images",
        Credential::Operate,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("patch", Kind::DaemonSet),
        ],
    ),
    ("read_logs", Credential::View, &[may("get", Kind::Pod), on_part("get", Kind::Pod, "log")]),
    (
        "read_workload_logs",
        Credential::View,
        &[may("list", Kind::Pod), may("get", Kind::Pod), on_part("get", Kind::Pod, "log")],
    ),
    (
        "show_problems",
        Credential::View,
        &[
            may("list", Kind::Deployment),
            may("list", Kind::StatefulSet),
            may("list", Kind::DaemonSet),
            may("list", Kind::Job),
            may("list", Kind::Pod),
            may("list", Kind::Node),
            may("list", Kind::PersistentVolumeClaim),
        ],
    ),
    ("show_configmaps", Credential::View, &[may("get", Kind::ConfigMap)]),
    ("create_configmaps", Credential::Operate, &[may("create", Kind::ConfigMap)]),
    ("update_configmaps", Credential::Operate, &[may("get", Kind::ConfigMap), may("patch", Kind::ConfigMap)]),
    ("delete_configmaps", Credential::Operate, &[may("delete", Kind::ConfigMap)]),
    ("show_secrets", Credential::Operate, &[may("get", Kind::Secret)]),
    ("reveal_secrets", Credential::Operate, &[may("get", Kind::Secret)]),
    ("create_secrets", Credential::Operate, &[may("create", Kind::Secret)]),
    ("update_secrets", Credential::Operate, &[may("get", Kind::Secret), may("patch", Kind::Secret)]),
    ("delete_secrets", Credential::Operate, &[may("delete", Kind::Secret)]),
];

/// All features: `list_*`, `watch_*` (without which a list is read from the cluster each time), and [`FEATURES`].
fn features() -> Vec<Feature> {
    let lists = LISTS.iter().filter(|list| list.project.is_some());
    let features = ["list", "watch"].into_iter().flat_map(|verb| {
        lists.clone().map(move |list| {
            let related = list.join.map_or(&[][..], |join| join.with.info().kinds);
            let owner = list.owner.map(|owner| owner.kind);
            let kinds = [list.kinds, list.more_kinds, related, owner.as_slice()].concat();
            let credential =
                if kinds.contains(&Kind::Secret) { Credential::Operate } else { Credential::View };
            let needs = kinds.into_iter().map(|kind| may(verb, kind)).collect();
            Feature { name: format!("{verb}_{}", list.key), credential, needs }
        })
    });
    let others = FEATURES.iter().map(|&(name, credential, needs)| Feature {
        name: name.to_owned(),
        credential,
        needs: needs.to_vec(),
    });
    features.chain(others).collect()
}

/// Reviews every needed permission once, in all namespaces, and returns the result per feature.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn check(client: &ClusterClient<'_>) -> Result<Vec<Permission>> {
    let features = features();
    let mut needs: Vec<Need> = features.iter().flat_map(|feature| &feature.needs).copied().collect();
    needs.sort_unstable();
    needs.dedup();
    let reviews: Vec<_> = needs.into_iter().map(|need| review(client, need)).collect();
    let results: BTreeMap<Need, bool> =
        stream::iter(reviews).buffer_unordered(MAX_CONCURRENT_REVIEWS).try_collect().await?;
    let permission = |Feature { name, needs, .. }| {
        let missing: Vec<_> =
            needs.iter().filter(|need| results.get(need) != Some(&true)).map(rbac_name).collect();
        Permission { feature: name, allowed: missing.is_empty(), missing }
    };
    Ok(features.into_iter().map(permission).collect())
}

async fn review(client: &ClusterClient<'_>, need: Need) -> Result<(Need, bool)> {
    let (verb, target, subresource) = need;
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(target.group().to_owned()),
        resource: Some(target.plural().to_owned()),
        subresource: subresource.map(ToOwned::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let request = SelfSubjectAccessReview { spec, ..Default::default() };
    let response = client.send_review(&Call::review(SELF_SUBJECT_ACCESS, &request)?).await?;
    let review: SelfSubjectAccessReview = response.json()?;
    let status = review.status.ok_or_else(|| Error::new(Cause::UnexpectedAnswer))?;
    Ok((need, status.allowed))
}

/// A need in RBAC notation: `patch deployments.apps`, `get pods/log`.
pub(crate) fn rbac_name((verb, target, subresource): &Need) -> String {
    let group = if target.group().is_empty() { String::new() } else { format!(".{}", target.group()) };
    let subresource = subresource.map(|name| format!("/{name}")).unwrap_or_default();
    format!("{verb} {}{group}{subresource}", target.plural())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn needs_are_written_in_rbac_notation() {
        assert_eq!(rbac_name(&may("patch", Kind::Deployment)), "patch deployments.apps");
        assert_eq!(rbac_name(&on_part("get", Kind::Pod, "log")), "get pods/log");
        assert_eq!(rbac_name(&on_usage("list", Kind::Node)), "list nodes.metrics.k8s.io");
        assert_eq!(rbac_name(&on_any("watch")), "watch *.*");
    }

    #[test]
    fn every_list_is_a_feature_and_names_are_unique() {
        let names: BTreeSet<_> = features().into_iter().map(|feature| feature.name).collect();
        assert_eq!(names.len(), features().len());
        for name in [
            "list_namespaces",
            "list_workloads",
            "list_pods",
            "watch_pods",
            "list_configmaps",
            "list_endpoints",
            "scale_workloads",
            "show_usage",
            "show_problems",
            "read_workload_logs",
            "list_objects",
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("list_clusters"));
    }
}
