//! One question to all clusters at once: where is it, and how does it stand everywhere.
//!
//! Every cluster answers for itself. One that is slow, failing or gone costs the others nothing: all are asked at the
//! same time, what has not answered within [`DEADLINE`] is `pending`, and goes on being read for whoever asks next.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap, HashMap},
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{
    Counts, Inventory, LISTS, List, ListInfo, ListQuery, ListScope, Listing, Pagination, Row, STATUS, Sort,
    to_list,
};
use crate::{
    access::Caller,
    clock::Spawner,
    cluster::ClusterId,
    error::{Error, FieldError, Reason, Result},
    gate::{ClusterPermits, Gate},
    name::NamespaceScope,
};

/// How long a reply waits for clusters.
const DEADLINE: Duration = Duration::from_millis(1500);

/// Questions to one cluster that may be open. A cluster that hangs holds so many, and then is not asked but pending.
const MAX_IN_FLIGHT: usize = 32;

/// How far into the rows of all clusters a page may reach: so many are taken from each of them and merged.
pub const MAX_RESULT_WINDOW: u64 = 10_000;

/// Where a cluster's part of an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClusterResultStatus {
    /// It is all there.
    Ok,
    /// It is the last that was known; the cluster is out of reach.
    Stale,
    /// It is not there yet.
    Pending,
    /// It cannot be read; `error_code` says why.
    Error,
}

/// A cluster's part of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterResult {
    /// The cluster's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Where its part stands.
    pub status: ClusterResultStatus,
    /// Why it cannot be read: a code as errors have them.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error_code: Option<&'static str>,
    /// Its rows that match, on all pages.
    pub total: Option<u64>,
    /// When they were known to be current.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub as_of: Option<Timestamp>,
}

/// What was found in all clusters.
#[derive(Clone, Debug)]
pub struct SearchResults {
    /// The rows of the page, each with the place of its cluster in `clusters`.
    pub rows: Vec<(usize, Row)>,
    /// Where they stand among all that was found in the clusters that answered.
    pub pagination: Pagination,
    /// Every cluster, by id.
    pub clusters: Vec<ClusterResult>,
}

/// How many objects of a kind there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KindCounts {
    /// All of them.
    pub total: u64,
    /// By status.
    pub by_status: BTreeMap<String, u64>,
}

/// How a cluster stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterOverview {
    /// The cluster's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Where its part stands: the worst of its kinds.
    pub status: ClusterResultStatus,
    /// Why one of its kinds cannot be read: a code as errors have them.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error_code: Option<&'static str>,
    /// By kind, of those that are known.
    pub kinds: BTreeMap<String, KindCounts>,
    /// When the oldest of them was known to be current.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub as_of: Option<Timestamp>,
    /// Whether the cluster could not be asked since, of any of them.
    pub stale: bool,
}

/// How all clusters stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Overview {
    /// By kind, of all clusters whose part is known.
    pub totals: BTreeMap<String, KindCounts>,
    /// Every cluster, by id.
    pub clusters: Vec<ClusterOverview>,
}

/// The lists that can be searched in all clusters, and watched: of clusters' objects, and not of one owner's.
pub fn searchable_lists() -> impl Iterator<Item = &'static ListInfo> {
    LISTS.iter().filter(|info| info.scope != ListScope::Ours && info.owner.is_none())
}

/// The lists whose rows are counted by status.
pub fn countable_lists() -> impl Iterator<Item = &'static ListInfo> {
    searchable_lists()
        .filter(|info| (info.fields)().iter().any(|field| field.name == STATUS && field.counted))
}

/// Asks all clusters.
#[derive(Clone)]
pub struct Fleet {
    gate: Gate,
    inventory: Arc<dyn Inventory>,
    spawner: Arc<dyn Spawner>,
    open: Arc<Mutex<HashMap<ClusterId, usize>>>,
}

/// A question that is open; dropped, it is not.
struct InFlight {
    of: Arc<Mutex<HashMap<ClusterId, usize>>>,
    cluster: ClusterId,
}

