//! A walk along the chain, an entry at a time, beside what is known of it: the checkpoints in the database and elsewhere,
//! and what this process remembers. Who verifies a trail and who signs an export walk so.

use std::{
    collections::VecDeque,
    future::Future,
    iter::{Fuse, Peekable},
};

use super::{
    Checkpoint, CheckpointSink, Defect, Entry, Fault, Head, StoredCheckpoint, StoredEntry, StoredRow,
    TrailReader, chain::Chain,
};
use crate::error::{Error, Result};

/// How much is read at once.
pub(super) const BATCH: u32 = 500;

/// Why a walk stops early.
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

/// What is kept of the trail outside the database, and by this process.
pub(super) struct ExternalEvidence {
    lines: Lines,
    /// Whether there is a place outside the database, and it holds nothing.
    pub(super) is_empty: bool,
    remembered: VecDeque<Head>,
}

impl ExternalEvidence {
    /// To be made before anything of the trail is read: what is known of it by then must be there.
    pub(super) fn of(reader: &dyn TrailReader, witness: Option<&dyn CheckpointSink>) -> Result<Self> {
        let remembered = reader.remembered().into();
        let lines: Box<dyn Iterator<Item = _> + Send> = match witness {
            Some(witness) => witness.lines()?,
            None => Box::new(std::iter::empty()),
        };
        let mut lines = lines.fuse().peekable();
        let is_empty = witness.is_some() && lines.peek().is_none();
        Ok(Self { lines, is_empty, remembered })
    }
}

pub(super) struct Walk<'a> {
    reader: &'a dyn TrailReader,
    pub(super) chain: Chain<'a>,
    /// What is kept elsewhere of entries before this one is passed over.
    first: i64,
    entries: BatchReader<StoredEntry>,
    checkpoints: BatchReader<StoredCheckpoint>,
    outside: ExternalEvidence,
    /// How many checkpoints in the database agreed with the chain.
    pub(super) agreed: u64,
    /// How many checkpoints elsewhere did.
    pub(super) witnessed: u64,
}

impl<'a> Walk<'a> {
    /// Along a whole trail, from where it begins: whatever somebody put before that is to be seen.
    pub(super) fn whole(reader: &'a dyn TrailReader, chain: Chain<'a>, outside: ExternalEvidence) -> Self {
        Self::from(reader, chain, outside, (i64::MIN, i64::MIN))
    }

    /// From an entry that a checkpoint covers, or the beginning.
    pub(super) fn part(reader: &'a dyn TrailReader, chain: Chain<'a>, outside: ExternalEvidence) -> Self {
        let first = chain.head.sequence;
        Self::from(reader, chain, outside, (first, first - 1))
    }

    fn from(
        reader: &'a dyn TrailReader,
        chain: Chain<'a>,
        outside: ExternalEvidence,
        (entries, checkpoints): (i64, i64),
    ) -> Self {
        Self {
            reader,
            first: chain.head.sequence,
            chain,
            entries: BatchReader::after(entries),
            checkpoints: BatchReader::after(checkpoints),
            outside,
            agreed: 0,
            witnessed: 0,
        }
    }

    /// Takes the next entry; `last` should be the last one.
    pub(super) async fn step(&mut self, last: Head) -> Result<(i64, Entry), Stop> {
        self.entries.fill(|after| self.reader.entries(after, BATCH)).await?;
        let stored = self.entries.waiting.pop_front().ok_or_else(|| {
            let missing = self.chain.head.sequence + 1;
            let details = format!("entry {missing} is missing; the last one must be {}", last.sequence);
            Defect::at(missing, Fault::EntryMissing, details)
        })?;
        let entry = self.chain.entry(&stored)?;
        Ok((stored.sequence, entry))
    }

