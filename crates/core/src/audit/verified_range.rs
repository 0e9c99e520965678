//! Verifying what is about to be signed: an export, or the part of the trail that is archived before it is removed.

use super::{
    Checkpoint, CheckpointSink, Defect, Fault, Head, Signatures, TrailKeys, TrailReader,
    chain::Chain,
    retention::TrailStart,
    walk::{ExternalEvidence, Stop, Walk},
};
use crate::error::{Error, Result};

/// What lies between two entries, once it is verified.
pub(super) struct VerifiedRange {
    pub(super) trail: String,
    pub(super) keys: TrailKeys,
    /// Before the first entry.
    pub(super) before: Head,
    /// The last entry.
    pub(super) end: Head,
}

/// Verifies the entries after `before` up to `through`: that they lie between checkpoints of ours, or after the last one, and
/// that they are what the witness and the process of `reader` know of them.
///
/// # Errors
/// As [`TrailReader`] and [`CheckpointSink::lines`]; `Internal`, naming the first bad entry, when they are not.
pub(super) async fn vouch(
    reader: &dyn TrailReader,
    witness: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    (before, through): (i64, i64),
) -> Result<VerifiedRange> {
    match walk(reader, witness, signatures, (before, through)).await {
        Ok(vouched) => Ok(vouched),
        Err(Stop::Bad(defect)) => Err(defect.into_error()),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

async fn walk(
    reader: &dyn TrailReader,
    witness: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    (before, through): (i64, i64),
) -> Result<VerifiedRange, Stop> {
    // who remembers nothing has nothing but the witness to compare with
    let needs_witness = reader.remembered().is_empty();
    let outside = ExternalEvidence::of(reader, witness)?;
    let (trail, mut head) = reader.head().await?;
    let lines = reader.handovers().await?;
    let keys = TrailKeys::of_lines(&trail, signatures.key, &lines, signatures.verifier)?;
    if needs_witness && outside.is_empty && reader.checkpoints(i64::MIN, 2).await?.len() > 1 {
        return Err(Error::internal(
            "there is no checkpoint outside the database to compare the audit trail with: the checkpoint file was removed \
             or moved; use `pilothouse audit export --no-witness` to export without it",
        )
        .into());
    }
    let from = start(reader, &keys, signatures, &trail, before).await?;
    let is_signed = from.sequence > 0;
    let chain = Chain::new(signatures, keys.clone(), trail.clone(), from);
    let mut walk = Walk::part(reader, chain, outside);
    if is_signed {
        walk.compare().await?;
    }
    let mut vouched = VerifiedRange { trail, keys, before: from, end: from };
    loop {
        let here = walk.chain.head;
        if here.sequence == before {
            vouched.before = here;
        }
        if here.sequence == through {
            vouched.end = here;
        }
        let is_covered = here.sequence >= through && walk.chain.signed_through() >= through;
        if is_covered && here.sequence >= before {
            return Ok(vouched);
        }
        if here.sequence >= head.sequence {
            if here != head {
                let details = "the stored head differs from the hash of the last entry";
                return Err(Defect::at(head.sequence, Fault::HeadDiffers, details).into());
            }
            head = walk.end().await?;
            if here.sequence >= head.sequence || here.sequence >= through {
                break;
            }
        }
        walk.step(head).await?;
        walk.compare().await?;
    }
    // the end of it waits for its checkpoint
    if !is_signed && walk.agreed == 0 && walk.chain.head.sequence > 0 {
        let details = "there is no checkpoint: the checkpoints were removed";
        return Err(Defect::at(1, Fault::CheckpointMissing, details).into());
    }
    walk.chain.tail_is_young()?;
    Ok(vouched)
}

/// The last checkpoint that covers nothing after this entry, or where the trail begins.
async fn start(
    reader: &dyn TrailReader,
    keys: &TrailKeys,
    signatures: Signatures<'_>,
    trail: &str,
    before: i64,
) -> Result<Head, Stop> {
    let begins = match reader.beginning().await? {
        None => Head::NONE,
        Some(line) => TrailStart::read(&line, trail, keys, signatures.verifier)?.head(),
    };
    let near = begins.sequence.max(before.saturating_sub(signatures.every));
    let limit = u32::try_from(signatures.every).unwrap_or(u32::MAX).saturating_add(1);
    let checkpoints = reader.checkpoints(near, limit).await?;
    let Some(stored) = checkpoints.iter().rev().find(|stored| stored.sequence <= before) else {
        return Ok(begins);
    };
    let chain = Chain::new(signatures, keys.clone(), trail.to_owned(), begins);
    Ok(Checkpoint::head(&chain.stored(stored)?))
}
