//! Projection of the objects of a list to rows: by the function of the list, or from the table that the API server prints.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use pilothouse_core::{
    Cause, Error, Result,
    clock::Clock,
    inventory::{
        List, ListEvent, ListInfo, Project,
        objects::{Column, StoredObject, shown},
    },
    kind::Kind,
    rows::{Change, Row},
};
use serde_json::value::RawValue;

use crate::request::Format;

/// Projection of the objects of one list.
#[derive(Clone)]
pub(crate) enum Projection {
    /// The function of the list.
    Objects(Project),
    /// The rows of a printed table.
    Printed(Arc<Printed>),
}

impl Projection {
    /// The projection of a list of these kinds.
    ///
    /// # Errors
    /// `Internal` when the list is not a list of cluster objects, or is of objects of any kind but not of one.
    pub(crate) fn new(info: &ListInfo, kinds: &[Kind], clock: &Arc<dyn Clock>) -> Result<Self> {
        match (info.list, kinds) {
            (List::Objects, [kind]) => Ok(Self::Printed(Arc::new(Printed::new(*kind, clock.clone())))),
            _ => Self::of_objects(info),
        }
    }

    /// The projection by the function of a list.
    ///
    /// # Errors
    /// `Internal` when the list has none.
    pub(crate) fn of_objects(info: &ListInfo) -> Result<Self> {
        let project = info.project;
        project
            .map(Self::Objects)
            .ok_or_else(|| Error::internal("this list is not a list of cluster objects"))
    }

    /// The rows of an object, or of a row of a table.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when the JSON is none.
    pub(crate) fn rows(&self, kind: Kind, object: &RawValue) -> Result<Vec<Row>> {
        match self {
            Self::Objects(project) => project(kind, object),
            Self::Printed(printed) => printed.rows(object),
        }
    }

    /// The printed table, if the rows are those of one.
    pub(crate) fn printed(&self) -> Option<&Arc<Printed>> {
        match self {
            Self::Objects(_) => None,
            Self::Printed(printed) => Some(printed),
        }
    }

    /// The representation to request.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Objects(_) => Format::Objects,
            Self::Printed(_) => Format::Table,
        }
    }

    /// The columns of the rows; none of a list whose rows have fields of their own.
    pub(crate) fn columns(&self) -> Arc<[Column]> {
        self.printed().map_or_else(|| Arc::from([]), |printed| printed.columns())
    }

    /// Stored rows as they are shown now.
    ///
    /// # Errors
    /// `Internal` when the rows are not those of the list.
    pub(crate) fn shown(&self, rows: Vec<Row>) -> Result<Vec<Row>> {
        match self {
            Self::Objects(_) => Ok(rows),
            Self::Printed(printed) => rows.iter().map(|row| printed.shown(row)).collect(),
        }
    }

    /// A stored row of the list as it is shown now.
    pub(crate) fn shown_row(&self, row: Row) -> Row {
        match self {
            Self::Objects(_) => row,
            Self::Printed(printed) => printed.shown_row(&row),
        }
    }

    /// An event with its rows as they are shown now.
    pub(crate) fn shown_event(&self, event: ListEvent) -> ListEvent {
        match (self, event) {
            (Self::Printed(printed), ListEvent::Changes(changes)) => {
                ListEvent::Changes(changes.iter().map(|change| printed.shown_change(change)).collect())
            }
            (_, event) => event,
        }
    }
}

/// Printed table of one kind, with the columns that its first response declares.
pub(crate) struct Printed {
    kind: Kind,
    clock: Arc<dyn Clock>,
    columns: OnceLock<Arc<[Column]>>,
    changed: AtomicBool,
}

impl Printed {
    fn new(kind: Kind, clock: Arc<dyn Clock>) -> Self {
        Self { kind, clock, columns: OnceLock::new(), changed: AtomicBool::new(false) }
    }

