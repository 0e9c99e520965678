//! The trail in pieces, for whoever is told of it as it grows: the lines of an export without its first one.

use super::{
    Head, StoredEntry, TrailReader,
    export::{head_at, lines},
    retention::TrailStart,
};
use crate::error::Result;

/// The most entries in a batch.
const ENTRIES: u32 = 200;
/// The most bytes of entries in a batch, unless one entry alone has more.
const BYTES: usize = 1 << 20;

/// How far somebody has been told of the trail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The last entry.
    pub sequence: i64,
    /// The entry that the last checkpoint covers; never beyond `sequence`.
    pub checkpoint: i64,
}

/// What follows what somebody has been told already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// JSON Lines, each with its end: entries in order, each checkpoint somewhere after the entry it covers.
    pub lines: String,
    /// How far they have been told once they have these.
    pub told: Cursor,
}

impl Batch {
    /// Reads what follows; none when there is nothing new. The same place gives the same entries again, and maybe more.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Internal` when an entry is missing.
    pub async fn after(reader: &dyn TrailReader, mut told: Cursor) -> Result<Option<Self>> {
        // whoever is told for the first time is told from where the trail begins
        let begins = TrailStart::head_of(reader).await?.sequence;
        told.sequence = told.sequence.max(begins);
        let mut entries = reader.entries(told.sequence, ENTRIES).await?;
        entries.truncate(fitting(&entries));
        let end = entries.last().map_or(told.sequence, |entry| entry.sequence);
        let mut checkpoints = reader.checkpoints(told.checkpoint, ENTRIES).await?;
        checkpoints.retain(|stored| stored.sequence <= end);
        if entries.is_empty() && checkpoints.is_empty() {
            return Ok(None);
        }
        let mut done: Head = head_at(reader, told.sequence).await?;
        let lines = lines(&mut done, &entries, &checkpoints)?;
        let checkpoint = checkpoints.last().map_or(told.checkpoint, |stored| stored.sequence);
        Ok(Some(Self { lines, told: Cursor { sequence: end, checkpoint } }))
    }
}

/// How many of these go into a batch.
fn fitting(entries: &[StoredEntry]) -> usize {
    let mut bytes = 0;
    let fit = entries.iter().take_while(|entry| {
        bytes += entry.text.len();
        bytes <= BYTES
    });
    fit.count().max(1)
}
