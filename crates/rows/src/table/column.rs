//! Filter indexes: the value of one field of each row, by slot, as a number that filters compare.

use std::hash::{BuildHasher, RandomState};

use super::Slot;
use crate::{
    field::{Cell, FieldInfo, Filter, bool_text},
    level::Level,
    row::Key,
};

/// Filter index of one field.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) field: usize,
    /// Whether filter values are numbers.
    number: bool,
    values: Values,
}

/// Values by slot.
#[derive(Debug)]
enum Values {
    /// Hashes; 0 is null, which no filter matches.
    Hashes(Vec<u64>),
    /// Levels, one above their own number; 0 is null.
    Levels(Vec<u8>),
}

/// Condition of a filter: the row has one of the values.
pub(super) enum Condition<'a> {
    Hashes(&'a [u64], Vec<u64>),
    Levels(&'a [u8], Vec<u8>),
}

impl Condition<'_> {
    /// Whether the row of a slot has one of the values.
    pub(super) fn holds(&self, slot: Slot) -> bool {
        match self {
            Self::Hashes(hashes, accepted) => accepted.contains(&hashes[slot as usize]),
            Self::Levels(levels, accepted) => accepted.contains(&levels[slot as usize]),
        }
    }
}

impl Column {
    /// The filter index of a field; `None` if rows are not filtered by it.
    pub(super) fn of((field, info): (usize, &FieldInfo)) -> Option<Self> {
        let values = match info.filter {
            Filter::None => return None,
            Filter::OneOf(names) if names == Level::NAMES => Values::Levels(Vec::new()),
            _ => Values::Hashes(Vec::new()),
        };
        Some(Self { field, number: info.filter == Filter::Number, values })
    }

    /// An empty index of the same field.
    pub(super) fn empty_copy(&self) -> Self {
        let values = match self.values {
            Values::Hashes(_) => Values::Hashes(Vec::new()),
            Values::Levels(_) => Values::Levels(Vec::new()),
        };
        Self { values, ..*self }
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.values {
            Values::Hashes(hashes) => hashes.capacity() * size_of::<u64>(),
            Values::Levels(levels) => levels.capacity(),
        }
    }

    /// Reserves memory for this number of rows.
    pub(super) fn reserve_exact(&mut self, rows: usize) {
        match &mut self.values {
            Values::Hashes(hashes) => hashes.reserve_exact(rows),
            Values::Levels(levels) => levels.reserve_exact(rows),
        }
    }

    /// Adds a slot.
    pub(super) fn add_slot(&mut self) {
        match &mut self.values {
            Values::Hashes(hashes) => hashes.push(0),
            Values::Levels(levels) => levels.push(0),
        }
    }

    /// Writes the value of the row in a slot.
    pub(super) fn set(&mut self, slot: Slot, value: Key<'_>, hasher: &RandomState) {
        match &mut self.values {
            Values::Hashes(hashes) => hashes[slot as usize] = hash(value, hasher),
            Values::Levels(levels) => {
                levels[slot as usize] = match value {
                    Cell::Level(level) => above(level),
                    _ => 0,
                };
            }
        }
    }

    /// The condition that a row has one of these values.
    pub(super) fn condition<'a>(
        &self,
        values: impl Iterator<Item = &'a str>,
        hasher: &RandomState,
    ) -> Condition<'_> {
        match &self.values {
            Values::Hashes(hashes) => {
                Condition::Hashes(hashes, values.map(|value| self.hash_of_filter(value, hasher)).collect())
            }
            Values::Levels(levels) => {
                Condition::Levels(levels, values.filter_map(Level::parse).map(above).collect())
            }
        }
    }

    fn hash_of_filter(&self, value: &str, hasher: &RandomState) -> u64 {
        match value.parse() {
            Ok(number) if self.number => hash(Cell::Number(number), hasher),
            _ => hash(Cell::Text(value.as_bytes()), hasher),
        }
    }
}

/// The number that stands for a level.
fn above(level: Level) -> u8 {
    level as u8 + 1
}

/// Hash of a value. 0 is reserved for null.
fn hash(value: Key<'_>, hasher: &RandomState) -> u64 {
    match value {
        Cell::Null => 0,
        Cell::Bool(value) => hasher.hash_one(bool_text(value).as_bytes()).max(1),
        Cell::Number(value) => hasher.hash_one((value + 0.0).to_bits()).max(1),
        Cell::Text(text) => hasher.hash_one(text).max(1),
        Cell::Level(level) => hasher.hash_one(level.as_str().as_bytes()).max(1),
    }
}
