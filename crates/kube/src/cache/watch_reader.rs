//! Reads the body of a watch: collects initial events until they are complete, then object changes.

use std::mem;

use pilothouse_core::{Result, kind::Kind};

use super::{
    initial_events::InitialEvents,
    store::ObjectRows,
    watch_event::{Event, Lines, ParsedLine},
    watch_state::{Input, WatchState},
};
use crate::projection::Projection;

/// Reads the body of one watch.
pub(super) struct WatchReader {
    pub(super) kind: Kind,
    pub(super) projection: Projection,
    pub(super) lines: Lines,
    pub(super) state: WatchState,
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
    /// The end of the watch, if the server has ended it.
    pub(super) end: Option<Input>,
}

impl WatchReader {
    /// Parses the complete lines, up to the one that ends the initial events.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when a line is not a watch event; the errors of the projection.
    pub(super) fn read(&mut self) -> Result<ParsedEvents> {
        let mut parsed = ParsedEvents::default();
        while let Some(line) = self.lines.next() {
            let ParsedLine { event, columns } = match (Event::read(line), &self.state) {
                // a server that responds with a list does not support `sendInitialEvents`
                (Err(_), WatchState::Init) => {
                    parsed.end = Some(Input::NotAWatch);
                    return Ok(parsed);
                }
                (parsed_line, _) => parsed_line?,
            };
            parsed.any_line = true;
            if let (Some(printed), Some(columns)) = (self.projection.printed(), columns) {
                printed.declare(columns)?;
            }
            let (object_version, rows, added) = match event {
                Event::Applied { object_version, object, added } => {
                    (object_version, self.projection.rows(self.kind, object)?, added)
                }
                Event::Deleted(object_version) => (object_version, Vec::new(), false),
                Event::Bookmark { version, initial_events_end } => {
                    parsed.any_event = true;
                    let initial = match &mut self.state {
                        WatchState::Watching => {
                            parsed.newest = Some(version.into_owned());
                            continue;
                        }
                        _ if !initial_events_end => continue,
                        WatchState::Init => InitialEvents::default(),
                        WatchState::InitPage(initial) => mem::take(initial),
                    };
                    self.state = WatchState::Watching;
                    parsed.initial = Some((initial, version.into_owned()));
                    return Ok(parsed);
                }
                Event::Error(code) => {
                    parsed.end = Some(Input::Error(code));
                    return Ok(parsed);
                }
                Event::Unknown => continue,
            };
            parsed.any_event = true;
            match &mut self.state {
                WatchState::Init => {
                    let mut initial = InitialEvents::default();
                    initial.add(&object_version, rows, added);
                    self.state = WatchState::InitPage(initial);
                }
                WatchState::InitPage(initial) => initial.add(&object_version, rows, added),
                WatchState::Watching => {
                    parsed.newest = Some(object_version.version.clone().into_owned());
                    parsed.batch.push(object_version.with_rows(rows));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#;
    const DELETED: &str = r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}"#;
    const BOOKMARK: &str = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
    const INITIAL_EVENTS_END: &str = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    const GONE: &str = r#"{"type":"ERROR","object":{"kind":"Status","code":410}}"#;
    const LIST: &str = r#"{"kind":"PodList","items":[]}"#;

    /// The state after the lines, and how the parsed events end.
    fn read(state: WatchState, lines: &[&str]) -> (&'static str, &'static str) {
        let mut reader = WatchReader {
            kind: Kind::Pod,
            projection: Projection::Objects(|_, _| Ok(Vec::new())),
            lines: Lines::default(),
            state,
        };
        for line in lines {
            reader.lines.push(format!("{line}\n").as_bytes()).unwrap();
        }
        let result = match reader.read() {
            Ok(ParsedEvents { end: Some(Input::NotAWatch), .. }) => "not a watch",
            Ok(ParsedEvents { end: Some(_), .. }) => "error event",
            Ok(ParsedEvents { initial: Some(_), .. }) => "initial events end",
            Ok(ParsedEvents { newest: Some(_), batch, .. }) if batch.is_empty() => "bookmark",
            Ok(ParsedEvents { newest: Some(_), .. }) => "changes",
            Ok(_) => "nothing to apply",
            Err(_) => "unexpected",
        };
        let state = match reader.state {
            WatchState::Init => "Init",
            WatchState::InitPage(_) => "InitPage",
            WatchState::Watching => "Watching",
        };
        (state, result)
    }

    #[test]
    fn lines_yield_events_and_change_the_state() {
        let page = || WatchState::InitPage(InitialEvents::default());
        let cases: [(WatchState, &[&str], _); 14] = [
            (WatchState::Init, &[], ("Init", "nothing to apply")),
            (WatchState::Init, &[ADDED], ("InitPage", "nothing to apply")),
            (WatchState::Init, &[BOOKMARK], ("Init", "nothing to apply")),
            (WatchState::Init, &[INITIAL_EVENTS_END], ("Watching", "initial events end")),
            (WatchState::Init, &[LIST], ("Init", "not a watch")),
            (WatchState::Init, &[GONE], ("Init", "error event")),
            (page(), &[DELETED, BOOKMARK], ("InitPage", "nothing to apply")),
            (page(), &[ADDED, INITIAL_EVENTS_END, DELETED], ("Watching", "initial events end")),
            (page(), &[LIST], ("InitPage", "unexpected")),
            (page(), &[GONE], ("InitPage", "error event")),
            (WatchState::Watching, &[BOOKMARK], ("Watching", "bookmark")),
            (WatchState::Watching, &[ADDED, DELETED], ("Watching", "changes")),
            (WatchState::Watching, &[INITIAL_EVENTS_END], ("Watching", "bookmark")),
            (WatchState::Watching, &[LIST], ("Watching", "unexpected")),
        ];
        for (index, (state, lines, expected)) in cases.into_iter().enumerate() {
            assert_eq!(read(state, lines), expected, "case {index}: {lines:?}");
        }
    }
}
