//! Parses watch events, one JSON line each.

use std::borrow::Cow;

use pilothouse_core::{Cause, Error, Result, inventory::objects::Column};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroize;

/// A line of a watch.
pub(super) struct ParsedLine<'a> {
    /// Its event.
    pub(super) event: Event<'a>,
    /// The columns of a printed table, which only the first event of a watch has.
    pub(super) columns: Option<Vec<Column>>,
}

/// A watch event.
pub(super) enum Event<'a> {
    /// `ADDED` or `MODIFIED`.
    Applied {
        object_version: ObjectVersion<'a>,
        /// The object, or the row of a printed table.
        object: &'a RawValue,
        /// Whether the type is `ADDED`.
        added: bool,
    },
    /// `DELETED`.
    Deleted(ObjectVersion<'a>),
    /// `BOOKMARK`: all changes up to this resource version were sent.
    Bookmark {
        version: Cow<'a, str>,
        /// Whether the bookmark ends the initial events.
        initial_events_end: bool,
    },
    /// `ERROR`: the server ends the watch with this HTTP status.
    Error(u16),
    /// An unsupported event type.
    Unknown,
}

/// Identity and resource version of an object.
pub(super) struct ObjectVersion<'a> {
    pub(super) namespace: Option<Cow<'a, str>>,
    pub(super) name: Cow<'a, str>,
    pub(super) version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    #[serde(borrow)]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    /// HTTP status in a `Status` object.
    code: Option<u16>,
}

impl Object<'_> {
    /// Whether the object is a table that the API server prints.
    fn is_table(&self) -> bool {
        self.kind.is_some_and(|kind| kind.get() == "\"Table\"")
            && self.api_version.is_some_and(|version| version.get().starts_with("\"meta.k8s.io/"))
    }
}

/// A printed table of one object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table<'a> {
    #[serde(borrow)]
    rows: Option<Vec<&'a RawValue>>,
    column_definitions: Option<Vec<Column>>,
}

/// A row of a printed table, with the metadata of its object.
#[derive(Deserialize)]
struct TableRow<'a> {
    #[serde(borrow)]
    object: RowObject<'a>,
}

