//! Status of a pod: the value of the STATUS column of `kubectl get pods` (`printPod` in
//! `k8s.io/kubernetes/pkg/printers/internalversion/printers.go`).

use super::object::{ContainerState, ContainerStatus, PodCondition, PodObject, Terminated, Waiting};
use crate::{
    level::{self, PodFacts},
    rows::AgingLevel,
};

/// Status values that kubectl computes for a pod.
pub(super) struct ComputedStatus {
    pub(super) reason: String,
    pub(super) ready: usize,
    pub(super) total: usize,
    pub(super) restarts: i64,
    pub(super) is_ready: bool,
}

impl ComputedStatus {
    pub(super) fn of(pod: &PodObject) -> Self {
        let PodObject { metadata, spec, status } = pod;
        let sidecar = |name: &str| {
            spec.init_containers
                .iter()
                .any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
        };
        let holds = |kind: &str| status.condition(kind).is_some_and(|condition| condition.status == "True");

        let mut this = Self {
            reason: if status.reason.is_empty() { status.phase.clone() } else { status.reason.clone() },
            ready: 0,
            total: spec.containers.len() + spec.init_containers.iter().filter(|c| sidecar(&c.name)).count(),
            restarts: 0,
            is_ready: false,
        };
        if status.condition("PodScheduled").is_some_and(|condition| condition.reason == "SchedulingGated") {
            this.reason = "SchedulingGated".to_owned();
        }

        let mut initializing = false;
        let mut sidecar_restarts = 0;
        for (i, container) in status.init_container_statuses.iter().enumerate() {
            this.restarts += container.restart_count;
            let is_sidecar = sidecar(&container.name);
            if is_sidecar {
                sidecar_restarts += container.restart_count;
            }
            let reason = match &container.state {
                ContainerState { terminated: Some(Terminated { exit_code: 0, .. }), .. } => continue,
                _ if is_sidecar && container.started => {
                    this.ready += usize::from(container.ready);
                    continue;
                }
                ContainerState { terminated: Some(terminated), .. } => terminated.reason_text(),
                ContainerState { waiting: Some(Waiting { reason, .. }), .. }
                    if !reason.is_empty() && reason != "PodInitializing" =>
                {
                    reason.clone()
                }
                _ => format!("{i}/{}", spec.init_containers.len()),
            };
            this.reason = format!("Init:{reason}");
            initializing = true;
            break;
        }

        if !initializing || holds("Initialized") {
            this.restarts = sidecar_restarts;
            let mut running = false;
            for container in status.container_statuses.iter().rev() {
                this.restarts += container.restart_count;
                match &container.state {
                    ContainerState { waiting: Some(Waiting { reason, .. }), .. } if !reason.is_empty() => {
                        this.reason.clone_from(reason);
                    }
                    ContainerState { terminated: Some(terminated), .. } => {
                        this.reason = terminated.reason_text();
                    }
                    ContainerState { running: Some(_), .. } if container.ready => {
                        running = true;
                        this.ready += 1;
                    }
                    _ => {}
                }
            }
            if this.reason == "Completed" && running {
                this.reason = if holds("Ready") { "Running" } else { "NotReady" }.to_owned();
            }
        }

        if metadata.deletion_timestamp.is_some() {
            if status.reason == "NodeLost" {
                this.reason = "Unknown".to_owned();
            } else if !matches!(status.phase.as_str(), "Succeeded" | "Failed") {
                this.reason = "Terminating".to_owned();
            }
        }
        this.is_ready = match status.condition("Ready") {
            Some(ready) => ready.status == "True",
            None => this.ready == this.total,
        };
        this
    }

    /// The level of the pod.
    pub(super) fn level(&self, pod: &PodObject) -> AgingLevel {
        level::of_pod(PodFacts {
            status: &self.reason,
            is_ready: self.is_ready,
            restarts: self.restarts,
            restarted_at: pod.status.restarted_at(),
            created_at: pod.metadata.creation_timestamp,
            deleted_at: pod.metadata.deletion_timestamp,
        })
    }

