//! Rules about nodes, and about pods by their node.

use serde_json::Value;

use super::Context;
use crate::{
    diagnosis::{
        Finding, Quote, Rule, Variant,
        objects::{Condition, ContainerSpec, NodeObject, PodObject},
    },
    kind::Kind,
    quantity,
    rows::Level,
};

/// Conditions of a node that lacks a resource.
const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

impl<'a> Context<'a> {
    /// The findings of the diagnosed node.
    pub(super) fn of_diagnosed_node(&self) -> Vec<Finding> {
        self.evidence.nodes.iter().flat_map(|node| self.of_node(node)).collect()
    }

    fn of_node(&self, node: &NodeObject) -> Vec<Finding> {
        let mut findings: Vec<_> = self.stuck_deletion("Node", &node.metadata, None).into_iter().collect();
        findings.extend(of_unready_node(node));
        let conditions = node.status.conditions.iter();
        let pressures = conditions
            .filter(|condition| PRESSURES.contains(&condition.kind.as_str()) && condition.status == "True");
        findings.extend(pressures.map(|condition| {
            let finding = Finding::new(Rule::Node, Level::Warn, node.metadata.reference("Node"));
            let finding = finding.variant(Variant::Pressure).fact("node", &node.metadata.name);
            finding.since(condition.last_transition_time).quotes([quote(node, condition)])
        }));
        findings
    }

    /// The node of a pod does not answer, so the status of the pod is out of date.
    pub(super) fn lost_node(&self, pod: &PodObject) -> Option<Finding> {
        of_unready_node(self.node(pod.spec.node_name.as_deref()?)?)
    }

    /// Whether a node does not answer, or does not exist.
    pub(super) fn is_node_gone(&self, name: &str) -> bool {
        match self.node(name) {
            Some(node) => of_unready_node(node).is_some(),
            // a node that could not be read may exist
            None => self.evidence.checked.contains(&Kind::Node.info().plural),
        }
    }

    fn node(&self, name: &str) -> Option<&'a NodeObject> {
        self.evidence.nodes.iter().find(|node| node.metadata.name == name)
    }

    /// What the pod requests of a resource, and the node that has most of it. Without what other pods request, which
    /// the nodes' objects do not have.
    pub(super) fn capacity(&self, pod: &PodObject, variant: Option<Variant>) -> Option<Quote> {
        let resource = match variant {
            Some(Variant::Cpu) => "cpu",
            Some(Variant::Memory) => "memory",
            _ => return None,
        };
        let requests = |container: &ContainerSpec| amount(container.resources.requests.get(resource));
        let requested: f64 = pod.spec.containers.iter().filter_map(requests).sum();
        let nodes = self.evidence.nodes.iter();
        let (node, _, text) = nodes
            .filter_map(|node| {
                let allocatable = node.status.allocatable.get(resource);
                Some((node, amount(allocatable)?, allocatable?.as_str()?))
            })
            .max_by(|(_, a, _), (_, b, _)| a.total_cmp(b))?;
        let requested = match resource {
            "cpu" => format!("{requested} cores"),
            _ => format!("{:.0} MiB", requested / 1_048_576.0),
        };
        let text = format!("requests {requested} of {resource}; the largest node has {text} for all pods");
        Some(Quote::new(format!("node/{} status.allocatable", node.metadata.name), None, &text))
    }
}

/// The finding for a node that is not ready.
fn of_unready_node(node: &NodeObject) -> Option<Finding> {
    let conditions = &node.status.conditions;
    let ready = Condition::find(conditions, "Ready").filter(|condition| condition.status != "True");
    let network =
        Condition::find(conditions, "NetworkUnavailable").filter(|condition| condition.status == "True");
    let condition = ready.or(network)?;
    let finding = Finding::new(Rule::Node, Level::Bad, node.metadata.reference("Node"));
    let finding = finding.variant(Variant::NotReady).fact("node", &node.metadata.name);
    Some(finding.since(condition.last_transition_time).quotes([quote(node, condition)]))
}

fn quote(node: &NodeObject, condition: &Condition) -> Quote {
    let source = format!("node/{} {}", node.metadata.name, condition.kind);
    let text = format!("{}: {}", condition.reason, condition.message);
    Quote::new(source, condition.last_transition_time, &text)
}

fn amount(quantity: Option<&Value>) -> Option<f64> {
    quantity.and_then(Value::as_str).and_then(quantity::parse)
}
