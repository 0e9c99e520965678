//! Batches of the trail for incremental delivery: the lines of a JSON Lines export without its header.

use super::{
    Head, StoredEntry, TrailReader,
    export::{head_at, lines},
    retention::TrailStart,
};
use crate::error::Result;

/// Maximum number of entries in a batch.
const MAX_ENTRIES: u32 = 200;
/// Maximum total size of the entries in a batch, in bytes. A single larger entry is a batch of its own.
const MAX_BYTES: usize = 1 << 20;

/// Delivery cursor: the position up to which the trail was delivered to a receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Last entry delivered.
    pub sequence: i64,
    /// Entry covered by the last checkpoint delivered; never beyond `sequence`.
    pub checkpoint: i64,
}

/// A batch: the part of the trail that follows a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// JSON Lines, each with its line break: entries in order, each checkpoint somewhere after the entry that it
    /// covers.
    pub lines: String,
    /// Cursor after this batch was delivered.
    pub cursor: Cursor,
}

impl Batch {
    /// Reads the batch after `cursor`; none when there is nothing new. The same cursor yields the same entries again,
    /// and possibly more.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Internal` when an entry is missing.
    pub async fn after(reader: &dyn TrailReader, mut cursor: Cursor) -> Result<Option<Self>> {
        // a new cursor begins at the start of the trail
        let trail_start = TrailStart::head_of(reader).await?.sequence;
        cursor.sequence = cursor.sequence.max(trail_start);
        let mut entries = reader.entries(cursor.sequence, MAX_ENTRIES).await?;
        entries.truncate(count_fitting(&entries));
        let end = entries.last().map_or(cursor.sequence, |entry| entry.sequence);
        let mut checkpoints = reader.checkpoints(cursor.checkpoint, MAX_ENTRIES).await?;
        checkpoints.retain(|stored| stored.sequence <= end);
        if entries.is_empty() && checkpoints.is_empty() {
            return Ok(None);
        }
        let mut position: Head = head_at(reader, cursor.sequence).await?;
        let lines = lines(&mut position, &entries, &checkpoints)?;
        let checkpoint = checkpoints.last().map_or(cursor.checkpoint, |stored| stored.sequence);
        Ok(Some(Self { lines, cursor: Cursor { sequence: end, checkpoint } }))
    }
}

/// Number of leading entries that fit into one batch; at least one.
fn count_fitting(entries: &[StoredEntry]) -> usize {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        bytes += entry.text.len();
        bytes <= MAX_BYTES
    });
    fit.count().max(1)
}
