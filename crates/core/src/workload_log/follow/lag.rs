//! Logs that lag behind the others, and which lines may be resumed from meanwhile.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::parts::OVERLAP;
use crate::workload_log::LogSource;

/// Age of a line, compared with the newest line of all logs, above which its log lags.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(15);
/// Time for which a log that lags counts as lagging after its last line.
const SILENCE: Duration = Duration::from_secs(30);

/// Logs that lag: a log that is read again after a failure first sends the lines of the meantime. To resume from the time
/// of a newer line of another log would lose the rest of them.
pub(super) struct Lag {
    /// Time from which no line may be lost.
    begin: Timestamp,
    /// Time of the newest line of all logs.
    newest: Timestamp,
    /// Time of the last line of each log that lags, and until when it counts as lagging.
    logs: HashMap<Arc<LogSource>, (Timestamp, Duration)>,
}

impl Lag {
    /// No log lags. `begin` is the time from which no line may be lost.
    pub(super) fn new(begin: Timestamp) -> Self {
        Self { begin, newest: Timestamp::MIN, logs: HashMap::new() }
    }

    /// Accepts a line. Returns whether to resume from its time loses no line.
    pub(super) fn accept(&mut self, source: &Arc<LogSource>, time: Timestamp, now: Duration) -> bool {
        self.newest = self.newest.max(time);
        if self.newest.duration_since(time) > MAX_AGE {
            if time < self.begin {
                // one of the existing lines with which the stream begins
                return false;
            }
            self.logs.insert(source.clone(), (time, now + SILENCE));
        } else if !self.logs.is_empty() {
            self.logs.remove(source);
        }
        self.logs.retain(|_, (_, until)| *until > now);
        self.logs.values().all(|(last, _)| time.duration_since(*last) <= OVERLAP)
    }

    /// Removes a log all of whose lines were sent.
    pub(super) fn remove(&mut self, source: &Arc<LogSource>) {
        self.logs.remove(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClusterId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn source(pod: &str) -> Arc<LogSource> {
        Arc::new(LogSource { cluster_id: ClusterId(1), pod: pod.to_owned(), container: "app".to_owned() })
    }

    #[test]
    fn stream_is_not_resumed_from_a_line_that_a_lagging_log_has_not_reached() {
        let (mut lag, [a, b], now) = (Lag::new(at(0)), ["a", "b"].map(source), Duration::ZERO);
        assert!(lag.accept(&a, at(100), now));
        assert!(lag.accept(&b, at(10), now), "the lagging log itself");
        assert!(!lag.accept(&a, at(101), now));
        assert!(lag.accept(&b, at(80), now));
        assert!(lag.accept(&a, at(102), now), "less than the overlap before it");
        assert!(!lag.accept(&a, at(120), now));
        assert!(lag.accept(&b, at(119), now) && lag.accept(&a, at(121), now), "it has caught up");
        assert!(lag.accept(&b, at(20), now) && !lag.accept(&a, at(122), now));
        lag.remove(&b);
        assert!(lag.accept(&a, at(123), now), "it has ended");
    }

    #[test]
    fn log_that_is_silent_lags_for_a_time_only() {
        let (mut lag, [a, b]) = (Lag::new(at(0)), ["a", "b"].map(source));
        lag.accept(&a, at(100), Duration::ZERO);
        lag.accept(&b, at(10), Duration::ZERO);
        assert!(!lag.accept(&a, at(129), SILENCE / 2));
        assert!(lag.accept(&a, at(130), SILENCE));
    }

    #[test]
    fn late_lines_from_before_the_begin_are_not_resumed_from() {
        let (mut lag, [a, b], now) = (Lag::new(at(50)), ["a", "b"].map(source), Duration::ZERO);
        assert!(lag.accept(&b, at(1), now), "in order");
        assert!(lag.accept(&a, at(100), now));
        assert!(!lag.accept(&b, at(2), now));
        assert!(lag.accept(&a, at(101), now), "it does not lag");
    }
}
