//! Checkpoints: what the trail was at a moment, signed, so that whoever rewrites the database cannot rewrite the past.
//!
//! A hash chain alone tells of an edit only to somebody who remembers a later hash: with the database at hand, all hashes
//! after the edit can be computed anew. A checkpoint cannot be, without the signing key. It is stored beside the chain in
//! the transaction that makes it due, and copied to where the database's owner cannot reach ([`CheckpointSink`]).

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

/// Checks signatures; needs no secret.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait SignatureVerifier: Send + Sync {
    /// Whether `key`'s owner signed exactly this message.
    fn verifies(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Signs with the install's key.
pub trait CheckpointSigner: SignatureVerifier {
    /// By which signatures are known.
    fn public_key(&self) -> PublicKey;

    /// Signs a message. The same message gives the same signature.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// What the trail was at a moment. Its line in JSON has these fields in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Which trail: drawn when its database was made.
    pub trail: String,
    /// The last entry covered.
    pub sequence: i64,
    /// The hash of that entry, and so of all before it.
    pub hash: ChainHash,
    /// When it was signed, by our wall clock.
    pub time: Timestamp,
    /// Over `Checkpoint::message`.
    pub signature: Signature,
}

impl Checkpoint {
    /// The most entries that follow a checkpoint before the next one.
    pub const EVERY: i64 = 1_000;

    /// The longest that an entry waits for one.
    pub const AGE: Duration = Duration::from_secs(60);

    /// The first line of what is signed.
    const PURPOSE: &str = "pilothouse audit checkpoint 1";

    /// Signs what the trail is.
    pub fn sign(signer: &dyn CheckpointSigner, trail: &str, head: Head, time: Timestamp) -> Self {
        Self::sign_as(Self::PURPOSE, signer, trail, head, time)
    }

    /// The same fields, signed to say something else.
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

    /// Whether the owner of `key` signed it.
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

    /// What the trail was.
    pub const fn head(&self) -> Head {
        Head { sequence: self.sequence, hash: self.hash }
    }

    /// The bytes that are signed: a line for the purpose, and one for each field.
    fn message(purpose: &str, trail: &str, sequence: i64, hash: ChainHash, time: Timestamp) -> Vec<u8> {
        format!("{purpose}\n{trail}\n{sequence}\n{hash}\n{time}\n").into_bytes()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal`, should it not serialise.
    pub fn line(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::internal(format!("checkpoint: {error}")))
    }

    /// Reads a line; none when it is not exactly as [`Checkpoint::line`] writes it.
    pub fn parse(line: &str) -> Option<Self> {
        let checkpoint: Self = serde_json::from_str(line).ok()?;
        (checkpoint.line().ok()? == line).then_some(checkpoint)
    }
}

/// The last checkpoint of a trail, as far as is needed to know whether the next one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastCheckpoint {
    /// The last entry covered; 0 before the first checkpoint.
    pub sequence: i64,
    /// When it was signed.
    pub time: Timestamp,
}

impl LastCheckpoint {
    /// Whether the trail that has grown to `sequence` is to be signed before the next entry.
    pub const fn is_full(self, sequence: i64) -> bool {
        sequence - self.sequence >= Checkpoint::EVERY
    }

    /// Whether the trail that has grown to `sequence` is to be signed at `now`, where no entry is to wait longer than `age`.
    /// A clock that was set back makes it due.
    pub fn is_due(self, sequence: i64, now: Timestamp, age: Duration) -> bool {
        let since = now.duration_since(self.time).unsigned_abs();
        self.is_full(sequence) || (sequence > self.sequence && since >= age)
    }
}

/// Keeps checkpoints outside the database: each line as it was signed, oldest first. Calls may block for as long as a
/// file does.
pub trait CheckpointSink: Send + Sync {
    /// Every line. Nothing kept is no line.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    fn lines(&self) -> Result<Box<dyn Iterator<Item = Result<String>> + Send>>;

    /// The last line, as it was kept; none without any. Who relies on it verifies it.
    ///
    /// # Errors
    /// `Internal` when they cannot be read.
    fn last(&self) -> Result<Option<Checkpoint>>;

    /// Keeps more lines; durable when it returns.
    ///
    /// # Errors
    /// `Internal` when they cannot be written.
    fn keep(&self, lines: &[String]) -> Result<()>;
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
    fn every_field_is_signed() {
        let signer = FakeSigner::default();
        let signed = checkpoint();
        let is_ours = |checkpoint: &Checkpoint| checkpoint.is_signed_by(&signer.public_key(), &signer);
        assert!(is_ours(&signed));
        for forged in [
            Checkpoint { trail: "other".to_owned(), ..signed.clone() },
            Checkpoint { sequence: 8, ..signed.clone() },
            Checkpoint { hash: ChainHash([4; 32]), ..signed.clone() },
            Checkpoint { time: at(6), ..signed.clone() },
            Checkpoint { signature: Hex([0; 64]), ..signed.clone() },
        ] {
            assert!(!is_ours(&forged), "{forged:?}");
        }
        assert!(!signed.is_signed_by(&Hex([1; 32]), &signer), "another key");
    }

    #[test]
    fn only_the_very_line_is_read() {
        let line = checkpoint().line().unwrap();
        assert_eq!(Checkpoint::parse(&line), Some(checkpoint()));
        for other in [format!(" {line}"), line.replace(':', ": "), line.replace("\"trail\"", "\"Trail\"")] {
            assert_eq!(Checkpoint::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn due_by_table() {
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
