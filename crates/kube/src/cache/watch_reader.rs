//! Reads the body of a watch: collects initial events until they are complete, then object changes.

use pilothouse_core::{Result, inventory::Project, kind::Kind, rows::Row};

use super::{
    store::ObjectRows,
    watch_event::{Event, Lines, ObjectVersion},
};

/// Memory of initial events, in bytes, between two updates of the cache's accounting.
const ACCOUNTING_STEP_BYTES: usize = 4 << 20;
/// Memory of a changed object besides its rows and texts, in bytes.
const OBJECT_OVERHEAD_BYTES: usize = size_of::<ObjectRows>();

/// Reads the body of one watch.
pub(super) struct WatchReader {
    pub(super) kind: Kind,
    pub(super) project: Project,
    pub(super) lines: Lines,
    /// Initial events so far, until they are complete; none for a watch from a resource version.
    pub(super) initial: Option<InitialEvents>,
}

/// Result of parsing the received lines of a watch.
#[derive(Default)]
pub(super) struct ParsedEvents {
    /// Changed objects.
    pub(super) batch: Vec<ObjectRows>,
    /// Resource version up to which the changes are complete.
    pub(super) newest: Option<String>,
    /// Whether there was at least one line of the watch protocol.
    pub(super) any_line: bool,
    /// Whether there was a complete object event or a bookmark.
    pub(super) any_event: bool,
    /// Complete initial events and their resource version. More lines may follow.
    pub(super) initial: Option<(InitialEvents, String)>,
    /// How the server ended the watch.
    pub(super) end: Option<ServerEnd>,
}

/// How a server ends a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerEnd {
    /// The server does not support `sendInitialEvents`.
    NoInitialEvents,
    /// With an `ERROR` event of this HTTP status.
    Status(u16),
}

impl WatchReader {
    /// Parses the complete lines, up to the one that ends the initial events.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when a line is not a watch event; the errors of the projection.
    pub(super) fn read(&mut self) -> Result<ParsedEvents> {
        let mut parsed = ParsedEvents::default();
        while let Some(line) = self.lines.next() {
            let event = match (Event::read(line), &self.initial) {
                // a server that responds with a list does not support `sendInitialEvents`
                (Err(_), Some(initial)) if !initial.started => {
                    parsed.end = Some(ServerEnd::NoInitialEvents);
                    return Ok(parsed);
                }
                (event, _) => event?,
            };
            parsed.any_line = true;
            let (object_version, rows, added) = match event {
                Event::Applied { object_version, object, added } => {
                    (object_version, (self.project)(self.kind, object)?, added)
                }
                Event::Deleted(object_version) => (object_version, Vec::new(), false),
                Event::Bookmark { version, initial_events_end } => {
                    parsed.any_event = true;
                    if let Some(initial) = self.initial.take_if(|_| initial_events_end) {
                        parsed.initial = Some((initial, version.into_owned()));
                        return Ok(parsed);
                    }
                    if self.initial.is_none() {
                        parsed.newest = Some(version.into_owned());
                    }
                    continue;
                }
                Event::Error(code) => {
                    parsed.end = Some(ServerEnd::Status(code));
                    return Ok(parsed);
                }
                Event::Unknown => continue,
            };
            parsed.any_event = true;
            match &mut self.initial {
                Some(initial) => initial.add(&object_version, rows, added),
                None => {
                    parsed.newest = Some(object_version.version.clone().into_owned());
                    parsed.batch.push(object_rows(&object_version, rows));
                }
            }
        }
        Ok(parsed)
    }
}

fn object_rows(object_version: &ObjectVersion<'_>, rows: Vec<Row>) -> ObjectRows {
    let (namespace, name) =
        (object_version.namespace.as_deref().map(str::to_owned), object_version.name.to_string());
    ObjectRows { namespace, name, rows }
}

/// Initial events of a watch, or rows of a list in chunks, collected so far.
#[derive(Default)]
pub(super) struct InitialEvents {
    pub(super) rows: Vec<Row>,
    /// Changes that arrived between the initial events.
    pub(super) updates: Vec<ObjectRows>,
    /// Memory used, in bytes.
    pub(super) bytes: usize,
    accounted: usize,
    pub(super) started: bool,
}

impl InitialEvents {
    /// Adds an object event.
    fn add(&mut self, object_version: &ObjectVersion<'_>, rows: Vec<Row>, added: bool) {
        self.started = true;
        if added && self.updates.is_empty() {
            self.extend(rows);
        } else {
            let texts = object_version.namespace.as_ref().map_or(0, |namespace| namespace.len())
                + object_version.name.len();
            self.bytes += OBJECT_OVERHEAD_BYTES + texts + rows.iter().map(Row::size).sum::<usize>();
            self.updates.push(object_rows(object_version, rows));
        }
    }

    /// Adds rows of listed objects.
    pub(super) fn extend(&mut self, rows: Vec<Row>) {
        self.bytes += rows.iter().map(|row| row.size() + size_of::<Row>()).sum::<usize>();
        self.rows.extend(rows);
    }

    /// Removes everything: the list starts over.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the memory has changed enough to update the accounting.
    pub(super) fn is_accounting_due(&mut self) -> bool {
        let due = self.bytes.abs_diff(self.accounted) >= ACCOUNTING_STEP_BYTES;
        if due {
            self.accounted = self.bytes;
        }
        due
    }
}
