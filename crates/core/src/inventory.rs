//! Lists: the table of all lists, the port that reads them, and the use cases that read, search and watch them.
//!
//! Routes, documentation, access rules and matrix tests loop over [`LISTS`]. [`crate::rows`] defines the rows and
//! evaluates the queries.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Cause, Error, Result},
    gate::{Gate, Warning},
    ids::ClusterId,
    namespaces::NamespaceScope,
    rows::{Change, ListQuery, Pagination, Row, Table},
    usage::{Usage, UsageApi},
};

mod fleet;
mod lists;
pub mod objects;
mod query;
mod usage;
mod watch;

pub use fleet::{
    ClusterOverview, ClusterResult, ClusterResultStatus, Fleet, FoundRow, KindCounts, MAX_RESULT_WINDOW,
    Overview, SearchResults, countable_lists, searchable_lists,
};
pub(crate) use fleet::{FleetQuery, result_window};
pub use lists::{Join, LISTS, List, ListInfo, ListOwner, Project, UsageOf};
pub use query::SearchQuery;
use usage::PageWithUsage;
pub use usage::with_workloads;
pub use watch::{
    ChangeKind, ListStream, ListStreamEvent, LiveEvent, LiveStream, MAX_LIVE_WATCHES, WatchEvent, WatchQuery,
    Watches,
};

/// A page of any list of Kubernetes objects.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// The position of the page among all matching rows.
    pub pagination: Pagination,
    /// Last time at which the data was known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be reached since `as_of`.
    pub stale: bool,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
}

/// Page of a list, with the part of the request that the caller's rights reach.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The page. The usage in its rows is null.
    pub listing: Listing,
    /// The usage of CPU and memory of each row, in the same order. Empty if none is known, or the list has no usage.
    pub usage: Vec<Option<Usage>>,
    /// The part of the request that it covers.
    pub scope: ListedScope,
}

/// The part of a requested list that a page covers: rows outside the caller's rights are not in it, nor in its totals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListedScope {
    /// Whether the caller's rights reach all namespaces that were requested.
    pub complete: bool,
    /// The patterns of the namespaces that the caller's rights reach; null if `complete`.
    pub namespaces: Option<Vec<String>>,
}

impl ListedScope {
    /// The scope of rows read under this permit.
    pub fn of(permit: &Permit) -> Self {
        let namespaces = match permit.namespaces() {
            NamespaceScope::Set(set) if !permit.is_complete() => {
                Some(set.patterns().iter().map(ToString::to_string).collect())
            }
            _ => None,
        };
        Self { complete: permit.is_complete(), namespaces }
    }
}

/// Number of rows of a list, by status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of rows, by status.
    pub by_status: BTreeMap<String, u64>,
    /// Number of all rows.
    pub total: u64,
    /// Last time at which the data was known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be reached since `as_of`.
    pub stale: bool,
}

impl Counts {
    /// The query for the rows that [`Counts::of_listing`] counts: all rows of `list` in the permit's namespaces.
    pub fn query(permit: &Permit, list: List) -> ListQuery {
        ListQuery {
            namespaces: permit.namespaces().clone(),
            kinds: list.info().kinds.to_vec(),
            per_page: u64::MAX,
            ..ListQuery::default()
        }
    }

    /// Counts the rows of a listing of `list`.
    pub fn of_listing(list: List, listing: Listing) -> Self {
        let Listing { rows, as_of, stale, .. } = listing;
        let (table, _) = Table::new(&(list.info().fields)()).replace_all(0, rows);
        Self::of(&table, &NamespaceScope::All, as_of, stale)
    }

    /// Counts the rows of a table in these namespaces.
    pub fn of(table: &Table, namespaces: &NamespaceScope, as_of: Timestamp, stale: bool) -> Self {
        let by_status = table.tally(STATUS, namespaces).into_iter();
        let by_status = by_status.map(|(status, count)| (status.to_owned(), count)).collect();
        Self { by_status, total: table.count_in(namespaces), as_of, stale }
    }
}

/// Name of the field by which rows are counted.
pub const STATUS: &str = "status";

/// Name of the field with the level of a row.
pub const LEVEL: &str = "level";

/// The initial rows of a watched list.
pub type WatchedRows = Box<dyn ExactSizeIterator<Item = Row> + Send>;

/// Initial rows of a watched list, and the events that follow.
pub struct WatchSnapshot {
    /// The rows that match the query, in its order. Those of objects of any kind are printed one by one, as they are taken.
    pub rows: WatchedRows,
    /// Last time at which the rows were known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be reached since `as_of`.
    pub stale: bool,
    /// Warnings for the caller.
    pub warnings: Vec<Warning>,
    /// Events of all rows of the list in the permit's namespaces, matching or not. They follow `rows` without a gap.
    pub events: BoxStream<'static, ListEvent>,
}

