//! Walk over the chain, one entry at a time, that compares it with the evidence: checkpoints in the database,
//! checkpoints outside it, and the heads that this process has verified. Used to verify a trail and before an export is
//! signed.

use std::{
    collections::VecDeque,
    future::Future,
    iter::{Fuse, Peekable},
};

use super::{
    Checkpoint, CheckpointSink, Defect, Fault, Head, StoredCheckpoint, StoredEntry, StoredRow, TrailReader,
    chain::Chain,
};
use crate::{
    error::{Error, Result},
    operation::Entry,
};

/// Maximum number of entries, rows or checkpoints in one read.
pub(super) const BATCH: u32 = 500;

/// Reason why a walk stops early.
pub(super) enum Stop {
    Bad(Defect),
    Unreadable(Error),
}

impl From<Defect> for Stop {
    fn from(defect: Defect) -> Self {
        Self::Bad(defect)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Unreadable(error)
    }
}

type Lines = Peekable<Fuse<Box<dyn Iterator<Item = Result<String>> + Send>>>;

/// Evidence outside the database: the lines of the checkpoint sink and the heads that this process has verified.
pub(super) struct ExternalEvidence {
    lines: Lines,
    /// Whether there is a checkpoint sink and it has no lines.
    pub(super) is_empty: bool,
    verified_heads: VecDeque<Head>,
}

impl ExternalEvidence {
    /// Collects the evidence. Must be called before anything of the trail is read: the trail must contain everything
    /// that the evidence names.
    pub(super) fn of(reader: &dyn TrailReader, sink: Option<&dyn CheckpointSink>) -> Result<Self> {
        let verified_heads = reader.verified_heads().into();
        let lines: Box<dyn Iterator<Item = _> + Send> = match sink {
            Some(sink) => sink.lines()?,
            None => Box::new(std::iter::empty()),
        };
        let mut lines = lines.fuse().peekable();
        let is_empty = sink.is_some() && lines.peek().is_none();
        Ok(Self { lines, is_empty, verified_heads })
    }
}

/// State of a walk.
pub(super) struct Walk<'a> {
    reader: &'a dyn TrailReader,
    pub(super) chain: Chain<'a>,
    /// Checkpoints outside the database for entries before this one are skipped.
    first: i64,
    entries: BatchReader<StoredEntry>,
    checkpoints: BatchReader<StoredCheckpoint>,
    evidence: ExternalEvidence,
    /// Number of checkpoints in the database that match the chain.
    pub(super) stored_matches: u64,
    /// Number of checkpoints outside the database that match the chain.
    pub(super) external_matches: u64,
}

impl<'a> Walk<'a> {
    /// Walk over a whole trail. Reads from the lowest possible number, so that entries inserted before the start are
    /// found.
    pub(super) fn whole(reader: &'a dyn TrailReader, chain: Chain<'a>, evidence: ExternalEvidence) -> Self {
        Self::from(reader, chain, evidence, (i64::MIN, i64::MIN))
    }

    /// Walk from an entry that a checkpoint covers, or from the start of the trail.
    pub(super) fn part(reader: &'a dyn TrailReader, chain: Chain<'a>, evidence: ExternalEvidence) -> Self {
        let first = chain.head.sequence;
        Self::from(reader, chain, evidence, (first, first - 1))
    }

    fn from(
        reader: &'a dyn TrailReader,
        chain: Chain<'a>,
        evidence: ExternalEvidence,
        (entries, checkpoints): (i64, i64),
    ) -> Self {
        Self {
            reader,
            first: chain.head.sequence,
            chain,
            entries: BatchReader::after(entries),
            checkpoints: BatchReader::after(checkpoints),
            evidence,
            stored_matches: 0,
            external_matches: 0,
        }
    }

    /// Verifies the next entry. `last` is the expected last entry; an error message names it.
    pub(super) async fn step(&mut self, last: Head) -> Result<(i64, Entry), Stop> {
        self.entries.fill(|after| self.reader.entries(after, BATCH)).await?;
        let stored = self.entries.buffer.pop_front().ok_or_else(|| {
            let missing = self.chain.head.sequence + 1;
            let details = format!("entry {missing} is missing; the last one must be {}", last.sequence);
            Defect::at(missing, Fault::EntryMissing, details)
        })?;
        let entry = self.chain.entry(&stored)?;
        Ok((stored.sequence, entry))
    }

