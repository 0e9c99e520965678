//! Routes that suspend, resume and run Jobs and CronJobs.

use actix_web::web::Data;
use pilothouse_core::{
    access::Caller,
    change_reason::ChangeReason,
    job::JobRun,
    name::{Namespace, ObjectName},
    workload::{WorkloadRef, WorkloadType},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{params::Id, workloads::OneWorkload};
use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, response::Response,
};

/// A CronJob to suspend or to resume.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CronJobBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

/// A Job to suspend or to resume.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobSuspendBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// Whether to suspend it, which ends its running pods; `false` resumes it.
    #[serde(default = "suspends")]
    #[schema(default = true)]
    suspend: bool,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

const fn suspends() -> bool {
    true
}

/// A CronJob to run, or a Job to run again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRunBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// The name of the new Job, at most 63 characters; the default is `name` and the last digits of the operation's id.
    job_name: Option<ObjectName>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn suspend_cron_job(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<CronJobBody>>,
) -> Result<Response<OneWorkload>> {
    set_cron_job(&api, signed_in.caller(), body, true).await
}

pub(crate) async fn resume_cron_job(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<CronJobBody>>,
) -> Result<Response<OneWorkload>> {
    set_cron_job(&api, signed_in.caller(), body, false).await
}

async fn set_cron_job(
    api: &Api,
    caller: &Caller,
    body: CronJobBody,
    suspend: bool,
) -> Result<Response<OneWorkload>> {
    let CronJobBody { cluster_id, namespace, name, reason } = body;
    let job = WorkloadRef { namespace, kind: WorkloadType::CronJob, name };
    set_suspended(api, caller, cluster_id, &job, suspend, reason).await
}

pub(crate) async fn suspend_job(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<JobSuspendBody>>,
) -> Result<Response<OneWorkload>> {
    let JobSuspendBody { cluster_id, namespace, name, suspend, reason } = body;
    let job = WorkloadRef { namespace, kind: WorkloadType::Job, name };
    set_suspended(&api, signed_in.caller(), cluster_id, &job, suspend, reason).await
}

async fn set_suspended(
    api: &Api,
    caller: &Caller,
    cluster_id: Id,
    job: &WorkloadRef,
    suspend: bool,
    reason: Option<ChangeReason>,
) -> Result<Response<OneWorkload>> {
    let jobs = &api.app.jobs;
    let changed = jobs.suspend(caller, cluster_id.into(), job, suspend, reason).await?;
    let message = if suspend { Message::WorkloadSuspended } else { Message::WorkloadResumed };
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(message))
}

pub(crate) async fn run_cron_job(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<JobRunBody>>,
) -> Result<Response<OneWorkload>> {
    let JobRunBody { cluster_id, namespace, name, job_name, reason } = body;
    let run = JobRun { namespace, name, job_name };
    let changed = api.app.jobs.run(signed_in.caller(), cluster_id.into(), &run, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::JobStarted))
}

pub(crate) async fn rerun_job(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<JobRunBody>>,
) -> Result<Response<OneWorkload>> {
    let JobRunBody { cluster_id, namespace, name, job_name, reason } = body;
    let run = JobRun { namespace, name, job_name };
    let changed = api.app.jobs.rerun(signed_in.caller(), cluster_id.into(), &run, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::JobStarted))
}
