//! Authorisation and audit gate. All access to clusters and to Pilothouse's own tables passes through the gate, which
//! authorises the request, records the intent, runs the work and records the outcome.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, TryFutureExt};
use pilothouse_types::{
    clock::Clock,
    error::{Cause, Code, Error, ErrorSource, Result},
    ids::{GrantId, OperationId},
    rng::{Rng, uuid_v7},
    spawn::{Spawner, detached},
};

use crate::{
    access::{
        AccessRequest, Allowed, Caller, Granted, Permit, Principal, Resource, StepUp, StepUpAction, Verb,
        cluster_not_found,
    },
    operation::{AuditWriter, CapacityFor, Operation, Outcome, Status},
};

mod all_clusters;
mod follow;
mod ports;
mod refusals;
mod unchecked;
mod warning;

use refusals::{RefusalKey, Refusals};

pub use all_clusters::ClusterPermits;
pub use ports::{ClusterNames, CurrentRights, SessionCheck, TokenCheck};
#[cfg(any(test, feature = "testing"))]
pub use ports::{MockClusterNames, MockSessionCheck, MockTokenCheck};
pub use warning::{Changed, Warning};

/// Interval between attempts to store an outcome.
const OUTCOME_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Gate: authorises requests, records operations, and issues permits.
#[derive(Clone)]
pub struct Gate {
    trail: Arc<dyn AuditWriter>,
    clusters: Arc<dyn ClusterNames>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    spawner: Arc<dyn Spawner>,
    /// Sessions, to recheck the authorisation of streams. None where callers have no sessions.
    sessions: Option<Arc<dyn SessionCheck>>,
    /// API tokens, for the same purpose. None where callers have no tokens.
    tokens: Option<Arc<dyn TokenCheck>>,
    /// The operations that require a fresh second factor.
    step_up: StepUp,
    /// Number of outcomes that could not be stored yet.
    pending_outcomes: Arc<AtomicUsize>,
    refusals: Arc<Refusals>,
}

/// Writer of the audit entry of a success.
#[derive(Clone, Copy)]
enum SuccessEntry {
    /// The port, in the transaction of the change.
    ByPort,
    /// The gate, after the work.
    ByGate,
}

