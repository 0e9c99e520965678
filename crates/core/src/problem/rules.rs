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
/// Kinds of workloads that replace a failed pod: one that is left is of the past, and of a job the job's own status says
/// whether it failed.
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
}

impl<'a> Facts<'a> {
    pub(super) fn of(row: &'a Row, fields: &ListFields) -> Self {
        let text = |field: Option<usize>| field.and_then(|field| row.text(field));
        Self {
            row,
            status: text(fields.status).unwrap_or_default(),
            level: fields.level.and_then(|field| row.level(field)).unwrap_or(Level::Warn),
            reason: text(fields.reason),
            fault: fields.fault.and_then(|field| Fault::of(row, field)).unwrap_or_default(),
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

    /// The cause in the words of Kubernetes: the reason, otherwise the status.
    pub(super) fn cause(&self) -> Option<String> {
        Some(self.reason.unwrap_or(self.word())).filter(|word| !word.is_empty()).map(str::to_owned)
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
    Some(match pod.word() {
        "Evicted" => (Rule::Node, Some(Variant::Pressure)),
        "Unknown" => (Rule::StuckTerminating, Some(Variant::NodeGone)),
        "Terminating" => {
            let is_lost = pod.text(fields.node).is_some_and(|node| lost_nodes.contains(node));
            (Rule::StuckTerminating, stuck(fault, is_lost))
        }
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

/// The rule of a pod that is not scheduled, by what the scheduler says.
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
