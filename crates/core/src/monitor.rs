//! Monitoring of the store: counts of stored objects and the state of this process's access to them, for metrics.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{cluster::Health, error::Result, ids::ClusterId};

/// Counts of stored objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Every cluster with the health found by its last probe.
    pub clusters: Vec<(ClusterId, Health)>,
    /// Number of sessions that have not expired.
    pub sessions: u64,
    /// Sequence number of the newest audit entry, which is the number of entries.
    pub audit_sequence: u64,
    /// Time since the last checkpoint known to this process, if newer entries are unsigned. Zero when none is
    /// unsigned.
    pub audit_unsigned: Duration,
}

/// A connection pool. SQLite has two, `read` and `write`; PostgreSQL has one, `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Name of the pool.
    pub name: &'static str,
    /// Maximum number of connections.
    pub max: usize,
    /// Number of open connections.
    pub open: usize,
    /// Number of open connections that are idle.
    pub idle: usize,
    /// Number of callers that wait for a connection.
    pub waiting: usize,
}

/// Port that monitors the store.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait StoreMonitor: Send + Sync {
    /// Reads the counts.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn stats(&self, now: Timestamp) -> Result<StoreStats>;

    /// Status of the connection pools of this process.
    fn pools(&self) -> Vec<PoolStats>;

    /// Whether the audit trail matches the part that this process has verified. If not, this process does not sign it.
    fn is_audit_signed(&self) -> bool;

    /// Number of audit entries that this process failed to store. Each retry counts.
    fn failed_audit_entries(&self) -> u64;
}
