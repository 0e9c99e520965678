//! Stored rows: one shared allocation per row.
//!
//! The list cache may hold a hundred thousand rows, so the keys of a row are packed behind its JSON. A key whose text
//! occurs literally in the JSON, as most do, is stored as an offset into it.

use std::{cmp::Ordering, fmt, sync::Arc};

use pilothouse_types::error::{Error, Result};
use serde::de::DeserializeOwned;

use super::{
    digest::{Digest, DigestKey},
    field::{Cell, ListRow},
    labels::{JsonLabels, json_labels},
    level::{Level, NextLevel},
    query::{ListQuery, Sort},
};

mod packed;

use packed::{DIGEST_BYTES, Keys, Packed, split, with_value};

/// A row: its JSON, serialised once, and its sort, filter and search keys. A clone shares the memory.
#[derive(Clone, PartialEq)]
pub struct Row {
    /// The JSON, its digest, then the keys in the order in which [`Row::of`] writes them (`row/packed.rs`).
    bytes: Arc<[u8]>,
}

/// Key of a stored row.
pub(super) type Key<'a> = Cell<&'a [u8]>;

/// Change of a stored row.
pub(super) struct Update {
    /// The new level, which has no next one.
    pub(super) level: Level,
    /// Field of the row's reason, if it is to become null.
    pub(super) cleared_reason: Option<usize>,
}

/// Number of keys before the fields: namespace, name, search text.
const FIRST_FIELD: usize = 3;

impl Row {
    /// Creates a stored row from a typed row.
    ///
    /// # Errors
    /// `Internal` if the row cannot be serialised.
    pub fn of<R: ListRow>(row: &R) -> Result<Self> {
        Self::of_with_key(row, DigestKey::shared())
    }

    /// As [`Row::of`], with a digest under the given key instead of the process's key.
    ///
    /// # Errors
    /// `Internal` if the row cannot be serialised.
    pub fn of_with_key<R: ListRow>(row: &R, key: &DigestKey) -> Result<Self> {
        let json =
            serde_json::to_vec(row).map_err(|error| Error::internal(format!("serialise a row: {error}")))?;
        let mut packed = Packed::new(json, key)?;

        let mut searched = row.name().to_lowercase();
        for text in row.search_terms() {
            searched.push('\n');
            searched.push_str(&text.to_lowercase());
        }
        packed.push_next(row.next_level());
        packed.push(row.namespace().map_or(Cell::Null, Cell::Text));
        packed.push(Cell::Text(row.name()));
        packed.push(Cell::Text(&searched));
        for field in R::FIELDS {
            let cell = field.cell(row);
            packed.push(match &cell {
                Cell::Null => Cell::Null,
                Cell::Bool(value) => Cell::Bool(*value),
                Cell::Number(value) => Cell::Number(*value),
                Cell::Text(text) => Cell::Text(text),
                Cell::Level(level) => Cell::Level(*level),
            });
        }
        Ok(Self::from(packed))
    }

    /// The row after a change of its level.
    pub(super) fn updated(&self, update: &Update) -> Self {
        let mut json = with_value(self.json(), "level", &format!("\"{}\"", update.level.as_str()));
        if update.cleared_reason.is_some() {
            json = with_value(&json, "reason", "null");
        }
        // the JSON was shorter than 4 GiB, and its new values are as short as the old ones
        let Ok(mut packed) = Packed::new(json.into_bytes(), DigestKey::shared()) else { return self.clone() };
        for (index, key) in self.keys().enumerate() {
            let field = index.checked_sub(FIRST_FIELD);
            packed.push(match key {
                _ if field.is_some() && field == update.cleared_reason => Cell::Null,
                Cell::Level(_) => Cell::Level(update.level),
                Cell::Text(text) => Cell::Text(std::str::from_utf8(text).unwrap_or_default()),
                Cell::Number(value) => Cell::Number(value),
                Cell::Bool(value) => Cell::Bool(value),
                Cell::Null => Cell::Null,
            });
        }
        packed.into()
    }

    /// The change of the level that comes with age.
    pub fn next_level(&self) -> Option<NextLevel> {
        Keys::of(&self.bytes).0
    }

