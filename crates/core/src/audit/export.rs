//! The trail as a file: JSON Lines that can be verified without the database, or events as the API server's audit log has
//! them.
//!
//! The first line of a JSON Lines export says what it holds and is signed; then each entry with the hashes before and after
//! it, and after the entry it covers each checkpoint. Whatever is changed, taken out or cut off is found with nothing but
//! the install's public key.

use std::{fmt::Write, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ChainHash, Checkpoint, CheckpointSigner, CheckpointSink, Defect, Fault, Head, KeyRotation, PublicKey,
    Signature, Signatures, StoredCheckpoint, StoredEntry, TrailKeys, TrailReader, Verdict,
    chain::Chain,
    k8s::Events,
    retention::TrailStart,
    slots::Slot,
    verified_range::{VerifiedRange, vouch},
};
use crate::error::{Error, Result};

/// How much is read at once.
const BATCH: u32 = 256;

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// JSON Lines of the chain itself, to be verified anywhere.
    #[default]
    Jsonl,
    /// A line of JSON for each stage of an operation, as `audit.k8s.io/v1` writes events.
    K8s,
}

impl ExportFormat {
    /// The word in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::K8s => "k8s",
        }
    }
}

/// What to export: the entries from the first one told at or after `from` to the last one told before `to`, without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportQuery {
    /// How it is written.
    pub format: ExportFormat,
    /// From the beginning when none.
    pub from: Option<Timestamp>,
    /// To the end when none.
    pub to: Option<Timestamp>,
}

/// The first line: what the export holds. `last_hash` binds all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The version of this form.
    pilothouse_audit_export: u32,
    trail: String,
    public_key: PublicKey,
    /// Where other keys signed before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    handovers: Vec<KeyRotation>,
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
    /// The canonical text, to the byte.
    entry: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

impl Header {
    fn of(vouched: &VerifiedRange, signer: &dyn CheckpointSigner, now: Timestamp) -> Self {
        let VerifiedRange { trail, keys, before, end } = vouched;
        Self {
            pilothouse_audit_export: 1,
            trail: trail.clone(),
            public_key: signer.public_key(),
            handovers: keys.handovers().to_vec(),
            exported_at: now,
            from: None,
            to: None,
            first_sequence: before.sequence + 1,
            previous_hash: before.hash,
            last_sequence: end.sequence,
            last_hash: end.hash,
        }
    }

    /// Signed, as the first line.
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

/// An export that is being written, a piece at a time. It holds the entries that were there when it began.
pub struct Export {
    reader: Arc<dyn TrailReader>,
    /// What stands before the entries.
    opening: Option<String>,
    /// The last entry written.
    done: Head,
    last: i64,
    events: Option<Events>,
    /// The place of this export at the concurrency limit, released with the export. None for exports without a limit.
    place: Option<Slot>,
}

/// With what an export is verified before it is signed.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) signer: &'a dyn CheckpointSigner,
    pub(super) witness: Option<&'a dyn CheckpointSink>,
    pub(super) now: Timestamp,
}

impl Sources<'_> {
    /// Verifies what lies after one entry, up to another.
    async fn vouch(self, reader: &dyn TrailReader, part: (i64, i64)) -> Result<VerifiedRange> {
        loop {
            let key = self.signer.public_key();
            let signatures = Signatures { key, verifier: self.signer, every: Checkpoint::EVERY };
            let vouched = vouch(reader, self.witness, signatures, part).await;
            // whoever reads the head learns of a new key
            reader.head().await?;
            if self.signer.public_key() == key {
                return vouched;
            }
        }
    }
}

impl Export {
    /// Begins an export, of what is verified.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Internal`, naming the first bad entry, when it is not whole.
    pub(super) async fn begin(
        reader: Arc<dyn TrailReader>,
        sources: Sources<'_>,
        query: ExportQuery,
        place: Slot,
    ) -> Result<Self> {
        let (_, head) = reader.head().await?;
        let ExportQuery { format, from, to } = query;
        let (first, last) = reader.between(from, to).await?;
        let begins = TrailStart::head_of(&*reader).await?.sequence + 1;
        // entries may have come since the head was read
        let after = head.sequence + 1;
        let first = from.map_or(Some(begins), |_| first).unwrap_or(after).min(after);
        let last = to.map_or(Some(head.sequence), |_| last).unwrap_or(0).clamp(first - 1, head.sequence);
        let vouched = sources.vouch(&*reader, (first - 1, last)).await?;
        let (opening, events) = match format {
            ExportFormat::K8s => (None, Some(Events::default())),
            ExportFormat::Jsonl => {
                let header = Header { from, to, ..Header::of(&vouched, sources.signer, sources.now) };
                (Some(header.line(sources.signer)?), None)
            }
        };
        Ok(Self { reader, opening, done: vouched.before, last, events, place: Some(place) })
    }

