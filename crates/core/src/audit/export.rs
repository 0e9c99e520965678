//! Export of the trail: JSON Lines that can be verified without the database, or events in the format of the API
//! server's audit log.
//!
//! The first line of a JSON Lines export is a signed header that describes its content. Each entry follows with the
//! hashes before and after it, and each checkpoint follows the entry that it covers. The public key of the install is
//! sufficient to detect any changed, removed or truncated line.

use std::{fmt::Write, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ChainHash, Checkpoint, CheckpointSigner, CheckpointSink, Head, KeyRotation, PublicKey, Signature,
    Signatures, StoredCheckpoint, StoredEntry, TrailReader,
    k8s::Events,
    retention::TrailStart,
    slots::RevocableSlot,
    verified_range::{VerifiedRange, verify_range},
};
use crate::error::{Error, Result};

mod verify;

pub use verify::verify_export;

/// Maximum number of entries or checkpoints in one read.
const BATCH: u32 = 256;

/// Format of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// JSON Lines of the chain itself; verifiable without the database.
    #[default]
    Jsonl,
    /// JSON Lines with one `audit.k8s.io/v1` event for each stage of an operation.
    K8s,
}

impl ExportFormat {
    /// The value in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::K8s => "k8s",
        }
    }
}

/// Range of an export: from the first entry at or after `from` to the last entry before `to`, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportQuery {
    /// Format.
    pub format: ExportFormat,
    /// None: from the start of the trail.
    pub from: Option<Timestamp>,
    /// None: to the end of the trail.
    pub to: Option<Timestamp>,
}

/// Header: the first line of the export. `last_hash` covers all entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Version of the format.
    pilothouse_audit_export: u32,
    trail: String,
    public_key: PublicKey,
    /// Key rotations of the trail.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(rename = "handovers")]
    key_rotations: Vec<KeyRotation>,
    exported_at: Timestamp,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    first_sequence: i64,
    previous_hash: ChainHash,
    last_sequence: i64,
    last_hash: ChainHash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedHeader {
    header: Header,
    signature: Signature,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    sequence: i64,
    previous_hash: ChainHash,
    hash: ChainHash,
    /// Canonical text, byte for byte.
    entry: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

impl Header {
    fn of(range: &VerifiedRange, signer: &dyn CheckpointSigner, now: Timestamp) -> Self {
        let VerifiedRange { trail, keys, before, end } = range;
        Self {
            pilothouse_audit_export: 1,
            trail: trail.clone(),
            public_key: signer.public_key(),
            key_rotations: keys.key_rotations().to_vec(),
            exported_at: now,
            from: None,
            to: None,
            first_sequence: before.sequence + 1,
            previous_hash: before.hash,
            last_sequence: end.sequence,
            last_hash: end.hash,
        }
    }

    /// The signed first line.
    fn line(self, signer: &dyn CheckpointSigner) -> Result<String> {
        let signature = signer.sign(&self.message()?);
        Ok(json(&SignedHeader { header: self, signature })? + "\n")
    }

    fn message(&self) -> Result<Vec<u8>> {
        Ok(format!("pilothouse audit export 1\n{}", json(self)?).into_bytes())
    }
}

fn json(line: &impl Serialize) -> Result<String> {
    serde_json::to_string(line).map_err(|error| Error::internal(format!("export: {error}")))
}

/// A running export, written in pieces. It contains the entries that existed when the export began.
pub struct Export {
    reader: Arc<dyn TrailReader>,
    /// The header line, until it is returned.
    header_line: Option<String>,
    /// Last entry written.
    position: Head,
    last: i64,
    events: Option<Events>,
    /// Slot of the pool, released with the export. None for exports that are not limited.
    slot: Option<RevocableSlot>,
}

/// Dependencies for verifying and signing an export.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) signer: &'a dyn CheckpointSigner,
    pub(super) checkpoint_sink: Option<&'a dyn CheckpointSink>,
    pub(super) now: Timestamp,
}

impl Sources<'_> {
    /// Verifies the entries after `part.0` up to and including `part.1`.
    async fn verify(self, reader: &dyn TrailReader, part: (i64, i64)) -> Result<VerifiedRange> {
        loop {
            let key = self.signer.public_key();
            let signatures = Signatures { key, verifier: self.signer, every: Checkpoint::EVERY };
            let range = verify_range(reader, self.checkpoint_sink, signatures, part).await;
            // reading the head refreshes the signing key after a rotation
            reader.head().await?;
            if self.signer.public_key() == key {
                return range;
            }
        }
    }
}

