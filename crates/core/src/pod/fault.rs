//! Fault of a pod: the container that causes its status, the message of the kubelet or the scheduler, and since when.

use super::object::{ContainerStatus, PodObject};
use crate::fault::Fault;

/// The fault of a pod that is not as wanted and has this status, as kubectl prints it.
pub(super) fn of_pod(pod: &PodObject, status: &str) -> Fault {
    let PodObject { metadata, spec, status: facts } = pod;
    let word = status.strip_prefix("Init:").unwrap_or(status);
    let culprit = culprit(pod, word);
    let last_end = |container: &ContainerStatus| {
        let end = container.state.terminated.as_ref().or(container.last_state.terminated.as_ref());
        end.and_then(|end| end.finished_at)
    };
    let condition_since =
        |kind: &str| facts.condition(kind).and_then(|condition| condition.last_transition_time);
    let waiting = culprit.and_then(|container| container.state.waiting.as_ref());
    let (since, message) = match word {
        "Terminating" | "Unknown" => (metadata.deletion_timestamp, ""),
        "Pending" => {
            let message = facts.condition("PodScheduled").map_or("", |condition| condition.message.as_str());
            (condition_since("PodScheduled"), message)
        }
        "Running" | "NotReady" if facts.condition("Ready").is_some_and(|ready| ready.status != "True") => {
            (condition_since("Ready"), "")
        }
        "CrashLoopBackOff" => (culprit.and_then(last_end), ""),
        _ => match waiting {
            Some(waiting) => (None, waiting.message.as_str()),
            None => (culprit.and_then(last_end), facts.message.as_str()),
        },
    };
    let is_init = culprit.is_some_and(|culprit| {
        let is_sidecar = |name: &str| {
            let mut containers = spec.init_containers.iter().filter(|container| container.name == name);
            containers.any(|container| container.restart_policy.as_deref() == Some("Always"))
        };
        facts.init_container_statuses.iter().any(|init| init.name == culprit.name)
            && !is_sidecar(&culprit.name)
    });
    let fault = Fault {
        container: culprit.map(|container| container.name.clone()),
        is_init,
        since,
        started_at: culprit.and_then(ContainerStatus::started_at),
        has_failed: facts.phase == "Failed",
        has_finalizers: !metadata.finalizers.is_empty(),
        ..Fault::default()
    };
    fault.with_message(message)
}

/// The container that causes a status: the first one that waits or has ended with that word, otherwise one that runs and is
/// not ready, otherwise the one that was restarted last.
fn culprit<'a>(pod: &'a PodObject, word: &str) -> Option<&'a ContainerStatus> {
    let has_ended_so = |container: &ContainerStatus| {
        container.state.terminated.as_ref().is_some_and(|end| end.reason_text() == word)
    };
    let is_unready = |container: &ContainerStatus| container.state.running.is_some() && !container.ready;
    let all = || pod.status.all_containers();
    all()
        .find(|container| container.waiting_reason() == Some(word) || has_ended_so(container))
        .or_else(|| pod.status.container_statuses.iter().find(|container| is_unready(container)))
        .or_else(|| {
            all()
                .filter(|container| container.restart_count > 0)
                .max_by_key(|container| container.restarted_at())
        })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn fault(status: &str, pod: Value) -> Fault {
        of_pod(&serde_json::from_value(pod).unwrap(), status)
    }

    fn at(text: &str) -> Option<Timestamp> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn fault_names_the_container_that_causes_the_status() {
        let created = "2026-01-01T00:00:00Z";
        let ended = json!({"terminated": {"reason": "OOMKilled", "finishedAt": "2026-01-01T01:00:00Z"}});
        let healthy = json!({"name": "a", "ready": true, "state": {"running": {}}});
        let pod = |status: Value| json!({"metadata": {"name": "p", "creationTimestamp": created, "finalizers": ["x/y"]}, "status": status});
        let looping = json!({"name": "b", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff",
            "message": "back-off 10s"}}, "lastState": ended});
        let looped = fault("CrashLoopBackOff", pod(json!({"containerStatuses": [healthy, looping]})));
        assert_eq!(
            looped,
            Fault {
                container: Some("b".to_owned()),
                since: at("2026-01-01T01:00:00Z"),
                has_finalizers: true,
                ..Fault::default()
            }
        );
        let init = fault("Init:CrashLoopBackOff", pod(json!({"initContainerStatuses": [looping]})));
        assert_eq!((init.is_init, init.container.as_deref()), (true, Some("b")));
        let pulling = json!({"name": "b", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}});
        let pulling = fault("ImagePullBackOff", pod(json!({"containerStatuses": [pulling]})));
        assert_eq!((pulling.message.as_str(), pulling.since), ("not found", None), "since its creation");
        let evicted = fault("Evicted", pod(json!({"phase": "Failed", "message": "low on memory"})));
        assert_eq!(
            (evicted.message.as_str(), evicted.has_failed, evicted.container),
            ("low on memory", true, None)
        );
    }

    #[test]
    fn fault_holds_since_the_condition_changed() {
        let condition = |kind: &str, message: &str| json!([{"type": kind, "status": "False", "message": message, "lastTransitionTime": "2026-01-01T02:00:00Z"}]);
        let pending =
            fault("Pending", json!({"status": {"conditions": condition("PodScheduled", "0/1 nodes")}}));
        assert_eq!((pending.message.as_str(), pending.since), ("0/1 nodes", at("2026-01-01T02:00:00Z")));
        let unready = json!({"name": "a", "state": {"running": {"startedAt": "2026-01-01T01:59:00Z"}}});
        let unready =
            json!({"status": {"containerStatuses": [unready], "conditions": condition("Ready", "")}});
        let unready = fault("Running", unready);
        assert_eq!((unready.container.as_deref(), unready.since), (Some("a"), at("2026-01-01T02:00:00Z")));
        assert_eq!(unready.started_at, at("2026-01-01T01:59:00Z"));
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T03:00:00Z"}});
        assert_eq!(fault("Terminating", deleted).since, at("2026-01-01T03:00:00Z"));
    }

    #[test]
    fn sidecar_is_no_init_container() {
        let pod = json!({"spec": {"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}, "status":
            {"initContainerStatuses": [{"name": "proxy", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}});
        let fault = fault("Init:ImagePullBackOff", pod);
        assert_eq!((fault.container.as_deref(), fault.is_init), (Some("proxy"), false));
    }
}
