//! Why no node fits a pod.

use crate::diagnosis::Variant;

/// The scheduler's message in the condition `PodScheduled`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// Number of nodes of the cluster.
    pub nodes: u32,
    /// Why they do not fit, as in the message.
    pub obstacles: Vec<Obstacle>,
}

/// Why some nodes do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Number of nodes.
    pub nodes: u32,
    /// The scheduler's text.
    pub text: String,
    /// The variant. `None` for a reason that has none, such as too many pods.
    pub variant: Option<Variant>,
}

impl Unschedulable {
    /// The variant of most nodes. Between as many nodes, taints count least: control plane nodes have them.
    pub fn variant(&self) -> Option<Variant> {
        let weight = |obstacle: &&Obstacle| (obstacle.nodes, obstacle.variant != Some(Variant::Taint));
        // of several equal ones, `max_by_key` takes the last
        self.obstacles.iter().rev().max_by_key(weight).and_then(|obstacle| obstacle.variant)
    }
}

/// Parses a message such as `0/3 nodes are available: 1 node(s) had untolerated taint {a: b}, 2 Insufficient cpu.
/// preemption: …` (`kubernetes/pkg/scheduler/framework/types.go`, `FitError`).
pub fn unschedulable(message: &str) -> Option<Unschedulable> {
    let (counts, rest) = message.split_once(" nodes are available: ")?;
    let nodes = counts.rsplit('/').next()?.parse().ok()?;
    // what follows is about preemption
    let reasons = rest.split_once(". ").map_or(rest, |(reasons, _)| reasons);
    let obstacle = |item: &str| {
        let item = item.trim().trim_end_matches('.');
        let (count, text) = match item.split_once(' ') {
            Some((count, text)) if count.bytes().all(|b| b.is_ascii_digit()) => (count.parse().ok(), text),
            _ => (None, item),
        };
        Obstacle { nodes: count.unwrap_or(nodes), text: text.to_owned(), variant: variant(text) }
    };
    let obstacles: Vec<_> =
        reasons.split(", ").map(obstacle).filter(|obstacle| !obstacle.text.is_empty()).collect();
    Some(Unschedulable { nodes, obstacles })
}

/// The variant of a filter's reason (`kubernetes/pkg/scheduler/framework/plugins`).
fn variant(text: &str) -> Option<Variant> {
    let lower = text.to_lowercase();
    let has = |phrase: &str| lower.contains(phrase);
    if has("volume") || has("free storage") || has("no available disk") {
        Some(Variant::Volume)
    } else if has("taint") || has("were unschedulable") {
        Some(Variant::Taint)
    } else if has("insufficient cpu") {
        Some(Variant::Cpu)
    } else if has("insufficient memory") {
        Some(Variant::Memory)
    } else if has("node affinity/selector") || has("node selector") {
        Some(Variant::Selector)
    } else if has("affinity") || has("topology spread") {
        Some(Variant::Affinity)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_parsed_per_number_of_nodes() {
        let message = "0/3 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, \
                       2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
                       2 No preemption victims found for incoming pod.";
        let parsed = unschedulable(message).unwrap();
        assert_eq!(parsed.nodes, 3);
        let obstacles: Vec<_> = parsed
            .obstacles
            .iter()
            .map(|obstacle| (obstacle.nodes, &*obstacle.text, obstacle.variant))
            .collect();
        let taint = "node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }";
        assert_eq!(
            obstacles,
            [(1, taint, Some(Variant::Taint)), (2, "Insufficient cpu", Some(Variant::Cpu))]
        );
        assert_eq!(parsed.variant(), Some(Variant::Cpu));
    }

    #[test]
    fn variant_is_that_of_most_nodes() {
        use Variant as V;
        for (reasons, expected) in [
            ("1 node(s) didn't match Pod's node affinity/selector.", Some(V::Selector)),
            ("1 node(s) had untolerated taint(s)", Some(V::Taint)),
            ("1 node(s) were unschedulable", Some(V::Taint)),
            ("1 Insufficient memory", Some(V::Memory)),
            ("1 node(s) didn't match pod anti-affinity rules", Some(V::Affinity)),
            ("1 node(s) didn't match pod topology spread constraints", Some(V::Affinity)),
            ("1 node(s) had volume node affinity conflict", Some(V::Volume)),
            ("1 node(s) didn't match PersistentVolume's node affinity", Some(V::Volume)),
            ("1 node(s) did not have enough free storage", Some(V::Volume)),
            ("pod has unbound immediate PersistentVolumeClaims", Some(V::Volume)),
            ("persistentvolumeclaim \"data\" not found", Some(V::Volume)),
            ("1 Insufficient nvidia.com/gpu", None),
            ("1 Too many pods", None),
            ("1 node(s) had untolerated taint {a: b}, 1 Insufficient cpu", Some(V::Cpu)),
            ("2 node(s) had untolerated taint {a: b}, 1 Insufficient cpu", Some(V::Taint)),
            ("1 Insufficient cpu, 1 Insufficient memory", Some(V::Cpu)),
        ] {
            let parsed = unschedulable(&format!("0/3 nodes are available: {reasons}")).unwrap();
            assert_eq!(parsed.variant(), expected, "{reasons}");
        }
        assert_eq!(unschedulable("no nodes available to schedule pods"), None);
        assert_eq!(unschedulable("x nodes are available: 1 Insufficient cpu"), None);
    }
}
