//! Verification of a JSON Lines export, without the database.

use serde::{Deserialize, Serialize};

use super::{CheckpointLine, EntryLine, SignedHeader};
use crate::{
    audit::{Defect, Fault, Head, Signatures, StoredEntry, TrailKeys, Verdict, chain::Chain},
    error::Result,
    operation::Entry,
};

/// Verifies a JSON Lines export line by line, with the public key in `signatures` only. The key in the header is not
/// used, because a forged export would contain the forger's key. Each line includes its line break; a line without one,
/// or that is not UTF-8, is a defect.
///
/// # Errors
/// The errors of reading a line.
pub fn verify_export(
    lines: impl Iterator<Item = Result<Vec<u8>>>,
    signatures: Signatures<'_>,
) -> Result<Verdict> {
    let mut verdict = Verdict::NONE;
    let forged = |details| Defect::at(0, Fault::HeaderForged, details);
    let mut lines = lines.map(|line| line.map(strip_line_break));
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
    let keys = match TrailKeys::new(&header.trail, signatures.key, header.key_rotations, signatures.verifier)
    {
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
            Some(entry) => verify_entry(&mut chain, entry).map(|()| verdict.entries += 1),
            None => verify_checkpoint(&mut chain, &line).map(|()| verdict.checkpoints += 1),
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

/// A complete line without its line break.
fn strip_line_break(mut line: Vec<u8>) -> Option<String> {
    line.pop_if(|last| *last == b'\n')?;
    String::from_utf8(line).ok()
}

fn verify_entry(chain: &mut Chain<'_>, line: EntryLine) -> Result<(), Defect> {
    let (sequence, previous) = (line.sequence, line.previous_hash);
    if sequence == chain.head.sequence + 1 && previous != chain.head.hash {
        let details = "its previous hash does not match the previous entry";
        return Err(Defect::at(sequence, Fault::EntryChanged, details));
    }
    // the columns beside the text are not exported: they are derived from the text
    let entry = serde_json::from_str::<Entry>(&line.entry).ok();
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

fn verify_checkpoint(chain: &mut Chain<'_>, line: &str) -> Result<(), Defect> {
    let next = chain.head.sequence + 1;
    let unknown = || Defect::at(next, Fault::EntryMalformed, "a line is neither an entry nor a checkpoint");
    let CheckpointLine { checkpoint } = read(line).ok_or_else(unknown)?;
    let checkpoint = chain.signed(next, &checkpoint)?;
    chain.checkpoint(&checkpoint)
}

/// Parses a line. Returns none unless its serialisation is identical to the line.
fn read<T: Serialize + for<'de> Deserialize<'de>>(line: &str) -> Option<T> {
    let read: T = serde_json::from_str(line).ok()?;
    (serde_json::to_string(&read).ok()? == line).then_some(read)
}
