//! Copy of a small trail as stored in a database, and the lines of its checkpoint sink.

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Caller, Resource, Verb},
    audit::{
        Checkpoint, CheckpointSigner as _, Fault, Head, OperationRow, Signatures, StoredCheckpoint,
        StoredEntry, StoredRow, TrailReader, TrailStart, Verdict, verify,
    },
    ids::OperationId,
    kind::Kind,
    operation::{Entry, Outcome, Status},
    rows::Cell,
    testing::{
        fake::{FakeSigner, MemoryCheckpointSink},
        permit,
    },
};

/// Entries per checkpoint.
pub(crate) const EVERY: i64 = 7;
pub(crate) const TRAIL: &str = "trail";

/// A database as its owner can edit it, and the checkpoints outside of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TrailCopy {
    pub(crate) trail: String,
    pub(crate) head: Head,
    pub(crate) entries: Vec<StoredEntry>,
    pub(crate) rows: Vec<StoredRow>,
    pub(crate) checkpoints: Vec<StoredCheckpoint>,
    pub(crate) sink_lines: Vec<String>,
    /// The trail start, if the oldest part was removed.
    pub(crate) trail_start: Option<String>,
}

impl TrailCopy {
    /// Overlapping intents, outcomes of each status, operations in one entry, and one pending operation.
    pub(crate) fn sample() -> Self {
        Self::build(|_| {}, |_| false)
    }

    /// The state after each transaction of a trail that is signed more often, by age.
    pub(crate) fn history() -> Vec<Self> {
        let mut history = Vec::new();
        Self::build(|copy| history.push(copy.clone()), |n| n % 4 == 1);
        history
    }

    fn build(mut committed: impl FnMut(&Self), by_age: impl Fn(i64) -> bool) -> Self {
        let mut copy = Self {
            trail: TRAIL.to_owned(),
            head: Head::NONE,
            entries: Vec::new(),
            rows: Vec::new(),
            checkpoints: Vec::new(),
            sink_lines: Vec::new(),
            trail_start: None,
        };
        let mut pending: Vec<(usize, OperationRow)> = Vec::new();
        for n in 0..24 {
            if by_age(n) && copy.checkpoints.last().is_none_or(|last| last.sequence < copy.head.sequence) {
                copy.sign();
                committed(&copy);
            }
            let access =
                AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named(format!("Web-{n}"));
            let operation =
                permit(&Caller::command_line("ann"), access.with("replicas", n)).operation().unwrap().clone();
            let row = OperationRow::begun(n + 1, &operation);
            if n % 3 == 0 {
                let outcome = Outcome::success(operation.created_at);
                copy.rows.push(row.ended(&outcome).stored());
                copy.append(&Entry::Complete { operation, outcome });
                committed(&copy);
                continue;
            }
            copy.append(&Entry::Intent { operation });
            copy.rows.push(row.stored());
            pending.push((copy.rows.len() - 1, row));
            committed(&copy);
            if pending.len() > 2 {
                let (index, row) = pending.remove(0);
                let status = Status::ALL[1 + usize::try_from(n).unwrap() % 3];
                let outcome = Outcome {
                    status,
                    error_code: (status != Status::Success).then(|| "TIMEOUT_ERROR".to_owned()),
                    details: (status == Status::Failed).then(|| "refused".to_owned()),
                    ..Outcome::success(row.created_at)
                };
                copy.append(&Entry::Outcome { operation_id: row.operation_id, outcome: outcome.clone() });
                copy.rows[index] = row.ended(&outcome).stored();
                committed(&copy);
            }
        }
        copy.sign();
        committed(&copy);
        copy
    }

    pub(crate) fn append(&mut self, entry: &Entry) {
        let (stored, head) = StoredEntry::after(self.head, entry).unwrap();
        self.entries.push(stored);
        self.head = head;
        if head.sequence % EVERY == 0 {
            self.sign();
        }
    }

    pub(crate) fn sign(&mut self) {
        let line = checkpoint(self.head, 1_767_225_600).line().unwrap();
        self.checkpoints.push(StoredCheckpoint { sequence: self.head.sequence, line: line.clone() });
        self.sink_lines.push(line);
    }