    /// The cause of the level in the words of Kubernetes. `None` if there is none besides the status.
    pub(super) fn cause(&self, pod: &PodObject) -> Option<String> {
        let status = &pod.status;
        let last_end = |container: &ContainerStatus| {
            container.last_state.terminated.as_ref().map(Terminated::reason_text)
        };
        match self.reason.strip_prefix("Init:").unwrap_or(&self.reason) {
            "CrashLoopBackOff" => {
                let is_in_loop =
                    |container: &&ContainerStatus| container.waiting_reason() == Some("CrashLoopBackOff");
                status.all_containers().find(is_in_loop).and_then(last_end)
            }
            "Pending" => status.condition("PodScheduled").and_then(PodCondition::cause),
            "Unknown" => Some(status.reason.clone()).filter(|reason| !reason.is_empty()),
            "Running" | "NotReady" if self.restarts < level::REPEATED_RESTARTS => {
                status.condition("Ready").and_then(PodCondition::cause)
            }
            "Running" | "NotReady" => {
                let last = status.all_containers().max_by_key(|container| container.restarted_at());
                last.and_then(last_end)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::pod::PodRow;

    fn row(pod: Value) -> PodRow {
        PodRow::project(serde_json::from_value(pod).unwrap())
    }

    fn running(ready: bool) -> Value {
        json!({"name": "a", "ready": ready, "restartCount": 2, "state": {"running": {}}})
    }

    fn waiting(reason: &str) -> Value {
        json!({"name": "a", "restartCount": 5, "state": {"waiting": {"reason": reason}}})
    }

    fn ended(reason: &str, exit_code: i64, signal: i64) -> Value {
        json!({"name": "a", "state": {"terminated": {"reason": reason, "exitCode": exit_code, "signal": signal}}})
    }

    #[test]
    fn cause_is_the_deepest_reason_that_the_pod_has() {
        let one = json!({"containers": [{"name": "a"}]});
        let restarted = |state: Value, restarts: i64| {
            json!({"name": "a", "restartCount": restarts, "state": state, "lastState": {"terminated":
                {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-01T00:00:00Z"}}})
        };
        let looping = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:10Z"}});
        let condition = |kind: &str, status: &str, reason: &str| json!([{"type": kind, "status": status, "reason": reason}]);
        let not_ready = condition("Ready", "False", "ContainersNotReady");
        let cases = [
            ("bad", Some("OOMKilled"), json!({"containerStatuses": [restarted(looping.clone(), 5)]})),
            ("bad", Some("OOMKilled"), json!({"initContainerStatuses": [restarted(looping, 5)]})),
            ("bad", None, json!({"containerStatuses": [waiting("ImagePullBackOff")]})),
            ("bad", None, json!({"reason": "Evicted"})),
            (
                "progress",
                Some("Unschedulable"),
                json!({"phase": "Pending",
                "conditions": condition("PodScheduled", "False", "Unschedulable")}),
            ),
            ("progress", None, json!({"phase": "Pending"})),
            (
                "warn",
                Some("ContainersNotReady"),
                json!({"containerStatuses": [restarted(running.clone(), 1)],
                "conditions": not_ready}),
            ),
            (
                "warn",
                Some("OOMKilled"),
                json!({"containerStatuses": [restarted(running.clone(), 3)],
                "conditions": not_ready}),
            ),
            (
                "warn",
                Some("OOMKilled"),
                json!({"containerStatuses": [restarted(running.clone(), 3)],
                "conditions": condition("Ready", "True", "")}),
            ),
            (
                "ok",
                None,
                json!({"containerStatuses": [restarted(running, 2)], "conditions": condition("Ready", "True", "")}),
            ),
        ];
        for (level, reason, mut status) in cases {
            if status.get("phase").is_none() {
                status["phase"] = "Running".into();
            }
            let pod = row(json!({"spec": one, "status": status}));
            assert_eq!((pod.level.as_str(), pod.reason.as_deref()), (level, reason), "{status}");
        }
    }

    #[test]
    fn repeated_restarts_lose_level_and_reason_with_age() {
        let container = json!({"name": "a", "ready": true, "restartCount": 4, "lastState": {"terminated":
            {"exitCode": 1}}, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
        let pod = row(json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running",
            "containerStatuses": [container]}}));
        assert_eq!((pod.level.as_str(), pod.reason.as_deref()), ("warn", Some("ExitCode:1")));
        let later = pod.at("2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!((later.level.as_str(), later.reason), ("ok", None));
    }

    /// The cases of kubectl's own table test (`TestPrintPod`), with the expected output first.
    #[test]
    fn status_equals_kubectl_output() {
        let one = json!({"containers": [{"name": "a"}]});
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i", "restartPolicy": "Always"}]});
        let deleted_at = "2026-01-01T00:00:00Z";
        let cases = [
            (
                "Running",
                "1/1",
                2,
                json!({"spec": one, "status": {"phase": "Running", "containerStatuses": [running(true)]}}),
            ),
            ("Pending", "0/1", 0, json!({"spec": one, "status": {"phase": "Pending"}})),
            ("Evicted", "0/1", 0, json!({"spec": one, "status": {"phase": "Failed", "reason": "Evicted"}})),
            (
                "CrashLoopBackOff",
                "0/1",
                5,
                json!({"spec": one, "status": {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}}),
            ),
            (
                "OOMKilled",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("OOMKilled", 137, 0)]}}),
            ),
            (
                "ExitCode:3",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("", 3, 0)]}}),
            ),
            (
                "Signal:9",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Failed", "containerStatuses": [ended("", 3, 9)]}}),
            ),
            (
                "Completed",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Succeeded", "containerStatuses": [ended("Completed", 0, 0)]}}),
            ),
            (
                "NotReady",
                "1/2",
                2,
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Running",
                "containerStatuses": [ended("Completed", 0, 0), running(true)]}}),
            ),
            (
                "Running",
                "1/2",
                2,
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [ended("Completed", 0, 0), running(true)]}}),
            ),
            (
                "Init:0/2",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}}),
            ),
            (
                "Init:1/2",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            ),
            (
                "Init:CrashLoopBackOff",
                "0/1",
                5,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [waiting("CrashLoopBackOff")]}}),
            ),
            (
                "Init:ExitCode:1",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [ended("", 1, 0)]}}),
            ),
            (
                "Init:Signal:9",
                "0/1",
                0,
                json!({"spec": init, "status": {"phase": "Pending",
                "initContainerStatuses": [ended("", 1, 9)]}}),
            ),
            (
                "Running",
                "2/2",
                5,
                json!({"spec": sidecar, "status": {"phase": "Running", "containerStatuses": [running(true)],
                "initContainerStatuses": [{"name": "i", "ready": true, "started": true, "restartCount": 3, "state": {"running": {}}}]}}),
            ),
            (
                "SchedulingGated",
                "0/1",
                0,
                json!({"spec": one, "status": {"phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            ),
            (
                "Terminating",
                "1/1",
                2,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Running", "containerStatuses": [running(true)]}}),
            ),
            (
                "Completed",
                "0/1",
                0,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Succeeded", "containerStatuses": [ended("Completed", 0, 0)]}}),
            ),
            (
                "Unknown",
                "1/1",
                2,
                json!({"metadata": {"deletionTimestamp": deleted_at}, "spec": one,
                "status": {"phase": "Running", "reason": "NodeLost", "containerStatuses": [running(true)]}}),
            ),
        ];
        for (status, ready, restarts, pod) in cases {
            let row = row(pod.clone());
            assert_eq!(
                (row.status.as_str(), row.ready.as_str(), row.restarts),
                (status, ready, restarts),
                "{pod}"
            );
        }
    }
}
