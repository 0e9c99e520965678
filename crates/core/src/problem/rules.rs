//! Rules of problems: the rule of a row that is not as wanted, from its status, its reason and its fault. They are those of
//! [`crate::diagnosis`] that need no events and no other objects.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use crate::{
    diagnosis::{
        Rule, Variant,
        parse::{self, Missing, Unschedulable},
    },
    fault::{FAULT, Fault},
    inventory::{LEVEL, List, STATUS},
    level::REPEATED_RESTARTS,
    rows::{Level, Row},
};

/// Reasons of containers that wait for an image.
const IMAGE_REASONS: [&str; 7] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];
/// Reasons of containers whose process could not be started.
const START_REASONS: [&str; 7] = [
    "RunContainerError",
    "CreateContainerError",
    "CreateContainerConfigError",
    "StartError",
    "ContainerCannotRun",
    "PostStartHookError",
    "PreCreateHookError",
];
/// Kinds of workloads that replace a failed pod. A failed pod that is left is no problem; whether a job failed is the job's
/// own status.
const REPLACING: [&str; 5] = ["deployment", "replicaset", "statefulset", "daemonset", "job"];
/// Time that a container has to become ready.
const START_TIME: SignedDuration = SignedDuration::from_secs(60);
/// Time for which repeated restarts are the cause of a pod that is not ready.
const RECENT_RESTART: SignedDuration = SignedDuration::from_hours(1);

/// A rule and its variant.
pub(super) type Cause = (Rule, Option<Variant>);

/// Indices of the fields of a list that the rules read.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListFields {
    status: Option<usize>,
    level: Option<usize>,
    reason: Option<usize>,
    fault: Option<usize>,
    created_at: Option<usize>,
    /// Fields that only some lists have.
    pub(super) restarts: Option<usize>,
    pub(super) node: Option<usize>,
    pub(super) workload: Option<usize>,
    pub(super) r#type: Option<usize>,
    pub(super) replicas: Option<usize>,
    pub(super) available: Option<usize>,
}

impl ListFields {
    fn of(list: List) -> Self {
        let fields = (list.info().fields)();
        let index = |name: &str| fields.iter().position(|field| field.name == name);
        Self {
            status: index(STATUS),
            level: index(LEVEL),
            reason: index("reason"),
            fault: index(FAULT),
            created_at: index("created_at"),
            restarts: index("restarts"),
            node: index("node"),
            workload: index("workload"),
            r#type: index("type"),
            replicas: index("replicas"),
            available: index("available_replicas"),
        }
    }
}

/// Indices of the fields of all lists that are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) pods: ListFields,
    pub(super) workloads: ListFields,
    pub(super) nodes: ListFields,
    pub(super) claims: ListFields,
}

impl Fields {
    pub(super) fn of_lists() -> Self {
        Self {
            pods: ListFields::of(List::Pods),
            workloads: ListFields::of(List::Workloads),
            nodes: ListFields::of(List::Nodes),
            claims: ListFields::of(List::PersistentVolumeClaims),
        }
    }
}

/// What the rules read of a row.
pub(super) struct Facts<'a> {
    pub(super) row: &'a Row,
    pub(super) status: &'a str,
    pub(super) level: Level,
    pub(super) reason: Option<&'a str>,
    pub(super) fault: Fault,
    /// Time since which it holds.
    pub(super) since: Option<Timestamp>,
}

impl<'a> Facts<'a> {
    pub(super) fn of(row: &'a Row, fields: &ListFields) -> Self {
        let text = |field: Option<usize>| field.and_then(|field| row.text(field));
        let created_at = fields.created_at.and_then(|field| row.number(field));
        let created_at = created_at.and_then(|micros| Timestamp::from_microsecond(micros as i64).ok());
        let fault = fields.fault.and_then(|field| Fault::of(row, field)).unwrap_or_default();
        Self {
            row,
            status: text(fields.status).unwrap_or_default(),
            level: fields.level.and_then(|field| row.level(field)).unwrap_or(Level::Warn),
            reason: text(fields.reason),
            since: fault.since.or(created_at),
            fault,
        }
    }

    /// The text of a field.
    pub(super) fn text(&self, field: Option<usize>) -> Option<&'a str> {
        self.row.text(field?)
    }

    /// The whole number of a field.
    pub(super) fn number(&self, field: Option<usize>) -> Option<i64> {
        Some(self.row.number(field?)? as i64)
    }

    /// The status without the mark of init containers.
    fn word(&self) -> &'a str {
        self.status.strip_prefix("Init:").unwrap_or(self.status)
    }

    /// The cause in the words of Kubernetes: the reason, otherwise the status. The statuses of workloads, which are
    /// Pilothouse's own words, begin with a small letter.
    pub(super) fn cause(&self) -> Option<String> {
        let word = self.reason.unwrap_or(self.word());
        word.starts_with(|c: char| c.is_ascii_uppercase()).then(|| word.to_owned())
    }
}

