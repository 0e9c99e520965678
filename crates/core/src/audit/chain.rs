//! Hash chain: the stored, unverified form of the trail, and the rules that each entry must satisfy.

use std::collections::HashSet;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, Defect, Fault, KeyRotation, PublicKey, SignatureVerifier, TrailKeys};
use crate::{error::Result, hex::Hex, ids::OperationId, operation::Entry, rows::Cell};

/// Chain hash: SHA-256 over an entry and all entries before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Hex<32>", into = "Hex<32>")]
pub struct ChainHash(pub [u8; 32]);

impl From<Hex<32>> for ChainHash {
    fn from(hex: Hex<32>) -> Self {
        Self(hex.0)
    }
}

impl From<ChainHash> for Hex<32> {
    fn from(hash: ChainHash) -> Self {
        Self(hash.0)
    }
}

impl std::fmt::Display for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Hex(self.0).fmt(f)
    }
}

impl ChainHash {
    /// The hash before the first entry: all zero bytes.
    pub const GENESIS: Self = Self([0; 32]);

    /// Hash of the entry `seq` (1 for the first, without gaps) with this canonical text, after `self`:
    /// SHA-256 over the previous hash, the sequence number in eight big-endian bytes, and the text.
    pub fn next(self, seq: i64, canonical: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(seq.to_be_bytes());
        hasher.update(canonical.as_bytes());
        Self(hasher.finalize().into())
    }
}

/// Head of a chain: its last entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Head {
    /// Sequence number; 0 when there is no entry.
    pub sequence: i64,
    /// Chain hash.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{64}$"))]
    pub hash: ChainHash,
}

impl Head {
    /// Head of a chain without entries.
    pub const NONE: Self = Self { sequence: 0, hash: ChainHash::GENESIS };

    /// Head after one more entry.
    #[must_use]
    pub fn then(self, canonical: &str) -> Self {
        let sequence = self.sequence + 1;
        Self { sequence, hash: self.hash.next(sequence, canonical) }
    }
}

/// Stored entry, not verified. A text that is not UTF-8 begins with U+0000, which no text written by Pilothouse does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Sequence number.
    pub sequence: i64,
    /// Operation id, stored beside the text for lookups.
    pub operation_id: String,
    /// Kind of entry: `intent`, `outcome` or `complete`, stored beside the text.
    pub kind: String,
    /// Time in microseconds since 1970, stored beside the text.
    pub at: i64,
    /// Canonical text.
    pub text: String,
    /// Chain hash.
    pub hash: Vec<u8>,
}

impl StoredEntry {
    /// The entry that follows `head`, and the head after it.
    ///
    /// # Errors
    /// As [`Entry::canonical`].
    pub fn after(head: Head, entry: &Entry) -> Result<(Self, Head)> {
        let text = entry.canonical()?;
        let head = head.then(&text);
        let stored = Self {
            sequence: head.sequence,
            operation_id: entry.operation_id().to_string(),
            kind: entry.kind().to_owned(),
            at: entry.at().as_microsecond(),
            text,
            hash: head.hash.0.to_vec(),
        };
        Ok((stored, head))
    }
}

/// Stored row of the operations table, which serves the lists. Not verified.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Row id.
    pub id: i64,
    /// The text that `search` matches.
    pub searched: String,
    /// Columns, in the order and with the names of [`super::OperationRow`]'s fields.
    pub cells: Vec<(&'static str, Cell)>,
}

/// Stored checkpoint, not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Sequence number of the entry for which the checkpoint is stored.
    pub sequence: i64,
    /// [`Checkpoint::line`].
    pub line: String,
}

/// Reads the stored trail in bounded pieces while other processes append to it. A later read returns a state that is at
/// least as new.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TrailReader: Send + Sync {
    /// The line of the [`super::TrailStart`] when the oldest entries were removed. The default implementation returns
    /// none: the trail has all its entries.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn trail_start(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The trail id and the stored head.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port; `Internal` when columns cannot be read at all.
    async fn head(&self) -> Result<(String, Head)>;

    /// Up to `limit` entries with a sequence number above `after`, in order.
    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>>;

    /// The intent of an operation, or its only entry.
    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>>;

    /// Up to `limit` rows of the operations table with an id above `after`, in order.
    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>>;

    /// Up to `limit` checkpoints of entries with a sequence number above `after`, in order.
    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>>;

    /// Sequence numbers of the first entry at or after `from` and of the last entry before `to`, if there are such
    /// entries.
    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)>;

    /// The lines of all [`super::KeyRotation`]s, in order. The default implementation returns none: the key never
    /// changed.
    async fn key_rotations(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Heads that this process has verified, in order: the last entry known to be signed, and the last entry that it
    /// appended or verified itself. To be called before anything is read that is compared with these heads. The default
    /// implementation returns none.
    fn verified_heads(&self) -> Vec<Head> {
        Vec::new()
    }
}

