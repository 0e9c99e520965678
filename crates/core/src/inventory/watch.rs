//! List watch: a stream of the matching rows of a list, followed by their changes.

use std::sync::Arc;

use futures_util::StreamExt;
use jiff::Timestamp;

use super::{Inventory, List, ListEvent, ListedScope, WatchSnapshot, to_list};
use crate::{
    access::Caller,
    error::Result,
    gate::{Gate, Warning},
    ids::ClusterId,
    rows::{Change, ListQuery, Row},
    spawn::Spawner,
    streams::{EventStream, Reader, StreamEnd, StreamEvent, StreamGuard, Streams},
};

/// Item of a list stream.
pub type ListStreamEvent = StreamEvent<WatchEvent>;
/// Event stream of a watched list.
pub type ListStream = EventStream<WatchEvent>;

/// Event of a list stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// Changes of rows, in this order. The stream begins with the existing rows as `Added`.
    Rows(Vec<(ChangeKind, Row)>),
    /// All existing rows have been sent. Events after this one are changes.
    Synced {
        /// Number of existing rows.
        total: u64,
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
        /// The part of the request that the stream covers.
        scope: ListedScope,
        /// Warnings for the caller.
        warnings: Vec<Warning>,
    },
    /// The cluster became unreachable, or reachable again.
    Freshness {
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
    },
}

/// Kind of a row change, relative to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The row matches now and did not before.
    Added,
    /// The row matched before and still matches. The event has its new content.
    Changed,
    /// The row no longer exists or no longer matches. The event has its last content.
    Removed,
}

impl ChangeKind {
    /// Name of the change, also the event name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// Maximum number of rows per event, to limit the number of rows buffered for a slow reader.
const MAX_BATCH_ROWS: usize = 128;

/// Use case: watching lists.
#[derive(Clone)]
pub struct Watches {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl Watches {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(
        gate: Gate,
        inventory: Arc<dyn Inventory>,
        spawner: Arc<dyn Spawner>,
        streams: Streams,
    ) -> Self {
        Self { gate, inventory, spawner, streams }
    }

    /// Streams the matching rows of `list` in `cluster` that the caller's rights reach, then their changes. Joined fields ([`super::ListInfo::join`])
    /// are null.
    ///
    /// # Errors
    /// As [`Inventory::watch`]; `Overloaded` if the caller, or all callers together, have too many open streams.
    pub async fn watch(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        list: List,
        query: ListQuery,
    ) -> Result<ListStream> {
        let access = to_list(list, &query.namespaces).in_cluster(cluster);
        let (permit, revoked) = self.gate.follow(caller, access).await?;
        let query = query.within(permit.namespaces()).into_owned();
        let scope = ListedScope::of(&permit);
        let slot = self.streams.enter(caller.principal())?;
        let watched = self.inventory.watch(&permit, list, &query).await?;
        Ok(EventStream::start(StreamGuard { revoked, slot }, &self.spawner, |reader| {
            forward(watched, query, scope, reader)
        }))
    }
}

async fn forward(
    watched: WatchSnapshot,
    query: ListQuery,
    scope: ListedScope,
    mut reader: Reader<WatchEvent>,
) -> StreamEnd {
    let WatchSnapshot { rows, as_of, stale, warnings, mut events } = watched;
    let total = rows.len() as u64;
    let mut rows = rows.into_iter().map(|row| (ChangeKind::Added, row));
    loop {
        let batch: Vec<_> = rows.by_ref().take(MAX_BATCH_ROWS).collect();
        if batch.is_empty() {
            break;
        }
        if !reader.send(WatchEvent::Rows(batch)).await {
            return StreamEnd::TooSlow;
        }
    }
    if !reader.send(WatchEvent::Synced { total, as_of, stale, scope, warnings }).await {
        return StreamEnd::TooSlow;
    }
    while let Some(event) = events.next().await {
        match event {
            ListEvent::Changes(changes) => {
                for changes in changes.chunks(MAX_BATCH_ROWS) {
                    let rows: Vec<_> =
                        changes.iter().filter_map(|change| matching_change(change, &query)).collect();
                    if !rows.is_empty() && !reader.send(WatchEvent::Rows(rows)).await {
                        return StreamEnd::TooSlow;
                    }
                }
            }
            ListEvent::Freshness { as_of, stale } => {
                if !reader.send(WatchEvent::Freshness { as_of, stale }).await {
                    return StreamEnd::TooSlow;
                }
            }
            ListEvent::Lagged => return StreamEnd::Lagged,
            ListEvent::ConnectionChanged => return StreamEnd::ConnectionChanged,
        }
    }
    StreamEnd::ConnectionChanged
}

/// Translates a change of the list into a change of the rows that match the query.
fn matching_change(change: &Change, query: &ListQuery) -> Option<(ChangeKind, Row)> {
    let (before, after) = match change {
        Change::Added(row) => (None, Some(row)),
        Change::Changed(before, after) => (Some(before), Some(after)),
        Change::Removed(row) => (Some(row), None),
    };
    let matches = |row: &&Row| row.matches(query);
    match (before.filter(matches), after.filter(matches)) {
        (None, None) => None,
        (None, Some(row)) => Some((ChangeKind::Added, row.clone())),
        (Some(_), Some(row)) => Some((ChangeKind::Changed, row.clone())),
        (Some(row), None) => Some((ChangeKind::Removed, row.clone())),
    }
}
