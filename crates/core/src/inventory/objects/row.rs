//! Rows of objects of any kind: the columns that the API server prints, and the cells of each object.
//!
//! A server prints ages as they are at that moment. A cached row therefore holds the time instead, exact where the age is
//! that of the object and otherwise estimated from the text, and is printed again whenever it is shown.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::age;
use crate::{
    error::Result,
    hex::Hex,
    kind::Kind,
    object::{Labels, Metadata, or_default, parse},
    rows::{Cell, Digest, Field, ListRow, Row},
};

/// Number of columns by which rows can be sorted.
pub(crate) const SORTED_COLUMNS: usize = 24;
/// Tolerance, in seconds, within which a printed age is that of the object: the time from printing to arrival, and the
/// difference of the clocks.
const CLOCK_TOLERANCE: i64 = 5;
/// Member of a stored cell that holds a time instead of its printed age.
const TIME: &str = "time";

/// A column of a list, as the cluster declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Column {
    /// Its name: `Ready`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Type of its cells: `string`, `integer`, `number`, `boolean` or `date`.
    #[serde(default, deserialize_with = "or_default")]
    pub r#type: String,
    /// 0 for a column that is always shown; kubectl shows higher ones with `-o wide` only.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: i64,
}

/// Columns of kinds of Kubernetes whose type is `string` although their cells are ages.
const AGE_COLUMNS: [&str; 4] = ["Age", "Last Seen", "First Seen", "Last Schedule"];

impl Column {
    /// The columns of a server that does not print the kind.
    pub fn of_unprinted() -> Vec<Self> {
        let column =
            |name: &str, r#type: &str| Self { name: name.to_owned(), r#type: r#type.to_owned(), priority: 0 };
        vec![column("Name", "string"), column("Age", "date")]
    }

    /// A cell as stored: the time of an age, and any other cell as it is.
    fn stored(&self, cell: Value, created_at: Option<Timestamp>, now: Timestamp) -> Value {
        match cell.as_str().filter(|_| self.is_age()).and_then(|text| time_of(text, created_at, now)) {
            Some(time) => stored_time(time),
            None => cell,
        }
    }

    /// Whether cells of the column are ages.
    fn is_age(&self) -> bool {
        self.r#type == "date" || (self.r#type == "string" && AGE_COLUMNS.contains(&&*self.name))
    }
}

/// An object of any kind, as shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObjectRow {
    /// Its name.
    pub name: String,
    /// Its namespace; null if its kind has no namespaces.
    pub namespace: Option<String>,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// What the cluster prints, one cell for each column: a text, number, boolean or null. Ages are those of the moment
    /// of the response.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<Value>))]
    pub cells: Vec<Value>,
    /// The namespace whose right includes the row: of a `Namespace` its own name.
    #[serde(skip)]
    scope: Option<String>,
    /// Digest of the stored row, in hexadecimal: it stays the same while only ages change.
    #[serde(skip)]
    stored: String,
}

impl ListRow for ObjectRow {
    /// Rows are shown in the order of [`StoredObject`].
    const FIELDS: &'static [Field<Self>] = &[Field::hidden("stored", |row| Cell::text(&*row.stored))];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        self.scope.as_deref()
    }
}

/// Row of the list cache: as [`ObjectRow`], but with times instead of printed ages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoredObject {
    name: String,
    namespace: Option<String>,
    uid: String,
    labels: Labels,
    created_at: Option<Timestamp>,
    cells: Vec<Value>,
    /// Sort keys of the cells.
    #[serde(skip)]
    keys: Vec<Cell>,
    /// The namespace whose right includes the row: of a `Namespace` its own name.
    #[serde(skip)]
    scope: Option<String>,
}

/// A row of a table, or an object if the server does not print its kind.
#[derive(Deserialize)]
struct TableRow {
    cells: Option<Vec<Value>>,
    object: Option<WithMetadata>,
    #[serde(default, deserialize_with = "or_default")]
    metadata: Metadata,
}

#[derive(Deserialize)]
struct WithMetadata {
    #[serde(default, deserialize_with = "or_default")]
    metadata: Metadata,
}

