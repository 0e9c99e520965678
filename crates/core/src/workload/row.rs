//! Row of a workload.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    WorkloadType,
    object::{StatusCondition, WorkloadObject},
    status::{ReplicaCounts, WorkloadStatus},
};
use crate::{
    error::{Error, Result},
    fault::{FAULT, Fault},
    kind::Kind,
    object::{Labels, Metadata, parse},
    rows::{Cell, Field, Filter, Level, ListRow},
    schedule,
    usage::Usage,
};

/// List row of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkloadRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its type.
    pub r#type: WorkloadType,
    /// Desired replicas; for a daemon set the number of nodes it should run on, for a job its completions; null for a
    /// cron job.
    pub replicas: Option<i64>,
    /// Number of ready replicas.
    pub ready_replicas: Option<i64>,
    /// Number of replicas of the newest revision; null for jobs and cron jobs.
    pub updated_replicas: Option<i64>,
    /// Number of available replicas; null for jobs and cron jobs.
    pub available_replicas: Option<i64>,
    /// Its status.
    pub status: WorkloadStatus,
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
    /// The images of its containers, in order.
    pub images: Vec<String>,
    /// Label selector of its pods.
    pub selector: Option<Labels>,
    /// Time of the last restart by `kubectl rollout restart` or an equivalent.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub restarted_at: Option<Timestamp>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// The usage of CPU and memory of its pods together, filled in when a page of one cluster is read; null if it is not
    /// known, and elsewhere.
    pub usage: Option<Usage>,
    /// What is wrong, unless it is as wanted. Of a cron job, its next start and its last success.
    #[serde(skip)]
    fault: Option<Box<Fault>>,
}

/// Field with the type of a workload.
pub(crate) const TYPE: &str = "type";

