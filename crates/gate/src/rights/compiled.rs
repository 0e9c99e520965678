//! Rights of one caller at one moment, compiled from grants for fast decisions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jiff::Timestamp;
use pilothouse_types::{
    ids::ClusterId,
    namespaces::{NamespaceScope, NamespaceSet},
    role::Role,
};

use super::{
    Ask, ClusterScope, EffectiveGrant, Extent, GrantRef, GrantState, Labels, Reach, RightResource, RightVerb,
    RoleRules, Verbs, Verdict,
};

/// Labels of every registered cluster.
pub type ClusterLabels = BTreeMap<ClusterId, Labels>;

/// Numbers of resources: the index into [`LiveGrant::verbs`]. It has every resource without a group, and the custom
/// groups that a rule names.
type Slots = BTreeMap<RightResource, usize>;

/// Rights of one caller at one moment. They hold until [`Rights::next_change`], unless the stored rows change before.
#[derive(Debug)]
pub struct Rights {
    slots: Slots,
    /// The grants that are active and give a right, in the order of their references.
    grants: Vec<LiveGrant>,
    /// For each registered cluster, the grants that contain it. Clusters with the same grants share a value.
    clusters: BTreeMap<ClusterId, Arc<ClusterGrants>>,
    /// The grants on all clusters.
    everywhere: ClusterGrants,
    next_change: Option<Timestamp>,
}

/// A grant that is active and gives a right.
#[derive(Debug)]
pub(super) struct LiveGrant {
    pub(super) grant: Arc<GrantRef>,
    /// The verbs on each resource, by slot. Without the resources that the reach of the grant does not contain.
    verbs: Vec<Verbs>,
    clusters: ClusterScope,
    /// The clusters of the ceiling: the grant holds in those that are in both scopes.
    ceiling_clusters: ClusterScope,
    pub(super) reach_is_cluster: bool,
    namespaces: NamespaceSet,
    /// The namespaces for terminals and forwarded ports.
    terminal_namespaces: NamespaceSet,
}

/// Grants that contain a cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterGrants {
    /// Sorted indexes into [`Rights::grants`].
    grants: Vec<usize>,
    /// Namespaces of a right, by verb and slot: the unions that were asked for.
    unions: Mutex<HashMap<(RightVerb, usize), NamespaceSet>>,
}

impl Rights {
    /// Compiles the grants of a caller. `clusters` has every registered cluster: another one is reached only by
    /// the grants on all clusters.
    pub fn compile(grants: &[EffectiveGrant], clusters: &ClusterLabels, now: Timestamp) -> Self {
        Self::compile_within(grants, None, clusters, now)
    }

    /// As [`Rights::compile`], cut by the ceiling of a token ([`super::Ceiling::as_grant`]): a right is held if a grant
    /// gives it and the ceiling would give it too. A right in namespaces is cut to those that are in both.
    pub fn compile_within(
        grants: &[EffectiveGrant],
        ceiling: Option<&EffectiveGrant>,
        clusters: &ClusterLabels,
        now: Timestamp,
    ) -> Self {
        let mut active: Vec<_> =
            grants.iter().filter(|grant| grant.state(now) == GrantState::Active).collect();
        active.sort_by(|a, b| a.grant.cmp(&b.grant));
        let named = active.iter().copied().chain(ceiling);
        let named = named.flat_map(|grant| grant.rules.effective(true)).flat_map(|rule| &rule.resources);
        let resources: BTreeSet<_> = RightResource::all().chain(named.cloned()).collect();
        let slots: Slots = resources.into_iter().zip(0..).collect();
        let ceiling = ceiling.map(|ceiling| LiveGrant::new(&slots, ceiling));
        let live = active.into_iter().filter_map(|grant| {
            let own = LiveGrant::new(&slots, grant);
            let cut = if let Some(ceiling) = &ceiling { own.within(ceiling) } else { own };
            cut.with_implied_rights(&slots)
        });
        let live: Vec<_> = live.collect();
        let containing = |contains: &dyn Fn(&ClusterScope) -> bool| -> Vec<usize> {
            (0..live.len()).filter(|&n| live[n].is_in(contains)).collect()
        };
        let everywhere = ClusterGrants::new(containing(&|scope: &ClusterScope| *scope == ClusterScope::All));
        let mut shared = HashMap::<Vec<usize>, Arc<ClusterGrants>>::new();
        let clusters = clusters.iter().map(|(&id, labels)| {
            let grants = containing(&|scope: &ClusterScope| scope.contains(id, labels));
            let grants = shared
                .entry(grants)
                .or_insert_with_key(|grants| Arc::new(ClusterGrants::new(grants.clone())));
            (id, Arc::clone(grants))
        });
        let clusters = clusters.collect();
        let next_change = grants.iter().filter_map(|grant| grant.next_change(now)).min();
        Self { slots, grants: live, clusters, everywhere, next_change }
    }

