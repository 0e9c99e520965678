//! Whoever has the database can change it. What they did is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod copy;
mod edit;
mod retention;

use async_trait::async_trait;
use copy::{Copy, EVERY};
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    audit::{
        ChainHash, CheckpointSigner as _, Fault, Head, OperationId, Signatures, StoredCheckpoint,
        StoredEntry, StoredRow, TrailReader, verify,
    },
    inventory::Cell,
    testing::fake::{FakeSigner, MemoryWitness},
};
use proptest::{prelude::*, test_runner::Config};

#[test]
fn a_trail_that_nobody_touched_is_whole() {
    let copy = Copy::made();
    let verdict = copy.verdict();
    assert_eq!(verdict.first_bad, None);
    assert!(verdict.valid);
    assert_eq!((verdict.entries, verdict.head), (copy.entries.len() as u64, copy.head));
    assert_eq!(
        (verdict.checkpoints, verdict.witnessed),
        (copy.checkpoints.len() as u64, copy.witness.len() as u64)
    );
}

/// 10,000 of them; the ones that change nothing (a byte put back, a row swapped with itself) are not counted.
#[test]
fn ten_thousand_random_edits_are_all_found() {
    all_are_found(&Copy::made(), 10_000);
}

/// Makes random edits of a trail, each of the trail as it is.
pub(crate) fn all_are_found(whole: &Copy, edits: u32) {
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: edits,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&edit::edits(), |edit| {
            let mut copy = whole.clone();
            edit.make(&mut copy);
            prop_assume!(copy != *whole);
            prop_assert!(!copy.verdict().valid, "not found");
            Ok(())
        })
        .unwrap();
}

/// Names the entry, and says what is wrong with it.
#[test]
fn the_first_bad_entry_is_named() {
    let whole = Copy::made();
    let last = whole.head.sequence;
    let edited = |edit: &dyn Fn(&mut Copy)| {
        let mut copy = whole.clone();
        edit(&mut copy);
        copy.fault()
    };
    let is = |sequence, fault| Some((sequence, fault));
    assert_eq!(edited(&|copy| copy.entries[9].text.push(' ')), is(10, Fault::EntryChanged));
    assert_eq!(edited(&|copy| drop(copy.entries.remove(9))), is(10, Fault::EntryMissing));
    assert_eq!(edited(&|copy| drop(copy.entries.pop())), is(last, Fault::EntryMissing));
    assert_eq!(edited(&|copy| copy.entries[9].kind = "outcome".to_owned()), is(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.entries[9].at += 1), is(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.head.sequence -= 1), is(last - 1, Fault::HeadDiffers));
    assert_eq!(edited(&|copy| copy.rows[0].searched.clear()), is(1, Fault::RowChanged));
    assert_eq!(edited(&|copy| drop(copy.rows.remove(0))), is(1, Fault::RowMissing));
    assert_eq!(
        edited(&|copy| {
            let mut more = copy.rows[0].clone();
            more.id = 99;
            copy.rows.push(more);
        }),
        is(last, Fault::RowUnexpected)
    );
    assert_eq!(edited(&|copy| drop(copy.checkpoints.remove(1))), is(14, Fault::CheckpointRemoved));
    assert_eq!(edited(&|copy| copy.checkpoints[1].line.push(' ')), is(14, Fault::CheckpointForged));
    // without what was kept elsewhere, a gap tells
    assert_eq!(
        edited(&|copy| {
            copy.checkpoints.remove(1);
            copy.witness.clear();
        }),
        is(15, Fault::CheckpointMissing)
    );
    // somebody who knows SHA-256
    let rewrite = |copy: &mut Copy| {
        copy.entries[9].text = copy.entries[9].text.replace("cli:ann", "cli:bob");
        copy.rehash();
        copy.rows.clear();
        copy.rows.clone_from(&whole.rows);
    };
    let mut renamed = whole.clone();
    rewrite(&mut renamed);
    assert_ne!(renamed.entries, whole.entries);
    assert!(
        matches!(renamed.fault(), Some((_, Fault::Rewritten | Fault::RowChanged))),
        "{:?}",
        renamed.fault()
    );
    // the tail with all that told of it in the database
    let cut = |copy: &mut Copy| {
        copy.entries.truncate(14);
        copy.rehash();
        let left: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
        copy.rows.retain(|row| left.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
        copy.checkpoints.truncate(2);
    };
    assert_eq!(edited(&cut), is(15, Fault::TailCut));
}

/// Reads another state from the second look at the head on, as when others append meanwhile.
struct Growing {
    before: Copy,
    after: Copy,
    looks: std::sync::atomic::AtomicU32,
}

#[async_trait]
impl TrailReader for Growing {
    async fn head(&self) -> Result<(String, Head)> {
        let looks = self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if looks == 0 { self.before.head().await } else { self.after.head().await }
    }

    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>> {
        self.after.entries(after, limit).await
    }

    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>> {
        self.after.intent(operation).await
    }

    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>> {
        self.after.rows(after, limit).await
    }

    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>> {
        self.after.checkpoints(after, limit).await
    }

    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)> {
        self.after.between(from, to).await
    }
}

/// The head was read at any entry, rows and checkpoints when the trail was complete: no false alarm.
#[test]
fn a_trail_that_grows_while_it_is_verified_is_whole() {
    let after = Copy::made();
    let signer = FakeSigner::default();
    let mut hash = ChainHash::GENESIS;
    for (entry, sequence) in after.entries.iter().zip(1..) {
        hash = hash.next(sequence, &entry.text);
        let before = Copy { head: Head { sequence, hash }, ..after.clone() };
        let growing = Growing { before, after: after.clone(), looks: 0.into() };
        let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
        let witness = MemoryWitness::of(after.witness.clone());
        let verdict = block_on(verify(&growing, &witness, signatures)).unwrap();
        assert_eq!(verdict.first_bad, None, "from {sequence}");
        assert_eq!(verdict.head, after.head);
    }
}