#[derive(Deserialize)]
struct RowObject<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    annotations: Option<Annotations<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations<'a> {
    #[serde(borrow, rename = "k8s.io/initial-events-end")]
    initial_events_end: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Parses a line.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when the line is not a watch event.
    pub(super) fn read(line: &'a [u8]) -> Result<ParsedLine<'a>> {
        let unexpected = |_| Error::new(Cause::UnexpectedAnswer);
        let Line { r#type, object: raw } = serde_json::from_slice(line).map_err(unexpected)?;
        let object: Object<'a> = serde_json::from_str(raw.get()).map_err(unexpected)?;
        if !object.is_table() {
            let event = Self::of(&r#type, raw, object.metadata, object.code)?;
            return Ok(ParsedLine { event, columns: None });
        }
        let Table { rows, column_definitions: columns } =
            serde_json::from_str(raw.get()).map_err(unexpected)?;
        // a bookmark may have no row; only its resource version is then known
        let (raw, metadata) = match rows.as_deref() {
            Some([row]) => {
                let TableRow { object } = serde_json::from_str(row.get()).map_err(unexpected)?;
                (*row, object.metadata)
            }
            _ => (raw, object.metadata),
        };
        let columns = columns.filter(|columns| !columns.is_empty());
        Ok(ParsedLine { event: Self::of(&r#type, raw, metadata, None)?, columns })
    }

    /// The event of this type about an object.
    fn of(r#type: &str, raw: &'a RawValue, metadata: Metadata<'a>, code: Option<u16>) -> Result<Self> {
        let Metadata { namespace, name, resource_version, annotations } = metadata;
        let version = resource_version.unwrap_or_default();
        let object_version = |version| -> Result<_> {
            let name = name.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| Error::new(Cause::UnexpectedAnswer))?;
            Ok(ObjectVersion { namespace, name, version })
        };
        Ok(match r#type {
            r#type @ ("ADDED" | "MODIFIED") => Self::Applied {
                object_version: object_version(version)?,
                object: raw,
                added: r#type == "ADDED",
            },
            "DELETED" => Self::Deleted(object_version(version)?),
            "BOOKMARK" => {
                let initial_events_end = annotations.and_then(|annotations| annotations.initial_events_end);
                Self::Bookmark {
                    version,
                    initial_events_end: initial_events_end.is_some_and(|value| value == "true"),
                }
            }
            "ERROR" => Self::Error(code.unwrap_or(500)),
            _ => Self::Unknown,
        })
    }
}

/// Splits a body into lines, independent of its chunks.
#[derive(Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Offset up to which the buffer was searched for a line end.
    scanned: usize,
    consumed: usize,
}

/// Longest line, in bytes: an object of etcd's largest size with every byte escaped.
const MAX_LINE_BYTES: usize = 16 << 20;

impl Drop for Lines {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

impl Lines {
    /// Appends a chunk.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when a line exceeds [`MAX_LINE_BYTES`].
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<()> {
        if self.consumed > 0 {
            self.buffer.copy_within(self.consumed.., 0);
            let remaining = self.buffer.len() - self.consumed;
            // the consumed bytes may hold a Secret
            self.buffer[remaining..].zeroize();
            self.buffer.truncate(remaining);
            self.scanned -= self.consumed;
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() > MAX_LINE_BYTES + chunk.len() {
            return Err(Error::new(Cause::UnexpectedAnswer));
        }
        Ok(())
    }

    /// Number of bytes that are not consumed yet.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.consumed
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let end = memchr::memchr(b'\n', &self.buffer[self.scanned..]).map(|at| self.scanned + at);
        let Some(end) = end else {
            self.scanned = self.buffer.len();
            return None;
        };
        let start = std::mem::replace(&mut self.consumed, end + 1);
        self.scanned = self.consumed;
        Some(&self.buffer[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_independent_of_chunk_boundaries() {
        let text = b"{\"a\":1}\n\n{\"b\":\"long enough\"}\nrest";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for chunk in text.chunks(size) {
                lines.push(chunk).unwrap();
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "", "{\"b\":\"long enough\"}"], "chunks of {size}");
        }
    }

    #[test]
    fn endless_line_is_refused() {
        let (mut lines, chunk) = (Lines::default(), vec![b' '; 1 << 20]);
        let refused_at = (0..=17).find(|_| lines.push(&chunk).is_err());
        assert_eq!(refused_at, Some(17));
    }

    fn parsed(line: &str) -> String {
        match Event::read(line.as_bytes()).map(|line| line.event) {
            Ok(Event::Applied {
                object_version: ObjectVersion { namespace, name, version }, added, ..
            }) => {
                format!("{namespace:?} {name} {version} {added}")
            }
            Ok(Event::Deleted(ObjectVersion { name, .. })) => format!("deleted {name}"),
            Ok(Event::Bookmark { version, initial_events_end }) => {
                format!("bookmark {version} {initial_events_end}")
            }
            Ok(Event::Error(code)) => format!("error {code}"),
            Ok(Event::Unknown) => "unknown".to_owned(),
            Err(error) => error.cause.as_str().to_owned(),
        }
    }

    #[test]
    fn event_of_a_table_is_about_the_object_of_its_row() {
        let table = |metadata: &str, rows: &str| {
            format!(
                r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{metadata},
                "columnDefinitions":[{{"name":"Name","type":"string","format":"name","description":"d","priority":0}}],"rows":{rows}}}"#
            )
            .replace('\n', "")
        };
        let line = |event: &str, object: &str| format!(r#"{{"type":"{event}","object":{object}}}"#);
        let row = r#"[{"cells":["a"],"object":{"kind":"PartialObjectMetadata","metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}}]"#;
        let end = r#"[{"cells":[""],"object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}]"#;
        let cases = [
            (line("ADDED", &table("{}", row)), "Some(\"n\") a 7 true"),
            (line("DELETED", &table(r#"{"resourceVersion":"8"}"#, row)), "deleted a"),
            (line("BOOKMARK", &table(r#"{"resourceVersion":"9"}"#, end)), "bookmark 9 true"),
            (line("BOOKMARK", &table(r#"{"resourceVersion":"9"}"#, "[]")), "bookmark 9 false"),
            (line("ADDED", &table("{}", "[]")), "unexpected_answer"),
            (line("ADDED", &table("{}", "[{}]")), "unexpected_answer"),
        ];
        for (line, expected) in cases {
            assert_eq!(parsed(&line), expected, "{line}");
        }
        let added = line("ADDED", &table("{}", row));
        let ParsedLine { event, columns } = Event::read(added.as_bytes()).unwrap();
        let Event::Applied { object, .. } = event else { panic!("{added}") };
        assert!(object.get().starts_with(r#"{"cells":"#), "{}", object.get());
        assert_eq!(columns.unwrap()[0].name, "Name");
        for none in ["[]", "null"] {
            let later = format!(
                r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{{}},"columnDefinitions":{none},"rows":{row}}}"#
            );
            assert_eq!(Event::read(line("ADDED", &later).as_bytes()).unwrap().columns, None, "{none}");
        }
        // a custom resource of this kind is no table
        let own = r#"{"kind":"Table","apiVersion":"example.org/v1","metadata":{"name":"a"},"rows":7}"#;
        assert_eq!(parsed(&line("ADDED", own)), "None a  true");
    }

    #[test]
    fn every_type_of_watch_event_is_parsed_and_others_are_refused() {
        let cases = [
            (
                r#"{"type":"ADDED","object":{"metadata":{"name":"a\"b","namespace":"n","resourceVersion":"7"}}}"#,
                "Some(\"n\") a\"b 7 true",
            ),
            (
                r#"{"object":{"metadata":{"resourceVersion":"7","name":"a"},"spec":{}},"type":"MODIFIED"}"#,
                "None a 7 false",
            ),
            (r#"{"type":"DELETED","object":{"metadata":{"name":"a","annotations":null}}}"#, "deleted a"),
            (r#"{"type":"DELETED","object":{"metadata":{"name":""}}}"#, "unexpected_answer"),
            (r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#, "bookmark 9 false"),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                "bookmark 9 true",
            ),
            (r#"{"type":"ERROR","object":{"kind":"Status","metadata":{},"code":410}}"#, "error 410"),
            (r#"{"type":"ERROR","object":{"kind":"Status"}}"#, "error 500"),
            (r#"{"type":"NEWS","object":{}}"#, "unknown"),
            (r#"{"kind":"PodList","items":[]}"#, "unexpected_answer"),
            ("<html>", "unexpected_answer"),
            ("", "unexpected_answer"),
        ];
        for (line, expected) in cases {
            assert_eq!(parsed(line), expected, "{line}");
        }
    }
}