    /// The rights of a value of `users.role` alone. No cluster is known to them: they are judged by the grants on all
    /// clusters.
    pub fn preset(role: Role) -> Arc<Self> {
        static PRESETS: LazyLock<BTreeMap<&str, Arc<Rights>>> = LazyLock::new(|| {
            let compile = |role| {
                let grants = [EffectiveGrant::preset(role)];
                Rights::compile(&grants, &ClusterLabels::new(), Timestamp::UNIX_EPOCH)
            };
            Role::ALL.into_iter().map(|role| (role.as_str(), Arc::new(compile(role)))).collect()
        });
        Arc::clone(&PRESETS[role.as_str()])
    }

    /// The next moment at which a grant begins or ends. `None` if time changes nothing.
    pub fn next_change(&self) -> Option<Timestamp> {
        self.next_change
    }

    /// The grants that give a right anywhere, in the order in which they are examined.
    pub fn grants_with(&self, verb: RightVerb, resource: &RightResource) -> impl Iterator<Item = &GrantRef> {
        let slot = self.slot(resource);
        self.grants.iter().filter(move |live| live.has(verb, slot)).map(|live| &*live.grant)
    }

    /// Whether the caller has any right in a cluster. Without one, the cluster is absent everywhere. In a cluster that
    /// was not registered when the rights were compiled, only the grants on all clusters count.
    pub fn sees(&self, cluster: ClusterId) -> bool {
        !self.in_cluster(Some(cluster)).grants.is_empty()
    }

    /// The clusters in which the caller has any right.
    pub fn visible_clusters(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.iter().filter(|(_, own)| !own.grants.is_empty()).map(|(id, _)| *id)
    }

    /// Whether the caller has a right with the reach `cluster` in a cluster. Without one, what describes the whole
    /// cluster (counts, nodes, identity, certificates) is left out of its row. As [`Rights::sees`] for a cluster that was
    /// not registered.
    pub fn reaches_cluster(&self, cluster: ClusterId) -> bool {
        self.of(self.in_cluster(Some(cluster))).any(|(_, grant)| grant.reach_is_cluster)
    }

    /// Where the caller has a right.
    pub fn extent(&self, verb: RightVerb, resource: &RightResource) -> Extent {
        let slot = self.slot(resource);
        if self.of(&self.everywhere).any(|(_, grant)| grant.reach_is_cluster && grant.has(verb, slot)) {
            Extent::All
        } else if self.clusters.values().any(|own| self.of(own).any(|(_, grant)| grant.has(verb, slot))) {
            Extent::Some
        } else {
            Extent::None
        }
    }

    /// All live grants, with their indexes.
    pub(super) fn grants(&self) -> impl Iterator<Item = (usize, &LiveGrant)> {
        self.grants.iter().enumerate()
    }

    /// The grants that contain a cluster; without a cluster, those on all clusters. Of a cluster that was not
    /// registered when the rights were compiled, nothing else is known: it may not exist, or have been registered a
    /// moment ago.
    pub(super) fn in_cluster(&self, cluster: Option<ClusterId>) -> &ClusterGrants {
        cluster.and_then(|id| self.clusters.get(&id)).map_or(&self.everywhere, |own| &**own)
    }

    /// The indexes of the grants that contain every cluster with at least these labels, also those registered later.
    pub(super) fn indexes_by_labels(&self, labels: &Labels) -> Vec<usize> {
        let contains = |scope: &ClusterScope| scope.contains_labels(labels);
        self.grants().filter(|(_, grant)| grant.is_in(&contains)).map(|(n, _)| n).collect()
    }

    /// The grants of a cluster, with their indexes.
    pub(super) fn of<'a>(&'a self, own: &'a ClusterGrants) -> impl Iterator<Item = (usize, &'a LiveGrant)> {
        own.grants.iter().map(|&n| (n, &self.grants[n]))
    }

    /// The grant with this index.
    pub(super) fn grant(&self, index: usize) -> &LiveGrant {
        &self.grants[index]
    }

    /// The slot of a resource. A custom group that no rule names has the slot of all custom resources.
    pub(super) fn slot(&self, resource: &RightResource) -> usize {
        self.slots.get(resource).copied().unwrap_or_else(|| self.slots[&RightResource::Custom])
    }

    /// The namespaces in which the grants of a cluster give a right together.
    pub(super) fn namespaces(&self, own: &ClusterGrants, verb: RightVerb, slot: usize) -> NamespaceSet {
        let mut unions = own.unions.lock().unwrap_or_else(PoisonError::into_inner);
        let union = unions.entry((verb, slot)).or_insert_with(|| {
            let giving = self.of(own).filter(|(_, grant)| grant.has(verb, slot));
            NamespaceSet::new(giving.flat_map(|(_, grant)| grant.namespaces(verb).patterns()).cloned())
        });
        union.clone()
    }
}

