//! Trails whose signing key was rotated, and forgeries by an attacker with write access to the database and an old key.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Caller, Resource, Verb},
    audit::{
        ChainHash, Checkpoint, Fault, Head, KeyRotation, OperationRow, PublicKey, Signatures,
        StoredCheckpoint, StoredEntry, StoredRow, TrailReader, TrailStart, Verdict, verify,
    },
    hex::Hex,
    ids::OperationId,
    operation::{Entry, Outcome},
    testing::{
        fake::{FakeSigner, MemoryCheckpointSink},
        permit,
    },
};

const TRAIL: &str = "trail";

fn key(n: u8) -> PublicKey {
    Hex([n; 32])
}

/// A trail that is signed by a sequence of keys.
#[derive(Clone)]
struct Trail {
    head: Head,
    entries: Vec<StoredEntry>,
    rows: Vec<StoredRow>,
    checkpoints: Vec<StoredCheckpoint>,
    sink_lines: Vec<String>,
    rotations: Vec<KeyRotation>,
    trail_start: Option<String>,
}

impl Trail {
    fn new() -> Self {
        Self {
            head: Head::NONE,
            entries: Vec::new(),
            rows: Vec::new(),
            checkpoints: Vec::new(),
            sink_lines: Vec::new(),
            rotations: Vec::new(),
            trail_start: None,
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

    fn append_entries(&mut self, count: usize) {
        for _ in 0..count {
            self.append(AccessRequest::to(Verb::Update, Resource::User).named("ann"));
        }
    }

    fn sign(&mut self, by: u8) {
        let time = Timestamp::from_second(1_767_225_600).unwrap();
        let line = Checkpoint::sign(&FakeSigner::of(key(by)), TRAIL, self.head, time).line().unwrap();
        self.checkpoints.push(StoredCheckpoint { sequence: self.head.sequence, line: line.clone() });
        self.sink_lines.push(line);
    }

    /// Appends the entry that names another key, without the signed key rotation.
    fn name_key(&mut self, from: u8, to: u8) {
        self.append(KeyRotation::access(&key(from), &key(to)));
    }

    fn rekey(&mut self, from: u8, to: u8) {
        self.name_key(from, to);
        self.rotations.push(KeyRotation::sign(&FakeSigner::of(key(to)), TRAIL, self.head, key(from)));
    }

    /// A trail with three keys, one after another.
    fn with_three_keys() -> Self {
        let mut trail = Self::new();
        for n in 1..=3 {
            if n > 1 {
                trail.rekey(n - 1, n);
                trail.sign(n);
            }
            trail.append_entries(3);
            trail.sign(n);
            trail.append_entries(2);
            trail.sign(n);
        }
        trail
    }

    /// The trail after a removal up to the checkpoint at this index, with a trail start signed by this key.
    fn pruned(&self, index: usize, by: u8) -> Self {
        let mut trail = self.clone();
        let through = Checkpoint::parse(&trail.checkpoints[index].line).unwrap();
        let (at, count) = (through.sequence, usize::try_from(through.sequence).unwrap());
        trail.entries.drain(..count);
        trail.rows.drain(..count);
        trail.checkpoints.drain(..index);
        trail.rotations.retain(|rotation| rotation.sequence > at);
        let time = Timestamp::from_second(1_800_000_000).unwrap();
        trail.trail_start = Some(TrailStart::after(&through, &FakeSigner::of(key(by)), time).line().unwrap());
        trail
    }

    /// Appends the operation of a removal up to this entry.
    fn append_removal(&mut self, through: i64) {
        self.append(TrailStart::access(1, through));
    }

    fn verdict(&self, trusted: u8) -> Verdict {
        let verifier = FakeSigner::of(key(trusted));
        let signatures = Signatures { key: key(trusted), verifier: &verifier, every: 100 };
        block_on(verify(self, Some(&MemoryCheckpointSink::of(self.sink_lines.clone())), signatures)).unwrap()
    }

    fn fault(&self, trusted: u8) -> Option<Fault> {
        self.verdict(trusted).first_bad.map(|bad| bad.fault)
    }
}

fn page_after<T: Clone>(all: &[T], number: impl Fn(&T) -> i64, after: i64, limit: u32) -> Vec<T> {
    all.iter().filter(|one| number(one) > after).take(limit as usize).cloned().collect()
}

#[async_trait]
impl TrailReader for Trail {
    async fn trail_start(&self) -> Result<Option<String>> {
        Ok(self.trail_start.clone())
    }

    async fn head(&self) -> Result<(String, Head)> {
        Ok((TRAIL.to_owned(), self.head))
    }

    async fn entries(&self, from: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        Ok(page_after(&self.entries, |entry| entry.sequence, from, limit))
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        Ok(self.entries.iter().find(|entry| entry.operation_id == operation.to_string()).cloned())
    }

    async fn rows(&self, from: i64, limit: u32) -> Result<Vec<StoredRow>> {
        Ok(page_after(&self.rows, |row| row.id, from, limit))
    }

    async fn checkpoints(&self, from: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        Ok(page_after(&self.checkpoints, |stored| stored.sequence, from, limit))
    }

    async fn between(
        &self,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        Ok((None, None))
    }

    async fn key_rotations(&self) -> Result<Vec<String>> {
        self.rotations.iter().map(KeyRotation::line).collect()
    }
}

#[test]
fn earlier_keys_are_trusted_for_the_entries_of_their_periods() {
    let trail = Trail::with_three_keys();
    let verdict = trail.verdict(3);
    assert!(verdict.valid, "{verdict:?}");
    assert_eq!((verdict.checkpoints, verdict.witnessed), (8, 8));
    for other in [1, 2, 4] {
        assert!(trail.fault(other).is_some(), "key {other} is not the key in use");
    }
}

#[test]
fn key_cannot_sign_outside_its_period() {
    // the old key continues to sign after the rotation
    let mut trail = Trail::with_three_keys();
    trail.append_entries(1);
    trail.sign(2);
    assert_eq!(trail.fault(3), Some(Fault::CheckpointForged));
    // the old key signs the rotation itself
    let mut trail = Trail::new();
    trail.append_entries(2);
    trail.rekey(1, 2);
    trail.sign(1);
    assert_eq!(trail.fault(2), Some(Fault::CheckpointForged));
    // the new key signs before the rotation
    let mut trail = Trail::new();
    trail.append_entries(2);
    trail.sign(2);
    trail.rekey(1, 2);
    trail.sign(2);
    assert_eq!(trail.fault(2), Some(Fault::CheckpointForged));
}

/// An attacker who can write to the database forges the past, signs it with another key, and names that key as the
/// previous one. Later checkpoints of the key in use do not replace the signature of the rotation by that key.
#[test]
fn later_checkpoint_does_not_validate_a_key_rotation() {
    let mut forged = Trail::new();
    forged.append_entries(4);
    forged.sign(9);
    forged.name_key(9, 3);
    assert_eq!(forged.fault(3), Some(Fault::CheckpointForged), "at the end");
    forged.append_entries(1);
    forged.sign(3);
    forged.append_entries(1);
    forged.sign(3);
    assert_eq!(forged.fault(3), Some(Fault::CheckpointForged), "covered by checkpoints of the key in use");
    let mut without = forged.clone();
    without.checkpoints.remove(0);
    without.sink_lines.remove(0);
    assert_eq!(without.fault(3), Some(Fault::CheckpointForged), "the entry without checkpoints");

    // with a signature by another key, for another trail, or for another head
    let at = Head { sequence: 5, hash: ChainHash(forged.entries[4].hash.as_slice().try_into().unwrap()) };
    let by_another =
        KeyRotation { next: key(3), ..KeyRotation::sign(&FakeSigner::of(key(9)), TRAIL, at, key(9)) };
    let for_another_trail = KeyRotation::sign(&FakeSigner::of(key(3)), "another trail", at, key(9));
    let of_another_head = Trail::with_three_keys().rotations.pop().unwrap();
    for rotation in [by_another, for_another_trail, of_another_head] {
        let mut signed = forged.clone();
        signed.rotations.push(rotation.clone());
        assert_eq!(signed.fault(3), Some(Fault::CheckpointForged), "{rotation:?}");
    }
    let mut confirmed = forged.clone();
    confirmed.rotations.push(KeyRotation::sign(&FakeSigner::of(key(3)), TRAIL, at, key(9)));
    assert_eq!(confirmed.fault(3), None, "only the key in use can sign a rotation");
}

#[test]
fn signed_entries_cannot_be_rewritten_with_earlier_keys() {
    let whole = Trail::with_three_keys();
    let mut rewritten = Trail::new();
    rewritten.append_entries(5);
    rewritten.sign(1);
    rewritten.rekey(1, 2);
    rewritten.sign(2);
    rewritten.append_entries(5);
    rewritten.sign(2);
    rewritten.name_key(2, 3);
    rewritten.rotations.push(whole.rotations[1].clone());
    rewritten.checkpoints.extend(whole.checkpoints[5..].iter().cloned());
    rewritten.sink_lines = Vec::new();
    assert_eq!(rewritten.fault(3), Some(Fault::CheckpointForged));
    rewritten.rotations.pop();
    assert_eq!(rewritten.fault(3), Some(Fault::CheckpointForged));
}

#[test]
fn hidden_or_forged_key_rotation_is_detected() {
    let mut hidden = Trail::with_three_keys();
    hidden.rotations.remove(0);
    assert_eq!(
        hidden.fault(3),
        Some(Fault::CheckpointForged),
        "the checkpoints of the first key cannot be verified"
    );
    let mut without_second = Trail::with_three_keys();
    without_second.rotations.swap_remove(1);
    assert!(without_second.fault(3).is_some());
    let mut twice = Trail::with_three_keys();
    twice.rekey(3, 4);
    twice.sign(4);
    assert!(twice.fault(3).is_some(), "rotated to an untrusted key");
    assert!(twice.verdict(4).valid);
}

/// Entries are removed under one key, and the trail is verified with the last key. The entries that record key
/// rotations may be among the removed entries.
#[test]
fn trail_start_is_accepted_only_from_the_key_of_its_time_or_a_later_key() {
    let trail = Trail::with_three_keys();
    for index in 0..trail.checkpoints.len() {
        let at = trail.checkpoints[index].sequence;
        let signed_by = trail.rotations.iter().filter(|rotation| rotation.sequence <= at).count() as u8 + 1;
        for by in 1..=4 {
            let mut pruned = trail.pruned(index, by);
            pruned.append_removal(at);
            pruned.sign(3);
            let verdict = pruned.verdict(3);
            let expected = (by < signed_by || by > 3).then_some(Fault::BeginningForged);
            assert_eq!(verdict.first_bad.map(|bad| bad.fault), expected, "checkpoint {index} by {by}");
        }
        // an attacker with an old key can sign a trail start, but has no matching removal operation
        let mut forged = trail.pruned(index, signed_by);
        assert_eq!(forged.fault(3), Some(Fault::BeginningForged), "checkpoint {index}");
        forged.append_removal(at + 1);
        forged.sign(3);
        assert_eq!(forged.fault(3), Some(Fault::BeginningForged), "checkpoint {index}");
    }
}
