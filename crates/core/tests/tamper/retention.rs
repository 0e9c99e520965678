//! Trails whose oldest part was removed: by retention, or by an attacker.

use pilothouse_core::audit::{Checkpoint, Fault};

use crate::{
    assert_all_detected,
    copy::{TrailCopy, trail_start},
};

#[test]
fn pruned_trail_is_valid_and_reports_the_removal() {
    let whole = TrailCopy::sample();
    for index in 0..whole.checkpoints.len() - 1 {
        let pruned = whole.pruned(index);
        let verdict = pruned.verdict();
        assert_eq!(verdict.first_bad, None, "checkpoint {index}");
        let through = whole.checkpoints[index].sequence;
        assert_eq!(verdict.removed, through.unsigned_abs());
        assert_eq!(verdict.entries, whole.entries.len() as u64 - verdict.removed + 1, "plus the removal");
        assert_eq!(verdict.head, pruned.head);
        // the checkpoint of the trail start, the later ones, and that of the removal
        assert_eq!(verdict.checkpoints, (whole.checkpoints.len() - index + 1) as u64);
        assert_eq!(
            verdict.witnessed, verdict.checkpoints,
            "older checkpoints in the sink belong to the removed part"
        );
    }
}

#[test]
fn random_edits_of_a_pruned_trail_are_all_detected() {
    assert_all_detected(&TrailCopy::sample().pruned(1), 3_000);
}

#[test]
fn forged_removal_is_detected() {
    let whole = TrailCopy::sample();
    let parse = |index: usize| Checkpoint::parse(&whole.checkpoints[index].line).unwrap();
    let fault_after_removal = |start: Option<String>| {
        let mut copy = whole.clone();
        copy.remove_through(2);
        copy.trail_start = start;
        copy.fault()
    };
    assert_eq!(whole.pruned(2).fault(), None, "removed by Pilothouse");
    assert_eq!(
        fault_after_removal(Some(trail_start(&parse(2)))),
        Some((1, Fault::BeginningForged)),
        "no removal operation"
    );
    let through = parse(2).sequence;
    assert_eq!(fault_after_removal(None), Some((1, Fault::EntryMissing)), "no trail start");
    assert_eq!(
        fault_after_removal(Some(parse(2).line().unwrap())),
        Some((1, Fault::BeginningForged)),
        "a checkpoint as trail start"
    );
    assert_eq!(fault_after_removal(Some("{}".to_owned())), Some((1, Fault::BeginningForged)));
    // a trail start that Pilothouse signed for an earlier or a later removal
    let earlier = parse(1).sequence;
    assert!(earlier < through);
    assert_eq!(fault_after_removal(Some(trail_start(&parse(1)))), Some((earlier, Fault::CheckpointRemoved)));
    assert!(fault_after_removal(Some(trail_start(&parse(3)))).is_some());
    let of_another = Checkpoint { trail: "another".to_owned(), ..parse(2) };
    assert_eq!(fault_after_removal(Some(trail_start(&of_another))), Some((1, Fault::BeginningForged)));
    // a valid trail start, but more was removed
    let mut more = whole.pruned(2);
    let first = more.entries.remove(0).sequence;
    assert_eq!(more.fault(), Some((first, Fault::EntryMissing)));
    // less was removed, or something was put back
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
