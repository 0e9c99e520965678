//! Sizes and durations of a run: full for the report, small for the smoke test.

use std::{path::PathBuf, time::Duration};

/// The sizes and times of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server binary.
    pub(crate) binary: PathBuf,
    /// The server binary of an earlier build, with which B4 and B11 compare.
    pub(crate) before: Option<PathBuf>,
    /// Pods per cluster, ascending.
    pub(crate) counts: Vec<usize>,
    /// Rounds per subject.
    pub(crate) rounds: usize,
    /// Duration of one round.
    pub(crate) window: Duration,
    /// Duration of B6 at each rate of changes, and of all phases of each kind of B14.
    pub(crate) freshness: Duration,
    /// Number of registered clusters in B7 and B11.
    pub(crate) clusters: usize,
    /// Duration without requests in B7.
    pub(crate) idle: Duration,
    /// Number of scale operations in B8, through Pilothouse and directly.
    pub(crate) scales: usize,
    /// Size of the log in bytes and number of followers in B9.
    pub(crate) log_bytes: usize,
    pub(crate) followers: usize,
    /// Rows of the audit trail in B10, and number of inserted entries.
    pub(crate) audit_rows: usize,
    pub(crate) audit_inserts: usize,
    /// Number of measured decisions in B12.
    pub(crate) decisions: usize,
    /// Number of registered clusters in B13.
    pub(crate) problem_clusters: usize,
    /// Whether this is the smoke test.
    pub(crate) smoke: bool,
}

impl Plan {
    /// The plan of the report.
    pub(crate) fn full(binary: PathBuf) -> Self {
        Self {
            binary,
            before: None,
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
            decisions: 1_000_000,
            problem_clusters: 100,
            smoke: false,
        }
    }

    /// The plan for CI: all rows once, with small sizes. The results are no measure of speed.
    pub(crate) fn smoke(binary: PathBuf) -> Self {
        Self {
            binary,
            before: None,
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
            decisions: 2_000,
            problem_clusters: 3,
            smoke: true,
        }
    }

    /// Pods of the largest cluster.
    pub(crate) fn pods(&self) -> usize {
        self.counts.iter().copied().max().unwrap_or(1_000)
    }

    /// Waiting time until the memory use is stable: `full`, or 100 ms in the smoke test.
    pub(crate) fn settle_time(&self, full: Duration) -> Duration {
        if self.smoke { Duration::from_millis(100) } else { full }
    }
}