    /// Begins an export of JSON Lines of all that lies after one entry, up to another, if that is verified.
    ///
    /// # Errors
    /// As [`Export::begin`].
    pub(super) async fn between(
        reader: Arc<dyn TrailReader>,
        sources: Sources<'_>,
        part: (i64, Head),
    ) -> Result<Self> {
        let (before, end) = part;
        let vouched = sources.vouch(&*reader, (before, end.sequence)).await?;
        if vouched.end != end {
            return Err(Error::internal("the audit trail does not match its checkpoint"));
        }
        let opening = Some(Header::of(&vouched, sources.signer, sources.now).line(sources.signer)?);
        Ok(Self { reader, opening, done: vouched.before, last: end.sequence, events: None, place: None })
    }

    /// Some more lines, each with its end; none when all is written.
    ///
    /// # Errors
    /// As [`TrailReader`]; `Overloaded` when nobody asked for the next lines for so long that others took the place. What was
    /// written so far is then not a whole export.
    pub async fn next(&mut self) -> Result<Option<String>> {
        if let Some(place) = &self.place {
            place.is_used()?;
        }
        if let Some(opening) = self.opening.take() {
            return Ok(Some(opening));
        }
        if self.done.sequence >= self.last {
            return Ok(None);
        }
        let mut entries = self.reader.entries(self.done.sequence, BATCH).await?;
        entries.retain(|entry| entry.sequence <= self.last);
        let Some(end) = entries.last().map(|entry| entry.sequence) else {
            return Err(Error::internal(
                "entries of the audit trail are missing; see `pilothouse audit verify`",
            ));
        };
        match &mut self.events {
            Some(events) => {
                let lines = events.lines(&*self.reader, &entries).await?;
                self.done.sequence = end;
                Ok(Some(lines))
            }
            None => self.lines(&entries, end).await.map(Some),
        }
    }

    async fn lines(&mut self, entries: &[StoredEntry], end: i64) -> Result<String> {
        // there are no more checkpoints than entries
        let mut checkpoints = self.reader.checkpoints(self.done.sequence, BATCH).await?;
        checkpoints.retain(|stored| stored.sequence <= end);
        lines(&mut self.done, entries, &checkpoints)
    }
}

/// A line for each of these entries that follow `done`, and each checkpoint's after the entry it covers; `done` is the last
/// entry then.
pub(super) fn lines(
    done: &mut Head,
    entries: &[StoredEntry],
    checkpoints: &[StoredCheckpoint],
) -> Result<String> {
    let mut lines = String::new();
    let mut checkpoints = checkpoints.iter().peekable();
    let mut signed = |lines: &mut String, upto: i64| -> Result<()> {
        while let Some(stored) = checkpoints.next_if(|stored| stored.sequence <= upto) {
            // a String takes whatever is written
            let _ = writeln!(lines, "{}", json(&CheckpointLine { checkpoint: stored.line.clone() })?);
        }
        Ok(())
    };
    signed(&mut lines, done.sequence)?;
    for stored in entries {
        let line = EntryLine {
            sequence: stored.sequence,
            previous_hash: done.hash,
            hash: hash(&stored.hash)?,
            entry: stored.text.clone(),
        };
        *done = Head { sequence: line.sequence, hash: line.hash };
        let _ = writeln!(lines, "{}", json(&line)?);
        signed(&mut lines, done.sequence)?;
    }
    Ok(lines)
}

/// The head when `sequence` was the last entry.
pub(super) async fn head_at(reader: &dyn TrailReader, sequence: i64) -> Result<Head> {
    let begins = TrailStart::head_of(reader).await?;
    if sequence == begins.sequence {
        return Ok(begins);
    }
    let stored = reader.entries(sequence - 1, 1).await?.pop().filter(|entry| entry.sequence == sequence);
    let stored =
        stored.ok_or_else(|| Error::internal(format!("entry {sequence} of the audit trail is missing")))?;
    Ok(Head { sequence, hash: hash(&stored.hash)? })
}

fn hash(bytes: &[u8]) -> Result<ChainHash> {
    bytes.try_into().map(ChainHash).map_err(|_| Error::internal("a hash of the audit trail is not 32 bytes"))
}

