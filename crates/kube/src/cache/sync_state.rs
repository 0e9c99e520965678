//! Synchronisation state of a cached list, and the result that a waiting request gets in each state.

use std::time::Duration;

use jiff::Timestamp;
use pilothouse_core::{Cause, Error, Result, kind::Kind};
use tokio::time::Instant;

/// Synchronisation state of one kind of a list.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncState {
    /// Whether all rows have been read.
    pub(super) filled: bool,
    /// Resource version of the rows.
    pub(super) version: u64,
    /// Time at which the rows were last known to be current.
    pub(super) as_of: Timestamp,
    /// The same time on the monotonic clock: that of the last complete event, bookmark or regular end of a watch. None
    /// before all rows have been read.
    pub(super) synced_at: Option<Instant>,
    /// Whether all rows have to be listed again.
    pub(super) needs_refill: bool,
    /// Error of the last attempt; none after a success.
    pub(super) failure: Option<Error>,
    /// Number of failed attempts.
    pub(super) failures: u64,
    /// Number of complete reads.
    pub(super) fills: u64,
    /// Whether the cluster does not serve the kind.
    pub(super) absent: bool,
    /// Reason why the kind cannot be cached.
    pub(super) uncacheable: Option<Uncacheable>,
    /// Whether the list was removed from the cache, so that its reflectors read no more rows.
    pub(super) removed: bool,
}

impl SyncState {
    pub(super) fn is_stale(&self, now: Instant, max_age: Duration) -> bool {
        let recently_synced =
            self.synced_at.is_some_and(|synced_at| now.saturating_duration_since(synced_at) <= max_age);
        self.failure.is_some() || self.needs_refill || !recently_synced
    }
}

/// Reason why a kind cannot be cached.
#[derive(Clone, Debug)]
pub(super) enum Uncacheable {
    /// The credential may not list or watch the kind in all namespaces.
    Forbidden(Error),
    /// The list does not fit into the cache.
    TooLarge,
    /// The list was removed from the cache: its memory was needed for others, or its cluster's connection was closed.
    Ended,
}

/// Result of waiting for a list.
pub(super) enum Ready {
    /// All rows have been read. They may be stale.
    Synced,
    /// The rows have to be read from the cluster.
    Uncacheable(Kind, Uncacheable),
}

/// Freshness of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    pub(super) as_of: Timestamp,
    pub(super) stale: bool,
}

impl Freshness {
    /// The freshness of two lists joined into one.
    pub(super) fn join(self, other: Self) -> Self {
        Self { as_of: self.as_of.min(other.as_of), stale: self.stale || other.stale }
    }
}

/// Result of waiting for a list; none while the request has to wait. Only failures since the request began count:
/// `before` holds the number of failures at that time.
pub(super) fn readiness(
    kinds: &[Kind],
    states: &[SyncState],
    before: Option<&[u64]>,
) -> Option<Result<Ready>> {
    if let Some((state, kind)) = states.iter().zip(kinds).find(|(state, _)| state.uncacheable.is_some()) {
        return state.uncacheable.clone().map(|reason| Ok(Ready::Uncacheable(*kind, reason)));
    }
    let mut unfilled = (0..).zip(states).filter(|(_, state)| !state.filled && !state.absent).peekable();
    if unfilled.peek().is_none() {
        return Some(Ok(Ready::Synced));
    }
    if let Some((source, _)) = unfilled.clone().find(|(_, state)| state.removed) {
        return Some(Ok(Ready::Uncacheable(kinds[source], Uncacheable::Ended)));
    }
    let (_, failed) =
        unfilled.find(|(source, state)| before.is_some_and(|before| state.failures > before[*source]))?;
    Some(Err(failed.failure.clone().unwrap_or_else(|| Error::new(Cause::Unreachable))))
}
