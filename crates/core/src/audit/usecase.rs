//! Use cases of the audit trail: list, verify, export, and copy checkpoints to the checkpoint sink.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    AuditMaintenance, AuditQuery, AuditedClusters, Checkpoint, CheckpointSigner, CheckpointSink, Export,
    ExportQuery, OperationPage, OperationQuery, OperationRow, PublicKey, Signatures, TrailKeys, TrailPruner,
    TrailReader, Verdict, export::Sources, slots::SlotPool, verify,
};
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    clock::Clock,
    error::{Error, Result},
    gate::Gate,
    ids::{ClusterId, OperationId, UserId},
    namespaces::{NamespaceScope, NamespaceSet},
    rights::{Ask, Decision, RightResource, RightVerb, Rights, decide},
};

/// Use cases of the audit trail.
#[derive(Clone)]
pub struct Audit {
    pub(crate) gate: Gate,
    pub(crate) ports: AuditPorts,
    pub(crate) clock: Arc<dyn Clock>,
    verify_slots: SlotPool,
    export_slots: SlotPool,
    /// Wall clock and monotonic clock at construction.
    started: (Timestamp, Duration),
    /// Whether verification and export ignore the checkpoint sink.
    without_checkpoint_sink: bool,
}

/// Idle time after which an export that is not being read can lose its slot to another export.
const EXPORT_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The ports that [`Audit`] uses.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct AuditPorts {
    pub query: Arc<dyn AuditQuery>,
    pub maintenance: Arc<dyn AuditMaintenance>,
    pub reader: Arc<dyn TrailReader>,
    pub pruner: Arc<dyn TrailPruner>,
    pub signer: Arc<dyn CheckpointSigner>,
    pub checkpoint_sink: Arc<dyn CheckpointSink>,
}

/// Maximum number of checkpoints copied to the sink at once.
const CHECKPOINT_BATCH: u32 = 500;

impl Audit {
    pub(crate) fn new(gate: Gate, ports: AuditPorts, clock: Arc<dyn Clock>) -> Self {
        // a running verification is never idle
        let verify_slots = SlotPool::new(1, Duration::MAX, clock.clone());
        let export_slots = SlotPool::new(4, EXPORT_IDLE_TIMEOUT, clock.clone());
        let started = (clock.now(), clock.monotonic());
        Self { gate, ports, verify_slots, export_slots, started, without_checkpoint_sink: false, clock }
    }

    /// Returns the use cases without the checkpoint sink, for a copy of the database, or on another machine.
    #[must_use]
    pub fn without_checkpoint_sink(self) -> Self {
        Self { without_checkpoint_sink: true, ..self }
    }

    fn checkpoint_sink(&self) -> Option<&dyn CheckpointSink> {
        (!self.without_checkpoint_sink).then_some(&*self.ports.checkpoint_sink)
    }

    /// Current time, not affected by a wall clock that was set forward since this process began.
    pub(super) fn steady_now(&self) -> Timestamp {
        let (wall, monotonic) = self.started;
        self.clock.now().min(wall + self.clock.monotonic().saturating_sub(monotonic))
    }

