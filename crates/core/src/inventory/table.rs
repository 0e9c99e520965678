//! A list's rows, kept in order as they come and go, so that a page of a hundred thousand costs what a page of a hundred
//! does. What a query means is said by [`super::select`]; this only says it faster, and a property holds it to that.
//!
//! - A page of an order that is kept is a slice of it; an order is kept from its first use on, the newest few of them.
//! - A filter compares one number a row: the keyed hash of the value, 64 bits wide, so that two values never meet.
//! - A search looks through all names at once (`names.rs`).

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::Range,
};

use super::{
    field::{Cell, FieldInfo, Filter, word},
    lists::ListInfo,
    query::{ListQuery, Sort},
    row::{Key, Row},
    select::Pagination,
};
use crate::name::NamespaceScope;

mod change;
mod name_index;

pub use change::Change;
use name_index::NameIndex;

/// How many orders are kept besides the one by namespace and name.
const MOST_ORDERS: usize = 6;
/// Up to so many hits of a search are sorted; of more, the whole order is walked.
const SORTED_HITS: usize = 64;

/// The place of a row in memory.
type Slot = u32;

/// Which of a list's kinds a row comes from, by its place in the store's kinds.
pub type Source = u8;

/// The rows of one list of one cluster.
#[derive(Debug)]
pub struct Table {
    slots: Vec<Option<Kept>>,
    free: Vec<Slot>,
    /// By namespace and name first.
    orders: Vec<Order>,
    columns: Vec<Column>,
    /// The hash of each row's namespace.
    namespaces: Vec<u64>,
    /// Made by the first search.
    names: Option<NameIndex>,
    tallies: Vec<Tally>,
    keyed: RandomState,
    /// Of the rows alone.
    row_bytes: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    row: Row,
    source: Source,
}

#[derive(Debug)]
struct Order {
    sort: Option<Sort>,
    slots: Vec<Slot>,
}

/// What was made for a query, to be kept.
#[derive(Debug)]
pub struct Prepared {
    names: Option<NameIndex>,
    order: Option<Order>,
}