type FleetQuery<T> = (ClusterId, BoxFuture<'static, Result<T>>);

impl Fleet {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, inventory: Arc<dyn Inventory>, spawner: Arc<dyn Spawner>) -> Self {
        Self { gate, inventory, spawner, open: Arc::default() }
    }

    /// A page of the rows of `list` in all clusters: in the order of the query, ties by namespace, name, then cluster.
    ///
    /// # Errors
    /// `InvalidInput` for a page beyond [`MAX_RESULT_WINDOW`]; as [`crate::gate::Gate::allow`]. What happened to a cluster is part
    /// of the answer.
    pub async fn search(&self, caller: &Caller, list: List, query: &ListQuery) -> Result<SearchResults> {
        let reach = query.page.saturating_mul(query.per_page);
        if reach > MAX_RESULT_WINDOW {
            let refused = FieldError { name: "page".to_owned(), reason: Reason::OutOfRange };
            return Err(Error::fields(vec![refused]));
        }
        let all = self.gate.allow_in_all_clusters(caller, &[to_list(list, &query.namespaces)]).await?;
        let first = Arc::new(ListQuery { page: 1, per_page: reach, ..query.clone() });
        let mut clusters = Vec::with_capacity(all.len());
        let mut questions: Vec<FleetQuery<Listing>> = Vec::with_capacity(all.len());
        for ClusterPermits { cluster, name, permits } in all {
            for permit in permits {
                let (inventory, first) = (self.inventory.clone(), first.clone());
                let question = async move { inventory.page(&permit, list, &first).await };
                questions.push((cluster, question.boxed()));
            }
            clusters.push((cluster, name.to_string()));
        }
        let answers = self.ask(questions).await;

        let (mut parts, mut runs, mut total) = (Vec::new(), Vec::new(), 0);
        for ((id, name), answer) in clusters.into_iter().zip(answers) {
            let (status, error_code) =
                standing(answer.as_ref().map(|answer| answer.as_ref().map(|part| part.stale)));
            let part = answer.and_then(Result::ok);
            let count = part.as_ref().map(|part| part.pagination.total);
            total += count.unwrap_or_default();
            let as_of = part.as_ref().map(|part| part.as_of);
            parts.push(ClusterResult { id, name, status, error_code, total: count, as_of });
            runs.push(part.map(|part| part.rows).unwrap_or_default());
        }
        let rows = merged(runs, query.sort).skip(query.offset()).take(query.limit()).collect();
        Ok(SearchResults { rows, pagination: Pagination::of(query, total), clusters: parts })
    }

    /// How many objects of these lists (of all that are [`countable_lists`] if there are none) each cluster has, by status.
    ///
    /// # Errors
    /// As [`crate::gate::Gate::allow`]. What happened to a cluster is part of the answer.
    pub async fn overview(&self, caller: &Caller, lists: &[List]) -> Result<Overview> {
        let infos: Vec<_> =
            countable_lists().filter(|info| lists.is_empty() || lists.contains(&info.list)).collect();
        let reads: Vec<_> = infos.iter().map(|info| to_list(info.list, &NamespaceScope::All)).collect();
        let all = self.gate.allow_in_all_clusters(caller, &reads).await?;
        let mut clusters = Vec::with_capacity(all.len());
        let mut questions: Vec<FleetQuery<Counts>> = Vec::with_capacity(all.len() * infos.len());
        for ClusterPermits { cluster, name, permits } in all {
            for (info, permit) in infos.iter().zip(permits) {
                let (inventory, list) = (self.inventory.clone(), info.list);
                let question = async move { inventory.count(&permit, list).await };
                questions.push((cluster, question.boxed()));
            }
            clusters.push((cluster, name.to_string()));
        }
        let mut answers = self.ask(questions).await.into_iter();

        let mut totals: BTreeMap<String, KindCounts> =
            infos.iter().map(|info| (info.key.to_owned(), KindCounts::default())).collect();
        let clusters = clusters.into_iter().map(|(id, name)| {
            let mut overview = ClusterOverview {
                id,
                name,
                status: ClusterResultStatus::Ok,
                error_code: None,
                kinds: BTreeMap::new(),
                as_of: None,
                stale: false,
            };
            for (info, answer) in infos.iter().zip(answers.by_ref()) {
                let (status, code) =
                    standing(answer.as_ref().map(|answer| answer.as_ref().map(|counts| counts.stale)));
                overview.status = overview.status.max(status);
                overview.error_code = overview.error_code.or(code);
                let counts = answer.and_then(Result::ok).map(|Counts { by_status, total, as_of, stale }| {
                    overview.stale |= stale;
                    overview.as_of = Some(overview.as_of.map_or(as_of, |oldest| oldest.min(as_of)));
                    KindCounts { total, by_status }
                });
                if let (Some(total), Some(counts)) = (totals.get_mut(info.key), &counts) {
                    total.total += counts.total;
                    for (status, count) in &counts.by_status {
                        *total.by_status.entry(status.clone()).or_default() += count;
                    }
                }
                overview.kinds.extend(counts.map(|counts| (info.key.to_owned(), counts)));
            }
            overview
        });
        let clusters = clusters.collect();
        Ok(Overview { totals, clusters })
    }

    /// Asks all at once; none for what has not answered in time, or was not asked because the cluster leaves too much
    /// unanswered.
    async fn ask<T: Send + 'static>(&self, questions: Vec<FleetQuery<T>>) -> Vec<Option<Result<T>>> {
        let mut answers: Vec<_> = questions.iter().map(|_| None).collect();
        let asked = questions.into_iter().enumerate().filter_map(|(at, (cluster, question))| {
            let open = self.enter(cluster)?;
            let answered = async move {
                let answer = question.await;
                drop(open);
                (at, answer)
            };
            Some(answered.boxed())
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut deadline = self.spawner.sleep(DEADLINE);
        loop {
            match select(asked.next(), &mut deadline).await {
                Either::Left((Some((at, answer)), _)) => answers[at] = Some(answer),
                Either::Left((None, _)) => return answers,
                Either::Right(_) => break,
            }
        }
        // what has begun to be read is there for whoever asks next
        self.spawner.spawn(asked.for_each(|_| ready(())).boxed());
        answers
    }

    fn enter(&self, cluster: ClusterId) -> Option<InFlight> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = open.entry(cluster).or_default();
        if *theirs >= MAX_IN_FLIGHT {
            return None;
        }
        *theirs += 1;
        Some(InFlight { of: self.open.clone(), cluster })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut open = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = open.get_mut(&self.cluster) {
            *theirs -= 1;
            if *theirs == 0 {
                open.remove(&self.cluster);
            }
        }
    }
}

