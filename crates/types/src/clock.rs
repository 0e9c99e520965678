//! Clock, injected so that tests are deterministic, and timestamps.

use std::time::Duration;

use jiff::{Timestamp, fmt::temporal::Pieces};

use crate::error::Reason;

/// Wall clock and monotonic clock.
#[cfg_attr(feature = "testing", mockall::automock)]
pub trait Clock: Send + Sync {
    /// Current time by the wall clock, in whole microseconds: the precision of SQLite and PostgreSQL.
    fn now(&self) -> Timestamp;

    /// Current time by the monotonic clock, for measuring durations: the time since a fixed, arbitrary moment.
    fn monotonic(&self) -> Duration;
}

/// Parses an RFC 3339 timestamp. The last hours of the year 9999, a common value for "no end", are beyond the range of
/// [`Timestamp`]; they yield [`Timestamp::MAX`].
///
/// # Errors
/// [`Reason::Malformed`] if the text is not an RFC 3339 timestamp with an offset.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Reason> {
    let end_of_9999 = || {
        let pieces = Pieces::parse(text).ok()?;
        (pieces.date().year() == 9999 && pieces.time().is_some() && pieces.offset().is_some())
            .then_some(Timestamp::MAX)
    };
    text.parse().ok().or_else(end_of_9999).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_need_an_offset_and_are_limited_to_the_maximum() {
        let cases = [
            ("2026-01-01T00:00:00Z", Ok("2026-01-01T00:00:00Z")),
            ("2026-01-01T08:00:00.5+08:00", Ok("2026-01-01T00:00:00.5Z")),
            ("9999-12-31T23:59:59Z", Ok("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-31T23:59:59.999+00:00", Ok("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-31", Err(Reason::Malformed)),
            ("9999-12-31T23:59:59", Err(Reason::Malformed)),
            ("9999-13-31T23:59:59Z", Err(Reason::Malformed)),
            ("10000-01-01T00:00:00Z", Err(Reason::Malformed)),
            ("for ever", Err(Reason::Malformed)),
            ("", Err(Reason::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parse_timestamp(text).map(|time| time.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }
}
