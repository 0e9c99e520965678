//! Rollouts of deployments, stateful sets and daemon sets: history, differences between revisions, progress with its
//! reasons, undo, pause, resume, new images.
//!
//! A change is a JSON patch that holds only for what was read. Nobody else's change is lost: if somebody changes the
//! workload in between, nothing is applied (`Modified`).

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join, stream::BoxStream};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    audit::Audit,
    change_reason::ChangeReason,
    diagnosis::{DiagnosedKind, DiagnosedObject, Diagnoses, Diagnosis},
    error::{Code, Error, Reason, Result},
    gate::{Changed, ExtraParams, Gate, Warning},
    ids::{ClusterId, OperationId},
    json_patch::JsonPatch,
    mask::{MaskedFields, sees_masked_values},
    name::ObjectName,
    operation::Status,
    spawn::Spawner,
    streams::{EventStream, Reader, StreamEnd, StreamGuard, Streams},
    workload::{
        FieldChange, History, Images, Progress, Reference, RevisionRow, WorkloadRef, WorkloadRow,
        WorkloadType,
        change::no_revision,
        diff::changes,
        history::{Revisions, operation_of},
    },
};

mod change;
mod diagnosed;

use change::{UndoneRevisions, pause, read_revisions, read_workload, set_images, undo};

pub use diagnosed::Rollout;

/// Number of signals after which a watched rollout is diagnosed again although the workload has not changed: a diagnosis
/// makes many reads.
const SIGNALS_PER_DIAGNOSIS: u32 = 5;

/// Number of failures in succession after which a watched rollout ends.
const MAX_FAILURES: u32 = 10;

/// Maximum number of operations that a history names.
const MAX_NAMED_OPERATIONS: usize = 500;

/// Port: reads and changes rollouts in the permit's cluster, kind and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RolloutApi: Send + Sync {
    /// Returns a workload in the API server's JSON; `None` if it does not exist.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>>;

    /// Returns a workload with its revisions; `None` if it does not exist.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn history(&self, permit: &Permit, name: &ObjectName) -> Result<Option<History>>;

    /// Sends a JSON patch, once. Returns the workload after it.
    ///
    /// # Errors
    /// `Modified` if a condition of the patch does not hold; and the errors of every call to a cluster.
    async fn patch(&self, permit: &Permit, name: &ObjectName, patch: &JsonPatch) -> Result<WorkloadRow>;

    /// Signals at which the progress of a rollout is to be read again: every few seconds. The stream ends when the
    /// connection to the cluster was replaced or removed.
    ///
    /// # Errors
    /// The errors of the connection to the cluster.
    async fn signals(&self, permit: &Permit) -> Result<BoxStream<'static, ()>>;

    /// Warnings about a new pod template of a workload: objects that it needs and that do not exist, kinds that cannot be
    /// read, and an autoscaler of the workload. A failure to read is no warning: the change does not depend on it.
    async fn advice(&self, permit: &Permit, name: &ObjectName, references: &[Reference]) -> Vec<Warning>;
}

/// The history of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionList {
    /// Its revisions, the newest first.
    pub revisions: Vec<RevisionRow>,
    /// Warning that the revisions cannot be read. The response carries it as a message.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// Event stream of a watched rollout: its progress now, and after each change of it.
pub type RolloutStream = EventStream<Rollout>;

/// Use cases: rollouts.
#[derive(Clone)]
pub struct Rollouts {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn RolloutApi>,
    pub(crate) diagnoses: Diagnoses,
    /// Names the operations that made revisions. None without an audit trail that can be read.
    pub(crate) audit: Option<Audit>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
    pub(crate) masked_fields: MaskedFields,
}

