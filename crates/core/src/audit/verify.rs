//! Verifying the trail while it is being written: the chain, its checkpoints in the database and elsewhere, and the rows
//! that lists show, side by side, a batch at a time.
//!
//! The lists' rows lie in the order of the operations' first entries, so one pass over both is enough. What the pass
//! saw that the chain did not explain by then (a row that had ended, a checkpoint beyond the end) must be explained by what
//! was appended meanwhile; that is a second, short pass.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    iter::Peekable,
};

use serde::Serialize;

use super::{
    Checkpoint, Defect, Entry, Fault, Head, Operation, OperationId, OperationRow, Outcome, Signatures,
    StoredCheckpoint, StoredEntry, StoredRow, TrailKeys, TrailReader, Witness, chain::Chain,
    retention::Beginning,
};
use crate::{
    error::{Error, Result},
    inventory::Cell,
};

/// How much is read at once.
const BATCH: u32 = 500;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// Whether nothing is wrong.
    pub valid: bool,
    /// How many entries before these retention has removed, as we have signed.
    pub removed: u64,
    /// How many entries were found good; all that come before the defect when there is one.
    pub entries: u64,
    /// The last of these.
    pub head: Head,
    /// How many checkpoints in the database agree with them.
    pub checkpoints: u64,
    /// How many checkpoints kept outside the database agree with them.
    pub witnessed: u64,
    /// The first thing that is wrong.
    pub first_bad: Option<Defect>,
}

impl Verdict {
    /// Nothing looked at yet.
    pub(crate) const NONE: Self = Self {
        valid: true,
        removed: 0,
        entries: 0,
        head: Head::NONE,
        checkpoints: 0,
        witnessed: 0,
        first_bad: None,
    };

    pub(crate) fn with(self, defect: Defect) -> Self {
        Self { valid: false, first_bad: Some(defect), ..self }
    }
}

/// Why a pass stops early.
enum Stop {
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

/// Verifies the trail behind `reader`, and compares it with what `witness` keeps. Holds no lock and no transaction; takes
/// memory for a batch and for the operations that are under way.
///
/// # Errors
/// As [`TrailReader`] and [`Witness::lines`]. What is wrong with the trail is no error, but in the verdict.
pub async fn verify(
    reader: &dyn TrailReader,
    witness: &dyn Witness,
    signatures: Signatures<'_>,
) -> Result<Verdict> {
    loop {
        let beginning = reader.beginning().await?;
        let verdict = once(reader, witness, signatures, beginning.as_deref()).await?;
        // what retention removed meanwhile is not missing
        if verdict.valid || reader.beginning().await? == beginning {
            return Ok(verdict);
        }
    }
}

async fn once(
    reader: &dyn TrailReader,
    witness: &dyn Witness,
    signatures: Signatures<'_>,
    beginning: Option<&str>,
) -> Result<Verdict> {
    let (trail, head) = reader.head().await?;
    let keys = TrailKeys::claimed(reader, signatures.key).await?;
    let before = match beginning.map(|line| Beginning::read(line, &trail, &keys, signatures.verifier)) {
        None => Head::NONE,
        Some(Ok(beginning)) => beginning.head(),
        Some(Err(defect)) => return Ok(Verdict::NONE.with(defect)),
    };
    let mut pass = Pass {
        reader,
        chain: Chain::new(signatures, keys.handovers().to_vec(), trail, before),
        removed: before.sequence,
        said_removed: before == Head::NONE,
        horizon: head.sequence,
        entries: Feed::default(),
        rows: Feed::default(),
        checkpoints: Feed::default(),
        witness: witness.lines()?.peekable(),
        held: HashMap::new(),
        verdict: Verdict { removed: before.sequence.unsigned_abs(), head: before, ..Verdict::NONE },
    };
    match pass.run(head).await {
        Ok(()) => Ok(pass.verdict),
        Err(Stop::Bad(defect)) => Ok(pass.verdict.with(defect)),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

/// A row that waits for the outcome that the chain tells.
struct Held {
    sequence: i64,
    operation: Operation,
    row: StoredRow,
}

impl Held {
    fn expects(&self, outcome: Option<&Outcome>) -> Result<(), Defect> {
        let row = OperationRow::begun(self.row.id, &self.operation);
        let expected = outcome.map_or_else(|| row.clone(), |outcome| row.clone().ended(outcome)).stored();
        let differs = |(ours, theirs): (&(&'static str, Cell), &(&'static str, Cell))| {
            (ours != theirs).then_some(ours.0)
        };
        let column = expected.cells.iter().zip(&self.row.cells).find_map(differs);
        let column = column.or_else(|| (expected != self.row).then_some("searched"));
        let Some(column) = column else { return Ok(()) };
        let details = format!("row {} of the lists: its {column} is not what the chain says", self.row.id);
        Err(Defect::at(self.sequence, Fault::RowChanged, details).of(self.operation.id))
    }

    fn is_pending(&self) -> bool {
        cell(&self.row, "status") == Some("pending")
    }
}

fn cell<'a>(row: &'a StoredRow, name: &str) -> Option<&'a str> {
    row.cells.iter().find_map(|(of, cell)| match cell {
        Cell::Text(text) if *of == name => Some(&**text),
        _ => None,
    })
}

struct Pass<'a> {
    reader: &'a dyn TrailReader,
    chain: Chain<'a>,
    /// The last entry that retention has removed.
    removed: i64,
    /// Whether an operation of the trail says so.
    said_removed: bool,
    /// The last entry when the pass began: rows read later know at least of all up to it.
    horizon: i64,
    entries: Feed<StoredEntry>,
    rows: Feed<StoredRow>,
    checkpoints: Feed<StoredCheckpoint>,
    witness: Peekable<Box<dyn Iterator<Item = Result<String>> + Send>>,
    held: HashMap<OperationId, Held>,
    verdict: Verdict,
}

