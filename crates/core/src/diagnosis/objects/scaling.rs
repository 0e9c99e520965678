//! Fields of HorizontalPodAutoscalers and PodDisruptionBudgets.

use serde::Deserialize;

use super::Condition;
use crate::object::{Labels, or_default};

/// Fields of an autoscaler's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes HorizontalPodAutoscalerSpec")]
pub struct AutoscalerSpec {
    #[serde(deserialize_with = "or_default")]
    pub scale_target_ref: ScaleTarget,
    #[serde(deserialize_with = "or_default")]
    pub max_replicas: i64,
}

/// The target of an autoscaler.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes CrossVersionObjectReference")]
pub struct ScaleTarget {
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// Fields of an autoscaler's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes HorizontalPodAutoscalerStatus")]
pub struct AutoscalerStatus {
    #[serde(deserialize_with = "or_default")]
    pub current_replicas: i64,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
}

/// Fields of a PodDisruptionBudget's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodDisruptionBudgetSpec")]
pub struct BudgetSpec {
    #[serde(deserialize_with = "or_default")]
    pub selector: Selector,
}

/// Fields of a PodDisruptionBudget's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes PodDisruptionBudgetStatus")]
pub struct BudgetStatus {
    #[serde(deserialize_with = "or_default")]
    pub disruptions_allowed: i64,
    #[serde(deserialize_with = "or_default")]
    pub current_healthy: i64,
    #[serde(deserialize_with = "or_default")]
    pub desired_healthy: i64,
    #[serde(deserialize_with = "or_default")]
    pub expected_pods: i64,
}

/// A label selector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes LabelSelector")]
pub struct Selector {
    #[serde(deserialize_with = "or_default")]
    pub match_labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub match_expressions: Vec<SelectorTerm>,
}

/// A term of a label selector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes LabelSelectorRequirement")]
pub struct SelectorTerm {
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    #[serde(deserialize_with = "or_default")]
    pub operator: String,
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<String>,
}

impl Selector {
    /// Whether labels match. An empty selector matches all labels, an unknown operator none.
    pub fn matches(&self, labels: &Labels) -> bool {
        let term = |term: &SelectorTerm| {
            let value = labels.get(&term.key);
            let is_listed = value.is_some_and(|value| term.values.contains(value));
            match term.operator.as_str() {
                "In" => is_listed,
                "NotIn" => !is_listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        };
        contains(labels, &self.match_labels) && self.match_expressions.iter().all(term)
    }

    /// The selector in the notation of `kubectl --selector`. `None` if it is empty or has an unknown operator.
    pub fn query(&self) -> Option<String> {
        let term = |SelectorTerm { key, operator, values }: &SelectorTerm| {
            let values = values.join(",");
            Some(match operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.clone(),
                "DoesNotExist" => format!("!{key}"),
                _ => return None,
            })
        };
        let terms = self.match_expressions.iter().map(term).collect::<Option<Vec<_>>>()?;
        let query = [equalities(&self.match_labels), terms].concat().join(",");
        Some(query).filter(|query| !query.is_empty())
    }
}

/// Labels as terms of a selector.
fn equalities(labels: &Labels) -> Vec<String> {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// The selector of a Service, in the notation of `kubectl --selector`. `None` if it is empty.
pub(in crate::diagnosis) fn equality_query(labels: &Labels) -> Option<String> {
    Some(equalities(labels).join(",")).filter(|query| !query.is_empty())
}

/// Whether labels contain all of these.
fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selector_matches_as_in_kubernetes() {
        let labels: Labels =
            [("app", "web"), ("tier", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let term = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (term("tier", "In", &["a", "b"]), true),
            (term("tier", "In", &["b"]), false),
            (term("tier", "NotIn", &["b"]), true),
            (term("zone", "NotIn", &["b"]), true),
            (term("app", "Exists", &[]), true),
            (term("zone", "Exists", &[]), false),
            (term("zone", "DoesNotExist", &[]), true),
            (term("app", "Near", &[]), false),
        ] {
            let parsed: Selector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(parsed.matches(&labels), expected, "{selector}");
        }
    }

    #[test]
    fn selector_is_written_as_for_kubectl() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "zone", "operator": "NotIn", "values": ["c"]},
                {"key": "new", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        });
        let parsed: Selector = serde_json::from_value(selector).unwrap();
        assert_eq!(parsed.query().unwrap(), "app=web,tier in (a,b),zone notin (c),new,!old");
        assert_eq!(Selector::default().query(), None);
        let unknown = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert_eq!(serde_json::from_value::<Selector>(unknown).unwrap().query(), None);
    }
}
