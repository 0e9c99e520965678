//! Workloads: deployments, stateful sets, daemon sets, jobs, cron jobs. List rows with status, details of one workload,
//! scaling and restarting.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    clock::Clock,
    error::{Error, Reason, Result},
    gate::{Changed, Gate},
    ids::ClusterId,
    kind::Kind,
    mask::{MaskedFields, sees_masked_values},
    name::{Namespace, ObjectName},
};

pub(crate) mod change;
mod detail;
pub(crate) mod diff;
pub(crate) mod history;
mod object;
mod progress;
mod revision;
mod row;
mod status;

pub use change::{Images, Reference};
pub use detail::{Condition, ContainerDetail, ContainerPort, Probes, WorkloadDetail, WorkloadParts};
pub use diff::FieldChange;
pub use history::{CHANGE_CAUSE, History, RevisionRow, StoredRevision};
pub use progress::{Progress, RolloutState, WaitingPods, WaitsFor};
pub use revision::Revision;
pub(crate) use row::TYPE;
pub use row::WorkloadRow;
pub use status::WorkloadStatus;

/// Type of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the Kubernetes kinds of the same names")]
pub enum WorkloadType {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
}

impl WorkloadType {
    /// All types.
    pub const ALL: [Self; 5] =
        [Self::Deployment, Self::StatefulSet, Self::DaemonSet, Self::Job, Self::CronJob];

    /// Kubernetes kind of the type.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Deployment => Kind::Deployment,
            Self::StatefulSet => Kind::StatefulSet,
            Self::DaemonSet => Kind::DaemonSet,
            Self::Job => Kind::Job,
            Self::CronJob => Kind::CronJob,
        }
    }

    /// Type of a Kubernetes kind; `None` if the kind is not a workload.
    pub fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|this| this.kind() == kind)
    }

    /// Name of the type in requests and rows.
    pub const fn as_str(self) -> &'static str {
        self.kind().info().singular
    }

    /// Parses a type.
    ///
    /// # Errors
    /// [`Reason::NotOneOf`].
    pub fn parse(text: &str) -> Result<Self, Reason> {
        Self::ALL.into_iter().find(|this| this.as_str() == text).ok_or(Reason::NotOneOf)
    }

    /// Whether the number of replicas of this type can be set.
    pub const fn scales(self) -> bool {
        matches!(self, Self::Deployment | Self::StatefulSet)
    }

    /// Whether this type supports `kubectl rollout`: its pods are replaced when its pod template changes.
    pub const fn rolls_out(self) -> bool {
        matches!(self, Self::Deployment | Self::StatefulSet | Self::DaemonSet)
    }

    /// Kind of the objects that are its history: its revisions, or a cron job's jobs. `None` for a job.
    pub const fn revision_kind(self) -> Option<Kind> {
        match self {
            Self::Deployment => Some(Kind::ReplicaSet),
            Self::StatefulSet | Self::DaemonSet => Some(Kind::ControllerRevision),
            Self::CronJob => Some(Kind::Job),
            Self::Job => None,
        }
    }
}

impl fmt::Display for WorkloadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reference to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRef {
    /// Namespace.
    pub namespace: Namespace,
    /// Type.
    pub kind: WorkloadType,
    /// Name.
    pub name: ObjectName,
}

/// A number of replicas, 0 to 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64")]
pub struct Replicas(u16);

impl Replicas {
    /// Maximum number of replicas that Pilothouse sets.
    pub const MAX: i64 = 10_000;

    /// The number of replicas.
    pub fn get(self) -> i32 {
        self.0.into()
    }
}

impl TryFrom<i64> for Replicas {
    type Error = Reason;
    fn try_from(number: i64) -> Result<Self, Reason> {
        if (0..=Self::MAX).contains(&number) {
            u16::try_from(number).map(Self).map_err(|_| Reason::OutOfRange)
        } else {
            Err(Reason::OutOfRange)
        }
    }
}

