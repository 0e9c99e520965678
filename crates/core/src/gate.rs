//! The one way to a cluster and to our own tables: authorise, record, do, record.

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

use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    audit::{AuditTrail, CapacityFor, Operation, OperationId, Outcome},
    clock::{Clock, Rng, Spawner, detached, uuid_v7},
    cluster::ClusterRegistry,
    error::{Cause, Code, Error, Result, Source},
    name::NamespaceScope,
    session::LiveSessions,
    user::UserId,
};

mod all_clusters;
mod follow;
mod refusals;

use refusals::{Refusals, Right};

pub(crate) use all_clusters::ClusterPermits;

/// Something the caller should know although the answer is a success. The word is the key of its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The change was made, but its outcome could not be stored yet; no further change is accepted until it is.
    OutcomeNotStored,
    /// An autoscaler of this name will set the replicas again.
    Autoscaled(String),
    /// The credential may not read these related objects, so what they tell is missing.
    Unreadable(&'static str),
    /// The cluster does not serve this API group or kind.
    NotServed(&'static str),
    /// The cluster was stored without having been reached.
    NotTested,
    /// This kind is read from the cluster at each request, because the credential may not watch it in all namespaces, or
    /// because there are too many objects of it to be kept.
    NotCached(&'static str),
}

impl Warning {
    /// The word of each warning, for the texts' completeness test.
    pub const WORDS: [&'static str; 6] =
        ["outcome_not_stored", "autoscaled", "unreadable", "not_served", "not_tested", "not_cached"];

    /// The word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OutcomeNotStored => "outcome_not_stored",
            Self::Autoscaled(_) => "autoscaled",
            Self::Unreadable(_) => "unreadable",
            Self::NotServed(_) => "not_served",
            Self::NotTested => "not_tested",
            Self::NotCached(_) => "not_cached",
        }
    }

    /// What it is about, for the text's placeholder.
    pub fn about(&self) -> &str {
        match self {
            Self::Autoscaled(name) => name,
            Self::Unreadable(what) | Self::NotServed(what) | Self::NotCached(what) => what,
            Self::OutcomeNotStored | Self::NotTested => "",
        }
    }
}

/// What a change answers: the thing after it, and what should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// The thing as it is after the change.
    pub value: T,
    /// What should be known.
    pub warnings: Vec<Warning>,
}

impl<T> From<T> for Changed<T> {
    fn from(value: T) -> Self {
        Self { value, warnings: Vec::new() }
    }
}

/// How long to wait before an outcome that could not be stored is tried again.
const RETRY_OUTCOME: Duration = Duration::from_secs(1);

/// Authorises, records, and lets pass.
#[derive(Clone)]
pub struct Gate {
    trail: Arc<dyn AuditTrail>,
    clusters: Arc<dyn ClusterRegistry>,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    spawner: Arc<dyn Spawner>,
    /// Where the session of a right in use is looked up again; none where callers have no sessions of ours.
    sessions: Option<LiveSessions>,
    /// Outcomes that could not be stored yet.
    pending_outcomes: Arc<AtomicUsize>,
    refusals: Arc<Refusals>,
}

