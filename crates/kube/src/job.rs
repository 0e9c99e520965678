//! [`JobApi`]: suspends, resumes and runs Jobs and CronJobs.

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    access::Permit,
    gate::{Changed, Warning},
    job::{JobApi, NewJob},
    json_patch::JsonPatch,
    kind::Kind,
    name::ObjectName,
    object::{Metadata, parse},
    workload::WorkloadRow,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{KubeClusters, object_client::ObjectClient};

/// Whether a Job or CronJob is suspended.
#[derive(Deserialize)]
struct SuspendFields {
    metadata: Metadata,
    #[serde(default)]
    spec: SuspendSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SuspendSpec {
    suspend: Option<bool>,
}

#[async_trait]
impl JobApi for KubeClusters {
    async fn suspend_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        suspend: bool,
    ) -> Result<Changed<WorkloadRow>> {
        let kind = permit.kind()?;
        let object = self.object(permit, kind, name, self.deadlines().write).await?;
        let read = move |object: &RawValue| {
            Ok((parse::<SuspendFields>(object)?, WorkloadRow::project(kind, object)?))
        };
        let (SuspendFields { metadata, spec }, row) = object.get(read).await?;
        if spec.suspend.unwrap_or(false) == suspend {
            return Ok(Changed { value: row, warnings: vec![Warning::Unchanged] });
        }
        let patch = JsonPatch::of(&metadata).add("/spec/suspend", suspend);
        Ok(WorkloadRow::project(kind, &object.json_patch(&patch).await?)?.into())
    }

    async fn run_cron_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>> {
        let object = self.object(permit, Kind::CronJob, name, self.deadlines().write).await?;
        let new_name = job.clone();
        let new = object.get(move |cron_job| NewJob::of_cron_job(cron_job, &new_name)).await?;
        create(&object, job, new).await
    }

    async fn rerun_job(
        &self,
        permit: &Permit,
        name: &ObjectName,
        job: &ObjectName,
    ) -> Result<Changed<WorkloadRow>> {
        let object = self.object(permit, Kind::Job, name, self.deadlines().write).await?;
        let new_name = job.clone();
        let new = object.get(move |old| NewJob::of_job(old, &new_name)).await?;
        create(&object, job, new).await
    }
}

/// Creates a Job in the namespace of the object that it was made from.
async fn create(object: &ObjectClient<'_>, name: &ObjectName, new: NewJob) -> Result<Changed<WorkloadRow>> {
    let created = object.create_other(Kind::Job, name, &new.manifest).await?;
    let warnings = new.beside.into_iter().map(Warning::RunsBeside).collect();
    Ok(Changed { value: WorkloadRow::project(Kind::Job, &created)?, warnings })
}
