//! Retention: removes the oldest entries once they are old enough and archived or delivered. The remaining trail begins
//! with a signed trail start. Without the signing key, a removal of entries is therefore detected as tampering.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Audit, Checkpoint, CheckpointSigner, Defect, Export, Fault, Head, PublicKey, SignatureVerifier,
    TrailKeys, TrailReader, Verdict,
};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Error, Result},
    operation::{Entry, Status},
};

/// Maximum number of entries removed at once, unless there is no checkpoint among them.
const MAX_PRUNE_ENTRIES: i64 = 5_000;
/// Maximum number of checkpoints in one read.
const CHECKPOINT_BATCH: u32 = 200;

/// Trail start: signed record of where a trail begins after its older entries were removed. Its line has the fields of
/// a [`Checkpoint`], but the signature has another purpose string, so that a checkpoint is not accepted as a trail
/// start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailStart(Checkpoint);

impl TrailStart {
    const PURPOSE: &str = "pilothouse audit beginning 1";
    /// Name of the operation parameter with the last entry removed.
    const THROUGH: &str = "through";

    /// Signs that the trail begins after this checkpoint. The trail will contain the operation that removes the
    /// entries.
    pub fn after(checkpoint: &Checkpoint, signer: &dyn CheckpointSigner, now: Timestamp) -> Self {
        let head = checkpoint.head();
        Self(Checkpoint::sign_as(Self::PURPOSE, signer, &checkpoint.trail, head, now))
    }