impl Pass<'_> {
    async fn run(&mut self, head: Head) -> Result<(), Stop> {
        if self.removed > 0 {
            // the checkpoint that the rest hangs on is kept
            self.checkpoints().await?;
        }
        self.advance(head).await?;
        if self.chain.head != head {
            let details = "the stored head has another hash than the last entry";
            return Err(Defect::at(head.sequence, Fault::HeadDiffers, details).into());
        }
        self.settle().await?;
        if !self.said_removed {
            // whoever has a key of before could sign the word; the operation is bound by all that was signed since
            let details = "no operation of the trail has removed what went before its beginning";
            return Err(Defect::at(1, Fault::BeginningForged, details).into());
        }
        Ok(())
    }

    /// Takes entries up to `head`, each with its row and its checkpoints.
    async fn advance(&mut self, head: Head) -> Result<(), Stop> {
        while self.chain.head.sequence < head.sequence {
            let stored = self.next_entry().await?.ok_or_else(|| {
                let missing = self.chain.head.sequence + 1;
                let details =
                    format!("entry {missing} is not there; the last one should be {}", head.sequence);
                Defect::at(missing, Fault::EntryMissing, details)
            })?;
            let entry = self.chain.entry(&stored)?;
            self.said_removed |= Beginning::said_by(&entry) == Some(self.removed);
            match entry {
                Entry::Intent { operation } => self.row(stored.sequence, operation, None).await?,
                Entry::Complete { operation, outcome } => {
                    self.row(stored.sequence, operation, Some(outcome)).await?;
                }
                Entry::Outcome { operation_id, outcome } => {
                    self.outcome(stored.sequence, operation_id, &outcome)?
                }
            }
            self.verdict.entries += 1;
            self.verdict.head = self.chain.head;
            self.checkpoints().await?;
        }
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<StoredEntry>> {
        self.entries.fill(|after| self.reader.entries(after, BATCH)).await?;
        Ok(self.entries.waiting.pop_front())
    }

    /// Takes the row of a new operation. Rows of operations younger than the horizon are only taken if they were read
    /// already, and only by their id: they may be older than what the chain tells by now.
    async fn row(
        &mut self,
        sequence: i64,
        operation: Operation,
        outcome: Option<Outcome>,
    ) -> Result<(), Stop> {
        let settled = sequence <= self.horizon;
        if settled {
            self.rows.fill(|after| self.reader.rows(after, BATCH)).await?;
        } else if self.rows.waiting.is_empty() {
            return Ok(());
        }
        let id = operation.id.to_string();
        let Some(row) = self.rows.waiting.pop_front().filter(|row| cell(row, "operation_id") == Some(&*id))
        else {
            let details = "the lists do not have its row, or not in its place";
            return Err(Defect::at(sequence, Fault::RowMissing, details).of(id).into());
        };
        if settled {
            let held = Held { sequence, operation, row };
            match outcome {
                Some(outcome) => held.expects(Some(&outcome))?,
                None => drop(self.held.insert(held.operation.id, held)),
            }
        }
        Ok(())
    }

    fn outcome(&mut self, sequence: i64, operation: OperationId, outcome: &Outcome) -> Result<(), Defect> {
        match self.held.remove(&operation) {
            // its row was read before it ended
            Some(held) if sequence > self.horizon && held.is_pending() => held.expects(None),
            Some(held) => held.expects(Some(outcome)),
            None => Ok(()),
        }
    }

    /// Compares the chain with the checkpoints of the entry it has come to.
    async fn checkpoints(&mut self) -> Result<(), Stop> {
        let here = self.chain.head.sequence;
        self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        let mut in_database = false;
        while let Some(stored) = self.checkpoints.waiting.pop_front_if(|stored| stored.sequence <= here) {
            let checkpoint = self.chain.stored(&stored)?;
            self.chain.checkpoint(&checkpoint)?;
            in_database = true;
            self.verdict.checkpoints += 1;
            self.checkpoints.fill(|after| self.reader.checkpoints(after, BATCH)).await?;
        }
        while let Some(line) = self.witness.peek() {
            let line = line.as_ref().map_err(Clone::clone)?;
            if Checkpoint::parse(line).is_some_and(|of| of.sequence < self.removed) {
                // of what went, maybe by a key of that time
                self.witness.next();
                continue;
            }
            let checkpoint = self.chain.signed(here, line)?;
            if checkpoint.sequence > here {
                break;
            }
            self.chain.checkpoint(&checkpoint)?;
            if !in_database {
                let details = "a checkpoint that is kept elsewhere is not in the database";
                return Err(Defect::at(here, Fault::CheckpointRemoved, details).into());
            }
            self.verdict.witnessed += 1;
            self.witness.next();
        }
        Ok(())
    }

    /// Sees to what the chain has not explained so far.
    async fn settle(&mut self) -> Result<(), Stop> {
        let reader = self.reader;
        self.rows.fill(|after| reader.rows(after, BATCH)).await?;
        self.rows.waiting.truncate(1);
        let beyond =
            self.entries.reopen(|after| reader.entries(after, BATCH)).await?.map(|entry| entry.sequence);
        let stored = self.checkpoints.reopen(|after| reader.checkpoints(after, BATCH)).await?;
        let stored = stored.map(|stored| self.chain.stored(stored)).transpose()?;
        let kept = match self.witness.peek() {
            Some(line) => Some(self.chain.signed(self.horizon, line.as_ref().map_err(Clone::clone)?)?),
            None => None,
        };

        // whatever was read so far was there before this
        let (_, head) = reader.head().await?;
        if beyond.is_some_and(|beyond| beyond > head.sequence) {
            let details = "there are entries after the stored head";
            return Err(Defect::at(head.sequence + 1, Fault::HeadDiffers, details).into());
        }
        for checkpoint in stored.into_iter().chain(kept) {
            if checkpoint.sequence > head.sequence {
                let (at, last) = (checkpoint.sequence, head.sequence);
                let details = format!(
                    "entries up to {at} were signed on {}; after {last} they are gone",
                    checkpoint.time
                );
                return Err(Defect::at(last + 1, Fault::TailCut, details).into());
            }
        }
        self.advance(head).await?;
        self.chain.is_bound()?;

        if let Some(row) = self.rows.waiting.front() {
            let details = format!("row {} of the lists belongs to no operation of the chain", row.id);
            let defect = Defect::at(head.sequence, Fault::RowUnexpected, details);
            return Err(defect.of(cell(row, "operation_id").unwrap_or_default()).into());
        }
        let unexplained = self.held.values().filter(|held| held.expects(None).is_err());
        match unexplained.min_by_key(|held| held.sequence) {
            Some(held) => Ok(held.expects(None)?),
            None => Ok(()),
        }
    }
}

/// What is read in batches and comes one by one.
struct Feed<T> {
    waiting: VecDeque<T>,
    after: i64,
    ended: bool,
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        // ids and numbers start at 1; whatever somebody put before is to be seen
        Self { waiting: VecDeque::new(), after: i64::MIN, ended: false }
    }
}

impl<T: Numbered> Feed<T> {
    /// Reads the next batch when nothing waits and there may be more.
    async fn fill<F>(&mut self, read: impl FnOnce(i64) -> F) -> Result<()>
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

    /// The next one, though there was none a moment ago.
    async fn reopen<F>(&mut self, read: impl FnOnce(i64) -> F) -> Result<Option<&T>>
    where
        F: Future<Output = Result<Vec<T>>>,
    {
        self.ended = false;
        self.fill(read).await?;
        Ok(self.waiting.front())
    }
}

/// By what a batch is continued.
trait Numbered {
    fn number(&self) -> i64;
}

impl Numbered for StoredEntry {
    fn number(&self) -> i64 {
        self.sequence
    }
}

impl Numbered for StoredRow {
    fn number(&self) -> i64 {
        self.id
    }
}

impl Numbered for StoredCheckpoint {
    fn number(&self) -> i64 {
        self.sequence
    }
}