    /// Removes everything up to the checkpoint at this index, as retention does. The caller sets the trail start.
    pub(crate) fn remove_through(&mut self, index: usize) -> Checkpoint {
        let through = Checkpoint::parse(&self.checkpoints[index].line).unwrap();
        let (removed, remaining): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry| entry.sequence <= through.sequence);
        self.entries = remaining;
        let began_in_removed = |row: &StoredRow| {
            removed.iter().any(|entry| {
                entry.kind != "outcome" && row.cells[1].1 == Cell::text(entry.operation_id.as_str())
            })
        };
        self.rows.retain(|row| !began_in_removed(row));
        self.checkpoints.retain(|stored| stored.sequence >= through.sequence);
        through
    }

    /// Returns a copy whose oldest part was removed by Pilothouse: with a signed trail start and the operation of the
    /// removal.
    pub(crate) fn pruned(&self, index: usize) -> Self {
        let mut copy = self.clone();
        let through = copy.remove_through(index);
        copy.trail_start = Some(trail_start(&through));
        let access = TrailStart::access(1, through.sequence);
        let operation = permit(&Caller::system(), access).operation().unwrap().clone();
        let outcome = Outcome::success(operation.created_at);
        let id = copy.rows.last().unwrap().id + 1;
        copy.rows.push(OperationRow::begun(id, &operation).ended(&outcome).stored());
        copy.append(&Entry::Complete { operation, outcome });
        if copy.checkpoints.last().unwrap().sequence < copy.head.sequence {
            copy.sign();
        }
        copy
    }

    /// Recomputes all hashes, as an attacker can do without a key.
    pub(crate) fn rehash(&mut self) {
        let Head { sequence: before, mut hash } = self.start_head();
        for (entry, sequence) in self.entries.iter_mut().zip(before + 1..) {
            entry.sequence = sequence;
            hash = hash.next(sequence, &entry.text);
            entry.hash = hash.0.to_vec();
        }
        self.head = Head { sequence: before + i64::try_from(self.entries.len()).unwrap(), hash };
    }

    /// The head before the first entry.
    fn start_head(&self) -> Head {
        let start = self.trail_start.as_deref().and_then(Checkpoint::parse);
        start.map_or(Head::NONE, |trail_start| trail_start.head())
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let signer = FakeSigner::default();
        let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
        block_on(verify(self, Some(&MemoryCheckpointSink::of(self.sink_lines.clone())), signatures)).unwrap()
    }

    pub(crate) fn fault(&self) -> Option<(i64, Fault)> {
        self.verdict().first_bad.map(|bad| (bad.sequence, bad.fault))
    }
}

pub(crate) fn checkpoint(head: Head, second: i64) -> Checkpoint {
    Checkpoint::sign(&FakeSigner::default(), TRAIL, head, Timestamp::from_second(second).unwrap())
}

#[async_trait]
impl TrailReader for TrailCopy {
    async fn trail_start(&self) -> Result<Option<String>> {
        Ok(self.trail_start.clone())
    }

    async fn head(&self) -> Result<(String, Head)> {
        Ok((self.trail.clone(), self.head))
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        let mut all: Vec<_> = self.entries.iter().filter(|entry| entry.sequence > after).cloned().collect();
        all.sort_by_key(|entry| entry.sequence);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        Ok(self.entries.iter().find(|entry| entry.operation_id == operation.to_string()).cloned())
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        let mut all: Vec<_> = self.rows.iter().filter(|row| row.id > after).cloned().collect();
        all.sort_by_key(|row| row.id);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        let mut all: Vec<_> = self.checkpoints.iter().filter(|one| one.sequence > after).cloned().collect();
        all.sort_by_key(|one| one.sequence);
        all.truncate(limit as usize);
        Ok(all)
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }
}

/// The trail start after this checkpoint.
pub(crate) fn trail_start(through: &Checkpoint) -> String {
    let time = Timestamp::from_second(1_800_000_000).unwrap();
    TrailStart::after(through, &FakeSigner::default(), time).line().unwrap()
}
