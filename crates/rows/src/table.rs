//! Indexed table of a list's rows. Rows stay sorted while they change, so that reading a page from a hundred thousand
//! rows costs as much as reading it from a hundred rows.
//!
//! [`super::select`] defines the meaning of a query; a property test checks that the table returns the same results.
//!
//! - Sort orders: a page is a slice of a sorted index. An index is created at the first use of its order; the newest
//!   few are kept.
//! - Filters compare one number per row: a 64-bit SipHash of the value with a random key. A collision of n values has a
//!   probability of about n²/2⁶⁵ and is accepted.
//! - Search scans one buffer that holds the search texts of all rows (`name_index.rs`).

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
};

use pilothouse_types::name::NamespaceScope;

use super::{
    field::{Cell, FieldInfo, Filter, bool_text},
    query::{ListQuery, Sort},
    row::{Key, Row},
    select::Pagination,
};

mod change;
mod name_index;

pub use change::Change;
use name_index::NameIndex;

/// Maximum number of sort orders that are kept besides the one by namespace and name.
const MAX_ORDERS: usize = 6;
/// Maximum number of search hits that are sorted. For more hits, the whole sort order is scanned.
const MAX_SORTED_HITS: usize = 64;

/// Index of a row in `Table::slots`.
type Slot = u32;

/// Kind of the object from which a row was projected, as an index into the kinds of the list.
pub type Source = u8;

/// The rows of one list of one cluster.
#[derive(Debug)]
pub struct Table {
    slots: Vec<Option<TableRow>>,
    free: Vec<Slot>,
    /// Sort orders. The first is by namespace and name.
    orders: Vec<Order>,
    columns: Vec<Column>,
    /// Hash of each row's namespace, by slot.
    namespaces: Vec<u64>,
    /// Created by the first search.
    names: Option<NameIndex>,
    tallies: Vec<Tally>,
    hasher: RandomState,
    /// Memory of the rows alone, in bytes.
    row_bytes: usize,
}

#[derive(Clone, Debug)]
struct TableRow {
    row: Row,
    source: Source,
}

#[derive(Debug)]
struct Order {
    sort: Option<Sort>,
    slots: Vec<Slot>,
}

/// Indexes that were built for a query and are not yet part of the table.
#[derive(Debug)]
pub struct BuiltIndexes {
    names: Option<NameIndex>,
    order: Option<Order>,
}

/// Filter index of one field: the hash of its value, by slot.
#[derive(Debug)]
struct Column {
    field: usize,
    number: bool,
    hashes: Vec<u64>,
}

#[derive(Debug)]
struct Tally {
    name: &'static str,
    field: usize,
    counts: HashMap<Box<str>, u64>,
}

impl Table {
    /// Creates an empty table of rows with these fields.
    pub fn new(fields: &[FieldInfo]) -> Self {
        let fields = || fields.iter().enumerate();
        let columns = fields().filter(|(_, info)| info.filter != Filter::None).map(|(field, info)| Column {
            field,
            number: info.filter == Filter::Number,
            hashes: Vec::new(),
        });
        let tallies = fields().filter(|(_, info)| info.counted).map(|(field, info)| Tally {
            name: info.name,
            field,
            counts: HashMap::new(),
        });
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            orders: vec![Order { sort: None, slots: Vec::new() }],
            columns: columns.collect(),
            namespaces: Vec::new(),
            names: None,
            tallies: tallies.collect(),
            hasher: RandomState::new(),
            row_bytes: 0,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.orders[0].slots.len()
    }

    /// Whether the table has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory of the table in bytes, without allocator overhead.
    pub fn bytes(&self) -> usize {
        let slots =
            self.slots.capacity() * size_of::<Option<TableRow>>() + self.free.capacity() * size_of::<Slot>();
        let orders: usize = self.orders.iter().map(|order| order.slots.capacity() * size_of::<Slot>()).sum();
        let hashes: usize = self.columns.iter().map(|column| column.hashes.capacity()).sum::<usize>()
            + self.namespaces.capacity();
        self.row_bytes
            + slots
            + orders
            + hashes * size_of::<u64>()
            + self.names.as_ref().map_or(0, NameIndex::bytes)
    }

