//! Cached exact totals of operations, so that a page of the audit list does not count every row.
//!
//! Rows are appended in the order of their ids, under the lock on `audit_head`, and only the outcome of a row
//! changes, once. So below some id no row changes in a field that a filter reads, and the number of matching rows
//! below it is final. For each filter a few pairs of id and count are cached. A page then counts only the rows
//! between the nearest cached id and its own position.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use pilothouse_core::audit::AuditedClusters;

/// Maximum distance, in ids, to a cached count. Beyond it, a new count through the index of the filter costs no more.
const MAX_DISTANCE_ROWS: u64 = 10_000;
/// Maximum number of cached ids per filter, and of cached filters. When it is exceeded all are dropped, which costs
/// one count.
const MAX_CACHED: usize = 64;

/// The filter of a count: a query without its position in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CountFilter {
    pub(super) user_id: Option<i64>,
    pub(super) audited: Vec<AuditedClusters>,
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
    /// Only rows with a larger id.
    pub(super) after: Option<i64>,
    /// A LIKE pattern.
    pub(super) search: Option<String>,
    /// Names of fields, each with its values.
    pub(super) fields: Vec<(&'static str, Vec<String>)>,
}

impl CountFilter {
    /// Whether a later outcome of an operation may change the count.
    pub(super) fn depends_on_outcome(&self) -> bool {
        self.fields.iter().any(|(name, _)| *name == "status")
    }
}

/// The cached counts of this process. A clone shares them.
#[derive(Clone, Default)]
pub(crate) struct CountCache(Arc<Mutex<Cached>>);

#[derive(Default)]
struct Cached {
    /// The smallest id. It changes when rows are removed, and then all counts are invalid.
    oldest: i64,
    counts: HashMap<CountFilter, Vec<CountBelow>>,
}

/// The number of matching rows below an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountBelow {
    pub(super) id: i64,
    pub(super) count: i64,
}

impl CountCache {
    /// The cached count nearest to `id`, if it is within [`MAX_DISTANCE_ROWS`].
    pub(super) fn nearest(&self, filter: &CountFilter, oldest: i64, id: i64) -> Option<CountBelow> {
        let cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts_of_filter = cached.counts.get(filter).filter(|_| cached.oldest == oldest)?;
        let nearest = counts_of_filter.iter().min_by_key(|below| below.id.abs_diff(id))?;
        (nearest.id.abs_diff(id) <= MAX_DISTANCE_ROWS).then_some(*nearest)
    }

    /// Caches a final count.
    pub(super) fn insert(&self, filter: &CountFilter, oldest: i64, below: CountBelow) {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.oldest != oldest
            || (cached.counts.len() >= MAX_CACHED && !cached.counts.contains_key(filter))
        {
            cached.counts.clear();
            cached.oldest = oldest;
        }
        let counts_of_filter = cached.counts.entry(filter.clone()).or_default();
        if counts_of_filter.len() >= MAX_CACHED {
            counts_of_filter.clear();
        }
        if !counts_of_filter.contains(&below) {
            counts_of_filter.push(below);
        }
    }
}