impl Rollouts {
    /// Returns the revisions of a workload. A revision that Pilothouse made names the operation, if the caller may read its
    /// audit row.
    ///
    /// # Errors
    /// `InvalidInput` for a job or cron job; `NotFoundInCluster`; and the errors of every call to a cluster.
    pub async fn history(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
    ) -> Result<RevisionList> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, workload)?).await?;
        let History { workload: object, revisions, unreadable } =
            self.read_history(&permit, workload).await?;
        let mut revisions = Revisions::of(workload.kind, &object, revisions)?.rows()?;
        self.name_operations(caller, cluster, workload, &mut revisions).await?;
        Ok(RevisionList { revisions, warnings: unreadable.into_iter().collect() })
    }

    /// Returns the fields in which the pod templates of two revisions differ. Values that
    /// [`crate::workload::Workloads::detail`] masks are shown only as the same or not.
    ///
    /// # Errors
    /// `InvalidInput` for a job or cron job; `NotFoundInCluster`, also for a revision; `ForbiddenByCluster` or
    /// `RoleTooLow` if the revisions cannot be read; and the errors of every call to a cluster.
    pub async fn changes(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        from: i64,
        to: i64,
    ) -> Result<Vec<FieldChange>> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, workload)?).await?;
        let revisions = read_revisions(&*self.api, &permit, workload).await?.1;
        let template = |number: i64| match revisions.find(Some(number)) {
            Some((_, revision)) => revision.template(),
            None => Err(no_revision(Some(number))),
        };
        let sees_all = sees_masked_values(caller, workload.kind.kind(), cluster, &workload.namespace);
        let masked = (!sees_all).then_some(&self.masked_fields);
        Ok(changes(template(from)?, template(to)?, masked))
    }

    /// Returns the progress of a rollout, with the reasons why it is stuck.
    ///
    /// # Errors
    /// `InvalidInput` for a job or cron job; `NotFoundInCluster`; and the errors of every call to a cluster.
    pub async fn progress(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
    ) -> Result<Rollout> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, workload)?).await?;
        Ok(self.read_progress(caller, &permit, workload).await?.1)
    }

    /// Streams the progress of a rollout: now, and after each change of it.
    ///
    /// # Errors
    /// As [`Rollouts::progress`]; `Overloaded` if the caller, or all callers together, have too many open streams.
    pub async fn watch(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
    ) -> Result<RolloutStream> {
        let (permit, revoked) = self.gate.follow(caller, access(Verb::Get, cluster, workload)?).await?;
        let slot = self.streams.enter(caller.principal())?;
        let signals = self.api.signals(&permit).await?;
        let first = self.read_progress(caller, &permit, workload).await?;
        let watched =
            Watched { rollouts: self.clone(), caller: caller.clone(), permit, workload: workload.clone() };
        Ok(EventStream::start(StreamGuard { revoked, slot }, &self.spawner, move |reader| {
            watched.follow(first, signals, reader)
        }))
    }

    /// Makes a revision the wanted one again: of this number, or the newest one that is not current, as `kubectl rollout
    /// undo`. Only the pod template and the annotation with the change cause change. The audit trail records the numbers of
    /// the current revision and of this one.
    ///
    /// # Errors
    /// `InvalidInput` for a job or cron job; `NotFoundInCluster`, also for a revision; `RolloutPaused`; `Modified`;
    /// `ForbiddenByCluster` or `RoleTooLow` if the revisions cannot be read; otherwise as [`Gate::change`].
    pub async fn undo(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        to_revision: Option<i64>,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        let mut access = access(Verb::Undo, cluster, workload)?.because(reason);
        if let Some(number) = to_revision {
            access = access.with("to_revision", number);
        }
        let granted = self.gate.grant(caller, access).await?;
        let (api, workload) = (self.api.clone(), workload.clone());
        let found = Arc::new(OnceLock::<UndoneRevisions>::new());
        let chosen = found.clone();
        let work = async move |permit: Permit| undo(&*api, &permit, &workload, to_revision, &chosen).await;
        let params = move |_: Status| -> ExtraParams {
            let Some(UndoneRevisions { from, to }) = found.get() else { return ExtraParams::new() };
            let from = from.map(|number| ("from_revision", Value::from(number)));
            from.into_iter().chain([("to_revision", Value::from(*to))]).collect()
        };
        self.gate.change_granted(granted, work, params).await
    }

    /// Pauses or resumes the rollout of a deployment.
    ///
    /// # Errors
    /// `InvalidInput` for another type; `NotFoundInCluster`; `Modified`; otherwise as [`Gate::change`].
    pub async fn pause(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        paused: bool,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        if workload.kind != WorkloadType::Deployment {
            return Err(Error::invalid("type", Reason::NotOneOf));
        }
        let verb = if paused { Verb::Pause } else { Verb::Resume };
        let access = access(verb, cluster, workload)?.because(reason);
        let (api, workload) = (self.api.clone(), workload.clone());
        let work = async move |permit: Permit| pause(&*api, &permit, &workload, paused).await;
        self.gate.change(caller, access, work).await
    }

    /// Sets the images of containers. Of a paused deployment, the change takes effect when it is resumed.
    ///
    /// # Errors
    /// `InvalidInput` for a job or cron job; `NotFoundInCluster`, also for a container; `Modified`; otherwise as
    /// [`Gate::change`].
    pub async fn set_images(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        images: Images,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        let access = access(Verb::SetImage, cluster, workload)?.because(reason);
        let access = access.with("images", images.summary());
        let (api, workload) = (self.api.clone(), workload.clone());
        let work = async move |permit: Permit| set_images(&*api, &permit, &workload, &images).await;
        self.gate.change(caller, access, work).await
    }

    async fn read_history(&self, permit: &Permit, workload: &WorkloadRef) -> Result<History> {
        self.api.history(permit, &workload.name).await?.ok_or_else(|| permit.object_not_found())
    }

    /// The progress of a rollout by the workload alone, and with its diagnosis.
    async fn read_progress(
        &self,
        caller: &Caller,
        permit: &Permit,
        workload: &WorkloadRef,
    ) -> Result<(Progress, Rollout)> {
        let kind = DiagnosedKind::parse(workload.kind.as_str());
        let diagnosed = DiagnosedObject {
            kind: kind.map_err(|_| Error::internal("a workload that cannot be diagnosed"))?,
            namespace: Some(workload.namespace.clone()),
            name: workload.name.clone(),
        };
        let cluster = permit.cluster()?;
        let diagnosis = self.diagnoses.diagnose(caller, cluster, &diagnosed);
        let (object, diagnosis) = join(read_workload(&*self.api, permit, workload), diagnosis).await;
        let progress = Progress::of(workload.kind, &object?)?;
        let Diagnosis { findings, unreadable, .. } = diagnosis?;
        Ok((progress.clone(), Rollout::of(cluster, progress, findings, unreadable)))
    }

    /// The progress of a rollout by the workload alone.
    async fn read_own_progress(&self, permit: &Permit, workload: &WorkloadRef) -> Result<Progress> {
        let object = read_workload(&*self.api, permit, workload).await?;
        Progress::of(workload.kind, &object)
    }

    /// Adds the audit rows of the operations that change causes name. A change of somebody else keeps the annotation of
    /// the workload, so an operation made only the oldest revision that names it.
    async fn name_operations(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        rows: &mut [RevisionRow],
    ) -> Result<()> {
        let Some(audit) = &self.audit else { return Ok(()) };
        // the newest revisions come first
        let operation =
            |(index, row): (usize, &RevisionRow)| Some((operation_of(row.change_cause.as_deref()?)?, index));
        let made: BTreeMap<OperationId, usize> = rows.iter().enumerate().filter_map(operation).collect();
        // ids are ordered by time
        let ids: Vec<_> = made.keys().rev().take(MAX_NAMED_OPERATIONS).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        for operation in audit.operations_of(caller, &ids).await? {
            // whoever may annotate the workload can name any operation
            let is_of_workload = operation.cluster_id == Some(cluster)
                && operation.namespace.as_deref() == Some(workload.namespace.as_str())
                && operation.resource_type == workload.kind.as_str()
                && operation.resource_name.as_deref() == Some(workload.name.as_str());
            if let Some(&index) = made.get(&operation.operation_id).filter(|_| is_of_workload) {
                rows[index].by = Some(operation);
            }
        }
        Ok(())
    }
}