    /// Compares the chain with the evidence for the current entry.
    pub(super) async fn compare(&mut self) -> Result<(), Stop> {
        let current = self.chain.head.sequence;
        let mut is_stored = self.compare_stored(current).await?;
        while let Some(line) = self.evidence.lines.peek() {
            let line = line.as_ref().map_err(Clone::clone)?;
            if Checkpoint::parse(line).is_some_and(|of| of.sequence < self.first) {
                // a checkpoint of removed entries, possibly signed by an earlier key
                self.evidence.lines.next();
                continue;
            }
            let checkpoint = self.chain.signed(current, line)?;
            if checkpoint.sequence > current {
                break;
            }
            self.chain.checkpoint(&checkpoint)?;
            if !is_stored {
                // the checkpoint may have been signed after the database was read and before the line was read
                self.checkpoints.reopen();
                is_stored = self.compare_stored(current).await?;
            }
            if !is_stored {
                let details = "a checkpoint from outside the database is not in the database";
                return Err(Defect::at(current, Fault::CheckpointRemoved, details).into());
            }
            self.external_matches += 1;
            self.evidence.lines.next();
        }
        while let Some(verified) =
            self.evidence.verified_heads.pop_front_if(|verified| verified.sequence <= current)
        {
            if verified.sequence == current {
                self.chain.check_verified_head(verified)?;
            }
        }
        Ok(())
    }

    /// Compares the chain with the checkpoints in the database up to the current entry. Returns whether there were any.
    async fn compare_stored(&mut self, current: i64) -> Result<bool, Stop> {
        let mut found = false;
        self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        while let Some(stored) = self.checkpoints.buffer.pop_front_if(|stored| stored.sequence <= current) {
            let checkpoint = self.chain.stored(&stored)?;
            self.chain.checkpoint(&checkpoint)?;
            found = true;
            self.stored_matches += 1;
            self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        }
        Ok(found)
    }

    /// Called at the expected end: checks that no evidence names a later entry, and returns the current head.
    /// Everything compared with that head was read before it.
    pub(super) async fn end(&mut self) -> Result<Head, Stop> {
        let reader = self.reader;
        self.entries.reopen();
        self.entries.fill(|after| reader.entries(after, BATCH)).await?;
        let beyond = self.entries.buffer.front().map(|entry| entry.sequence);
        self.checkpoints.reopen();
        self.checkpoints.fill(|after| reader.checkpoints(after, BATCH)).await?;
        let stored = self.checkpoints.buffer.front().map(|stored| self.chain.stored(stored)).transpose()?;
        let in_sink = match self.evidence.lines.peek() {
            Some(line) => {
                Some(self.chain.signed(self.chain.head.sequence, line.as_ref().map_err(Clone::clone)?)?)
            }
            None => None,
        };

        let (_, head) = reader.head().await?;
        if beyond.is_some_and(|beyond| beyond > head.sequence) {
            let details = "there are entries after the stored head";
            return Err(Defect::at(head.sequence + 1, Fault::HeadDiffers, details).into());
        }
        let truncated = |at: i64, state: &str| {
            let details =
                format!("entries up to {at} were {state}; those after {} are missing", head.sequence);
            Err(Defect::at(head.sequence + 1, Fault::TailCut, details).into())
        };
        for checkpoint in stored.into_iter().chain(in_sink) {
            if checkpoint.sequence > head.sequence {
                return truncated(checkpoint.sequence, &format!("signed on {}", checkpoint.time));
            }
        }
        if let Some(verified) =
            self.evidence.verified_heads.back().filter(|verified| verified.sequence > head.sequence)
        {
            return truncated(verified.sequence, "read by this process before");
        }
        // entries and checkpoints may have been appended since
        self.entries.reopen();
        self.checkpoints.reopen();
        self.compare().await?;
        Ok(head)
    }
}

/// Reader that reads items in batches and yields them one by one.
pub(super) struct BatchReader<T> {
    pub(super) buffer: VecDeque<T>,
    after: i64,
    ended: bool,
}

impl<T> BatchReader<T> {
    pub(super) const fn after(after: i64) -> Self {
        Self { buffer: VecDeque::new(), after, ended: false }
    }

    /// Allows further reads after the end was reached, because further items may have been appended.
    pub(super) const fn reopen(&mut self) {
        self.ended = false;
    }
}

impl<T: Sequenced> BatchReader<T> {
    /// Reads the next batch if none is buffered and the end was not reached.
    pub(super) async fn fill<F>(&mut self, read: impl FnOnce(i64) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        if self.buffer.is_empty() && !self.ended {
            let batch = read(self.after).await?;
            self.ended = batch.len() < BATCH as usize;
            self.after = batch.last().map_or(self.after, T::number);
            self.buffer.extend(batch);
        }
        Ok(())
    }
}

/// An item with the number after which the next batch begins.
pub(super) trait Sequenced {
    fn number(&self) -> i64;
}

impl Sequenced for StoredEntry {
    fn number(&self) -> i64 {
        self.sequence
    }
}

impl Sequenced for StoredRow {
    fn number(&self) -> i64 {
        self.id
    }
}

impl Sequenced for StoredCheckpoint {
    fn number(&self) -> i64 {
        self.sequence
    }
}
