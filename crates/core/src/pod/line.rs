//! Line parser of a followed log: splits chunks into lines and gives each line an id, from which a client can resume.
//!
//! The kubelet prefixes each line with a timestamp (RFC 3339 with nanoseconds). Several lines may have the same
//! timestamp, so a line id consists of the timestamp, the number of directly preceding lines with the same timestamp,
//! and a fingerprint of the line. The fingerprint finds the line again if the first stream began in the middle of such
//! lines.

use std::{fmt, mem, str::FromStr};

use jiff::Timestamp;

use super::FollowStart;
use crate::error::Reason;

/// Maximum length of a line in bytes, including its timestamp. A longer line is truncated and marked with
/// [`TRUNCATION_MARK`].
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// Suffix of a truncated line.
pub const TRUNCATION_MARK: &str = "…[cut at 64 KiB]";

/// Position of a line in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId {
    at: Timestamp,
    /// Number of directly preceding lines with the same timestamp.
    ordinal: u64,
    fingerprint: u32,
}

impl LineId {
    /// Start time from which a log must be read to contain this line and all following ones: one second earlier,
    /// because the API server takes whole seconds, and stdout and stderr of a container may be slightly out of order.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_second(self.at.as_second().saturating_sub(1)).unwrap_or(self.at)
    }

    /// Whether `other`, from a stream read from [`LineId::since`] on, is this line. The ordinal of `other` may be
    /// higher, because a stream that began with the newest lines does not count lines before its first.
    fn is_same_line(&self, other: &Self) -> bool {
        (self.at, self.fingerprint) == (other.at, other.fingerprint) && self.ordinal <= other.ordinal
    }
}

/// Format of the `id` of an event: `2026-01-02T03:04:05.123456789Z_0_1a2b3c4d`.
impl fmt::Display for LineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{:08x}", self.at, self.ordinal, self.fingerprint)
    }
}

impl FromStr for LineId {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let read = || {
            let (at, rest) = text.split_once('_')?;
            let (ordinal, fingerprint) = rest.split_once('_')?;
            let fingerprint = u32::from_str_radix(fingerprint, 16).ok()?;
            Some(Self { at: at.parse().ok()?, ordinal: ordinal.parse().ok()?, fingerprint })
        };
        // only the canonical form is accepted
        read().filter(|id| id.to_string() == text).ok_or(Reason::Malformed)
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Id from which to resume after this line. `None` if no timestamp is known, as for an error message of the
    /// kubelet.
    pub id: Option<LineId>,
    /// Text of the line without the line terminator. Bytes that are not UTF-8 are replaced by U+FFFD. The text may
    /// contain a carriage return.
    pub text: String,
}

impl LogLine {
    /// Time of the line; that of the line before if it has none of its own.
    pub fn time(&self) -> Option<Timestamp> {
        self.id.map(|id| id.at)
    }
}

/// Size of the text in a batch, in bytes, from which no further line is added.
const BATCH_BYTES: usize = 16 << 10;
/// Maximum number of lines in a batch.
const MAX_BATCH_LINES: usize = 256;

/// Incremental line parser. Chunk boundaries do not affect its result.
#[derive(Default)]
pub(crate) struct Lines {
    splitter: Splitter,
    tracker: LineTracker,
}

impl Lines {
    /// Creates a parser for a log that is read from this start.
    pub(crate) fn new(start: &FollowStart, timestamps: bool) -> Self {
        let after = match start {
            FollowStart::Newest { .. } | FollowStart::Beginning | FollowStart::Since(_) => None,
            FollowStart::After(line) => Some(*line),
        };
        Self { splitter: Splitter::default(), tracker: LineTracker { timestamps, after, last: None } }
    }

    /// Sets the next chunk. Must be called only after [`Lines::next`] returned `None`.
    pub(crate) fn feed(&mut self, bytes: Vec<u8>) {
        (self.splitter.chunk, self.splitter.read) = (bytes, 0);
    }

    /// Returns the next batch of lines of the current chunk. Batches are bounded, to limit the memory buffered for a
    /// reader.
    pub(crate) fn next(&mut self) -> Option<Vec<LogLine>> {
        let (mut lines, mut text) = (Vec::new(), 0);
        while text < BATCH_BYTES && lines.len() < MAX_BATCH_LINES {
            let Some(piece) = self.splitter.next() else { break };
            if let Some(line) = self.tracker.line(&piece) {
                text += line.text.len();
                lines.push(line);
            }
        }
        (!lines.is_empty()).then_some(lines)
    }

