//! How much is measured: all of it for the report, little of everything to see that it works.

use std::{path::PathBuf, time::Duration};

/// The sizes and times of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) binary: PathBuf,
    /// How many pods the clusters have, growing.
    pub(crate) counts: Vec<usize>,
    /// Rounds of each subject.
    pub(crate) rounds: usize,
    /// The time of one round.
    pub(crate) window: Duration,
    /// How long changes are watched, at each rate.
    pub(crate) freshness: Duration,
    /// Registered clusters.
    pub(crate) clusters: usize,
    /// How long clusters that nobody asks for are left alone.
    pub(crate) idle: Duration,
    /// Scales of each way.
    pub(crate) scales: usize,
    /// Bytes of a log, and how many follow one.
    pub(crate) log_bytes: usize,
    pub(crate) followers: usize,
    /// Rows of the audit trail, and how many are inserted on top.
    pub(crate) audit_rows: usize,
    pub(crate) audit_inserts: usize,
    /// Whether it is only to be seen that everything works.
    pub(crate) smoke: bool,
}

impl Plan {
    /// For the report.
    pub(crate) fn full(binary: PathBuf) -> Self {
        Self {
            binary,
            counts: vec![1_000, 10_000, 100_000],
            rounds: 5,
            window: Duration::from_secs(1),
            freshness: Duration::from_secs(15),
            clusters: 500,
            idle: Duration::from_secs(70),
            scales: 400,
            log_bytes: 100_000_000,
            followers: 100,
            audit_rows: 1_000_000,
            audit_inserts: 20_000,
            smoke: false,
        }
    }

    /// For CI: everything once, small, without a word on speed.
    pub(crate) fn smoke(binary: PathBuf) -> Self {
        Self {
            binary,
            counts: vec![1_000],
            rounds: 1,
            window: Duration::from_millis(100),
            freshness: Duration::from_secs(1),
            clusters: 20,
            idle: Duration::from_secs(1),
            scales: 5,
            log_bytes: 1_000_000,
            followers: 10,
            audit_rows: 5_000,
            audit_inserts: 300,
            smoke: true,
        }
    }

    /// The biggest cluster.
    pub(crate) fn pods(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(1_000)
    }

    /// How long to wait for something to settle.
    pub(crate) fn patience(&self, full: Duration) -> Duration {
        if self.smoke { Duration::from_millis(100) } else { full }
    }
}
