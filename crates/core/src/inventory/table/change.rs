//! How rows come and go.

use std::cmp::Ordering;

use super::{Kept, Slot, Source, Table};
use crate::inventory::row::Row;

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is new.
    Added(Row),
    /// It was the first and is the second.
    Changed(Row, Row),
    /// It is gone.
    Removed(Row),
}

impl Table {
    /// Puts the rows of one object in the place of those it had; none when it is gone. What changed by it.
    pub fn apply(
        &mut self,
        source: Source,
        (namespace, name): (Option<&str>, &str),
        rows: Vec<Row>,
    ) -> Vec<Change> {
        let mut had = self.slots_of(source, (namespace.map(str::as_bytes), name.as_bytes())).into_iter();
        let mut rows = rows.into_iter();
        let mut changes = Vec::new();
        loop {
            match (had.next(), rows.next()) {
                (Some(slot), Some(row)) => changes.extend(self.replace(slot, row)),
                (Some(slot), None) => changes.extend(self.remove(slot)),
                (None, Some(row)) => {
                    self.insert(row.clone(), source);
                    changes.push(Change::Added(row));
                }
                (None, None) => return changes,
            }
        }
    }

    /// The same table with these rows in the place of all that `source` had, and what changed by it. Takes as long as
    /// sorting them does; rows that did not change keep their memory.
    pub fn replace_all(&self, source: Source, mut rows: Vec<Row>) -> (Self, Vec<Change>) {
        rows.sort_by(|a, b| a.total_order(b, None));
        let mut changes = Vec::new();
        let mut had = self.kept().filter(|kept| kept.source == source).map(|kept| &kept.row).peekable();
        for row in &mut rows {
            while let Some(gone) = had.next_if(|had| had.key() < row.key()) {
                changes.push(Change::Removed(gone.clone()));
            }
            match had.next_if(|had| had.key() == row.key()) {
                Some(same) if same == row => row.clone_from(same),
                Some(old) => changes.push(Change::Changed(old.clone(), row.clone())),
                None => changes.push(Change::Added(row.clone())),
            }
        }
        changes.extend(had.map(|gone| Change::Removed(gone.clone())));

        let others = self.kept().filter(|kept| kept.source != source).cloned();
        let mut all: Vec<_> = others.chain(rows.into_iter().map(|row| Kept { row, source })).collect();
        all.sort_by(|a, b| a.row.total_order(&b.row, None));
        (self.refilled_with(all), changes)
    }