/// Maximum time between the last checkpoint and an unsigned entry: twice [`Checkpoint::AGE`].
const MAX_UNSIGNED_DELAY: SignedDuration =
    SignedDuration::from_secs(2 * Checkpoint::AGE.as_secs().cast_signed());

/// Parameters of signature verification.
#[derive(Clone, Copy)]
pub struct Signatures<'a> {
    /// Current signing key of the install.
    pub key: PublicKey,
    /// Signature verifier.
    pub verifier: &'a dyn SignatureVerifier,
    /// Maximum number of entries between two checkpoints.
    pub every: i64,
}

/// Incremental verifier of the chain. Its memory grows only with the number of pending operations, whose ids it keeps.
pub(crate) struct Chain<'a> {
    signatures: Signatures<'a>,
    keys: TrailKeys,
    trail: String,
    /// Last verified entry.
    pub(crate) head: Head,
    /// Sequence number of the first entry. If it is not 1, operations that began before it are unknown.
    first: i64,
    /// Sequence number of the last signed entry.
    signed: i64,
    /// Time of the last signature, if known.
    signed_at: Option<Timestamp>,
    /// First unsigned entry that was appended [`MAX_UNSIGNED_DELAY`] or more after the last checkpoint.
    unsigned_too_late: Option<(i64, OperationId)>,
    pending: HashSet<OperationId>,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(signatures: Signatures<'a>, keys: TrailKeys, trail: String, before: Head) -> Self {
        let (first, signed) = (before.sequence + 1, before.sequence);
        Self {
            signatures,
            keys,
            trail,
            head: before,
            first,
            signed,
            signed_at: None,
            unsigned_too_late: None,
            pending: HashSet::new(),
        }
    }

    /// Verifies the next entry.
    pub(crate) fn entry(&mut self, stored: &StoredEntry) -> Result<Entry, Defect> {
        let expected = self.head.sequence + 1;
        let bad = |fault, details: String| Defect::at(expected, fault, details).of(&stored.operation_id);
        if stored.sequence != expected {
            let details = format!("entry {expected} is missing; the next one is {}", stored.sequence);
            return Err(Defect::at(expected, Fault::EntryMissing, details));
        }
        let head = self.head.then(&stored.text);
        if stored.hash != head.hash.0 {
            let details =
                "its hash does not match its text and the previous entry: it was changed, inserted or moved";
            return Err(bad(Fault::EntryChanged, details.to_owned()));
        }
        let entry: Entry = serde_json::from_str(&stored.text)
            .map_err(|_| bad(Fault::EntryMalformed, "its text is not a valid entry".to_owned()))?;
        if entry.canonical().ok().as_ref() != Some(&stored.text) {
            return Err(bad(Fault::EntryMalformed, "its text is not in the canonical form".to_owned()));
        }
        let columns = [
            ("operation_id", stored.operation_id == entry.operation_id().to_string()),
            ("entry", stored.kind == entry.kind()),
            ("at", stored.at == entry.at().as_microsecond()),
        ];
        if let Some((column, _)) = columns.iter().find(|(_, agrees)| !agrees) {
            let details = format!("its column {column} does not match its text");
            return Err(bad(Fault::EntryColumn, details).of(entry.operation_id()));
        }
        let id = entry.operation_id();
        let in_order = match entry {
            Entry::Intent { .. } => self.pending.insert(id),
            Entry::Complete { .. } => !self.pending.contains(&id),
            Entry::Outcome { .. } => self.pending.remove(&id) || self.first > 1,
        };
        if !in_order {
            let details = format!("a second intent, or an outcome without an intent ({})", entry.kind());
            return Err(bad(Fault::EntryOrder, details));
        }
        if expected - self.signed > self.signatures.every {
            let details = format!("no checkpoint since entry {}: one was removed", self.signed);
            return Err(bad(Fault::CheckpointMissing, details));
        }
        if !self.keys.matches_entry(head, KeyRotation::recorded_in(&entry)) {
            let details = "its record of the key rotation differs from the one that the new key signed";
            return Err(bad(Fault::CheckpointForged, details.to_owned()));
        }
        let is_too_late = |signed_at: Timestamp| entry.at().duration_since(signed_at) >= MAX_UNSIGNED_DELAY;
        if self.unsigned_too_late.is_none() && self.signed_at.is_some_and(is_too_late) {
            self.unsigned_too_late = Some((expected, id));
        }
        self.head = head;
        Ok(entry)
    }

    /// Checks that no unsigned entry was appended two minutes or more after the last checkpoint. A process that appends
    /// an entry a minute or more after the last checkpoint signs it in the same transaction, so an older unsigned entry
    /// is a defect, however long ago that process ended. To be called after the last entry.
    pub(crate) fn check_unsigned_tail(&self) -> Result<(), Defect> {
        let Some((sequence, operation)) = self.unsigned_too_late else { return Ok(()) };
        let details = format!(
            "it was appended more than {} s after the last checkpoint, that of entry {}, and was not signed: \
             checkpoints were removed, or signing was stopped",
            MAX_UNSIGNED_DELAY.as_secs(),
            self.signed
        );
        Err(Defect::at(sequence, Fault::Unsigned, details).of(operation))
    }

    /// Sequence number of the last signed entry.
    pub(crate) const fn signed_through(&self) -> i64 {
        self.signed
    }

    /// Compares the last entry read with the head that this process verified for that entry before.
    pub(crate) fn check_verified_head(&self, verified: Head) -> Result<(), Defect> {
        if verified == self.head {
            return Ok(());
        }
        let details = "this process read another entry here before: this entry or an earlier one was changed";
        Err(Defect::at(verified.sequence, Fault::Rewritten, details))
    }

    /// Parses a checkpoint and checks that it belongs to this trail and is signed by one of its keys. `near` is the
    /// entry that a defect names when the line cannot be parsed.
    pub(crate) fn signed(&self, near: i64, line: &str) -> Result<Checkpoint, Defect> {
        let checkpoint = Checkpoint::parse(line).ok_or_else(|| {
            Defect::at(near, Fault::CheckpointForged, "a checkpoint is not in the canonical form")
        })?;
        let at = checkpoint.sequence;
        if checkpoint.trail != self.trail {
            let details = format!(
                "a checkpoint belongs to the trail {}, this trail is {}",
                checkpoint.trail, self.trail
            );
            return Err(Defect::at(at, Fault::CheckpointForged, details));
        }
        if !checkpoint.is_signed_by(self.keys.of(at), self.signatures.verifier) {
            return Err(Defect::at(at, Fault::CheckpointForged, "a checkpoint is not signed by this key"));
        }
        Ok(checkpoint)
    }

    /// As [`Chain::signed`], for a checkpoint in the database, which must be stored for the entry that it covers.
    pub(crate) fn stored(&self, stored: &StoredCheckpoint) -> Result<Checkpoint, Defect> {
        let checkpoint = self.signed(stored.sequence, &stored.line)?;
        if checkpoint.sequence == stored.sequence {
            return Ok(checkpoint);
        }
        let (at, of) = (stored.sequence, checkpoint.sequence);
        let details = format!("the checkpoint stored for entry {at} is of entry {of}");
        Err(Defect::at(of.min(at), Fault::CheckpointForged, details))
    }

    /// Compares the chain up to here with a checkpoint returned by [`Chain::signed`].
    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Defect> {
        let Head { sequence, hash } = self.head;
        if checkpoint.sequence != sequence {
            let details = format!("a checkpoint of entry {} is out of order", checkpoint.sequence);
            return Err(Defect::at(sequence, Fault::CheckpointForged, details));
        }
        if checkpoint.hash != hash {
            let details = format!(
                "another chain was signed on {}: an entry after {} was changed and all later hashes were recomputed",
                checkpoint.time, self.signed
            );
            return Err(Defect::at(sequence, Fault::Rewritten, details));
        }
        self.signed = sequence;
        self.signed_at = Some(checkpoint.time);
        self.unsigned_too_late = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_hash_covers_previous_hash_sequence_and_text() {
        let first = ChainHash::GENESIS.next(1, "a");
        assert_ne!(first, ChainHash::GENESIS.next(2, "a"));
        assert_ne!(first, ChainHash::GENESIS.next(1, "b"));
        assert_ne!(first.next(2, "a"), ChainHash::GENESIS.next(2, "a"));
    }
}
