//! Groups of rows with the same owner and rule in one cluster: the problems before their page is known.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, HashSet},
};

use jiff::Timestamp;

use super::{
    CLUSTER, ProblemRow, ProblemSample, Source,
    rules::{self, Cause, Facts, Fields},
};
use crate::{
    diagnosis::{Rule, Variant},
    inventory::{ClusterResult, List, Listing, ObjectKey},
    kind::Kind,
    rows::{Level, Row},
};

/// Kind, namespace and name of an object. The kind is in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Object {
    kind: String,
    namespace: Option<String>,
    name: String,
}

/// Rows of one object with one rule.
#[derive(Clone, Debug)]
pub(super) struct Group {
    object: Object,
    pub(super) level: Level,
    pub(super) rule: Rule,
    variant: Option<Variant>,
    reason: Option<String>,
    count: u64,
    since: Option<Timestamp>,
    replicas: Option<Replicas>,
    sample: Option<ProblemSample>,
}

/// Replicas of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Replicas {
    wanted: i64,
    lost: i64,
}

impl Group {
    fn new(object: Object, (rule, variant): Cause, facts: &Facts<'_>) -> Self {
        Self {
            object,
            level: facts.level,
            rule,
            variant,
            reason: facts.cause(),
            count: 0,
            since: None,
            replicas: None,
            sample: None,
        }
    }

    /// The problem of a cluster.
    pub(super) fn of_cluster(
        name: &str,
        level: Level,
        since: Option<Timestamp>,
        reason: Option<String>,
    ) -> Self {
        let object = Object { kind: CLUSTER.to_owned(), namespace: None, name: name.to_owned() };
        let replicas = Some(Replicas { wanted: 1, lost: i64::from(level == Level::Bad) });
        let (rule, variant, count, sample) = (Rule::Cluster, None, 1, None);
        Self { object, level, rule, variant, reason, count, since, replicas, sample }
    }

    /// Adds a row. The worst row decides level, variant, reason and sample.
    fn add(&mut self, (_, variant): Cause, facts: &Facts<'_>, sample: Option<ProblemSample>) {
        if self.count == 0 || facts.level > self.level {
            (self.level, self.variant, self.reason) = (facts.level, variant, facts.cause());
            self.sample = sample;
        }
        self.count += 1;
        self.since = self.since.into_iter().chain(facts.since).min();
    }

    /// The workload whose row is to be read: the owner of pods whose own row is as wanted.
    pub(super) fn unknown_workload(&self) -> Option<ObjectKey> {
        let Object { kind, namespace, name } = &self.object;
        let is_listed = List::Workloads.info().kinds.iter().any(|listed| listed.info().singular == kind);
        let namespace = namespace.clone().filter(|_| is_listed && self.replicas.is_none())?;
        Some((namespace, name.clone()))
    }

    /// Adds the replicas of the workload, if its row is among these.
    pub(super) fn add_workload(&mut self, fields: &Fields, rows: &[Row]) {
        let Object { kind, namespace, name } = &self.object;
        let row = rows.iter().find(|row| {
            row.namespace() == namespace.as_deref()
                && row.name() == name
                && fields.workloads.r#type.and_then(|field| row.text(field)) == Some(kind.as_str())
        });
        if let (None, Some(row)) = (self.replicas, row) {
            self.replicas = Replicas::of(&Facts::of(row, &fields.workloads), fields);
        }
    }

    /// The order of problems: level, lost of wanted replicas, the newest first; then by object and rule.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let key =
            |group: &Self| (Reverse(group.level), Reverse(group.lost_per_million()), Reverse(group.since));
        key(self).cmp(&key(other)).then_with(|| (&self.object, self.rule).cmp(&(&other.object, other.rule)))
    }

    fn lost_per_million(&self) -> i64 {
        match self.replicas {
            Some(Replicas { wanted, lost }) if wanted > 0 => lost.saturating_mul(1_000_000) / wanted,
            _ => 0,
        }
    }

    /// The row of a problem in this cluster, without recent changes.
    pub(super) fn into_row(self, cluster: &ClusterResult) -> ProblemRow {
        let Self { object, level, rule, variant, reason, count, since, replicas, sample } = self;
        let Object { kind, namespace, name } = object;
        ProblemRow {
            cluster_id: cluster.id,
            cluster_name: cluster.name.clone(),
            namespace,
            kind,
            name,
            level,
            rule,
            variant,
            reason,
            count,
            since,
            wanted: replicas.map(|replicas| replicas.wanted),
            lost: replicas.map(|replicas| replicas.lost),
            sample,
            recent_changes: Vec::new(),
        }
    }
}

impl Replicas {
    /// The replicas of a workload; `None` for a cron job.
    fn of(workload: &Facts<'_>, fields: &Fields) -> Option<Self> {
        let wanted = workload.number(fields.workloads.replicas)?;
        // the completions of a job that failed are lost; a job has no available replicas
        let available = workload.number(fields.workloads.available).unwrap_or_default();
        Some(Self { wanted, lost: (wanted - available).clamp(0, wanted.max(0)) })
    }

    /// One object without replicas.
    const ONE: Self = Self { wanted: 1, lost: 1 };
}

