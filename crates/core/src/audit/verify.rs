//! Verifying the trail while it is being written: the chain, its checkpoints in the database and elsewhere, and the rows
//! that lists show, side by side, a batch at a time.
//!
//! The lists' rows lie in the order of the operations' first entries, so one pass over both is enough. What the pass
//! saw that the chain did not explain by then (a row that had ended, a checkpoint beyond the end) must be explained by what
//! was appended meanwhile; that is a second, short pass.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    CheckpointSink, Defect, Entry, Fault, Head, Operation, OperationId, OperationRow, Outcome, Signatures,
    StoredRow, TrailKeys, TrailReader,
    chain::Chain,
    retention::TrailStart,
    walk::{BATCH, BatchReader, ExternalEvidence, Stop, Walk},
};
use crate::{error::Result, inventory::Cell};

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// Which trail; empty where that is not known.
    #[serde(skip)]
    pub trail: String,
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
    /// How many entries follow the last checkpoint. They wait for the next one.
    pub unsigned: u64,
    /// The first thing that is wrong.
    pub first_bad: Option<Defect>,
}

impl Verdict {
    /// Nothing looked at yet.
    pub(crate) const NONE: Self = Self {
        trail: String::new(),
        valid: true,
        removed: 0,
        entries: 0,
        head: Head::NONE,
        checkpoints: 0,
        witnessed: 0,
        unsigned: 0,
        first_bad: None,
    };

    pub(crate) fn with(self, defect: Defect) -> Self {
        Self { valid: false, first_bad: Some(defect), ..self }
    }
}

/// Verifies the trail behind `reader`, and compares it with what `witness` keeps and with what the process of `reader`
/// remembers. Without a witness nothing is expected to be kept elsewhere. Holds no lock and no transaction; takes memory for
/// a batch and for the operations that are under way.
///
/// # Errors
/// As [`TrailReader`] and [`CheckpointSink::lines`]. What is wrong with the trail is no error, but in the verdict.
pub async fn verify(
    reader: &dyn TrailReader,
    witness: Option<&dyn CheckpointSink>,
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
    witness: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    beginning: Option<&str>,
) -> Result<Verdict> {
    let outside = ExternalEvidence::of(reader, witness)?;
    let (trail, head) = reader.head().await?;
    let verdict = Verdict { trail: trail.clone(), ..Verdict::NONE };
    let lines = reader.handovers().await?;
    let keys = match TrailKeys::of_lines(&trail, signatures.key, &lines, signatures.verifier) {
        Ok(keys) => keys,
        Err(defect) => return Ok(verdict.with(defect)),
    };
    let before = match beginning.map(|line| TrailStart::read(line, &trail, &keys, signatures.verifier)) {
        None => Head::NONE,
        Some(Ok(beginning)) => beginning.head(),
        Some(Err(defect)) => return Ok(verdict.with(defect)),
    };
    let nothing_elsewhere = outside.is_empty;
    let mut pass = Pass {
        reader,
        walk: Walk::whole(reader, Chain::new(signatures, keys, trail, before), outside),
        removed: before.sequence,
        said_removed: before == Head::NONE,
        horizon: head.sequence,
        rows: BatchReader::after(i64::MIN),
        held: HashMap::new(),
        verdict: Verdict { removed: before.sequence.unsigned_abs(), head: before, ..verdict },
    };
    let done = pass.run(head, nothing_elsewhere).await;
    let Pass { walk, mut verdict, .. } = pass;
    (verdict.checkpoints, verdict.witnessed) = (walk.agreed, walk.witnessed);
    verdict.unsigned = walk.chain.head.sequence.abs_diff(walk.chain.signed_through());
    match done {
        Ok(()) => Ok(verdict),
        Err(Stop::Bad(defect)) => Ok(verdict.with(defect)),
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
        let details =
            format!("row {} of the operations list: its {column} does not match the chain", self.row.id);
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
    walk: Walk<'a>,
    /// The last entry that retention has removed.
    removed: i64,
    /// Whether an operation of the trail says so.
    said_removed: bool,
    /// The last entry when the pass began: rows read later know at least of all up to it.
    horizon: i64,
    rows: BatchReader<StoredRow>,
    held: HashMap<OperationId, Held>,
    verdict: Verdict,
}

impl Pass<'_> {
    async fn run(&mut self, head: Head, nothing_elsewhere: bool) -> Result<(), Stop> {
        if self.removed > 0 {
            // the checkpoint that the rest hangs on is kept
            self.walk.compare().await?;
        }
        self.advance(head).await?;
        if self.walk.chain.head != head {
            let details = "the stored head differs from the hash of the last entry";
            return Err(Defect::at(head.sequence, Fault::HeadDiffers, details).into());
        }
        self.settle().await?;
        if !self.said_removed {
            // whoever has a key of before could sign the word; the operation is bound by all that was signed since
            let details = "no operation in the trail removed the entries before its start";
            return Err(Defect::at(1, Fault::BeginningForged, details).into());
        }
        // the first entry of a trail is signed in the transaction that appends it
        if self.walk.agreed == 0 && self.walk.chain.head.sequence > 0 {
            let details = "there is no checkpoint: the checkpoints were removed";
            return Err(Defect::at(1, Fault::CheckpointMissing, details).into());
        }
        // the first checkpoint is kept elsewhere before a server listens
        if nothing_elsewhere && self.walk.agreed > 1 {
            let details = "the trail was signed more than once, but there is no checkpoint outside the database: the \
                checkpoint file was removed or moved; use `--no-witness` to verify without it";
            return Err(Defect::at(self.walk.chain.signed_through(), Fault::WitnessMissing, details).into());
        }
        self.walk.chain.tail_is_young()?;
        Ok(())
    }

    /// Takes entries up to `head`, each with its row and its checkpoints.
    async fn advance(&mut self, head: Head) -> Result<(), Stop> {
        while self.walk.chain.head.sequence < head.sequence {
            let (sequence, entry) = self.walk.step(head).await?;
            self.said_removed |= TrailStart::said_by(&entry) == Some(self.removed);
            match entry {
                Entry::Intent { operation } => self.row(sequence, operation, None).await?,
                Entry::Complete { operation, outcome } => {
                    self.row(sequence, operation, Some(outcome)).await?
                }
                Entry::Outcome { operation_id, outcome } => self.outcome(sequence, operation_id, &outcome)?,
            }
            self.verdict.entries += 1;
            self.verdict.head = self.walk.chain.head;
            self.walk.compare().await?;
        }
        Ok(())
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
            let details = "its row is missing in the operations list, or is out of order";
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

    /// Sees to what the chain has not explained so far.
    async fn settle(&mut self) -> Result<(), Stop> {
        let reader = self.reader;
        self.rows.fill(|after| reader.rows(after, BATCH)).await?;
        self.rows.waiting.truncate(1);
        let head = self.walk.end().await?;
        self.advance(head).await?;

        if let Some(row) = self.rows.waiting.front() {
            let details =
                format!("row {} of the operations list belongs to no operation in the chain", row.id);
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
