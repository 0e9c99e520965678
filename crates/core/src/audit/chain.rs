//! The chain as it lies in the database, unread, and the rules that one entry after another must keep.

use std::collections::HashSet;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Checkpoint, Entry, KeyRotation, OperationId, PublicKey, SignatureVerifier, TrailKeys};
use crate::{
    error::{Error, Result},
    hex::Hex,
    inventory::Cell,
};

/// The hash of one entry and of all before it.
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
    /// What stands before the first entry.
    pub const GENESIS: Self = Self([0; 32]);

    /// The hash of the entry `seq` (1 for the first, without gaps) with this canonical text, after `self`:
    /// SHA-256 over the previous hash, the sequence number in eight big-endian bytes, and the text.
    pub fn next(self, seq: i64, canonical: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(seq.to_be_bytes());
        hasher.update(canonical.as_bytes());
        Self(hasher.finalize().into())
    }
}

/// The last entry of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Head {
    /// Its number; 0 when there is none.
    pub sequence: i64,
    /// Its hash.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^[0-9a-f]{64}$"))]
    pub hash: ChainHash,
}

impl Head {
    /// Of a chain without entries.
    pub const NONE: Self = Self { sequence: 0, hash: ChainHash::GENESIS };

    /// After one more entry.
    #[must_use]
    pub fn then(self, canonical: &str) -> Self {
        let sequence = self.sequence + 1;
        Self { sequence, hash: self.hash.next(sequence, canonical) }
    }
}

/// An entry as it lies in the database; nothing in it is trusted. A text that is no UTF-8 begins with U+0000, which no
/// text of ours does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its number.
    pub sequence: i64,
    /// The operation's id, beside the text for looking up.
    pub operation_id: String,
    /// `intent`, `outcome` or `complete`, beside the text.
    pub kind: String,
    /// When, in microseconds since 1970, beside the text.
    pub at: i64,
    /// The canonical text.
    pub text: String,
    /// Its hash.
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

/// A row of the lists' table as it lies in the database; nothing in it is trusted.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRow {
    /// Its id.
    pub id: i64,
    /// The text that `search` looks through.
    pub searched: String,
    /// Its columns, in the order and with the names of [`super::OperationRow`]'s fields.
    pub cells: Vec<(&'static str, Cell)>,
}

/// A checkpoint as it lies in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The entry it is stored for.
    pub sequence: i64,
    /// [`Checkpoint::line`].
    pub line: String,
}

/// Reads the trail as it lies in the database, in bounded pieces, while others append to it. What is read later is at
/// least as new.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TrailReader: Send + Sync {
    /// The line of the [`super::TrailStart`] of a trail whose oldest entries were removed; none, as by default, of one that is
    /// still there from its first entry on.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn beginning(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The trail's id, and what it says is its last entry.
    ///
    /// # Errors
    /// `StoreUnavailable`, as everywhere in this port; `Internal` when columns cannot be read at all.
    async fn head(&self) -> Result<(String, Head)>;

    /// Up to `limit` entries with a number above `after`, in order.
    async fn entries(&self, after: i64, limit: u32) -> Result<Vec<StoredEntry>>;

    /// The intent of an operation, or its one entry.
    async fn intent(&self, operation: OperationId) -> Result<Option<StoredEntry>>;

    /// Up to `limit` rows of the lists' table with an id above `after`, in order.
    async fn rows(&self, after: i64, limit: u32) -> Result<Vec<StoredRow>>;

    /// Up to `limit` checkpoints of entries above `after`, in order.
    async fn checkpoints(&self, after: i64, limit: u32) -> Result<Vec<StoredCheckpoint>>;

    /// The first entry told at or after `from`, and the last told before `to`, where there are such.
    async fn between(
        &self,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<(Option<i64>, Option<i64>)>;

    /// The line of every [`super::KeyRotation`], in order. A trail whose keys never change has none, as by default.
    async fn handovers(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// What this process remembers of the trail, in order: the last entry that it knows to be signed, and the last one that
    /// it appended or verified itself. To be asked before anything is read that is to be compared with it. One that
    /// remembers nothing, as by default, has none.
    fn remembered(&self) -> Vec<Head> {
        Vec::new()
    }
}

/// What is wrong with a trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The entry is not there: it was removed, or moved away.
    EntryMissing,
    /// The entry does not follow from those before it: it was changed, inserted or moved.
    EntryChanged,
    /// The entry's hash fits, but it is not of the form that we write.
    EntryMalformed,
    /// A column beside the entry's text says something else than the text.
    EntryColumn,
    /// An outcome without an intent, or a second one; an intent or an operation that was there already.
    EntryOrder,
    /// The stored head is not the last entry.
    HeadDiffers,
    /// The operation's row in the lists is missing, or not in its place.
    RowMissing,
    /// The lists have a row of which the chain knows nothing.
    RowUnexpected,
    /// The operation's row in the lists says something else than the chain.
    RowChanged,
    /// More entries than there may be without a checkpoint.
    CheckpointMissing,
    /// A checkpoint that is kept elsewhere is not in the database.
    CheckpointRemoved,
    /// The trail was signed several times, and nothing of it is kept elsewhere.
    WitnessMissing,
    /// An entry was appended later after the last checkpoint than any entry is without being signed.
    Unsigned,
    /// A checkpoint that we did not sign, or that is of another trail or out of order.
    CheckpointForged,
    /// The chain is not what was signed: entries before this one were written anew.
    Rewritten,
    /// Entries up to this one were signed and are gone.
    TailCut,
    /// The word of where the trail begins is not one that we signed for it.
    BeginningForged,
    /// The export's first line is not one that we signed.
    HeaderForged,
    /// The export does not hold the entries that its first line announces.
    ExportIncomplete,
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Defect {
    /// The entry's number.
    pub sequence: i64,
    /// The operation's id, where it is known.
    pub operation_id: Option<String>,
    /// What is wrong.
    pub fault: Fault,
    /// The same in English, with what is known besides.
    pub details: String,
}

impl Defect {
    /// A defect at an entry.
    pub(crate) fn at(sequence: i64, fault: Fault, details: impl Into<String>) -> Self {
        Self { sequence, operation_id: None, fault, details: details.into() }
    }

    /// As an error of who cannot go on.
    pub(crate) fn into_error(self) -> Error {
        let Self { sequence, details, .. } = self;
        Error::internal(format!(
            "the audit trail failed verification: entry {sequence}: {details}; see `pilothouse audit verify`"
        ))
    }

    /// Names the operation.
    pub(crate) fn of(self, operation: impl ToString) -> Self {
        Self { operation_id: Some(operation.to_string()), ..self }
    }
}

/// An entry that is this much younger than the last checkpoint was signed with the next one.
const LATE: SignedDuration = SignedDuration::from_secs(2 * Checkpoint::AGE.as_secs().cast_signed());

/// By what signatures are checked.
#[derive(Clone, Copy)]
pub struct Signatures<'a> {
    /// The install's key: the one that signs now.
    pub key: PublicKey,
    /// How.
    pub verifier: &'a dyn SignatureVerifier,
    /// The most entries that may follow a checkpoint before the next one.
    pub every: i64,
}