impl StoredObject {
    /// Projects a row of a table with these columns, received at `now`; or an object, if the server does not print its
    /// kind.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the JSON is neither.
    pub fn project(kind: Kind, row: &RawValue, columns: &[Column], now: Timestamp) -> Result<Self> {
        let TableRow { cells, object, metadata } = parse(row)?;
        let metadata = object.map_or(metadata, |object| object.metadata);
        let created_at = metadata.creation_timestamp;
        let mut cells: Vec<Value> = match cells {
            Some(printed) => printed
                .into_iter()
                .zip(columns)
                .map(|(cell, column)| column.stored(cell, created_at, now))
                .collect(),
            // the columns are those of `Column::of_unprinted`
            None => vec![Value::from(&*metadata.name), created_at.map_or(Value::Null, stored_time)],
        };
        cells.resize(columns.len(), Value::Null);
        let keys = cells
            .iter()
            .zip(columns)
            .take(SORTED_COLUMNS)
            .map(|(cell, column)| sort_key(cell, column))
            .collect();
        let scope = scope(kind, &metadata.name, metadata.namespace.as_ref());
        Ok(Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            labels: metadata.labels,
            created_at,
            cells,
            keys,
            scope,
        })
    }

    /// The row of an object of this kind as shown at `now`.
    pub fn shown(self, kind: Kind, columns: &[Column], now: Timestamp) -> ObjectRow {
        let Self { name, namespace, uid, labels, created_at, mut cells, .. } = self;
        for (cell, _) in cells.iter_mut().zip(columns).filter(|(_, column)| column.is_age()) {
            if let Some(time) = time_in(cell) {
                *cell = age::print(time, now).into();
            }
        }
        let scope = scope(kind, &name, namespace.as_ref());
        ObjectRow { name, namespace, uid, labels, created_at, cells, scope, stored: String::new() }
    }

    /// Sort key of a cell.
    fn key(&self, column: usize) -> Cell {
        self.keys.get(column).cloned().unwrap_or(Cell::Null)
    }
}

/// A cached row of an object of this kind as shown at `now`.
///
/// # Errors
/// `Internal` if the row is not a [`StoredObject`].
pub fn shown(row: &Row, kind: Kind, columns: &[Column], now: Timestamp) -> Result<Row> {
    let stored = Hex(row.digest()).to_string();
    Row::of(&ObjectRow { stored, ..row.parse::<StoredObject>()?.shown(kind, columns, now) })
}

/// Digest of a row made by [`shown`], which is the same for rows that differ only in how much time has passed.
pub(crate) fn digest_without_ages(row: &Row) -> Digest {
    let stored: Option<Hex<16>> = row.text(0).and_then(|stored| stored.parse().ok());
    stored.map_or_else(|| row.digest(), |Hex(digest)| digest)
}

/// The namespace whose right includes an object.
fn scope(kind: Kind, name: &str, namespace: Option<&String>) -> Option<String> {
    if kind == Kind::Namespace { Some(name.to_owned()) } else { namespace.cloned() }
}

/// The stored form of a time.
fn stored_time(time: Timestamp) -> Value {
    json!({TIME: time})
}

/// The time of a cell that is stored as a time.
fn time_in(cell: &Value) -> Option<Timestamp> {
    cell.get(TIME)?.as_str()?.parse().ok()
}

/// The time of what has this printed age at `now`; `None` if the text is no age.
fn time_of(text: &str, created_at: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let seconds = age::parse(text)?;
    let is_of_object = |created: &Timestamp| {
        (-CLOCK_TOLERANCE..=CLOCK_TOLERANCE).any(|offset| age::print(*created, later(now, offset)) == text)
    };
    // otherwise an estimate: the text leaves out what is smaller than its last unit
    Some(created_at.filter(is_of_object).unwrap_or_else(|| later(now, -seconds)))
}

/// A time some seconds later, without fractions of a second; the time itself if that is out of range.
fn later(time: Timestamp, seconds: i64) -> Timestamp {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    whole.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(whole)
}

