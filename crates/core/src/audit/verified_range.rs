//! Verification of a range of the trail before it is signed: an export, or the part that is archived before removal.

use super::{
    Checkpoint, CheckpointSink, Defect, Fault, Head, Signatures, TrailKeys, TrailReader,
    chain::Chain,
    retention::TrailStart,
    walk::{ExternalEvidence, Stop, Walk},
};
use crate::error::{Error, Result};

/// A verified range of entries.
pub(super) struct VerifiedRange {
    pub(super) trail: String,
    pub(super) keys: TrailKeys,
    /// Head before the first entry of the range.
    pub(super) before: Head,
    /// Last entry of the range.
    pub(super) end: Head,
}

/// Verifies the entries after `before` up to and including `through`: they must lie between checkpoints signed by a key
/// of this trail, or after the last one, and must agree with the checkpoint sink and with the heads that the process of
/// `reader` has verified.
///
/// # Errors
/// As [`TrailReader`] and [`CheckpointSink::lines`]; `Internal`, naming the first bad entry, when verification fails.
pub(super) async fn verify_range(
    reader: &dyn TrailReader,
    sink: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    (before, through): (i64, i64),
) -> Result<VerifiedRange> {
    match walk(reader, sink, signatures, (before, through)).await {
        Ok(range) => Ok(range),
        Err(Stop::Bad(defect)) => Err(defect.into_error()),
        Err(Stop::Unreadable(error)) => Err(error),
    }
}

async fn walk(
    reader: &dyn TrailReader,
    sink: Option<&dyn CheckpointSink>,
    signatures: Signatures<'_>,
    (before, through): (i64, i64),
) -> Result<VerifiedRange, Stop> {
    // without verified heads, the trail can be compared with the checkpoint sink only
    let needs_sink = reader.verified_heads().is_empty();
    let evidence = ExternalEvidence::of(reader, sink)?;
    let (trail, mut head) = reader.head().await?;
    let lines = reader.key_rotations().await?;
    let keys = TrailKeys::of_lines(&trail, signatures.key, &lines, signatures.verifier)?;
    if needs_sink && evidence.is_empty && reader.checkpoints(i64::MIN, 2).await?.len() > 1 {
        return Err(Error::internal(
            "there is no checkpoint outside the database to compare the audit trail with: the checkpoint file was removed \
             or moved; use `pilothouse audit export --no-witness` to export without it",
        )
        .into());
    }
    let from = start(reader, &keys, signatures, &trail, before).await?;
    let is_signed = from.sequence > 0;
    let chain = Chain::new(signatures, keys.clone(), trail.clone(), from);
    let mut walk = Walk::part(reader, chain, evidence);
    if is_signed {
        walk.compare().await?;
    }
    let mut range = VerifiedRange { trail, keys, before: from, end: from };
    loop {
        let here = walk.chain.head;
        if here.sequence == before {
            range.before = here;
        }
        if here.sequence == through {
            range.end = here;
        }
        let is_signed_through = here.sequence >= through && walk.chain.signed_through() >= through;
        if is_signed_through && here.sequence >= before {
            return Ok(range);
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
    // the entries after the last checkpoint are not signed yet
    if !is_signed && walk.stored_matches == 0 && walk.chain.head.sequence > 0 {
        let details = "there is no checkpoint: the checkpoints were removed";
        return Err(Defect::at(1, Fault::CheckpointMissing, details).into());
    }
    walk.chain.check_unsigned_tail()?;
    Ok(range)
}

/// The last checkpoint at or before this entry, or the start of the trail when there is none.
async fn start(
    reader: &dyn TrailReader,
    keys: &TrailKeys,
    signatures: Signatures<'_>,
    trail: &str,
    before: i64,
) -> Result<Head, Stop> {
    let trail_start = match reader.trail_start().await? {
        None => Head::NONE,
        Some(line) => TrailStart::read(&line, trail, keys, signatures.verifier)?.head(),
    };
    let near = trail_start.sequence.max(before.saturating_sub(signatures.every));
    let limit = u32::try_from(signatures.every).unwrap_or(u32::MAX).saturating_add(1);
    let checkpoints = reader.checkpoints(near, limit).await?;
    let Some(stored) = checkpoints.iter().rev().find(|stored| stored.sequence <= before) else {
        return Ok(trail_start);
    };
    let chain = Chain::new(signatures, keys.clone(), trail.to_owned(), trail_start);
    Ok(Checkpoint::head(&chain.stored(stored)?))
}