    /// Last entry removed.
    pub const fn head(&self) -> Head {
        self.0.head()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal` if the record cannot be serialised.
    pub fn line(&self) -> Result<String> {
        self.0.line()
    }

    /// Parses a line and checks that it belongs to this trail and is signed by the key of that time or a later one. The
    /// holder of an old key could sign a trail start too, so the trail itself must contain the removal: see
    /// [`TrailStart::pruned_through`].
    pub(super) fn read(
        line: &str,
        trail: &str,
        keys: &TrailKeys,
        verifier: &dyn SignatureVerifier,
    ) -> Result<Self, Defect> {
        let forged = |details| Defect::at(1, Fault::BeginningForged, details);
        let read =
            Checkpoint::parse(line).ok_or_else(|| forged("the trail start is not in the canonical form"))?;
        let mut keys = keys.since(read.sequence);
        if !keys.any(|key| read.is_signed_as(Self::PURPOSE, key, verifier)) {
            return Err(forged("the trail start is not signed by this key"));
        }
        if read.trail != trail {
            return Err(forged("the trail start belongs to another trail"));
        }
        Ok(Self(read))
    }

    /// The operation that removes these entries, as recorded in the trail.
    pub fn access(first: i64, through: i64) -> AccessRequest {
        AccessRequest::to(Verb::Prune, Resource::Operation).with("from", first).with(Self::THROUGH, through)
    }

    /// Last entry removed by the operation that this entry records; none for any other operation.
    pub(super) fn pruned_through(entry: &Entry) -> Option<i64> {
        let Entry::Complete { operation, outcome } = entry else { return None };
        let is_prune = operation.operation_type == Verb::Prune.as_str()
            && operation.resource_type == Resource::Operation.as_str()
            && outcome.status == Status::Success;
        if is_prune { operation.params.get(Self::THROUGH)?.as_i64() } else { None }
    }

    /// The head before the first entry, as stored and not verified. [`Head::NONE`] if no entries were removed.
    pub(super) async fn head_of(reader: &dyn TrailReader) -> Result<Head> {
        let Some(line) = reader.trail_start().await? else { return Ok(Head::NONE) };
        let unreadable = || Error::internal("the start of the audit trail cannot be read");
        Ok(Checkpoint::parse(&line).ok_or_else(unreadable)?.head())
    }
}

/// Port that removes the oldest part of the trail.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TrailPruner: Send + Sync {
    /// Sequence number of the oldest intent without an outcome.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn oldest_pending(&self) -> Result<Option<i64>>;

    /// Removes, in one transaction, all entries up to the new start, the checkpoints before it, and the rows of the
    /// operations that began there; stores the line of the new start and the entry of the permit's operation. Returns
    /// the number of entries removed. Returns 0 and changes nothing if the trail already begins at this start or later.
    ///
    /// # Errors
    /// `AuditUnavailable`; `Internal` when the entry at the new start has another hash.
    async fn remove(&self, permit: &Permit, start: &TrailStart) -> Result<u64>;
}

/// Part of the trail that is about to be removed.
#[derive(Clone, Debug)]
pub struct Part {
    /// First entry.
    pub first: i64,
    /// Checkpoint that covers the last entry.
    pub checkpoint: Checkpoint,
    /// Keys that may have signed an export of this part: it may have been exported before the current key was in use.
    pub keys: Vec<PublicKey>,
}

impl Part {
    /// Whether an export that was verified with one of the keys contains exactly this part. The hash of the last entry
    /// identifies the content: another history has another hash.
    pub fn matches(&self, verdict: &Verdict) -> bool {
        verdict.valid
            && verdict.trail == self.checkpoint.trail
            && verdict.head == self.checkpoint.head()
            && verdict.entries == self.first.abs_diff(self.checkpoint.sequence) + 1
    }
}

/// Archive for parts of the trail that are about to be removed.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Stores an export of this part. When it returns, the export is durable, was read back, and contains the part
    /// ([`Part::matches`]).
    ///
    /// # Errors
    /// Any error if one of these conditions does not hold.
    async fn store(&self, part: &Part, export: Export) -> Result<()>;
}

/// Copy that must exist before entries are removed: in an archive, at a receiver, or both.
#[derive(Clone, Copy)]
pub enum Retained<'a> {
    /// In an archive that is written before the removal.
    Archived(&'a dyn Archive),
    /// At a receiver that has all entries up to this one.
    Delivered(i64),
    /// In an archive and at a receiver.
    ArchivedAndDelivered(&'a dyn Archive, i64),
}

impl Retained<'_> {
    /// Last entry that may be removed.
    const fn max_sequence(&self) -> i64 {
        match self {
            Self::Archived(_) => i64::MAX,
            Self::Delivered(sequence) | Self::ArchivedAndDelivered(_, sequence) => *sequence,
        }
    }
}

impl Audit {
    /// Removes the entries covered by checkpoints signed before `before`, in parts of a few checkpoints. Each part is
    /// archived or delivered first, and its removal is an operation of its own. The remaining trail stays verifiable.
    /// The intent of a pending operation and all entries after it are kept. Returns the number of entries removed.
    ///
    /// # Errors
    /// `RoleTooLow`; `AuditUnavailable`, `StoreUnavailable`; the errors of the archive. Parts removed before the error
    /// stay removed.
    pub async fn prune(&self, caller: &Caller, before: Timestamp, retained: Retained<'_>) -> Result<u64> {
        caller.judge(&AccessRequest::to(Verb::Prune, Resource::Operation))?;
        let mut removed = 0;
        while let Some((checkpoint, keys)) = self.removable(before, retained.max_sequence()).await? {
            let trail_start = TrailStart::head_of(&*self.ports.reader).await?.sequence;
            // the part is verified in every case, also if it was delivered only
            let export = self.segment(trail_start, &checkpoint).await?;
            if let Retained::Archived(archive) | Retained::ArchivedAndDelivered(archive, _) = retained {
                let keys = keys.all().copied().collect();
                let part = Part { first: trail_start + 1, checkpoint: checkpoint.clone(), keys };
                archive.store(&part, export).await?;
            }
            let new_start = TrailStart::after(&checkpoint, &*self.ports.signer, self.clock.now());
            let access = TrailStart::access(trail_start + 1, checkpoint.sequence);
            let pruner = self.ports.pruner.clone();
            let remove = async move |permit: Permit| pruner.remove(&permit, &new_start).await;
            match self.gate.change_local(caller, access, remove).await? {
                // another process removed the part
                0 => {}
                count => removed += count,
            }
        }
        Ok(removed)
    }

    /// As [`Audit::prune`], for entries older than `age`. Protected against a wall clock that is set forward: time that
    /// did not pass while this process ran does not count, and nothing is removed if the newest entry would be too old.
    ///
    /// # Errors
    /// As [`Audit::prune`]; `Internal` when every entry would be too old.
    pub async fn prune_older(&self, caller: &Caller, age: Duration, retained: Retained<'_>) -> Result<u64> {
        let before = self.steady_now() - age;
        let (newer, _) = self.ports.reader.between(Some(before), None).await?;
        if newer.is_none() && self.removable(before, retained.max_sequence()).await?.is_some() {
            return Err(Error::internal(format!(
                "every entry of the audit trail is older than {before}: nothing is removed by age, because the clock \
                 may be wrong; if it is right, remove them with `pilothouse audit prune --before`"
            )));
        }
        self.prune(caller, before, retained).await
    }

    /// The checkpoint up to which the next part may be removed, and the keys of the trail.
    async fn removable(
        &self,
        before: Timestamp,
        max_sequence: i64,
    ) -> Result<Option<(Checkpoint, TrailKeys)>> {
        let super::AuditPorts { reader, signer, pruner, .. } = &self.ports;
        let trail_start = TrailStart::head_of(&**reader).await?.sequence;
        // reading the head refreshes the signing key after a rotation
        let (trail, _) = reader.head().await?;
        let keys = TrailKeys::read(&**reader, &trail, signer.public_key(), &**signer).await?;
        let pending = pruner.oldest_pending().await?;
        let max_sequence = max_sequence.min(pending.map_or(i64::MAX, |first| first - 1));
        let mut found = None;
        let mut after = trail_start;
        loop {
            let batch = reader.checkpoints(after, CHECKPOINT_BATCH).await?;
            for stored in &batch {
                let checkpoint = Checkpoint::parse(&stored.line)
                    .filter(|read| read.sequence == stored.sequence && read.trail == trail)
                    .filter(|read| read.is_signed_by(keys.of(read.sequence), &**signer));
                let checkpoint = checkpoint.ok_or_else(|| {
                    Error::internal(format!("the checkpoint of audit entry {} was changed", stored.sequence))
                })?;
                let fits = checkpoint.sequence - trail_start <= MAX_PRUNE_ENTRIES || found.is_none();
                if checkpoint.time >= before || checkpoint.sequence > max_sequence || !fits {
                    return Ok(found.map(|found| (found, keys)));
                }
                found = Some(checkpoint);
            }
            match batch.last() {
                Some(last) => after = last.sequence,
                None => return Ok(found.map(|found| (found, keys))),
            }
        }
    }
}
