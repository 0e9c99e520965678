//! Sealing what must not be readable in a database or a backup.

use std::sync::Arc;

use uuid::Uuid;

use crate::{audit::CheckpointSigner, error::Result};

/// To what a sealed value belongs. It is bound to it: opened as anything else, it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFor {
    /// Drawn before the row is inserted, and stored beside it.
    pub row: Uuid,
    /// The table and column: `clusters.credential`.
    pub field: &'static str,
}

/// Seals and opens with one master key.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Sealer: Send + Sync {
    /// Seals a value. Twice the same value gives two texts.
    ///
    /// # Errors
    /// `Internal`.
    fn seal(&self, owner: &SealedFor, value: &[u8]) -> Result<Vec<u8>>;

    /// Opens a sealed value.
    ///
    /// # Errors
    /// `Internal` when it was changed, cut, sealed for another owner, or with another key. Never garbage.
    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>>;

    /// What everything begins with that this key has sealed, and nothing that another one has: by this a database finds
    /// what is not sealed with a key yet.
    fn mark(&self) -> Vec<u8>;
}

/// What stands on one master key, as far as the database is concerned.
#[derive(Clone)]
pub struct Keys {
    /// Seals what the database keeps.
    pub sealer: Arc<dyn Sealer>,
    /// Signs checkpoints of the trail.
    pub signer: Arc<dyn CheckpointSigner>,
}

/// The master keys that this process holds, each known by its fingerprint. There is one, but while the database is sealed
/// anew with the next one there are two, and the database says which of them is in use: whoever seals or signs asks it
/// in the same transaction. See `docs/decisions/0018-rekey-while-servers-run.md`.
pub trait Keyring: Send + Sync {
    /// The fingerprint of the key in use, as far as this process knows.
    fn current(&self) -> String;

    /// What stands on the key of this fingerprint. One that is not held is looked for where it should lie.
    ///
    /// # Errors
    /// `StoreUnavailable` when it is not there: what the database asks for cannot be done before it is.
    fn keys(&self, fingerprint: &str) -> Result<Keys>;

    /// Opens a value with the key that it was sealed with.
    ///
    /// # Errors
    /// As [`Sealer::open`]; with a key that is not held, too.
    fn open(&self, owner: &SealedFor, sealed: &[u8]) -> Result<Vec<u8>>;

    /// The database says that this key is in use. One that was in use before is never taken into use again.
    ///
    /// # Errors
    /// As [`Keyring::keys`].
    fn turn_to(&self, fingerprint: &str) -> Result<()>;
}
