//! Permissions of a cluster's credential: which features it allows, checked with SelfSubjectAccessReviews.

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

/// Most reviews sent at once.
const MAX_CONCURRENT_REVIEWS: usize = 8;

/// A verb on a kind or a subresource.
type Need = (&'static str, Kind, Option<&'static str>);

const fn may(verb: &'static str, kind: Kind) -> Need {
    (verb, kind, None)
}

/// Permissions needed by writes and single reads, as this adapter sends them. The needs of lists come from [`LISTS`].
const FEATURES: &[(&str, &[Need])] = &[
    ("create_namespaces", &[may("create", Kind::Namespace)]),
    ("delete_namespaces", &[may("delete", Kind::Namespace)]),
    (
        "show_workloads",
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
        "scale_workloads",
        &[
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("list", Kind::HorizontalPodAutoscaler),
        ],
    ),
    (
        "restart_workloads",
        &[
            may("get", Kind::Deployment),
            may("get", Kind::StatefulSet),
            may("get", Kind::DaemonSet),
            may("patch", Kind::Deployment),
            may("patch", Kind::StatefulSet),
            may("patch", Kind::DaemonSet),
        ],
    ),
    ("read_logs", &[may("get", Kind::Pod), ("get", Kind::Pod, Some("log"))]),
    ("show_configmaps", &[may("get", Kind::ConfigMap)]),
    ("create_configmaps", &[may("create", Kind::ConfigMap)]),
    ("update_configmaps", &[may("get", Kind::ConfigMap), may("patch", Kind::ConfigMap)]),
    ("delete_configmaps", &[may("delete", Kind::ConfigMap)]),
    ("show_secrets", &[may("get", Kind::Secret)]),
    ("reveal_secrets", &[may("get", Kind::Secret)]),
    ("create_secrets", &[may("create", Kind::Secret)]),
    ("update_secrets", &[may("get", Kind::Secret), may("patch", Kind::Secret)]),
    ("delete_secrets", &[may("delete", Kind::Secret)]),
];

/// All features and their needs: `list_*`, `watch_*` (without which a list is read from the cluster each time), and
/// [`FEATURES`].
fn features() -> Vec<(String, Vec<Need>)> {
    let lists = LISTS.iter().filter(|list| list.project.is_some());
    let features = ["list", "watch"].into_iter().flat_map(|verb| {
        lists.clone().map(move |list| {
            let related = list.join.map_or(&[][..], |join| join.with.info().kinds);
            let owner = list.owner.map(|owner| owner.kind);
            let kinds = [list.kinds, list.more_kinds, related, owner.as_slice()].concat();
            (format!("{verb}_{}", list.key), kinds.into_iter().map(|kind| may(verb, kind)).collect())
        })
    });
    let others = FEATURES.iter().map(|(name, needs)| ((*name).to_owned(), needs.to_vec()));
    features.chain(others).collect()
}

/// Reviews every need once, in all namespaces, and returns the result per feature.
///
/// # Errors
/// As every call to a cluster.
pub(crate) async fn check(client: &ClusterClient<'_>) -> Result<Vec<Permission>> {
    let features = features();
    let mut needs: Vec<Need> = features.iter().flat_map(|(_, needs)| needs).copied().collect();
    needs.sort_unstable();
    needs.dedup();
    let reviews: Vec<_> = needs.into_iter().map(|need| review(client, need)).collect();
    let results: BTreeMap<Need, bool> =
        stream::iter(reviews).buffer_unordered(MAX_CONCURRENT_REVIEWS).try_collect().await?;
    let permission = |(feature, needs): (String, Vec<Need>)| {
        let missing: Vec<_> =
            needs.iter().filter(|need| results.get(need) != Some(&true)).map(rbac_name).collect();
        Permission { feature, allowed: missing.is_empty(), missing }
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
fn rbac_name((verb, kind, subresource): &Need) -> String {
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

    /// The permissions that a ClusterRole of docs/rbac grants, in the notation of [`rbac_name`].
    fn granted(manifest: &str) -> BTreeSet<String> {
        #[derive(serde::Deserialize)]
        struct Role {
            rules: Vec<Rule>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Rule {
            api_groups: Vec<String>,
            resources: Vec<String>,
            verbs: Vec<String>,
        }
        let role = manifest.split("\n---\n").find(|part| part.contains("\nkind: ClusterRole\n")).unwrap();
        let role: Role = serde_saphyr::from_str(role).unwrap();
        let mut granted = BTreeSet::new();
        for Rule { api_groups, resources, verbs } in role.rules {
            assert_eq!(api_groups.len(), 1, "one API group per rule");
            for (resource, verb) in resources.iter().flat_map(|r| verbs.iter().map(move |v| (r, v))) {
                let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                let group =
                    if api_groups[0].is_empty() { String::new() } else { format!(".{}", api_groups[0]) };
                let subresource =
                    if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
                assert!(
                    granted.insert(format!("{verb} {kind}{group}{subresource}")),
                    "{verb} {resource} twice"
                );
            }
        }
        granted
    }

    #[test]
    fn rbac_manifests_grant_exactly_the_needs() {
        let needed = |wanted: fn(&str) -> bool| -> BTreeSet<String> {
            let features = features().into_iter().filter(|(feature, _)| wanted(feature));
            features.flat_map(|(_, needs)| needs).map(|need| rbac_name(&need)).collect()
        };
        let reads = |feature: &str| {
            ["list_", "watch_", "show_", "read_"].iter().any(|verb| feature.starts_with(verb))
                && !feature.ends_with("_secrets")
        };
        let viewing = include_str!("../../../docs/rbac/viewing.yaml");
        let operating = include_str!("../../../docs/rbac/operating.yaml");
        assert_eq!(granted(viewing), needed(reads));
        assert_eq!(granted(operating), needed(|_| true));
    }

    #[test]
    fn every_list_is_a_feature_and_names_are_unique() {
        let names: BTreeSet<_> = features().into_iter().map(|(name, _)| name).collect();
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