impl ClusterGrants {
    fn new(grants: Vec<usize>) -> Self {
        Self { grants, ..Self::default() }
    }

    /// Sorted indexes of the grants.
    pub(super) fn indexes(&self) -> &[usize] {
        &self.grants
    }
}

impl LiveGrant {
    /// The rights of the role alone.
    fn new(slots: &Slots, effective: &EffectiveGrant) -> Self {
        let EffectiveGrant { grant, rules, clusters, reach, .. } = effective;
        let reach_is_cluster = *reach == Reach::Cluster;
        let terminal_verb = if rules.of_super_admin() { RightVerb::List } else { RightVerb::Exec };
        Self {
            grant: Arc::new(grant.clone()),
            verbs: verbs_by_slot(slots, rules, reach_is_cluster),
            clusters: clusters.clone(),
            ceiling_clusters: ClusterScope::All,
            reach_is_cluster,
            namespaces: reach.namespaces(RightVerb::List),
            terminal_namespaces: reach.namespaces(terminal_verb),
        }
    }

    /// The part of the grant that is within a ceiling.
    fn within(self, ceiling: &Self) -> Self {
        let verbs = self.verbs.iter().zip(&ceiling.verbs).map(|(own, within)| own.intersect(*within));
        Self {
            verbs: verbs.collect(),
            ceiling_clusters: ceiling.clusters.clone(),
            reach_is_cluster: self.reach_is_cluster && ceiling.reach_is_cluster,
            namespaces: self.namespaces.intersect(&ceiling.namespaces),
            terminal_namespaces: self.terminal_namespaces.intersect(&ceiling.terminal_namespaces),
            ..self
        }
    }

    /// Adds what any right gives: it shows the cluster and the names of the namespaces that it reaches. `None` if the
    /// grant gives no right.
    fn with_implied_rights(mut self, slots: &Slots) -> Option<Self> {
        if self.namespaces.is_empty() || self.verbs.iter().all(|verbs| verbs.is_empty()) {
            return None;
        }
        for (resource, implied) in [
            (RightResource::Namespaces, Verbs::of(&[RightVerb::List])),
            (RightResource::Clusters, Verbs::of(&[RightVerb::List, RightVerb::Get])),
        ] {
            let own = &mut self.verbs[slots[&resource]];
            *own = own.union(implied);
        }
        Some(self)
    }

    /// Whether both cluster scopes of the grant contain a cluster.
    fn is_in(&self, contains: &dyn Fn(&ClusterScope) -> bool) -> bool {
        contains(&self.clusters) && contains(&self.ceiling_clusters)
    }

    /// Whether the grant gives the right anywhere.
    pub(super) fn has(&self, verb: RightVerb, slot: usize) -> bool {
        self.verbs[slot].contains(verb)
    }

    /// The namespaces in which the grant gives its rights with this verb.
    pub(super) fn namespaces(&self, verb: RightVerb) -> &NamespaceSet {
        match verb {
            RightVerb::Exec | RightVerb::Forward => &self.terminal_namespaces,
            _ => &self.namespaces,
        }
    }

    /// Whether the grant, which contains the cluster of the question, gives a part of what is asked.
    pub(super) fn verdict(&self, ask: &Ask, slot: usize) -> Verdict {
        let reaches = || match &ask.namespaces {
            _ if ask.is_of_cluster_row() => true,
            NamespaceScope::Unscoped => self.reach_is_cluster,
            NamespaceScope::All => true,
            NamespaceScope::One(namespace) => self.namespaces(ask.verb).contains(namespace.as_str()),
            NamespaceScope::Set(set) => !self.namespaces(ask.verb).intersect(set).is_empty(),
        };
        if !self.has(ask.verb, slot) {
            Verdict::OtherRole
        } else if reaches() {
            Verdict::Allows
        } else {
            Verdict::OtherNamespaces
        }
    }
}

/// The verbs on each resource, by slot. A grant of namespaces gives no right on a resource that takes the reach
/// `cluster`.
fn verbs_by_slot(slots: &Slots, rules: &RoleRules, reach_is_cluster: bool) -> Vec<Verbs> {
    let mut table = vec![Verbs::NONE; slots.len()];
    for rule in rules.effective(reach_is_cluster) {
        for own in &rule.resources {
            for (resource, &slot) in slots {
                if own.includes(resource) && (reach_is_cluster || !resource.is_cluster_scoped()) {
                    table[slot] = table[slot].union(rule.verbs);
                }
            }
        }
    }
    table
}
