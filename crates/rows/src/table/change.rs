//! Changes of a table's rows.

use std::{cmp::Ordering, collections::BTreeSet};

use jiff::Timestamp;

use super::{Column, Namespaces, Order, Slot, Source, Table, Tally, View};
use crate::row::Row;

/// Change of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The row is new.
    Added(Row),
    /// The row changed from the first to the second.
    Changed(Row, Row),
    /// The row was removed.
    Removed(Row),
}

impl Change {
    /// The row after the change, or the removed row. Both rows of a change have the same namespace.
    pub fn row(&self) -> &Row {
        match self {
            Self::Added(row) | Self::Changed(_, row) | Self::Removed(row) => row,
        }
    }
}

impl Table {
    /// Replaces the rows of one object; empty `rows` means that the object was deleted. Returns the changes.
    pub fn apply(
        &mut self,
        source: Source,
        (namespace, name): (Option<&str>, &str),
        rows: Vec<Row>,
    ) -> Vec<Change> {
        let mut slots = self.slots_of(source, (namespace.map(str::as_bytes), name.as_bytes())).into_iter();
        let mut rows = rows.into_iter();
        let mut changes = Vec::new();
        loop {
            match (slots.next(), rows.next()) {
                (None, None) => return changes,
                (Some(slot), Some(row)) if row.namespace() == namespace => {
                    changes.extend(self.replace(slot, row));
                }
                // a row that has left its namespace is in other views
                (slot, row) => {
                    changes.extend(slot.and_then(|slot| self.remove(slot)));
                    if let Some(row) = row {
                        self.insert(row.clone(), source);
                        changes.push(Change::Added(row));
                    }
                }
            }
        }
    }

    /// Changes the levels whose time has come, of at most `limit` rows. Reads no other rows. Returns the changes.
    pub fn age(&mut self, now: Timestamp, limit: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < limit && self.level_changes_at().is_some_and(|at| at <= now) {
            let due = self.due.pop_first();
            let Some((slot, row)) = due.and_then(|(_, slot)| Some((slot, self.row(slot)?.clone()))) else {
                continue;
            };
            changes.extend(self.replace(slot, self.aging.advance(row, now)));
        }
        changes
    }

    /// Returns a table in which these rows replace all rows of `source`, and the changes. Takes as long as sorting all
    /// rows. Unchanged rows keep their memory.
    pub fn replace_all(&self, source: Source, mut rows: Vec<Row>) -> (Self, Vec<Change>) {
        rows.sort_by(|a, b| a.total_order(b, None));
        let mut changes = Vec::new();
        let mut old_rows = self.stored_rows().filter(|(of, _)| *of == source).map(|(_, row)| row).peekable();
        for row in &mut rows {
            while let Some(removed) = old_rows.next_if(|old| old.key() < row.key()) {
                changes.push(Change::Removed(removed.clone()));
            }
            match old_rows.next_if(|old| old.key() == row.key()) {
                Some(same) if same == row => row.clone_from(same),
                Some(old) => changes.push(Change::Changed(old.clone(), row.clone())),
                None => changes.push(Change::Added(row.clone())),
            }
        }
        changes.extend(old_rows.map(|removed| Change::Removed(removed.clone())));

        let others = self.stored_rows().filter(|(of, _)| *of != source).map(|(of, row)| (of, row.clone()));
        let mut all: Vec<_> = others.chain(rows.into_iter().map(|row| (source, row))).collect();
        all.sort_by(|(_, a), (_, b)| a.total_order(b, None));
        (self.rebuild_with(all), changes)
    }