/// Parameters of an operation that are known only after the work.
pub type ExtraParams = Vec<(&'static str, serde_json::Value)>;

impl Gate {
    /// Creates a gate that records in `trail` and reads cluster names from `clusters`. All use cases of a process share
    /// one gate (clones share its state): while one outcome cannot be stored, no change is accepted by any of them.
    pub fn new(
        trail: Arc<dyn AuditWriter>,
        clusters: Arc<dyn ClusterNames>,
        clock: Arc<dyn Clock>,
        rng: Arc<dyn Rng>,
        spawner: Arc<dyn Spawner>,
    ) -> Self {
        Self {
            trail,
            clusters,
            clock,
            rng,
            spawner,
            sessions: None,
            tokens: None,
            step_up: StepUp::default(),
            pending_outcomes: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// Adds the session check: a stream then ends with the caller's session.
    pub fn with_sessions(self, sessions: Arc<dyn SessionCheck>) -> Self {
        Self { sessions: Some(sessions), ..self }
    }

    /// Adds the token check: a stream then ends with the caller's API token.
    pub fn with_tokens(self, tokens: Arc<dyn TokenCheck>) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// Sets the operations that require a fresh second factor.
    pub fn with_step_up(self, step_up: StepUp) -> Self {
        Self { step_up, ..self }
    }

    /// Spawner for CPU-bound work.
    pub fn spawner(&self) -> &dyn Spawner {
        &*self.spawner
    }

    /// Checks the right before any field of the request is read and before the names of its objects are looked up. Only
    /// a refusal is recorded.
    ///
    /// # Errors
    /// As [`Gate::allow`]; for a change, `NotFound` of a missing cluster is recorded.
    pub async fn grant(&self, caller: &Caller, access: AccessRequest) -> Result<Granted> {
        let (access, allowed) = self.authorise(caller, access).await?;
        Ok(Granted { caller: caller.clone(), access, allowed })
    }

    /// Authorises a read, of the part of the requested namespaces that the caller's rights reach. Only a refusal is
    /// recorded.
    ///
    /// # Errors
    /// `RoleTooLow` with the missing right; `NotFound` when the cluster does not exist or the caller has no right in
    /// it; `TokenNotAllowed`; `SecondFactorNotEnrolled`, `SecondFactorStale`; `AuditUnavailable` when a refusal cannot
    /// be recorded.
    pub async fn allow(&self, caller: &Caller, access: AccessRequest) -> Result<Permit> {
        let (access, allowed) = self.authorise(caller, access).await?;
        Ok(Permit::new(access, allowed, None))
    }

    /// Runs a change to a cluster. The intent is durable before `work` runs, and the outcome is stored after it, even
    /// if the caller disconnects.
    ///
    /// # Errors
    /// As [`Gate::allow`]; `AuditUnavailable` when the intent cannot be stored, and then `work` never runs; otherwise
    /// the error of `work`. A panic of `work` is `Internal` with the outcome `unknown`.
    pub async fn change<T, F, Fut>(
        &self,
        caller: &Caller,
        access: AccessRequest,
        work: F,
    ) -> Result<Changed<T>>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Changed<T>>> + Send + 'static,
    {
        let granted = self.grant(caller, access).await?;
        self.change_granted(granted, work, |_| ExtraParams::new()).await
    }

    /// As [`Gate::change`]. After the work, `extra_params` is called with the status of the outcome, and its parameters are
    /// stored with the outcome.
    ///
    /// # Errors
    /// As [`Gate::change`].
    pub async fn change_granted<T, F, Fut>(
        &self,
        granted: Granted,
        work: F,
        extra_params: impl FnOnce(Status) -> ExtraParams + Send + 'static,
    ) -> Result<Changed<T>>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Changed<T>>> + Send + 'static,
    {
        let (permit, operation) = self.prepare(granted)?;
        let gate = self.clone();
        detached(&*self.spawner, async move {
            if let Err(refusal) = gate.trail.begin(&operation).await {
                // the intent may be stored all the same, and no other process closes it while this process runs
                let outcome = Outcome::of::<()>(&Err(refusal.clone()), 0, operation.created_at);
                gate.retry_outcome(operation.id, outcome.with_summary(&operation));
                return Err(refusal);
            }
            let (mut result, outcome) = gate.run(work(permit)).await;
            let id = operation.id;
            let operation = operation.and(extra_params(outcome.status));
            if !gate.store_outcome(id, outcome.with_summary(&operation)).await
                && let Ok(changed) = &mut result
            {
                changed.warnings.push(Warning::OutcomeNotStored);
            }
            result
        })
        .await
    }

    /// Runs a change to Pilothouse's own tables. The port commits the audit entry of a success together with the
    /// change; a failure is recorded here. Invalid input is not an operation and is not recorded.
    ///
    /// # Errors
    /// As [`Gate::allow`], otherwise the error of `work`.
    pub async fn change_local<T, F, Fut>(&self, caller: &Caller, access: AccessRequest, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let granted = self.grant(caller, access).await?;
        self.change_local_granted(granted, work).await
    }

    /// Runs an operation that changes nothing but is recorded, such as a connection test.
    ///
    /// # Errors
    /// As [`Gate::allow`], otherwise the error of `work`; `AuditUnavailable` when it cannot be recorded.
    pub async fn record_read<T, F, Fut>(&self, caller: &Caller, access: AccessRequest, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let granted = self.grant(caller, access).await?;
        self.record_read_granted(granted, work).await
    }

    /// As [`Gate::change_local`].
    ///
    /// # Errors
    /// As [`Gate::change_local`].
    pub async fn change_local_granted<T, F, Fut>(&self, granted: Granted, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.run_recorded(granted, SuccessEntry::ByPort, work).await
    }

    /// As [`Gate::record_read`].
    ///
    /// # Errors
    /// As [`Gate::record_read`].
    pub async fn record_read_granted<T, F, Fut>(&self, granted: Granted, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.run_recorded(granted, SuccessEntry::ByGate, work).await
    }

    /// Runs the work and records its failure; with [`SuccessEntry::ByGate`], also its success.
    async fn run_recorded<T, F, Fut>(
        &self,
        granted: Granted,
        success_entry: SuccessEntry,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let (user, key) = (granted.caller.principal(), RefusalKey::of(&granted.access));
        let (permit, operation) = self.prepare(granted)?;
        let gate = self.clone();
        detached(&*self.spawner, async move {
            // changes to Pilothouse's own tables are atomic and a connection test changes nothing: no outcome is
            // unknown
            let work = work(permit).map_err(Error::read_only);
            let (result, mut outcome) = gate.run(work).await;
            // nothing was changed after a panic either
            if outcome.error_code.is_some() {
                outcome.status = Status::Failed;
            }
            match &result {
                Ok(_) if matches!(success_entry, SuccessEntry::ByPort) => {}
                Err(error) if error.code() == Code::ValidationError && error.cause != Cause::EgressDenied => {
                }
                Err(error) if is_refusal(error) => {
                    gate.record_refusal(user, &key, operation, outcome).await?;
                }
                _ => gate.trail.record(&operation, &outcome.with_summary(&operation)).await?,
            }
            result
        })
        .await
    }

    /// Refuses a request by a rule other than the caller's rights, and records the reason. The rights are checked
    /// first.
    ///
    /// # Errors
    /// Always: `refusal`, or as [`Gate::allow`].
    pub async fn refuse<T>(&self, caller: &Caller, access: AccessRequest, refusal: Error) -> Result<T> {
        let granted = self.grant(caller, access).await?;
        self.refuse_granted(&granted, refusal).await
    }

    /// As [`Gate::refuse`].
    ///
    /// # Errors
    /// Always: `refusal`, or `AuditUnavailable`.
    pub async fn refuse_granted<T>(&self, granted: &Granted, refusal: Error) -> Result<T> {
        let grant = granted.allowed.grant_id();
        self.record_denied(&granted.caller, &granted.access, grant, &refusal).await?;
        Err(refusal)
    }

    /// Checks the second factor for an action that is found only after the request was granted, such as a change of a
    /// cluster that changes what grants reach.
    ///
    /// # Errors
    /// `TokenNotAllowed`, `SecondFactorNotEnrolled`, `SecondFactorStale`, recorded; `AuditUnavailable`.
    pub async fn require_factor_for(&self, granted: &Granted, action: StepUpAction) -> Result<()> {
        match self.step_up.check_action(&granted.caller, Some(action), self.clock.now()) {
            Ok(()) => Ok(()),
            Err(refusal) => self.refuse_granted(granted, refusal).await,
        }
    }

    /// Whether the caller's second factor suffices for an action, or for a change without one. Nothing is recorded. A
    /// repeated request passes this check before it gets the stored response.
    pub fn has_factor_for(&self, caller: &Caller, action: Option<StepUpAction>) -> bool {
        let now = self.clock.now();
        // the use case of break-glass requires a fresh second factor, regardless of the setting
        let is_missing =
            action == Some(StepUpAction::BreakGlass) && caller.factor.require_fresh(now).is_err();
        !is_missing && self.step_up.check_action(caller, action, now).is_ok()
    }

    /// Records a refusal, subject to the rate limit of [`Refusals`]. `grant` gives the right, if another rule refuses.
    async fn record_denied(
        &self,
        caller: &Caller,
        access: &AccessRequest,
        grant: Option<GrantId>,
        refusal: &Error,
    ) -> Result<()> {
        let operation = self.operation(caller, access, grant);
        let outcome = Outcome::of::<()>(&Err(refusal.clone()), 0, operation.created_at);
        self.record_refusal(caller.principal(), &RefusalKey::of(access), operation, outcome).await
    }

    async fn record_refusal(
        &self,
        user: Option<Principal>,
        key: &RefusalKey,
        operation: Operation,
        outcome: Outcome,
    ) -> Result<()> {
        let Some(user) = user else {
            // the command line and the server itself are not rate-limited
            return self.trail.record(&operation, &outcome.with_summary(&operation)).await;
        };
        let Some(earlier) = self.refusals.count(user, key, self.clock.monotonic()) else { return Ok(()) };
        let operation =
            if earlier > 0 { operation.and([("refused_before", earlier.into())]) } else { operation };
        let stored = async {
            self.trail.check_capacity(CapacityFor::Authenticated)?;
            self.trail.record(&operation, &outcome.with_summary(&operation)).await
        };
        stored.await.inspect_err(|_| self.refusals.restore(user, key, earlier))
    }

    /// Checks that there is capacity to record an operation. Ending or refreshing a session, exporting and pruning are
    /// always allowed.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub fn capacity_for(&self, verb: Verb) -> Result<()> {
        match verb {
            Verb::Refresh | Verb::Logout | Verb::Revoke | Verb::Export | Verb::Prune => Ok(()),
            Verb::Login => self.trail.check_capacity(CapacityFor::Anonymous),
            _ => self.trail.check_capacity(CapacityFor::Authenticated),
        }
    }

    /// Checks that changes are accepted now, and creates the record of the operation and its permit.
    fn prepare(&self, granted: Granted) -> Result<(Permit, Operation)> {
        let Granted { caller, access, allowed } = granted;
        if self.pending_outcomes.load(Ordering::Acquire) > 0 {
            return Err(Error::new(Cause::AuditUnavailable).retry_after(OUTCOME_RETRY_INTERVAL));
        }
        if !restricts_a_user(&access) {
            self.capacity_for(access.verb)?;
        }
        let operation = self.operation(&caller, &access, allowed.grant_id());
        Ok((Permit::new(access, allowed, Some(operation.clone())), operation))
    }

    /// Checks the caller's rights, then that the cluster exists, then the second factor; cuts the request to the
    /// namespaces that the rights reach, and adds the cluster name for the audit trail. The name of a cluster in which
    /// the caller has no right is not looked up: neither the response nor the record of the refusal shows that it exists.
    async fn authorise(
        &self,
        caller: &Caller,
        mut access: AccessRequest,
    ) -> Result<(AccessRequest, Allowed)> {
        let judged = caller.judge(&access);
        if let Some(id) = access.cluster.filter(|id| caller.rights.sees(*id)) {
            access.cluster_name = self.clusters.name(id).await?;
            if access.resource == Resource::Cluster {
                access.name = access.cluster_name.clone();
            }
        }
        let refusal = match (judged, access.cluster) {
            (Ok(_), Some(id)) if access.cluster_name.is_none() => cluster_not_found(id),
            (Ok(allowed), _) => match self.step_up.check(caller, &access, self.clock.now()) {
                Ok(()) => {
                    access.namespaces = allowed.namespaces.clone();
                    return Ok((access, allowed));
                }
                Err(refusal) => refusal,
            },
            (Err(refusal), _) => refusal,
        };
        if refusal.cause != Cause::NotFound || !access.verb.reads() {
            self.record_denied(caller, &access, None, &refusal).await?;
        }
        Err(refusal)
    }

    /// The record of an operation that begins now, with an id of its own. `grant` gives the right to it.
    pub(crate) fn operation(
        &self,
        caller: &Caller,
        access: &AccessRequest,
        grant: Option<GrantId>,
    ) -> Operation {
        let now = self.clock.now();
        Operation {
            id: OperationId(uuid_v7(now, &*self.rng)),
            operation_type: access.verb.as_str().to_owned(),
            resource_type: access.resource.as_str().to_owned(),
            cluster_id: access.cluster,
            cluster_name: access.cluster_name.clone(),
            namespace: access.namespaces.one().map(ToString::to_string),
            resource_name: access.name.clone(),
            user_id: caller.user_id,
            username: caller.username.clone(),
            role: caller.role.filter(|_| caller.user_id.is_some()),
            grant_id: grant,
            token_id: caller.token,
            reason: access.reason.as_ref().map(ToString::to_string),
            source_ip: caller.origin.source_ip,
            request_id: caller.origin.request_id.clone(),
            params: access.params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            created_at: now,
        }
        .bounded()
    }

    /// Runs the work, measures its duration, and converts a panic into an error.
    async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> (Result<T>, Outcome) {
        let started = self.clock.monotonic();
        let panicked = |_| Err(Error::internal("panicked; see the log"));
        let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
        let elapsed = self.clock.monotonic().saturating_sub(started);
        let millis = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let outcome = Outcome::of(&result, millis, self.clock.now());
        (result, outcome)
    }

    /// Stores an outcome. Returns false if that failed: then the outcome is stored in the background, and no change is
    /// accepted until it is stored.
    async fn store_outcome(&self, id: OperationId, outcome: Outcome) -> bool {
        let stored = self.trail.finish(id, &outcome).await.is_ok();
        if !stored {
            self.retry_outcome(id, outcome);
        }
        stored
    }

    /// Retries in the background until the outcome is stored.
    fn retry_outcome(&self, id: OperationId, outcome: Outcome) {
        self.pending_outcomes.fetch_add(1, Ordering::AcqRel);
        let gate = self.clone();
        let retry = async move {
            loop {
                gate.spawner.sleep(OUTCOME_RETRY_INTERVAL).await;
                if gate.trail.finish(id, &outcome).await.is_ok() {
                    break;
                }
            }
            gate.pending_outcomes.fetch_sub(1, Ordering::AcqRel);
        };
        self.spawner.spawn(retry.boxed());
    }

    /// Whether there is capacity to record new operations of signed-in users. Without capacity, changes are refused.
    pub fn has_capacity(&self) -> bool {
        self.trail.check_capacity(CapacityFor::Authenticated).is_ok()
    }

    /// Number of outcomes that could not be stored yet. While it is above 0, no change is accepted.
    pub fn pending_outcomes(&self) -> usize {
        self.pending_outcomes.load(Ordering::Acquire)
    }
}

/// Whether a failure is a refusal for which nothing was sent, and which a caller can repeat at no cost: a right is
/// missing, Pilothouse has no such object, the circuit breaker is open, or the server is at its concurrency limit.
fn is_refusal(error: &Error) -> bool {
    let by_server = error.cause.source() == ErrorSource::Server
        && matches!(error.code(), Code::PermissionDenied | Code::ResourceNotFound);
    by_server || matches!(error.cause, Cause::CircuitOpen | Cause::Overloaded)
}

/// Whether the request removes or restricts a user or service account. Such a request needs no capacity check, so that
/// a super admin can always stop a caller that fills the trail.
fn restricts_a_user(access: &AccessRequest) -> bool {
    match access.resource {
        Resource::User => matches!(access.verb, Verb::Update | Verb::Delete | Verb::ResetPassword),
        Resource::ServiceAccount => access.verb == Verb::Delete,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
