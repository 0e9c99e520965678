//! Verification of the trail while other processes append to it: the chain, its checkpoints inside and outside the
//! database, and the rows of the operations list are read side by side, one batch at a time.
//!
//! The rows are in the order of the operations' first entries, so one pass over both is enough. A finding that the
//! chain did not explain during the pass (a row that had ended already, a checkpoint beyond the end) must be explained
//! by entries appended meanwhile; a second, short pass reads them.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    CheckpointSink, Defect, Fault, Head, OperationRow, Signatures, StoredRow, TrailKeys, TrailReader,
    chain::Chain,
    retention::TrailStart,
    walk::{BATCH, BatchReader, ExternalEvidence, Stop, Walk},
};
use crate::{
    error::Result,
    ids::OperationId,
    operation::{Entry, Operation, Outcome},
    rows::Cell,
};

/// Result of a verification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// Trail id; empty if not known.
    #[serde(skip)]
    pub trail: String,
    /// Whether no defect was found.
    pub valid: bool,
    /// Number of entries that retention removed before the first one verified, according to the signed record.
    pub removed: u64,
    /// Number of valid entries. If there is a defect, these are the entries before it.
    pub entries: u64,
    /// Last valid entry.
    pub head: Head,
    /// Number of checkpoints in the database that match the chain.
    pub checkpoints: u64,
    /// Number of checkpoints outside the database that match the chain.
    pub witnessed: u64,
    /// Number of entries after the last checkpoint. The next checkpoint will cover them.
    pub unsigned: u64,
    /// First defect found.
    pub first_bad: Option<Defect>,
}

