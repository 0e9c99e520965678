//! Events of a plain watch: the existing rows, then their changes, in batches of limited size.

use std::{future::ready, iter, sync::Arc};

use futures_util::stream::{self, StreamExt};

use super::{ChangeKind, ListStreamEvent, WatchEvent, WatchEvents, until_end};
use crate::{
    inventory::{ListEvent, ListedScope, WatchSnapshot},
    rows::{Change, ListQuery, Row},
    streams::{HeldRows, StreamEnd, StreamEvent},
};

/// Maximum number of rows per event.
const MAX_BATCH_ROWS: usize = 128;
/// Size of the rows of an event in bytes, beyond which no further row is added: it limits what is buffered for a slow
/// reader.
const MAX_BATCH_BYTES: usize = 2 << 10;

/// The events of a watch, up to its end. The room for the existing rows is released when all of them are taken.
pub(super) fn events(
    watched: WatchSnapshot,
    held: HeldRows,
    query: ListQuery,
    scope: ListedScope,
) -> WatchEvents {
    let WatchSnapshot { rows, as_of, stale, warnings, events } = watched;
    let total = rows.len() as u64;
    let existing = batches(rows.map(|row| (ChangeKind::Added, row)));
    let synced = WatchEvent::Synced { total, as_of, stale, scope, warnings };
    let query = Arc::new(query);
    let changes = events.flat_map(move |event| {
        let event = match event {
            ListEvent::Changes(changes) => {
                let query = query.clone();
                let matching = (0..changes.len()).filter_map(move |at| matching_change(&changes[at], &query));
                return stream::iter(batches(matching)).left_stream();
            }
            ListEvent::Freshness { as_of, stale } => {
                StreamEvent::Next(WatchEvent::Freshness { as_of, stale })
            }
            ListEvent::Lagged => StreamEvent::End(StreamEnd::Lagged),
            ListEvent::ConnectionChanged => StreamEvent::End(StreamEnd::ConnectionChanged),
        };
        stream::once(ready(event)).right_stream()
    });
    let lost = stream::once(ready(StreamEvent::End(StreamEnd::ConnectionChanged)));
    let synced = stream::once(async move {
        drop(held);
        StreamEvent::Next(synced)
    });
    until_end(stream::iter(existing).chain(synced).chain(changes).chain(lost))
}

/// Groups rows into events.
fn batches(rows: impl Iterator<Item = (ChangeKind, Row)>) -> impl Iterator<Item = ListStreamEvent> {
    let mut rows = rows.peekable();
    iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < MAX_BATCH_ROWS {
            let fits =
                |(_, row): &(ChangeKind, Row)| bytes == 0 || bytes + row.bytes().len() <= MAX_BATCH_BYTES;
            let Some(next) = rows.next_if(fits) else { break };
            bytes += next.1.bytes().len();
            batch.push(next);
        }
        (!batch.is_empty()).then_some(StreamEvent::Next(WatchEvent::Rows(batch)))
    })
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

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::rows::{Cell, Field, ListRow};

    #[derive(Serialize)]
    struct Sample {
        name: String,
    }

    impl ListRow for Sample {
        const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(&*row.name))];

        fn name(&self) -> &str {
            &self.name
        }

        fn namespace(&self) -> Option<&str> {
            None
        }
    }

    /// The number of rows of each event for rows with names of these lengths.
    fn sizes(lengths: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let rows: Vec<_> = lengths
            .into_iter()
            .map(|length| (ChangeKind::Added, Row::of(&Sample { name: "x".repeat(length) }).unwrap()))
            .collect();
        let count = |event| match event {
            StreamEvent::Next(WatchEvent::Rows(rows)) => rows.len(),
            other => panic!("{other:?}"),
        };
        batches(rows.into_iter()).map(count).collect()
    }

    #[test]
    fn events_are_limited_in_rows_and_bytes() {
        assert!(sizes([]).is_empty());
        assert_eq!(sizes([1; 300]), [128, 128, 44]);
        assert_eq!(sizes([900; 5]), [2, 2, 1]);
        assert_eq!(sizes([10_000, 1, 1, 10_000]), [1, 2, 1], "a large row is an event of its own");
    }
}
