//! Fakes of the checkpoint ports: a hash as signature, and a checkpoint sink in memory.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::{
    audit::{Checkpoint, CheckpointSigner, CheckpointSink, PublicKey, Signature, SignatureVerifier},
    error::Result,
    hex::Hex,
};

/// Signer whose signature is a hash of the public key and the message. Everybody can forge such a signature.
#[derive(Clone, Copy)]
pub struct FakeSigner {
    key: PublicKey,
}

impl Default for FakeSigner {
    fn default() -> Self {
        Self { key: Hex([7; 32]) }
    }
}

impl FakeSigner {
    /// Creates the signer with this public key.
    pub fn of(key: PublicKey) -> Self {
        Self { key }
    }
}

fn signature(key: &PublicKey, message: &[u8]) -> Signature {
    let half =
        |which: u8| Sha256::new().chain_update([which]).chain_update(key.0).chain_update(message).finalize();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&half(0));
    signature[32..].copy_from_slice(&half(1));
    Hex(signature)
}

impl SignatureVerifier for FakeSigner {
    fn verifies(&self, key: &PublicKey, message: &[u8], signed: &Signature) -> bool {
        signature(key, message) == *signed
    }
}

impl CheckpointSigner for FakeSigner {
    fn public_key(&self) -> PublicKey {
        self.key
    }

    fn sign(&self, message: &[u8]) -> Signature {
        signature(&self.key, message)
    }
}

/// A checkpoint sink in memory.
#[derive(Default)]
pub struct MemoryCheckpointSink(Mutex<Vec<String>>);

impl MemoryCheckpointSink {
    /// A sink that contains these lines.
    pub fn of(lines: Vec<String>) -> Self {
        Self(Mutex::new(lines))
    }

    /// Removes all lines, as if the file were removed.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn stored(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl CheckpointSink for MemoryCheckpointSink {
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>> {
        Ok(Box::new(self.stored().into_iter().map(Ok)))
    }

    fn last(&self) -> Result<Option<Checkpoint>> {
        Ok(self.stored().last().and_then(|line| Checkpoint::parse(line)))
    }

    fn store(&self, lines: &[String]) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(lines);
        Ok(())
    }
}
