//! Indexed table of a list's rows. Rows stay sorted while they change, so that reading a page from a hundred thousand
//! rows costs as much as reading it from a hundred rows.
//!
//! [`super::select`] defines the meaning of a query; a property test checks that the table returns the same results.
//!
//! - Sort orders: a page is a slice of a sorted index. An index is created at the first use of its order; the newest
//!   few are kept.
//! - Namespaces: each row has the id of its namespace, and the rows are counted by namespace. In the order by namespace
//!   and name, the rows of a scope are a few ranges; other orders are scanned for one namespace. For a set of
//!   namespaces, the rows of the set in one order are an index, too: a view; the newest few views are kept.
//! - Filters compare one number per row: a 64-bit SipHash of the value with a random key. A collision of n values has a
//!   probability of about n²/2⁶⁵ and is accepted.
//! - Label selectors are evaluated on the labels in the JSON of each row that the other conditions leave.
//! - Levels that change with age: rows that have a next level are in a queue, by its time.
//! - Search scans one buffer that holds the search texts of all rows (`name_index.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::RandomState,
    ops::Range,
};

use jiff::Timestamp;
use pilothouse_types::namespaces::{NamespaceScope, NamespaceSet};

use super::{
    aging::Aging,
    field::FieldInfo,
    query::{ListQuery, Sort},
    row::Row,
    select::Pagination,
};

mod change;
mod column;
mod name_index;
mod namespaces;
mod tally;

pub use change::Change;
use column::Column;
use name_index::NameIndex;
use namespaces::{NamespaceId, Namespaces};
use tally::Tally;

/// Maximum number of sort orders of all rows that are kept besides the one by namespace and name, and maximum number of
/// views that are kept.
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
    slots: Vec<Option<Row>>,
    /// The source of each row, by slot.
    sources: Vec<Source>,
    free: Vec<Slot>,
    /// Sort orders and views. The first is by namespace and name.
    orders: Vec<Order>,
    columns: Vec<Column>,
    namespaces: Namespaces,
    /// Created by the first search.
    names: Option<NameIndex>,
    tallies: Vec<Tally>,
    aging: Aging,
    /// Rows whose level changes with age, by the time of the change in seconds since the Unix epoch.
    due: BTreeSet<(i64, Slot)>,
    hasher: RandomState,
    /// Memory of the rows alone, in bytes.
    row_bytes: usize,
}

/// Rows in a sort order.
#[derive(Debug)]
struct Order {
    sort: Option<Sort>,
    /// The set whose rows the order has; `None`: all rows.
    view: Option<View>,
    slots: Vec<Slot>,
}

/// A set of namespaces.
#[derive(Debug)]
struct View {
    set: NamespaceSet,
    /// Whether the set contains each namespace, by id.
    members: Vec<bool>,
}

/// Sort order, and the set of a view.
type OrderKey<'a> = (Option<Sort>, Option<&'a NamespaceSet>);

impl Order {
    /// An empty order by namespace and name.
    fn by_name() -> Self {
        Self { sort: None, view: None, slots: Vec::new() }
    }

    fn key(&self) -> OrderKey<'_> {
        (self.sort, self.view.as_ref().map(|view| &view.set))
    }

    /// Whether the order has the rows of a namespace.
    fn has(&self, namespace: NamespaceId) -> bool {
        self.view.as_ref().is_none_or(|view| view.members[namespace as usize])
    }
}

/// Indexes that were built for a query and are not yet part of the table.
#[derive(Debug)]
pub struct BuiltIndexes {
    names: Option<NameIndex>,
    order: Option<Order>,
}

