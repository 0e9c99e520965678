//! Changes of the levels of stored rows that come with age.

use jiff::Timestamp;

use super::{
    field::FieldInfo,
    level::{NextLevel, has_reason},
    row::{Row, Update},
};

/// Applies the changes of levels that come with age to the stored rows of one list.
#[derive(Clone, Copy, Debug)]
pub struct Aging {
    /// Field with the reason of the level.
    reason: Option<usize>,
}

impl Aging {
    /// For rows with these fields.
    pub fn of(fields: &[FieldInfo]) -> Self {
        Self { reason: fields.iter().position(|field| field.name == "reason") }
    }

    /// The row at a time: with its next level if the time of that has come. A row that becomes `ok` or `idle` loses its
    /// reason.
    #[must_use]
    pub fn advance(self, row: Row, now: Timestamp) -> Row {
        match row.next_level() {
            Some(NextLevel { at, level }) if at <= now => {
                let reason = self.reason.filter(|_| !has_reason(level));
                row.updated(&Update { level, cleared_reason: reason })
            }
            _ => row,
        }
    }
}