/// The rule of a pod; `None` if it is no problem. `lost_nodes` are the nodes that do not answer.
pub(super) fn of_pod(
    pod: &Facts<'_>,
    fields: &ListFields,
    lost_nodes: &HashSet<&str>,
    now: Timestamp,
) -> Option<Cause> {
    let Facts { fault, reason, .. } = pod;
    let owner = pod.text(fields.workload).and_then(|workload| workload.split_once('/'));
    if fault.has_failed && owner.is_some_and(|(kind, _)| REPLACING.contains(&kind)) {
        return None;
    }
    let is_recent = |age: SignedDuration| fault.started_at.is_some_and(|at| now.duration_since(at) <= age);
    let is_lost = pod.text(fields.node).is_some_and(|node| lost_nodes.contains(node));
    Some(match pod.word() {
        "Evicted" => (Rule::Node, Some(Variant::Pressure)),
        "Unknown" => (Rule::StuckTerminating, Some(Variant::NodeGone)),
        "Terminating" => (Rule::StuckTerminating, stuck(fault, is_lost)),
        // the state of the pod is the last that the node reported
        _ if is_lost => (Rule::Node, Some(Variant::NotReady)),
        "Pending" => of_pending(&fault.message),
        "ContainerCreating" | "PodInitializing" => (Rule::StartError, None),
        word if IMAGE_REASONS.contains(&word) => (Rule::ImagePull, parse::image_pull(word, &fault.message)),
        word if START_REASONS.contains(&word) => match parse::missing(&fault.message) {
            Some(Missing::Secret(_)) => (Rule::MissingSecret, None),
            Some(Missing::ConfigMap(_)) => (Rule::MissingConfigMap, None),
            Some(Missing::Key { .. }) => (Rule::MissingKey, None),
            None => of_end("StartError", fault),
        },
        "Running" | "NotReady" => {
            let restarts = pod.number(fields.restarts).unwrap_or_default();
            if restarts >= REPEATED_RESTARTS && is_recent(RECENT_RESTART) {
                of_end(reason.unwrap_or_default(), fault)
            } else if is_recent(START_TIME) {
                return None;
            } else {
                (Rule::NotReady, None)
            }
        }
        word => of_end(reason.unwrap_or(word), fault),
    })
}

/// The rule of a container that ended for this reason.
fn of_end(reason: &str, fault: &Fault) -> Cause {
    let (rule, variant) = match reason {
        "OOMKilled" => (Rule::Oom, Variant::Oom),
        reason if START_REASONS.contains(&reason) => (Rule::StartError, Variant::StartError),
        _ => (Rule::Crash, Variant::Crash),
    };
    if fault.is_init { (Rule::Init, Some(variant)) } else { (rule, None) }
}

/// The rule of a pod that is not scheduled, by the message of the scheduler.
fn of_pending(message: &str) -> Cause {
    let parsed = parse::unschedulable(message);
    match parsed.as_ref().and_then(Unschedulable::variant) {
        Some(Variant::Volume) if message.to_lowercase().contains("persistentvolumeclaim") => {
            (Rule::Pvc, None)
        }
        variant => (Rule::Unschedulable, variant),
    }
}

/// The variant of a deletion that does not end.
fn stuck(fault: &Fault, is_node_lost: bool) -> Option<Variant> {
    if is_node_lost { Some(Variant::NodeGone) } else { fault.has_finalizers.then_some(Variant::Finalizers) }
}

