//! A trail whose signing key changed, and what somebody makes of it who has the database and the old key.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Caller, Resource, Verb},
    audit::{
        ChainHash, Checkpoint, Entry, Fault, Head, KeyRotation, OperationId, OperationRow, Outcome,
        PublicKey, Signatures, StoredCheckpoint, StoredEntry, StoredRow, TrailReader, TrailStart, Verdict,
        verify,
    },
    hex::Hex,
    testing::{
        fake::{FakeSigner, MemoryCheckpointSink},
        permit,
    },
};

const TRAIL: &str = "trail";

fn key(n: u8) -> PublicKey {
    Hex([n; 32])
}

/// A trail that grows under one key after another.
#[derive(Clone)]
struct Trail {
    head: Head,
    entries: Vec<StoredEntry>,
    rows: Vec<StoredRow>,
    checkpoints: Vec<StoredCheckpoint>,
    witness: Vec<String>,
    handovers: Vec<KeyRotation>,
    beginning: Option<String>,
}

impl Trail {
    fn new() -> Self {
        Self {
            head: Head::NONE,
            entries: Vec::new(),
            rows: Vec::new(),
            checkpoints: Vec::new(),
            witness: Vec::new(),
            handovers: Vec::new(),
            beginning: None,
        }
    }

    fn append(&mut self, access: AccessRequest) {
        let operation = permit(&Caller::command_line("ann"), access).operation().unwrap().clone();
        let outcome = Outcome::success(operation.created_at);
        let id = self.rows.last().map_or(1, |row| row.id + 1);
        let row = OperationRow::begun(id, &operation);
        self.rows.push(row.ended(&outcome).stored());
        let (stored, head) = StoredEntry::after(self.head, &Entry::Complete { operation, outcome }).unwrap();
        self.head = head;
        self.entries.push(stored);
    }

    fn work(&mut self, count: usize) {
        for _ in 0..count {
            self.append(AccessRequest::to(Verb::Update, Resource::User).named("ann"));
        }
    }

    fn sign(&mut self, by: u8) {
        let time = Timestamp::from_second(1_767_225_600).unwrap();
        let line = Checkpoint::sign(&FakeSigner::of(key(by)), TRAIL, self.head, time).line().unwrap();
        self.checkpoints.push(StoredCheckpoint { sequence: self.head.sequence, line: line.clone() });
        self.witness.push(line);
    }

    /// The entry that names another key, without anything that is signed for it.
    fn name_key(&mut self, from: u8, to: u8) {
        self.append(KeyRotation::access(&key(from), &key(to)));
    }

    fn rekey(&mut self, from: u8, to: u8) {
        self.name_key(from, to);
        self.handovers.push(KeyRotation::sign(&FakeSigner::of(key(to)), TRAIL, self.head, key(from)));
    }

    /// Three keys, one after another.
    fn made() -> Self {
        let mut trail = Self::new();
        for n in 1..=3 {
            if n > 1 {
                trail.rekey(n - 1, n);
                trail.sign(n);
            }
            trail.work(3);
            trail.sign(n);
            trail.work(2);
            trail.sign(n);
        }
        trail
    }

    /// As retention leaves it that removes all up to the checkpoint of this place, under this key.
    fn pruned(&self, place: usize, by: u8) -> Self {
        let mut trail = self.clone();
        let through = Checkpoint::parse(&trail.checkpoints[place].line).unwrap();
        let (at, count) = (through.sequence, usize::try_from(through.sequence).unwrap());
        trail.entries.drain(..count);
        trail.rows.drain(..count);
        trail.checkpoints.drain(..place);
        trail.handovers.retain(|handover| handover.sequence > at);
        let time = Timestamp::from_second(1_800_000_000).unwrap();
        trail.beginning = Some(TrailStart::after(&through, &FakeSigner::of(key(by)), time).line().unwrap());
        trail
    }

    /// Tells of a removal up to this entry.
    fn tell(&mut self, through: i64) {
        self.append(TrailStart::access(1, through));
    }

    fn verdict(&self, trusted: u8) -> Verdict {
        let verifier = FakeSigner::of(key(trusted));
        let signatures = Signatures { key: key(trusted), verifier: &verifier, every: 100 };
        block_on(verify(self, Some(&MemoryCheckpointSink::of(self.witness.clone())), signatures)).unwrap()
    }

    fn fault(&self, trusted: u8) -> Option<Fault> {
        self.verdict(trusted).first_bad.map(|bad| bad.fault)
    }
}

fn after<T: Clone>(all: &[T], number: impl Fn(&T) -> i64, after: i64, limit: u32) -> Vec<T> {
    all.iter().filter(|one| number(one) > after).take(limit as usize).cloned().collect()
}

#[async_trait]
impl TrailReader for Trail {
    async fn beginning(&self) -> Result<Option<String>> {
        Ok(self.beginning.clone())
    }

    async fn head(&self) -> Result<(String, Head)> {
        Ok((TRAIL.to_owned(), self.head))
    }

    async fn entries(&self, from: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        Ok(after(&self.entries, |entry| entry.sequence, from, limit))
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        Ok(self.entries.iter().find(|entry| entry.operation_id == operation.to_string()).cloned())
    }

    async fn rows(&self, from: i64, limit: u32) -> Result<Vec<StoredRow>> {
        Ok(after(&self.rows, |row| row.id, from, limit))
    }

    async fn checkpoints(&self, from: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        Ok(after(&self.checkpoints, |stored| stored.sequence, from, limit))
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }

    async fn handovers(&self) -> Result<Vec<String>> {
        self.handovers.iter().map(KeyRotation::line).collect()
    }
}