impl Table {
    /// Creates an empty table of rows with these fields.
    pub fn new(fields: &[FieldInfo]) -> Self {
        let aging = Aging::of(fields);
        let fields = || fields.iter().enumerate();
        let tallies = fields().filter(|(_, info)| info.counted).map(|(field, info)| Tally::new(field, info));
        Self {
            slots: Vec::new(),
            sources: Vec::new(),
            free: Vec::new(),
            orders: vec![Order::by_name()],
            columns: fields().filter_map(Column::of).collect(),
            namespaces: Namespaces::new(),
            names: None,
            tallies: tallies.collect(),
            aging,
            due: BTreeSet::new(),
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
            self.slots.capacity() * size_of::<Option<Row>>() + self.free.capacity() * size_of::<Slot>();
        let orders: usize = self.orders.iter().map(|order| order.slots.capacity() * size_of::<Slot>()).sum();
        let columns: usize = self.columns.iter().map(Column::bytes).sum();
        self.row_bytes
            + slots
            + orders
            + columns
            + self.sources.capacity()
            + self.due.len() * 2 * size_of::<(i64, Slot)>()
            + self.namespaces.bytes()
            + self.names.as_ref().map_or(0, NameIndex::bytes)
    }

    /// How the levels of the rows change with age.
    pub fn aging(&self) -> Aging {
        self.aging
    }

    /// Time of the first change of a level that comes with age.
    pub fn level_changes_at(&self) -> Option<Timestamp> {
        self.due.first().and_then(|(second, _)| Timestamp::from_second(*second).ok())
    }

    /// Number of rows in these namespaces.
    pub fn count_in(&self, namespaces: &NamespaceScope) -> u64 {
        let members = self.namespaces.members(namespaces);
        members.map_or(self.len() as u64, |members| self.namespaces.count(&members))
    }

    /// Number of rows in these namespaces for each value of a counted field; only values that occur.
    pub fn tally(&self, field: &str, namespaces: &NamespaceScope) -> BTreeMap<&str, u64> {
        let members = self.namespaces.members(namespaces);
        let values = self.tallies.iter().filter(|tally| tally.name == field).flat_map(|tally| {
            let members = members.as_deref();
            tally.values().map(move |value| (value, self.counted(tally, value, members)))
        });
        values.filter(|(_, count)| *count > 0).collect()
    }

    /// Number of rows in these namespaces with this value of a counted field.
    pub fn counted_by(&self, field: &str, value: &str, namespaces: &NamespaceScope) -> u64 {
        let members = self.namespaces.members(namespaces);
        let tally = self.tallies.iter().find(|tally| tally.name == field);
        tally.map_or(0, |tally| self.counted(tally, value, members.as_deref()))
    }

    /// Number of rows with a value. Where the tally has no counts by namespace, the filter index is scanned.
    fn counted(&self, tally: &Tally, value: &str, members: Option<&[bool]>) -> u64 {
        tally.count(value, members).unwrap_or_else(|| {
            let Some(column) = self.columns.iter().find(|column| column.field == tally.field) else {
                return 0;
            };
            let condition = column.condition([value].into_iter(), &self.hasher);
            let slots = self.parts(&self.orders[0], members).into_iter().flatten();
            slots.filter(|slot| condition.holds(**slot)).count() as u64
        })
    }

    /// The rows of a namespace, by name.
    pub fn rows_in(&self, namespace: &str) -> impl Iterator<Item = &Row> {
        self.orders[0].slots[self.range_of(namespace)].iter().filter_map(|slot| self.row(*slot))
    }

    /// All rows, by namespace and name.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.orders[0].slots.iter().filter_map(|slot| self.row(*slot))
    }

    /// The rows with this namespace and name.
    pub fn rows_named(&self, namespace: Option<&str>, name: &str) -> impl Iterator<Item = &Row> {
        let key = (namespace.map(str::as_bytes), name.as_bytes());
        let candidates = self.orders[0].slots[self.lower_bound(key)..].iter();
        candidates.filter_map(|slot| self.row(*slot)).take_while(move |row| row.key() == key)
    }

    /// Whether a row with this namespace and name exists.
    pub fn contains(&self, namespace: Option<&str>, name: &str) -> bool {
        self.rows_named(namespace, name).next().is_some()
    }

    /// Returns the page that a query requests; `None` if an index that it needs is missing ([`Self::build_index`]).
    pub fn page(&self, query: &ListQuery) -> Option<(Vec<Row>, Pagination)> {
        let members = self.namespaces.members(&query.namespaces);
        let order = self.order(order_key(query, members.is_some()))?;
        let parts = self.parts(order, members.as_deref());
        // only a whole order, without a view, has rows of other namespaces
        let unchecked = members.as_deref().filter(|_| order.sort.is_some() && order.view.is_none());
        let mut conditions = Vec::new();
        for (field, values) in &query.filters {
            let column = self.columns.iter().find(|column| column.field == *field)?;
            conditions.push(column.condition(values.iter().map(String::as_str), &self.hasher));
        }
        let has_labels = |slot: Slot| {
            let selector = query.labels.as_ref();
            selector.is_none_or(|selector| self.row(slot).is_some_and(|row| selector.matches(&row.labels())))
        };
        let has_values = |slot: Slot| conditions.iter().all(|condition| condition.holds(slot));
        let matches = |slot: Slot| has_values(slot) && has_labels(slot);

        let (page, total) = match query.search.as_deref() {
            None if conditions.is_empty() && query.labels.is_none() && unchecked.is_none() => {
                let slots = parts.iter().copied().flatten().copied();
                let total = parts.iter().map(|part| part.len()).sum::<usize>();
                (slots.skip(query.offset()).take(query.limit()).collect(), total)
            }
            None => {
                paginate(&parts, query, |slot| self.namespaces.contains(unchecked, slot) && matches(slot))
            }
            Some(search) => {
                let mut hits = self.names.as_ref()?.find(search);
                let members = members.as_deref();
                hits.retain(|slot| self.namespaces.contains(members, *slot) && matches(*slot));
                self.page_of_hits(hits, &parts, query)
            }
        };
        let rows = page.into_iter().filter_map(|slot| self.row(slot).cloned()).collect();
        Some((rows, Pagination::of(query, total as u64)))
    }

