//! Audit trail: the hash chain that makes a later edit detectable, the ports that read and maintain it, and the use
//! cases that list, verify and export the trail. [`crate::operation`] defines its entries and the port that writes
//! them.
//!
//! The trail is append-only. A change to a cluster has two entries: the intent, durable before the call, and the
//! outcome. A change to Pilothouse's own tables, a refusal and a login have one entry, written in the same transaction
//! as the event it records. Lists are served from one row per operation; the transaction of the outcome completes it.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{error::Result, ids::OperationId};

mod batch;
mod chain;
mod checkpoint;
mod defect;
mod export;
mod k8s;
mod key_rotation;
mod retention;
mod row;
mod slots;
mod usecase;
mod verified;
mod verified_range;
mod verify;
mod walk;

pub use batch::{Batch, Cursor};
#[cfg(any(test, feature = "testing"))]
pub use chain::MockTrailReader;
pub use chain::{ChainHash, Head, Signatures, StoredCheckpoint, StoredEntry, StoredRow, TrailReader};
pub use checkpoint::{
    Checkpoint, CheckpointSigner, CheckpointSink, LastCheckpoint, PublicKey, Signature, SignatureVerifier,
};
pub use defect::{Defect, Fault};
pub use export::{Export, ExportFormat, ExportQuery, verify_export};
pub use key_rotation::{KeyRotation, TrailKeys};
#[cfg(any(test, feature = "testing"))]
pub use retention::MockTrailPruner;
pub use retention::{Archive, Part, Retained, TrailPruner, TrailStart};
pub use row::{AuditedClusters, OperationPage, OperationQuery, OperationRow};
pub use usecase::{Audit, AuditPorts};
pub use verified::{TrailFollower, Trusted, VerifiedTrail};
pub use verify::{Verdict, verify};

/// Port that reads the operations list.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditQuery: Send + Sync {
    /// Returns a page of operations.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn operations(&self, query: &OperationQuery) -> Result<OperationPage>;

    /// Returns the rows of these operations, in any order. An operation without a row is omitted.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn operations_of(&self, ids: &[OperationId]) -> Result<Vec<OperationRow>>;
}

/// Port for the maintenance of the audit trail: pending operations of ended processes, and checkpoints. Every write is
/// durable when the call returns.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuditMaintenance: Send + Sync {
    /// Closes as `unknown` the pending operations of processes that have ended. Returns how many were closed.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    async fn close_orphans(&self, at: Timestamp) -> Result<u64>;

    /// Signs the last entry, unless it is signed already or the last checkpoint is younger than `age`. An append
    /// also signs when the last checkpoint is [`Checkpoint::AGE`] old; this call covers idle times and shutdown. Only
    /// entries that follow from verified entries are signed. The default implementation, for a trail without
    /// checkpoints, does nothing.
    ///
    /// # Errors
    /// `AuditUnavailable`; `Internal` when the trail does not follow from the verified entries.
    async fn checkpoint(&self, age: Duration) -> Result<()> {
        let _ = age;
        Ok(())
    }
}
