//! The rules: pure functions over [`Evidence`]. Of each pod, the first rule that applies is its finding; equal findings of
//! several pods are one.
//!
//! What lies at the root comes first: a node that does not answer before the pods on it, a refused pod before the rollout
//! that waits for it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    Action, Evidence, Finding, Quote, Rule, Step, SuggestedCall, Variant,
    objects::{EventObject, ObjectMetadata},
    step::actions,
};
use crate::{kind::Kind, rows::Level};

mod claim;
mod container;
mod network;
mod node;
mod pod;
mod scaling;
mod workload;

/// Time after which a fault that has ended is no finding any more. Kubernetes deletes events after the same time.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);
/// Time for which a container must run before its earlier failures count as over. The kubelet resets its back-off after
/// the same time.
const SETTLED: SignedDuration = SignedDuration::from_mins(10);
/// Restarts from which a container that runs again is still taken for one that fails.
const MANY_RESTARTS: i64 = 3;
/// Time after which a deletion is stuck, from the time at which it was to be complete.
const DELETION_MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// Examines the evidence at a time. Findings that hold come first, the worst before the others, then those that are over.
pub fn examine(evidence: &Evidence, now: Timestamp) -> Vec<Finding> {
    let context = Context { evidence, now };
    let found = match evidence.kind.kind() {
        Kind::Node => context.of_diagnosed_node(),
        Kind::PersistentVolumeClaim => context.of_diagnosed_claim(),
        Kind::Service => context.of_diagnosed_service(),
        Kind::Ingress => context.of_diagnosed_ingress(),
        Kind::Pod => context.of_pods(),
        _ => context.of_workload(),
    };
    let mut findings = Vec::<Finding>::new();
    for finding in found {
        match findings.iter_mut().find(|known| known.is_like(&finding)) {
            Some(known) => known.merge(finding),
            None => findings.push(finding),
        }
    }
    findings
        .sort_by_key(|finding| (finding.until.is_some(), std::cmp::Reverse(finding.severity), finding.rule));
    for finding in &mut findings {
        finding.steps = context.steps(finding);
    }
    findings
}

/// The evidence, and the time at which it is examined.
struct Context<'a> {
    evidence: &'a Evidence,
    now: Timestamp,
}

impl<'a> Context<'a> {
    /// Whether a time lies at most `age` ago. Unknown times do not.
    fn is_within(&self, time: Option<Timestamp>, age: SignedDuration) -> bool {
        time.is_some_and(|time| self.now.duration_since(time) <= age)
    }

    /// The newest event about an object that matches.
    fn newest_event(
        &self,
        object: &'a ObjectMetadata,
        matches: impl Fn(&EventObject) -> bool,
    ) -> Option<&'a EventObject> {
        let events = self.evidence.events_of(object).filter(|event| matches(event));
        events.max_by_key(|event| event.last_seen())
    }

    /// A deletion that does not end. `node` is the node of a pod.
    fn stuck_deletion(&self, kind: &str, object: &ObjectMetadata, node: Option<&str>) -> Option<Finding> {
        let deleted = object.deletion_timestamp?;
        if self.now.duration_since(deleted) <= DELETION_MARGIN {
            return None;
        }
        let is_gone = node.is_some_and(|node| self.is_node_gone(node));
        let has_finalizers = !object.finalizers.is_empty();
        let variant =
            if is_gone { Some(Variant::NodeGone) } else { has_finalizers.then_some(Variant::Finalizers) };
        let finding = Finding::new(Rule::StuckTerminating, Level::Warn, object.reference(kind));
        let finding = finding.variant(variant).since(Some(deleted)).fact("node", node.unwrap_or_default());
        let finalizers = object.finalizers.join(", ");
        let text = format!("deletionTimestamp {deleted}, finalizers [{finalizers}]");
        let source = format!("{}/{} metadata", kind.to_lowercase(), object.name);
        Some(finding.fact("finalizers", finalizers).quotes([Quote::new(source, Some(deleted), &text)]))
    }

    /// The steps of a finding, with the calls that Pilothouse offers for them.
    fn steps(&self, finding: &Finding) -> Vec<Step> {
        let actions = actions(finding.rule, finding.variant).iter();
        actions.filter_map(|&action| self.step(action, finding)).collect()
    }

    /// A step; `None` if it is not possible for the diagnosed object.
    fn step(&self, action: Action, finding: &Finding) -> Option<Step> {
        let (kind, object) = (self.evidence.kind, &finding.object);
        let namespace = object.namespace.clone();
        let fact = |name: &'static str| finding.facts.get(name).cloned();
        let call = |method, path, params: Vec<(&'static str, Option<String>)>| {
            let params = [vec![("namespace", namespace.clone())], params].concat();
            let params = params.into_iter().filter_map(|(name, value)| Some((name, value?)));
            Some(SuggestedCall { method, path, params: BTreeMap::from_iter(params) })
        };
        let rolls_out = matches!(kind.kind(), Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet);
        let workload = || {
            let name = self.evidence.object.name.clone();
            vec![("type", Some(kind.as_str().to_owned())), ("name", Some(name))]
        };
        let log = |previous: bool| {
            let previous = previous.then(|| "true".to_owned());
            vec![
                ("pod_name", Some(object.name.clone())),
                ("container", fact("container")),
                ("previous", previous),
            ]
        };
        let call = match action {
            Action::UndoRollout if !rolls_out => return None,
            Action::UndoRollout => call("POST", "/api/k8s/workloads/undo", workload()),
            Action::CheckImage if rolls_out => call("POST", "/api/k8s/workloads/set-image", workload()),
            Action::ReadPreviousLog if object.kind == "Pod" => call("GET", "/api/k8s/pods/logs", log(true)),
            Action::ReadLog if object.kind == "Pod" => call("GET", "/api/k8s/pods/logs", log(false)),
            Action::CreateSecret => call("POST", "/api/k8s/secrets", vec![("name", fact("secret"))]),
            Action::CreateConfigMap => call("POST", "/api/k8s/configmaps", vec![("name", fact("configmap"))]),
            Action::AddKey if finding.facts.contains_key("secret") => {
                call("POST", "/api/k8s/secrets/update", vec![("name", fact("secret"))])
            }
            Action::AddKey if finding.facts.contains_key("configmap") => {
                call("POST", "/api/k8s/configmaps/update", vec![("name", fact("configmap"))])
            }
            Action::RerunJob => {
                call("POST", "/api/k8s/jobs/rerun", vec![("name", Some(object.name.clone()))])
            }
            Action::CheckNode => fact("node").filter(|_| object.kind != "Node").map(|node| {
                let params = [("type", "node".to_owned()), ("name", node)].into();
                SuggestedCall { method: "GET", path: "/api/k8s/diagnose", params }
            }),
            Action::ReadEvents => {
                let about = format!("{}/{}", object.kind, object.name);
                call("GET", "/api/k8s/events", vec![("object", Some(about))])
            }
            _ => None,
        };
        Some(Step { action, call })
    }
}

impl Finding {
    /// Adds an equal finding of another object.
    fn merge(&mut self, other: Self) {
        let Self { severity, count, since, until, evidence, .. } = other;
        self.count = self.count.saturating_add(count);
        self.severity = self.severity.max(severity);
        self.since = self.since.into_iter().chain(since).min();
        self.until = self.until.into_iter().chain(until).max();
        for quote in evidence {
            let is_known = self.evidence.iter().any(|known| known.text == quote.text);
            if !is_known && self.evidence.len() < Self::MAX_EVIDENCE {
                self.evidence.push(quote);
            }
        }
    }
}
