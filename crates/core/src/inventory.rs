//! Every list of the product: which there are, what a row is, how a query reads, and the plain way to answer one.
//!
//! A row type says once how its fields sort and filter ([`ListRow::FIELDS`]); routes, documentation, access rules and
//! matrix tests loop over [`LISTS`]. [`select()`] is the reference implementation of a query: for lists that are read
//! anew, and the oracle of [`Table`], which answers the same of rows that come and go.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::{Cause, Error, Result},
    gate::{Gate, Warning},
    kind::Kind,
    name::NamespaceScope,
};

mod digest;
mod field;
mod fleet;
mod lists;
mod query;
mod row;
mod select;
mod table;
mod watch;

pub use digest::{Digest, DigestKey, Digester};
pub use field::{Cell, Field, FieldInfo, Filter, ListRow, fields_of};
pub use fleet::{
    ClusterOverview, ClusterResult, ClusterResultStatus, Fleet, KindCounts, MAX_RESULT_WINDOW, Overview,
    SearchResults, countable_lists, searchable_lists,
};
pub use lists::{Join, LISTS, List, ListInfo, ListScope, Owner, Project};
pub(crate) use query::number;
pub use query::{ListQuery, Sort};
pub use row::Row;
pub use select::{Pagination, select};
pub use table::{Change, Prepared, Source, Table};
pub use watch::{ChangeKind, ListStream, ListStreamEvent, WatchEvent, Watches};

/// A page of any list of Kubernetes objects.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// Where they stand.
    pub pagination: Pagination,
    /// When the data was known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be asked since.
    pub stale: bool,
    /// What the reader should know.
    pub warnings: Vec<Warning>,
}

/// How many rows of a list there are of each status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By status.
    pub by_status: BTreeMap<String, u64>,
    /// Of all rows.
    pub total: u64,
    /// When the data was known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be asked since.
    pub stale: bool,
}

impl Counts {
    /// Counts the rows of a table.
    pub fn of(table: &Table, as_of: Timestamp, stale: bool) -> Self {
        let by_status = table.tally(STATUS).map(|(status, count)| (status.to_owned(), count)).collect();
        Self { by_status, total: table.len() as u64, as_of, stale }
    }
}

/// The field by whose values rows are counted.
pub const STATUS: &str = "status";

/// A list as it is and goes on.
pub struct WatchSnapshot {
    /// The rows that match now, in their order.
    pub rows: Vec<Row>,
    /// When they were known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be asked since.
    pub stale: bool,
    /// What the reader should know.
    pub warnings: Vec<Warning>,
    /// What happens next, of all rows of the list, whether they match or not; without a gap after `rows`.
    pub events: BoxStream<'static, ListEvent>,
}

/// Something that happened to a list.
#[derive(Clone, Debug)]
pub enum ListEvent {
    /// Rows came, changed or went; shared by all who watch.
    Changes(Arc<[Change]>),
    /// The cluster is out of reach, or within it again.
    Freshness {
        /// When the rows were known to be current.
        as_of: Timestamp,
        /// Whether they may no longer be.
        stale: bool,
    },
    /// So much happened that this reader did not see all of it. Nothing follows.
    Lagged,
    /// The list is not kept any more, because its cluster or its connection changed. Nothing follows.
    ConnectionChanged,
}

/// Lists of a cluster's objects.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Inventory: Send + Sync {
    /// A page of `list` in the permit's cluster. A list read after a change through the same process shows it. While
    /// the cluster is out of reach it is the last that was known, marked `stale`, if anything was.
    ///
    /// # Errors
    /// Of code `ConnectionError`, `TimeoutError`, `RateLimited`, or `ForbiddenByCluster`; `TooLarge` when it is more than one
    /// request may read, `Overloaded` when too much is read at once; `NotFoundInCluster` when the list is of one owner's
    /// objects ([`ListInfo::owner`]) and there is no such owner.
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing>;

    /// How many rows of `list` there are of each status, in all namespaces that the permit covers.
    ///
    /// # Errors
    /// As [`Inventory::page`].
    async fn count(&self, permit: &Permit, list: List) -> Result<Counts> {
        let query = ListQuery {
            namespaces: permit.namespaces().clone(),
            kinds: list.info().kinds.to_vec(),
            per_page: u64::MAX,
            ..ListQuery::default()
        };
        let Listing { rows, as_of, stale, .. } = self.page(permit, list, &query).await?;
        let (table, _) = Table::new(list.info()).replace_all(0, rows);
        Ok(Counts::of(&table, as_of, stale))
    }

    /// The rows of `list` that match, and what happens to them from then on.
    ///
    /// # Errors
    /// As [`Inventory::page`]; `ForbiddenByCluster` where the credential may list but not watch; `NotKept` where nobody
    /// can, as by this default.
    async fn watch(&self, _permit: &Permit, _list: List, _query: &ListQuery) -> Result<WatchSnapshot> {
        Err(Error::new(Cause::NotCached))
    }
}

/// Shows the lists of a cluster's objects.
#[derive(Clone)]
pub struct Lists {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
}

impl Lists {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, inventory: Arc<dyn Inventory>) -> Self {
        Self { gate, inventory }
    }

    /// A page of `list` in `cluster`.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; else as [`Inventory::page`].
    pub async fn page(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        list: List,
        query: &ListQuery,
    ) -> Result<Listing> {
        let access = to_list(list, &query.namespaces).in_cluster(cluster);
        let permit = self.gate.allow(caller, access).await?;
        self.inventory.page(&permit, list, query).await
    }
}

/// The access that reading a list takes, in whichever cluster.
fn to_list(list: List, namespaces: &NamespaceScope) -> AccessRequest {
    let kind = list.info().kinds.first().copied().unwrap_or(Kind::Namespace);
    AccessRequest::to(Verb::List, Resource::Kind(kind)).within(namespaces.clone())
}

#[cfg(test)]
mod tests;