    /// Returns a page of operations: the caller's own, and those in the clusters and namespaces in which the caller may
    /// list the audit trail. With that right on all clusters, the page is of the whole trail.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn operations(&self, caller: &Caller, mut query: OperationQuery) -> Result<OperationPage> {
        self.gate.allow(caller, AccessRequest::to(Verb::List, Resource::Operation)).await?;
        let whole_trail = AccessRequest::to(Verb::Export, Resource::Operation);
        if caller.judge(&whole_trail).is_err() {
            // ids begin at 1: a caller without an id has no operations of their own
            query.user_id = Some(caller.user_id.unwrap_or(UserId(0)));
            query.audited = audited(&caller.rights);
        }
        self.ports.query.operations(&query).await
    }

    /// Returns the rows of these operations that the caller may read: those that [`Audit::operations`] contains.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub async fn operations_of(&self, caller: &Caller, ids: &[OperationId]) -> Result<Vec<OperationRow>> {
        let mut rows = self.ports.query.operations_of(ids).await?;
        if caller.judge(&AccessRequest::to(Verb::Export, Resource::Operation)).is_err() {
            let audited = audited(&caller.rights);
            rows.retain(|row| {
                let is_own = row.user_id.is_some() && row.user_id == caller.user_id;
                let namespace = row.namespace.as_deref();
                is_own || audited.iter().any(|part| part.contains(row.cluster_id, namespace))
            });
        }
        Ok(rows)
    }

    /// Verifies the whole trail while other processes append to it: chain, checkpoints, and rows of the operations
    /// list. Only one verification runs at a time.
    ///
    /// # Errors
    /// `RoleTooLow`; `Overloaded` while another verification runs; `StoreUnavailable`.
    pub async fn verify(&self, caller: &Caller) -> Result<Verdict> {
        self.gate.allow(caller, AccessRequest::to(Verb::Verify, Resource::Operation)).await?;
        let _slot = self.verify_slots.acquire()?;
        let AuditPorts { reader, signer, .. } = &self.ports;
        loop {
            // reading the head refreshes the signing key after a rotation
            reader.head().await?;
            let key = signer.public_key();
            let signatures = Signatures { key, verifier: &**signer, every: Checkpoint::EVERY };
            let verdict = verify(&**reader, self.checkpoint_sink(), signatures).await?;
            reader.head().await?;
            if verdict.valid || signer.public_key() == key {
                return Ok(verdict);
            }
        }
    }

    /// Begins an export. The export is itself an operation, durable in the trail before its first line is returned; its
    /// entries end before that operation. The entries are verified first, against their checkpoints, the checkpoint
    /// sink, and the heads that this process has verified.
    ///
    /// # Errors
    /// `RoleTooLow`; `Overloaded` while several exports run; `AuditUnavailable`; `StoreUnavailable`; `Internal`, naming
    /// the first bad entry, when verification fails.
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
            let slot = this.export_slots.acquire()?;
            Export::begin(this.ports.reader.clone(), this.sources(now), query, slot).await
        };
        self.gate.record_read(caller, access, begin).await
    }

    fn sources(&self, now: Timestamp) -> Sources<'_> {
        Sources { signer: &*self.ports.signer, checkpoint_sink: self.checkpoint_sink(), now }
    }

    /// Exports the entries from the start of the trail up to this checkpoint. The export is not recorded as an
    /// operation, because the removal is recorded. It needs no slot, so that slow readers of other exports cannot delay
    /// it.
    pub(super) async fn segment(&self, trail_start: i64, checkpoint: &Checkpoint) -> Result<Export> {
        let sources = self.sources(self.clock.now());
        Export::between(self.ports.reader.clone(), sources, (trail_start, checkpoint.head())).await
    }

    /// Public key that verifies the checkpoints and exports of this install.
    pub fn public_key(&self) -> PublicKey {
        self.ports.signer.public_key()
    }

    /// Closes as `unknown` the pending operations of processes that have ended. Returns how many were closed. Called at
    /// startup, and repeatedly where several processes share one trail.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub async fn close_orphans(&self) -> Result<u64> {
        self.ports.maintenance.close_orphans(self.clock.now()).await
    }

    /// Signs the last entry when a checkpoint is due, and copies all new checkpoints to the checkpoint sink. A server
    /// calls this every few seconds with [`Checkpoint::AGE`], and with an age of zero at shutdown.
    ///
    /// # Errors
    /// `AuditUnavailable`, `StoreUnavailable`; `Internal` when the sink cannot be written, or when a checkpoint in the
    /// database is not signed by a key of this trail: then neither this checkpoint nor a later one is copied.
    pub async fn update_checkpoints(&self, age: Duration) -> Result<()> {
        self.ports.maintenance.checkpoint(age).await?;
        while self.publish_checkpoints().await? {}
        Ok(())
    }

    /// Copies one batch of new checkpoints to the checkpoint sink. Returns whether there may be more.
    ///
    /// # Errors
    /// As [`Audit::update_checkpoints`].
    pub async fn publish_checkpoints(&self) -> Result<bool> {
        let AuditPorts { reader, signer, checkpoint_sink, .. } = &self.ports;
        let last = checkpoint_sink.last()?.map_or(0, |last| last.sequence);
        let new = reader.checkpoints(last, CHECKPOINT_BATCH).await?;
        if new.is_empty() {
            return Ok(false);
        }
        let (trail, _) = reader.head().await?;
        let keys = TrailKeys::read(&**reader, &trail, signer.public_key(), &**signer).await?;
        let is_signed = |line: &str| {
            let checkpoint = Checkpoint::parse(line).filter(|one| one.trail == trail);
            checkpoint.is_some_and(|one| one.is_signed_by(keys.of(one.sequence), &**signer))
        };
        if let Some(forged) = new.iter().find(|stored| !is_signed(&stored.line)) {
            let at = forged.sequence;
            return Err(Error::internal(format!("the checkpoint of audit entry {at} was changed")));
        }
        checkpoint_sink.store(&new.into_iter().map(|stored| stored.line).collect::<Vec<_>>())?;
        Ok(true)
    }

    /// Whether the trail ends before the last checkpoint in the sink: it was truncated, or an older database was
    /// restored.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` when the sink cannot be read.
    pub async fn is_truncated(&self) -> Result<bool> {
        let (_, head) = self.ports.reader.head().await?;
        Ok(self.ports.checkpoint_sink.last()?.is_some_and(|last| last.sequence > head.sequence))
    }
}

