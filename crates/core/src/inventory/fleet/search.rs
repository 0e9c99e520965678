//! Fleet search: the rows of one or several lists of all clusters, in one order.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
};

use futures_util::FutureExt;

use super::{
    super::{List, Listing, SearchQuery, to_list},
    ClusterResult, Fleet, FleetQuery,
};
use crate::{
    access::Caller,
    error::{Error, FieldError, Reason, Result},
    gate::ClusterPermits,
    rows::{ListQuery, Pagination, Row, Sort},
};

/// Maximum number of rows up to the end of a page. At most this number of rows is read from each list of a cluster and
/// merged.
pub const MAX_RESULT_WINDOW: u64 = 10_000;

/// Result of a search in all clusters.
#[derive(Clone, Debug)]
pub struct SearchResults {
    /// The rows of the page.
    pub rows: Vec<FoundRow>,
    /// The position of the page among all rows found in the clusters that responded.
    pub pagination: Pagination,
    /// All clusters in which the caller has a right, ordered by id.
    pub clusters: Vec<ClusterResult>,
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRow {
    /// Index of its cluster in [`SearchResults::clusters`].
    pub cluster: usize,
    /// Its list.
    pub list: List,
    /// The row.
    pub row: Row,
}

/// Rows of one list of one cluster, in the order of its query.
struct Run {
    cluster: usize,
    list: List,
    sort: Option<Sort>,
    rows: Vec<Row>,
}

/// Checks that a page ends within [`MAX_RESULT_WINDOW`]. Returns the number of rows up to its end.
///
/// # Errors
/// `InvalidInput` that names `page`.
pub(crate) fn result_window(page: u64, per_page: u64) -> Result<u64> {
    match page.saturating_mul(per_page) {
        window if window <= MAX_RESULT_WINDOW => Ok(window),
        _ => {
            let refused = FieldError { name: "page".to_owned(), reason: Reason::OutOfRange };
            Err(Error::fields(vec![refused]))
        }
    }
}

impl Fleet {
    /// Returns a page of the rows of these lists in all clusters, in the order of the query; ties by namespace, name,
    /// then cluster.
    ///
    /// # Errors
    /// `InvalidInput` for a page beyond [`MAX_RESULT_WINDOW`]; as [`crate::gate::Gate::allow_in_all_clusters`]. An
    /// error of a cluster is part of the result.
    pub async fn search(&self, caller: &Caller, query: &SearchQuery) -> Result<SearchResults> {
        let page = query.page();
        let window = result_window(page.page, page.per_page)?;
        let reads: Vec<_> =
            query.lists.iter().map(|(list, query)| to_list(*list, &query.namespaces)).collect();
        let all = self.gate.allow_in_all_clusters(caller, &reads).await?;
        let first = |(list, query): &(List, ListQuery)| {
            (*list, Arc::new(ListQuery { page: 1, per_page: window, ..query.clone() }))
        };
        let lists: Vec<_> = query.lists.iter().map(first).collect();
        let mut clusters = Vec::with_capacity(all.len());
        let mut requests: Vec<FleetQuery<Listing>> = Vec::with_capacity(all.len() * lists.len());
        for part in all {
            let complete = part.is_complete();
            let ClusterPermits { cluster, name, permits } = part;
            let readable: Vec<_> = permits.iter().map(Option::is_some).collect();
            for ((list, first), permit) in lists.iter().zip(permits) {
                let Some(permit) = permit else { continue };
                let (inventory, list, first) = (self.inventory.clone(), *list, first.clone());
                let request = async move { inventory.page(&permit, list, &first).await };
                requests.push((cluster, request.boxed()));
            }
            clusters.push((ClusterResult::new(cluster, name, complete), readable));
        }
        let mut responses = self.run_all(requests).await.into_iter();

        let (mut results, mut runs) = (Vec::with_capacity(clusters.len()), Vec::new());
        for (mut result, readable) in clusters {
            for ((list, first), is_readable) in lists.iter().zip(readable) {
                if !is_readable {
                    // nothing that the caller may read matches
                    result.add_total(0);
                    continue;
                }
                let response = responses.next().flatten();
                let page_facts = |listing: &Listing| (listing.pagination.total, listing.as_of, listing.stale);
                result.add(response.as_ref().map(|response| response.as_ref().map(page_facts)));
                let rows = response.and_then(Result::ok).map(|listing| listing.rows).unwrap_or_default();
                runs.push(Run { cluster: results.len(), list: *list, sort: first.sort, rows });
            }
            results.push(result);
        }
        let total = results.iter().filter_map(|result| result.total).sum();
        let rows = merge(runs).skip(page.offset()).take(page.limit()).collect();
        Ok(SearchResults { rows, pagination: Pagination::of(page, total), clusters: results })
    }
}

/// The next row of one run, for the merge.
struct NextRow {
    row: Row,
    run: usize,
    sort: Option<Sort>,
}

impl Ord for NextRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.row.order_across(self.sort, &other.row, other.sort).then_with(|| self.run.cmp(&other.run))
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

/// Merges the sorted rows of all runs into one order. Lazy: it reads only as many rows as are taken.
fn merge(runs: Vec<Run>) -> impl Iterator<Item = FoundRow> {
    let mut runs: Vec<_> = runs
        .into_iter()
        .map(|Run { cluster, list, sort, rows }| (cluster, list, sort, rows.into_iter()))
        .collect();
    let first = runs.iter_mut().enumerate();
    let heads = first.filter_map(|(run, (_, _, sort, rows))| {
        Some(Reverse(NextRow { row: rows.next()?, run, sort: *sort }))
    });
    let mut heads: BinaryHeap<_> = heads.collect();
    std::iter::from_fn(move || {
        let Reverse(NextRow { row, run, sort }) = heads.pop()?;
        let (cluster, list, _, rows) = &mut runs[run];
        let found = FoundRow { cluster: *cluster, list: *list, row };
        heads.extend(rows.next().map(|row| Reverse(NextRow { row, run, sort })));
        Some(found)
    })
}