    /// Builds a table from rows sorted by namespace and name, with the indexes of this one.
    fn rebuild_with(&self, all: Vec<(Source, Row)>) -> Self {
        let mut table = self.empty_copy();
        table.slots.reserve_exact(all.len());
        table.sources.reserve_exact(all.len());
        for column in &mut table.columns {
            column.reserve_exact(all.len());
        }
        table.namespaces.reserve_exact(all.len());
        table.orders[0].slots.reserve_exact(all.len());
        for (source, row) in all {
            let slot = table.store(row, source);
            table.orders[0].slots.push(slot);
        }
        if self.names.is_some() {
            table.names = Some(table.build_names());
        }
        for order in &self.orders[1..] {
            let order = table.build_order(order.key());
            table.orders.push(order);
        }
        table
    }

    /// All rows with their sources, by namespace and name.
    fn stored_rows(&self) -> impl Iterator<Item = (Source, &Row)> {
        let slots = self.orders[0].slots.iter();
        slots.filter_map(|slot| Some((self.sources[*slot as usize], self.row(*slot)?)))
    }

    /// The slots of the rows of one object of a source.
    fn slots_of(&self, source: Source, key: (Option<&[u8]>, &[u8])) -> Vec<Slot> {
        let candidates = self.orders[0].slots[self.lower_bound(key)..].iter();
        candidates
            .copied()
            .take_while(|slot| self.row(*slot).is_some_and(|row| row.key() == key))
            .filter(|slot| self.sources[*slot as usize] == source)
            .collect()
    }

    fn insert(&mut self, row: Row, source: Source) {
        let slot = self.store(row.clone(), source);
        let namespace = self.namespaces.of(slot);
        for order in 0..self.orders.len() {
            if !self.orders[order].has(namespace) {
                continue;
            }
            let at = self.insertion_index(order, &row);
            self.orders[order].slots.insert(at, slot);
        }
        if let Some(names) = &mut self.names {
            names.insert(slot, row.searched());
        }
    }

    fn remove(&mut self, slot: Slot) -> Option<Change> {
        for order in 0..self.orders.len() {
            if let Some(at) = self.index_of(order, slot) {
                self.orders[order].slots.remove(at);
            }
        }
        let row = self.slots[slot as usize].take()?;
        self.free.push(slot);
        self.row_bytes -= row.size();
        self.forget_next_level(slot, &row);
        self.count(slot, &row, false);
        self.namespaces.remove(slot, row.namespace());
        if let Some(names) = &mut self.names {
            names.remove(slot);
        }
        Some(Change::Removed(row))
    }

    /// Replaces the row in a slot by a row in the same namespace.
    fn replace(&mut self, slot: Slot, row: Row) -> Option<Change> {
        let old = self.row(slot)?.clone();
        if old == row {
            return None;
        }
        // the indices are looked up before the row is overwritten, because the lookup compares the old row
        let indices: Vec<_> = (0..self.orders.len()).map(|order| self.index_of(order, slot)).collect();
        self.index(slot, &row);
        self.row_bytes = self.row_bytes + row.size() - old.size();
        self.forget_next_level(slot, &old);
        self.await_next_level(slot, &row);
        self.count(slot, &old, false);
        self.count(slot, &row, true);
        self.slots[slot as usize] = Some(row.clone());
        for (order, at) in indices.into_iter().enumerate() {
            let Some(at) = at else { continue };
            if !self.fits(order, at, &row) {
                self.orders[order].slots.remove(at);
                let at = self.insertion_index(order, &row);
                self.orders[order].slots.insert(at, slot);
            }
        }
        if let Some(names) = &mut self.names
            && old.searched() != row.searched()
        {
            names.remove(slot);
            names.insert(slot, row.searched());
        }
        Some(Change::Changed(old, row))
    }