/// Port: reads and changes workloads in the permit's cluster, kind and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait WorkloadApi: Send + Sync {
    /// Returns a workload with its pods, events and revisions; `None` if it does not exist. The environment is not
    /// masked.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadDetail>>;

    /// Sets the number of replicas. Returns a warning if an autoscaler will override it.
    ///
    /// # Errors
    /// `NotFoundInCluster`; and the errors of every call to a cluster.
    async fn scale(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>>;

    /// Restarts the rollout, as `kubectl rollout restart`: sets kubectl's annotation on the pod template to `at`.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `RolloutPaused` for a paused deployment; and the errors of every call to a cluster.
    async fn restart(&self, permit: &Permit, name: &ObjectName, at: Timestamp) -> Result<WorkloadRow>;
}

/// Use cases: reading, scaling and restarting workloads.
#[derive(Clone)]
pub struct Workloads {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn WorkloadApi>,
    pub(crate) clock: Arc<dyn Clock>,
    masked_fields: MaskedFields,
}

impl Workloads {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn WorkloadApi>, clock: Arc<dyn Clock>) -> Self {
        Self { gate, api, clock, masked_fields: MaskedFields::default() }
    }

    /// Sets the fields that are masked besides literal values of environment variables.
    #[must_use]
    pub fn with_masked_fields(self, masked_fields: MaskedFields) -> Self {
        Self { masked_fields, ..self }
    }

    /// Returns a workload with the objects that belong to it and that the caller may list. Literal values of environment
    /// variables and the fields of [`Workloads::with_masked_fields`] are masked for callers who may neither update the
    /// workload nor run commands in its namespace. The names of variables are visible, and the row as in a list.
    ///
    /// # Errors
    /// `NotFoundInCluster`; and the errors of every call to a cluster.
    pub async fn detail(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
    ) -> Result<WorkloadDetail> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, workload)).await?;
        let found = self.api.get(&permit, &workload.name).await?;
        let mut detail = found.ok_or_else(|| permit.object_not_found())?;
        let now = self.clock.now();
        detail.pods = detail.pods.into_iter().map(|pod| pod.at(now)).collect();
        if !sees_masked_values(caller, workload.kind.kind(), cluster, &workload.namespace) {
            detail.mask(&self.masked_fields);
        }
        Ok(detail)
    }

    /// Sets the number of replicas of a deployment or stateful set.
    ///
    /// # Errors
    /// `InvalidInput` for another type; `NotFoundInCluster`; otherwise as [`Gate::change`].
    pub async fn scale(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>> {
        if !workload.kind.scales() {
            return Err(Error::invalid("type", Reason::NotOneOf));
        }
        let access = access(Verb::Scale, cluster, workload).with("replicas", replicas.get());
        let (api, name) = (self.api.clone(), workload.name.clone());
        self.gate.change(caller, access, async move |permit| api.scale(&permit, &name, replicas).await).await
    }

    /// Restarts the rollout of a deployment, stateful set or daemon set, which replaces its pods.
    ///
    /// # Errors
    /// `InvalidInput` for another type; `RolloutPaused`; `NotFoundInCluster`; otherwise as [`Gate::change`].
    pub async fn restart(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        workload: &WorkloadRef,
    ) -> Result<Changed<WorkloadRow>> {
        if !workload.kind.rolls_out() {
            return Err(Error::invalid("type", Reason::NotOneOf));
        }
        let access = access(Verb::Restart, cluster, workload);
        let (api, name, at) = (self.api.clone(), workload.name.clone(), self.clock.now());
        let work = async move |permit: Permit| Ok(api.restart(&permit, &name, at).await?.into());
        self.gate.change(caller, access, work).await
    }
}

fn access(verb: Verb, cluster: ClusterId, workload: &WorkloadRef) -> AccessRequest {
    let WorkloadRef { namespace, kind, name } = workload;
    AccessRequest::to_object(verb, kind.kind(), cluster, namespace, name.as_str())
}
