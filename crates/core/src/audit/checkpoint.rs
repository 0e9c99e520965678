//! Checkpoints: signed states of the trail. Write access to the database is not sufficient to rewrite signed entries.
//!
//! A hash chain alone reveals an edit only to a reader that has stored a later hash: with database access, all hashes
//! after the edit can be recomputed. A checkpoint cannot be recomputed without the signing key. It is stored beside the
//! chain in the transaction that makes it due, and copied to a place that the owner of the database cannot write
//! ([`CheckpointSink`]).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ChainHash, Head};
use crate::{
    error::{Error, Result},
    hex::Hex,
};

/// An Ed25519 public key (RFC 8032).
pub type PublicKey = Hex<32>;

/// An Ed25519 signature.
pub type Signature = Hex<64>;

/// Port that verifies signatures, without a secret key.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait SignatureVerifier: Send + Sync {
    /// Whether `signature` is a signature of `key` over exactly this message.
    fn verifies(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Port that signs with the signing key of the install.
pub trait CheckpointSigner: SignatureVerifier {
    /// Public key that verifies the signatures.
    fn public_key(&self) -> PublicKey;

    /// Signs a message. Deterministic: the same message yields the same signature.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Checkpoint: the signed state of the trail at one time. Its JSON line has these fields in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Trail id: random, generated when the database was created.
    pub trail: String,
    /// Last entry covered.
    pub sequence: i64,
    /// Chain hash of that entry, which covers all entries before it.
    pub hash: ChainHash,
    /// Time of signing, by the server's wall clock.
    pub time: Timestamp,
    /// Signature over `Checkpoint::message`.
    pub signature: Signature,
}

impl Checkpoint {
    /// Maximum number of entries between two checkpoints.
    pub const EVERY: i64 = 1_000;

    /// Maximum time that an entry waits for a checkpoint.
    pub const AGE: Duration = Duration::from_secs(60);

    /// Purpose string: the first line of the signed message.
    const PURPOSE: &str = "pilothouse audit checkpoint 1";

    /// Signs the state of the trail.
    pub fn sign(signer: &dyn CheckpointSigner, trail: &str, head: Head, time: Timestamp) -> Self {
        Self::sign_as(Self::PURPOSE, signer, trail, head, time)
    }

    /// Signs the same fields for another purpose.
    pub(super) fn sign_as(
        purpose: &str,
        signer: &dyn CheckpointSigner,
        trail: &str,
        head: Head,
        time: Timestamp,
    ) -> Self {
        let Head { sequence, hash } = head;
        let signature = signer.sign(&Self::message(purpose, trail, sequence, hash, time));
        Self { trail: trail.to_owned(), sequence, hash, time, signature }
    }

    /// Whether `key` signed this checkpoint.
    pub fn is_signed_by(&self, key: &PublicKey, verifier: &dyn SignatureVerifier) -> bool {
        self.is_signed_as(Self::PURPOSE, key, verifier)
    }

    pub(super) fn is_signed_as(
        &self,
        purpose: &str,
        key: &PublicKey,
        verifier: &dyn SignatureVerifier,
    ) -> bool {
        let message = Self::message(purpose, &self.trail, self.sequence, self.hash, self.time);
        verifier.verifies(key, &message, &self.signature)
    }

    /// The head that is signed.
    pub const fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash }
    }

    /// The signed message: a line for the purpose, and one for each field.
    fn message(purpose: &str, trail: &str, sequence: i64, hash: ChainHash, time: Timestamp) -> Vec<u8> {
        format!("{purpose}\n{trail}\n{sequence}\n{hash}\n{time}\n").into_bytes()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal` if the checkpoint cannot be serialised.
    pub fn line(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("checkpoint: {error}")))
    }

    /// Parses a line. Returns none unless the line is exactly as [`Checkpoint::line`] writes it.
    pub fn parse(line: &str) -> Option<Self> {
        let checkpoint: Self = serde_json::from_str(line).ok()?;
        (checkpoint.line().ok()? == line).then_some(checkpoint)
    }
}

/// Position and time of the last checkpoint, to decide whether the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCheckpoint {
    /// Last entry covered; 0 before the first checkpoint.
    pub sequence: i64,
    /// Time of signing.
    pub time: Timestamp,
}

impl LastCheckpoint {
    /// Whether a trail that ends with `sequence` must be signed before the next entry.
    pub const fn is_full(self, sequence: i64) -> bool {
        sequence - self.sequence >= Checkpoint::EVERY
    }

    /// Whether a trail that ends with `sequence` must be signed at `now`, when no entry may wait longer than `age`. A
    /// clock that was set back makes a checkpoint due.
    pub fn is_due(self, sequence: i64, now: Timestamp, age: Duration) -> bool {
        let since = now.duration_since(self.time).unsigned_abs();
        self.is_full(sequence) || (sequence > self.sequence && since >= age)
    }
}

/// Storage port for checkpoints outside the database: each line as it was signed, oldest first. Calls may block on file
/// access.
pub trait CheckpointSink: Send + Sync {
    /// All lines; empty if none is stored.
    ///
    /// # Errors
    /// `Internal` when the lines cannot be read.
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>>;

    /// The checkpoint in the last line, not verified; none if there is no line.
    ///
    /// # Errors
    /// `Internal` when the lines cannot be read.
    fn last(&self) -> Result<Option<Checkpoint>>;

    /// Appends lines. They are durable when the call returns.
    ///
    /// # Errors
    /// `Internal` when the lines cannot be written.
    fn store(&self, lines: &[String]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake::FakeSigner;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        let head = Head { sequence: 7, hash: ChainHash([3; 32]) };
        Checkpoint::sign(&FakeSigner::default(), "trail", head, at(5))
    }

    #[test]
    fn signature_covers_every_field() {
        let signer = FakeSigner::default();
        let signed = checkpoint();
        let is_valid = |checkpoint: &Checkpoint| checkpoint.is_signed_by(&signer.public_key(), &signer);
        assert!(is_valid(&signed));
        for forged in [
            Checkpoint { trail: "other".to_owned(), ..signed.clone() },
            Checkpoint { sequence: 8, ..signed.clone() },
            Checkpoint { hash: ChainHash([4; 32]), ..signed.clone() },
            Checkpoint { time: at(6), ..signed.clone() },
            Checkpoint { signature: Hex([0; 64]), ..signed.clone() },
        ] {
            assert!(!is_valid(&forged), "{forged:?}");
        }
        assert!(!signed.is_signed_by(&Hex([1; 32]), &signer), "another key");
    }

    #[test]
    fn parse_accepts_canonical_lines_only() {
        let line = checkpoint().line().unwrap();
        assert_eq!(Checkpoint::parse(&line), Some(checkpoint()));
        for other in [format!(" {line}"), line.replace(':', ": "), line.replace("\"trail\"", "\"Trail\"")] {
            assert_eq!(Checkpoint::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn checkpoint_is_due_by_age_or_number_of_entries() {
        let last = LastCheckpoint { sequence: 500, time: at(1_000) };
        for (sequence, now, due) in [
            (500, 9_999, false),
            (501, 1_059, false),
            (501, 1_060, true),
            (1_499, 1_001, false),
            (1_500, 1_001, true),
            (501, 900, true),
        ] {
            assert_eq!(last.is_due(sequence, at(now), Checkpoint::AGE), due, "{sequence} at {now}");
        }
    }
}