/// The clusters and namespaces in which a caller may list the audit trail.
fn audited(rights: &Rights) -> Vec<AuditedClusters> {
    let mut audited: Vec<AuditedClusters> = Vec::new();
    for cluster in rights.visible_clusters() {
        let Some(namespaces) = audited_namespaces(rights, cluster) else { continue };
        match audited.iter_mut().find(|part| part.namespaces == namespaces) {
            Some(part) => part.clusters.push(cluster),
            None => audited.push(AuditedClusters { clusters: vec![cluster], namespaces }),
        }
    }
    audited
}

/// The namespaces of a cluster in which a caller may list the audit trail: `Some(None)` for the whole cluster, `None` for
/// none of it.
fn audited_namespaces(rights: &Rights, cluster: ClusterId) -> Option<Option<NamespaceSet>> {
    let decision = |namespaces| {
        let (verb, resource) = (RightVerb::List, RightResource::Audit);
        decide(rights, &Ask { verb, resource, cluster: Some(cluster), namespaces })
    };
    if decision(NamespaceScope::Unscoped).is_allowed() {
        return Some(None);
    }
    match decision(NamespaceScope::All) {
        Decision::Allow { scope: NamespaceScope::Set(set), .. } => Some(Some(set)),
        // all namespaces, but not what has none
        Decision::Allow { .. } => Some(Some(NamespaceSet::all())),
        Decision::Deny { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        namespaces::NamespacePattern,
        rights::{
            BuiltInRole, ClusterLabels, ClusterScope, EffectiveGrant, GrantRef, Labels, Reach, RoleRules,
        },
    };

    #[test]
    fn rows_are_those_of_clusters_and_namespaces_with_the_right() {
        let grant = |rules: RoleRules, ids: &[i64], reach| EffectiveGrant {
            grant: GrantRef { id: None, role: "admin".to_owned(), via_group: None, until: None },
            rules: Arc::new(rules),
            clusters: ClusterScope::Ids(ids.iter().copied().map(ClusterId).collect()),
            reach,
            from: Timestamp::UNIX_EPOCH,
            revoked: false,
        };
        let team = NamespacePattern::parse("team-*").unwrap();
        let grants = [
            grant(BuiltInRole::Admin.rules(), &[1, 3], Reach::try_from(vec![team.clone()]).unwrap()),
            grant(BuiltInRole::Admin.rules(), &[2], Reach::Cluster),
            grant(BuiltInRole::Editor.rules(), &[4], Reach::Cluster),
        ];
        let labels = ClusterLabels::from([1, 2, 3, 4].map(|id| (ClusterId(id), Labels::new())));
        let rights = Rights::compile(&grants, &labels, Timestamp::UNIX_EPOCH);
        let in_team = AuditedClusters {
            clusters: vec![ClusterId(1), ClusterId(3)],
            namespaces: Some(NamespaceSet::new([team])),
        };
        let whole = AuditedClusters { clusters: vec![ClusterId(2)], namespaces: None };
        assert_eq!(audited(&rights), [in_team.clone(), whole.clone()]);
        assert!(in_team.contains(Some(ClusterId(3)), Some("team-a")));
        assert!(!in_team.contains(Some(ClusterId(3)), Some("shop")));
        assert!(!in_team.contains(Some(ClusterId(3)), None) && !in_team.contains(None, Some("team-a")));
        assert!(whole.contains(Some(ClusterId(2)), None));
    }
}
