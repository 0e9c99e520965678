//! Showing, verifying and exporting the trail, and handing its checkpoints to the witness.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    AuditTrail, Checkpoint, CheckpointSigner, CheckpointSink, Export, ExportQuery, OperationPage,
    OperationQuery, PublicKey, Retention, Signatures, TrailKeys, TrailReader, Verdict, export::Sources,
    slots::SlotPool, verify,
};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Role, Verb},
    clock::Clock,
    error::{Error, Result},
    gate::Gate,
};

/// Shows, verifies and exports the trail.
#[derive(Clone)]
pub struct Audit {
    pub(crate) gate: Gate,
    pub(crate) ports: AuditPorts,
    pub(crate) clock: Arc<dyn Clock>,
    verifying: SlotPool,
    exporting: SlotPool,
    /// Wall clock and monotonic clock when this was made.
    started: (Timestamp, Duration),
    /// Whether nothing is expected to be kept outside the database.
    without_witness: bool,
}

/// How long an export keeps its place that nobody reads, when others want it.
const UNREAD: Duration = Duration::from_secs(30);

/// What the trail's use cases need from outside.
#[derive(Clone)]
pub(crate) struct AuditPorts {
    pub(crate) trail: Arc<dyn AuditTrail>,
    pub(crate) reader: Arc<dyn TrailReader>,
    pub(crate) signer: Arc<dyn CheckpointSigner>,
    pub(crate) witness: Arc<dyn CheckpointSink>,
    pub(crate) retention: Arc<dyn Retention>,
}

/// How many checkpoints are handed over at once.
const BATCH: u32 = 500;

impl Audit {
    pub(crate) fn new(gate: Gate, ports: AuditPorts, clock: Arc<dyn Clock>) -> Self {
        // a verification is never idle
        let verifying = SlotPool::new(1, Duration::MAX, clock.clone());
        let exporting = SlotPool::new(4, UNREAD, clock.clone());
        let started = (clock.now(), clock.monotonic());
        Self { gate, ports, verifying, exporting, started, without_witness: false, clock }
    }

    /// The same, where nothing is kept outside the database: of a copy, or on another machine.
    #[must_use]
    pub fn without_witness(self) -> Self {
        Self { without_witness: true, ..self }
    }

    fn witness(&self) -> Option<&dyn CheckpointSink> {
        (!self.without_witness).then_some(&*self.ports.witness)
    }

    /// The time, unless the wall clock was set forward since this process began: then what it would be without that.
    pub(super) fn steady_now(&self) -> Timestamp {
        let (wall, monotonic) = self.started;
        self.clock.now().min(wall + self.clock.monotonic().saturating_sub(monotonic))
    }