impl Verdict {
    /// Verdict before any entry was read.
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

/// Verifies the trail behind `reader` and compares it with the lines of the checkpoint sink and with the heads that the
/// process of `reader` has verified. Without a sink, no checkpoint is expected outside the database. Holds no lock and
/// no transaction; memory is bounded by one batch and the pending operations.
///
/// # Errors
/// As [`TrailReader`] and [`CheckpointSink::lines`]. A defect of the trail is not an error; the verdict names it.
pub async fn verify(
    reader: &dyn TrailReader,
    sink: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
) -> Result<Verdict> {
    loop {
        let trail_start = reader.trail_start().await?;
        let verdict = verify_snapshot(reader, sink, signatures, trail_start.as_deref()).await?;
        // a defect is not final if retention removed entries meanwhile: verify again from the new start
        if verdict.valid || reader.trail_start().await? == trail_start {
            return Ok(verdict);
        }
    }
}

/// Verifies the trail that begins after `trail_start`. A removal by retention meanwhile causes a defect.
async fn verify_snapshot(
    reader: &dyn TrailReader,
    sink: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    trail_start: Option<&str>,
) -> Result<Verdict> {
    let evidence = ExternalEvidence::of(reader, sink)?;
    let (trail, head) = reader.head().await?;
    let verdict = Verdict { trail: trail.clone(), ..Verdict::NONE };
    let lines = reader.key_rotations().await?;
    let keys = match TrailKeys::of_lines(&trail, signatures.key, &lines, signatures.verifier) {
        Ok(keys) => keys,
        Err(defect) => return Ok(verdict.with(defect)),
    };
    let before = match trail_start.map(|line| TrailStart::read(line, &trail, &keys, signatures.verifier)) {
        None => Head::NONE,
        Some(Ok(start)) => start.head(),
        Some(Err(defect)) => return Ok(verdict.with(defect)),
    };
    let sink_is_empty = evidence.is_empty;
    let mut pass = Pass {
        reader,
        walk: Walk::whole(reader, Chain::new(signatures, keys, trail, before), evidence),
        removed: before.sequence,
        prune_recorded: before == Head::NONE,
        horizon: head.sequence,
        rows: BatchReader::after(i64::MIN),
        pending: HashMap::new(),
        verdict: Verdict { removed: before.sequence.unsigned_abs(), head: before, ..verdict },
    };
    let done = pass.run(head, sink_is_empty).await;
    let Pass { walk, mut verdict, .. } = pass;
    (verdict.checkpoints, verdict.witnessed) = (walk.stored_matches, walk.external_matches);
    verdict.unsigned = walk.chain.head.sequence.abs_diff(walk.chain.signed_through());
    match done {
        Ok(()) => Ok(verdict),
        Err(Stop::Bad(defect)) => Ok(verdict.with(defect)),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

/// A row of the operations list whose outcome has not been read from the chain yet.
struct PendingRow {
    sequence: i64,
    operation: Operation,
    row: StoredRow,
}

impl PendingRow {
    /// Checks that the row matches the operation and this outcome; without an outcome, that it is pending.
    fn check(&self, outcome: Option<&Outcome>) -> Result<(), Defect> {
        let row = OperationRow::begun(self.row.id, &self.operation);
        let expected = outcome.map_or_else(|| row.clone(), |outcome| row.clone().ended(outcome)).stored();
        let differs = |(expected, found): (&(&'static str, Cell), &(&'static str, Cell))| {
            (expected != found).then_some(expected.0)
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

/// Text of a column of a row; `None` if the column is absent or not a text.
fn cell<'a>(row: &'a StoredRow, name: &str) -> Option<&'a str> {
    row.cells.iter().find_map(|(of, cell)| match cell {
        Cell::Text(text) if *of == name => Some(&**text),
        _ => None,
    })
}

/// State of a verification pass.
struct Pass<'a> {
    reader: &'a dyn TrailReader,
    walk: Walk<'a>,
    /// Last entry that retention removed.
    removed: i64,
    /// Whether an operation in the trail records the removal.
    prune_recorded: bool,
    /// Last entry when the pass began. Rows read later reflect at least all entries up to it.
    horizon: i64,
    rows: BatchReader<StoredRow>,
    pending: HashMap<OperationId, PendingRow>,
    verdict: Verdict,
}

impl Pass<'_> {
    /// Verifies the trail up to `head`, and further if it has grown.
    async fn run(&mut self, head: Head, sink_is_empty: bool) -> Result<(), Stop> {
        if self.removed > 0 {
            // the checkpoint of the last removed entry is kept
            self.walk.compare().await?;
        }
        self.advance(head).await?;
        if self.walk.chain.head != head {
            let details = "the stored head differs from the hash of the last entry";
            return Err(Defect::at(head.sequence, Fault::HeadDiffers, details).into());
        }
        self.finish().await?;
        if !self.prune_recorded {
            // an earlier key could sign a trail start; the operation is covered by all later checkpoints
            let details = "no operation in the trail removed the entries before its start";
            return Err(Defect::at(1, Fault::BeginningForged, details).into());
        }
        // the first entry of a trail is signed in the transaction that appends it
        if self.walk.stored_matches == 0 && self.walk.chain.head.sequence > 0 {
            let details = "there is no checkpoint: the checkpoints were removed";
            return Err(Defect::at(1, Fault::CheckpointMissing, details).into());
        }
        // a server writes the first checkpoint to the sink before it listens
        if sink_is_empty && self.walk.stored_matches > 1 {
            let details = "the trail was signed more than once, but there is no checkpoint outside the database: the \
                checkpoint file was removed or moved; use `--no-witness` to verify without it";
            return Err(Defect::at(self.walk.chain.signed_through(), Fault::WitnessMissing, details).into());
        }
        self.walk.chain.check_unsigned_tail()?;
        Ok(())
    }

    /// Verifies entries up to `head`, each with its row and its checkpoints.
    async fn advance(&mut self, head: Head) -> Result<(), Stop> {
        while self.walk.chain.head.sequence < head.sequence {
            let (sequence, entry) = self.walk.step(head).await?;
            self.prune_recorded |= TrailStart::pruned_through(&entry) == Some(self.removed);
            match entry {
                Entry::Intent { operation } => self.row(sequence, operation, None).await?,
                Entry::Complete { operation, outcome } => {
                    self.row(sequence, operation, Some(outcome)).await?;
                }
                Entry::Outcome { operation_id, outcome } => self.outcome(sequence, operation_id, &outcome)?,
            }
            self.verdict.entries += 1;
            self.verdict.head = self.walk.chain.head;
            self.walk.compare().await?;
        }
        Ok(())
    }

    /// Verifies the row of a new operation. A row beyond the horizon is checked only if it was read already, and only
    /// by its id: it may be older than the state of the chain.
    async fn row(
        &mut self,
        sequence: i64,
        operation: Operation,
        outcome: Option<Outcome>,
    ) -> Result<(), Stop> {
        let is_settled = sequence <= self.horizon;
        if is_settled {
            self.rows.fill(|after| self.reader.rows(after, BATCH)).await?;
        } else if self.rows.buffer.is_empty() {
            return Ok(());
        }
        let id = operation.id.to_string();
        let Some(row) = self.rows.buffer.pop_front().filter(|row| cell(row, "operation_id") == Some(&*id))
        else {
            let details = "its row is missing in the operations list, or is out of order";
            return Err(Defect::at(sequence, Fault::RowMissing, details).of(id).into());
        };
        if is_settled {
            let pending = PendingRow { sequence, operation, row };
            match outcome {
                Some(outcome) => pending.check(Some(&outcome))?,
                None => drop(self.pending.insert(pending.operation.id, pending)),
            }
        }
        Ok(())
    }

    /// Verifies the row of an operation whose outcome was read from the chain.
    fn outcome(&mut self, sequence: i64, operation: OperationId, outcome: &Outcome) -> Result<(), Defect> {
        match self.pending.remove(&operation) {
            // the row was read before the operation ended
            Some(row) if sequence > self.horizon && row.is_pending() => row.check(None),
            Some(row) => row.check(Some(outcome)),
            None => Ok(()),
        }
    }

    /// Second pass: checks the findings that the chain has not explained so far.
    async fn finish(&mut self) -> Result<(), Stop> {
        let reader = self.reader;
        self.rows.fill(|after| reader.rows(after, BATCH)).await?;
        self.rows.buffer.truncate(1);
        let head = self.walk.end().await?;
        self.advance(head).await?;

        if let Some(row) = self.rows.buffer.front() {
            let details =
                format!("row {} of the operations list belongs to no operation in the chain", row.id);
            let defect = Defect::at(head.sequence, Fault::RowUnexpected, details);
            return Err(defect.of(cell(row, "operation_id").unwrap_or_default()).into());
        }
        let unexplained = self.pending.values().filter(|row| row.check(None).is_err());
        match unexplained.min_by_key(|row| row.sequence) {
            Some(row) => Ok(row.check(None)?),
            None => Ok(()),
        }
    }
}