impl ListRow for WorkloadRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered(TYPE, Filter::Internal, |row| Cell::text(row.r#type.as_str())),
        Field::new("replicas", |row| Cell::from(row.replicas)),
        Field::new("ready_replicas", |row| Cell::from(row.ready_replicas)),
        Field::new("updated_replicas", |row| Cell::from(row.updated_replicas)),
        Field::new("available_replicas", |row| Cell::from(row.available_replicas)),
        Field::filtered("status", Filter::OneOf(WorkloadStatus::NAMES), |row: &Self| {
            Cell::text(row.status.as_str())
        })
        .counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
        Field::new("restarted_at", |row| Cell::from(row.restarted_at)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::late("usage_cpu"),
        Field::late("usage_memory"),
        Field::hidden(FAULT, |row: &Self| Fault::cell(row.fault.as_deref())),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

/// Restart annotations of kubectl and kube-rs.
const RESTARTED_AT: [&str; 2] = ["kubectl.kubernetes.io/restartedAt", "kube.kubernetes.io/restartedAt"];

impl WorkloadRow {
    /// Projects an object of one of the workload kinds.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if it is not an object of that kind; `Internal` if the kind is not a workload.
    pub fn project(kind: Kind, object: &RawValue) -> Result<Self> {
        let r#type =
            WorkloadType::of(kind).ok_or_else(|| Error::internal(format!("{kind} is not a workload")))?;
        let object: WorkloadObject = parse(object)?;
        let counts = ReplicaCounts::of(r#type, &object.spec, &object.status);
        let status = WorkloadStatus::of(r#type, &object, &counts);
        let cause = status.cause(&object.status);
        let reason = cause.map(|cause| cause.reason.clone()).filter(|reason| !reason.is_empty());
        let is_wanted = status.level() < Level::Warn;
        let fault = match r#type {
            WorkloadType::CronJob => Some(Box::new(fault_of_cron_job(&object))),
            _ => (!is_wanted).then(|| Box::new(fault(&object.metadata, cause))),
        };
        let WorkloadObject { metadata, spec, .. } = object;
        let template =
            if r#type == WorkloadType::CronJob { spec.job_template.spec.template } else { spec.template };
        let restarted_at =
            RESTARTED_AT.iter().find_map(|key| template.metadata.annotations.get(*key)?.parse().ok());
        Ok(Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            r#type,
            replicas: counts.desired,
            ready_replicas: counts.ready,
            updated_replicas: counts.updated,
            available_replicas: counts.available,
            status,
            level: status.level(),
            reason,
            images: template.spec.containers.into_iter().map(|container| container.image).collect(),
            selector: spec.selector.map(|selector| selector.match_labels),
            restarted_at,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
            usage: None,
            fault,
        })
    }
}

/// What the problems need of a cron job: from when on its next start counts as missed, and its last success. A suspended
/// cron job starts nothing, and one that forbids concurrent jobs waits for the running one.
fn fault_of_cron_job(object: &WorkloadObject) -> Fault {
    let WorkloadObject { metadata, spec, status } = object;
    let waits = spec.concurrency_policy.as_deref() == Some("Forbid") && status.has_active_job();
    let starts = spec.suspend != Some(true) && !waits;
    let schedule = spec.schedule.as_deref().filter(|_| starts);
    let last = status.last_schedule_time.or(metadata.creation_timestamp);
    let missed_from = schedule
        .zip(last)
        .and_then(|(schedule, last)| schedule::missed_from(schedule, spec.time_zone.as_deref(), last));
    Fault::of_cron_job(missed_from, status.last_successful_time)
}

/// The fault of a workload that is not as wanted, from the condition that causes its status.
fn fault(metadata: &Metadata, cause: Option<&StatusCondition>) -> Fault {
    let cron_job = metadata.controller().filter(|owner| owner.kind == Kind::CronJob.info().kind);
    let owner = cron_job.map(|owner| format!("{}/{}", Kind::CronJob, owner.name));
    let since = cause.and_then(|cause| cause.last_transition_time);
    let fault = Fault { since, owner, ..Fault::default() };
    fault.with_message(cause.map_or("", |cause| cause.message.as_str()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use serde_json::json;

    #[test]
    fn fault_of_a_cron_job_is_its_next_start_and_its_last_success() {
        let last = "2026-01-01T03:00:00Z";
        let cron_job = |spec: serde_json::Value, status: serde_json::Value| {
            let created = "2025-12-01T00:00:00Z";
            let object = json!({"metadata": {"creationTimestamp": created}, "spec": spec, "status": status});
            let raw = serde_json::value::to_raw_value(&object).unwrap();
            *WorkloadRow::project(Kind::CronJob, &raw).unwrap().fault.unwrap()
        };
        let nightly = json!({"schedule": "0 3 * * *", "timeZone": "Etc/UTC", "concurrencyPolicy": "Forbid"});
        let started = json!({"lastScheduleTime": last, "lastSuccessfulTime": "2026-01-01T03:10:00Z"});
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let fault = cron_job(nightly.clone(), started);
        assert_eq!(
            (fault.missed_from(), fault.succeeded_at()),
            (at("2026-01-02T04:05:00Z"), at("2026-01-01T03:10:00Z"))
        );
        let never = cron_job(nightly.clone(), json!({}));
        assert_eq!((never.missed_from(), never.succeeded_at()), (at("2025-12-01T04:05:00Z"), None));
        let running = cron_job(nightly.clone(), json!({"lastScheduleTime": last, "active": [{"name": "a"}]}));
        assert_eq!(running.missed_from(), None);
        let mut suspended = nightly;
        suspended["suspend"] = json!(true);
        assert_eq!(cron_job(suspended, json!({"lastScheduleTime": last})).missed_from(), None);
        assert_eq!(cron_job(json!({"schedule": "?"}), json!({})).missed_from(), None);
    }

    #[test]
    fn row_contains_images_and_restart_time_of_the_template() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-02-03T04:05:06+01:00"}},
                "spec": {"containers": [{"image": "a:1"}, {"image": "b:2"}]}}},
        });
        let raw = serde_json::value::to_raw_value(&object).unwrap();
        let row = WorkloadRow::project(Kind::Deployment, &raw).unwrap();
        assert_eq!(row.images, ["a:1", "b:2"]);
        assert_eq!(row.selector, Some(BTreeMap::from([("app".into(), "web".into())])));
        assert_eq!(row.restarted_at.map(|at| at.to_string()).as_deref(), Some("2026-02-03T03:05:06Z"));
    }
}
