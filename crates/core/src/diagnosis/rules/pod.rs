//! Rules about a pod.

use super::{Context, container::Container};
use crate::{
    diagnosis::{
        Finding, Quote, Rule, Variant,
        objects::{Condition, PodObject},
        parse::{self, Missing, Probe, failed_probe},
    },
    kind::Kind,
    rows::Level,
};

/// A rule about a container.
type ContainerRule<'a> = fn(&Context<'a>, &Container<'a>) -> Option<Finding>;

impl<'a> Context<'a> {
    /// The findings of the pods.
    pub(super) fn of_pods(&self) -> Vec<Finding> {
        self.evidence.pods.iter().filter_map(|pod| self.of_pod(pod)).collect()
    }

    /// The first rule that applies to a pod.
    pub(super) fn of_pod(&self, pod: &'a PodObject) -> Option<Finding> {
        if pod.metadata.deletion_timestamp.is_some() {
            return self.stuck_deletion("Pod", &pod.metadata, pod.spec.node_name.as_deref());
        }
        let phase = pod.status.phase.as_str();
        if phase == "Succeeded" || (phase == "Failed" && self.replaces_pods()) {
            return None;
        }
        let containers = Container::all(pod);
        let of_containers: [ContainerRule<'a>; 7] = [
            Self::image_pull,
            Self::missing,
            Self::oom,
            Self::liveness,
            Self::startup,
            Self::start_error,
            Self::crash,
        ];
        let of_containers = || {
            of_containers
                .iter()
                .find_map(|rule| containers.iter().find_map(|container| rule(self, container)))
        };
        self.lost_node(pod)
            .or_else(|| self.evicted(pod))
            .or_else(of_containers)
            .or_else(|| self.missing_mount(pod))
            .or_else(|| self.unscheduled(pod))
            .or_else(|| self.detached(pod))
            .or_else(|| self.no_sandbox(pod))
            .or_else(|| self.not_ready(pod, &containers))
    }

    /// Whether the diagnosed workload replaces failed pods, so that one that is left is of the past.
    fn replaces_pods(&self) -> bool {
        matches!(self.evidence.kind.kind(), Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet)
    }

    fn evicted(&self, pod: &'a PodObject) -> Option<Finding> {
        let status = &pod.status;
        if status.phase != "Failed" || status.reason != "Evicted" {
            return None;
        }
        let finding = Finding::new(Rule::Node, Level::Bad, pod.metadata.reference("Pod"));
        let source = format!("pod/{} status", pod.metadata.name);
        let node = pod.spec.node_name.as_deref().unwrap_or_default();
        let finding = finding.variant(Variant::Pressure).fact("node", node);
        Some(finding.quotes([Quote::new(source, None, &status.message)]))
    }

    /// A Secret, ConfigMap or key of a volume that does not exist. The pod itself only waits in `ContainerCreating`.
    fn missing_mount(&self, pod: &'a PodObject) -> Option<Finding> {
        if pod.status.phase != "Pending" {
            return None;
        }
        let is_mount = |reason: &str| reason == "FailedMount";
        let event = self.newest_event(&pod.metadata, |event| is_mount(&event.reason))?;
        let missing = parse::missing(&event.message)?;
        let finding = self.of_missing(pod, missing).since(pod.metadata.creation_timestamp);
        let source = format!("event pod/{}", pod.metadata.name);
        Some(finding.quotes([Quote::new(source, event.last_seen(), &event.message)]))
    }

    /// The finding for what is missing.
    pub(super) fn of_missing(&self, pod: &PodObject, missing: Missing) -> Finding {
        let of = |rule| Finding::new(rule, Level::Bad, pod.metadata.reference("Pod"));
        match missing {
            Missing::Secret(name) => of(Rule::MissingSecret).fact("secret", name),
            Missing::ConfigMap(name) => of(Rule::MissingConfigMap).fact("configmap", name),
            Missing::Key { key, kind, name } => {
                let holder = if name.is_empty() { String::new() } else { format!("{kind} {name}") };
                of(Rule::MissingKey).fact("key", key).fact("holder", holder).fact(kind, name)
            }
        }
    }

