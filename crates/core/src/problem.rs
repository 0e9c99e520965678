//! Problems: what is wrong in all clusters, grouped by cluster, owner and rule (section 10 of the contract).
//!
//! Each cluster contributes the rows of its pods, workloads, nodes and claims that are not as wanted, and those of its cron
//! jobs, as the list cache has them, so that problems cost what a page of a list costs. `rules.rs` finds the rule of a row; `group.rs` puts the pods of
//! one workload with one rule together. [`crate::diagnosis`] examines one object, with its events and logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::{Caller, Permit},
    audit::{Audit, OperationQuery, OperationRow},
    clock::Clock,
    cluster::{Cluster, ClusterRegistry, Health},
    diagnosis::{Rule, Variant},
    error::{Cause, Code, Error, Result},
    gate::ClusterPermits,
    ids::ClusterId,
    inventory::{
        ClusterResult, ClusterResultStatus, Fleet, FleetQuery, LEVEL, List, Listing, ObjectKey,
        result_window, to_list,
    },
    kind::Kind,
    namespaces::NamespaceScope,
    rows::{Level, ListQuery, Pagination, Row, Sort, fields_of},
};

mod group;
mod query;
mod rules;

use group::{Group, Groups};
pub use query::ProblemQuery;

/// The pod that stands for all pods of a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemSample {
    /// Its name.
    pub pod: String,
    /// The container that causes the problem; null if none does.
    pub container: Option<String>,
}

/// What is wrong with one object: a workload, a pod without one, a node, a claim or a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemRow {
    /// Id of the cluster.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub cluster_id: ClusterId,
    /// Name of the cluster.
    pub cluster_name: String,
    /// Namespace of the object; null for nodes and clusters.
    pub namespace: Option<String>,
    /// Kind of the object in lower case: `deployment`, `pod`, `node`, `persistentvolumeclaim`, `cluster`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Level: `warn` or `bad`.
    pub level: Level,
    /// Cause of the problem.
    pub rule: Rule,
    /// What kind of the cause it is, if that is known.
    pub variant: Option<Variant>,
    /// Cause in the words of Kubernetes, such as `OOMKilled`; of a cluster, the cause of the error.
    pub reason: Option<String>,
    /// Number of pods, nodes or claims with the problem.
    pub count: u64,
    /// Time since which it holds, if that is known.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub since: Option<Timestamp>,
    /// Number of replicas that are wanted; null if it is not known.
    pub wanted: Option<i64>,
    /// Number of these replicas that are missing.
    pub lost: Option<i64>,
    /// A pod with the problem; null if it is not one of pods.
    pub sample: Option<ProblemSample>,
    /// Operations of the last hour on the object that the caller may see, the newest 5.
    pub recent_changes: Vec<OperationRow>,
}

/// A page of problems.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProblemPage {
    /// The problems of the page: the worst first, then those with the most lost replicas, then the newest.
    pub problems: Vec<ProblemRow>,
    /// All clusters that were asked, by id. `total` is the number of problems. A cluster that did not respond may have any.
    pub clusters: Vec<ClusterResult>,
    /// The position of the page among the problems of the clusters that responded.
    pub pagination: Pagination,
}

/// Age of the operations that belong to a problem.
const RECENT: Duration = Duration::from_secs(60 * 60);
/// Maximum number of operations of a problem.
const MAX_CHANGES: usize = 5;
/// Number of operations that are read at once.
const READ_OPERATIONS: u64 = 500;
/// Maximum number of such reads for one page of problems.
const MAX_READS: usize = 20;
/// Number of the oldest operations of the last hour among which the one with the smallest id is sought: an operation that
/// takes long may get its id after later ones.
const OLDEST_OPERATIONS: u64 = 50;

/// The object of a problem, as the rows of the audit trail name it: cluster, namespace, kind and name. Those of a cluster
/// have no name.
type ChangedObject = (ClusterId, Option<String>, String, Option<String>);

