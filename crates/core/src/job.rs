//! Jobs and CronJobs: suspending and resuming them, running a CronJob now, running a Job again.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    change_reason::ChangeReason,
    error::{Error, Reason, Result},
    gate::{Changed, ExtraParams, Gate},
    ids::{ClusterId, OperationId},
    kind::Kind,
    name::{Namespace, ObjectName},
    operation::Status,
    workload::{WorkloadRef, WorkloadRow, WorkloadType},
};

mod manifest;

pub use manifest::NewJob;

/// Maximum length of a Job's name. It is also the value of a label of its pods.
const MAX_NAME: usize = 63;
/// Number of hexadecimal digits of the operation's id in the name of a Job.
const SUFFIX: usize = 12;

/// Port: suspends, resumes and runs the Jobs and CronJobs in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait JobApi: Send + Sync {
    /// Suspends or resumes the Job or CronJob of the permit's kind. With the warning `Unchanged` if it already is as
    /// requested.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `Modified` if the object is changed between read and write; and the errors of every call to
    /// a cluster.
    async fn suspend_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        suspend: bool,
    ) -> Result<Changed<WorkloadRow>>;

    /// Creates the Job `job` from the template of a CronJob, as `kubectl create job --from`, also while the CronJob is
    /// suspended. With the warning `RunsBeside` if the CronJob forbids concurrent Jobs and one is running.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the CronJob; `AlreadyExists` for the Job; and the errors of every call to a cluster.
    async fn run_cron_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>>;

    /// Creates the Job `job` as a copy of another one. With the warning `RunsBeside` if that is still running.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the Job to copy; `AlreadyExists` for the new one; and the errors of every call to a
    /// cluster.
    async fn rerun_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>>;
}

/// Use cases: suspending, resuming and running Jobs and CronJobs.
#[derive(Clone)]
pub struct Jobs {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn JobApi>,
}

impl Jobs {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn JobApi>) -> Self {
        Self { gate, api }
    }

    /// Suspends or resumes a Job or CronJob.
    ///
    /// # Errors
    /// `InvalidInput` for another type; otherwise as [`Gate::change`] and [`JobApi::suspend_job`].
    pub async fn suspend(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        job: &WorkloadRef,
        suspend: bool,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        if !matches!(job.kind, WorkloadType::Job | WorkloadType::CronJob) {
            return Err(Error::invalid("type", Reason::NotOneOf));
        }
        let verb = if suspend { Verb::Suspend } else { Verb::Resume };
        let access = access(verb, job.kind.kind(), cluster, &job.namespace, &job.name);
        let (api, name) = (self.api.clone(), job.name.clone());
        let work = async move |permit: Permit| api.suspend_job(&permit, &name, suspend).await;
        self.gate.change(caller, access.because(reason), work).await
    }

    /// Runs a CronJob now. Without `job_name`, the name of the Job is derived from the operation's id, so that an
    /// operation creates at most one. The audit trail records the name.
    ///
    /// # Errors
    /// `InvalidInput` for a name of more than 63 characters; otherwise as [`Gate::change`] and [`JobApi::run_cron_job`].
    pub async fn run(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        run: &JobRun,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        let (access, run) = (run.access(Verb::Run, Kind::CronJob, cluster)?, run.clone());
        let granted = self.gate.grant(caller, access.because(reason)).await?;
        let (api, made) = (self.api.clone(), MadeJob::default());
        let params = made.params();
        let work = async move |permit: Permit| {
            let job = made.name(run.new_name(&permit)?);
            api.run_cron_job(&permit, &run.name, job).await
        };
        self.gate.change_granted(granted, work, params).await
    }

    /// Runs a Job again: creates a copy under another name, derived as in [`Jobs::run`].
    ///
    /// # Errors
    /// As [`Jobs::run`] and [`JobApi::rerun_job`].
    pub async fn rerun(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        run: &JobRun,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<WorkloadRow>> {
        let (access, run) = (run.access(Verb::Rerun, Kind::Job, cluster)?, run.clone());
        let granted = self.gate.grant(caller, access.because(reason)).await?;
        let (api, made) = (self.api.clone(), MadeJob::default());
        let params = made.params();
        let work = async move |permit: Permit| {
            let job = made.name(run.new_name(&permit)?);
            api.rerun_job(&permit, &run.name, job).await
        };
        self.gate.change_granted(granted, work, params).await
    }
}

/// The name of the Job that a run creates, for the audit row of the run.
#[derive(Default)]
struct MadeJob(Arc<OnceLock<ObjectName>>);

impl MadeJob {
    /// Sets the name, once.
    fn name(&self, name: ObjectName) -> &ObjectName {
        self.0.get_or_init(|| name)
    }