impl Export {
    /// Begins an export after verifying its entries.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Internal`, naming the first bad entry, when verification fails.
    pub(super) async fn begin(
        reader: Arc<dyn TrailReader>,
        sources: Sources<'_>,
        query: ExportQuery,
        slot: RevocableSlot,
    ) -> Result<Self> {
        let (_, head) = reader.head().await?;
        let ExportQuery { format, from, to } = query;
        let (first, last) = reader.between(from, to).await?;
        let trail_start = TrailStart::head_of(&*reader).await?.sequence + 1;
        // entries may have been appended since the head was read
        let after = head.sequence + 1;
        let first = from.map_or(Some(trail_start), |_| first).unwrap_or(after).min(after);
        let last = to.map_or(Some(head.sequence), |_| last).unwrap_or(0).clamp(first - 1, head.sequence);
        let range = sources.verify(&*reader, (first - 1, last)).await?;
        let (header_line, events) = match format {
            ExportFormat::K8s => (None, Some(Events::default())),
            ExportFormat::Jsonl => {
                let header = Header { from, to, ..Header::of(&range, sources.signer, sources.now) };
                (Some(header.line(sources.signer)?), None)
            }
        };
        Ok(Self { reader, header_line, position: range.before, last, events, slot: Some(slot) })
    }

    /// Begins a JSON Lines export of all entries after one entry up to and including another, after verifying them.
    ///
    /// # Errors
    /// As [`Export::begin`].
    pub(super) async fn between(
        reader: Arc<dyn TrailReader>,
        sources: Sources<'_>,
        part: (i64, Head),
    ) -> Result<Self> {
        let (before, end) = part;
        let range = sources.verify(&*reader, (before, end.sequence)).await?;
        if range.end != end {
            return Err(Error::internal("the audit trail does not match its checkpoint"));
        }
        let header_line = Some(Header::of(&range, sources.signer, sources.now).line(sources.signer)?);
        Ok(Self { reader, header_line, position: range.before, last: end.sequence, events: None, slot: None })
    }

    /// The next lines, each with its line break; none after the last one.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Overloaded` when the export was idle for so long that another export took its slot. The
    /// lines returned so far are then an incomplete export.
    pub async fn next(&mut self) -> Result<Option<String>> {
        if let Some(slot) = &self.slot {
            slot.touch()?;
        }
        if let Some(header_line) = self.header_line.take() {
            return Ok(Some(header_line));
        }
        if self.position.sequence >= self.last {
            return Ok(None);
        }
        let mut entries = self.reader.entries(self.position.sequence, BATCH).await?;
        entries.retain(|entry| entry.sequence <= self.last);
        let Some(end) = entries.last().map(|entry| entry.sequence) else {
            return Err(Error::internal(
                "entries of the audit trail are missing; see `pilothouse audit verify`",
            ));
        };
        match &mut self.events {
            Some(events) => {
                let lines = events.lines(&*self.reader, &entries).await?;
                self.position.sequence = end;
                Ok(Some(lines))
            }
            None => self.lines(&entries, end).await.map(Some),
        }
    }

    async fn lines(&mut self, entries: &[StoredEntry], end: i64) -> Result<String> {
        // there are no more checkpoints than entries
        let mut checkpoints = self.reader.checkpoints(self.position.sequence, BATCH).await?;
        checkpoints.retain(|stored| stored.sequence <= end);
        lines(&mut self.position, entries, &checkpoints)
    }
}

/// Writes a line for each of these entries, which follow `position`, and one for each checkpoint after the entry that
/// it covers. Advances `position` to the last entry.
pub(super) fn lines(
    position: &mut Head,
    entries: &[StoredEntry],
    checkpoints: &[StoredCheckpoint],
) -> Result<String> {
    let mut lines = String::new();
    let mut checkpoints = checkpoints.iter().peekable();
    let mut signed = |lines: &mut String, upto: i64| -> Result<()> {
        while let Some(stored) = checkpoints.next_if(|stored| stored.sequence <= upto) {
            // writing to a String cannot fail
            let _ = writeln!(lines, "{}", json(&CheckpointLine { checkpoint: stored.line.clone() })?);
        }
        Ok(())
    };
    signed(&mut lines, position.sequence)?;
    for stored in entries {
        let line = EntryLine {
            sequence: stored.sequence,
            previous_hash: position.hash,
            hash: hash(&stored.hash)?,
            entry: stored.text.clone(),
        };
        *position = Head { sequence: line.sequence, hash: line.hash };
        let _ = writeln!(lines, "{}", json(&line)?);
        signed(&mut lines, position.sequence)?;
    }
    Ok(lines)
}

/// The head of the chain at the entry `sequence`.
pub(super) async fn head_at(reader: &dyn TrailReader, sequence: i64) -> Result<Head> {
    let trail_start = TrailStart::head_of(reader).await?;
    if sequence == trail_start.sequence {
        return Ok(trail_start);
    }
    let stored = reader.entries(sequence - 1, 1).await?.pop().filter(|entry| entry.sequence == sequence);
    let stored =
        stored.ok_or_else(|| Error::internal(format!("entry {sequence} of the audit trail is missing")))?;
    Ok(Head { sequence, hash: hash(&stored.hash)? })
}

fn hash(bytes: &[u8]) -> Result<ChainHash> {
    bytes.try_into().map(ChainHash).map_err(|_| Error::internal("a hash of the audit trail is not 32 bytes"))
}
