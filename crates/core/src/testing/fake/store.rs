//! In-memory fake of the database behind one lock: each call is one transaction.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;

use crate::{
    access::Permit,
    audit::{
        ChainHash, Checkpoint, Cursor, Head, LastCheckpoint, OperationRow, StoredCheckpoint, StoredEntry,
        TrailStart,
    },
    break_glass::BreakGlassRow,
    cluster::Cluster,
    connection::StoredConnection,
    error::{Cause, Error, Result},
    grant::{GrantRequest, OwnRole, RightsStamp},
    idempotency::{NewClaim, Progress},
    ids::{ClusterId, UserId},
    name::ProviderId,
    operation::{Entry, Operation, Outcome},
    provider::{Binding, PendingLogin},
    rights::{Grant, RoleName},
    second_factor::SecondFactor,
    service_account::ServiceAccount,
    session::{ClientAddress, SecretHash, Session, ThrottleKey},
    testing::fake::FakeSigner,
    token::ApiToken,
    user::{PasswordHash, User},
};

mod audit;
mod break_glass;
mod cluster;
mod coordinator;
mod federation;
mod grants;
mod idempotency;
mod monitor;
mod second_factor;
mod tokens;
mod users;

pub use coordinator::MemoryCoordinator;
use federation::{StoredOrigin, StoredPerson};

/// Users, sessions, rights, clusters and the audit trail, in memory.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
    broken: AtomicBool,
    full: AtomicBool,
}

#[derive(Default)]
struct State {
    last_id: i64,
    users: Vec<(User, PasswordHash)>,
    sessions: Vec<(Session, SecretHash)>,
    /// For each refresh token, its session's id and the time of its use.
    refresh: HashMap<SecretHash, (i64, Option<Timestamp>)>,
    throttles: HashMap<String, Throttle>,
    /// Known addresses of users, with the time of the last login.
    addresses: Vec<(UserId, ClientAddress, Timestamp)>,
    /// Second factors, with the hashes of the unused recovery codes.
    second_factors: Vec<(SecondFactor, Vec<SecretHash>)>,
    bindings: Vec<Binding>,
    /// Pending sign-ins at OpenID providers, oldest first.
    pending_logins: Vec<PendingLogin>,
    people: Vec<StoredPerson>,
    /// Data of the provider, for sessions that were opened through a provider.
    origins: Vec<StoredOrigin>,
    /// Logout tokens that were used, with the time until which they are stored.
    logout_tokens: Vec<(ProviderId, SecretHash, Timestamp)>,
    rights_stamp: RightsStamp,
    roles: HashMap<RoleName, OwnRole>,
    /// Names that are not used again.
    deleted_roles: Vec<RoleName>,
    grants: Vec<Grant>,
    service_accounts: Vec<ServiceAccount>,
    /// API tokens with the hashes of their secrets.
    tokens: Vec<(ApiToken, SecretHash)>,
    /// Requests, with the state `pending` also if they have expired.
    grant_requests: Vec<GrantRequest>,
    break_glass: Vec<BreakGlassRow>,
    clusters: Vec<(Cluster, StoredConnection)>,
    /// The last connection version, over all clusters.
    last_version: i64,
    claims: Vec<(NewClaim, Progress)>,
    entries: Vec<StoredEntry>,
    checkpoints: Vec<StoredCheckpoint>,
    operations: Vec<OperationRow>,
    /// Number of operations ever added to the operations list.
    rows: i64,
    trail_start: Option<TrailStart>,
    /// Number of replicas that were ever created on this store.
    replicas: u64,
    /// For each replica with a lease, its expiry.
    leases: HashMap<u64, Timestamp>,
    /// For each cluster that was claimed, the time of the last claim of a probe.
    probe_claims: HashMap<ClusterId, Timestamp>,
    /// For each receiver, the replica that holds the claim, and the cursor.
    receivers: HashMap<String, (u64, Cursor)>,
}

#[derive(Default)]
struct Throttle {
    failures: u32,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    minute: i64,
    refused: u64,
}

impl MemoryStore {
    /// Sets whether writes to the trail fail, as on a full disk.
    pub fn fail_audit_writes(&self, broken: bool) {
        self.broken.store(broken, Ordering::Release);
    }

