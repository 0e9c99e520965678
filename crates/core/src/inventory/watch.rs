//! A list as it goes on: its rows, and then what happens to them.

use std::sync::Arc;

use futures_util::StreamExt;
use jiff::Timestamp;

use super::{Change, Inventory, List, ListEvent, ListQuery, Row, WatchSnapshot, to_list};
use crate::{
    access::Caller,
    clock::Spawner,
    cluster::ClusterId,
    error::Result,
    gate::{Gate, Warning},
    streams::{EventStream, Reader, StreamEnd, StreamEvent, StreamGuard, StreamLimits, Streams},
};

/// What a reader of a list is told.
pub type ListStreamEvent = StreamEvent<WatchEvent>;
/// The events of a list that is watched.
pub type ListStream = EventStream<WatchEvent>;

/// Something that a reader of a list should know.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// What became of rows, in this order. Those that were there when the stream began are added first.
    Rows(Vec<(ChangeKind, Row)>),
    /// All rows that were there have been told; what comes now has happened since.
    Synced {
        /// How many there were.
        total: u64,
        /// When they were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be asked since.
        stale: bool,
        /// What the reader should know.
        warnings: Vec<Warning>,
    },
    /// The cluster is out of reach, or within it again.
    Freshness {
        /// When the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be asked since.
        stale: bool,
    },
}

/// What became of a row, as the reader of a query sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is there now.
    Added,
    /// It is this now.
    Changed,
    /// It was this, and is there no more, or is none of those asked for any more.
    Removed,
}

impl ChangeKind {
    /// The word of each, also the event's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// How many rows are handed over at once, at most: what waits for a reader is shared rows, and few of them.
const BATCH: usize = 128;

/// Watches lists.
#[derive(Clone)]
pub struct Watches {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl Watches {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(
        gate: Gate,
        inventory: Arc<dyn Inventory>,
        spawner: Arc<dyn Spawner>,
        limits: StreamLimits,
    ) -> Self {
        Self { gate, inventory, spawner, streams: Streams::new(limits) }
    }

    /// The rows of `list` in `cluster` that match, and what happens to them. What a row shows of other lists
    /// ([`super::ListInfo::join`]) is null in it.
    ///
    /// # Errors
    /// As [`Inventory::watch`]; `Overloaded` when the caller, or all callers together, follow too many streams.
    pub async fn watch(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        list: List,
        query: ListQuery,
    ) -> Result<ListStream> {
        let access = to_list(list, &query.namespaces).in_cluster(cluster);
        let (permit, lost) = self.gate.follow(caller, access).await?;
        let place = self.streams.enter(caller.user_id)?;
        let watched = self.inventory.watch(&permit, list, &query).await?;
        Ok(EventStream::start(StreamGuard { lost, place }, &self.spawner, |reader| {
            forward(watched, query, reader)
        }))
    }
}

async fn forward(watched: WatchSnapshot, query: ListQuery, mut reader: Reader<WatchEvent>) -> StreamEnd {
    let WatchSnapshot { rows, as_of, stale, warnings, mut events } = watched;
    let total = rows.len() as u64;
    let mut rows = rows.into_iter().map(|row| (ChangeKind::Added, row));
    loop {
        let batch: Vec<_> = rows.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        if !reader.send(WatchEvent::Rows(batch)).await {
            return StreamEnd::TooSlow;
        }
    }
    if !reader.send(WatchEvent::Synced { total, as_of, stale, warnings }).await {
        return StreamEnd::TooSlow;
    }
    while let Some(event) = events.next().await {
        match event {
            ListEvent::Changes(changes) => {
                for changes in changes.chunks(BATCH) {
                    let seen: Vec<_> = changes.iter().filter_map(|change| seen(change, &query)).collect();
                    if !seen.is_empty() && !reader.send(WatchEvent::Rows(seen)).await {
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

/// What a change is to whoever sees only the rows that match.
fn seen(change: &Change, query: &ListQuery) -> Option<(ChangeKind, Row)> {
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