    /// Rows in the first order, with what this table is asked.
    fn refilled_with(&self, all: Vec<Kept>) -> Self {
        let mut table = self.emptied();
        table.slots.reserve_exact(all.len());
        for column in table.columns.iter_mut().map(|column| &mut column.hashes).chain([&mut table.namespaces])
        {
            column.reserve_exact(all.len());
        }
        table.orders[0].slots.reserve_exact(all.len());
        for kept in all {
            let slot = table.place(kept);
            table.orders[0].slots.push(slot);
        }
        if self.names.is_some() {
            table.names = Some(table.named());
        }
        for order in &self.orders[1..] {
            let order = table.sorted(order.sort);
            table.orders.push(order);
        }
        table
    }

    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.orders[0].slots.iter().filter_map(|slot| self.slots[*slot as usize].as_ref())
    }

    /// The slots of the rows that an object of a source had.
    fn slots_of(&self, source: Source, key: (Option<&[u8]>, &[u8])) -> Vec<Slot> {
        let called_so = self.orders[0].slots[self.first_called(key)..].iter();
        called_so
            .map(|slot| (*slot, self.slots[*slot as usize].as_ref()))
            .take_while(|(_, kept)| kept.is_some_and(|kept| kept.row.key() == key))
            .filter(|(_, kept)| kept.is_some_and(|kept| kept.source == source))
            .map(|(slot, _)| slot)
            .collect()
    }

    fn insert(&mut self, row: Row, source: Source) {
        let slot = self.place(Kept { row: row.clone(), source });
        for order in 0..self.orders.len() {
            let at = self.place_in(order, &row);
            self.orders[order].slots.insert(at, slot);
        }
        if let Some(names) = &mut self.names {
            names.insert(slot, row.searched());
        }
    }

    fn remove(&mut self, slot: Slot) -> Option<Change> {
        for order in 0..self.orders.len() {
            if let Some(at) = self.find_in(order, slot) {
                self.orders[order].slots.remove(at);
            }
        }
        let Kept { row, .. } = self.slots[slot as usize].take()?;
        self.free.push(slot);
        self.row_bytes -= row.size();
        self.count(&row, false);
        if let Some(names) = &mut self.names {
            names.remove(slot);
        }
        Some(Change::Removed(row))
    }

    fn replace(&mut self, slot: Slot, row: Row) -> Option<Change> {
        let old = self.row(slot)?.clone();
        if old == row {
            return None;
        }
        // where it stands is asked of each order while the old row is still there to be found
        let places: Vec<_> = (0..self.orders.len()).map(|order| self.find_in(order, slot)).collect();
        self.write(slot, &row);
        self.row_bytes = self.row_bytes + row.size() - old.size();
        self.count(&old, false);
        self.count(&row, true);
        self.slots[slot as usize].as_mut()?.row = row.clone();
        for (order, at) in places.into_iter().enumerate() {
            let Some(at) = at else { continue };
            if !self.fits(order, at, &row) {
                self.orders[order].slots.remove(at);
                let at = self.place_in(order, &row);
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

    /// Gives a row memory, and all that does not depend on an order.
    #[allow(clippy::cast_possible_truncation, reason = "so many rows fit no memory")]
    fn place(&mut self, kept: Kept) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            for hashes in
                self.columns.iter_mut().map(|column| &mut column.hashes).chain([&mut self.namespaces])
            {
                hashes.push(0);
            }
            self.slots.len() as Slot - 1
        });
        self.write(slot, &kept.row);
        self.row_bytes += kept.row.size();
        self.count(&kept.row, true);
        self.slots[slot as usize] = Some(kept);
        slot
    }

    /// Writes what filters compare.
    fn write(&mut self, slot: Slot, row: &Row) {
        self.namespaces[slot as usize] = self.hash(row.namespace_key());
        for column in 0..self.columns.len() {
            let hash = self.hash(row.cell(self.columns[column].field));
            self.columns[column].hashes[slot as usize] = hash;
        }
    }

    fn count(&mut self, row: &Row, more: bool) {
        for tally in &mut self.tallies {
            let Some(value) = row.text(tally.field) else { continue };
            if more {
                match tally.counts.get_mut(value) {
                    Some(count) => *count += 1,
                    None => drop(tally.counts.insert(value.into(), 1)),
                }
            } else if let Some(count) = tally.counts.get_mut(value) {
                *count -= 1;
                if *count == 0 {
                    tally.counts.remove(value);
                }
            }
        }
    }

    fn compare(&self, order: usize, slot: Slot, row: &Row) -> Ordering {
        self.row(slot).map_or(Ordering::Equal, |other| other.total_order(row, self.orders[order].sort))
    }

    /// Where a row belongs in an order.
    fn place_in(&self, order: usize, row: &Row) -> usize {
        self.orders[order].slots.partition_point(|slot| self.compare(order, *slot, row) == Ordering::Less)
    }

    /// Where a slot stands in an order. Rows that are alike stand side by side in any order of their slots.
    fn find_in(&self, order: usize, slot: Slot) -> Option<usize> {
        let row = self.row(slot)?;
        let first = self.place_in(order, row);
        let alike = self.orders[order].slots[first..].iter();
        alike
            .take_while(|other| self.compare(order, **other, row).is_eq())
            .position(|other| *other == slot)
            .map(|at| first + at)
    }

    /// Whether a row may stay between its neighbours.
    fn fits(&self, order: usize, at: usize, row: &Row) -> bool {
        let slots = &self.orders[order].slots;
        let after_last = at.checked_sub(1).is_none_or(|last| self.compare(order, slots[last], row).is_le());
        let before_next = slots.get(at + 1).is_none_or(|next| self.compare(order, *next, row).is_ge());
        after_last && before_next
    }

    fn emptied(&self) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            orders: vec![super::Order { sort: None, slots: Vec::new() }],
            columns: self
                .columns
                .iter()
                .map(|column| super::Column { hashes: Vec::new(), ..*column })
                .collect(),
            namespaces: Vec::new(),
            names: None,
            tallies: self
                .tallies
                .iter()
                .map(|tally| super::Tally { counts: std::collections::HashMap::new(), ..*tally })
                .collect(),
            keyed: self.keyed.clone(),
            row_bytes: 0,
        }
    }
}
