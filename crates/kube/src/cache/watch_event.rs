//! What a watch says, a line at a time.

use std::borrow::Cow;

use pilothouse_core::{Cause, Error, Result};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroize;

/// What happened.
pub(super) enum Event<'a> {
    /// An object came or changed.
    Present {
        head: ObjectVersion<'a>,
        object: &'a RawValue,
        /// Whether the server says that it came.
        new: bool,
    },
    /// An object is gone.
    Gone(ObjectVersion<'a>),
    /// Nothing, up to this version.
    Bookmark {
        version: Cow<'a, str>,
        /// Whether all that there was before has been told.
        told: bool,
    },
    /// The server ends the watch, with this status.
    Error(u16),
    /// Something that a newer server says.
    Unknown,
}

/// Which object, in which version.
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
struct Object<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
    /// Of a `Status`.
    code: Option<u16>,
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
    told: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when it is none of a watch.
    pub(super) fn read(line: &'a [u8]) -> Result<Self> {
        let nonsense = |_| Error::new(Cause::UnexpectedAnswer);
        let Line { r#type, object: raw } = serde_json::from_slice(line).map_err(nonsense)?;
        let Object { metadata, code } = serde_json::from_str(raw.get()).map_err(nonsense)?;
        let Metadata { namespace, name, resource_version, annotations } = metadata;
        let version = resource_version.unwrap_or_default();
        let head = |version| -> Result<_> {
            let name = name.filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| Error::new(Cause::UnexpectedAnswer))?;
            Ok(ObjectVersion { namespace, name, version })
        };
        Ok(match &*r#type {
            added @ ("ADDED" | "MODIFIED") => {
                Self::Present { head: head(version)?, object: raw, new: added == "ADDED" }
            }
            "DELETED" => Self::Gone(head(version)?),
            "BOOKMARK" => {
                let told = annotations.and_then(|annotations| annotations.told);
                Self::Bookmark { version, told: told.is_some_and(|told| told == "true") }
            }
            "ERROR" => Self::Error(code.unwrap_or(500)),
            _ => Self::Unknown,
        })
    }
}

/// A body as lines, whatever pieces it comes in.
#[derive(Default)]
pub(super) struct Lines {
    unread: Vec<u8>,
    /// Where the unread part begins that is known to hold no end of a line.
    searched: usize,
    taken: usize,
}

/// The longest line that is read, in bytes: an object of etcd's largest size, every byte of it escaped.
const LONGEST: usize = 16 << 20;

impl Drop for Lines {
    fn drop(&mut self) {
        self.unread.zeroize();
    }
}

impl Lines {
    /// Adds a piece.
    ///
    /// # Errors
    /// `UnexpectedAnswer` when a line is too long.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<()> {
        if self.taken > 0 {
            self.unread.copy_within(self.taken.., 0);
            let left = self.unread.len() - self.taken;
            // what was read may have been a Secret
            self.unread[left..].zeroize();
            self.unread.truncate(left);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.unread.extend_from_slice(piece);
        if self.unread.len() > LONGEST + piece.len() {
            return Err(Error::new(Cause::UnexpectedAnswer));
        }
        Ok(())
    }

    /// How many bytes wait for the end of their line.
    pub(super) fn waiting(&self) -> usize {
        self.unread.len() - self.taken
    }

    /// The next whole line.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        let end = memchr::memchr(b'\n', &self.unread[self.searched..]).map(|at| self.searched + at);
        let Some(end) = end else {
            self.searched = self.unread.len();
            return None;
        };
        let start = std::mem::replace(&mut self.taken, end + 1);
        self.searched = self.taken;
        Some(&self.unread[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_they_are_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":\"long enough\"}\nrest";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.feed(piece).unwrap();
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "", "{\"b\":\"long enough\"}"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut lines, piece) = (Lines::default(), vec![b' '; 1 << 20]);
        let fed = (0..=17).find(|_| lines.feed(&piece).is_err());
        assert_eq!(fed, Some(17));
    }

    fn shown(line: &str) -> String {
        match Event::read(line.as_bytes()) {
            Ok(Event::Present { head: ObjectVersion { namespace, name, version }, new, .. }) => {
                format!("{namespace:?} {name} {version} {new}")
            }
            Ok(Event::Gone(ObjectVersion { name, .. })) => format!("gone {name}"),
            Ok(Event::Bookmark { version, told }) => format!("bookmark {version} {told}"),
            Ok(Event::Error(code)) => format!("error {code}"),
            Ok(Event::Unknown) => "unknown".to_owned(),
            Err(error) => error.cause.as_str().to_owned(),
        }
    }

    #[test]
    fn events_by_table() {
        let cases = [
            (
                r#"{"type":"ADDED","object":{"metadata":{"name":"a\"b","namespace":"n","resourceVersion":"7"}}}"#,
                "Some(\"n\") a\"b 7 true",
            ),
            (
                r#"{"object":{"metadata":{"resourceVersion":"7","name":"a"},"spec":{}},"type":"MODIFIED"}"#,
                "None a 7 false",
            ),
            (r#"{"type":"DELETED","object":{"metadata":{"name":"a","annotations":null}}}"#, "gone a"),
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
            assert_eq!(shown(line), expected, "{line}");
        }
    }
}
