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

/// A required permission: verb, kind, subresource.
pub(crate) type Need = (&'static str, Kind, Option<&'static str>);

/// A credential with a manifest in `docs/rbac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Reads everything except Secrets, because Kubernetes has no permission to list their names without their
    /// values.
    Viewing,
    /// Reads and changes everything.
    Operating,
}

impl Credential {
    /// All credentials.
    pub const ALL: [Self; 2] = [Self::Viewing, Self::Operating];

    /// Name of the credential. Its manifest is `docs/rbac/<name>.yaml`, its service account `pilothouse-<name>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewing => "viewing",
            Self::Operating => "operating",
        }
    }

    /// The permissions that the features of the credential need.
    pub(crate) fn needs(self) -> impl Iterator<Item = Need> {
        let allowed = move |feature: &Feature| self == Self::Operating || feature.credential == Self::Viewing;
        features().into_iter().filter(allowed).flat_map(|feature| feature.needs)
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
    (verb, kind, None)
}

/// Features besides lists, with the least credential that allows each, and the permissions that its requests need.
const FEATURES: &[(&str, Credential, &[Need])] = &[
    ("create_namespaces", Credential::Operating, &[may("create", Kind::Namespace)]),
    ("delete_namespaces", Credential::Operating, &[may("delete", Kind::Namespace)]),
    (
        "show_workloads",
        Credential::Viewing,
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
        Credential::Viewing,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("get", Kind::Job),
            may("get", Kind::CronJob),
            may("get", Kind::Pod),
            ("get", Kind::Pod, Some("log")),
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
        "scale_workloads",
        Credential::Operating,
        &[
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("list", Kind::HorizontalPodAutoscaler),
        ],
    ),
    (
        "restart_workloads",
        Credential::Operating,
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("patch", Kind::DaemonSet),
        ],
    ),
    ("read_logs", Credential::Viewing, &[may("get", Kind::Pod), ("get", Kind::Pod, Some("log"))]),
    ("show_configmaps", Credential::Viewing, &[may("get", Kind::ConfigMap)]),
    ("create_configmaps", Credential::Operating, &[may("create", Kind::ConfigMap)]),
    (
        "update_configmaps",
        Credential::Operating,
        &[may("get", Kind::ConfigMap), may("patch", Kind::ConfigMap)],
    ),
    ("delete_configmaps", Credential::Operating, &[may("delete", Kind::ConfigMap)]),
    ("show_secrets", Credential::Operating, &[may("get", Kind::Secret)]),
    ("reveal_secrets", Credential::Operating, &[may("get", Kind::Secret)]),
    ("create_secrets", Credential::Operating, &[may("create", Kind::Secret)]),
    ("update_secrets", Credential::Operating, &[may("get", Kind::Secret), may("patch", Kind::Secret)]),
    ("delete_secrets", Credential::Operating, &[may("delete", Kind::Secret)]),
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
                if kinds.contains(&Kind::Secret) { Credential::Operating } else { Credential::Viewing };
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
    let (verb, kind, subresource) = need;
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(kind.info().group.to_owned()),
        resource: Some(kind.info().plural.to_owned()),
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
pub(crate) fn rbac_name((verb, kind, subresource): &Need) -> String {
    let info = kind.info();
    let group = if info.group.is_empty() { String::new() } else { format!(".{}", info.group) };
    let subresource = subresource.map(|name| format!("/{name}")).unwrap_or_default();
    format!("{verb} {}{group}{subresource}", info.plural)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn needs_are_written_in_rbac_notation() {
        assert_eq!(rbac_name(&may("patch", Kind::Deployment)), "patch deployments.apps");
        assert_eq!(rbac_name(&("get", Kind::Pod, Some("log"))), "get pods/log");
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
        ] {
            assert!(names.contains(name), "{name}");
        }
        assert!(!names.contains("list_clusters"));
    }
}
