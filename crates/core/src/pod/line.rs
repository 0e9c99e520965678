//! The lines of a followed log, found in bytes as they come, each with an id from which a broken stream goes on.
//!
//! The cluster puts a time before each line (the kubelet's RFC 3339 with nanoseconds). Several lines may bear the same
//! one, so an id is that time, how many lines with it came directly before, and a fingerprint of the line: the
//! fingerprint finds the place again where the first stream began in the middle of such lines.

use std::{fmt, mem, str::FromStr};

use jiff::Timestamp;

use super::FollowStart;
use crate::error::Reason;

/// The most bytes of a line, its time included. A longer one is cut there, and says so.
pub const LONGEST_LINE: usize = 64 << 10;
/// What a cut line ends with.
pub const CUT: &str = "…[cut at 64 KiB]";

/// Where a line stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId {
    at: Timestamp,
    /// How many lines of the same time came directly before it.
    ordinal: u64,
    fingerprint: u32,
}

impl LineId {
    /// From when on a log must be read to find this line and all that follow it: the second before its own, because
    /// clusters count in whole seconds and the two outputs of a container may be written slightly out of order.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_second(self.at.as_second().saturating_sub(1)).unwrap_or(self.at)
    }

    /// Whether `other`, of a stream that was read from [`LineId::since`] on, is this line. Its ordinal may be higher:
    /// of a stream that began with a log's newest lines nobody knows what came before the first.
    fn is(&self, other: &Self) -> bool {
        (self.at, self.fingerprint) == (other.at, other.fingerprint) && self.ordinal <= other.ordinal
    }
}

/// As in the `id` of an event: `2026-01-02T03:04:05.123456789Z_0_1a2b3c4d`.
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
        // only what we would write ourselves
        read().filter(|id| id.to_string() == text).ok_or(Reason::Malformed)
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// From where to go on after it; none for what bears no time, such as a kubelet's complaint.
    pub id: Option<LineId>,
    /// Its text without the line's end; bytes that are not UTF-8 are U+FFFD. A carriage return may be in it.
    pub text: String,
}

/// So much text is handed over at once, at most, and one line more.
const TOGETHER: usize = 16 << 10;
/// The most lines that are handed over at once.
const MOST_TOGETHER: usize = 256;

/// Makes lines of bytes, however these are cut.
#[derive(Default)]
pub(super) struct Lines {
    splitter: Splitter,
    places: Places,
}

impl Lines {
    /// Of a log that was read from this start on.
    pub(super) fn new(start: &FollowStart, timestamps: bool) -> Self {
        let after = match start {
            FollowStart::Newest { .. } => None,
            FollowStart::After(line) => Some(*line),
        };
        Self { splitter: Splitter::default(), places: Places { timestamps, after, last: None } }
    }

    /// Takes the next bytes. To be called when [`Lines::next`] has no lines left.
    pub(super) fn feed(&mut self, bytes: Vec<u8>) {
        (self.splitter.chunk, self.splitter.read) = (bytes, 0);
    }

    /// The next lines of what was fed: a bounded number, so that what waits for a reader is little.
    pub(super) fn next(&mut self) -> Option<Vec<LogLine>> {
        let (mut lines, mut text) = (Vec::new(), 0);
        while text < TOGETHER && lines.len() < MOST_TOGETHER {
            let Some(piece) = self.splitter.next() else { break };
            if let Some(line) = self.places.line(&piece) {
                text += line.text.len();
                lines.push(line);
            }
        }
        (!lines.is_empty()).then_some(lines)
    }

    /// The last line, when the log ended without a line's end.
    pub(super) fn finish(&mut self) -> Option<LogLine> {
        self.places.line(&self.splitter.finish()?)
    }
}

/// Tells where each line stands, and which of them the reader lacks.
#[derive(Default)]
struct Places {
    /// Whether texts keep their time.
    timestamps: bool,
    /// The last line that its reader has; nothing is passed on before it was found.
    after: Option<LineId>,
    /// The last line's time and ordinal.
    last: Option<(Timestamp, u64)>,
}

impl Places {
    /// None for a line that its reader has already.
    fn line(&mut self, Piece { bytes, cut }: &Piece<'_>) -> Option<LogLine> {
        let (time, text) = stamped(bytes);
        let at = time.or(self.last.map(|(at, _)| at));
        let id = at.map(|at| {
            let ordinal = self.last.filter(|(last, _)| *last == at).map_or(0, |(_, ordinal)| ordinal + 1);
            self.last = Some((at, ordinal));
            LineId { at, ordinal, fingerprint: fingerprint(text) }
        });
        if let (Some(after), Some(id)) = (self.after, id) {
            let found = after.is(&id);
            // a newer one shows that the line is no longer in the log; what is left of it is still to be told
            let gone = id.at > after.at;
            if found || gone {
                self.after = None;
            }
            if !gone {
                return None;
            }
        }
        let mut text = String::from_utf8_lossy(if self.timestamps { bytes } else { text }).into_owned();
        if *cut {
            text.push_str(CUT);
        }
        Some(LogLine { id, text })
    }
}

/// A line's time, and what follows it.
fn stamped(line: &[u8]) -> (Option<Timestamp>, &[u8]) {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let time = std::str::from_utf8(&line[..end]).ok().and_then(|time| time.parse().ok());
    match time {
        Some(time) => (Some(time), line.get(end + 1..).unwrap_or_default()),
        None => (None, line),
    }
}

/// FNV-1a, 32 bits: the same in every version, which is all that is asked of it.
fn fingerprint(text: &[u8]) -> u32 {
    text.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Cuts bytes at line ends, holding no more than a chunk and [`LONGEST_LINE`].
#[derive(Default)]
struct Splitter {
    chunk: Vec<u8>,
    /// How much of the chunk was read.
    read: usize,
    /// The line that has no end yet.
    line: Vec<u8>,
    /// Whether that line was handed out.
    told: bool,
    /// Whether it was cut; what is left of it is skipped.
    skipping: bool,
}

struct Piece<'a> {
    bytes: &'a [u8],
    cut: bool,
}

impl Splitter {
    fn next(&mut self) -> Option<Piece<'_>> {
        if mem::take(&mut self.told) {
            self.line.clear();
        }
        loop {
            let rest = &self.chunk[self.read..];
            if rest.is_empty() {
                return None;
            }
            let end = memchr::memchr(b'\n', rest);
            let part = self.read..self.read + end.unwrap_or(rest.len());
            let room = LONGEST_LINE - self.line.len();
            if !self.skipping && part.len() > room {
                self.line.extend_from_slice(&rest[..room]);
                self.read += room;
                (self.told, self.skipping) = (true, true);
                return Some(Piece { bytes: &self.line, cut: true });
            }
            self.read = part.end + usize::from(end.is_some());
            if self.skipping {
                self.skipping = end.is_none();
            } else if end.is_some() && self.line.is_empty() {
                return Some(whole(&self.chunk[part]));
            } else {
                self.line.extend_from_slice(&self.chunk[part]);
                if end.is_some() {
                    self.told = true;
                    return Some(whole(&self.line));
                }
            }
        }
    }

    /// What came after the last line's end.
    fn finish(&mut self) -> Option<Piece<'_>> {
        if mem::take(&mut self.told) {
            self.line.clear();
        }
        (!self.line.is_empty()).then(|| whole(&self.line))
    }
}

fn whole(bytes: &[u8]) -> Piece<'_> {
    Piece { bytes: bytes.strip_suffix(b"\r").unwrap_or(bytes), cut: false }
}

#[cfg(test)]
mod tests;
