//! Inclusion: nobody gives more than they have.

use std::collections::HashSet;

use jiff::Timestamp;
use pilothouse_types::{ids::ClusterId, namespaces::NamespaceSet};

use super::{ClusterScope, Missing, Reach, RightResource, RightVerb, Rights, RoleRules};

/// What a grant gives: the rights of a role, in clusters, with a reach, until a time.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The rules of the role.
    pub rules: &'a RoleRules,
    /// The clusters.
    pub clusters: &'a ClusterScope,
    /// The reach.
    pub reach: &'a Reach,
    /// The end; `None` without end.
    pub until: Option<Timestamp>,
}

/// Whether rights include all that a grant would give. Judged when a grant is made, when a request is approved, for
/// every live grant of a role that is changed, and for every grant that new labels of a cluster add to it.
///
/// Each right of the role must be held now, in each cluster of the grant, with the whole reach, until its end or later.
/// For label terms that means every cluster that could ever match: a grant by ids does not include one by labels.
/// Rights of several grants count together.
///
/// # Errors
/// The first right that is missing.
pub fn includes(rights: &Rights, given: &Given<'_>) -> Result<(), Missing> {
    let mut checked = HashSet::new();
    let reach_is_cluster = *given.reach == Reach::Cluster;
    for rule in given.rules.effective(reach_is_cluster) {
        // a grant of namespaces gives no right on a cluster-scoped resource
        let effective = |resource: &&RightResource| reach_is_cluster || !resource.is_cluster_scoped();
        for resource in rule.resources.iter().filter(effective) {
            for verb in rule.verbs.iter() {
                has_everywhere(rights, verb, resource, given, &mut checked)?;
            }
        }
    }
    Ok(())
}

/// Whether rights have one right in all clusters of a scope with the whole reach, at `now`. `list grants` and
/// `delete grants` hold for the grants that they cover so, and `create grants` is needed so beside [`includes`].
///
/// # Errors
/// The right, if it is missing.
pub fn covers(
    rights: &Rights,
    (verb, resource): (RightVerb, &RightResource),
    clusters: &ClusterScope,
    reach: &Reach,
    now: Timestamp,
) -> Result<(), Missing> {
    let given = Given { rules: &RoleRules::default(), clusters, reach, until: Some(now) };
    has_everywhere(rights, verb, resource, &given, &mut HashSet::new())
}

/// Checks one right in each cluster of the scope. `checked` has the sets of grants that were found to reach all that is
/// given, and whether for terminals: many rights and clusters have the same grants.
fn has_everywhere(
    rights: &Rights,
    verb: RightVerb,
    resource: &RightResource,
    given: &Given<'_>,
    checked: &mut HashSet<(Vec<usize>, bool)>,
) -> Result<(), Missing> {
    let slot = rights.slot(resource);
    for (cluster, indexes) in places(rights, given.clusters) {
        let lasting = |n: &usize| {
            let grant = rights.grant(*n);
            grant.has(verb, slot) && !ends_before(grant.grant.until, given.until)
        };
        let giving: Vec<_> = indexes.into_iter().filter(lasting).collect();
        let terminal = matches!(verb, RightVerb::Exec | RightVerb::Forward);
        let key = (giving, terminal);
        if checked.contains(&key) {
            continue;
        }
        let mut grants = key.0.iter().map(|&n| rights.grant(n));
        let included = match given.reach {
            Reach::Cluster => grants.any(|grant| grant.reach_is_cluster),
            Reach::Namespaces(set) => {
                let patterns = grants.flat_map(|grant| grant.namespaces(verb).patterns());
                NamespaceSet::new(patterns.cloned()).includes(set)
            }
        };
        if !included {
            return Err(Missing { verb, resource: resource.clone(), cluster, namespace: None });
        }
        checked.insert(key);
    }
    Ok(())
}

/// Whether an end is before another. `None` is no end.
fn ends_before(end: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    end.is_some_and(|end| other.is_none_or(|other| end < other))
}

/// The places that stand for a scope, each with the indexes of the grants that contain it: all clusters, each id, or
/// each smallest set of labels that matches. An id that is not registered is contained only in grants on all clusters.
fn places(rights: &Rights, clusters: &ClusterScope) -> Vec<(Option<ClusterId>, Vec<usize>)> {
    let in_cluster = |cluster| (cluster, rights.in_cluster(cluster).indexes().to_vec());
    match clusters {
        ClusterScope::All => vec![in_cluster(None)],
        ClusterScope::Ids(ids) => ids.iter().map(|&id| in_cluster(Some(id))).collect(),
        ClusterScope::Labels(terms) => {
            let combinations = terms.combinations();
            combinations.iter().map(|labels| (None, rights.indexes_by_labels(labels))).collect()
        }
    }
}