/// The groups of one cluster.
pub(super) struct Groups<'a> {
    fields: &'a Fields,
    now: Timestamp,
    listings: Vec<(Source, Listing)>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(fields: &'a Fields, now: Timestamp) -> Self {
        Self { fields, now, listings: Vec::new() }
    }

    /// Adds the rows of a list that are not as wanted.
    pub(super) fn add(&mut self, source: Source, listing: Listing) {
        self.listings.push((source, listing));
    }

    /// Groups all rows.
    pub(super) fn finish(self) -> Vec<Group> {
        let rows = |list: List| {
            let listings = self.listings.iter().filter(move |((source, _), _)| *source == list);
            listings.flat_map(|(_, listing)| &listing.rows)
        };
        let mut groups = BTreeMap::<(Object, Rule), Group>::new();
        let mut add = |object: Object, cause: Cause, facts: &Facts<'_>, sample: Option<ProblemSample>| {
            let group =
                groups.entry((object.clone(), cause.0)).or_insert_with(|| Group::new(object, cause, facts));
            group.add(cause, facts, sample);
        };
        for row in rows(List::Nodes) {
            let facts = Facts::of(row, &self.fields.nodes);
            add(object(Kind::Node, row), rules::of_node(&facts), &facts, None);
        }
        let lost_nodes: HashSet<_> = rows(List::Nodes)
            .filter(|row| Facts::of(row, &self.fields.nodes).status != "Ready")
            .map(Row::name)
            .collect();
        for row in rows(List::Pods) {
            let fields = &self.fields.pods;
            let facts = Facts::of(row, fields);
            let Some(cause) = rules::of_pod(&facts, fields, &lost_nodes, self.now) else { continue };
            let sample =
                ProblemSample { pod: row.name().to_owned(), container: facts.fault.container.clone() };
            add(owner_of_pod(row, facts.text(fields.workload)), cause, &facts, Some(sample));
        }
        for row in rows(List::PersistentVolumeClaims) {
            let facts = Facts::of(row, &self.fields.claims);
            add(object(Kind::PersistentVolumeClaim, row), rules::of_claim(&facts), &facts, None);
        }
        let fields = &self.fields.workloads;
        let is_cron_job =
            |facts: &Facts<'_>| facts.text(fields.r#type) == Some(Kind::CronJob.info().singular);
        let mut succeeded = BTreeMap::<Object, Timestamp>::new();
        for row in rows(List::Workloads) {
            let facts = Facts::of(row, fields);
            if !is_cron_job(&facts) {
                continue;
            }
            let cron_job = object(Kind::CronJob, row);
            succeeded.extend(facts.fault.succeeded_at().map(|at| (cron_job.clone(), at)));
            if let Some(cause) = rules::of_cron_job(&facts, self.now) {
                // its own status is as wanted
                add(cron_job, cause, &Facts { level: Level::Warn, ..facts }, None);
            }
        }
        let mut replicas = BTreeMap::<Object, Replicas>::new();
        for row in rows(List::Workloads) {
            let facts = Facts::of(row, fields);
            if is_cron_job(&facts) {
                continue;
            }
            let cause = rules::of_workload(&facts, fields);
            let kind = facts.text(fields.r#type).unwrap_or_default();
            let own = Object { kind: kind.to_owned(), ..object(Kind::Deployment, row) };
            let owner = facts.fault.owner.as_deref().and_then(|owner| owner.split_once('/'));
            let object = match owner {
                Some((kind, name)) => Object { kind: kind.to_owned(), name: name.to_owned(), ..own.clone() },
                None => own.clone(),
            };
            // the failure of a cron job whose later job succeeded is over
            if succeeded.get(&object).zip(facts.since).is_some_and(|(succeeded, failed)| *succeeded >= failed)
            {
                continue;
            }
            if let Some(numbers) = Replicas::of(&facts, self.fields) {
                replicas.insert(own, numbers);
            }
            add(object, cause, &facts, None);
        }
        let mut groups: Vec<_> = without_known_causes(groups).collect();
        for group in &mut groups {
            let is_alone = ["pod", "node", "persistentvolumeclaim"].contains(&group.object.kind.as_str());
            let one = is_alone.then_some(Replicas::ONE);
            group.replicas = replicas.get(&group.object).copied().or(one);
        }
        groups
    }
}

/// The groups without stuck rollouts of workloads that have another problem, which is the cause.
fn without_known_causes(groups: BTreeMap<(Object, Rule), Group>) -> impl Iterator<Item = Group> {
    let causes = groups.keys().filter(|(_, rule)| *rule != Rule::Rollout);
    let with_cause: HashSet<_> = causes.map(|(object, _)| object.clone()).collect();
    groups
        .into_values()
        .filter(move |group| group.rule != Rule::Rollout || !with_cause.contains(&group.object))
}

/// The object of a row of this kind.
fn object(kind: Kind, row: &Row) -> Object {
    Object {
        kind: kind.info().singular.to_owned(),
        namespace: row.namespace().map(str::to_owned),
        name: row.name().to_owned(),
    }
}

/// The workload of a pod, otherwise the pod itself. The mirror of a static pod is controlled by its node.
fn owner_of_pod(row: &Row, workload: Option<&str>) -> Object {
    let pod = object(Kind::Pod, row);
    match workload.and_then(|workload| workload.split_once('/')) {
        Some((kind, name)) if kind != "node" => {
            Object { kind: kind.to_owned(), name: name.to_owned(), ..pod }
        }
        _ => pod,
    }
}
