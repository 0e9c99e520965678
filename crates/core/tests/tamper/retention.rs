//! A trail whose oldest part was removed: by retention, or by somebody who calls it that.

use pilothouse_core::audit::{Checkpoint, Fault};

use crate::{
    all_are_found,
    copy::{Copy, beginning},
};

#[test]
fn what_retention_leaves_is_whole_and_says_what_went() {
    let whole = Copy::made();
    for place in 0..whole.checkpoints.len() - 1 {
        let pruned = whole.pruned(place);
        let verdict = pruned.verdict();
        assert_eq!(verdict.first_bad, None, "checkpoint {place}");
        let through = whole.checkpoints[place].sequence;
        assert_eq!(verdict.removed, through.unsigned_abs());
        assert_eq!(verdict.entries, whole.entries.len() as u64 - verdict.removed + 1, "and the removal");
        assert_eq!(verdict.head, pruned.head);
        // the one that it hangs on, those after it, and that of the removal
        assert_eq!(verdict.checkpoints, (whole.checkpoints.len() - place + 1) as u64);
        assert_eq!(verdict.witnessed, verdict.checkpoints, "older ones kept elsewhere are of what went");
    }
}

#[test]
fn random_edits_of_what_is_left_are_all_found() {
    all_are_found(&Copy::made().pruned(1), 3_000);
}

#[test]
fn a_part_taken_away_is_found_whatever_is_said_of_it() {
    let whole = Copy::made();
    let parse = |place: usize| Checkpoint::parse(&whole.checkpoints[place].line).unwrap();
    let taken = |word: Option<String>| {
        let mut copy = whole.clone();
        copy.remove_to(2);
        copy.beginning = word;
        copy.fault()
    };
    assert_eq!(whole.pruned(2).fault(), None, "by us");
    assert_eq!(taken(Some(beginning(&parse(2)))), Some((1, Fault::BeginningForged)), "no operation says so");
    let through = parse(2).sequence;
    assert_eq!(taken(None), Some((1, Fault::EntryMissing)), "not a word");
    assert_eq!(
        taken(Some(parse(2).line().unwrap())),
        Some((1, Fault::BeginningForged)),
        "what we signed of the trail"
    );
    assert_eq!(taken(Some("{}".to_owned())), Some((1, Fault::BeginningForged)));
    // what we signed of an earlier removal, or will sign of a later one
    let earlier = parse(1).sequence;
    assert!(earlier < through);
    assert_eq!(taken(Some(beginning(&parse(1)))), Some((earlier, Fault::CheckpointRemoved)));
    assert!(taken(Some(beginning(&parse(3)))).is_some());
    let of_another = Checkpoint { trail: "another".to_owned(), ..parse(2) };
    assert_eq!(taken(Some(beginning(&of_another))), Some((1, Fault::BeginningForged)));
    // the word is ours, and more was taken away
    let mut more = whole.pruned(2);
    let first = more.entries.remove(0).sequence;
    assert_eq!(more.fault(), Some((first, Fault::EntryMissing)));
    // less was, or something was put back
    let mut less = whole.pruned(2);
    less.entries.insert(0, whole.entries[usize::try_from(through).unwrap() - 1].clone());
    assert_eq!(less.fault().map(|(at, _)| at), Some(through + 1));
    let mut shown = whole.pruned(2);
    shown.rows.insert(0, whole.rows[0].clone());
    assert_eq!(shown.fault().map(|(_, fault)| fault), Some(Fault::RowMissing));
    let mut without = whole.pruned(2);
    without.checkpoints.remove(0);
    assert_eq!(without.fault(), Some((through, Fault::CheckpointRemoved)));
}