    /// The labels of the object, from the JSON.
    pub fn labels(&self) -> JsonLabels<'_> {
        json_labels(self.bytes())
    }

    /// The name.
    pub fn name(&self) -> &str {
        text(self.column(1)).unwrap_or_default()
    }

    /// The namespace, if any.
    pub fn namespace(&self) -> Option<&str> {
        text(self.column(0))
    }

    /// The row as JSON text.
    pub fn json(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// The row as JSON bytes, for the response body; not checked for UTF-8 again.
    pub fn bytes(&self) -> &[u8] {
        split(&self.bytes).0
    }

    /// Deserialises the row into its type, or into any type with a subset of its fields.
    ///
    /// # Errors
    /// `Internal` if the row does not have that shape.
    pub fn parse<R: DeserializeOwned>(&self) -> Result<R> {
        serde_json::from_slice(self.bytes())
            .map_err(|error| Error::internal(format!("deserialise a row: {error}")))
    }

    /// Digest of the JSON, under the key with which the row was created. Rows with equal digests have equal JSON.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(&split(&self.bytes).1[..DIGEST_BYTES]);
        digest
    }

    /// Memory of the row in bytes: the shared allocation and its reference counts.
    pub fn size(&self) -> usize {
        self.bytes.len() + 2 * size_of::<usize>()
    }

    /// The text that `search` covers, in lower case.
    pub(super) fn searched(&self) -> &[u8] {
        bytes(self.column(2)).unwrap_or_default()
    }

    /// The value of a field, by its index.
    pub(super) fn cell(&self, field: usize) -> Key<'_> {
        self.column(FIRST_FIELD + field)
    }

    /// The value of a text field, by its index among the fields of its type; `None` for other types.
    pub fn text(&self, field: usize) -> Option<&str> {
        text(self.cell(field))
    }

    /// The value of a number field; `None` for other types.
    pub fn number(&self, field: usize) -> Option<f64> {
        match self.cell(field) {
            Cell::Number(number) => Some(number),
            _ => None,
        }
    }

    /// The value of a level field; `None` for other types.
    pub fn level(&self, field: usize) -> Option<Level> {
        match self.cell(field) {
            Cell::Level(level) => Some(level),
            _ => None,
        }
    }

    /// Namespace and name.
    pub(super) fn key(&self) -> (Option<&[u8]>, &[u8]) {
        let mut keys = self.keys();
        let namespace = keys.next().and_then(bytes);
        (namespace, keys.next().and_then(bytes).unwrap_or_default())
    }

    /// Whether the row matches a query.
    pub fn matches(&self, query: &ListQuery) -> bool {
        query.namespaces.contains(self.namespace())
            && query.search.as_deref().is_none_or(|search| {
                let searched = std::str::from_utf8(self.searched()).unwrap_or_default();
                searched.contains(search)
            })
            && query.filters.iter().all(|(field, values)| {
                let cell = self.cell(*field);
                values.iter().any(|value| cell.matches(value))
            })
            && query.labels.as_ref().is_none_or(|selector| selector.matches(&self.labels()))
    }

    /// The documented order of a list: by a field, then by namespace and name.
    pub fn order(&self, other: &Self, sort: Option<Sort>) -> Ordering {
        let by_field = sort.map_or(Ordering::Equal, |Sort { field, descending }| {
            self.cell(field).order(&other.cell(field), descending)
        });
        by_field.then_with(|| self.key().cmp(&other.key()))
    }

    /// As [`Row::order`], for rows of two lists, each of which has the field at its own index. The value of a row whose
    /// list does not have the field is unknown.
    pub fn order_across(&self, sort: Option<Sort>, other: &Self, other_sort: Option<Sort>) -> Ordering {
        let [own, others] = [(self, sort), (other, other_sort)]
            .map(|(row, sort)| sort.map_or(Cell::Null, |sort| row.cell(sort.field)));
        let descending = sort.or(other_sort).is_some_and(|sort| sort.descending);
        own.order(&others, descending).then_with(|| self.key().cmp(&other.key()))
    }

    /// As `order`, but total: rows with the same namespace and name (addresses of one EndpointSlice, workloads of two
    /// types) are ordered by their JSON, then by their keys.
    pub fn total_order(&self, other: &Self, sort: Option<Sort>) -> Ordering {
        self.order(other, sort).then_with(|| self.bytes.cmp(&other.bytes))
    }

    fn keys(&self) -> Keys<'_> {
        Keys::of(&self.bytes).1
    }

    /// Key at an index: those before [`FIRST_FIELD`], then the fields.
    fn column(&self, index: usize) -> Key<'_> {
        self.keys().nth(index).unwrap_or(Cell::Null)
    }
}

impl From<Packed> for Row {
    fn from(packed: Packed) -> Self {
        Self { bytes: packed.finish() }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Row").field(&self.json()).finish()
    }
}

/// Bytes of a text key; `None` for other types.
fn bytes(key: Key<'_>) -> Option<&[u8]> {
    match key {
        Cell::Text(text) => Some(text),
        _ => None,
    }
}

/// Text of a text key; `None` for other types.
fn text(key: Key<'_>) -> Option<&str> {
    bytes(key).and_then(|text| std::str::from_utf8(text).ok())
}
