//! State machine of a watch, with the state names of kube-rs: timeout and end of each state.

use std::time::Duration;

use super::initial_events::InitialEvents;

/// Idle timeout while receiving initial events. After it, the server is assumed not to support `sendInitialEvents`.
const INITIAL_EVENTS_TIMEOUT: Duration = Duration::from_secs(3);

/// State of a watch.
pub(super) enum WatchState {
    /// Requested with `sendInitialEvents`; no object was received yet.
    Init,
    /// Objects are being received.
    InitPage(InitialEvents),
    /// All objects were received, or the watch began at a resource version. Events are changes.
    Watching,
}

/// Timeouts of a watch and its waiting times so far.
#[derive(Clone, Copy)]
pub(super) struct Waits {
    /// Timeout requested for this watch.
    pub(super) timeout: Duration,
    /// Timeout requested for watches while rows are current.
    pub(super) full_timeout: Duration,
    /// Timeout until a response begins.
    pub(super) deadline: Duration,
    /// Waiting time since the last complete event.
    pub(super) idle: Duration,
    /// Waiting time in total.
    pub(super) total: Duration,
}

/// Event that ends a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// No data for [`WatchState::remaining`].
    Silence,
    /// The body ended.
    BodyEnd {
        /// Whether at least one line of the watch protocol was received.
        any_line: bool,
        /// Whether the watch lasted for its timeout.
        full_duration: bool,
    },
    /// The response is not a watch: the server does not support `sendInitialEvents`.
    NotAWatch,
    /// An `ERROR` event with this HTTP status.
    Error(u16),
}

/// End of a watch that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// Regular end.
    Ended {
        /// As in [`Input::BodyEnd`].
        any_line: bool,
        /// As in [`Input::BodyEnd`].
        full_duration: bool,
    },
    /// The server no longer has the resource version, or versions went backwards.
    Expired,
    /// The server does not support `sendInitialEvents`.
    NoInitialEvents,
}

/// Failure of a watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchFailure {
    /// No data in time.
    Silent,
    /// The server ended the watch with this HTTP status.
    Status(u16),
}

impl WatchState {
    /// Remaining time to wait for the next data.
    pub(super) fn remaining(&self, waits: Waits) -> Duration {
        let Waits { timeout, full_timeout, deadline, idle, total } = waits;
        // the server sends a bookmark before the timeout
        let tolerance = full_timeout / 4;
        match self {
            Self::Init => deadline.saturating_sub(idle),
            Self::InitPage(_) => INITIAL_EVENTS_TIMEOUT
                .saturating_sub(idle)
                .min((full_timeout + tolerance).saturating_sub(total)),
            Self::Watching => (timeout + tolerance).saturating_sub(idle),
        }
    }

    /// Result of the watch after this input.
    ///
    /// # Errors
    /// The failure, if this is not a regular end.
    pub(super) fn step(&self, input: Input) -> Result<WatchEnd, WatchFailure> {
        match (self, input) {
            (_, Input::NotAWatch)
            | (Self::InitPage(_), Input::Silence)
            | (Self::Init | Self::InitPage(_), Input::BodyEnd { .. }) => Ok(WatchEnd::NoInitialEvents),
            (Self::Watching, Input::BodyEnd { any_line, full_duration }) => {
                Ok(WatchEnd::Ended { any_line, full_duration })
            }
            (Self::Init | Self::Watching, Input::Silence) => Err(WatchFailure::Silent),
            (_, Input::Error(410)) => Ok(WatchEnd::Expired),
            (_, Input::Error(status)) => Err(WatchFailure::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> [WatchState; 3] {
        [WatchState::Init, WatchState::InitPage(InitialEvents::default()), WatchState::Watching]
    }

    #[test]
    fn end_depends_on_state_and_input() {
        let body_end = Input::BodyEnd { any_line: true, full_duration: false };
        let ended = WatchEnd::Ended { any_line: true, full_duration: false };
        let no_initial_events = || Ok(WatchEnd::NoInitialEvents);
        let silent = || Err(WatchFailure::Silent);
        let cases = [
            (Input::Silence, [silent(), no_initial_events(), silent()]),
            (body_end, [no_initial_events(), no_initial_events(), Ok(ended)]),
            (Input::NotAWatch, [(); 3].map(|()| no_initial_events())),
            (Input::Error(410), [(); 3].map(|()| Ok(WatchEnd::Expired))),
            (Input::Error(500), [(); 3].map(|()| Err(WatchFailure::Status(500)))),
        ];
        for (input, expected) in cases {
            assert_eq!(states().map(|state| state.step(input)), expected, "{input:?}");
        }
    }

    #[test]
    fn waiting_time_depends_on_state() {
        let waits = |idle, total| Waits {
            timeout: Duration::from_secs(8),
            full_timeout: Duration::from_secs(20),
            deadline: Duration::from_secs(10),
            idle: Duration::from_secs(idle),
            total: Duration::from_secs(total),
        };
        // idle and total waiting time; remaining time in each state, all in seconds
        let cases = [
            ((0, 0), [10, 3, 13]),
            ((2, 2), [8, 1, 11]),
            ((3, 3), [7, 0, 10]),
            ((0, 24), [10, 1, 13]),
            ((0, 26), [10, 0, 13]),
            ((14, 14), [0, 0, 0]),
        ];
        for ((idle, total), expected) in cases {
            let remaining = states().map(|state| state.remaining(waits(idle, total)).as_secs());
            assert_eq!(remaining, expected, "{idle} s, {total} s");
        }
    }
}