    /// Returns the last line if the log ended without a line terminator.
    pub(crate) fn finish(&mut self) -> Option<LogLine> {
        self.tracker.line(&self.splitter.finish()?)
    }
}

/// Assigns line ids, and skips the lines that the client already has.
#[derive(Default)]
struct LineTracker {
    /// Whether texts keep their timestamp.
    timestamps: bool,
    /// The last line that the client has. Lines are skipped until it is found.
    after: Option<LineId>,
    /// Timestamp and ordinal of the previous line.
    last: Option<(Timestamp, u64)>,
}

impl LineTracker {
    /// Returns the line; `None` if the client already has it.
    fn line(&mut self, Piece { bytes, truncated }: &Piece<'_>) -> Option<LogLine> {
        let (time, text) = split_timestamp(bytes);
        let at = time.or(self.last.map(|(at, _)| at));
        let id = at.map(|at| {
            let ordinal = self.last.filter(|(last, _)| *last == at).map_or(0, |(_, ordinal)| ordinal + 1);
            self.last = Some((at, ordinal));
            LineId { at, ordinal, fingerprint: fingerprint(text) }
        });
        if let (Some(after), Some(id)) = (self.after, id) {
            let found = after.is_same_line(&id);
            // a line newer than the one looked for: the latter is no longer in the log, and this line is returned
            let rotated = id.at > after.at;
            if found || rotated {
                self.after = None;
            }
            if !rotated {
                return None;
            }
        }
        let mut text = String::from_utf8_lossy(if self.timestamps { bytes } else { text }).into_owned();
        if *truncated {
            text.push_str(TRUNCATION_MARK);
        }
        Some(LogLine { id, text })
    }
}

/// Splits a line into its timestamp and the rest.
fn split_timestamp(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let time = std::str::from_utf8(&line[..end]).ok().and_then(|time| time.parse().ok());
    match time {
        Some(time) => (Some(time), line.get(end + 1..).unwrap_or_default()),
        None => (None, line),
    }
}

/// FNV-1a, 32 bits. The only requirement is that the value is the same in every version of Pilothouse.
fn fingerprint(text: &[u8]) -> u32 {
    text.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Splitter of bytes at line terminators. It buffers at most one chunk and [`MAX_LINE_BYTES`] bytes.
#[derive(Default)]
struct Splitter {
    chunk: Vec<u8>,
    /// Number of bytes of the chunk that were read.
    read: usize,
    /// The current, incomplete line.
    line: Vec<u8>,
    /// Whether the current line was returned.
    emitted: bool,
    /// Whether the current line was truncated. The rest of the line is skipped.
    skipping: bool,
}

/// Bytes of one line, without the line terminator.
struct Piece<'a> {
    bytes: &'a [u8],
    truncated: bool,
}

impl Splitter {
    fn next(&mut self) -> Option<Piece<'_>> {
        if mem::take(&mut self.emitted) {
            self.line.clear();
        }
        loop {
            let rest = &self.chunk[self.read..];
            if rest.is_empty() {
                return None;
            }
            let end = memchr::memchr(b'\n', rest);
            let part = self.read..self.read + end.unwrap_or(rest.len());
            let capacity = MAX_LINE_BYTES - self.line.len();
            if !self.skipping && part.len() > capacity {
                self.line.extend_from_slice(&rest[..capacity]);
                self.read += capacity;
                (self.emitted, self.skipping) = (true, true);
                return Some(Piece { bytes: &self.line, truncated: true });
            }
            self.read = part.end + usize::from(end.is_some());
            if self.skipping {
                self.skipping = end.is_none();
            } else if end.is_some() && self.line.is_empty() {
                return Some(complete_line(&self.chunk[part]));
            } else {
                self.line.extend_from_slice(&self.chunk[part]);
                if end.is_some() {
                    self.emitted = true;
                    return Some(complete_line(&self.line));
                }
            }
        }
    }

    /// Returns the text after the last line terminator.
    fn finish(&mut self) -> Option<Piece<'_>> {
        if mem::take(&mut self.emitted) {
            self.line.clear();
        }
        (!self.line.is_empty()).then(|| complete_line(&self.line))
    }
}

fn complete_line(bytes: &[u8]) -> Piece<'_> {
    Piece { bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes), truncated: false }
}

#[cfg(test)]
mod tests;
