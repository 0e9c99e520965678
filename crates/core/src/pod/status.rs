//! Status of a pod: the value of the STATUS column of `kubectl get pods` (`printPod` in
//! `k8s.io/kubernetes/pkg/printers/internalversion/printers.go`).

use super::object::{ContainerState, PodObject, Terminated, Waiting};

/// Status values that kubectl computes for a pod.
pub(super) struct ComputedStatus {
    pub(super) reason: String,
    pub(super) ready: usize,
    pub(super) total: usize,
    pub(super) restarts: i64,
}

impl ComputedStatus {
    pub(super) fn of(pod: &PodObject) -> Self {
        let PodObject { metadata, spec, status } = pod;
        let sidecar = |name: &str| {
            spec.init_containers
                .iter()
                .any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
        };
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.kind == kind);
        let holds = |kind: &str| condition(kind).is_some_and(|condition| condition.status == "True");

        let mut this = Self {
            reason: if status.reason.is_empty() { status.phase.clone() } else { status.reason.clone() },
            ready: 0,
            total: spec.containers.len() + spec.init_containers.iter().filter(|c| sidecar(&c.name)).count(),
            restarts: 0,
        };
        if condition("PodScheduled").is_some_and(|condition| condition.reason == "SchedulingGated") {
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
                ContainerState { waiting: Some(Waiting { reason }), .. }
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
                    ContainerState { waiting: Some(Waiting { reason }), .. } if !reason.is_empty() => {
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
        this
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
