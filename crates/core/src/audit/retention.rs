//! Retention: the oldest entries may go, once they are old enough and kept elsewhere. What is left begins with a signed word
//! of where it begins, so that nobody but us can take entries away and call it retention.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Audit, Checkpoint, CheckpointSigner, Defect, Entry, Export, Fault, Head, PublicKey, SignatureVerifier,
    Status, TrailKeys, TrailReader, Verdict,
};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Error, Result},
};

/// The most entries that are removed at once, unless there is no checkpoint among so many.
const MOST: i64 = 5_000;
/// How many checkpoints are read at once.
const BATCH: u32 = 200;

/// Where a trail begins whose older entries were removed. In a line of its own: the fields of a [`Checkpoint`], signed to say
/// something else, so that a checkpoint is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrailStart(Checkpoint);

impl TrailStart {
    const PURPOSE: &str = "pilothouse audit beginning 1";
    /// The parameter of its operation.
    const THROUGH: &str = "through";

    /// The trail begins after this checkpoint, whose operation the trail will hold.
    pub fn after(checkpoint: &Checkpoint, signer: &dyn CheckpointSigner, now: Timestamp) -> Self {
        let head = checkpoint.head();
        Self(Checkpoint::sign_as(Self::PURPOSE, signer, &checkpoint.trail, head, now))
    }

    /// The last entry removed.
    pub const fn head(&self) -> Head {
        self.0.head()
    }

    /// The line that is stored.
    ///
    /// # Errors
    /// `Internal`, should it not serialise.
    pub fn line(&self) -> Result<String> {
        self.0.line()
    }

    /// Reads a line, and sees that it is ours and of this trail: signed by a key that signed then or later. That it was not
    /// one who has such a key from before, the trail must say itself: see [`TrailStart::said_by`].
    pub(super) fn read(
        line: &str,
        trail: &str,
        keys: &TrailKeys,
        verifier: &dyn SignatureVerifier,
    ) -> Result<Self, Defect> {
        let forged = |details| Defect::at(1, Fault::BeginningForged, details);
        let read = Checkpoint::parse(line)
            .ok_or_else(|| forged("the record of the start of the trail is not in the canonical form"))?;
        let mut keys = keys.since(read.sequence);
        if !keys.any(|key| read.is_signed_as(Self::PURPOSE, key, verifier)) {
            return Err(forged("the record of the start of the trail is not signed by this key"));
        }
        if read.trail != trail {
            return Err(forged("the record of the start of the trail belongs to another trail"));
        }
        Ok(Self(read))
    }

    /// The operation that removes these entries, as the trail is to tell it.
    pub fn access(first: i64, through: i64) -> AccessRequest {
        AccessRequest::to(Verb::Prune, Resource::Operation).with("from", first).with(Self::THROUGH, through)
    }

    /// The last entry that an operation of the trail has removed, if it is one that did.
    pub(super) fn said_by(entry: &Entry) -> Option<i64> {
        let Entry::Complete { operation, outcome } = entry else { return None };
        let is_ours = operation.operation_type == Verb::Prune.as_str()
            && operation.resource_type == Resource::Operation.as_str()
            && outcome.status == Status::Success;
        if is_ours { operation.params.get(Self::THROUGH)?.as_i64() } else { None }
    }

    /// As it lies there, unverified: the entry before the first one; that of an untouched trail when there is none.
    pub(super) async fn head_of(reader: &dyn TrailReader) -> Result<Head> {
        let Some(line) = reader.beginning().await? else { return Ok(Head::NONE) };
        let unreadable = || Error::internal("the record of the start of the audit trail cannot be read");
        Ok(Checkpoint::parse(&line).ok_or_else(unreadable)?.head())
    }
}

/// Removes the oldest part of the trail.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Retention: Send + Sync {
    /// The number of the oldest intent without an outcome.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn oldest_pending(&self) -> Result<Option<i64>>;

    /// Removes every entry up to the new beginning, the checkpoints before it, and from the lists the operations that began
    /// there; keeps the line of the beginning, and the entry of the permit's operation, in the same transaction. How many
    /// entries went; none, and nothing is changed, when the trail begins there or later already.
    ///
    /// # Errors
    /// `AuditUnavailable`; `Internal` when the entry there has another hash.
    async fn remove(&self, permit: &Permit, beginning: &TrailStart) -> Result<u64>;
}

/// A part of the trail that is about to be removed.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its first entry.
    pub first: i64,
    /// The checkpoint that covers its last entry.
    pub checkpoint: Checkpoint,
    /// The keys that an export of it may be signed by: it may have been exported before the last key was in use.
    pub keys: Vec<PublicKey>,
}

impl Part {
    /// Whether an export that was verified with one of the keys holds this part, all of it and nothing else. The hash of
    /// its last entry tells: another history has another one.
    pub fn is_held_by(&self, verdict: &Verdict) -> bool {
        verdict.valid
            && verdict.trail == self.checkpoint.trail
            && verdict.head == self.checkpoint.head()
            && verdict.entries == self.first.abs_diff(self.checkpoint.sequence) + 1
    }
}

