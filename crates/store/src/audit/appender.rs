//! New rows of the trail: operations, chain entries, checkpoints and key rotations.

use std::sync::Arc;

use diesel::Insertable;
use jiff::Timestamp;
use pilothouse_core::{
    Error, Result,
    audit::{Checkpoint, CheckpointSigner, Head, KeyRotation, LastCheckpoint},
    operation::{Entry, Operation, Outcome, Status},
};

use crate::schema::{At, audit_checkpoints, audit_handovers, audit_log, operations};

#[derive(Insertable)]
#[diesel(table_name = operations)]
pub(super) struct NewOperation {
    operation_id: String,
    instance: String,
    operation_type: String,
    resource_type: String,
    cluster_id: Option<i64>,
    cluster_name: Option<String>,
    namespace: Option<String>,
    resource_name: Option<String>,
    searched: String,
    user_id: Option<i64>,
    username: String,
    role: Option<&'static str>,
    grant_id: Option<i64>,
    token_id: Option<i64>,
    reason: Option<String>,
    source_ip: Option<String>,
    request_id: Option<String>,
    status: &'static str,
    error_code: Option<String>,
    details: Option<String>,
    duration_ms: Option<i64>,
    created_at: At,
    finished_at: Option<At>,
}

impl NewOperation {
    pub(super) fn of(operation: &Operation, outcome: Option<&Outcome>, instance: &str) -> Self {
        let operation = operation.clone();
        let summary = operation.summary();
        Self {
            operation_id: operation.id.to_string(),
            instance: instance.to_owned(),
            operation_type: operation.operation_type,
            resource_type: operation.resource_type,
            cluster_id: operation.cluster_id.map(|id| id.0),
            cluster_name: operation.cluster_name,
            namespace: operation.namespace,
            searched: operation.resource_name.as_deref().unwrap_or_default().to_lowercase(),
            resource_name: operation.resource_name,
            user_id: operation.user_id.map(|id| id.0),
            username: operation.username,
            role: operation.role.map(pilothouse_core::role::Role::as_str),
            grant_id: operation.grant_id.map(|id| id.0),
            token_id: operation.token_id.map(|id| id.0),
            reason: operation.reason,
            source_ip: operation.source_ip.map(|ip| ip.to_string()),
            request_id: operation.request_id,
            status: outcome.map_or(Status::Pending, |outcome| outcome.status).as_str(),
            error_code: outcome.and_then(|outcome| outcome.error_code.clone()),
            details: outcome.and_then(|outcome| outcome.details.clone()).or(summary),
            duration_ms: outcome.map(|outcome| outcome.duration_ms),
            created_at: At(operation.created_at),
            finished_at: outcome.map(|outcome| At(outcome.finished_at)),
        }
    }
}

#[derive(Insertable)]
#[diesel(table_name = audit_log)]
pub(super) struct NewEntry {
    seq: i64,
    operation_id: String,
    entry: &'static str,
    at: At,
    body: String,
    hash: Vec<u8>,
}

#[derive(Insertable)]
#[diesel(table_name = audit_checkpoints)]
pub(super) struct NewCheckpoint {
    seq: i64,
    line: String,
}

#[derive(Insertable)]
#[diesel(table_name = audit_handovers)]
pub(super) struct NewKeyRotation {
    seq: i64,
    line: String,
}

/// Builds new chain entries and checkpoints within a transaction that holds the lock on `audit_head`.
pub(super) struct ChainAppender {
    pub(super) trail: String,
    pub(super) head: Head,
    /// The current signer and the last checkpoint. `None`: this append does not sign.
    pub(super) signing: Option<(Arc<dyn CheckpointSigner>, LastCheckpoint)>,
    /// The newest checkpoint made by this append.
    pub(super) signed: Option<Checkpoint>,
    pub(super) entries: Vec<NewEntry>,
    pub(super) checkpoints: Vec<NewCheckpoint>,
    pub(super) key_rotations: Vec<NewKeyRotation>,
}

impl ChainAppender {
    pub(super) fn of(trail: String, head: Head) -> Self {
        let (entries, checkpoints, key_rotations) = Default::default();
        Self { trail, head, signing: None, signed: None, entries, checkpoints, key_rotations }
    }

    pub(super) fn add(&mut self, entry: &Entry, now: Timestamp) -> Result<()> {
        let body = entry.canonical()?;
        self.head = self.head.then(&body);
        self.entries.push(NewEntry {
            seq: self.head.sequence,
            operation_id: entry.operation_id().to_string(),
            entry: entry.kind(),
            at: At(entry.at()),
            body,
            hash: self.head.hash.0.to_vec(),
        });
        self.sign_if(now, pilothouse_core::audit::LastCheckpoint::is_full)
    }

    /// Signs the last entry if this append may sign and `is_due` returns true.
    pub(super) fn sign_if(
        &mut self,
        now: Timestamp,
        is_due: impl FnOnce(LastCheckpoint, i64) -> bool,
    ) -> Result<()> {
        match &self.signing {
            Some((_, last)) if is_due(*last, self.head.sequence) => self.sign(self.head, now),
            _ => Ok(()),
        }
    }

    /// Signs an entry that was verified, if there is a signer.
    pub(super) fn sign(&mut self, head: Head, now: Timestamp) -> Result<()> {
        let Some((signer, last)) = &mut self.signing else { return Ok(()) };
        let checkpoint = Checkpoint::sign(&**signer, &self.trail, head, now);
        *last = LastCheckpoint { sequence: checkpoint.sequence, time: checkpoint.time };
        self.checkpoints.push(NewCheckpoint { seq: checkpoint.sequence, line: checkpoint.line()? });
        self.signed = Some(checkpoint);
        Ok(())
    }

    /// Rotates the signing key: signs the current end with the old key, appends the `rekey` entry, and signs the
    /// rotation record and that entry with the new key.
    pub(super) fn rotate_key(
        &mut self,
        entry: &Entry,
        to: &Arc<dyn CheckpointSigner>,
        now: Timestamp,
    ) -> Result<()> {
        let is_unsigned = |last: LastCheckpoint, sequence| sequence > last.sequence;
        self.sign_if(now, is_unsigned)?;
        let (signer, last) =
            self.signing.take().ok_or_else(|| Error::internal("a key rotation without the previous key"))?;
        self.add(entry, now)?;
        let rotation = KeyRotation::sign(&**to, &self.trail, self.head, signer.public_key());
        self.key_rotations.push(NewKeyRotation { seq: rotation.sequence, line: rotation.line()? });
        self.signing = Some((to.clone(), last));
        self.sign_if(now, is_unsigned)
    }
}