    /// No node fits the pod, or a claim of it is not bound.
    fn unscheduled(&self, pod: &'a PodObject) -> Option<Finding> {
        let condition = Condition::find(&pod.status.conditions, "PodScheduled")?;
        if condition.status != "False" || condition.reason != "Unschedulable" {
            return None;
        }
        let parsed = parse::unschedulable(&condition.message);
        let variant = parsed.as_ref().and_then(parse::Unschedulable::variant);
        let at = condition.last_transition_time;
        let quote = Quote::new(format!("pod/{} PodScheduled", pod.metadata.name), at, &condition.message);
        if variant == Some(Variant::Volume)
            && let Some(finding) = self.unbound(pod, &condition.message)
        {
            return Some(finding.since(at).quotes([quote]));
        }
        // the scheduler has one text for node selectors and node affinity
        let has_selector = pod.spec.affinity.is_none() || !pod.spec.node_selector.is_empty();
        let variant = match variant {
            Some(Variant::Selector) if !has_selector => Some(Variant::Affinity),
            variant => variant,
        };
        let nodes = parsed.map(|parsed| parsed.nodes.to_string()).unwrap_or_default();
        let finding = Finding::new(Rule::Unschedulable, Level::Warn, pod.metadata.reference("Pod"));
        let finding = finding.variant(variant).since(at).fact("nodes", nodes).quotes([quote]);
        Some(finding.quotes(self.capacity(pod, variant)))
    }

    /// A volume cannot be attached or mounted.
    fn detached(&self, pod: &'a PodObject) -> Option<Finding> {
        if pod.status.phase != "Pending" {
            return None;
        }
        let event =
            self.newest_event(&pod.metadata, |event| parse::attach_trouble(&event.reason, &event.message))?;
        let finding = Finding::new(Rule::Pvc, Level::Bad, pod.metadata.reference("Pod"));
        let node = pod.spec.node_name.as_deref().unwrap_or_default();
        let claims = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
        let claims: Vec<_> = claims.map(|claim| claim.claim_name.as_str()).collect();
        let finding = finding.variant(Variant::Attach).since(pod.metadata.creation_timestamp);
        let finding = finding.fact("node", node).fact("claim", claims.join(", "));
        let source = format!("event pod/{}", pod.metadata.name);
        Some(finding.quotes([Quote::new(source, event.last_seen(), &event.message)]))
    }

    /// The sandbox of the pod cannot be made: the network plugin or the container runtime refuses.
    fn no_sandbox(&self, pod: &'a PodObject) -> Option<Finding> {
        if pod.status.phase != "Pending" {
            return None;
        }
        let event = self.newest_event(&pod.metadata, |event| event.reason == "FailedCreatePodSandBox")?;
        let finding = Finding::new(Rule::StartError, Level::Bad, pod.metadata.reference("Pod"));
        let node = pod.spec.node_name.as_deref().unwrap_or_default();
        let source = format!("event pod/{}", pod.metadata.name);
        let quote = Quote::new(source, event.last_seen(), &event.message);
        Some(finding.since(pod.metadata.creation_timestamp).fact("node", node).quotes([quote]))
    }

    /// The pod runs, and a container or a readiness gate is not ready.
    fn not_ready(&self, pod: &'a PodObject, containers: &[Container<'a>]) -> Option<Finding> {
        let condition = Condition::find(&pod.status.conditions, "Ready")?;
        if pod.status.phase != "Running" || condition.status != "False" {
            return None;
        }
        let since = condition.last_transition_time;
        let finding = Finding::new(Rule::NotReady, Level::Warn, pod.metadata.reference("Pod")).since(since);
        let source = format!("pod/{} Ready", pod.metadata.name);
        if condition.reason == "ReadinessGatesNotReady" {
            return Some(finding.quotes([Quote::new(source, since, &condition.message)]));
        }
        let is_readiness =
            |reason: &str, message: &str| failed_probe(reason, message) == Some(Probe::Readiness);
        let event = self.newest_event(&pod.metadata, |event| is_readiness(&event.reason, &event.message));
        let container = containers.iter().find(|container| container.is_running_and_not_ready())?;
        // a container that has just started is given time, unless its probe already failed
        if event.is_none() && self.is_within(container.started_at(), super::container::START_TIME) {
            return None;
        }
        let finding = finding.fact("container", container.name());
        let quote = match event {
            Some(event) => {
                Quote::new(format!("event pod/{}", pod.metadata.name), event.last_seen(), &event.message)
            }
            None => Quote::new(source, since, &condition.message),
        };
        Some(finding.quotes([quote]))
    }
}