/// Where a part stands, by its answer if there is one: whether that is stale, or why there is none.
fn standing(answer: Option<Result<bool, &Error>>) -> (ClusterResultStatus, Option<&'static str>) {
    match answer {
        None => (ClusterResultStatus::Pending, None),
        Some(Ok(false)) => (ClusterResultStatus::Ok, None),
        Some(Ok(true)) => (ClusterResultStatus::Stale, None),
        Some(Err(error)) => (ClusterResultStatus::Error, Some(error.code().as_str())),
    }
}

/// The next row of a cluster.
struct NextRow {
    row: Row,
    run: usize,
    sort: Option<Sort>,
}

impl Ord for NextRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.row.order(&other.row, self.sort).then_with(|| self.run.cmp(&other.run))
    }
}

impl PartialOrd for NextRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for NextRow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for NextRow {}

/// Rows that are in order, cluster by cluster, as one; no more of them are looked at than are taken.
fn merged(runs: Vec<Vec<Row>>, sort: Option<Sort>) -> impl Iterator<Item = (usize, Row)> {
    let mut runs: Vec<_> = runs.into_iter().map(Vec::into_iter).collect();
    let first = runs.iter_mut().enumerate();
    let heads = first.filter_map(|(run, rows)| Some(Reverse(NextRow { row: rows.next()?, run, sort })));
    let mut heads: BinaryHeap<_> = heads.collect();
    std::iter::from_fn(move || {
        let Reverse(NextRow { row, run, .. }) = heads.pop()?;
        heads.extend(runs[run].next().map(|row| Reverse(NextRow { row, run, sort })));
        Some((run, row))
    })
}