/// Verifies a JSON Lines export line by line, with nothing but the public key: not the one in its header, which whoever
/// forges an export writes too, but the one in `signatures`. Each line comes with its end; what has none, or is not UTF-8,
/// is not of an export.
///
/// # Errors
/// What reading a line says.
pub fn verify_export(
    lines: impl Iterator<Item = Result<Vec<u8>>>,
    signatures: Signatures<'_>,
) -> Result<Verdict> {
    let mut verdict = Verdict::NONE;
    let forged = |details| Defect::at(0, Fault::HeaderForged, details);
    let mut lines = lines.map(|line| line.map(text));
    let Some(first) = lines.next().transpose()? else {
        return Ok(verdict.with(forged("the export is empty")));
    };
    let first = first.unwrap_or_default();
    let header = match read::<SignedHeader>(&first) {
        Some(SignedHeader { header, signature })
            if signatures.verifier.verifies(&signatures.key, &header.message()?, &signature) =>
        {
            header
        }
        _ => return Ok(verdict.with(forged("its first line is not signed by this key"))),
    };
    let before = Head { sequence: header.first_sequence - 1, hash: header.previous_hash };
    verdict.trail = header.trail.clone();
    let keys = match TrailKeys::new(&header.trail, signatures.key, header.handovers, signatures.verifier) {
        Ok(keys) => keys,
        Err(defect) => return Ok(verdict.with(defect)),
    };
    let mut chain = Chain::new(signatures, keys, header.trail, before);
    verdict.head = before;
    for line in lines {
        let Some(line) = line? else {
            let details = "a line has no line break at its end, or is not UTF-8";
            let defect = Defect::at(chain.head.sequence + 1, Fault::EntryMalformed, details);
            return Ok(verdict.with(defect));
        };
        let result = match read::<EntryLine>(&line) {
            Some(entry) => take(&mut chain, entry).map(|()| verdict.entries += 1),
            None => checkpoint(&mut chain, &line).map(|()| verdict.checkpoints += 1),
        };
        verdict.head = chain.head;
        if let Err(defect) = result {
            return Ok(verdict.with(defect));
        }
    }
    let end = Head { sequence: header.last_sequence, hash: header.last_hash };
    if chain.head != end {
        let details =
            format!("it must end with entry {} but ends with {}", end.sequence, chain.head.sequence);
        let at = chain.head.sequence.min(end.sequence) + 1;
        return Ok(verdict.with(Defect::at(at, Fault::ExportIncomplete, details)));
    }
    verdict.unsigned = chain.head.sequence.abs_diff(chain.signed_through());
    Ok(verdict)
}

/// A whole line without its end.
fn text(mut line: Vec<u8>) -> Option<String> {
    line.pop_if(|last| *last == b'\n')?;
    String::from_utf8(line).ok()
}

fn take(chain: &mut Chain<'_>, line: EntryLine) -> Result<(), Defect> {
    let (sequence, previous) = (line.sequence, line.previous_hash);
    if sequence == chain.head.sequence + 1 && previous != chain.head.hash {
        let details = "its previous hash does not match the previous entry";
        return Err(Defect::at(sequence, Fault::EntryChanged, details));
    }
    // the columns beside the text are not exported: they follow from it
    let entry = serde_json::from_str::<super::Entry>(&line.entry).ok();
    let columns =
        entry.map(|entry| (entry.operation_id().to_string(), entry.kind(), entry.at().as_microsecond()));
    let (operation_id, kind, at) = columns.unwrap_or_default();
    let stored = StoredEntry {
        sequence,
        operation_id,
        kind: kind.to_owned(),
        at,
        text: line.entry,
        hash: line.hash.0.to_vec(),
    };
    chain.entry(&stored).map(drop)
}

fn checkpoint(chain: &mut Chain<'_>, line: &str) -> Result<(), Defect> {
    let next = chain.head.sequence + 1;
    let unknown = || Defect::at(next, Fault::EntryMalformed, "a line is neither an entry nor a checkpoint");
    let CheckpointLine { checkpoint } = read(line).ok_or_else(unknown)?;
    let checkpoint = chain.signed(next, &checkpoint)?;
    chain.checkpoint(&checkpoint)
}

/// Reads a line; none when it is not exactly as we write it.
fn read<T: Serialize + for<'de> Deserialize<'de>>(line: &str) -> Option<T> {
    let read: T = serde_json::from_str(line).ok()?;
    (serde_json::to_string(&read).ok()? == line).then_some(read)
}
