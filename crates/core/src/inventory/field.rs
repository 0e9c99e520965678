//! What a row type says of itself once: its fields, how they sort and filter, what it is found by and counted under.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde::Serialize;

/// The value of a field as it sorts and filters. `T` is the text: a row type makes its own, a stored row lends its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<T = Box<str>> {
    /// Unknown; sorts last in both directions.
    Null,
    /// False before true.
    Bool(bool),
    /// By value; quantities in their base unit, times in microseconds since 1970.
    Number(f64),
    /// By code point, which in UTF-8 is by byte.
    Text(T),
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<Box<str>>) -> Self {
        Self::Text(text.into())
    }
}

impl<T: AsRef<[u8]>> Cell<T> {
    /// The value as a filter compares it: numbers as written in JSON.
    pub(super) fn matches(&self, wanted: &str) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(value) => wanted == word(*value),
            Self::Number(value) => wanted.parse::<f64>().is_ok_and(|wanted| wanted == *value),
            Self::Text(text) => text.as_ref() == wanted.as_bytes(),
        }
    }

    /// Null last, whichever way the others go.
    pub(super) fn order(&self, other: &Self, descending: bool) -> Ordering {
        let ascending = match (self, other) {
            (Self::Null, Self::Null) => return Ordering::Equal,
            (Self::Null, _) => return Ordering::Greater,
            (_, Self::Null) => return Ordering::Less,
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.as_ref().cmp(b.as_ref()),
            // a field has one type; mixed ones keep their order
            _ => Ordering::Equal,
        };
        if descending { ascending.reverse() } else { ascending }
    }
}

/// How a filter writes a truth value.
pub(super) const fn word(value: bool) -> &'static str {
    if value { "true" } else { "false" }
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
    /// No parameter of a query: the product itself filters by it, such as by the owner of a list.
    Ours,
}

impl Filter {
    /// Whether the field is a query parameter.
    pub const fn is_parameter(self) -> bool {
        !matches!(self, Self::None | Self::Ours)
    }
}

/// A field of a row: how it sorts and filters.
pub struct Field<R: ?Sized> {
    name: &'static str,
    cell: fn(&R) -> Cell,
    sorts: bool,
    filter: Filter,
    counted: bool,
}

impl<R> Field<R> {
    /// A field that sorts.
    pub const fn new(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { name, cell, sorts: true, filter: Filter::None, counted: false }
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
        Self { sorts: false, filter: Filter::Reference, ..Self::new(name, cell) }
    }

    /// A field that sorts and filters.
    pub const fn filtered(name: &'static str, filter: Filter, cell: fn(&R) -> Cell) -> Self {
        Self { filter, ..Self::new(name, cell) }
    }

    /// A key that callers neither see nor name.
    pub const fn ours(name: &'static str, cell: fn(&R) -> Cell) -> Self {
        Self { sorts: false, filter: Filter::Ours, ..Self::new(name, cell) }
    }

    /// Rows are counted by its values as they come and go ([`super::Table::tally`]).
    pub const fn counted(self) -> Self {
        Self { counted: true, ..self }
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
    /// Whether rows are counted by its values.
    pub counted: bool,
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
    fn search_terms(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The fields of a row type, for [`super::ListInfo::fields`].
pub fn fields_of<R: ListRow>() -> Vec<FieldInfo> {
    R::FIELDS
        .iter()
        .map(|&Field { name, sorts, filter, counted, .. }| FieldInfo { name, sorts, filter, counted })
        .collect()
}
