//! Progress of a rollout, as the status of the workload records it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    WorkloadStatus, WorkloadType,
    object::{UpdateStrategy, WorkloadObject},
    status::ReplicaCounts,
};
use crate::{
    error::Result,
    object::{lenient_time, or_default, parse},
};

/// State of a rollout: the first that applies of `paused`, `failed`, `stuck`, `progressing`, `complete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The pods of the wanted revision run and are available, as many as wanted or as the update strategy replaces.
    Complete,
    /// Pods are being replaced, started or stopped.
    Progressing,
    /// Pods of the wanted revision cannot be created, cannot start, or fail again and again.
    Stuck,
    /// The rollout of the deployment is paused.
    Paused,
    /// The rollout of the deployment made no progress for longer than its `progressDeadlineSeconds`.
    Failed,
}

/// Why pods of an earlier revision stay, by the update strategy of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// The strategy is `OnDelete`: a pod is replaced when somebody deletes it.
    Deletion,
    /// The strategy has a `partition`: the pods below it are replaced when it is lowered.
    Partition,
}

/// Pods of an earlier revision that stay until somebody acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitingPods {
    /// What they wait for.
    pub r#for: WaitsFor,
    /// Number of pods.
    pub pods: i64,
}

/// Progress of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its state.
    pub state: RolloutState,
    /// Time since which it is in that state, if the cluster records it.
    pub since: Option<Timestamp>,
    /// Number of pods of the wanted revision.
    pub updated: i64,
    /// Number of available pods.
    pub available: i64,
    /// Number of wanted pods.
    pub wanted: i64,
    /// Pods of an earlier revision that stay until somebody acts.
    pub waiting: Option<WaitingPods>,
}

