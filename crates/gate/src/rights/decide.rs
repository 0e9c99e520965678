//! The decision: one pure function that the gate and the explanation share.

use std::sync::Arc;

use pilothouse_types::{error::MissingRight, ids::ClusterId, name::Namespace, namespaces::NamespaceScope};

use super::{GrantRef, RightResource, RightVerb, Rights};

/// Question: may the caller do this?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The verb.
    pub verb: RightVerb,
    /// The resource.
    pub resource: RightResource,
    /// The cluster. One that is not registered is reached by the grants on all clusters. `None` for an operation that concerns all clusters, such as the registration of a new
    /// one: it takes a grant on all clusters.
    pub cluster: Option<ClusterId>,
    /// The namespaces. For an object of the resource `namespaces`, its own name. [`NamespaceScope::Unscoped`] for an
    /// object without a namespace: it takes the reach `cluster`.
    pub namespaces: NamespaceScope,
}

impl Ask {
    /// Whether the question is about reading a cluster's row, which takes any right in the cluster.
    pub(super) fn is_of_cluster_row(&self) -> bool {
        self.resource == RightResource::Clusters && matches!(self.verb, RightVerb::List | RightVerb::Get)
    }
}

/// Decision on an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed.
    Allow {
        /// The part of the asked namespaces in which the caller has the right, by all grants together.
        /// [`NamespaceScope::All`] only if that is every namespace.
        scope: NamespaceScope,
        /// The first grant that gives a part of it.
        grant: Arc<GrantRef>,
    },
    /// Refused.
    Deny {
        /// What is missing.
        missing: Missing,
    },
}

impl Decision {
    /// Whether the caller may do a part of what is asked.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

/// The right that a caller lacks: `context.missing` of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The verb.
    pub verb: RightVerb,
    /// The resource.
    pub resource: RightResource,
    /// The cluster.
    pub cluster: Option<ClusterId>,
    /// The namespace, if the question was about one.
    pub namespace: Option<Namespace>,
}

/// Why a grant does or does not allow what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It allows a part of it, or all.
    Allows,
    /// It does not contain the cluster.
    OtherCluster,
    /// Its role does not give the right with the reach of the grant.
    OtherRole,
    /// It does not contain the namespaces, or the object has no namespace and the grant has not the reach `cluster`.
    OtherNamespaces,
}

impl Verdict {
    /// The value in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allows => "allows",
            Self::OtherCluster => "other_cluster",
            Self::OtherRole => "other_role",
            Self::OtherNamespaces => "other_namespaces",
        }
    }
}

/// A decision with its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision, as the gate makes it.
    pub decision: Decision,
    /// The active grants of the caller, in the order in which they are examined. The decision is to allow exactly if
    /// one of them allows.
    pub grants: Vec<(Arc<GrantRef>, Verdict)>,
}

/// Where a caller has a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// In all clusters, with the reach `cluster`.
    All,
    /// In a registered cluster, or a part of one.
    Some,
    /// Nowhere.
    None,
}

impl Extent {
    /// The value in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Some => "some",
            Self::None => "none",
        }
    }
}

/// Decides a question.
pub fn decide(rights: &Rights, ask: &Ask) -> Decision {
    let slot = rights.slot(&ask.resource);
    let own = rights.in_cluster(ask.cluster);
    let first = rights.of(own).find(|(_, grant)| grant.verdict(ask, slot) == Verdict::Allows);
    let allowed = first.and_then(|(_, first)| {
        let scope = match &ask.namespaces {
            asked @ (NamespaceScope::All | NamespaceScope::Set(_)) if !ask.is_of_cluster_row() => {
                asked.intersect(&rights.namespaces(own, ask.verb, slot))?
            }
            asked => asked.clone(),
        };
        Some((scope, Arc::clone(&first.grant)))
    });
    match allowed {
        Some((scope, grant)) => Decision::Allow { scope, grant },
        None => Decision::Deny { missing: Missing::of(ask) },
    }
}

/// Decides a question, and tells of each grant why it does or does not allow it.
pub fn explain(rights: &Rights, ask: &Ask) -> Explanation {
    let slot = rights.slot(&ask.resource);
    let own = rights.in_cluster(ask.cluster);
    let verdicts = rights.grants().map(|(n, grant)| {
        let contains_cluster = own.indexes().binary_search(&n).is_ok();
        let verdict = if contains_cluster { grant.verdict(ask, slot) } else { Verdict::OtherCluster };
        (Arc::clone(&grant.grant), verdict)
    });
    Explanation { decision: decide(rights, ask), grants: verdicts.collect() }
}

impl Missing {
    fn of(ask: &Ask) -> Self {
        let namespace = match &ask.namespaces {
            NamespaceScope::One(namespace) => Some(namespace.clone()),
            NamespaceScope::Unscoped | NamespaceScope::All | NamespaceScope::Set(_) => None,
        };
        Self { verb: ask.verb, resource: ask.resource.clone(), cluster: ask.cluster, namespace }
    }
}

impl From<Missing> for MissingRight {
    fn from(missing: Missing) -> Self {
        Self {
            verb: missing.verb.to_string(),
            resource: missing.resource.to_string(),
            cluster_id: missing.cluster,
            namespace: missing.namespace.map(|namespace| namespace.to_string()),
        }
    }
}
