//! Initial events: the objects of a kind, collected until they are complete.

use pilothouse_core::rows::Row;

use super::{store::ObjectRows, watch_event::ObjectVersion};

/// Memory of initial events, in bytes, between two updates of the cache's accounting.
const ACCOUNTING_STEP_BYTES: usize = 4 << 20;
/// Memory of a changed object besides its rows and texts, in bytes.
const OBJECT_OVERHEAD_BYTES: usize = size_of::<ObjectRows>();

/// Initial events of a watch, or rows of a list in chunks, collected so far.
#[derive(Default)]
pub(super) struct InitialEvents {
    pub(super) rows: Vec<Row>,
    /// Changes that arrived between the initial events.
    pub(super) updates: Vec<ObjectRows>,
    /// Memory used, in bytes.
    pub(super) bytes: usize,
    accounted: usize,
}

impl InitialEvents {
    /// Adds an object event.
    pub(super) fn add(&mut self, object_version: &ObjectVersion<'_>, rows: Vec<Row>, added: bool) {
        if added && self.updates.is_empty() {
            self.extend(rows);
        } else {
            let texts = object_version.namespace.as_ref().map_or(0, |namespace| namespace.len())
                + object_version.name.len();
            self.bytes += OBJECT_OVERHEAD_BYTES + texts + rows.iter().map(Row::size).sum::<usize>();
            self.updates.push(object_version.with_rows(rows));
        }
    }

    /// Adds rows of listed objects.
    pub(super) fn extend(&mut self, rows: Vec<Row>) {
        self.bytes += rows.iter().map(|row| row.size() + size_of::<Row>()).sum::<usize>();
        self.rows.extend(rows);
    }

    /// Drops all rows and changes: the list starts over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the memory has changed enough to update the accounting.
    pub(super) fn is_accounting_due(&mut self) -> bool {
        let due = self.bytes.abs_diff(self.accounted) >= ACCOUNTING_STEP_BYTES;
        if due {
            self.accounted = self.bytes;
        }
        due
    }
}

impl ObjectVersion<'_> {
    /// The object with its rows; no rows if it was deleted.
    pub(super) fn with_rows(&self, rows: Vec<Row>) -> ObjectRows {
        ObjectRows {
            namespace: self.namespace.as_deref().map(str::to_owned),
            name: self.name.to_string(),
            rows,
        }
    }
}
