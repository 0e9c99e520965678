//! Every list of the product: which there are, what a row is, how a query reads, and the plain way to answer one.
//!
//! A row type says once how its fields sort and filter ([`ListRow::FIELDS`]); routes, documentation, access rules and
//! matrix tests loop over [`LISTS`]. [`select`] is the reference implementation of a query: the one used today, and
//! the oracle of every faster index.

use std::{cmp::Ordering, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    access::{Access, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    error::{Error, Result},
    gate::{Gate, Warning},
    kind::Kind,
};

mod lists;
mod query;

pub use lists::{LISTS, List, ListInfo, ListScope, Owner, Project, Related};
pub(crate) use query::number;
pub use query::{ListQuery, Sort};

/// The value of a field as it sorts and filters.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Unknown; sorts last in both directions.
    Null,
    /// False before true.
    Bool(bool),
    /// By value; quantities in their base unit, times in microseconds since 1970.
    Number(f64),
    /// By code point.
    Text(Box<str>),
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self::Text(text.into())
    }

    /// The value as a filter compares it: numbers as written in JSON.
    fn matches(&self, wanted: &str) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => wanted == if *value { "true" } else { "false" },
            Self::Number(value) => wanted.parse::<f64>().is_ok_and(|wanted| wanted == *value),
            Self::Text(text) => **text == *wanted,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            // a field has one type; mixed ones keep their order
            _ => Ordering::Equal,
        }
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Cell {
    #[allow(clippy::cast_precision_loss, reason = "ids, counts and bytes stay below 2^53")]
    fn from(value: i64) -> Self {
        Self::Number(value as f64)
    }
}

impl From<Timestamp> for Cell {
    fn from(time: Timestamp) -> Self {
        Self::from(time.as_microsecond())
    }
}

impl<T> From<Option<T>> for Cell
where
    Self: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Self::from)
    }
}

impl From<&Option<String>> for Cell {
    fn from(value: &Option<String>) -> Self {
        value.as_deref().map_or(Self::Null, Self::text)
    }
}

/// Which values a filter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// No filter on this field.
    None,
    /// Any text, compared exactly.
    Any,
    /// A whole number.
    Number,
    /// A kind or type and a name, joined by a slash: `Pod/web-1`.
    Reference,
    /// One of these, anything else is refused.
    OneOf(&'static [&'static str]),
}

/// A field of a row: how it sorts and filters.
pub struct Field<R: ?Sized> {
    name: &'static str,
    cell: fn(&R) -> Cell,
    sorts: bool,
    filter: Filter,
}

impl<R> Field<R> {
    /// A field that sorts.
    pub const fn new(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { name, cell, sorts: true, filter: Filter::None }
    }

    /// Its name in the row.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its value in a row.
    pub fn cell(&self, row: &R) -> Cell {
        (self.cell)(row)
    }

    /// A filter by another object, which is no scalar field of the row, so nothing sorts by it.
    pub const fn filter_only(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { name, cell, sorts: false, filter: Filter::Reference }
    }

    /// A field that sorts and filters.
    pub const fn filtered(name: &'static str, filter: Filter, cell: fn(&R) -> Cell) -> Self {
        Self { name, cell, sorts: true, filter }
    }
}

/// A field without its row type, as the table of lists shows it.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Its name in the row and as a query parameter.
    pub name: &'static str,
    /// Whether `sort` takes it.
    pub sorts: bool,
    /// Which values the query parameter takes.
    pub filter: Filter,
}

