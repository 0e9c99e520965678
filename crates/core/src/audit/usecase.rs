//! Showing, verifying and exporting the trail, and handing its checkpoints to the witness.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use super::{
    AuditTrail, Checkpoint, CheckpointSigner, Export, ExportQuery, Head, OperationPage, OperationQuery,
    PublicKey, Retention, Signatures, TrailKeys, TrailReader, Verdict, Witness, verify,
};
use crate::{
    access::{Access, Caller, Permit, Resource, Role, Verb},
    clock::Clock,
    error::{Cause, Error, Result},
    gate::Gate,
};

/// Shows, verifies and exports the trail.
#[derive(Clone)]
pub struct Audit {
    pub(crate) gate: Gate,
    pub(crate) ports: AuditPorts,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) verifying: Places,
    pub(crate) exporting: Places,
}

/// What the trail's use cases need from outside.
#[derive(Clone)]
pub(crate) struct AuditPorts {
    pub(crate) trail: Arc<dyn AuditTrail>,
    pub(crate) reader: Arc<dyn TrailReader>,
    pub(crate) signer: Arc<dyn CheckpointSigner>,
    pub(crate) witness: Arc<dyn Witness>,
    pub(crate) retention: Arc<dyn Retention>,
}

/// How many checkpoints are handed over at once.
const BATCH: u32 = 500;

impl Audit {
    pub(crate) fn new(gate: Gate, ports: AuditPorts, clock: Arc<dyn Clock>) -> Self {
        Self { gate, ports, clock, verifying: Places::new(1), exporting: Places::new(4) }
    }

    /// A page of operations. A viewer sees only their own.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn operations(&self, caller: &Caller, mut query: OperationQuery) -> Result<OperationPage> {
        self.gate.allow(caller, Access::to(Verb::List, Resource::Operation)).await?;
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
        self.gate.allow(caller, Access::to(Verb::Verify, Resource::Operation)).await?;
        let _place = self.verifying.take()?;
        let AuditPorts { reader, signer, witness, .. } = &self.ports;
        loop {
            // whoever reads the head learns of a new key
            reader.head().await?;
            let key = signer.public_key();
            let signatures = Signatures { key, verifier: &**signer, every: Checkpoint::EVERY };
            let verdict = verify(&**reader, &**witness, signatures).await?;
            reader.head().await?;
            if verdict.valid || signer.public_key() == key {
                return Ok(verdict);
            }
        }
    }

    /// Begins an export. It is itself an operation, and durable in the trail before its first line leaves; what it holds
    /// ends before that.
    ///
    /// # Errors
    /// `RoleTooLow`; `Overloaded` while several run; `AuditUnavailable`; `StoreUnavailable`.
    pub async fn export(&self, caller: &Caller, query: ExportQuery) -> Result<Export> {
        let mut access = Access::to(Verb::Export, Resource::Operation).with("format", query.format.as_str());
        for (name, bound) in [("from", query.from), ("to", query.to)] {
            if let Some(bound) = bound {
                access = access.with(name, bound.to_string());
            }
        }
        let (places, ports) = (self.exporting.clone(), self.ports.clone());
        let now = self.clock.now();
        let begin = async move |_: Permit| {
            let place = places.take()?;
            Export::begin(ports.reader, &*ports.signer, query, now, place).await
        };
        self.gate.observe(caller, access, begin).await
    }

    /// An export of what lies between the beginning and this checkpoint. No operation: its removal will be one.
    pub(super) async fn segment(&self, begins: Head, checkpoint: &Checkpoint) -> Result<Export> {
        let AuditPorts { reader, signer, .. } = &self.ports;
        let place = self.exporting.take()?;
        let ends = checkpoint.head();
        let now = self.clock.now();
        Export::between(reader.clone(), &**signer, &checkpoint.trail, (begins, ends), now, place).await
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
        let AuditPorts { trail, reader, signer, witness, .. } = &self.ports;
        trail.checkpoint(age).await?;
        loop {
            let new = reader.checkpoints(witness.last()?, BATCH).await?;
            if new.is_empty() {
                return Ok(());
            }
            let mut keys = TrailKeys::new(signer.public_key(), Vec::new());
            let is_ours = |line: &str, keys: &TrailKeys| {
                let checkpoint = Checkpoint::parse(line);
                checkpoint.is_some_and(|one| one.is_signed_by(keys.of(one.sequence), &**signer))
            };
            if !new.iter().all(|stored| is_ours(&stored.line, &keys)) {
                // perhaps by the key before
                keys = TrailKeys::claimed(&**reader, signer.public_key()).await?;
            }
            if let Some(forged) = new.iter().find(|stored| !is_ours(&stored.line, &keys)) {
                let at = forged.sequence;
                return Err(Error::internal(format!("the checkpoint of audit entry {at} was changed")));
            }
            witness.keep(&new.into_iter().map(|stored| stored.line).collect::<Vec<_>>())?;
        }
    }

    /// Whether the trail ends before an entry that the witness knows of: somebody cut it, or restored an older database.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` when the witness cannot be read.
    pub async fn is_cut(&self) -> Result<bool> {
        let (_, head) = self.ports.reader.head().await?;
        Ok(head.sequence < self.ports.witness.last()?)
    }
}

/// A number of places, each taken by one at a time.
#[derive(Clone)]
pub(crate) struct Places {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A place that is taken, until this is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// Takes one.
    ///
    /// # Errors
    /// `Overloaded` when all are taken.
    fn take(&self) -> Result<Place> {
        let free = |taken: usize| (taken < self.most).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free) {
            Ok(_) => Ok(Place(self.taken.clone())),
            Err(_) => Err(Error::new(Cause::Overloaded).retry_after(Duration::from_secs(5))),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
