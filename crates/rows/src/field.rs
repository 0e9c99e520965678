//! Field declarations of row types: how fields sort, filter, are searched and counted.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Serialize;

use super::level::{Level, NextLevel};

/// Sort and filter value of a field. `T` is the text: owned in a row type, borrowed bytes in a stored row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<T = Box<str>> {
    /// Unknown value. Sorts last in both directions.
    Null,
    /// Boolean. False sorts before true.
    Bool(bool),
    /// Number, sorted by value. Quantities are in their base unit, times in microseconds since the Unix epoch.
    Number(f64),
    /// Text, sorted by code point, which in UTF-8 is byte order.
    Text(T),
    /// Level, sorted by urgency, filtered by name.
    Level(Level),
}

impl Cell {
    /// Creates a text cell.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self::Text(text.into())
    }
}

impl<T: AsRef<[u8]>> Cell<T> {
    /// Whether the value equals a filter value. A number equals every text that parses to it.
    pub(super) fn matches(&self, filter: &str) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => filter == bool_text(*value),
            Self::Number(value) => filter.parse::<f64>().is_ok_and(|filter| filter == *value),
            Self::Text(text) => text.as_ref() == filter.as_bytes(),
            Self::Level(level) => level.as_str() == filter,
        }
    }

    /// Compares two values. Null sorts last in both directions.
    pub(super) fn order(&self, other: &Self, descending: bool) -> Ordering {
        let ascending = match (self, other) {
            (Self::Null, Self::Null) => return Ordering::Equal,
            (Self::Null, _) => return Ordering::Greater,
            (_, Self::Null) => return Ordering::Less,
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.as_ref().cmp(b.as_ref()),
            (Self::Level(a), Self::Level(b)) => a.cmp(b),
            // all values of a field have one type; mixed types keep their order
            _ => Ordering::Equal,
        };
        if descending { ascending.reverse() } else { ascending }
    }
}

/// Filter value of a boolean.
pub(super) const fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

impl From<Level> for Cell {
    fn from(level: Level) -> Self {
        Self::Level(level)
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

/// The values that a filter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// No filter on this field.
    None,
    /// Any text, compared exactly.
    Any,
    /// A whole number.
    Number,
    /// A kind or type and a name, separated by a slash: `Pod/web-1`.
    Reference,
    /// One of these values. Any other value is refused.
    OneOf(&'static [&'static str]),
    /// Not a query parameter. Pilothouse itself filters by the field, for example by the owner of a list.
    Internal,
}

impl Filter {
    /// Whether the field is a query parameter.
    pub const fn is_parameter(self) -> bool {
        !matches!(self, Self::None | Self::Internal)
    }
}

/// Declaration of a row's field: its value, and how it sorts and filters.
pub struct Field<R: ?Sized> {
    name: &'static str,
    cell: fn(&R) -> Cell,
    sorts: bool,
    filter: Filter,
    counted: bool,
    late: bool,
}

impl<R> Field<R> {
    /// Declares a field that can be sorted by.
    pub const fn new(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { name, cell, sorts: true, filter: Filter::None, counted: false, late: false }
    }

    /// Name of the field in the row.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Value of the field in a row.
    pub fn cell(&self, row: &R) -> Cell {
        (self.cell)(row)
    }

    /// Declares a filter by another object. The field is not a scalar of the row and cannot be sorted by.
    pub const fn filter_only(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { sorts: false, filter: Filter::Reference, ..Self::new(name, cell) }
    }

    /// Declares a field that can be sorted and filtered by.
    pub const fn filtered(name: &'static str, filter: Filter, cell: fn(&R) -> Cell) -> Self {
        Self { filter, ..Self::new(name, cell) }
    }

    /// Declares an internal key that is not visible to callers and not a query parameter.
    pub const fn internal(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { sorts: false, filter: Filter::Internal, ..Self::new(name, cell) }
    }

    /// Declares a value that is not stored in the row and is known only when a page of one cluster is read. Its stored
    /// value is null. Pages can be sorted by it, search results cannot.
    pub const fn late(name: &'static str) -> Self {
        Self { late: true, ..Self::new(name, |_| Cell::Null) }
    }

    /// Declares a value that is stored with the row and not visible to callers: it neither sorts nor filters
    /// ([`super::Row::text`]).
    pub const fn hidden(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { sorts: false, ..Self::new(name, cell) }
    }

    /// Counts rows by the values of this field ([`super::Table::tally`]).
    pub const fn counted(self) -> Self {
        Self { counted: true, ..self }
    }
}

/// Declaration of a field without its row type.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Name of the field in the row, and of the query parameter.
    pub name: &'static str,
    /// Whether `sort` accepts the field.
    pub sorts: bool,
    /// The values that the query parameter accepts.
    pub filter: Filter,
    /// Whether rows are counted by the values of the field.
    pub counted: bool,
    /// Whether the value is known only when a page is read ([`Field::late`]).
    pub late: bool,
}

/// Row type of a list.
pub trait ListRow: Serialize + Sized + 'static {
    /// Declarations of the fields.
    const FIELDS: &'static [Field<Self>];

    /// The name. Rows are sorted by it, and `search` covers it.
    fn name(&self) -> &str;

    /// The namespace; `None` for rows without namespaces.
    fn namespace(&self) -> Option<&str>;

    /// Texts that `search` covers besides the name.
    fn search_terms(&self) -> Vec<&str> {
        Vec::new()
    }

    /// The change of the row's level that comes with age. In the JSON of a row that has one, `level` and `reason` precede
    /// every map of the cluster's own keys, such as `labels`.
    fn next_level(&self) -> Option<NextLevel> {
        None
    }
}

/// The fields of a row type.
pub fn fields_of<R: ListRow>() -> Vec<FieldInfo> {
    R::FIELDS
        .iter()
        .map(|&Field { name, sorts, filter, counted, late, .. }| FieldInfo {
            name,
            sorts,
            filter,
            counted,
            late,
        })
        .collect()
}