/// Times of the conditions of a workload.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Timed {
    #[serde(deserialize_with = "or_default")]
    status: TimedStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TimedStatus {
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<TimedCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TimedCondition {
    #[serde(deserialize_with = "or_default")]
    r#type: String,
    #[serde(deserialize_with = "lenient_time")]
    last_update_time: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    last_transition_time: Option<Timestamp>,
}

impl Timed {
    fn condition(&self, r#type: &str) -> Option<&TimedCondition> {
        self.status.conditions.iter().find(|condition| condition.r#type == r#type)
    }

    /// The time of the last progress of a deployment. Its condition is also updated when the rollout is paused.
    fn progressed(&self) -> Option<Timestamp> {
        let progressing = self.condition("Progressing")?;
        progressing.last_update_time.or(progressing.last_transition_time)
    }

    fn transition(&self, r#type: &str) -> Option<Timestamp> {
        self.condition(r#type)?.last_transition_time
    }
}

impl Progress {
    /// The progress of a deployment, stateful set or daemon set.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object does not have the expected shape.
    pub(crate) fn of(r#type: WorkloadType, workload: &RawValue) -> Result<Self> {
        let (object, timed): (WorkloadObject, Timed) = (parse(workload)?, parse(workload)?);
        let counts = ReplicaCounts::of(r#type, &object.spec, &object.status);
        let status = WorkloadStatus::of(r#type, &object, &counts);
        let [wanted, updated, available] =
            [counts.desired, counts.updated, counts.available].map(|number| number.unwrap_or(0));
        let exceeded = object.status.condition("Progressing").is_some_and(|condition| {
            condition.status == "False" && condition.reason == "ProgressDeadlineExceeded"
        });
        let leftover = status == WorkloadStatus::Stopped && object.status.replicas.unwrap_or(0) > 0;
        let (state, since) = if object.spec.paused == Some(true) {
            (RolloutState::Paused, timed.progressed())
        } else if exceeded {
            (RolloutState::Failed, timed.transition("Progressing"))
        } else if object.status.has_condition("ReplicaFailure", "True") {
            (RolloutState::Stuck, timed.transition("ReplicaFailure"))
        } else if leftover || matches!(status, WorkloadStatus::Progressing | WorkloadStatus::Degraded) {
            (RolloutState::Progressing, timed.progressed())
        } else {
            (RolloutState::Complete, timed.progressed())
        };
        let waiting = waiting(&object.spec.update_strategy, wanted - updated);
        Ok(Self { state, since, updated, available, wanted, waiting })
    }
}

/// The pods that a stateful set or daemon set does not replace by itself. A deployment has no `updateStrategy`.
fn waiting(strategy: &UpdateStrategy, outdated: i64) -> Option<WaitingPods> {
    if outdated <= 0 {
        return None;
    }
    if strategy.r#type.as_deref() == Some("OnDelete") {
        return Some(WaitingPods { r#for: WaitsFor::Deletion, pods: outdated });
    }
    let partition = strategy.rolling_update.partition.unwrap_or(0).min(outdated);
    (partition > 0).then_some(WaitingPods { r#for: WaitsFor::Partition, pods: partition })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn progress(r#type: WorkloadType, object: &Value) -> Progress {
        Progress::of(r#type, &serde_json::value::to_raw_value(object).unwrap()).unwrap()
    }

    /// A deployment of three replicas that is rolled out, with other fields of its status.
    fn deployment(spec: Value, status: Value) -> Value {
        let conditions = json!([{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable",
            "lastUpdateTime": "2026-01-01T00:10:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let mut object = json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": 3},
            "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3,
                "conditions": conditions},
        });
        for (part, more) in [("spec", spec), ("status", status)] {
            object[part].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        object
    }

    #[test]
    fn state_of_a_deployment_follows_from_its_status() {
        use RolloutState as S;
        let progressed = Some("2026-01-01T00:10:00Z".to_owned());
        let exceeded = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
            "lastUpdateTime": "2026-01-01T00:10:00Z", "lastTransitionTime": "2026-01-01T00:20:00Z"}]);
        let refused = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "lastTransitionTime": "2026-01-01T00:30:00Z"}]);
        let at = |minute: &str| Some(format!("2026-01-01T00:{minute}:00Z"));
        for (spec, status, expected) in [
            (json!({}), json!({}), (S::Complete, progressed.clone())),
            (json!({}), json!({"updatedReplicas": 1}), (S::Progressing, progressed.clone())),
            (json!({}), json!({"availableReplicas": 2}), (S::Progressing, progressed.clone())),
            (json!({}), json!({"observedGeneration": 1}), (S::Progressing, progressed.clone())),
            (json!({"replicas": 0}), json!({"replicas": 0}), (S::Complete, progressed.clone())),
            (json!({"replicas": 0}), json!({}), (S::Progressing, progressed.clone())),
            (json!({"paused": true}), json!({"updatedReplicas": 1}), (S::Paused, progressed)),
            (json!({}), json!({"updatedReplicas": 1, "conditions": exceeded}), (S::Failed, at("20"))),
            (json!({}), json!({"updatedReplicas": 1, "conditions": refused}), (S::Stuck, at("30"))),
        ] {
            let object = deployment(spec.clone(), status.clone());
            let Progress { state, since, .. } = progress(WorkloadType::Deployment, &object);
            assert_eq!((state, since.map(|at| at.to_string())), expected, "{spec} {status}");
        }
    }

    #[test]
    fn pods_that_wait_for_a_deletion_or_a_partition_are_counted() {
        let stateful = |strategy: Value| {
            let object = json!({"spec": {"replicas": 4, "updateStrategy": strategy},
                "status": {"replicas": 4, "updatedReplicas": 1, "availableReplicas": 4}});
            let progress = progress(WorkloadType::StatefulSet, &object);
            (progress.state, progress.waiting.map(|waiting| (waiting.r#for, waiting.pods)))
        };
        let partition =
            |partition: i64| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
        assert_eq!(
            stateful(json!({"type": "OnDelete"})),
            (RolloutState::Complete, Some((WaitsFor::Deletion, 3)))
        );
        assert_eq!(stateful(partition(3)), (RolloutState::Complete, Some((WaitsFor::Partition, 3))));
        assert_eq!(stateful(partition(2)), (RolloutState::Progressing, Some((WaitsFor::Partition, 2))));
        assert_eq!(stateful(partition(9)), (RolloutState::Complete, Some((WaitsFor::Partition, 3))));
        assert_eq!(stateful(partition(0)), (RolloutState::Progressing, None));
        let daemon = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}, "status": {"desiredNumberScheduled": 2,
            "updatedNumberScheduled": 2, "numberAvailable": 2}});
        let daemon = progress(WorkloadType::DaemonSet, &daemon);
        assert_eq!((daemon.state, daemon.waiting, daemon.wanted), (RolloutState::Complete, None, 2));
    }
}
