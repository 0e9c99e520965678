//! Tamper detection: an attacker with the database can change it, and verification detects the change.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod copy;
mod edit;
mod retention;
mod timing;

use copy::{EVERY, TrailCopy};
use futures_executor::block_on;
use pilothouse_core::{
    audit::{CheckpointSigner as _, Fault, Signatures, verify},
    rows::Cell,
    testing::fake::FakeSigner,
};
use proptest::{prelude::*, test_runner::Config};

#[test]
fn untouched_trail_is_valid() {
    let copy = TrailCopy::sample();
    let verdict = copy.verdict();
    assert_eq!(verdict.first_bad, None);
    assert!(verdict.valid);
    assert_eq!((verdict.entries, verdict.head), (copy.entries.len() as u64, copy.head));
    assert_eq!(
        (verdict.checkpoints, verdict.witnessed),
        (copy.checkpoints.len() as u64, copy.sink_lines.len() as u64)
    );
}

/// 10,000 edits. Edits without an effect (a byte put back, a row swapped with itself) are not counted.
#[test]
fn ten_thousand_random_edits_are_all_detected() {
    assert_all_detected(&TrailCopy::sample(), 10_000);
}

/// Applies random edits, each to the original trail.
pub(crate) fn assert_all_detected(whole: &TrailCopy, edits: u32) {
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        cases: edits,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&edit::edits(), |edit| {
            let mut copy = whole.clone();
            edit.apply(&mut copy);
            prop_assume!(copy != *whole);
            prop_assert!(!copy.verdict().valid, "not detected");
            Ok(())
        })
        .unwrap();
}

#[test]
fn verdict_names_the_first_bad_entry() {
    let whole = TrailCopy::sample();
    let last = whole.head.sequence;
    let edited = |edit: &dyn Fn(&mut TrailCopy)| {
        let mut copy = whole.clone();
        edit(&mut copy);
        copy.fault()
    };
    let at = |sequence, fault| Some((sequence, fault));
    assert_eq!(edited(&|copy| copy.entries[9].text.push(' ')), at(10, Fault::EntryChanged));
    assert_eq!(edited(&|copy| drop(copy.entries.remove(9))), at(10, Fault::EntryMissing));
    assert_eq!(edited(&|copy| drop(copy.entries.pop())), at(last, Fault::EntryMissing));
    assert_eq!(edited(&|copy| copy.entries[9].kind = "outcome".to_owned()), at(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.entries[9].at += 1), at(10, Fault::EntryColumn));
    assert_eq!(edited(&|copy| copy.head.sequence -= 1), at(last - 1, Fault::HeadDiffers));
    assert_eq!(edited(&|copy| copy.rows[0].searched.clear()), at(1, Fault::RowChanged));
    assert_eq!(edited(&|copy| drop(copy.rows.remove(0))), at(1, Fault::RowMissing));
    assert_eq!(
        edited(&|copy| {
            let mut more = copy.rows[0].clone();
            more.id = 99;
            copy.rows.push(more);
        }),
        at(last, Fault::RowUnexpected)
    );
    assert_eq!(edited(&|copy| drop(copy.checkpoints.remove(1))), at(14, Fault::CheckpointRemoved));
    assert_eq!(edited(&|copy| copy.checkpoints[1].line.push(' ')), at(14, Fault::CheckpointForged));
    // without the checkpoint sink, a gap between checkpoints is detected
    assert_eq!(
        edited(&|copy| {
            copy.checkpoints.remove(1);
            copy.sink_lines.clear();
        }),
        at(15, Fault::CheckpointMissing)
    );
    // an attacker who recomputes the hashes
    let rewrite = |copy: &mut TrailCopy| {
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
    // the tail is removed, with all traces of it in the database
    let truncate = |copy: &mut TrailCopy| {
        copy.entries.truncate(14);
        copy.rehash();
        let remaining: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
        copy.rows.retain(|row| remaining.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
        copy.checkpoints.truncate(2);
    };
    assert_eq!(edited(&truncate), at(15, Fault::TailCut));
}

/// An attacker removes the checkpoint file.
#[test]
fn empty_checkpoint_sink_is_a_fault_and_a_missing_sink_is_not() {
    let mut copy = TrailCopy::sample();
    copy.sink_lines.clear();
    assert_eq!(copy.fault(), Some((copy.head.sequence, Fault::WitnessMissing)));
    let signer = FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
    assert_eq!(block_on(verify(&copy, None, signatures)).unwrap().first_bad, None, "no checkpoint sink");

    // a server that has just started has not stored its first checkpoint yet
    let mut first =
        TrailCopy { entries: copy.entries[..1].to_vec(), rows: copy.rows[..1].to_vec(), ..copy.clone() };
    first.rehash();
    first.checkpoints.clear();
    assert_eq!(
        first.fault(),
        Some((1, Fault::CheckpointMissing)),
        "the first entry is signed when it is appended"
    );
    first.sign();
    first.sink_lines.clear();
    assert_eq!(first.fault(), None);
}

/// Fewer entries than the checkpoint interval, and all checkpoints removed.
#[test]
fn short_trail_without_checkpoints_is_invalid() {
    let mut copy = TrailCopy::sample();
    copy.entries.truncate(EVERY as usize - 1);
    copy.rehash();
    let remaining: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
    copy.rows.retain(|row| remaining.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
    copy.checkpoints.clear();
    copy.sink_lines.clear();
    assert!(!copy.verdict().valid);
}

/// A process that appends an entry one minute after the last checkpoint signs. An unsigned entry that was appended
/// two minutes after it shows that the server was prevented from signing; one appended sooner may be left by a killed
/// server.
#[test]
fn unsigned_entry_is_a_fault_from_two_minutes_after_the_last_checkpoint() {
    for (seconds, expected) in
        [(0, None), (119, None), (120, Some(Fault::Unsigned)), (9_999, Some(Fault::Unsigned))]
    {
        let mut copy = TrailCopy::sample();
        let access = pilothouse_core::access::AccessRequest::to(
            pilothouse_core::access::Verb::Login,
            pilothouse_core::access::Resource::Session,
        );
        let caller = pilothouse_core::access::Caller::system();
        let operation = pilothouse_core::testing::permit(&caller, access).operation().unwrap().clone();
        let at = operation.created_at + std::time::Duration::from_secs(seconds);
        let outcome = pilothouse_core::operation::Outcome::success(at);
        let id = copy.rows.last().unwrap().id + 1;
        let row = pilothouse_core::audit::OperationRow::begun(id, &operation).ended(&outcome);
        copy.rows.push(row.stored());
        copy.append(&pilothouse_core::operation::Entry::Complete { operation, outcome });
        let verdict = copy.verdict();
        let found = verdict.first_bad.map(|bad| (bad.sequence, bad.fault));
        assert_eq!(found, expected.map(|fault| (copy.head.sequence, fault)), "{seconds} s");
        assert_eq!(verdict.unsigned, 1);
        // a signed entry is accepted
        copy.sign();
        assert_eq!(copy.fault(), None, "{seconds} s");
    }
}