/// What a list is made of.
pub trait ListRow: Serialize + Sized + 'static {
    /// Its scalar fields.
    const FIELDS: &'static [Field<Self>];

    /// The name, which sorts and is searched.
    fn name(&self) -> &str;

    /// The namespace, where it has one.
    fn namespace(&self) -> Option<&str>;

    /// What `search` looks through, besides the name.
    fn also_searched(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The fields of a row type, for [`ListInfo::fields`].
pub fn fields_of<R: ListRow>() -> Vec<FieldInfo> {
    R::FIELDS
        .iter()
        .map(|field| FieldInfo { name: field.name, sorts: field.sorts, filter: field.filter })
        .collect()
}

/// A row as a list keeps it: serialised once, its sort and filter keys beside it.
#[derive(Clone, Debug)]
pub struct Row {
    namespace: Option<Box<str>>,
    name: Box<str>,
    /// Folded for search.
    searched: Box<str>,
    cells: Box<[Cell]>,
    json: Arc<RawValue>,
}

impl Row {
    /// Projects a typed row.
    ///
    /// # Errors
    /// `Internal`, should it not serialise.
    pub fn of<R: ListRow>(row: &R) -> Result<Self> {
        let json =
            serde_json::value::to_raw_value(row).map_err(|error| Error::internal(format!("row: {error}")))?;
        let mut searched = row.name().to_lowercase();
        for text in row.also_searched() {
            searched.push('\n');
            searched.push_str(&text.to_lowercase());
        }
        Ok(Self {
            namespace: row.namespace().map(Into::into),
            name: row.name().into(),
            searched: searched.into(),
            cells: R::FIELDS.iter().map(|field| (field.cell)(row)).collect(),
            json: json.into(),
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace, where it has one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The row as JSON.
    pub fn json(&self) -> &RawValue {
        &self.json
    }

    /// The row as its type, or as any other that has some of its fields.
    ///
    /// # Errors
    /// `Internal` when it is a row of something else.
    pub fn parse<R: DeserializeOwned>(&self) -> Result<R> {
        serde_json::from_str(self.json.get()).map_err(|error| Error::internal(format!("row: {error}")))
    }

    fn matches(&self, query: &ListQuery) -> bool {
        query.namespaces.covers(self.namespace())
            && query.search.as_deref().is_none_or(|search| self.searched.contains(search))
            && query.filters.iter().all(|(field, wanted)| self.cells[*field].matches(wanted))
    }

    fn order(&self, other: &Self, sort: Option<Sort>) -> Ordering {
        let by_field = sort.map_or(Ordering::Equal, |Sort { field, descending }| {
            match (&self.cells[field], &other.cells[field]) {
                (Cell::Null, Cell::Null) => Ordering::Equal,
                (Cell::Null, _) => Ordering::Greater,
                (_, Cell::Null) => Ordering::Less,
                (a, b) if descending => b.order(a),
                (a, b) => a.order(b),
            }
        });
        by_field.then_with(|| (&self.namespace, &self.name).cmp(&(&other.namespace, &other.name)))
    }
}

/// A page's place among all rows that match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// The page asked for, from 1.
    pub page: u64,
    /// Rows a page.
    pub per_page: u64,
    /// Rows that match.
    pub total: u64,
    /// ⌈total / per_page⌉, 0 when nothing matches.
    pub pages: u64,
}

impl Pagination {
    /// The place of the page that `query` asks for among `total` rows.
    pub fn of(query: &ListQuery, total: u64) -> Self {
        let ListQuery { page, per_page, .. } = *query;
        Self { page, per_page, total, pages: total.div_ceil(per_page) }
    }
}

/// The reference implementation of a query: filter, sort, count, cut. Any order of `rows` gives the same page.
pub fn select(mut rows: Vec<Row>, query: &ListQuery) -> (Vec<Row>, Pagination) {
    rows.retain(|row| row.matches(query));
    rows.sort_by(|a, b| a.order(b, query.sort));
    let pagination = Pagination::of(query, rows.len() as u64);
    let page = rows.into_iter().skip(query.offset()).take(query.limit()).collect();
    (page, pagination)
}

/// A page of any list of Kubernetes objects.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The rows of the page.
    pub rows: Vec<Row>,
    /// Where they stand.
    pub pagination: Pagination,
    /// When the data was known to be current.
    pub as_of: Timestamp,
    /// Whether the cluster could not be asked since.
    pub stale: bool,
    /// What the reader should know.
    pub warnings: Vec<Warning>,
}

/// Lists of a cluster's objects.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Inventory: Send + Sync {
    /// A page of `list` in the permit's cluster. A list read after a change through the same process shows it.
    ///
    /// # Errors
    /// Of code `ConnectionError`, `TimeoutError`, `RateLimited`, or `ForbiddenByCluster`; `NotFoundInCluster` when the
    /// list is of one owner's objects ([`ListInfo::owner`]) and there is no such owner.
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing>;
}

/// Shows the lists of a cluster's objects.
#[derive(Clone)]
pub struct Lists {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
}

impl Lists {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, inventory: Arc<dyn Inventory>) -> Self {
        Self { gate, inventory }
    }

    /// A page of `list` in `cluster`.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; else as [`Inventory::page`].
    pub async fn page(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        list: List,
        query: &ListQuery,
    ) -> Result<Listing> {
        let kind = list.info().kinds.first().copied().unwrap_or(Kind::Namespace);
        let access =
            Access::to(Verb::List, Resource::Kind(kind)).in_cluster(cluster).within(query.namespaces.clone());
        let permit = self.gate.allow(caller, access).await?;
        self.inventory.page(&permit, list, query).await
    }
}

#[cfg(test)]
mod tests;
