//! Interned namespaces of a table's rows, with the number of rows of each.

use std::{collections::BTreeMap, iter, ops::Range};

use pilothouse_types::namespaces::{NamespaceScope, NamespaceSet};

use super::Slot;

/// Id of a namespace that has rows. The id of a namespace without rows is given to another one.
pub(super) type NamespaceId = u32;

/// Id for rows without a namespace.
const NONE: NamespaceId = 0;

/// The namespaces of all rows.
#[derive(Debug)]
pub(super) struct Namespaces {
    /// Namespace of each row, by slot.
    of_slot: Vec<NamespaceId>,
    /// Ids by name, sorted as the rows are.
    ids: BTreeMap<Box<str>, NamespaceId>,
    /// Number of rows, by id.
    rows: Vec<u32>,
    free: Vec<NamespaceId>,
}

impl Namespaces {
    pub(super) fn new() -> Self {
        Self { of_slot: Vec::new(), ids: BTreeMap::new(), rows: vec![0], free: Vec::new() }
    }

    /// Reserves memory for this number of rows.
    pub(super) fn reserve_exact(&mut self, rows: usize) {
        self.of_slot.reserve_exact(rows);
    }

    /// Memory in bytes, without the names.
    pub(super) fn bytes(&self) -> usize {
        self.of_slot.capacity() * size_of::<NamespaceId>() + self.rows.capacity() * size_of::<u32>()
    }

    /// Adds the row of a slot. Returns the id of the namespace if this is its first row.
    pub(super) fn add(&mut self, slot: Slot, namespace: Option<&str>) -> Option<NamespaceId> {
        let known = namespace.map_or(Some(NONE), |name| self.ids.get(name).copied());
        let id = known.unwrap_or_else(|| self.intern(namespace.unwrap_or_default()));
        if self.of_slot.len() <= slot as usize {
            self.of_slot.resize(slot as usize + 1, NONE);
        }
        self.of_slot[slot as usize] = id;
        self.rows[id as usize] += 1;
        known.is_none().then_some(id)
    }

    /// Removes the row of a slot, which was added with this namespace.
    pub(super) fn remove(&mut self, slot: Slot, namespace: Option<&str>) {
        let id = self.of(slot);
        self.rows[id as usize] -= 1;
        if let Some(name) = namespace
            && self.rows[id as usize] == 0
        {
            self.ids.remove(name);
            self.free.push(id);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "there are at most as many namespaces as rows")]
    fn intern(&mut self, name: &str) -> NamespaceId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.rows.push(0);
            self.rows.len() as NamespaceId - 1
        });
        self.ids.insert(name.into(), id);
        id
    }

    /// The namespace of a row.
    pub(super) fn of(&self, slot: Slot) -> NamespaceId {
        self.of_slot[slot as usize]
    }

    /// Whether a scope contains each namespace, by id: its members. `None` if the scope contains all rows.
    pub(super) fn members(&self, scope: &NamespaceScope) -> Option<Vec<bool>> {
        let only = |id: Option<NamespaceId>| {
            let mut members = vec![false; self.rows.len()];
            if let Some(id) = id {
                members[id as usize] = true;
            }
            members
        };
        let members = match scope {
            NamespaceScope::All => return None,
            NamespaceScope::Unscoped => only(Some(NONE)),
            NamespaceScope::One(one) => only(self.ids.get(one.as_str()).copied()),
            NamespaceScope::Set(set) => self.members_of(set),
        };
        let is_partial = self.rows.iter().zip(&members).any(|(rows, is_member)| *rows > 0 && !is_member);
        is_partial.then_some(members)
    }

    /// Whether a set contains each namespace, by id.
    pub(super) fn members_of(&self, set: &NamespaceSet) -> Vec<bool> {
        let mut members = vec![false; self.rows.len()];
        for (name, id) in &self.ids {
            members[*id as usize] = set.contains(name);
        }
        members
    }

    /// Whether the row of a slot is in a member; without members, every row is.
    pub(super) fn contains(&self, members: Option<&[bool]>, slot: Slot) -> bool {
        members.is_none_or(|members| members[self.of(slot) as usize])
    }

    /// Number of rows of the members.
    pub(super) fn count(&self, members: &[bool]) -> u64 {
        let counts = self.rows.iter().zip(members);
        counts.filter(|(_, is_member)| **is_member).map(|(rows, _)| u64::from(*rows)).sum()
    }

    /// Ranges of the members in the order by namespace and name.
    pub(super) fn ranges(&self, members: &[bool]) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        iter::once(NONE).chain(self.ids.values().copied()).filter_map(move |id| {
            let start = end;
            end += self.rows[id as usize] as usize;
            members[id as usize].then_some(start..end)
        })
    }
}
