//! Tallies: the number of rows for each value of a counted field, in all namespaces and by namespace.

use std::collections::{BTreeMap, HashMap};

use super::namespaces::NamespaceId;
use crate::field::{FieldInfo, Filter};

/// Numbers of rows by the values of one field.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) name: &'static str,
    pub(super) field: usize,
    /// Whether rows are also counted by namespace. An internal field, such as a node, may have a value of its own in
    /// almost every row of a namespace.
    by_namespace: bool,
    counts: HashMap<Box<str>, Count>,
}

/// Numbers of rows with one value.
#[derive(Debug, Default)]
struct Count {
    all: u64,
    by_namespace: BTreeMap<NamespaceId, u32>,
}

impl Count {
    fn add(&mut self, namespace: Option<NamespaceId>) {
        self.all += 1;
        if let Some(namespace) = namespace {
            *self.by_namespace.entry(namespace).or_default() += 1;
        }
    }
}

impl Tally {
    pub(super) fn new(field: usize, info: &FieldInfo) -> Self {
        let by_namespace = info.filter != Filter::Internal;
        Self { name: info.name, field, by_namespace, counts: HashMap::new() }
    }

    /// An empty tally of the same field.
    pub(super) fn empty_copy(&self) -> Self {
        Self { counts: HashMap::new(), ..*self }
    }

    /// Adds a row with this value, in this namespace.
    pub(super) fn add(&mut self, value: &str, namespace: NamespaceId) {
        let namespace = self.by_namespace.then_some(namespace);
        match self.counts.get_mut(value) {
            Some(count) => count.add(namespace),
            None => {
                let mut count = Count::default();
                count.add(namespace);
                self.counts.insert(value.into(), count);
            }
        }
    }

    /// Removes a row that was added with this value and namespace.
    pub(super) fn remove(&mut self, value: &str, namespace: NamespaceId) {
        let Some(count) = self.counts.get_mut(value) else { return };
        count.all -= 1;
        if let Some(rows) = count.by_namespace.get_mut(&namespace) {
            *rows -= 1;
            if *rows == 0 {
                count.by_namespace.remove(&namespace);
            }
        }
        if count.all == 0 {
            self.counts.remove(value);
        }
    }

    /// The values that rows have.
    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.counts.keys().map(|value| &**value)
    }

    /// Number of rows with this value in the members, or in all namespaces. `None` if the members are not counted.
    pub(super) fn count(&self, value: &str, members: Option<&[bool]>) -> Option<u64> {
        let Some(count) = self.counts.get(value) else { return Some(0) };
        let Some(members) = members else { return Some(count.all) };
        let of_members = count.by_namespace.iter().filter(|(id, _)| members[**id as usize]);
        self.by_namespace.then(|| of_members.map(|(_, rows)| u64::from(*rows)).sum())
    }
}
