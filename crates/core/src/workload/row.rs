//! Row of a workload and its status.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::WorkloadType;
use crate::{
    error::{Error, Result},
    kind::Kind,
    object::{Labels, Metadata, or_default, parse},
    rows::{Cell, Field, Filter, ListRow},
};

/// Status of a workload: the first that applies, in this order. Jobs and cron jobs have their own statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WorkloadStatus {
    /// The desired number of replicas is 0.
    Stopped,
    /// The deployment's rollout is paused.
    Paused,
    /// The rollout exceeded its deadline, or pods cannot be created. Job: failed.
    Failed,
    /// The rollout is in progress.
    Progressing,
    /// Fewer replicas are available than desired.
    Degraded,
    /// All desired replicas are available. Job: running.
    Running,
    /// Job: completed.
    Complete,
    /// Job or cron job: suspended.
    Suspended,
    /// Cron job: a job is running.
    Active,
    /// Cron job: no job is running.
    Idle,
}

impl WorkloadStatus {
    /// All filter values.
    pub const NAMES: &'static [&'static str] = &[
        "stopped",
        "paused",
        "failed",
        "progressing",
        "degraded",
        "running",
        "complete",
        "suspended",
        "active",
        "idle",
    ];

    /// Name of the status in rows and filters.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

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
    /// The images of its containers, in order.
    pub images: Vec<String>,
    /// Label selector of its pods.
    pub selector: Option<Labels>,
    /// Time of the last restart by `kubectl rollout restart` or an equivalent.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub restarted_at: Option<Timestamp>,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl ListRow for WorkloadRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::filtered("type", Filter::Internal, |row| Cell::text(row.r#type.as_str())),
        Field::new("replicas", |row| Cell::from(row.replicas)),
        Field::new("ready_replicas", |row| Cell::from(row.ready_replicas)),
        Field::new("updated_replicas", |row| Cell::from(row.updated_replicas)),
        Field::new("available_replicas", |row| Cell::from(row.available_replicas)),
        Field::filtered("status", Filter::OneOf(WorkloadStatus::NAMES), |row: &Self| {
            Cell::text(row.status.as_str())
        })
        .counted(),
        Field::new("restarted_at", |row| Cell::from(row.restarted_at)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

/// Fields of a workload that Pilothouse reads: the union over all types.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkloadObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: Spec,
    #[serde(deserialize_with = "or_default")]
    status: ObjectStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    replicas: Option<i64>,
    paused: Option<bool>,
    suspend: Option<bool>,
    completions: Option<i64>,
    parallelism: Option<i64>,
    selector: Option<Selector>,
    #[serde(deserialize_with = "or_default")]
    update_strategy: UpdateStrategy,
    #[serde(deserialize_with = "or_default")]
    template: Template,
    #[serde(deserialize_with = "or_default")]
    job_template: JobTemplate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Selector {
    #[serde(deserialize_with = "or_default")]
    match_labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct UpdateStrategy {
    r#type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    rolling_update: RollingUpdate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RollingUpdate {
    partition: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JobTemplate {
    #[serde(deserialize_with = "or_default")]
    spec: JobSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JobSpec {
    #[serde(deserialize_with = "or_default")]
    template: Template,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    #[serde(deserialize_with = "or_default")]
    metadata: TemplateMetadata,
    #[serde(deserialize_with = "or_default")]
    spec: TemplateSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateMetadata {
    #[serde(deserialize_with = "or_default")]
    annotations: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateSpec {
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    #[serde(deserialize_with = "or_default")]
    image: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectStatus {
    observed_generation: Option<i64>,
    replicas: Option<i64>,
    ready_replicas: Option<i64>,
    updated_replicas: Option<i64>,
    available_replicas: Option<i64>,
    desired_number_scheduled: Option<i64>,
    number_ready: Option<i64>,
    updated_number_scheduled: Option<i64>,
    number_available: Option<i64>,
    ready: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<StatusCondition>,
    /// A number in a job, a list of references in a cron job.
    active: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
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
        let WorkloadObject { metadata, spec, status } = parse(object)?;
        let counts = Counts::of(r#type, &spec, &status);
        let workload_status = match r#type {
            WorkloadType::Job => job_status(&spec, &status),
            WorkloadType::CronJob => cron_job_status(&spec, &status),
            _ => rollout_status(r#type, &metadata, &spec, &status, &counts),
        };
        let template =
            if r#type == WorkloadType::CronJob { spec.job_template.spec.template } else { spec.template };
        let restarted_at =
            RESTARTED_AT.iter().find_map(|key| template.metadata.annotations.get(*key)?.parse().ok());
        Ok(Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            r#type,
            replicas: counts.desired,
            ready_replicas: counts.ready,
            updated_replicas: counts.updated,
            available_replicas: counts.available,
            status: workload_status,
            images: template.spec.containers.into_iter().map(|container| container.image).collect(),
            selector: spec.selector.map(|selector| selector.match_labels),
            restarted_at,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        })
    }
}

#[derive(Default)]
struct Counts {
    desired: Option<i64>,
    ready: Option<i64>,
    updated: Option<i64>,
    available: Option<i64>,
}

impl Counts {
    fn of(r#type: WorkloadType, spec: &Spec, status: &ObjectStatus) -> Self {
        let count = |number: Option<i64>| Some(number.unwrap_or(0));
        match r#type {
            WorkloadType::Deployment | WorkloadType::StatefulSet => Self {
                // the API server's default is one replica
                desired: Some(spec.replicas.unwrap_or(1)),
                ready: count(status.ready_replicas),
                updated: count(status.updated_replicas),
                available: count(status.available_replicas),
            },
            WorkloadType::DaemonSet => Self {
                desired: count(status.desired_number_scheduled),
                ready: count(status.number_ready),
                updated: count(status.updated_number_scheduled),
                available: count(status.number_available),
            },
            WorkloadType::Job => Self {
                desired: Some(spec.completions.or(spec.parallelism).unwrap_or(1)),
                ready: count(status.ready),
                ..Self::default()
            },
            WorkloadType::CronJob => Self::default(),
        }
    }
}

impl ObjectStatus {
    fn condition(&self, kind: &str) -> Option<&StatusCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    fn has_condition(&self, kind: &str, value: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == value)
    }
}

fn rollout_status(
    r#type: WorkloadType,
    metadata: &Metadata,
    spec: &Spec,
    status: &ObjectStatus,
    counts: &Counts,
) -> WorkloadStatus {
    let [desired, updated, available] =
        [counts.desired, counts.updated, counts.available].map(|n| n.unwrap_or(0));
    let deadline_exceeded = |condition: &StatusCondition| {
        condition.status == "False" && condition.reason == "ProgressDeadlineExceeded"
    };
    let unobserved =
        metadata.generation.is_some_and(|now| status.observed_generation.is_none_or(|seen| seen < now));
    // the condition that `kubectl rollout status` waits for, except availability, which has its own status
    let incomplete = match r#type {
        WorkloadType::Deployment => {
            let rolling = |condition: &StatusCondition| {
                condition.status == "True"
                    && condition.reason != "NewReplicaSetAvailable"
                    && available < desired
            };
            updated < desired
                || status.replicas.unwrap_or(0) > updated
                || status.condition("Progressing").is_some_and(rolling)
        }
        _ if spec.update_strategy.r#type.as_deref() == Some("OnDelete") => false,
        _ => updated < desired - spec.update_strategy.rolling_update.partition.unwrap_or(0),
    };
    if desired == 0 {
        WorkloadStatus::Stopped
    } else if spec.paused == Some(true) {
        WorkloadStatus::Paused
    } else if status.condition("Progressing").is_some_and(deadline_exceeded)
        || status.has_condition("ReplicaFailure", "True")
    {
        WorkloadStatus::Failed
    } else if unobserved || incomplete {
        WorkloadStatus::Progressing
    } else if available < desired {
        WorkloadStatus::Degraded
    } else {
        WorkloadStatus::Running
    }
}

fn job_status(spec: &Spec, status: &ObjectStatus) -> WorkloadStatus {
    if status.has_condition("Complete", "True") {
        WorkloadStatus::Complete
    } else if status.has_condition("Failed", "True") {
        WorkloadStatus::Failed
    } else if spec.suspend == Some(true) {
        WorkloadStatus::Suspended
    } else {
        WorkloadStatus::Running
    }
}

fn cron_job_status(spec: &Spec, status: &ObjectStatus) -> WorkloadStatus {
    let has_active_job =
        status.active.as_ref().and_then(serde_json::Value::as_array).is_some_and(|jobs| !jobs.is_empty());
    if has_active_job {
        WorkloadStatus::Active
    } else if spec.suspend == Some(true) {
        WorkloadStatus::Suspended
    } else {
        WorkloadStatus::Idle
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use serde_json::{Value, json};

    fn row(kind: Kind, object: &Value) -> WorkloadRow {
        let raw = serde_json::value::to_raw_value(object).unwrap();
        WorkloadRow::project(kind, &raw).unwrap()
    }

    fn deployment(spec: Value, status: Value) -> WorkloadStatus {
        row(Kind::Deployment, &json!({"metadata": {"generation": 2}, "spec": spec, "status": status})).status
    }

    #[test]
    fn serialised_names_match_as_str() {
        use WorkloadStatus as S;
        let all = [
            S::Stopped,
            S::Paused,
            S::Failed,
            S::Progressing,
            S::Degraded,
            S::Running,
            S::Complete,
            S::Suspended,
            S::Active,
            S::Idle,
        ];
        for status in all {
            assert_eq!(json!(status), json!(status.as_str()));
        }
        assert_eq!(all.len(), S::NAMES.len());
    }

    #[test]
    fn deployment_status_follows_from_replicas_and_conditions() {
        use WorkloadStatus as S;
        let done =
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3});
        let with = |changes: Value| {
            let mut status = done.clone();
            status.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            status
        };
        let three = json!({"replicas": 3});
        let missed =
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        let rolling = json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}]);
        let rolled = json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]);
        let refused = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]);
        let cases = [
            (three.clone(), done.clone(), S::Running),
            (json!({"replicas": 0}), json!({}), S::Stopped),
            (json!({"replicas": 0, "paused": true}), json!({}), S::Stopped),
            (json!({"replicas": 3, "paused": true}), with(json!({"conditions": missed})), S::Paused),
            (three.clone(), with(json!({"conditions": missed})), S::Failed),
            (three.clone(), with(json!({"conditions": refused, "updatedReplicas": 1})), S::Failed),
            (three.clone(), with(json!({"observedGeneration": 1})), S::Progressing),
            (three.clone(), with(json!({"updatedReplicas": 2})), S::Progressing),
            (three.clone(), with(json!({"replicas": 4})), S::Progressing),
            (three.clone(), with(json!({"availableReplicas": 2, "conditions": rolling})), S::Progressing),
            (three.clone(), with(json!({"availableReplicas": 2, "conditions": rolled})), S::Degraded),
            (three, json!({}), S::Progressing),
            (
                json!({}),
                json!({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}),
                S::Running,
            ),
        ];
        for (spec, status, expected) in cases {
            assert_eq!(deployment(spec.clone(), status.clone()), expected, "{spec} {status}");
        }
    }

    #[test]
    fn stateful_and_daemon_set_status_follows_from_replicas() {
        use WorkloadStatus as S;
        let stateful = |spec: Value, status: Value| {
            row(Kind::StatefulSet, &json!({"spec": spec, "status": status})).status
        };
        let half = json!({"replicas": 4, "updatedReplicas": 2, "availableReplicas": 4});
        assert_eq!(stateful(json!({"replicas": 4}), half.clone()), S::Progressing);
        let partition = json!({"replicas": 4, "updateStrategy": {"rollingUpdate": {"partition": 2}}});
        assert_eq!(stateful(partition, half.clone()), S::Running);
        let on_delete = json!({"replicas": 4, "updateStrategy": {"type": "OnDelete"}});
        assert_eq!(stateful(on_delete, half), S::Running);

        let daemon = |status: Value| row(Kind::DaemonSet, &json!({"status": status}));
        let all = json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1, "numberReady": 1});
        let degraded = daemon(all);
        assert_eq!(
            (degraded.status, degraded.replicas, degraded.ready_replicas),
            (S::Degraded, Some(2), Some(1))
        );
        assert_eq!(daemon(json!({})).status, S::Stopped);
    }

    #[test]
    fn job_and_cron_job_status_follows_from_conditions() {
        use WorkloadStatus as S;
        let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True"}]});
        let job =
            |spec: Value, status: Value| row(Kind::Job, &json!({"spec": spec, "status": status})).status;
        assert_eq!(job(json!({}), json!({"active": 1})), S::Running);
        assert_eq!(job(json!({}), condition("Complete")), S::Complete);
        assert_eq!(job(json!({"suspend": true}), condition("Failed")), S::Failed);
        assert_eq!(job(json!({"suspend": true}), json!({})), S::Suspended);
        let cron =
            |spec: Value, status: Value| row(Kind::CronJob, &json!({"spec": spec, "status": status})).status;
        assert_eq!(cron(json!({}), json!({"active": [{"name": "a"}]})), S::Active);
        assert_eq!(cron(json!({}), json!({})), S::Idle);
        assert_eq!(cron(json!({"suspend": true}), json!({})), S::Suspended);
    }

    #[test]
    fn row_contains_images_and_restart_time_of_the_template() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-02-03T04:05:06+01:00"}},
                "spec": {"containers": [{"image": "a:1"}, {"image": "b:2"}]}}},
        });
        let row = row(Kind::Deployment, &object);
        assert_eq!(row.images, ["a:1", "b:2"]);
        assert_eq!(row.selector, Some(BTreeMap::from([("app".into(), "web".into())])));
        assert_eq!(row.restarted_at.map(|at| at.to_string()).as_deref(), Some("2026-02-03T03:05:06Z"));
    }
}
