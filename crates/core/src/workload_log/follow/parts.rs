//! The clusters and pods of a stream, and what is read of their logs.

use std::{sync::Arc, time::Duration};

use futures_channel::mpsc;
use jiff::{SignedDuration, Timestamp};

use crate::{
    access::Permit,
    error::Cause,
    ids::ClusterId,
    name::ContainerName,
    pod::{FollowStart, LogOptions},
    workload_log::{LogSource, LogTime, WorkloadLogStart, pods::SeenPod, source::Mode},
};

/// Time before the id from which a stream is resumed, whose lines are sent again: within it, lines of one log may have
/// arrived later than those of others.
pub(super) const OVERLAP: SignedDuration = SignedDuration::from_secs(30);

/// A cluster of the stream.
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    pub(super) permit: Permit,
    /// Whether its pods were read, or could not be read.
    pub(super) has_answered: bool,
    /// Whether its pods were read.
    pub(super) was_read: bool,
    /// Until when it counts as behind.
    pub(super) behind_until: Option<Duration>,
    /// The cause that was reported last.
    pub(super) failure: Option<Cause>,
}

/// A pod of the workload.
pub(super) struct Pod {
    pub(super) seen: SeenPod,
    /// Whether it existed when the stream began.
    pub(super) is_first: bool,
    pub(super) stage: PodStage,
    /// Whether the failure to read its containers was reported.
    pub(super) has_failed: bool,
    /// Its containers that are followed. Dropped with the pod.
    pub(super) followed: Vec<Followed>,
}

impl Pod {
    /// Whether a container is followed.
    pub(super) fn follows(&self, container: &ContainerName) -> bool {
        self.followed.iter().any(|followed| followed.source.container == container.as_str())
    }
}

/// A container that is followed.
pub(super) struct Followed {
    pub(super) source: Arc<LogSource>,
    /// Signals changes of the pod. Without it, the source is over when its log ends.
    pub(super) signal: mpsc::Sender<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PodStage {
    /// There is no place for it, or for some of its containers.
    LeftOut,
    /// Its containers are being read.
    Resolving,
    /// All its containers are followed.
    Followed,
    /// Its containers have ended, and newer pods have their places.
    Released,
}

/// What is read of the logs of the pods that exist when the stream begins, and of later ones.
pub(super) fn modes(start: WorkloadLogStart, previous: bool) -> (Mode, Mode) {
    let first = match start {
        WorkloadLogStart::Newest { lines, since_seconds } if previous => {
            Mode::Previous { lines, since_seconds }
        }
        // a resumed read of previous logs begins anew
        WorkloadLogStart::After(_) if previous => {
            Mode::Previous { lines: LogOptions::DEFAULT_TAIL, since_seconds: None }
        }
        WorkloadLogStart::Newest { lines, since_seconds } => {
            Mode::Follow(FollowStart::Newest { lines, since_seconds })
        }
        WorkloadLogStart::After(LogTime(time)) => {
            let begin = time.checked_sub(OVERLAP).unwrap_or(Timestamp::UNIX_EPOCH);
            Mode::Follow(FollowStart::Since(Timestamp::from_second(begin.as_second()).unwrap_or(begin)))
        }
    };
    let later = if previous { first.clone() } else { Mode::Follow(FollowStart::Beginning) };
    (first, later)
}

/// The time from which no line of the logs may be lost: that of the id, or the present. Existing lines with which a stream
/// begins may be older.
pub(super) fn begin(start: WorkloadLogStart, now: Timestamp) -> Timestamp {
    match start {
        WorkloadLogStart::After(LogTime(time)) => time.checked_sub(OVERLAP).unwrap_or(Timestamp::MIN),
        WorkloadLogStart::Newest { .. } => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(mode: Mode) -> FollowStart {
        match mode {
            Mode::Follow(start) => start,
            previous => panic!("{previous:?}"),
        }
    }

    #[test]
    fn resumed_stream_begins_before_its_id_and_reads_later_pods_whole() {
        let id = "2026-01-02T03:04:35.9Z".parse().unwrap();
        let (first, later) = modes(WorkloadLogStart::After(id), false);
        assert_eq!(start(first), FollowStart::Since("2026-01-02T03:04:05Z".parse().unwrap()));
        assert_eq!(start(later), FollowStart::Beginning);
        let newest = WorkloadLogStart::Newest { lines: 7, since_seconds: Some(60) };
        let (first, later) = modes(newest, false);
        assert_eq!(start(first), FollowStart::Newest { lines: 7, since_seconds: Some(60) });
        assert_eq!(start(later), FollowStart::Beginning);
        let (first, _) = modes(newest, true);
        assert!(matches!(first, Mode::Previous { lines: 7, since_seconds: Some(60) }), "{first:?}");
    }
}