    /// Number of rows for each value of a counted field.
    pub fn tally(&self, field: &str) -> impl Iterator<Item = (&str, u64)> {
        let tally = self.tallies.iter().find(|tally| tally.name == field);
        tally.into_iter().flat_map(|tally| tally.counts.iter().map(|(value, count)| (&**value, *count)))
    }

    /// Number of rows with this value of a counted field.
    pub fn counted_by(&self, field: &str, value: &str) -> u64 {
        let tally = self.tallies.iter().find(|tally| tally.name == field);
        tally.and_then(|tally| tally.counts.get(value)).copied().unwrap_or_default()
    }

    /// The rows of a namespace, by name.
    pub fn rows_in(&self, namespace: &str) -> impl Iterator<Item = &Row> {
        self.orders[0].slots[self.range_of(namespace)].iter().filter_map(|slot| self.row(*slot))
    }

    /// All rows, by namespace and name.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.orders[0].slots.iter().filter_map(|slot| self.row(*slot))
    }

    /// Whether a row with this namespace and name exists.
    pub fn contains(&self, namespace: Option<&str>, name: &str) -> bool {
        let key = (namespace.map(str::as_bytes), name.as_bytes());
        let index = self.lower_bound(key);
        self.orders[0].slots.get(index).and_then(|slot| self.row(*slot)).is_some_and(|row| row.key() == key)
    }

    /// Returns the page that a query requests; `None` if an index that it needs is missing ([`Self::build_index`]).
    pub fn page(&self, query: &ListQuery) -> Option<(Vec<Row>, Pagination)> {
        let order = self.orders.iter().find(|order| order.sort == query.sort)?;
        let (slots, namespace) = match &query.namespaces {
            NamespaceScope::All => (&order.slots[..], None),
            NamespaceScope::One(one) if order.sort.is_none() => {
                (&order.slots[self.range_of(one.as_str())], None)
            }
            NamespaceScope::One(one) => (
                &order.slots[..],
                Some((&self.namespaces[..], self.hash(Cell::Text(one.as_str().as_bytes())))),
            ),
        };
        let mut conditions: Vec<(&[u64], u64)> = namespace.into_iter().collect();
        for (field, value) in &query.filters {
            let column = self.columns.iter().find(|column| column.field == *field)?;
            conditions.push((&column.hashes, self.hash_of_filter(column.number, value)));
        }
        let matches = |slot: Slot| conditions.iter().all(|(hashes, hash)| hashes[slot as usize] == *hash);

        let (page, total) = match query.search.as_deref() {
            None if conditions.is_empty() => {
                (slots.iter().skip(query.offset()).take(query.limit()).copied().collect(), slots.len())
            }
            None => paginate(slots.iter().copied().filter(|slot| matches(*slot)), query),
            Some(search) => {
                let mut hits = self.names.as_ref()?.find(search);
                // `matches` does not check the namespace if `slots` is already restricted to it
                let unchecked = matches!(query.namespaces, NamespaceScope::One(_)) && namespace.is_none();
                let namespace_hash = unchecked.then(|| self.hash(namespace_key(&query.namespaces)));
                hits.retain(|slot| {
                    matches(*slot)
                        && namespace_hash.is_none_or(|hash| self.namespaces[*slot as usize] == hash)
                });
                self.page_of_hits(hits, slots, query)
            }
        };
        let rows = page.into_iter().filter_map(|slot| self.row(slot).cloned()).collect();
        Some((rows, Pagination::of(query, total as u64)))
    }

    /// Builds the missing indexes for a query: a sort order, the search text. Takes as long as sorting all rows.
    pub fn build_index(&self, query: &ListQuery) -> BuiltIndexes {
        let needs_names = query.search.is_some() && self.names.is_none();
        let needs_order = self.orders.iter().all(|order| order.sort != query.sort);
        BuiltIndexes {
            names: needs_names.then(|| self.build_names()),
            order: needs_order.then(|| self.build_order(query.sort)),
        }
    }

    /// Adds the indexes that [`Self::build_index`] built. The rows must not have changed since.
    pub fn add_indexes(&mut self, BuiltIndexes { names, order }: BuiltIndexes) {
        if names.is_some() {
            self.names = names;
        }
        if let Some(order) = order {
            if self.orders.len() > MAX_ORDERS {
                self.orders.remove(1);
            }
            self.orders.push(order);
        }
    }

    /// Returns a page of the search hits, in the order of `slots`, and the number of hits.
    fn page_of_hits(&self, mut hits: Vec<Slot>, slots: &[Slot], query: &ListQuery) -> (Vec<Slot>, usize) {
        let total = hits.len();
        if total <= MAX_SORTED_HITS {
            let row = |slot: &Slot| self.row(*slot);
            hits.sort_by(|a, b| {
                row(a).zip(row(b)).map_or(std::cmp::Ordering::Equal, |(a, b)| a.total_order(b, query.sort))
            });
            return (hits.into_iter().skip(query.offset()).take(query.limit()).collect(), total);
        }
        let mut is_hit = vec![false; self.slots.len()];
        for slot in hits {
            is_hit[slot as usize] = true;
        }
        let page = slots.iter().copied().filter(|slot| is_hit[*slot as usize]);
        (page.skip(query.offset()).take(query.limit()).collect(), total)
    }

    fn row(&self, slot: Slot) -> Option<&Row> {
        self.slots.get(slot as usize)?.as_ref().map(|stored| &stored.row)
    }

    /// Index of the first row with this key or a greater one, in the order by namespace and name.
    fn lower_bound(&self, key: (Option<&[u8]>, &[u8])) -> usize {
        self.orders[0].slots.partition_point(|slot| self.row(*slot).is_some_and(|row| row.key() < key))
    }

    /// Range of a namespace in the order by namespace and name.
    fn range_of(&self, namespace: &str) -> Range<usize> {
        let slots = &self.orders[0].slots;
        let below = |inclusive: bool| {
            move |slot: &Slot| {
                self.row(*slot).is_some_and(|row| {
                    let own = row.key().0;
                    if inclusive {
                        own <= Some(namespace.as_bytes())
                    } else {
                        own < Some(namespace.as_bytes())
                    }
                })
            }
        };
        slots.partition_point(below(false))..slots.partition_point(below(true))
    }

    fn build_order(&self, sort: Option<Sort>) -> Order {
        let mut slots = self.orders[0].slots.clone();
        slots.sort_by(|a, b| match (self.row(*a), self.row(*b)) {
            (Some(a), Some(b)) => a.total_order(b, sort),
            _ => std::cmp::Ordering::Equal,
        });
        Order { sort, slots }
    }

    fn build_names(&self) -> NameIndex {
        let mut names = NameIndex::default();
        for slot in &self.orders[0].slots {
            if let Some(row) = self.row(*slot) {
                names.insert(*slot, row.searched());
            }
        }
        names
    }

    /// Hash of a key. 0 is reserved for null, which no filter matches.
    fn hash(&self, key: Key<'_>) -> u64 {
        match key {
            Cell::Null => 0,
            Cell::Bool(value) => self.hasher.hash_one(bool_text(value).as_bytes()).max(1),
            Cell::Number(value) => self.hasher.hash_one((value + 0.0).to_bits()).max(1),
            Cell::Text(text) => self.hasher.hash_one(text).max(1),
        }
    }

    fn hash_of_filter(&self, number: bool, text: &str) -> u64 {
        match text.parse() {
            Ok(value) if number => self.hash(Cell::Number(value)),
            _ => self.hash(Cell::Text(text.as_bytes())),
        }
    }
}

fn namespace_key(scope: &NamespaceScope) -> Key<'_> {
    match scope {
        NamespaceScope::One(one) => Cell::Text(one.as_str().as_bytes()),
        NamespaceScope::All => Cell::Null,
    }
}

/// Takes the page of the matching rows, and counts all matching rows.
fn paginate(matching: impl Iterator<Item = Slot>, query: &ListQuery) -> (Vec<Slot>, usize) {
    let (offset, limit) = (query.offset(), query.limit());
    let (mut page, mut total) = (Vec::with_capacity(limit.min(500)), 0);
    for slot in matching {
        if total >= offset && page.len() < limit {
            page.push(slot);
        }
        total += 1;
    }
    (page, total)
}

#[cfg(test)]
mod tests;