/// Event of a watched list.
#[derive(Clone, Debug)]
pub enum ListEvent {
    /// Rows were added, changed or removed. Watchers of the same namespaces share one copy.
    Changes(Arc<[Change]>),
    /// The cluster became unreachable, or reachable again.
    Freshness {
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the rows may be out of date.
        stale: bool,
    },
    /// The reader was too slow and missed events. Last event of the stream.
    Lagged,
    /// The list is no longer cached, because its cluster or its connection changed. Last event of the stream.
    ConnectionChanged,
}

/// Namespace and name of an object.
pub type ObjectKey = (String, String);

/// The rows with one of these namespaces and names.
pub fn rows_named(rows: Vec<Row>, objects: &[ObjectKey]) -> Vec<Row> {
    let is_named = |row: &Row| {
        objects
            .iter()
            .any(|(namespace, name)| row.name() == name && row.namespace() == Some(namespace.as_str()))
    };
    rows.into_iter().filter(is_named).collect()
}

/// Port: lists of a cluster's objects.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Returns a page of `list` in the permit's cluster and namespaces. A list read after a change through the same
    /// process contains that change. While the cluster is unreachable, the page holds the last known rows, if any,
    /// marked `stale`.
    ///
    /// # Errors
    /// Code `ConnectionError`, `TimeoutError`, `RateLimited` or `ForbiddenByCluster`; `TooLarge` if the list is
    /// larger than one request may read; `Overloaded` at the limit of concurrent reads; `NotFoundInCluster` if the list
    /// holds one owner's objects ([`ListInfo::owner`]) and that owner does not exist.
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing>;

    /// Counts the rows of `list` by status, in all namespaces that the permit covers.
    ///
    /// # Errors
    /// As [`Inventory::page`].
    async fn count(&self, permit: &Permit, list: List) -> Result<Counts> {
        let listing = self.page(permit, list, &Counts::query(permit, list)).await?;
        Ok(Counts::of_listing(list, listing))
    }

    /// Returns the rows of `list` with these namespaces and names, in the permit's cluster and namespaces. What does not
    /// exist is left out.
    ///
    /// # Errors
    /// As [`Inventory::page`].
    async fn find(&self, permit: &Permit, list: List, objects: &[ObjectKey]) -> Result<Vec<Row>> {
        let listing = self.page(permit, list, &Counts::query(permit, list)).await?;
        Ok(rows_named(listing.rows, objects))
    }

    /// Returns the matching rows of `list` in the permit's namespaces, and a stream of the events that follow.
    ///
    /// # Errors
    /// As [`Inventory::page`]; `ForbiddenByCluster` if the credential may list but not watch; `NotCached` if the list
    /// cannot be watched, as in this default implementation.
    async fn watch(&self, _permit: &Permit, _list: List, _query: &ListQuery) -> Result<WatchSnapshot> {
        Err(Error::new(Cause::NotCached))
    }

    /// Returns the events of `list` in the permit's namespaces from now on, as [`Inventory::watch`] without the rows.
    ///
    /// # Errors
    /// As [`Inventory::watch`].
    async fn changes(
        &self,
        permit: &Permit,
        list: List,
        query: &ListQuery,
    ) -> Result<BoxStream<'static, ListEvent>> {
        Ok(self.watch(permit, list, query).await?.events)
    }
}

/// Use case: reading the lists of a cluster's objects.
#[derive(Clone)]
pub struct Lists {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    usage: Option<Arc<dyn UsageApi>>,
}

impl Lists {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, inventory: Arc<dyn Inventory>) -> Self {
        Self { gate, inventory, usage: None }
    }

    /// Adds the usage of CPU and memory. Without it, the usage of every row is null.
    #[must_use]
    pub fn with_usage(self, usage: Arc<dyn UsageApi>) -> Self {
        Self { usage: Some(usage), ..self }
    }

    /// Returns a page of `list` in `cluster`, cut to the namespaces that the caller's rights reach.
    ///
    /// # Errors
    /// `RoleTooLow` if they reach none of the requested ones; `NotFound` if the cluster does not exist or the caller
    /// has no right in it; `Overloaded` if too many pages are sorted by usage at once; otherwise as
    /// [`Inventory::page`].
    pub async fn page(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        list: List,
        query: &ListQuery,
    ) -> Result<ListPage> {
        let access = to_list(list, &query.namespaces).in_cluster(cluster);
        let permit = self.gate.allow(caller, access).await?;
        let (usage, spawner) = (self.usage.as_deref(), self.gate.spawner());
        let page = PageWithUsage::read(&*self.inventory, usage, spawner, &permit, list, query).await?;
        let PageWithUsage { listing, usage } = page;
        Ok(ListPage { listing, usage, scope: ListedScope::of(&permit) })
    }
}

/// The access request for reading a list, without a cluster. Only objects that belong to namespaces are requested in
/// `namespaces`: the right to all namespaces includes no right to nodes.
pub(crate) fn to_list(list: List, namespaces: &NamespaceScope) -> AccessRequest {
    let access = AccessRequest::to(Verb::List, list.info().resource);
    match list.info().resource {
        Resource::Kind(kind) if kind.belongs_to_namespace() => access.within(namespaces.clone()),
        _ => access,
    }
}

#[cfg(test)]
mod tests;
