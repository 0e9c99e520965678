//! Status of a workload and its numbers of replicas.

use serde::Serialize;

use super::{
    WorkloadType,
    object::{ObjectStatus, Spec, StatusCondition, WorkloadObject},
};
use crate::{object::Metadata, rows::Level};

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

    /// Level of the status.
    pub const fn level(self) -> Level {
        match self {
            Self::Failed => Level::Bad,
            Self::Degraded => Level::Warn,
            Self::Progressing | Self::Active => Level::Progress,
            Self::Running | Self::Complete => Level::Ok,
            Self::Stopped | Self::Paused | Self::Suspended | Self::Idle => Level::Idle,
        }
    }

    /// The condition that causes the status.
    pub(super) fn cause(self, status: &ObjectStatus) -> Option<&StatusCondition> {
        let is_cause = |condition: &&StatusCondition| match (self, condition.kind.as_str()) {
            (Self::Failed, "ReplicaFailure" | "Failed") => condition.status == "True",
            (Self::Failed, "Progressing") | (Self::Degraded, "Available") => condition.status == "False",
            _ => false,
        };
        // what cannot be created is the cause of a deadline that passed meanwhile
        let causes = || status.conditions.iter().filter(is_cause);
        causes().find(|condition| condition.kind != "Progressing").or_else(|| causes().next())
    }

    /// Computes the status of a workload.
    pub(super) fn of(r#type: WorkloadType, object: &WorkloadObject, counts: &ReplicaCounts) -> Self {
        let WorkloadObject { metadata, spec, status } = object;
        match r#type {
            WorkloadType::Job => job_status(spec, status),
            WorkloadType::CronJob => cron_job_status(spec, status),
            _ => rollout_status(r#type, metadata, spec, status, counts),
        }
    }
}

/// Numbers of replicas. None where the type has no such number.
#[derive(Default)]
pub(super) struct ReplicaCounts {
    pub(super) desired: Option<i64>,
    pub(super) ready: Option<i64>,
    pub(super) updated: Option<i64>,
    pub(super) available: Option<i64>,
}

impl ReplicaCounts {
    pub(super) fn of(r#type: WorkloadType, spec: &Spec, status: &ObjectStatus) -> Self {
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

fn rollout_status(
    r#type: WorkloadType,
    metadata: &Metadata,
    spec: &Spec,
    status: &ObjectStatus,
    counts: &ReplicaCounts,
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
    if status.has_active_job() {
        WorkloadStatus::Active
    } else if spec.suspend == Some(true) {
        WorkloadStatus::Suspended
    } else {
        WorkloadStatus::Idle
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{kind::Kind, workload::WorkloadRow};

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
    fn level_follows_from_the_status() {
        use WorkloadStatus as S;
        let cases = [
            (Level::Bad, &[S::Failed][..]),
            (Level::Warn, &[S::Degraded]),
            (Level::Progress, &[S::Progressing, S::Active]),
            (Level::Ok, &[S::Running, S::Complete]),
            (Level::Idle, &[S::Stopped, S::Paused, S::Suspended, S::Idle]),
        ];
        for (level, statuses) in cases {
            assert!(statuses.iter().all(|status| status.level() == level), "{level:?}");
        }
    }

    #[test]
    fn reason_is_that_of_the_condition_which_causes_the_status() {
        let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason});
        let deadline = condition("Progressing", "False", "ProgressDeadlineExceeded");
        let refused = condition("ReplicaFailure", "True", "FailedCreate");
        let unavailable = condition("Available", "False", "MinimumReplicasUnavailable");
        let rolled = condition("Progressing", "True", "NewReplicaSetAvailable");
        let backoff = condition("Failed", "True", "BackoffLimitExceeded");
        let replicas = |kind: Kind, conditions: Value| {
            let status = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "conditions": conditions});
            row(kind, &json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status}))
        };
        let cases = [
            (Kind::Deployment, json!([rolled, unavailable]), Some("MinimumReplicasUnavailable")),
            (Kind::Deployment, json!([unavailable, deadline]), Some("ProgressDeadlineExceeded")),
            (Kind::Deployment, json!([deadline, refused]), Some("FailedCreate")),
            (Kind::StatefulSet, json!([]), None),
            (Kind::Job, json!([backoff]), Some("BackoffLimitExceeded")),
            (Kind::Job, json!([]), None),
        ];
        for (kind, conditions, expected) in cases {
            let row = replicas(kind, conditions.clone());
            assert_eq!(row.reason.as_deref(), expected, "{kind} {conditions}");
            assert_eq!(row.level, row.status.level());
        }
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
}
