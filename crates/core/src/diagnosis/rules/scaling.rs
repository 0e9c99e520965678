//! Rules about autoscalers and PodDisruptionBudgets.

use super::Context;
use crate::{
    diagnosis::{
        Finding, Quote, Rule, Variant,
        objects::{AutoscalerObject, BudgetObject, Condition},
    },
    rows::Level,
};

impl Context<'_> {
    /// The findings of the workload's autoscalers.
    pub(super) fn of_autoscalers(&self) -> impl Iterator<Item = Finding> {
        self.evidence.autoscalers.iter().filter_map(of_autoscaler)
    }

    /// The findings of the budgets that select the workload's pods.
    pub(super) fn of_budgets(&self) -> impl Iterator<Item = Finding> {
        let pods = &self.evidence.pods;
        let selects = move |budget: &&BudgetObject| {
            pods.iter().any(|pod| budget.spec.selector.matches(&pod.metadata.labels))
        };
        self.evidence.budgets.iter().filter(selects).filter_map(of_budget)
    }
}

fn of_autoscaler(autoscaler: &AutoscalerObject) -> Option<Finding> {
    let conditions = &autoscaler.status.conditions;
    let is =
        |kind: &str, status: &str| Condition::find(conditions, kind).filter(|found| found.status == status);
    let limited = is("ScalingLimited", "True").filter(|condition| {
        condition.reason == "TooManyReplicas"
            && autoscaler.status.current_replicas >= autoscaler.spec.max_replicas
    });
    // at 0 replicas, an autoscaler is disabled on purpose
    let inactive = is("ScalingActive", "False").filter(|condition| condition.reason != "ScalingDisabled");
    let unable = is("AbleToScale", "False").filter(|condition| condition.reason.starts_with("Failed"));
    let (condition, variant) = match (inactive, unable, limited) {
        (Some(condition), ..) => (condition, Some(Variant::NoMetrics)),
        (None, Some(condition), _) => (condition, None),
        (None, None, Some(condition)) => (condition, Some(Variant::AtMax)),
        (None, None, None) => return None,
    };
    let finding =
        Finding::new(Rule::Hpa, Level::Warn, autoscaler.metadata.reference("HorizontalPodAutoscaler"));
    let finding = finding.variant(variant).since(condition.last_transition_time);
    let finding =
        finding.fact("autoscaler", &autoscaler.metadata.name).fact("maximum", autoscaler.spec.max_replicas);
    let source = format!("horizontalpodautoscaler/{} {}", autoscaler.metadata.name, condition.kind);
    Some(finding.quotes([Quote::new(source, condition.last_transition_time, &condition.message)]))
}

/// A budget that allows no disruption although all pods are healthy: nothing but a change of it lets a node be drained.
fn of_budget(budget: &BudgetObject) -> Option<Finding> {
    let status = &budget.status;
    let blocks = status.expected_pods > 0
        && status.disruptions_allowed == 0
        && status.current_healthy >= status.expected_pods
        && status.desired_healthy >= status.expected_pods;
    if !blocks {
        return None;
    }
    let finding = Finding::new(Rule::Pdb, Level::Warn, budget.metadata.reference("PodDisruptionBudget"));
    let text = format!(
        "disruptions allowed 0, healthy {} of {}, desired {}",
        status.current_healthy, status.expected_pods, status.desired_healthy
    );
    let source = format!("poddisruptionbudget/{} status", budget.metadata.name);
    Some(finding.fact("budget", &budget.metadata.name).quotes([Quote::new(source, None, &text)]))
}