/// The rule of a workload, by its own status.
pub(super) fn of_workload(workload: &Facts<'_>, fields: &ListFields) -> Cause {
    let refusal = || parse::refusal(&workload.fault.message).map(|refusal| refusal.rule);
    match (workload.text(fields.r#type), workload.reason) {
        (Some("job"), Some("BackoffLimitExceeded")) => (Rule::Job, Some(Variant::BackoffLimit)),
        (Some("job"), Some("DeadlineExceeded")) => (Rule::Job, Some(Variant::Deadline)),
        (Some("job"), _) => (Rule::Job, None),
        _ => (refusal().unwrap_or(Rule::Rollout), None),
    }
}

/// The rule of a cron job; `None` if its next start is not missed.
pub(super) fn of_cron_job(cron_job: &Facts<'_>, now: Timestamp) -> Option<Cause> {
    let is_missed = cron_job.fault.missed_from().is_some_and(|at| at <= now);
    is_missed.then_some((Rule::Cron, Some(Variant::Missed)))
}

/// The rule of a node.
pub(super) fn of_node(node: &Facts<'_>) -> Cause {
    let has_pressure = node.status == "Ready";
    (Rule::Node, Some(if has_pressure { Variant::Pressure } else { Variant::NotReady }))
}

/// The rule of a volume claim.
pub(super) fn of_claim(claim: &Facts<'_>) -> Cause {
    match claim.status {
        "Terminating" => (Rule::StuckTerminating, stuck(&claim.fault, false)),
        "Lost" => (Rule::Pvc, Some(Variant::NoVolume)),
        _ => (Rule::Pvc, None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;
    use crate::kind::Kind;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn rows(list: List, kind: Kind, object: &Value) -> Vec<Row> {
        (list.info().project.unwrap())(kind, &to_raw_value(object).unwrap()).unwrap()
    }

    /// Rule and variant of a pod, as text.
    fn of(pod: &Value) -> String {
        let fields = Fields::of_lists().pods;
        let rows = rows(List::Pods, Kind::Pod, pod);
        let lost_nodes = HashSet::from(["lost"]);
        let cause = of_pod(&Facts::of(&rows[0], &fields), &fields, &lost_nodes, NOW.parse().unwrap());
        text(cause)
    }

    fn text(cause: Option<Cause>) -> String {
        match cause {
            None => "none".to_owned(),
            Some((rule, None)) => rule.to_string(),
            Some((rule, Some(variant))) => format!("{rule}:{variant}"),
        }
    }

    fn pod(status: Value) -> Value {
        json!({"metadata": {"name": "web-1", "namespace": "shop"}, "status": status})
    }

    fn owned(kind: &str, status: Value) -> Value {
        let mut pod = pod(status);
        pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "name": "web", "controller": true}]);
        pod
    }

    fn container(state: Value) -> Value {
        json!({"name": "app", "state": state})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        container(json!({"waiting": {"reason": reason, "message": message}}))
    }

    fn restarted(started_at: &str, reason: &str) -> Value {
        json!({"name": "app", "restartCount": 4, "state": {"running": {"startedAt": started_at}},
            "lastState": {"terminated": {"reason": reason, "exitCode": 1, "finishedAt": started_at}}})
    }

    #[test]
    fn rule_of_a_pod_follows_from_its_row() {
        let app = |container: Value| pod(json!({"phase": "Running", "containerStatuses": [container]}));
        let init = |container: Value| pod(json!({"phase": "Pending", "initContainerStatuses": [container]}));
        let looping = |reason: &str| {
            json!({"name": "app", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"reason": reason, "exitCode": 1}}})
        };
        let condition = |kind: &str, reason: &str, message: &str| json!([{"type": kind, "status": "False", "reason": reason, "message": message}]);
        let pending = |message: &str| {
            pod(
                json!({"phase": "Pending", "conditions": condition("PodScheduled", "Unschedulable", message)}),
            )
        };
        let unready = |container: Value| {
            pod(json!({"phase": "Running", "containerStatuses": [container],
                "conditions": condition("Ready", "ContainersNotReady", "")}))
        };
        let deleted = |node: &str, finalizers: Value| {
            json!({"metadata": {"name": "web-1", "deletionTimestamp": NOW, "finalizers": finalizers},
                "spec": {"nodeName": node}, "status": {"phase": "Running"}})
        };
        let on_lost_node = |status: Value| json!({"metadata": {"name": "web-1"}, "spec": {"nodeName": "lost"}, "status": status});
        let cases = [
            (app(waiting("ImagePullBackOff", "no such host")), "image_pull:unreachable"),
            (app(waiting("InvalidImageName", "couldn't parse image name")), "image_pull:bad_name"),
            (app(waiting("CreateContainerConfigError", "secret \"db\" not found")), "missing_secret"),
            (app(waiting("CreateContainerConfigError", "configmap \"app\" not found")), "missing_configmap"),
            (app(waiting("CreateContainerError", "failed")), "start_error"),
            (init(waiting("CreateContainerError", "failed")), "init:start_error"),
            (app(looping("OOMKilled")), "oom"),
            (app(looping("StartError")), "start_error"),
            (app(looping("Error")), "crash"),
            (init(looping("OOMKilled")), "init:oom"),
            (init(looping("Error")), "init:crash"),
            (app(container(json!({"terminated": {"reason": "Error", "exitCode": 3}}))), "crash"),
            (app(restarted("2026-01-01T11:30:00Z", "OOMKilled")), "oom"),
            (app(restarted("2026-01-01T11:30:00Z", "Error")), "crash"),
            (unready(restarted("2026-01-01T10:30:00Z", "Error")), "not_ready"),
            (unready(container(json!({"running": {"startedAt": "2026-01-01T11:59:30Z"}}))), "none"),
            (unready(container(json!({"running": {"startedAt": "2026-01-01T11:58:00Z"}}))), "not_ready"),
            (pending("0/1 nodes are available: 1 Insufficient memory."), "unschedulable:memory"),
            (pending("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."), "pvc"),
            (pod(json!({"phase": "Pending"})), "unschedulable"),
            (app(waiting("ContainerCreating", "")), "start_error"),
            (pod(json!({"phase": "Failed", "reason": "Evicted"})), "node:pressure"),
            (owned("StatefulSet", json!({"phase": "Failed", "reason": "Evicted"})), "none"),
            (owned("Job", json!({"phase": "Failed"})), "none"),
            (owned("Job", json!({"phase": "Running", "containerStatuses": [looping("Error")]})), "crash"),
            (deleted("a", json!([])), "stuck_terminating"),
            (deleted("a", json!(["x/y"])), "stuck_terminating:finalizers"),
            (deleted("lost", json!(["x/y"])), "stuck_terminating:node_gone"),
            (
                on_lost_node(json!({"phase": "Running", "containerStatuses": [looping("Error")]})),
                "node:not_ready",
            ),
            (on_lost_node(json!({"phase": "Failed", "reason": "Evicted"})), "node:pressure"),
        ];
        for (pod, expected) in cases {
            assert_eq!(of(&pod), expected, "{pod}");
        }
    }

    #[test]
    fn rule_of_a_workload_follows_from_its_condition() {
        let fields = Fields::of_lists().workloads;
        let of = |kind: Kind, condition: Value| {
            let object = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1}, "status": {"conditions": [condition]}});
            let rows = rows(List::Workloads, kind, &object);
            text(Some(of_workload(&Facts::of(&rows[0], &fields), &fields)))
        };
        let failed = |reason: &str| json!({"type": "Failed", "status": "True", "reason": reason});
        let refused = |message: &str| json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message});
        assert_eq!(of(Kind::Job, failed("BackoffLimitExceeded")), "job:backoff_limit");
        assert_eq!(of(Kind::Job, failed("DeadlineExceeded")), "job:deadline");
        assert_eq!(of(Kind::Job, failed("PodFailurePolicy")), "job");
        let quota = "pods \"web-1\" is forbidden: exceeded quota: small, requested: pods=1, used: pods=1, limited: pods=1";
        assert_eq!(of(Kind::Deployment, refused(quota)), "quota");
        assert_eq!(of(Kind::Deployment, refused("something else")), "rollout");
        let deadline =
            json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"});
        assert_eq!(of(Kind::Deployment, deadline), "rollout");
    }

    #[test]
    fn rule_of_nodes_and_claims_follows_from_their_status() {
        let fields = Fields::of_lists();
        let node = |kind: &str, status: &str| {
            let ready = json!({"type": "Ready", "status": if kind == "Ready" { status } else { "True" }});
            let conditions = json!([ready, {"type": kind, "status": status}]);
            let rows = rows(
                List::Nodes,
                Kind::Node,
                &json!({"metadata": {"name": "a"}, "status": {"conditions": conditions}}),
            );
            text(Some(of_node(&Facts::of(&rows[0], &fields.nodes))))
        };
        assert_eq!([node("Ready", "False"), node("Ready", "Unknown")], ["node:not_ready", "node:not_ready"]);
        assert_eq!(node("MemoryPressure", "True"), "node:pressure");
        let claim = |metadata: Value, phase: &str| {
            let claim = json!({"metadata": metadata, "status": {"phase": phase}});
            let rows = rows(List::PersistentVolumeClaims, Kind::PersistentVolumeClaim, &claim);
            text(Some(of_claim(&Facts::of(&rows[0], &fields.claims))))
        };
        assert_eq!(claim(json!({"name": "a"}), "Pending"), "pvc");
        assert_eq!(claim(json!({"name": "a"}), "Lost"), "pvc:no_volume");
        let deleted =
            json!({"name": "a", "deletionTimestamp": NOW, "finalizers": ["kubernetes.io/pvc-protection"]});
        assert_eq!(claim(deleted, "Bound"), "stuck_terminating:finalizers");
    }
}