    /// Compares the chain with what is known of the entry that it has come to.
    pub(super) async fn compare(&mut self) -> Result<(), Stop> {
        let here = self.chain.head.sequence;
        let mut in_database = self.in_database(here).await?;
        while let Some(line) = self.outside.lines.peek() {
            let line = line.as_ref().map_err(Clone::clone)?;
            if Checkpoint::parse(line).is_some_and(|of| of.sequence < self.first) {
                // of what went, maybe by a key of that time
                self.outside.lines.next();
                continue;
            }
            let checkpoint = self.chain.signed(here, line)?;
            if checkpoint.sequence > here {
                break;
            }
            self.chain.checkpoint(&checkpoint)?;
            if !in_database {
                // it may have been signed after those of the database were read, and before the line was
                self.checkpoints.reopen();
                in_database = self.in_database(here).await?;
            }
            if !in_database {
                let details = "a checkpoint from outside the database is not in the database";
                return Err(Defect::at(here, Fault::CheckpointRemoved, details).into());
            }
            self.witnessed += 1;
            self.outside.lines.next();
        }
        while let Some(known) = self.outside.remembered.pop_front_if(|known| known.sequence <= here) {
            if known.sequence == here {
                self.chain.remembers(known)?;
            }
        }
        Ok(())
    }

    /// Compares the chain with the checkpoints in the database of the entry that it has come to; whether there are such.
    async fn in_database(&mut self, here: i64) -> Result<bool, Stop> {
        let mut found = false;
        self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        while let Some(stored) = self.checkpoints.waiting.pop_front_if(|stored| stored.sequence <= here) {
            let checkpoint = self.chain.stored(&stored)?;
            self.chain.checkpoint(&checkpoint)?;
            found = true;
            self.agreed += 1;
            self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        }
        Ok(found)
    }

    /// At what should be the end: sees that nothing is known of a later one, and gives the end as it is now. Whatever was
    /// read before this was there before it.
    pub(super) async fn end(&mut self) -> Result<Head, Stop> {
        let reader = self.reader;
        self.entries.reopen();
        self.entries.fill(|after| reader.entries(after, BATCH)).await?;
        let beyond = self.entries.waiting.front().map(|entry| entry.sequence);
        self.checkpoints.reopen();
        self.checkpoints.fill(|after| reader.checkpoints(after, BATCH)).await?;
        let stored = self.checkpoints.waiting.front().map(|stored| self.chain.stored(stored)).transpose()?;
        let kept = match self.outside.lines.peek() {
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
        let cut = |at: i64, known: &str| {
            let details =
                format!("entries up to {at} were {known}; those after {} are missing", head.sequence);
            Err(Defect::at(head.sequence + 1, Fault::TailCut, details).into())
        };
        for checkpoint in stored.into_iter().chain(kept) {
            if checkpoint.sequence > head.sequence {
                return cut(checkpoint.sequence, &format!("signed on {}", checkpoint.time));
            }
        }
        if let Some(known) = self.outside.remembered.back().filter(|known| known.sequence > head.sequence) {
            return cut(known.sequence, "read by this process before");
        }
        // what was appended and signed since is there by now
        self.entries.reopen();
        self.checkpoints.reopen();
        self.compare().await?;
        Ok(head)
    }
}

/// What is read in batches and comes one by one.
pub(super) struct BatchReader<T> {
    pub(super) waiting: VecDeque<T>,
    after: i64,
    ended: bool,
}

impl<T> BatchReader<T> {
    pub(super) const fn after(after: i64) -> Self {
        Self { waiting: VecDeque::new(), after, ended: false }
    }

    /// There may be more, though there was none a moment ago.
    pub(super) const fn reopen(&mut self) {
        self.ended = false;
    }
}

impl<T: Sequenced> BatchReader<T> {
    /// Reads the next batch when nothing waits and there may be more.
    pub(super) async fn fill<F>(&mut self, read: impl FnOnce(i64) -> F) -> Result<()>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        if self.waiting.is_empty() && !self.ended {
            let batch = read(self.after).await?;
            self.ended = batch.len() < BATCH as usize;
            self.after = batch.last().map_or(self.after, T::number);
            self.waiting.extend(batch);
        }
        Ok(())
    }
}

/// By what a batch is continued.
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