    /// Sets whether new operations are refused, as on a nearly full disk.
    pub fn fill(&self, full: bool) {
        self.full.store(full, Ordering::Release);
    }

    /// All entries of the chain, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock()
            .entries
            .iter()
            .map(|entry| serde_json::from_str(&entry.text).expect("valid entry"))
            .collect()
    }

    /// All operations, oldest first.
    pub fn all_operations(&self) -> Vec<OperationRow> {
        self.lock().operations.clone()
    }

    /// Changes the texts of the chain and recomputes all hashes, as an attacker with write access to the database can
    /// do. With `without_checkpoints`, also removes all checkpoints.
    pub fn rewrite(&self, change: impl Fn(&str) -> String, without_checkpoints: bool) {
        let mut state = self.lock();
        let mut head = state.trail_start.as_ref().map_or(Head::NONE, TrailStart::head);
        for entry in &mut state.entries {
            entry.text = change(&entry.text);
            head = head.then(&entry.text);
            entry.hash = head.hash.0.to_vec();
        }
        if without_checkpoints {
            state.checkpoints.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, or an error if the trail cannot be written.
    fn write(&self) -> Result<MutexGuard<'_, State>> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::new(Cause::AuditUnavailable));
        }
        Ok(self.lock())
    }
}

impl State {
    fn next_version(&mut self) -> i64 {
        self.last_version += 1;
        self.last_version
    }

    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn append(&mut self, entry: &Entry) -> Result<()> {
        let (stored, head) = StoredEntry::after(self.head(), entry)?;
        self.entries.push(stored);
        if self.last_checkpoint().is_due(head.sequence, entry.at(), Checkpoint::AGE) {
            self.sign(entry.at())?;
        }
        Ok(())
    }

    fn head(&self) -> Head {
        let trail_start = || self.trail_start.as_ref().map_or(Head::NONE, TrailStart::head);
        self.entries.last().map_or_else(trail_start, |last| {
            let hash = last.hash.as_slice().try_into().map(ChainHash).expect("32-byte hash");
            Head { sequence: last.sequence, hash }
        })
    }

    fn last_checkpoint(&self) -> LastCheckpoint {
        let last = self.checkpoints.last().and_then(|stored| Checkpoint::parse(&stored.line));
        let none = LastCheckpoint { sequence: 0, time: Timestamp::UNIX_EPOCH };
        last.map_or(none, |last| LastCheckpoint { sequence: last.sequence, time: last.time })
    }

    fn sign(&mut self, at: Timestamp) -> Result<()> {
        let checkpoint = Checkpoint::sign(&FakeSigner::default(), audit::TRAIL, self.head(), at);
        self.checkpoints.push(StoredCheckpoint { sequence: checkpoint.sequence, line: checkpoint.line()? });
        Ok(())
    }

    /// Records the success of the permit's operation, as part of the change.
    fn record_success(&mut self, permit: &Permit, cluster: Option<ClusterId>) -> Result<()> {
        self.record_outcome(permit, cluster, &Ok(()))
    }

    /// Records the outcome of the permit's operation, as part of the change.
    fn record_outcome(
        &mut self,
        permit: &Permit,
        cluster: Option<ClusterId>,
        result: &Result<()>,
    ) -> Result<()> {
        let mut operation =
            permit.operation().cloned().ok_or_else(|| Error::internal("a change without an operation"))?;
        operation.cluster_id = operation.cluster_id.or(cluster);
        let outcome = Outcome::of(result, 0, operation.created_at);
        self.record_complete(operation, outcome)
    }

    fn record_complete(&mut self, operation: Operation, outcome: Outcome) -> Result<()> {
        let row = self.row(&operation).ended(&outcome);
        self.operations.push(row);
        self.append(&Entry::Complete { operation, outcome })
    }

    fn row(&mut self, operation: &Operation) -> OperationRow {
        self.rows += 1;
        OperationRow::begun(self.rows, operation)
    }
}

impl Throttle {
    /// Resets the counter if its failures are older than the window and no pause is in effect.
    fn reset_if_expired(&mut self, at: Timestamp) {
        if self.since.is_some_and(|since| since + ThrottleKey::WINDOW <= at)
            && self.until.is_none_or(|until| until <= at)
        {
            *self = Self::default();
        }
    }
}