/// The rules of the chain, an entry at a time. Keeps the ids of the operations that are under way, and nothing else that
/// grows.
pub(crate) struct Chain<'a> {
    signatures: Signatures<'a>,
    keys: TrailKeys,
    trail: String,
    /// The last good entry.
    pub(crate) head: Head,
    /// The first entry; what was begun before is not known when it is not 1.
    first: i64,
    /// The last entry that is signed.
    signed: i64,
    /// When it was signed; none where that is not known.
    signed_at: Option<Timestamp>,
    /// The first entry that is not signed, and was appended later than any is without being signed.
    late: Option<(i64, OperationId)>,
    pending: HashSet<OperationId>,
}

impl<'a> Chain<'a> {
    /// The chain that follows `before`.
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
            late: None,
            pending: HashSet::new(),
        }
    }

    /// Takes the next entry.
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
        if !self.keys.expects(head, KeyRotation::said_by(&entry)) {
            let details = "its record of the key rotation differs from the one that the new key signed";
            return Err(bad(Fault::CheckpointForged, details.to_owned()));
        }
        let is_late = |signed_at: Timestamp| entry.at().duration_since(signed_at) >= LATE;
        if self.late.is_none() && self.signed_at.is_some_and(is_late) {
            self.late = Some((expected, id));
        }
        self.head = head;
        Ok(entry)
    }

    /// Checks that no unsigned entry was appended two minutes or more after the last checkpoint. A process that appends an
    /// entry a minute or more after the last checkpoint signs it in the same transaction, so an older unsigned entry is a
    /// defect, however long ago that process ended. Call it after the last entry.
    pub(crate) fn tail_is_young(&self) -> Result<(), Defect> {
        let Some((sequence, operation)) = self.late else { return Ok(()) };
        let details = format!(
            "it was appended more than {} s after the last checkpoint, that of entry {}, and was not signed: \
             checkpoints were removed, or signing was stopped",
            LATE.as_secs(),
            self.signed
        );
        Err(Defect::at(sequence, Fault::Unsigned, details).of(operation))
    }

    /// The last entry that is signed.
    pub(crate) const fn signed_through(&self) -> i64 {
        self.signed
    }

    /// Compares the hash of the last entry read with the hash that a process remembers for that entry.
    pub(crate) fn remembers(&self, known: Head) -> Result<(), Defect> {
        if known == self.head {
            return Ok(());
        }
        let details = "this process read another entry here before: this entry or an earlier one was changed";
        Err(Defect::at(known.sequence, Fault::Rewritten, details))
    }

    /// Reads a checkpoint and sees that we signed it, for this trail.
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

    /// As [`Chain::signed`], of a checkpoint in the database, which is stored for the entry that it covers.
    pub(crate) fn stored(&self, stored: &StoredCheckpoint) -> Result<Checkpoint, Defect> {
        let checkpoint = self.signed(stored.sequence, &stored.line)?;
        if checkpoint.sequence == stored.sequence {
            return Ok(checkpoint);
        }
        let (at, of) = (stored.sequence, checkpoint.sequence);
        let details = format!("the checkpoint stored for entry {at} is of entry {of}");
        Err(Defect::at(of.min(at), Fault::CheckpointForged, details))
    }

    /// Compares the chain so far with a checkpoint that [`Chain::signed`] has read.
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
        self.late = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_depends_on_every_part() {
        let first = ChainHash::GENESIS.next(1, "a");
        assert_ne!(first, ChainHash::GENESIS.next(2, "a"));
        assert_ne!(first, ChainHash::GENESIS.next(1, "b"));
        assert_ne!(first.next(2, "a"), ChainHash::GENESIS.next(2, "a"));
    }
}
