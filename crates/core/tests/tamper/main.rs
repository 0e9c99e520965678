//! Whoever has the database can change it. What they did is found.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod copy;
mod edit;
mod retention;
mod timing;

use copy::{Copy, EVERY};
use futures_executor::block_on;
use pilothouse_core::{
    audit::{CheckpointSigner as _, Fault, Signatures, verify},
    inventory::Cell,
    testing::fake::FakeSigner,
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

/// Somebody removes the file, and with it all that it could tell.
#[test]
fn nothing_kept_elsewhere_is_a_finding_unless_told() {
    let mut copy = Copy::made();
    copy.witness.clear();
    assert_eq!(copy.fault(), Some((copy.head.sequence, Fault::WitnessMissing)));
    let signer = FakeSigner::default();
    let signatures = Signatures { key: signer.public_key(), verifier: &signer, every: EVERY };
    assert_eq!(block_on(verify(&copy, None, signatures)).unwrap().first_bad, None, "told");

    // a server that has just begun is about to keep its first checkpoint
    let mut first =
        Copy { entries: copy.entries[..1].to_vec(), rows: copy.rows[..1].to_vec(), ..copy.clone() };
    first.rehash();
    first.checkpoints.clear();
    assert_eq!(
        first.fault(),
        Some((1, Fault::CheckpointMissing)),
        "the first entry is signed as it is appended"
    );
    first.sign();
    first.witness.clear();
    assert_eq!(first.fault(), None);
}

/// Fewer entries than may follow a checkpoint, and all checkpoints removed.
#[test]
fn a_short_trail_without_checkpoints_is_not_whole() {
    let mut copy = Copy::made();
    copy.entries.truncate(EVERY as usize - 1);
    copy.rehash();
    let left: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
    copy.rows.retain(|row| left.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
    copy.checkpoints.clear();
    copy.witness.clear();
    assert!(!copy.verdict().valid);
}

/// Whoever appends a minute after the last checkpoint signs. An entry that was appended two minutes after it, and is not
/// signed, tells of a server that was kept from signing; one that was appended sooner may wait for a server that was killed.
#[test]
fn an_unsigned_entry_is_judged_by_when_it_was_appended() {
    for (seconds, expected) in
        [(0, None), (119, None), (120, Some(Fault::Unsigned)), (9_999, Some(Fault::Unsigned))]
    {
        let mut copy = Copy::made();
        let access = pilothouse_core::access::AccessRequest::to(
            pilothouse_core::access::Verb::Login,
            pilothouse_core::access::Resource::Session,
        );
        let caller = pilothouse_core::access::Caller::system();
        let operation = pilothouse_core::testing::permit(&caller, access).operation().unwrap().clone();
        let at = operation.created_at + std::time::Duration::from_secs(seconds);
        let outcome = pilothouse_core::audit::Outcome::success(at);
        let id = copy.rows.last().unwrap().id + 1;
        let row = pilothouse_core::audit::OperationRow::begun(id, &operation).ended(&outcome);
        copy.rows.push(row.stored());
        copy.append(&pilothouse_core::audit::Entry::Complete { operation, outcome });
        let verdict = copy.verdict();
        let found = verdict.first_bad.map(|bad| (bad.sequence, bad.fault));
        assert_eq!(found, expected.map(|fault| (copy.head.sequence, fault)), "{seconds} s");
        assert_eq!(verdict.unsigned, 1);
        // and not at all once it is signed
        copy.sign();
        assert_eq!(copy.fault(), None, "{seconds} s");
    }
}