    /// The parameters of the audit row: the name, once it is set.
    fn params(&self) -> impl FnOnce(Status) -> ExtraParams + Send + 'static + use<> {
        let made = self.0.clone();
        move |_| made.get().map(|name| ("job_name", Value::from(name.as_str()))).into_iter().collect()
    }
}

/// A run of a CronJob, or another run of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRun {
    /// Namespace.
    pub namespace: Namespace,
    /// Name of the CronJob or Job.
    pub name: ObjectName,
    /// Name of the Job to create. `None`: derived from the name and the operation's id.
    pub job_name: Option<ObjectName>,
}

impl JobRun {
    fn access(&self, verb: Verb, kind: Kind, cluster: ClusterId) -> Result<AccessRequest> {
        let access = access(verb, kind, cluster, &self.namespace, &self.name);
        match &self.job_name {
            Some(name) if name.as_str().len() > MAX_NAME => Err(Error::invalid("job_name", Reason::TooLong)),
            Some(name) => Ok(access.with("job_name", name.as_str())),
            None => Ok(access),
        }
    }

    /// The name of the Job to create.
    fn new_name(&self, permit: &Permit) -> Result<ObjectName> {
        match &self.job_name {
            Some(name) => Ok(name.clone()),
            None => {
                let operation = permit.operation_id();
                let operation = operation.ok_or_else(|| Error::internal("a run without an operation"))?;
                derived_name(&self.name, operation)
            }
        }
    }
}

fn access(
    verb: Verb,
    kind: Kind,
    cluster: ClusterId,
    namespace: &Namespace,
    name: &ObjectName,
) -> AccessRequest {
    AccessRequest::to_object(verb, kind, cluster, namespace, name.as_str())
}

/// The name of the Job that an operation creates from the CronJob or Job of this name: the name and the last 12 digits of
/// the operation's id. A name that ends in such digits, as that of a Job that was run again, is not lengthened.
fn derived_name(name: &ObjectName, operation: OperationId) -> Result<ObjectName> {
    let stem = stem(name.as_str());
    let id = operation.0.simple().to_string();
    ObjectName::new(format!("{stem}-{}", &id[id.len() - SUFFIX..]))
        .map_err(|_| Error::internal("the derived name of a job is not valid"))
}

/// Whether the name of a Job is one that an operation derives from the name of this CronJob or Job.
pub(crate) fn is_derived_name(job: &str, name: &str) -> bool {
    job.rsplit_once('-').is_some_and(|(of, suffix)| is_suffix(suffix) && of == stem(name))
}

/// The part of a name that a derived name begins with.
fn stem(name: &str) -> &str {
    let stem = name.rsplit_once('-').filter(|(_, suffix)| is_suffix(suffix)).map_or(name, |(stem, _)| stem);
    stem[..stem.len().min(MAX_NAME - SUFFIX - 1)].trim_end_matches(['-', '.'])
}

fn is_suffix(text: &str) -> bool {
    text.len() == SUFFIX && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn derived(name: &str) -> String {
        let operation = OperationId(Uuid::from_u128(0x01a2_0528_4f82_706b_87c6_a6e6_3d9e_3888));
        derived_name(&ObjectName::new(name).unwrap(), operation).unwrap().to_string()
    }

    #[test]
    fn name_of_a_job_ends_in_the_digits_of_its_operation() {
        assert_eq!(derived("report"), "report-a6e63d9e3888");
        assert_eq!(derived("report-0123456789ab"), "report-a6e63d9e3888", "run again");
        assert_eq!(derived("report-0123456789xy"), "report-0123456789xy-a6e63d9e3888");
        assert_eq!(derived("report-29381720"), "report-29381720-a6e63d9e3888");
        let cut = format!("{}--{}", "r".repeat(48), "x".repeat(8));
        assert_eq!(derived(&cut), format!("{}-a6e63d9e3888", "r".repeat(48)));
    }

    proptest! {
        #[test]
        fn derived_names_are_valid_for_labels_and_recognised(name in "[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?") {
            let Ok(name) = ObjectName::new(name) else { return Ok(()) };
            let derived = derived(name.as_str());
            prop_assert!(derived.len() <= MAX_NAME);
            prop_assert!(is_derived_name(&derived, name.as_str()));
        }
    }

    #[test]
    fn long_job_name_is_refused() {
        let run = |length: usize| JobRun {
            namespace: Namespace::new("shop").unwrap(),
            name: ObjectName::new("report").unwrap(),
            job_name: Some(ObjectName::new("j".repeat(length)).unwrap()),
        };
        assert!(run(63).access(Verb::Run, Kind::CronJob, ClusterId(1)).is_ok());
        let refused = run(64).access(Verb::Run, Kind::CronJob, ClusterId(1)).unwrap_err();
        assert_eq!(refused, Error::invalid("job_name", Reason::TooLong));
    }
}