    /// Stores a row in a slot and updates everything except the slots of orders and the search text.
    #[allow(clippy::cast_possible_truncation, reason = "2^32 rows do not fit into memory")]
    fn store(&mut self, row: Row, source: Source) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.sources.push(source);
            self.columns.iter_mut().for_each(Column::add_slot);
            self.slots.len() as Slot - 1
        });
        self.index(slot, &row);
        self.row_bytes += row.size();
        self.await_next_level(slot, &row);
        self.add_to_namespace(slot, row.namespace());
        self.count(slot, &row, true);
        self.slots[slot as usize] = Some(row);
        self.sources[slot as usize] = source;
        slot
    }

    fn await_next_level(&mut self, slot: Slot, row: &Row) {
        self.due.extend(row.next_level().map(|next| (next.at.as_second(), slot)));
    }

    fn forget_next_level(&mut self, slot: Slot, row: &Row) {
        if let Some(next) = row.next_level() {
            self.due.remove(&(next.at.as_second(), slot));
        }
    }

    /// Adds the row of a slot to its namespace. The first row of a namespace decides which views have its rows.
    fn add_to_namespace(&mut self, slot: Slot, namespace: Option<&str>) {
        let Some((id, name)) = self.namespaces.add(slot, namespace).zip(namespace) else { return };
        for View { set, members } in self.orders.iter_mut().filter_map(|order| order.view.as_mut()) {
            if members.len() <= id as usize {
                members.resize(id as usize + 1, false);
            }
            members[id as usize] = set.contains(name);
        }
    }

    /// Writes the values that filters compare.
    fn index(&mut self, slot: Slot, row: &Row) {
        for column in &mut self.columns {
            column.set(slot, row.cell(column.field), &self.hasher);
        }
    }

    /// Adds the row of a slot to the tallies, or removes it from them.
    fn count(&mut self, slot: Slot, row: &Row, added: bool) {
        let namespace = self.namespaces.of(slot);
        for tally in &mut self.tallies {
            match row.text(tally.field) {
                Some(value) if added => tally.add(value, namespace),
                Some(value) => tally.remove(value, namespace),
                None => {}
            }
        }
    }

    /// Compares the row in a slot with another row, in a sort order.
    fn compare(&self, order: usize, slot: Slot, row: &Row) -> Ordering {
        self.row(slot).map_or(Ordering::Equal, |other| other.total_order(row, self.orders[order].sort))
    }

    /// Index at which a row is to be inserted into a sort order.
    fn insertion_index(&self, order: usize, row: &Row) -> usize {
        self.orders[order].slots.partition_point(|slot| self.compare(order, *slot, row) == Ordering::Less)
    }

    /// Index of a slot in a sort order; `None` for a view without its namespace. Equal rows are adjacent; their slots
    /// have no defined order.
    fn index_of(&self, order: usize, slot: Slot) -> Option<usize> {
        if !self.orders[order].has(self.namespaces.of(slot)) {
            return None;
        }
        let row = self.row(slot)?;
        let first = self.insertion_index(order, row);
        let candidates = self.orders[order].slots[first..].iter();
        candidates
            .take_while(|other| self.compare(order, **other, row).is_eq())
            .position(|other| *other == slot)
            .map(|at| first + at)
    }

    /// Whether a row at this index is in order with the adjacent rows.
    fn fits(&self, order: usize, at: usize, row: &Row) -> bool {
        let slots = &self.orders[order].slots;
        let after_last = at.checked_sub(1).is_none_or(|last| self.compare(order, slots[last], row).is_le());
        let before_next = slots.get(at + 1).is_none_or(|next| self.compare(order, *next, row).is_ge());
        after_last && before_next
    }

    /// An empty table with the fields and the hash key of this one.
    fn empty_copy(&self) -> Self {
        Self {
            slots: Vec::new(),
            sources: Vec::new(),
            free: Vec::new(),
            orders: vec![Order::by_name()],
            columns: self.columns.iter().map(Column::empty_copy).collect(),
            namespaces: Namespaces::new(),
            names: None,
            tallies: self.tallies.iter().map(Tally::empty_copy).collect(),
            aging: self.aging,
            due: BTreeSet::new(),
            hasher: self.hasher.clone(),
            row_bytes: 0,
        }
    }
}