/// What a filter of one field compares.
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
    /// No rows of this list.
    pub fn new(list: &ListInfo) -> Self {
        Self::of(&(list.fields)())
    }

    pub(super) fn of(fields: &[FieldInfo]) -> Self {
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
            keyed: RandomState::new(),
            row_bytes: 0,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.orders[0].slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory it takes, in bytes, but for the allocator's own.
    pub fn bytes(&self) -> usize {
        let slots =
            self.slots.capacity() * size_of::<Option<Kept>>() + self.free.capacity() * size_of::<Slot>();
        let orders: usize = self.orders.iter().map(|order| order.slots.capacity() * size_of::<Slot>()).sum();
        let hashes: usize = self.columns.iter().map(|column| column.hashes.capacity()).sum::<usize>()
            + self.namespaces.capacity();
        self.row_bytes
            + slots
            + orders
            + hashes * size_of::<u64>()
            + self.names.as_ref().map_or(0, NameIndex::bytes)
    }

    /// How many rows have each value of a counted field.
    pub fn tally(&self, field: &str) -> impl Iterator<Item = (&str, u64)> {
        let tally = self.tallies.iter().find(|tally| tally.name == field);
        tally.into_iter().flat_map(|tally| tally.counts.iter().map(|(value, count)| (&**value, *count)))
    }

    /// How many rows have this value of a counted field.
    pub fn counted_by(&self, field: &str, value: &str) -> u64 {
        let tally = self.tallies.iter().find(|tally| tally.name == field);
        tally.and_then(|tally| tally.counts.get(value)).copied().unwrap_or_default()
    }

    /// The rows of a namespace.
    pub fn rows_in(&self, namespace: &str) -> impl Iterator<Item = &Row> {
        self.orders[0].slots[self.range_of(namespace)].iter().filter_map(|slot| self.row(*slot))
    }

    /// Every row, by namespace and name.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.orders[0].slots.iter().filter_map(|slot| self.row(*slot))
    }

    /// Whether there is a row that is key so.
    pub fn contains(&self, namespace: Option<&str>, name: &str) -> bool {
        let key = (namespace.map(str::as_bytes), name.as_bytes());
        let at = self.first_called(key);
        self.orders[0].slots.get(at).and_then(|slot| self.row(*slot)).is_some_and(|row| row.key() == key)
    }

    /// The page that a query wants; none when something has to be [`Self::build_index`] first.
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
        let mut wanted: Vec<(&[u64], u64)> = namespace.into_iter().collect();
        for (field, value) in &query.filters {
            let column = self.columns.iter().find(|column| column.field == *field)?;
            wanted.push((&column.hashes, self.hash_of_filter(column.number, value)));
        }
        let matches = |slot: Slot| wanted.iter().all(|(hashes, hash)| hashes[slot as usize] == *hash);

        let (page, total) = match query.search.as_deref() {
            None if wanted.is_empty() => {
                (slots.iter().skip(query.offset()).take(query.limit()).copied().collect(), slots.len())
            }
            None => cut(slots.iter().copied().filter(|slot| matches(*slot)), query),
            Some(search) => {
                let mut hits = self.names.as_ref()?.find(search);
                // the range of a namespace is none of the columns
                let here = matches!(query.namespaces, NamespaceScope::One(_)) && namespace.is_none();
                let here = here.then(|| self.hash(namespace_key(&query.namespaces)));
                hits.retain(|slot| {
                    matches(*slot) && here.is_none_or(|here| self.namespaces[*slot as usize] == here)
                });
                self.in_order(hits, slots, query)
            }
        };
        let rows = page.into_iter().filter_map(|slot| self.row(slot).cloned()).collect();
        Some((rows, Pagination::of(query, total as u64)))
    }

    /// What a query needs and [`Self::page`] lacks: an order, the names to search. Takes as long as sorting all rows does.
    pub fn build_index(&self, query: &ListQuery) -> Prepared {
        let unnamed = query.search.is_some() && self.names.is_none();
        let unsorted = self.orders.iter().all(|order| order.sort != query.sort);
        Prepared { names: unnamed.then(|| self.named()), order: unsorted.then(|| self.sorted(query.sort)) }
    }

    /// Takes what was made by [`Self::build_index`] of the very same rows.
    pub fn keep(&mut self, Prepared { names, order }: Prepared) {
        if names.is_some() {
            self.names = names;
        }
        if let Some(order) = order {
            if self.orders.len() > MOST_ORDERS {
                self.orders.remove(1);
            }
            self.orders.push(order);
        }
    }

    /// A page of hits, in the order of `slots`.
    fn in_order(&self, mut hits: Vec<Slot>, slots: &[Slot], query: &ListQuery) -> (Vec<Slot>, usize) {
        let total = hits.len();
        if total <= SORTED_HITS {
            let row = |slot: &Slot| self.row(*slot);
            hits.sort_by(|a, b| {
                row(a).zip(row(b)).map_or(std::cmp::Ordering::Equal, |(a, b)| a.total_order(b, query.sort))
            });
            return (hits.into_iter().skip(query.offset()).take(query.limit()).collect(), total);
        }
        let mut hit = vec![false; self.slots.len()];
        for slot in hits {
            hit[slot as usize] = true;
        }
        let page = slots.iter().copied().filter(|slot| hit[*slot as usize]);
        (page.skip(query.offset()).take(query.limit()).collect(), total)
    }

    fn row(&self, slot: Slot) -> Option<&Row> {
        self.slots.get(slot as usize)?.as_ref().map(|kept| &kept.row)
    }

    /// Where in the first order the rows begin that are key so, or would.
    fn first_called(&self, key: (Option<&[u8]>, &[u8])) -> usize {
        self.orders[0].slots.partition_point(|slot| self.row(*slot).is_some_and(|row| row.key() < key))
    }

    fn range_of(&self, namespace: &str) -> Range<usize> {
        let slots = &self.orders[0].slots;
        let before = |after: bool| {
            move |slot: &Slot| {
                self.row(*slot).is_some_and(|row| {
                    let of = row.key().0;
                    if after { of <= Some(namespace.as_bytes()) } else { of < Some(namespace.as_bytes()) }
                })
            }
        };
        slots.partition_point(before(false))..slots.partition_point(before(true))
    }

    fn sorted(&self, sort: Option<Sort>) -> Order {
        let mut slots = self.orders[0].slots.clone();
        slots.sort_by(|a, b| match (self.row(*a), self.row(*b)) {
            (Some(a), Some(b)) => a.total_order(b, sort),
            _ => std::cmp::Ordering::Equal,
        });
        Order { sort, slots }
    }

    fn named(&self) -> NameIndex {
        let mut names = NameIndex::default();
        for slot in &self.orders[0].slots {
            if let Some(row) = self.row(*slot) {
                names.insert(*slot, row.searched());
            }
        }
        names
    }

    /// Never 0, which is what null is: no filter wants it.
    fn hash(&self, key: Key<'_>) -> u64 {
        match key {
            Cell::Null => 0,
            Cell::Bool(value) => self.keyed.hash_one(word(value).as_bytes()).max(1),
            Cell::Number(value) => self.keyed.hash_one((value + 0.0).to_bits()).max(1),
            Cell::Text(text) => self.keyed.hash_one(text).max(1),
        }
    }

    fn hash_of_filter(&self, number: bool, wanted: &str) -> u64 {
        match wanted.parse() {
            Ok(value) if number => self.hash(Cell::Number(value)),
            _ => self.hash(Cell::Text(wanted.as_bytes())),
        }
    }
}

fn namespace_key(scope: &NamespaceScope) -> Key<'_> {
    match scope {
        NamespaceScope::One(one) => Cell::Text(one.as_str().as_bytes()),
        NamespaceScope::All => Cell::Null,
    }
}

/// The page among all that match, and how many do.
fn cut(matching: impl Iterator<Item = Slot>, query: &ListQuery) -> (Vec<Slot>, usize) {
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