    /// A page of operations. A viewer sees only their own.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn operations(&self, caller: &Caller, mut query: OperationQuery) -> Result<OperationPage> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Operation)).await?;
        if caller.role == Some(Role::Viewer) {
            query.user_id = caller.user_id;
        }
        self.ports.trail.operations(&query).await
    }

    /// Verifies the whole trail, while others append to it: chain, checkpoints, and the rows that lists show. One at a
    /// time.
    ///
    /// # Errors
    /// `RoleTooLow`; `Overloaded` while another one runs; `StoreUnavailable`.
    pub async fn verify(&self, caller: &Caller) -> Result<Verdict> {
        self.gate.allow(caller, AccessRequest::to(Verb::Verify, Resource::Operation)).await?;
        let _place = self.verifying.take()?;
        let AuditPorts { reader, signer, .. } = &self.ports;
        loop {
            // whoever reads the head learns of a new key
            reader.head().await?;
            let key = signer.public_key();
            let signatures = Signatures { key, verifier: &**signer, every: Checkpoint::EVERY };
            let verdict = verify(&**reader, self.witness(), signatures).await?;
            reader.head().await?;
            if verdict.valid || signer.public_key() == key {
                return Ok(verdict);
            }
        }
    }

    /// Begins an export. It is itself an operation, and durable in the trail before its first line leaves; what it holds
    /// ends before that. What it holds is verified first, against its checkpoints, the witness, and what this process
    /// remembers.
    ///
    /// # Errors
    /// `RoleTooLow`; `Overloaded` while several run; `AuditUnavailable`; `StoreUnavailable`; `Internal`, naming the first bad
    /// entry, when what it would hold is not whole.
    pub async fn export(&self, caller: &Caller, query: ExportQuery) -> Result<Export> {
        let mut access =
            AccessRequest::to(Verb::Export, Resource::Operation).with("format", query.format.as_str());
        for (name, bound) in [("from", query.from), ("to", query.to)] {
            if let Some(bound) = bound {
                access = access.with(name, bound.to_string());
            }
        }
        let (this, now) = (self.clone(), self.clock.now());
        let begin = async move |_: Permit| {
            let place = this.exporting.take()?;
            Export::begin(this.ports.reader.clone(), this.sources(now), query, place).await
        };
        self.gate.record_read(caller, access, begin).await
    }

    fn sources(&self, now: Timestamp) -> Sources<'_> {
        Sources { signer: &*self.ports.signer, witness: self.witness(), now }
    }

    /// An export of what lies between the beginning and this checkpoint. No operation: its removal will be one. It waits for
    /// no place, so that exports that are read slowly do not keep it waiting.
    pub(super) async fn segment(&self, begins: i64, checkpoint: &Checkpoint) -> Result<Export> {
        let sources = self.sources(self.clock.now());
        Export::between(self.ports.reader.clone(), sources, (begins, checkpoint.head())).await
    }

    /// The key that checkpoints and exports of this install are signed with.
    pub fn public_key(&self) -> PublicKey {
        self.ports.signer.public_key()
    }

    /// Signs the end of the trail when that is due, and hands every checkpoint to the witness that it does not have yet.
    /// To be called every few seconds by whoever serves, with [`Checkpoint::AGE`], and at the end with none.
    ///
    /// # Errors
    /// `AuditUnavailable`, `StoreUnavailable`; `Internal` when the witness cannot write, or when a checkpoint in the
    /// database is not ours: then neither it nor a later one is handed over.
    pub async fn keep_checkpoints(&self, age: Duration) -> Result<()> {
        self.ports.trail.checkpoint(age).await?;
        while self.publish_checkpoints().await? {}
        Ok(())
    }

    /// Hands some checkpoints to the witness that it does not have yet; whether there may be more.
    ///
    /// # Errors
    /// As [`Audit::keep_checkpoints`].
    pub async fn publish_checkpoints(&self) -> Result<bool> {
        let AuditPorts { reader, signer, witness, .. } = &self.ports;
        let last = witness.last()?.map_or(0, |last| last.sequence);
        let new = reader.checkpoints(last, BATCH).await?;
        if new.is_empty() {
            return Ok(false);
        }
        let (trail, _) = reader.head().await?;
        let keys = TrailKeys::read(&**reader, &trail, signer.public_key(), &**signer).await?;
        let is_ours = |line: &str| {
            let checkpoint = Checkpoint::parse(line).filter(|one| one.trail == trail);
            checkpoint.is_some_and(|one| one.is_signed_by(keys.of(one.sequence), &**signer))
        };
        if let Some(forged) = new.iter().find(|stored| !is_ours(&stored.line)) {
            let at = forged.sequence;
            return Err(Error::internal(format!("the checkpoint of audit entry {at} was changed")));
        }
        witness.keep(&new.into_iter().map(|stored| stored.line).collect::<Vec<_>>())?;
        Ok(true)
    }

    /// Whether the trail ends before an entry that the witness knows of: somebody cut it, or restored an older database.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` when the witness cannot be read.
    pub async fn is_truncated(&self) -> Result<bool> {
        let (_, head) = self.ports.reader.head().await?;
        Ok(self.ports.witness.last()?.is_some_and(|last| last.sequence > head.sequence))
    }
}
