//! Edits that an attacker can make to a database.

use pilothouse_core::{
    audit::{ChainHash, Checkpoint},
    rows::Cell,
};
use proptest::{prelude::*, sample::Index};

use crate::copy::TrailCopy;

/// One edit of the database.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Changes a byte of a column of an entry.
    EntryByte(Index, u8, Index, u8),
    EntryDeleted(Index),
    EntryDoubled(Index, Index),
    EntriesSwapped(Index, Index),
    /// Removes the end and corrects the stored head; keeps or removes the later checkpoints.
    Truncated(Index, bool),
    /// Changes a byte of a text and recomputes all later hashes; keeps or removes the later checkpoints.
    Rewritten(Index, Index, u8, bool),
    /// Removes an entry and recomputes all later hashes; keeps or removes the later checkpoints.
    Removed(Index, bool),
    /// Changes a byte of a column of a row of the lists.
    RowByte(Index, Index, Index, u8),
    RowDeleted(Index),
    RowDoubled(Index, Index),
    RowsSwapped(Index, Index),
    CheckpointByte(Index, Index, u8),
    CheckpointMoved(Index, i64),
    CheckpointDeleted(Index),
    /// Replaces a checkpoint by a forged one at the same sequence number.
    CheckpointForged(Index),
    HeadByte(Index, u8),
    HeadMoved(i64),
    Trail(Index, u8),
    /// Changes a byte of the trail start; if there is none, of a checkpoint that then becomes the trail start.
    TrailStartByte(Index, Index, u8),
    TrailStartDeleted,
    /// Removes the oldest part up to a checkpoint as retention does, but stores no trail start.
    Pruned(Index),
    /// As `Pruned`, and stores the checkpoint itself as trail start.
    PrunedWithCheckpoint(Index),
}

pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let flip = || 1..=255u8;
    prop_oneof![
        (at(), 0..6u8, at(), flip()).prop_map(|(a, b, c, d)| Edit::EntryByte(a, b, c, d)),
        at().prop_map(Edit::EntryDeleted),
        (at(), at()).prop_map(|(a, b)| Edit::EntryDoubled(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::EntriesSwapped(a, b)),
        (at(), any::<bool>()).prop_map(|(a, b)| Edit::Truncated(a, b)),
        (at(), at(), flip(), any::<bool>()).prop_map(|(a, b, c, d)| Edit::Rewritten(a, b, c, d)),
        (at(), any::<bool>()).prop_map(|(a, b)| Edit::Removed(a, b)),
        (at(), at(), at(), flip()).prop_map(|(a, b, c, d)| Edit::RowByte(a, b, c, d)),
        at().prop_map(Edit::RowDeleted),
        (at(), at()).prop_map(|(a, b)| Edit::RowDoubled(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::RowsSwapped(a, b)),
        (at(), at(), flip()).prop_map(|(a, b, c)| Edit::CheckpointByte(a, b, c)),
        (at(), -99..=99i64).prop_map(|(a, b)| Edit::CheckpointMoved(a, b)),
        at().prop_map(Edit::CheckpointDeleted),
        at().prop_map(Edit::CheckpointForged),
        (at(), flip()).prop_map(|(a, b)| Edit::HeadByte(a, b)),
        (-5..=5i64).prop_map(Edit::HeadMoved),
        (at(), flip()).prop_map(|(a, b)| Edit::Trail(a, b)),
        (at(), at(), flip()).prop_map(|(a, b, c)| Edit::TrailStartByte(a, b, c)),
        Just(Edit::TrailStartDeleted),
        at().prop_map(Edit::Pruned),
        at().prop_map(Edit::PrunedWithCheckpoint),
    ]
}

/// Changes a byte of a text. Invalid UTF-8 is replaced as in the store.
fn change(text: &mut String, at: &Index, flip: u8) {
    if text.is_empty() {
        text.push('x');
        return;
    }
    let mut bytes = text.clone().into_bytes();
    let at = at.index(bytes.len());
    bytes[at] ^= flip;
    *text =
        String::from_utf8(bytes).unwrap_or_else(|error| format!("\0{}", error.into_bytes().escape_ascii()));
}

fn change_number(number: &mut i64, at: &Index, flip: u8) {
    *number ^= i64::from(flip) << (8 * at.index(6));
}

impl Edit {
    /// Applies the edit to a copy of a trail.
    pub(crate) fn apply(&self, copy: &mut TrailCopy) {
        let entries = copy.entries.len();
        let entry = |at: &Index| at.index(entries);
        match self {
            Self::EntryByte(at, column, byte, flip) => {
                let entry = &mut copy.entries[entry(at)];
                match column {
                    0 => change_number(&mut entry.sequence, byte, *flip),
                    1 => change(&mut entry.operation_id, byte, *flip),
                    2 => change(&mut entry.kind, byte, *flip),
                    3 => change_number(&mut entry.at, byte, *flip),
                    4 => change(&mut entry.text, byte, *flip),
                    _ => entry.hash[byte.index(32)] ^= flip,
                }
            }
            Self::EntryDeleted(at) => drop(copy.entries.remove(entry(at))),
            Self::EntryDoubled(from, to) => {
                let duplicate = copy.entries[entry(from)].clone();
                copy.entries.insert(entry(to), duplicate);
                // sequence numbers are a primary key
                let first = copy.entries.iter().map(|entry| entry.sequence).min().unwrap();
                for (entry, sequence) in copy.entries.iter_mut().zip(first..) {
                    entry.sequence = sequence;
                }
            }
            Self::EntriesSwapped(a, b) => {
                let (a, b) = (entry(a), entry(b));
                copy.entries.swap(a, b);
                let sequence = copy.entries[a].sequence;
                copy.entries[a].sequence = copy.entries[b].sequence;
                copy.entries[b].sequence = sequence;
            }
            Self::Truncated(at, keep_checkpoints) => {
                let from = copy.before(entry(at));
                copy.entries.truncate(entry(at));
                copy.rehash();
                let remaining: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
                copy.rows.retain(|row| remaining.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
                copy.truncate_checkpoints(from, *keep_checkpoints);
            }
            Self::Rewritten(at, byte, flip, keep_checkpoints) => {
                let from = copy.before(entry(at));
                change(&mut copy.entries[entry(at)].text, byte, *flip);
                copy.rehash();
                copy.truncate_checkpoints(from, *keep_checkpoints);
            }
            Self::Removed(at, keep_checkpoints) => {
                let from = copy.before(entry(at));
                copy.entries.remove(entry(at));
                copy.rehash();
                copy.truncate_checkpoints(from, *keep_checkpoints);
            }
            Self::RowByte(at, column, byte, flip) => {
                let rows = copy.rows.len();
                let row = &mut copy.rows[at.index(rows)];
                let column = column.index(row.cells.len());
                match &mut row.cells[column].1 {
                    _ if column == 0 => change(&mut row.searched, byte, *flip),
                    Cell::Text(text) => {
                        let mut changed = text.to_string();
                        change(&mut changed, byte, *flip);
                        *text = changed.into();
                    }
                    Cell::Number(number) => *number += f64::from(*flip),
                    cell => *cell = Cell::text("x"),
                }
            }
            Self::RowDeleted(at) => drop(copy.rows.remove(at.index(copy.rows.len()))),
            Self::RowDoubled(from, to) => {
                let duplicate = copy.rows[from.index(copy.rows.len())].clone();
                copy.rows.insert(to.index(copy.rows.len() + 1), duplicate);
                let first = copy.rows.iter().map(|row| row.id).min().unwrap();
                for (row, id) in copy.rows.iter_mut().zip(first..) {
                    row.id = id;
                    row.cells[0].1 = Cell::from(id);
                }
            }
            Self::RowsSwapped(a, b) => {
                let (a, b) = (a.index(copy.rows.len()), b.index(copy.rows.len()));
                copy.rows.swap(a, b);
                let id = copy.rows[a].id;
                copy.rows[a].id = copy.rows[b].id;
                copy.rows[b].id = id;
                for row in &mut copy.rows {
                    row.cells[0].1 = Cell::from(row.id);
                }
            }
            Self::CheckpointByte(at, byte, flip) => {
                let at = at.index(copy.checkpoints.len());
                change(&mut copy.checkpoints[at].line, byte, *flip);
            }
            Self::CheckpointMoved(at, by) => {
                let at = at.index(copy.checkpoints.len());
                copy.checkpoints[at].sequence += by;
            }
            Self::CheckpointDeleted(at) => drop(copy.checkpoints.remove(at.index(copy.checkpoints.len()))),
            Self::CheckpointForged(at) => {
                let at = at.index(copy.checkpoints.len());
                let stored = &mut copy.checkpoints[at];
                let mut forged = Checkpoint::parse(&stored.line).unwrap();
                forged.hash = ChainHash([9; 32]);
                stored.line = forged.line().unwrap();
            }
            Self::HeadByte(at, flip) => copy.head.hash.0[at.index(32)] ^= flip,
            Self::HeadMoved(by) => copy.head.sequence += by,
            Self::Trail(at, flip) => change(&mut copy.trail, at, *flip),
            Self::TrailStartByte(at, byte, flip) => {
                let index = at.index(copy.checkpoints.len());
                let line = copy.checkpoints[index].line.clone();
                change(copy.trail_start.get_or_insert(line), byte, *flip);
            }
            Self::TrailStartDeleted => copy.trail_start = None,
            Self::Pruned(at) => {
                // the last checkpoint would leave nothing, and the first one of a pruned trail is its start
                let index = at.index(copy.checkpoints.len() - 1);
                copy.remove_through(index);
            }
            Self::PrunedWithCheckpoint(at) => {
                let through = copy.remove_through(at.index(copy.checkpoints.len() - 1));
                copy.trail_start = Some(through.line().unwrap());
            }
        }
    }
}

impl TrailCopy {
    /// Removes the checkpoints after an entry from the database, unless they are to be kept.
    fn truncate_checkpoints(&mut self, before: i64, keep_checkpoints: bool) {
        if !keep_checkpoints {
            self.checkpoints.retain(|stored| stored.sequence <= before);
        }
    }

    /// The sequence number before the entry at this index.
    fn before(&self, index: usize) -> i64 {
        self.entries[index].sequence - 1
    }
}