#[test]
fn whoever_trusts_the_last_key_trusts_the_others_for_their_time() {
    let trail = Trail::made();
    let verdict = trail.verdict(3);
    assert!(verdict.valid, "{verdict:?}");
    assert_eq!((verdict.checkpoints, verdict.witnessed), (8, 8));
    for other in [1, 2, 4] {
        assert!(trail.fault(other).is_some(), "key {other} is not the one in use");
    }
}

#[test]
fn no_key_signs_out_of_its_time() {
    // the old one goes on after the change
    let mut trail = Trail::made();
    trail.work(1);
    trail.sign(2);
    assert_eq!(trail.fault(3), Some(Fault::CheckpointForged));
    // and signs the change itself
    let mut trail = Trail::new();
    trail.work(2);
    trail.rekey(1, 2);
    trail.sign(1);
    assert_eq!(trail.fault(2), Some(Fault::CheckpointForged));
    // the new one before it
    let mut trail = Trail::new();
    trail.work(2);
    trail.sign(2);
    trail.rekey(1, 2);
    trail.sign(2);
    assert_eq!(trail.fault(2), Some(Fault::CheckpointForged));
}

/// Whoever writes the database makes another past, signs it with a key of their own, and names that as the key before. What
/// the key in use signs later, because it is asked to, does not stand in for its word on that.
#[test]
fn a_later_checkpoint_does_not_make_a_handover_valid() {
    let mut forged = Trail::new();
    forged.work(4);
    forged.sign(9);
    forged.name_key(9, 3);
    assert_eq!(forged.fault(3), Some(Fault::CheckpointForged), "at the end");
    forged.work(1);
    forged.sign(3);
    forged.work(1);
    forged.sign(3);
    assert_eq!(forged.fault(3), Some(Fault::CheckpointForged), "covered by checkpoints of the key in use");
    let mut without = forged.clone();
    without.checkpoints.remove(0);
    without.witness.remove(0);
    assert_eq!(without.fault(3), Some(Fault::CheckpointForged), "the entry alone");

    // with a signature that is somebody's, or for something else
    let at = Head { sequence: 5, hash: ChainHash(forged.entries[4].hash.as_slice().try_into().unwrap()) };
    let by_another =
        KeyRotation { next: key(3), ..KeyRotation::sign(&FakeSigner::of(key(9)), TRAIL, at, key(9)) };
    let elsewhere = KeyRotation::sign(&FakeSigner::of(key(3)), "another trail", at, key(9));
    let of_whole = Trail::made().handovers.pop().unwrap();
    for handover in [by_another, elsewhere, of_whole] {
        let mut signed = forged.clone();
        signed.handovers.push(handover.clone());
        assert_eq!(signed.fault(3), Some(Fault::CheckpointForged), "{handover:?}");
    }
    let mut asked = forged.clone();
    asked.handovers.push(KeyRotation::sign(&FakeSigner::of(key(3)), TRAIL, at, key(9)));
    assert_eq!(asked.fault(3), None, "only the key in use can say so");
}

#[test]
fn nobody_rewrites_the_past_with_the_keys_before_in_hand() {
    let whole = Trail::made();
    let mut rewritten = Trail::new();
    rewritten.work(5);
    rewritten.sign(1);
    rewritten.rekey(1, 2);
    rewritten.sign(2);
    rewritten.work(5);
    rewritten.sign(2);
    rewritten.name_key(2, 3);
    rewritten.handovers.push(whole.handovers[1].clone());
    rewritten.checkpoints.extend(whole.checkpoints[5..].iter().cloned());
    rewritten.witness = Vec::new();
    assert_eq!(rewritten.fault(3), Some(Fault::CheckpointForged));
    rewritten.handovers.pop();
    assert_eq!(rewritten.fault(3), Some(Fault::CheckpointForged));
}

#[test]
fn a_change_that_is_hidden_or_made_up_is_found() {
    let mut hidden = Trail::made();
    hidden.handovers.remove(0);
    assert_eq!(hidden.fault(3), Some(Fault::CheckpointForged), "its checkpoints are nobody's");
    let mut elsewhere = Trail::made();
    elsewhere.handovers.swap_remove(1);
    assert!(elsewhere.fault(3).is_some());
    let mut twice = Trail::made();
    twice.rekey(3, 4);
    twice.sign(4);
    assert!(twice.fault(3).is_some(), "to a key that is not the one trusted");
    assert!(twice.verdict(4).valid);
}

/// Retention under one key, verified by whoever trusts the last one; entries that named keys may be among what went.
#[test]
fn a_removal_is_believed_of_the_keys_that_signed_since() {
    let trail = Trail::made();
    for place in 0..trail.checkpoints.len() {
        let at = trail.checkpoints[place].sequence;
        let signed_by = trail.handovers.iter().filter(|handover| handover.sequence <= at).count() as u8 + 1;
        for by in 1..=4 {
            let mut pruned = trail.pruned(place, by);
            pruned.tell(at);
            pruned.sign(3);
            let verdict = pruned.verdict(3);
            let expected = (by < signed_by || by > 3).then_some(Fault::BeginningForged);
            assert_eq!(verdict.first_bad.map(|bad| bad.fault), expected, "checkpoint {place} by {by}");
        }
        // whoever has an old key can sign the word, and has no operation that says so
        let mut forged = trail.pruned(place, signed_by);
        assert_eq!(forged.fault(3), Some(Fault::BeginningForged), "checkpoint {place}");
        forged.tell(at + 1);
        forged.sign(3);
        assert_eq!(forged.fault(3), Some(Fault::BeginningForged), "checkpoint {place}");
    }
}
