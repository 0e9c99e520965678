//! How many operations match, exactly, without counting a million rows for every page.
//!
//! What was counted once stays counted. Rows are only added, under the lock of the chain's head, so in the order of their
//! ids; of a row only its outcome changes, once. So below some id nothing that a filter looks at changes any more, and how
//! many rows match below it is a fact that can be kept: of each filter, a few such ids and counts. A page then counts the
//! rows between the nearest of them and where it stands.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

/// From farther away a count anew, through the filter's own index, is as cheap.
const NEAR: u64 = 10_000;
/// How many ids of a filter, and how many filters, are kept. Beyond that all are forgotten: it costs one count.
const MOST: usize = 64;

/// What a row must be like to be counted: all of a query but its place in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) user_id: Option<i64>,
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
    /// A pattern of LIKE.
    pub(super) search: Option<String>,
    /// The name of a field, and its value.
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Wanted {
    /// Whether an outcome, when it comes, may change the answer.
    pub(super) fn looks_at_outcomes(&self) -> bool {
        self.fields.iter().any(|(name, _)| *name == "status")
    }
}

/// The counts of this process. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Cached>>);

#[derive(Default)]
struct Cached {
    /// The oldest row there is. Should rows be removed one day, it is another.
    oldest: i64,
    counts: HashMap<Wanted, Vec<Below>>,
}

/// So many rows match below an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) id: i64,
    pub(super) count: i64,
}

impl Counts {
    /// What is known nearest to `id`, if that is near.
    pub(super) fn nearest(&self, wanted: &Wanted, oldest: i64, id: i64) -> Option<Below> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.counts.get(wanted).filter(|_| kept.oldest == oldest)?;
        let nearest = known.iter().min_by_key(|below| below.id.abs_diff(id))?;
        (nearest.id.abs_diff(id) <= NEAR).then_some(*nearest)
    }

    /// Keeps a count that will not change any more.
    pub(super) fn keep(&self, wanted: &Wanted, oldest: i64, below: Below) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.oldest != oldest || (kept.counts.len() >= MOST && !kept.counts.contains_key(wanted)) {
            kept.counts.clear();
            kept.oldest = oldest;
        }
        let known = kept.counts.entry(wanted.clone()).or_default();
        if known.len() >= MOST {
            known.clear();
        }
        if !known.contains(&below) {
            known.push(below);
        }
    }
}