/// Keeps elsewhere what is about to be removed.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Keeps an export of this part; durable, read back and found to hold it ([`Part::is_held_by`]) when it returns.
    ///
    /// # Errors
    /// When it is not.
    async fn keep(&self, part: &Part, export: Export) -> Result<()>;
}

/// Where entries are kept before they are removed: at least in one of the two places.
#[derive(Clone, Copy)]
pub enum Retained<'a> {
    /// In an archive that is filled now.
    Archived(&'a dyn Archive),
    /// With somebody who was told up to this entry.
    Delivered(i64),
    /// Both.
    ArchivedAndDelivered(&'a dyn Archive, i64),
}

impl Retained<'_> {
    /// The last entry that may be removed.
    const fn most(&self) -> i64 {
        match self {
            Self::Archived(_) => i64::MAX,
            Self::Delivered(told) | Self::ArchivedAndDelivered(_, told) => *told,
        }
    }
}

impl Audit {
    /// Removes what was signed before `before`, a few checkpoints at a time: each time kept elsewhere first, and an operation
    /// of its own. What is left stays verifiable. An operation under way keeps its intent, and all after that. How many
    /// entries went.
    ///
    /// # Errors
    /// `RoleTooLow`; `AuditUnavailable`, `StoreUnavailable`; what keeping says. What was removed until then is gone.
    pub async fn prune(&self, caller: &Caller, before: Timestamp, kept: Retained<'_>) -> Result<u64> {
        caller.check(Verb::Prune, Resource::Operation)?;
        let mut removed = 0;
        while let Some((checkpoint, keys)) = self.removable(before, kept.most()).await? {
            let begins = TrailStart::head_of(&*self.ports.reader).await?.sequence;
            // what goes is verified, wherever it is kept
            let export = self.segment(begins, &checkpoint).await?;
            if let Retained::Archived(archive) | Retained::ArchivedAndDelivered(archive, _) = kept {
                let keys = keys.all().copied().collect();
                let part = Part { first: begins + 1, checkpoint: checkpoint.clone(), keys };
                archive.keep(&part, export).await?;
            }
            let beginning = TrailStart::after(&checkpoint, &*self.ports.signer, self.clock.now());
            let access = TrailStart::access(begins + 1, checkpoint.sequence);
            let retention = self.ports.retention.clone();
            let remove = async move |permit: Permit| retention.remove(&permit, &beginning).await;
            match self.gate.change_local(caller, access, remove).await? {
                // somebody else did
                0 => {}
                went => removed += went,
            }
        }
        Ok(removed)
    }

    /// As [`Audit::prune`], of what is older than `age`. A wall clock that is set forward makes nothing old: time that did
    /// not go by while this process ran does not count, and a trail whose newest entry would be too old is left as it is.
    ///
    /// # Errors
    /// As [`Audit::prune`]; `Internal` when every entry would be too old.
    pub async fn prune_older(&self, caller: &Caller, age: Duration, kept: Retained<'_>) -> Result<u64> {
        let before = self.steady_now() - age;
        let (young, _) = self.ports.reader.between(Some(before), None).await?;
        if young.is_none() && self.removable(before, kept.most()).await?.is_some() {
            return Err(Error::internal(format!(
                "every entry of the audit trail is older than {before}: nothing is removed by age, because the clock \
                 may be wrong; if it is right, remove them with `pilothouse audit prune --before`"
            )));
        }
        self.prune(caller, before, kept).await
    }

    /// The checkpoint through which the trail may be removed next, and the trail's keys.
    async fn removable(&self, before: Timestamp, most: i64) -> Result<Option<(Checkpoint, TrailKeys)>> {
        let super::AuditPorts { reader, signer, retention, .. } = &self.ports;
        let begins = TrailStart::head_of(&**reader).await?.sequence;
        // whoever reads the head learns of a new key
        let (trail, _) = reader.head().await?;
        let keys = TrailKeys::read(&**reader, &trail, signer.public_key(), &**signer).await?;
        let pending = retention.oldest_pending().await?;
        let most = most.min(pending.map_or(i64::MAX, |first| first - 1));
        let mut found = None;
        let mut after = begins;
        loop {
            let batch = reader.checkpoints(after, BATCH).await?;
            for stored in &batch {
                let checkpoint = Checkpoint::parse(&stored.line)
                    .filter(|read| read.sequence == stored.sequence && read.trail == trail)
                    .filter(|read| read.is_signed_by(keys.of(read.sequence), &**signer));
                let checkpoint = checkpoint.ok_or_else(|| {
                    Error::internal(format!("the checkpoint of audit entry {} was changed", stored.sequence))
                })?;
                let fits = checkpoint.sequence - begins <= MOST || found.is_none();
                if checkpoint.time >= before || checkpoint.sequence > most || !fits {
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