    /// Builds the missing indexes for a query: a sort order or a view, the search text. Takes as long as sorting all
    /// rows.
    pub fn build_index(&self, query: &ListQuery) -> BuiltIndexes {
        let needs_names = query.search.is_some() && self.names.is_none();
        let key = order_key(query, self.namespaces.members(&query.namespaces).is_some());
        BuiltIndexes {
            names: needs_names.then(|| self.build_names()),
            order: self.order(key).is_none().then(|| self.build_order(key)),
        }
    }

    /// Adds the indexes that [`Self::build_index`] built. The rows must not have changed since.
    pub fn add_indexes(&mut self, BuiltIndexes { names, order }: BuiltIndexes) {
        if names.is_some() {
            self.names = names;
        }
        if let Some(order) = order {
            let is_same_kind = |at: &usize| self.orders[*at].view.is_some() == order.view.is_some();
            let same_kind: Vec<_> = (1..self.orders.len()).filter(is_same_kind).collect();
            if same_kind.len() >= MAX_ORDERS {
                self.orders.remove(same_kind[0]);
            }
            self.orders.push(order);
        }
    }

    fn order(&self, key: OrderKey<'_>) -> Option<&Order> {
        self.orders.iter().find(|order| order.key() == key)
    }

    /// The rows of an order that a query for these members reads: ranges of the order by namespace and name, the whole
    /// of any other order.
    fn parts<'a>(&self, order: &'a Order, members: Option<&[bool]>) -> Vec<&'a [Slot]> {
        match members {
            Some(members) if order.sort.is_none() => {
                self.namespaces.ranges(members).map(|range| &order.slots[range]).collect()
            }
            _ => vec![&order.slots[..]],
        }
    }

    /// Returns a page of the search hits, in the order of `parts`, and the number of hits.
    fn page_of_hits(&self, mut hits: Vec<Slot>, parts: &[&[Slot]], query: &ListQuery) -> (Vec<Slot>, usize) {
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
        let page = parts.iter().copied().flatten().copied().filter(|slot| is_hit[*slot as usize]);
        (page.skip(query.offset()).take(query.limit()).collect(), total)
    }

    fn row(&self, slot: Slot) -> Option<&Row> {
        self.slots.get(slot as usize)?.as_ref()
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

    /// Builds a sort order of all rows, or a view; a view takes its rows from the order of all rows, if there is one.
    fn build_order(&self, (sort, set): OrderKey<'_>) -> Order {
        let sorted = self.order((sort, None));
        let base = sorted.unwrap_or(&self.orders[0]);
        let view = set.map(|set| View { set: set.clone(), members: self.namespaces.members_of(set) });
        let mut slots = base.slots.clone();
        if let Some(view) = &view {
            slots.retain(|slot| self.namespaces.contains(Some(&view.members), *slot));
            slots.shrink_to_fit();
        }
        if sorted.is_none() {
            slots.sort_by(|a, b| match (self.row(*a), self.row(*b)) {
                (Some(a), Some(b)) => a.total_order(b, sort),
                _ => std::cmp::Ordering::Equal,
            });
        }
        Order { sort, view, slots }
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
}

/// Key of the order from which the page of a query is read. Only a set that does not contain all rows has views, in
/// orders other than the one by namespace and name.
fn order_key(query: &ListQuery, is_partial: bool) -> OrderKey<'_> {
    let set = match &query.namespaces {
        NamespaceScope::Set(set) if is_partial && query.sort.is_some() => Some(set),
        _ => None,
    };
    (query.sort, set)
}

/// Takes the page of the matching rows, and counts all matching rows.
fn paginate(parts: &[&[Slot]], query: &ListQuery, matches: impl Fn(Slot) -> bool) -> (Vec<Slot>, usize) {
    let (offset, limit) = (query.offset(), query.limit());
    let (mut page, mut total) = (Vec::with_capacity(limit.min(500)), 0);
    for part in parts {
        for slot in part.iter().copied().filter(|slot| matches(*slot)) {
            if total >= offset && page.len() < limit {
                page.push(slot);
            }
            total += 1;
        }
    }
    (page, total)
}

#[cfg(test)]
mod tests;
