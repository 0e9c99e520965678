//! What somebody may do to a database.

use pilothouse_core::{
    audit::{ChainHash, Checkpoint},
    inventory::Cell,
};
use proptest::{prelude::*, sample::Index};

use crate::copy::Copy;

/// What somebody does to the database.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// A byte of a column of an entry.
    EntryByte(Index, u8, Index, u8),
    EntryDeleted(Index),
    EntryDoubled(Index, Index),
    EntriesSwapped(Index, Index),
    /// The end, with the stored head put right, with or without the checkpoints that told of it.
    Cut(Index, bool),
    /// A byte of a text, and all hashes after it computed anew; with or without the checkpoints that told of it.
    Rewritten(Index, Index, u8, bool),
    /// An entry taken out, and the same.
    Removed(Index, bool),
    /// A byte of a column of a row of the lists.
    RowByte(Index, Index, Index, u8),
    RowDeleted(Index),
    RowDoubled(Index, Index),
    RowsSwapped(Index, Index),
    CheckpointByte(Index, Index, u8),
    CheckpointMoved(Index, i64),
    CheckpointDeleted(Index),
    /// A checkpoint of the right place, with a key of one's own.
    CheckpointForged(Index),
    HeadByte(Index, u8),
    HeadMoved(i64),
    Trail(Index, u8),
    /// A byte of the word of where the trail begins; one that says so of a checkpoint, where there is none.
    BeginningByte(Index, Index, u8),
    BeginningDeleted,
    /// The oldest part taken away up to a checkpoint, as retention takes it, but for the word of it.
    Pruned(Index),
    /// The same, with the checkpoint itself for that word.
    PrunedBy(Index),
}

pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let flip = || 1..=255u8;
    prop_oneof![
        (at(), 0..6u8, at(), flip()).prop_map(|(a, b, c, d)| Edit::EntryByte(a, b, c, d)),
        at().prop_map(Edit::EntryDeleted),
        (at(), at()).prop_map(|(a, b)| Edit::EntryDoubled(a, b)),
        (at(), at()).prop_map(|(a, b)| Edit::EntriesSwapped(a, b)),
        (at(), any::<bool>()).prop_map(|(a, b)| Edit::Cut(a, b)),
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
        (at(), at(), flip()).prop_map(|(a, b, c)| Edit::BeginningByte(a, b, c)),
        Just(Edit::BeginningDeleted),
        at().prop_map(Edit::Pruned),
        at().prop_map(Edit::PrunedBy),
    ]
}

/// Changes a byte; what is then no UTF-8 is what the store makes of it.
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
    pub(crate) fn make(&self, copy: &mut Copy) {
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
                let doubled = copy.entries[entry(from)].clone();
                copy.entries.insert(entry(to), doubled);
                // the numbers are a primary key
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
            Self::Cut(at, tell) => {
                let from = copy.before(entry(at));
                copy.entries.truncate(entry(at));
                copy.rehash();
                let left: Vec<_> = copy.entries.iter().map(|entry| entry.operation_id.clone()).collect();
                copy.rows.retain(|row| left.iter().any(|id| row.cells[1].1 == Cell::text(id.as_str())));
                copy.forget(from, *tell);
            }
            Self::Rewritten(at, byte, flip, tell) => {
                let from = copy.before(entry(at));
                change(&mut copy.entries[entry(at)].text, byte, *flip);
                copy.rehash();
                copy.forget(from, *tell);
            }
            Self::Removed(at, tell) => {
                let from = copy.before(entry(at));
                copy.entries.remove(entry(at));
                copy.rehash();
                copy.forget(from, *tell);
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
                let doubled = copy.rows[from.index(copy.rows.len())].clone();
                copy.rows.insert(to.index(copy.rows.len() + 1), doubled);
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
            Self::BeginningByte(at, byte, flip) => {
                let place = at.index(copy.checkpoints.len());
                let line = copy.checkpoints[place].line.clone();
                change(copy.beginning.get_or_insert(line), byte, *flip);
            }
            Self::BeginningDeleted => copy.beginning = None,
            Self::Pruned(at) => {
                // the last one would leave nothing, and the first of a pruned trail is where it begins
                let place = at.index(copy.checkpoints.len() - 1);
                copy.remove_to(place);
            }
            Self::PrunedBy(at) => {
                let through = copy.remove_to(at.index(copy.checkpoints.len() - 1));
                copy.beginning = Some(through.line().unwrap());
            }
        }
    }
}

impl Copy {
    /// Takes away what the database would tell of entries from this place on.
    fn forget(&mut self, before: i64, tell: bool) {
        if !tell {
            self.checkpoints.retain(|stored| stored.sequence <= before);
        }
    }

    /// The number before that of the entry in this place.
    fn before(&self, place: usize) -> i64 {
        self.entries[place].sequence - 1
    }
}
