//! Encryption at rest ("sealing") of values that must not be readable in a database or a backup.

use std::sync::Arc;

use uuid::Uuid;

use crate::{audit::CheckpointSigner, error::Result};

/// Owner of a sealed value. A value can be opened only for the owner for which it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFor {
    /// Random id, generated before the row is inserted and stored with the row.
    pub row: Uuid,
    /// Table and column: `clusters.credential`.
    pub field: &'static str,
}

/// Seals and opens values with one master key.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Sealer: Send + Sync {
    /// Seals a value. Sealing the same value twice yields two different results.
    ///
    /// # Errors
    /// `Internal` if the value cannot be encrypted.
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>>;

    /// Opens a sealed value.
    ///
    /// # Errors
    /// `Internal` when the sealed value was changed, truncated, sealed for another owner, or sealed with another key. A
    /// wrong value is never returned.
    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>>;

    /// Prefix of all values sealed with this key; no value sealed with another key has it. Used to find the stored
    /// values that are not sealed with this key yet.
    fn mark(&self) -> Vec<u8>;
}

/// Sealer and signer derived from one master key.
#[derive(Clone)]
pub struct Keys {
    /// Seals stored values.
    pub sealer: Arc<dyn Sealer>,
    /// Signs checkpoints of the audit trail.
    pub signer: Arc<dyn CheckpointSigner>,
}

/// Keyring: the master keys that this process holds, identified by their fingerprints. Usually there is one key. During
/// a rekey there are two, and the database stores which of them is active: code that seals or signs reads this record
/// in the same transaction. See `docs/decisions/0018-rekey-while-servers-run.md`.
pub trait Keyring: Send + Sync {
    /// Fingerprint of the active key, as last seen by this process.
    fn active(&self) -> String;

    /// Sealer and signer of the key with this fingerprint. A key that is not held yet is read from its configured
    /// location.
    ///
    /// # Errors
    /// `StoreUnavailable` when that location has no such key: the database requires the key, so the store cannot be
    /// used until the key is provided.
    fn keys(&self, fingerprint: &str) -> Result<Keys>;

    /// Opens a value with the key with which it was sealed.
    ///
    /// # Errors
    /// As [`Sealer::open`], and `Internal` when that key is not held.
    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>>;

    /// Sets the active key, as stored in the database. A key that was replaced is never set again.
    ///
    /// # Errors
    /// As [`Keyring::keys`].
    fn set_active(&self, fingerprint: &str) -> Result<()>;
}
