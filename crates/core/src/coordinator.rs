//! Coordination of replicas: processes that share one store divide their work by rows. A lease shows that a process is
//! alive, a claim assigns a probe of a cluster or the delivery to a webhook to one process.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{audit::Cursor, error::Result, ids::ClusterId};

/// Duration of a lease. A process renews its lease several times in this period.
pub const LEASE: Duration = Duration::from_secs(15);

/// Port for the leases and claims of one process. Leases and claims belong to the process, not to a caller, so no
/// method takes a permit.
///
/// `at` is the current time of this process. Clocks of replicas may differ: a store that several replicas can share
/// measures leases by a clock of its own.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Coordinator: Send + Sync {
    /// Registers this process as a server and takes its first lease. To be called once, before orphans are closed.
    /// Commands that only read or change Pilothouse's own tables leave nothing pending and need no lease. Returns false
    /// if the store can have only one server and another process is that server.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port; `Internal` when the lock of the store cannot be used.
    async fn take_lease(&self, at: Timestamp) -> Result<bool>;

    /// Renews the lease. A server calls this several times per [`LEASE`], until all of its tasks have ended. A server
    /// that cannot renew may continue: an operation that others have closed as an orphan stays `unknown`.
    async fn renew_lease(&self, at: Timestamp) -> Result<()>;

    /// Ends the lease, because this process is about to exit. Operations that it leaves pending become orphans, and
    /// other replicas may take over its claims. After an error, the lease expires.
    async fn end_lease(&self) -> Result<()>;

    /// Claims probes of clusters whose last claim is older than `interval`, at most `limit`, those with the oldest
    /// claims. A registration counts as a claim. Each cluster is returned to one of the replicas that call at the same
    /// time. A claim more than `interval` in the future, which was made before the clock was set back, counts as old.
    async fn claim_probes(&self, interval: Duration, limit: usize, at: Timestamp) -> Result<Vec<ClusterId>>;

    /// Claims delivery to a receiver, or keeps the claim, and returns the receiver's cursor. `None` while another
    /// replica with a valid lease holds the claim.
    async fn claim_delivery(&self, receiver: &str, at: Timestamp) -> Result<Option<Cursor>>;

    /// Saves the cursor of a receiver. Returns false, and saves nothing, if this process no longer holds the claim.
    async fn save_cursor(&self, receiver: &str, cursor: Cursor) -> Result<bool>;

    /// The cursor of a receiver, with or without the claim; the start of the trail if there never was a claim.
    async fn cursor(&self, receiver: &str) -> Result<Cursor>;
}