/// Sort key of a stored cell, of one type for all cells of a column. An age sorts by its length.
fn sort_key(cell: &Value, column: &Column) -> Cell {
    if column.is_age() {
        return time_in(cell).map_or(Cell::Null, |time| Cell::from(-time.as_second()));
    }
    match (&*column.r#type, cell) {
        (_, Value::Null) => Cell::Null,
        ("integer" | "number", cell) => cell.as_f64().map_or(Cell::Null, Cell::Number),
        ("boolean", cell) => cell.as_bool().map_or(Cell::Null, Cell::Bool),
        (_, Value::String(text)) => Cell::text(&**text),
        (_, cell) => Cell::text(cell.to_string()),
    }
}

/// The fields of a row: those of its metadata, and [`SORTED_COLUMNS`] cells.
macro_rules! fields {
    ($($column:literal)*) => {
        &[
            Field::new("name", |row| Cell::text(&*row.name)),
            Field::new("namespace", |row| Cell::from(&row.namespace)),
            Field::new("created_at", |row| Cell::from(row.created_at)),
            $(Field::new(concat!("cell.", $column), |row| row.key($column)),)*
        ]
    };
}

impl ListRow for StoredObject {
    const FIELDS: &'static [Field<Self>] =
        fields!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        self.scope.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::rows::fields_of;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn column(name: &str, r#type: &str) -> Column {
        Column { name: name.to_owned(), r#type: r#type.to_owned(), priority: 0 }
    }

    fn project(kind: Kind, row: &Value, columns: &[Column]) -> StoredObject {
        let now = at("2026-03-01T12:00:00.75Z");
        StoredObject::project(kind, &to_raw_value(row).unwrap(), columns, now).unwrap()
    }

    #[test]
    fn ages_are_printed_anew_when_shown() {
        let columns = [
            column("Name", "string"),
            column("Last Schedule", "string"),
            column("Age", "string"),
            column("Due", "date"),
        ];
        let row = json!({
            "cells": ["tick", "90s", "3h", "<none>"],
            "object": {"kind": "PartialObjectMetadata", "metadata": {"name": "tick", "namespace": "shop", "uid": "u",
                "creationTimestamp": "2026-03-01T08:59:58Z", "labels": null,
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary"},
                "managedFields": [{"manager": "canary"}]}},
        });
        let stored = project(Kind::CronJob, &row, &columns);
        assert!(!serde_json::to_string(&stored).unwrap().contains("canary"));
        let cells = |now: &str| Value::from(stored.clone().shown(Kind::CronJob, &columns, at(now)).cells);
        assert_eq!(cells("2026-03-01T12:00:00Z"), json!(["tick", "90s", "3h", "<none>"]));
        assert_eq!(cells("2026-03-01T12:01:00Z"), json!(["tick", "2m30s", "3h1m", "<none>"]));
        // the age of the object is exact
        assert_eq!(cells("2026-03-01T12:00:57Z"), json!(["tick", "2m27s", "3h", "<none>"]));
        assert_eq!(cells("2026-03-01T12:00:58Z"), json!(["tick", "2m28s", "3h1m", "<none>"]));
    }

    #[test]
    fn same_object_is_the_same_row_whenever_it_was_printed() {
        let columns = [column("Name", "string"), column("Age", "string")];
        let stored = |age: &str, now: &str| {
            let row = json!({"cells": ["web", age], "object": {"metadata": {"name": "web", "creationTimestamp": "2026-03-01T10:00:00Z"}}});
            let stored = StoredObject::project(Kind::Pod, &to_raw_value(&row).unwrap(), &columns, at(now));
            Row::of(&stored.unwrap()).unwrap()
        };
        assert_eq!(stored("30s", "2026-03-01T10:00:31Z"), stored("120m", "2026-03-01T11:59:58Z"));
    }

    #[test]
    fn digest_without_ages_changes_with_the_object_only() {
        let columns = [column("Name", "string"), column("Ready", "string"), column("Age", "string")];
        let row = |ready: &str, now: &str| {
            let row = json!({"cells": ["web", ready, "30s"],
                "object": {"metadata": {"name": "web", "creationTimestamp": "2026-03-01T11:59:30Z"}}});
            let stored = Row::of(&project(Kind::Pod, &row, &columns)).unwrap();
            shown(&stored, Kind::Pod, &columns, at(now)).unwrap()
        };
        let [now, later, other] = [
            row("1/1", "2026-03-01T12:00:00Z"),
            row("1/1", "2026-03-01T12:00:40Z"),
            row("0/1", "2026-03-01T12:00:00Z"),
        ];
        assert_ne!(now.digest(), later.digest(), "an age is printed anew");
        assert_eq!(digest_without_ages(&now), digest_without_ages(&later));
        assert_ne!(digest_without_ages(&now), digest_without_ages(&other));
        assert!(!now.json().contains("stored"));
    }

    #[test]
    fn object_that_the_server_does_not_print_has_name_and_age() {
        let row = json!({"apiVersion": "example.org/v1", "kind": "Boat", "spec": {"secret": "canary"},
            "metadata": {"name": "ship", "creationTimestamp": "2026-03-01T11:59:00Z"}});
        let columns = Column::of_unprinted();
        let shown = project(Kind::Pod, &row, &columns).shown(Kind::Pod, &columns, at("2026-03-01T12:00:00Z"));
        assert_eq!(shown.cells, [json!("ship"), json!("60s")]);
        assert!(!serde_json::to_string(&shown).unwrap().contains("canary"));
    }

    #[test]
    fn cells_match_the_columns_whatever_the_server_sends() {
        let columns = [column("A", "string"), column("B", "integer")];
        for (cells, expected) in [
            (json!([]), json!([null, null])),
            (json!(["a"]), json!(["a", null])),
            (json!(["a", 1, "more"]), json!(["a", 1])),
            (json!([{"time": "2026-03-01T12:00:00Z"}, [1]]), json!([{"time": "2026-03-01T12:00:00Z"}, [1]])),
        ] {
            let row = json!({"cells": cells, "object": {"metadata": {"name": "x"}}});
            let shown = project(Kind::Pod, &row, &columns).shown(Kind::Pod, &columns, Timestamp::UNIX_EPOCH);
            assert_eq!(Value::from(shown.cells), expected);
        }
        let none = to_raw_value(&json!([1])).unwrap();
        assert!(StoredObject::project(Kind::Pod, &none, &columns, Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn cells_sort_by_the_type_of_their_column() {
        let columns = [
            column("Age", "date"),
            column("Number", "integer"),
            column("Flag", "boolean"),
            column("Text", "string"),
        ];
        let keys = |cells: Value| {
            let row = json!({"cells": cells, "object": {"metadata": {"name": "x"}}});
            project(Kind::Pod, &row, &columns).keys
        };
        let young = keys(json!(["10s", 2, false, "a"]));
        let old = keys(json!(["5d", 10, true, "b"]));
        for (a, b) in young.iter().zip(&old) {
            let order = match (a, b) {
                (Cell::Number(a), Cell::Number(b)) => a.total_cmp(b),
                (Cell::Bool(a), Cell::Bool(b)) => a.cmp(b),
                (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
                other => panic!("{other:?}"),
            };
            assert!(order.is_lt(), "{a:?} {b:?}");
        }
        // every key of a column has its type or is null
        assert!(keys(json!(["<none>", "many", "yes", null])).iter().all(|key| *key == Cell::Null));
        assert_eq!(keys(json!([null, null, null, 7]))[3], Cell::text("7"));
    }

    #[test]
    fn rows_of_namespaces_belong_to_themselves() {
        let columns = [column("Name", "string")];
        let row = json!({"cells": ["shop"], "object": {"metadata": {"name": "shop"}}});
        for (kind, expected) in [(Kind::Namespace, Some("shop")), (Kind::Node, None)] {
            let stored = Row::of(&project(kind, &row, &columns)).unwrap();
            let shown = shown(&stored, kind, &columns, Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!((stored.namespace(), shown.namespace()), (expected, expected), "{kind}");
            assert!(shown.json().contains(r#""namespace":null"#) && !shown.json().contains("scope"));
        }
    }

    #[test]
    fn every_sorted_column_is_a_field() {
        let fields = fields_of::<StoredObject>();
        let cells = fields.iter().filter(|field| field.sorts && field.name.starts_with("cell."));
        let names: Vec<_> = cells.map(|field| field.name.to_owned()).collect();
        assert_eq!(names, (0..SORTED_COLUMNS).map(|n| format!("cell.{n}")).collect::<Vec<_>>());
    }
}
