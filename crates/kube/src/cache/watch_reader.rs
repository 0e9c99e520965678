//! What a watch has said, read line by line: what happened, and, while all there is is being told, that.

use pilothouse_core::{
    Result,
    inventory::{Project, Row},
    kind::Kind,
};

use super::{
    store::Applied,
    watch_event::{Event, Lines, ObjectVersion},
};

/// Rows of so much memory are read before it is accounted for.
const ACCOUNTED: usize = 4 << 20;
/// What an object takes besides its rows and texts, in bytes.
const OF_OBJECT: usize = size_of::<Applied>();

/// Reads the body of one watch.
pub(super) struct WatchReader {
    pub(super) kind: Kind,
    pub(super) project: Project,
    pub(super) lines: Lines,
    /// What has been told so far, until that is all there is; none of a watch that goes on from a version.
    pub(super) all: Option<InitialEvents>,
}

/// What the lines of a watch say that have come.
#[derive(Default)]
pub(super) struct ParsedEvents {
    /// What happened to objects.
    pub(super) batch: Vec<Applied>,
    /// The version up to which that is everything.
    pub(super) newest: Option<String>,
    /// Whether there was a line of the protocol at all.
    pub(super) spoken: bool,
    /// Whether there was a whole event or a bookmark.
    pub(super) event: bool,
    /// All there is, up to this version. There may be more lines.
    pub(super) all: Option<(InitialEvents, String)>,
    /// How the server ends the watch.
    pub(super) end: Option<Ended>,
}

/// How a server ends a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It does not know how to tell all there is.
    NoInitialEvents,
    /// With this status.
    Status(u16),
}

impl WatchReader {
    /// Reads the lines that are whole, up to the one with which all has been told.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when one is none of a watch, and what the projection says.
    pub(super) fn read(&mut self) -> Result<ParsedEvents> {
        let mut told = ParsedEvents::default();
        while let Some(line) = self.lines.next() {
            let event = match (Event::read(line), &self.all) {
                // whoever answers with a list does not know how to watch from the beginning
                (Err(_), Some(all)) if !all.begun => {
                    told.end = Some(Ended::NoInitialEvents);
                    return Ok(told);
                }
                (event, _) => event?,
            };
            told.spoken = true;
            let (head, rows, new) = match event {
                Event::Present { head, object, new } => (head, (self.project)(self.kind, object)?, new),
                Event::Gone(head) => (head, Vec::new(), false),
                Event::Bookmark { version, told: is_all } => {
                    told.event = true;
                    if let Some(all) = self.all.take_if(|_| is_all) {
                        told.all = Some((all, version.into_owned()));
                        return Ok(told);
                    }
                    if self.all.is_none() {
                        told.newest = Some(version.into_owned());
                    }
                    continue;
                }
                Event::Error(code) => {
                    told.end = Some(Ended::Status(code));
                    return Ok(told);
                }
                Event::Unknown => continue,
            };
            told.event = true;
            match &mut self.all {
                Some(all) => all.add(&head, rows, new),
                None => {
                    told.newest = Some(head.version.clone().into_owned());
                    told.batch.push(applied(&head, rows));
                }
            }
        }
        Ok(told)
    }
}

fn applied(head: &ObjectVersion<'_>, rows: Vec<Row>) -> Applied {
    let (namespace, name) = (head.namespace.as_deref().map(str::to_owned), head.name.to_string());
    Applied { namespace, name, rows }
}

/// All there is, as far as it has been told.
#[derive(Default)]
pub(super) struct InitialEvents {
    pub(super) rows: Vec<Row>,
    /// What happened to objects while the others were being told.
    pub(super) late: Vec<Applied>,
    /// The memory taken.
    pub(super) bytes: usize,
    accounted: usize,
    pub(super) begun: bool,
}

impl InitialEvents {
    /// Adds an object of the watch.
    fn add(&mut self, head: &ObjectVersion<'_>, rows: Vec<Row>, new: bool) {
        self.begun = true;
        if new && self.late.is_empty() {
            self.extend(rows);
        } else {
            let texts = head.namespace.as_ref().map_or(0, |namespace| namespace.len()) + head.name.len();
            self.bytes += OF_OBJECT + texts + rows.iter().map(Row::size).sum::<usize>();
            self.late.push(applied(head, rows));
        }
    }

    /// Adds rows of objects that have just been listed.
    pub(super) fn extend(&mut self, rows: Vec<Row>) {
        self.bytes += rows.iter().map(|row| row.size() + size_of::<Row>()).sum::<usize>();
        self.rows.extend(rows);
    }

    /// Forgets all of it: it begins anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether so much has come that its memory should be accounted for.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.bytes.abs_diff(self.accounted) >= ACCOUNTED;
        if due {
            self.accounted = self.bytes;
        }
        due
    }
}
