//! Fleet search and fleet overview: queries over all clusters in which the caller has a right, each cut to what the
//! caller's rights reach there.
//!
//! All clusters are queried concurrently, and each contributes its own result. A slow, failing or unreachable cluster
//! does not affect the others: a result that does not arrive within [`DEADLINE`] is `pending`. Its read continues in
//! the background for the next request.

use std::{collections::BTreeMap, future::ready, sync::Arc, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{Counts, Inventory, LISTS, List, ListInfo, STATUS, to_list};
use crate::{
    access::Caller,
    error::{Error, Result},
    gate::{ClusterPermits, Gate},
    ids::ClusterId,
    limiter::Limiter,
    namespaces::NamespaceScope,
    rows::ListScope,
    spawn::Spawner,
};

mod search;

pub(crate) use search::result_window;
pub use search::{FoundRow, MAX_RESULT_WINDOW, SearchResults};

/// Maximum time that a response waits for clusters.
const DEADLINE: Duration = Duration::from_millis(1500);

/// Maximum number of concurrent queries to one cluster. A cluster that does not respond reaches this limit; further
/// queries are then not sent and are reported as `pending`.
const MAX_IN_FLIGHT: usize = 32;

/// Status of a cluster's part of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClusterResultStatus {
    /// The result is complete.
    Ok,
    /// The last known data; the cluster is unreachable.
    Stale,
    /// The result is not available yet.
    Pending,
    /// The cluster could not be read; `error_code` gives the reason.
    Error,
}

/// Result of a search in one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterResult {
    /// The cluster's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Status of its part of the result.
    pub status: ClusterResultStatus,
    /// Error code if one of the lists could not be read.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error_code: Option<&'static str>,
    /// Number of its matching rows, on all pages, of the lists that could be read; null if none could.
    pub total: Option<u64>,
    /// Whether the caller's rights reach all that was searched in the cluster.
    pub complete: bool,
    /// Last time at which the least recent of the rows were known to be current.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub as_of: Option<Timestamp>,
}

impl ClusterResult {
    /// The result of a cluster before its first response.
    pub(crate) fn new(id: ClusterId, name: String, complete: bool) -> Self {
        let status = ClusterResultStatus::Ok;
        Self { id, name, status, error_code: None, total: None, complete, as_of: None }
    }

    /// Adds the response of one list: the number of its rows, when they were current, and whether they are stale. `None`
    /// if no response arrived.
    pub(crate) fn add(&mut self, response: Option<Result<(u64, Timestamp, bool), &Error>>) {
        let (status, error_code) = result_status(response.map(|response| response.map(|(.., stale)| stale)));
        self.status = self.status.max(status);
        self.error_code = self.error_code.or(error_code);
        if let Some(Ok((total, as_of, _))) = response {
            self.add_total(total);
            self.as_of = Some(self.as_of.map_or(as_of, |oldest| oldest.min(as_of)));
        }
    }

    /// Whether some of the rows are the last known ones.
    pub(crate) fn is_stale(&self) -> bool {
        self.status == ClusterResultStatus::Stale
    }

    /// Adds the number of rows of one list.
    pub(crate) fn add_total(&mut self, total: u64) {
        self.total = Some(self.total.unwrap_or_default() + total);
    }
}

/// Number of objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KindCounts {
    /// Number of all objects.
    pub total: u64,
    /// Number of objects, by status.
    pub by_status: BTreeMap<String, u64>,
}

/// Overview of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClusterOverview {
    /// The cluster's id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// The worst status among its kinds.
    pub status: ClusterResultStatus,
    /// Error code if one of its kinds could not be read.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub error_code: Option<&'static str>,
    /// Object counts, by kind; only kinds that could be read, and that the caller may list.
    pub kinds: BTreeMap<String, KindCounts>,
    /// Whether the caller's rights reach all that was counted in the cluster.
    pub complete: bool,
    /// Last time at which the least recent of these counts was known to be current.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub as_of: Option<Timestamp>,
    /// Whether any of these counts is stale because the cluster was unreachable.
    pub stale: bool,
}

/// Overview of all clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Overview {
    /// Object counts by kind, over all clusters that could be read.
    pub totals: BTreeMap<String, KindCounts>,
    /// All clusters in which the caller has a right, ordered by id.
    pub clusters: Vec<ClusterOverview>,
}

/// Lists that can be searched in all clusters and watched: lists of cluster objects that do not require an owner.
pub fn searchable_lists() -> impl Iterator<Item = &'static ListInfo> {
    LISTS.iter().filter(|info| info.scope != ListScope::Local && info.owner.is_none())
}