/// A list that is read from each cluster, and the kinds if they are not those of the list.
type Source = (List, &'static [Kind]);

/// Kind of a problem of a cluster, and of its operations.
const CLUSTER: &str = "cluster";

/// Kinds of the list of cron jobs, which is read whole: a cron job is as wanted by its own status, also one that misses its
/// starts.
const CRON_JOBS: &[Kind] = &[Kind::CronJob];

/// Pods, workloads, jobs, cron jobs, nodes and claims.
const SOURCES: [Source; 6] = [
    (List::Pods, &[]),
    (List::Workloads, &[]),
    (List::Workloads, &[Kind::Job]),
    (List::Workloads, CRON_JOBS),
    (List::Nodes, &[]),
    (List::PersistentVolumeClaims, &[]),
];

/// Use case: problems of all clusters.
#[derive(Clone)]
pub struct Problems {
    fleet: Fleet,
    audit: Audit,
    registry: Arc<dyn ClusterRegistry>,
    clock: Arc<dyn Clock>,
}

/// One cluster, and what was read from it.
struct ClusterPart {
    result: ClusterResult,
    /// Permits by the position of the list in the access requests.
    permits: Vec<Option<Permit>>,
    /// Why the cluster could not be reached.
    unreachable: Option<Cause>,
    groups: Vec<Group>,
}

impl ClusterPart {
    /// Whether a part of the rows is old or did not arrive.
    fn is_in_doubt(&self) -> bool {
        matches!(self.result.status, ClusterResultStatus::Stale | ClusterResultStatus::Pending)
    }
}

impl Problems {
    pub(crate) fn new(
        fleet: Fleet,
        audit: Audit,
        registry: Arc<dyn ClusterRegistry>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { fleet, audit, registry, clock }
    }

    /// Returns a page of the problems that the caller may see.
    ///
    /// # Errors
    /// `InvalidInput` for a page beyond [`crate::inventory::MAX_RESULT_WINDOW`]; `NotFound` for a requested cluster that
    /// does not exist or in which the caller has no right; as [`crate::gate::Gate::allow_in_all_clusters`]. An error of a
    /// cluster is part of the result.
    pub async fn list(&self, caller: &Caller, query: &ProblemQuery) -> Result<ProblemPage> {
        result_window(query.page, query.per_page)?;
        let mut parts = self.read(caller, query).await?;
        self.add_wanted(&mut parts).await;
        let mut problems: Vec<(usize, Group)> = Vec::new();
        for (index, part) in parts.iter_mut().enumerate() {
            let matching = part.groups.drain(..).filter(|group| query.matches(group.level, group.rule));
            let before = problems.len();
            problems.extend(matching.map(|group| (index, group)));
            let total = (problems.len() - before) as u64;
            part.result.total = part.result.total.or((total > 0).then_some(total)).map(|_| total);
        }
        problems.sort_by(|(a_cluster, a), (b_cluster, b)| a.order(b).then_with(|| a_cluster.cmp(b_cluster)));
        let page = ListQuery { page: query.page, per_page: query.per_page, ..ListQuery::default() };
        let pagination = Pagination::of(&page, problems.len() as u64);
        let shown = problems.into_iter().skip(page.offset()).take(page.limit());
        let mut problems: Vec<_> =
            shown.map(|(cluster, group)| group.into_row(&parts[cluster].result)).collect();
        self.add_recent_changes(caller, &mut problems).await?;
        let clusters = parts.into_iter().map(|part| part.result).collect();
        Ok(ProblemPage { problems, clusters, pagination })
    }

    /// Reads the rows that are not as wanted from all requested clusters, and groups them.
    async fn read(&self, caller: &Caller, query: &ProblemQuery) -> Result<Vec<ClusterPart>> {
        let sources: Vec<_> = SOURCES.into_iter().filter(|(list, _)| query.includes(*list)).collect();
        let reads: Vec<_> = sources.iter().map(|(list, _)| to_list(*list, &query.namespaces)).collect();
        let all = self.fleet.gate.allow_in_all_clusters(caller, &reads).await?;
        if let Some(absent) = query.clusters.iter().find(|id| all.iter().all(|part| part.cluster != **id)) {
            return Err(Error::new(Cause::NotFound).resource("cluster").name(absent.to_string()));
        }
        let queries: Vec<_> = sources.iter().map(|source| Arc::new(faulty_rows(source, query))).collect();
        let mut parts = Vec::with_capacity(all.len());
        let mut requests: Vec<FleetQuery<Listing>> = Vec::with_capacity(all.len() * sources.len());
        for part in all.into_iter().filter(|part| query.has_cluster(part.cluster)) {
            let complete = part.is_complete();
            let ClusterPermits { cluster, name, permits } = part;
            for (((list, _), query), permit) in sources.iter().zip(&queries).zip(&permits) {
                let Some(permit) = permit.clone() else { continue };
                let (inventory, list, query) = (self.fleet.inventory.clone(), *list, query.clone());
                let request = async move { inventory.page(&permit, list, &query).await };
                requests.push((cluster, request.boxed()));
            }
            let result = ClusterResult::new(cluster, name, complete);
            parts.push(ClusterPart { result, permits, unreachable: None, groups: Vec::new() });
        }
        let mut responses = self.fleet.run_all(requests).await.into_iter();
        let (now, fields) = (self.clock.now(), rules::Fields::of_lists());
        for part in &mut parts {
            let mut groups = Groups::new(&fields, now);
            for (source, permit) in sources.iter().zip(&part.permits) {
                if permit.is_none() {
                    part.result.add_total(0);
                    continue;
                }
                let response = responses.next().flatten();
                let facts = |listing: &Listing| (listing.pagination.total, listing.as_of, listing.stale);
                part.result.add(response.as_ref().map(|response| response.as_ref().map(facts)));
                match response {
                    Some(Ok(listing)) => groups.add(*source, listing),
                    // a list that the credential may not read is no fault of the cluster
                    Some(Err(error)) if is_unreachable(&error) => part.unreachable = Some(error.cause),
                    Some(Err(_)) | None => {}
                }
            }
            part.groups = groups.finish();
        }
        if query.namespaces == NamespaceScope::All {
            let offline = self.offline_clusters(&parts).await?;
            for part in &mut parts {
                let offline = offline.iter().find(|cluster| cluster.id == part.result.id);
                let problem = of_cluster(part, offline);
                part.groups.extend(problem);
            }
        }
        Ok(parts)
    }

    /// The clusters whose last probe failed, if a cluster's rows are old or did not arrive.
    async fn offline_clusters(&self, parts: &[ClusterPart]) -> Result<Vec<Cluster>> {
        if !parts.iter().any(ClusterPart::is_in_doubt) {
            return Ok(Vec::new());
        }
        let mut clusters = self.registry.list().await?;
        clusters.retain(|cluster| cluster.status == Health::Offline);
        Ok(clusters)
    }

    /// Adds the numbers of replicas of the workloads whose own row is as wanted, although pods of theirs are not. A
    /// workload that cannot be read has none.
    async fn add_wanted(&self, parts: &mut [ClusterPart]) {
        let workloads = SOURCES.iter().position(|(list, _)| *list == List::Workloads).unwrap_or_default();
        let mut requests: Vec<FleetQuery<Vec<Row>>> = Vec::new();
        let mut asked = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let Some(Some(permit)) = part.permits.get(workloads) else { continue };
            let unknown: Vec<ObjectKey> = part.groups.iter().filter_map(Group::unknown_workload).collect();
            if unknown.is_empty() {
                continue;
            }
            let (inventory, permit) = (self.fleet.inventory.clone(), permit.clone());
            let request = async move { inventory.find(&permit, List::Workloads, &unknown).await };
            requests.push((part.result.id, request.boxed()));
            asked.push(index);
        }
        let found = self.fleet.run_all(requests).await;
        let fields = rules::Fields::of_lists();
        for (index, rows) in asked.into_iter().zip(found) {
            let rows = rows.and_then(Result::ok).unwrap_or_default();
            for group in &mut parts[index].groups {
                group.add_workload(&fields, &rows);
            }
        }
    }

    /// Adds the operations of the last hour that the caller may see.
    async fn add_recent_changes(&self, caller: &Caller, problems: &mut [ProblemRow]) -> Result<()> {
        if problems.is_empty() {
            return Ok(());
        }
        let Some(after) = self.last_before_recent(caller).await? else { return Ok(()) };
        let objects: BTreeSet<_> = problems.iter().map(changed_object).collect();
        let (named, clusters): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(.., name)| name.is_some());
        let mut changes = self.recent_changes(caller, named, after).await?;
        changes.extend(self.recent_changes(caller, clusters, after).await?);
        for problem in problems {
            problem.recent_changes = changes.get(&changed_object(problem)).cloned().unwrap_or_default();
        }
        Ok(())
    }

    /// The id before the first operation of the last hour that the caller may see; `None` if there is none. With it, the
    /// store reads no older operations of the objects.
    async fn last_before_recent(&self, caller: &Caller) -> Result<Option<i64>> {
        let from = self.recent_from();
        let query = OperationQuery { from, ..operations("created_at", false, OLDEST_OPERATIONS) };
        let oldest = self.audit.operations(caller, query).await?.logs;
        Ok(oldest.iter().map(|operation| operation.id - 1).min())
    }

    /// The beginning of the last hour, in whole minutes, so that the counts of several requests are of one query.
    fn recent_from(&self) -> Option<Timestamp> {
        let from = self.clock.now().checked_sub(RECENT).ok()?;
        Timestamp::from_second(from.as_second() / 60 * 60).ok()
    }

    /// The newest operations of each of these objects, after this id. Either all of them have a name or none has.
    async fn recent_changes(
        &self,
        caller: &Caller,
        objects: Vec<ChangedObject>,
        after: i64,
    ) -> Result<BTreeMap<ChangedObject, Vec<OperationRow>>> {
        let mut changes: BTreeMap<_, Vec<OperationRow>> =
            objects.into_iter().map(|object| (object, Vec::new())).collect();
        let mut before = None;
        for _ in 0..MAX_READS {
            let open = changes.iter().filter(|(_, found)| found.len() < MAX_CHANGES);
            let open: Vec<_> = open.map(|(object, _)| object.clone()).collect();
            if open.is_empty() {
                break;
            }
            let (from, after) = (self.recent_from(), Some(after));
            let query = OperationQuery { from, before, after, ..operations_of(&open) };
            let operations = self.audit.operations(caller, query).await?.logs;
            before = operations.last().map(|operation| operation.id);
            let is_last = (operations.len() as u64) < READ_OPERATIONS;
            for operation in operations {
                let OperationRow { cluster_id, namespace, resource_type, resource_name, .. } = &operation;
                let Some(cluster) = *cluster_id else { continue };
                let name = resource_name.clone().filter(|_| resource_type != CLUSTER);
                let object = (cluster, namespace.clone(), resource_type.clone(), name);
                if let Some(found) = changes.get_mut(&object)
                    && found.len() < MAX_CHANGES
                {
                    found.push(operation);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(changes)
    }
}

/// The object of a problem, as the audit trail names it.
fn changed_object(problem: &ProblemRow) -> ChangedObject {
    let ProblemRow { cluster_id, namespace, kind, name, .. } = problem;
    let name = Some(name.clone()).filter(|_| kind != CLUSTER);
    (*cluster_id, namespace.clone(), kind.clone(), name)
}

/// The query for the rows of a source that are not as wanted, or for all cron jobs.
fn faulty_rows((list, kinds): &Source, query: &ProblemQuery) -> ListQuery {
    let info = list.info();
    let level = (info.fields)().iter().position(|field| field.name == LEVEL);
    let level = level.filter(|_| *kinds != CRON_JOBS);
    let levels = vec![Level::Warn.as_str().to_owned(), Level::Bad.as_str().to_owned()];
    ListQuery {
        namespaces: query.namespaces.clone(),
        kinds: if kinds.is_empty() { info.kinds } else { *kinds }.to_vec(),
        filters: level.map(|level| (level, levels)).into_iter().collect(),
        per_page: u64::MAX,
        ..ListQuery::default()
    }
}

fn is_unreachable(error: &Error) -> bool {
    matches!(error.code(), Code::ConnectionError | Code::TimeoutError)
}

/// The problem of a cluster that cannot be reached, or whose last known data is old. `offline` is the cluster if its last
/// probe failed.
fn of_cluster(part: &ClusterPart, offline: Option<&Cluster>) -> Option<Group> {
    let ClusterPart { result, unreachable, .. } = part;
    let (level, since, reason) = match (unreachable, offline.filter(|_| part.is_in_doubt())) {
        (Some(cause), _) => (Level::Bad, None, Some(cause.as_str().to_owned())),
        (None, Some(offline)) => (Level::Bad, result.as_of, offline.status_reason.clone()),
        (None, None) if result.is_stale() => (Level::Warn, result.as_of, None),
        (None, None) => return None,
    };
    Some(Group::of_cluster(&result.name, level, since, reason))
}

/// The query for the operations on objects of these clusters, kinds and names, the newest first.
fn operations_of(objects: &[ChangedObject]) -> OperationQuery {
    let fields = fields_of::<OperationRow>();
    let filter = |name: &str, values: BTreeSet<String>| {
        let field = fields.iter().position(|field| field.name == name);
        field.filter(|_| !values.is_empty()).map(|field| (field, values.into_iter().collect::<Vec<_>>()))
    };
    let filters = [
        filter("cluster_id", objects.iter().map(|(cluster, ..)| cluster.to_string()).collect()),
        filter("resource_type", objects.iter().map(|(_, _, kind, _)| kind.clone()).collect()),
        filter("resource_name", objects.iter().filter_map(|(.., name)| name.clone()).collect()),
    ];
    let mut query = operations("id", true, READ_OPERATIONS);
    query.list.filters = filters.into_iter().flatten().collect();
    query
}

/// The query for a page of operations in the order of a field.
fn operations(sort: &str, descending: bool, per_page: u64) -> OperationQuery {
    let field = fields_of::<OperationRow>().iter().position(|field| field.name == sort);
    let sort = field.map(|field| Sort { field, descending });
    let list = ListQuery { sort, per_page, ..ListQuery::default() };
    OperationQuery {
        list,
        user_id: None,
        audited: Vec::new(),
        from: None,
        to: None,
        before: None,
        after: None,
    }
}