/// A watched rollout, and who watches it.
struct Watched {
    rollouts: Rollouts,
    caller: Caller,
    permit: Permit,
    workload: WorkloadRef,
}

impl Watched {
    /// Sends the progress now and after each change, until the workload is deleted or cannot be read. What only the
    /// diagnosis shows is seen after [`SIGNALS_PER_DIAGNOSIS`] signals.
    async fn follow(
        self,
        first: (Progress, Rollout),
        mut signals: BoxStream<'static, ()>,
        mut reader: Reader<Rollout>,
    ) -> StreamEnd {
        let Self { rollouts, caller, permit, workload } = self;
        let ((mut own, mut last), mut failures, mut signalled) = (first, 0, 0);
        if !reader.send(last.clone()).await {
            return StreamEnd::TooSlow;
        }
        while let Some(()) = signals.next().await {
            signalled += 1;
            let read = async {
                // log lines and unmasked values take rights of their own, which may have been lost
                let asked = access(Verb::Get, permit.cluster()?, &workload)?;
                let caller = rollouts.gate.refreshed(&caller, &asked).await?;
                if signalled < SIGNALS_PER_DIAGNOSIS
                    && rollouts.read_own_progress(&permit, &workload).await? == own
                {
                    return Ok(None);
                }
                rollouts.read_progress(&caller, &permit, &workload).await.map(Some)
            };
            let read = read.await;
            match read {
                Ok(None) => failures = 0,
                Ok(Some((progress, rollout))) => {
                    (own, failures, signalled) = (progress, 0, 0);
                    if rollout != last {
                        last = rollout;
                        if !reader.send(last.clone()).await {
                            return StreamEnd::TooSlow;
                        }
                    }
                }
                Err(error) if is_temporary(&error) && failures < MAX_FAILURES => failures += 1,
                Err(error) => return error.into(),
            }
        }
        StreamEnd::ConnectionChanged
    }
}

/// Whether a read that failed may succeed soon.
fn is_temporary(error: &Error) -> bool {
    matches!(
        error.code(),
        Code::ConnectionError | Code::TimeoutError | Code::RateLimited | Code::ServiceUnavailable
    )
}

/// The access request for a workload of a type that has rollouts.
fn access(verb: Verb, cluster: ClusterId, workload: &WorkloadRef) -> Result<AccessRequest> {
    let WorkloadRef { namespace, kind, name } = workload;
    if !kind.rolls_out() {
        return Err(Error::invalid("type", Reason::NotOneOf));
    }
    Ok(AccessRequest::to_object(verb, kind.kind(), cluster, namespace, name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn only_failures_of_the_cluster_are_temporary() {
        for (cause, temporary) in [
            (Cause::Unreachable, true),
            (Cause::DeadlineExceeded, true),
            (Cause::RateLimitedByCluster, true),
            (Cause::Overloaded, true),
            (Cause::NotFoundInCluster, false),
            (Cause::ForbiddenByCluster, false),
            (Cause::Internal, false),
        ] {
            assert_eq!(is_temporary(&Error::new(cause)), temporary, "{cause:?}");
        }
    }
}