/// Searchable lists whose rows are counted by status.
pub fn countable_lists() -> impl Iterator<Item = &'static ListInfo> {
    searchable_lists()
        .filter(|info| (info.fields)().iter().any(|field| field.name == STATUS && field.counted))
}

/// Use case: queries over all clusters.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    spawner: Arc<dyn Spawner>,
    /// Limiter of running queries, by cluster.
    in_flight: Limiter<ClusterId>,
}

pub(crate) type FleetQuery<T> = (ClusterId, BoxFuture<'static, Result<T>>);

impl Fleet {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, inventory: Arc<dyn Inventory>, spawner: Arc<dyn Spawner>) -> Self {
        Self { gate, inventory, spawner, in_flight: Limiter::new(MAX_IN_FLIGHT, usize::MAX) }
    }

    /// Counts the objects of these lists by status, per cluster. Empty `lists` selects all [`countable_lists`].
    ///
    /// # Errors
    /// As [`crate::gate::Gate::allow_in_all_clusters`]. An error of a cluster is part of the result.
    pub async fn overview(&self, caller: &Caller, lists: &[List]) -> Result<Overview> {
        let infos: Vec<_> =
            countable_lists().filter(|info| lists.is_empty() || lists.contains(&info.list)).collect();
        let reads: Vec<_> = infos.iter().map(|info| to_list(info.list, &NamespaceScope::All)).collect();
        let all = self.gate.allow_in_all_clusters(caller, &reads).await?;
        let mut clusters = Vec::with_capacity(all.len());
        let mut requests: Vec<FleetQuery<Counts>> = Vec::with_capacity(all.len() * infos.len());
        for part in all {
            let complete = part.is_complete();
            let ClusterPermits { cluster, name, permits } = part;
            let mut readable = Vec::with_capacity(infos.len());
            for (&info, permit) in infos.iter().zip(permits) {
                let Some(permit) = permit else { continue };
                let (inventory, list) = (self.inventory.clone(), info.list);
                let request = async move { inventory.count(&permit, list).await };
                requests.push((cluster, request.boxed()));
                readable.push(info);
            }
            clusters.push((cluster, name, complete, readable));
        }
        let mut responses = self.run_all(requests).await.into_iter();

        let mut totals: BTreeMap<String, KindCounts> =
            infos.iter().map(|info| (info.key.to_owned(), KindCounts::default())).collect();
        let clusters = clusters.into_iter().map(|(id, name, complete, readable)| {
            let mut overview = ClusterOverview {
                id,
                name,
                status: ClusterResultStatus::Ok,
                error_code: None,
                kinds: BTreeMap::new(),
                complete,
                as_of: None,
                stale: false,
            };
            for (info, response) in readable.into_iter().zip(responses.by_ref()) {
                let (status, code) = result_status(
                    response.as_ref().map(|response| response.as_ref().map(|counts| counts.stale)),
                );
                overview.status = overview.status.max(status);
                overview.error_code = overview.error_code.or(code);
                let counts =
                    response.and_then(Result::ok).map(|Counts { by_status, total, as_of, stale }| {
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

    /// Runs all queries concurrently. `None` if a query did not finish before the deadline, or was not sent because its
    /// cluster has [`MAX_IN_FLIGHT`] running queries.
    pub(crate) async fn run_all<T: Send + 'static>(
        &self,
        requests: Vec<FleetQuery<T>>,
    ) -> Vec<Option<Result<T>>> {
        let mut responses: Vec<_> = requests.iter().map(|_| None).collect();
        let running = requests.into_iter().enumerate().filter_map(|(index, (cluster, request))| {
            let slot = self.in_flight.acquire(cluster)?;
            let task = async move {
                let response = request.await;
                drop(slot);
                (index, response)
            };
            Some(task.boxed())
        });
        let mut running: FuturesUnordered<_> = running.collect();
        let mut deadline = self.spawner.sleep(DEADLINE);
        loop {
            match select(running.next(), &mut deadline).await {
                Either::Left((Some((index, response)), _)) => responses[index] = Some(response),
                Either::Left((None, _)) => return responses,
                Either::Right(_) => break,
            }
        }
        // reads that have begun finish in the background and serve the next request
        self.spawner.spawn(running.for_each(|_| ready(())).boxed());
        responses
    }
}

/// Status and error code of a cluster's response; `None` means that no response arrived, true means stale.
pub(crate) fn result_status(
    response: Option<Result<bool, &Error>>,
) -> (ClusterResultStatus, Option<&'static str>) {
    match response {
        None => (ClusterResultStatus::Pending, None),
        Some(Ok(false)) => (ClusterResultStatus::Ok, None),
        Some(Ok(true)) => (ClusterResultStatus::Stale, None),
        Some(Err(error)) => (ClusterResultStatus::Error, Some(error.code().as_str())),
    }
}