    /// Sets the columns of the rows that follow.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when earlier rows have other columns, because the definition of the kind was changed. The rows
    /// then have to be read anew, into another list: [`Printed::is_changed`].
    pub(crate) fn declare(&self, columns: Vec<Column>) -> Result<()> {
        let declared = self.columns.get_or_init(|| columns.clone().into());
        if **declared == *columns {
            return Ok(());
        }
        self.changed.store(true, Ordering::Relaxed);
        Err(Error::new(Cause::UnexpectedAnswer).read_only())
    }

    /// Whether other columns were declared after the first ones.
    pub(crate) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn columns(&self) -> Arc<[Column]> {
        self.columns.get().cloned().unwrap_or_else(|| Column::of_unprinted().into())
    }

    fn rows(&self, row: &RawValue) -> Result<Vec<Row>> {
        let stored = StoredObject::project(self.kind, row, &self.columns(), self.clock.now())?;
        Ok(vec![Row::of(&stored)?])
    }

    fn shown(&self, row: &Row) -> Result<Row> {
        shown(row, self.kind, &self.columns(), self.clock.now())
    }

    fn shown_row(&self, row: &Row) -> Row {
        // rows of the table can be shown, because it has stored them
        self.shown(row).unwrap_or_else(|_| row.clone())
    }

    fn shown_change(&self, change: &Change) -> Change {
        let shown = |row: &Row| self.shown_row(row);
        match change {
            Change::Added(row) => Change::Added(shown(row)),
            Change::Changed(before, after) => Change::Changed(shown(before), shown(after)),
            Change::Removed(row) => Change::Removed(shown(row)),
        }
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::testing::fake::FakeRuntime;
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn column(name: &str) -> Column {
        Column { name: name.to_owned(), r#type: "string".to_owned(), priority: 0 }
    }

    #[test]
    fn columns_are_those_of_the_first_response() {
        let clock: Arc<dyn Clock> = FakeRuntime::default().clock;
        let projection = Projection::new(List::Objects.info(), &[Kind::Pod], &clock).unwrap();
        assert_eq!(*projection.columns(), *Column::of_unprinted());
        let printed = projection.printed().unwrap();
        assert!(
            printed.declare(vec![column("Name")]).is_ok() && printed.declare(vec![column("Name")]).is_ok()
        );
        assert!(!printed.is_changed());
        assert!(printed.declare(vec![column("Name"), column("Crew")]).is_err());
        assert!(printed.is_changed());
        assert_eq!(*projection.columns(), [column("Name")]);
    }

    #[test]
    fn printed_rows_are_shown_in_pages_and_events() {
        let clock: Arc<dyn Clock> = FakeRuntime::default().clock;
        let created = clock.now();
        let projection = Projection::new(List::Objects.info(), &[Kind::Pod], &clock).unwrap();
        let row = json!({"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": created.to_string()}});
        let rows = projection.rows(Kind::Pod, &to_raw_value(&row).unwrap()).unwrap();
        let cells = |row: &Row| row.parse::<Value>().unwrap()["cells"].clone();
        let shown = projection.shown(rows.clone()).unwrap();
        assert_eq!(cells(&shown[0]), json!(["web", "0s"]));
        assert_eq!(cells(&projection.shown_row(rows[0].clone())), json!(["web", "0s"]));
        let event = projection.shown_event(ListEvent::Changes(Arc::from([Change::Added(rows[0].clone())])));
        let ListEvent::Changes(changes) = event else { panic!("not changes") };
        assert_eq!(
            (cells(changes[0].row()), changes[0].row().namespace()),
            (json!(["web", "0s"]), Some("shop"))
        );
    }

    #[test]
    fn list_of_own_rows_has_no_projection() {
        let clock: Arc<dyn Clock> = FakeRuntime::default().clock;
        let (none, two): (&[Kind], &[Kind]) = (&[], &[Kind::Pod, Kind::Node]);
        for (list, kinds) in [(List::Users, none), (List::Objects, none), (List::Objects, two)] {
            assert!(Projection::new(list.info(), kinds, &clock).is_err(), "{list:?} {kinds:?}");
        }
        let pods = Projection::new(List::Pods.info(), &[Kind::Pod], &clock).unwrap();
        assert!(pods.printed().is_none() && pods.columns().is_empty() && pods.format() == Format::Objects);
    }
}