/// What is said of a change that was made and could not be said before.
type Noted = Vec<(&'static str, serde_json::Value)>;

impl Gate {
    /// A gate that records in `trail` and takes the names of clusters from `clusters`. All use cases of a process share
    /// one (clones are the same gate): while one outcome cannot be stored, no change passes through any of them.
    pub fn new(
        trail: Arc<dyn AuditTrail>,
        clusters: Arc<dyn ClusterRegistry>,
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
            pending_outcomes: Arc::default(),
            refusals: Arc::default(),
        }
    }

    /// The gate of a house with sessions: what is followed ends with the caller's.
    pub(crate) fn with_sessions(self, sessions: LiveSessions) -> Self {
        Self { sessions: Some(sessions), ..self }
    }

    /// Where work runs that takes more than a moment.
    pub(crate) fn spawner(&self) -> &dyn Spawner {
        &*self.spawner
    }

    /// Asks for the role before anything else of a request is looked at: what its fields hold, and how what they name is
    /// called. Only a refusal is recorded.
    ///
    /// # Errors
    /// As [`Gate::allow`]; `NotFound` without such a cluster is recorded for a change.
    pub async fn grant(&self, caller: &Caller, access: AccessRequest) -> Result<Granted> {
        let access = self.authorise(caller, access).await?;
        Ok(Granted { caller: caller.clone(), access })
    }

    /// Allows a read. Only a refusal is recorded.
    ///
    /// # Errors
    /// `RoleTooLow`; `NotFound` without such a cluster; `AuditUnavailable` when a refusal cannot be recorded.
    pub async fn allow(&self, caller: &Caller, access: AccessRequest) -> Result<Permit> {
        let access = self.authorise(caller, access).await?;
        Ok(Permit::new(access, None))
    }

    /// Allows the system itself a read, such as the prober's.
    pub fn allow_system(&self, access: AccessRequest) -> Permit {
        Permit::new(access, None)
    }

    /// A change to a cluster: the intent is durable before `work` runs, the outcome is stored after it, whatever
    /// becomes of the caller's connection.
    ///
    /// # Errors
    /// As [`Gate::allow`]; `AuditUnavailable` when the intent cannot be stored, and then `work` never runs; else
    /// what `work` says. A panic of `work` is `Internal`, its outcome `unknown`.
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
        self.change_granted(granted, work, Noted::new).await
    }

    /// As [`Gate::change`]. What `note` says is kept with the outcome of a success; it is not asked otherwise.
    ///
    /// # Errors
    /// As [`Gate::change`].
    pub(crate) async fn change_granted<T, F, Fut>(
        &self,
        granted: Granted,
        work: F,
        note: impl FnOnce() -> Noted + Send + 'static,
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
                // it may have been stored all the same, and nobody else would close it while this process lives
                let outcome = Outcome::of::<()>(&Err(refusal.clone()), 0, operation.created_at);
                gate.retry_outcome(operation.id, outcome.with_summary(&operation));
                return Err(refusal);
            }
            let (mut result, outcome) = gate.run(work(permit)).await;
            let id = operation.id;
            let operation = if result.is_ok() { operation.and(note()) } else { operation };
            if !gate.store_outcome(id, outcome.with_summary(&operation)).await
                && let Ok(changed) = &mut result
            {
                changed.warnings.push(Warning::OutcomeNotStored);
            }
            result
        })
        .await
    }

    /// A change to our own tables: the port commits the row of a success together with the change; what fails is
    /// recorded here. Bad input is not an operation and is not recorded.
    ///
    /// # Errors
    /// As [`Gate::allow`], else what `work` says.
    pub async fn change_local<T, F, Fut>(&self, caller: &Caller, access: AccessRequest, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let granted = self.grant(caller, access).await?;
        self.change_local_granted(granted, work).await
    }

    /// An operation that changes nothing but is recorded all the same, such as the test of a cluster.
    ///
    /// # Errors
    /// As [`Gate::allow`], else what `work` says; `AuditUnavailable` when it cannot be recorded.
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
    pub(crate) async fn change_local_granted<T, F, Fut>(&self, granted: Granted, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.recorded(granted, false, work).await
    }

    /// As [`Gate::observe`].
    ///
    /// # Errors
    /// As [`Gate::observe`].
    pub(crate) async fn record_read_granted<T, F, Fut>(&self, granted: Granted, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        self.recorded(granted, true, work).await
    }

    async fn recorded<T, F, Fut>(&self, granted: Granted, success_too: bool, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(Permit) -> Fut + Send + 'static,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let (who, right) = (granted.caller.user_id, Right::of(&granted.access));
        let (permit, operation) = self.prepare(granted)?;
        let gate = self.clone();
        detached(&*self.spawner, async move {
            // our own tables change whole or not at all, and a test changes nothing: no failure leaves doubt
            let work = work(permit).map_err(Error::read_only);
            let (result, mut outcome) = gate.run(work).await;
            // a panic's neither
            if outcome.error_code.is_some() {
                outcome.status = crate::audit::Status::Failed;
            }
            match &result {
                Ok(_) if !success_too => {}
                Err(error) if error.code() == Code::ValidationError && error.cause != Cause::EgressDenied => {
                }
                Err(error) if is_refusal(error) => {
                    gate.record_refusal(who, &right, operation, outcome).await?
                }
                _ => gate.trail.record(&operation, &outcome.with_summary(&operation)).await?,
            }
            result
        })
        .await
    }

    /// Refuses by a rule that is no role's: the row of the operation says why. A caller who may not even ask is
    /// refused for that first.
    ///
    /// # Errors
    /// Always: `refusal`, or as [`Gate::allow`].
    pub(crate) async fn refuse<T>(
        &self,
        caller: &Caller,
        access: AccessRequest,
        refusal: Error,
    ) -> Result<T> {
        let granted = self.grant(caller, access).await?;
        self.refuse_granted(&granted, refusal).await
    }

    /// As [`Gate::refuse`].
    ///
    /// # Errors
    /// Always: `refusal`, or `AuditUnavailable`.
    pub(crate) async fn refuse_granted<T>(&self, granted: &Granted, refusal: Error) -> Result<T> {
        self.deny(&granted.caller, &granted.access, &refusal).await?;
        Err(refusal)
    }

    /// Records a refusal, if a row of it is due.
    async fn deny(&self, caller: &Caller, access: &AccessRequest, refusal: &Error) -> Result<()> {
        let operation = self.operation(caller, access);
        let outcome = Outcome::of::<()>(&Err(refusal.clone()), 0, operation.created_at);
        self.record_refusal(caller.user_id, &Right::of(access), operation, outcome).await
    }

    async fn record_refusal(
        &self,
        who: Option<UserId>,
        right: &Right,
        operation: Operation,
        outcome: Outcome,
    ) -> Result<()> {
        let Some(who) = who else {
            // the command line and the system itself
            return self.trail.record(&operation, &outcome.with_summary(&operation)).await;
        };
        let Some(before) = self.refusals.admit(who, right, self.clock.monotonic()) else { return Ok(()) };
        let operation =
            if before > 0 { operation.and([("refused_before", before.into())]) } else { operation };
        let stored = async {
            self.trail.check_capacity(CapacityFor::Authenticated)?;
            self.trail.record(&operation, &outcome.with_summary(&operation)).await
        };
        stored.await.inspect_err(|_| self.refusals.again(who, right, before))
    }

    /// Whether there is room to record this. Whoever is signed in may always leave, and what makes room, or looks at what
    /// there is, needs none.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub(crate) fn capacity_for(&self, verb: Verb) -> Result<()> {
        match verb {
            Verb::Refresh | Verb::Logout | Verb::Revoke | Verb::Export | Verb::Prune => Ok(()),
            Verb::Login => self.trail.check_capacity(CapacityFor::Anonymous),
            _ => self.trail.check_capacity(CapacityFor::Authenticated),
        }
    }

    /// Records an operation that was over before anybody could be asked: a login, its failure.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub(crate) async fn record(
        &self,
        caller: &Caller,
        access: &AccessRequest,
        error: Option<&Error>,
    ) -> Result<()> {
        self.capacity_for(access.verb)?;
        let operation = self.operation(caller, access);
        let result = error.map_or(Ok(()), |error| Err(error.clone()));
        let outcome = Outcome::of(&result, 0, operation.created_at).with_summary(&operation);
        self.trail.record(&operation, &outcome).await
    }

    /// The permit of somebody who proved who they are in another way than by a role: a login that succeeded, the
    /// owner of a refresh token. The port commits its row.
    pub(crate) fn permit_authenticated(&self, caller: &Caller, access: AccessRequest) -> Permit {
        let operation = self.operation(caller, &access);
        Permit::new(access, Some(operation))
    }

    fn prepare(&self, granted: Granted) -> Result<(Permit, Operation)> {
        let Granted { caller, access } = granted;
        if self.pending_outcomes.load(Ordering::Acquire) > 0 {
            return Err(Error::new(Cause::AuditUnavailable).retry_after(RETRY_OUTCOME));
        }
        if !removes_a_user(&access) {
            self.capacity_for(access.verb)?;
        }
        let operation = self.operation(&caller, &access);
        Ok((Permit::new(access, Some(operation.clone())), operation))
    }

    /// Asks the rule table, then whether the cluster exists; names the cluster for the trail.
    async fn authorise(&self, caller: &Caller, mut access: AccessRequest) -> Result<AccessRequest> {
        let allowed = caller.check(access.verb, access.resource);
        if let Some(id) = access.cluster {
            access.cluster_name = self.clusters.name(id).await?.map(|name| name.to_string());
            if access.resource == Resource::Cluster {
                access.name = access.cluster_name.clone();
            }
        }
        let refusal = match (allowed, access.cluster) {
            (Err(refusal), _) => refusal,
            (Ok(()), Some(id)) if access.cluster_name.is_none() => {
                let absent = Error::new(Cause::NotFound).resource("cluster").name(id.to_string());
                if access.verb.reads() {
                    return Err(absent);
                }
                absent
            }
            (Ok(()), _) => return Ok(access),
        };
        self.deny(caller, &access, &refusal).await?;
        Err(refusal)
    }

    fn operation(&self, caller: &Caller, access: &AccessRequest) -> Operation {
        let now = self.clock.now();
        let namespace = match &access.namespaces {
            NamespaceScope::One(namespace) => Some(namespace.to_string()),
            NamespaceScope::All => None,
        };
        Operation {
            id: OperationId(uuid_v7(now, &*self.rng)),
            operation_type: access.verb.as_str().to_owned(),
            resource_type: access.resource.as_str().to_owned(),
            cluster_id: access.cluster,
            cluster_name: access.cluster_name.clone(),
            namespace,
            resource_name: access.name.clone(),
            user_id: caller.user_id,
            username: caller.username.clone(),
            role: caller.role.filter(|_| caller.user_id.is_some()),
            source_ip: caller.origin.source_ip,
            request_id: caller.origin.request_id.clone(),
            params: access.params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            created_at: now,
        }
        .bounded()
    }

    /// Runs the work, measures it, and turns a panic into an error.
    async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> (Result<T>, Outcome) {
        let started = self.clock.monotonic();
        let panicked = |_| Err(Error::internal("panicked; see the log"));
        let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
        let elapsed = self.clock.monotonic().saturating_sub(started);
        let millis = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        let outcome = Outcome::of(&result, millis, self.clock.now());
        (result, outcome)
    }

    /// Stores an outcome; what cannot be stored now is tried again until it is, and no change is accepted meanwhile.
    async fn store_outcome(&self, id: OperationId, outcome: Outcome) -> bool {
        let stored = self.trail.finish(id, &outcome).await.is_ok();
        if !stored {
            self.retry_outcome(id, outcome);
        }
        stored
    }

    /// As [`Gate::store_outcome`], from now on.
    fn retry_outcome(&self, id: OperationId, outcome: Outcome) {
        self.pending_outcomes.fetch_add(1, Ordering::AcqRel);
        let gate = self.clone();
        let retry = async move {
            loop {
                gate.spawner.sleep(RETRY_OUTCOME).await;
                if gate.trail.finish(id, &outcome).await.is_ok() {
                    break;
                }
            }
            gate.pending_outcomes.fetch_sub(1, Ordering::AcqRel);
        };
        self.spawner.spawn(retry.boxed());
    }

    /// How many outcomes could not be stored yet. While there are any, no change is accepted.
    pub fn pending_outcomes(&self) -> usize {
        self.pending_outcomes.load(Ordering::Acquire)
    }

    /// Closes as `unknown` what an ended process left pending; how many. For the start, and then now and again where
    /// several processes share one trail.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub async fn close_orphans(&self) -> Result<u64> {
        self.trail.close_orphans(self.clock.now()).await
    }
}

/// Whether a failure is a refusal that sent nothing, which a caller can repeat at no cost: by role, because there is no such
/// thing here, or because the cluster is not asked at the moment.
fn is_refusal(error: &Error) -> bool {
    let by_us = error.cause.source() == Source::Server
        && matches!(error.code(), Code::PermissionDenied | Code::ResourceNotFound);
    by_us || matches!(error.cause, Cause::CircuitOpen | Cause::Overloaded)
}

/// Whether it takes away the account or the rights of a user. That needs no room, so that a super admin can always
/// remove one who fills it.
fn removes_a_user(access: &AccessRequest) -> bool {
    access.resource == Resource::User
        && matches!(access.verb, Verb::Update | Verb::Delete | Verb::ResetPassword)
}

#[cfg(test)]
mod tests;
