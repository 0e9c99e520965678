//! Sealing what must not be readable in a database or a backup.

use uuid::Uuid;

use crate::error::Result;

/// To what a sealed value belongs. It is bound to it: opened as anything else, it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedFor {
    /// Drawn before the row is inserted, and stored beside it.
    pub row: Uuid,
    /// The table and column: `clusters.credential`.
    pub field: &'static str,
}

/// Seals and opens with the install's master key.
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
}
