//! Findings in responses: their texts are written in the caller's language from rule, variant and facts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pilothouse_core::{
    diagnosis::{Finding, ObjectRef, Quote, Rule, Step, SuggestedCall, Variant},
    ids::ClusterId,
    rows::Level,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::messages::Catalog;

/// A cause of a fault.
#[derive(Serialize, ToSchema)]
pub(crate) struct FindingBody {
    /// The rule that applies.
    rule: Rule,
    /// What kind of the rule it is; null if that is not known or the rule has no kinds.
    variant: Option<Variant>,
    /// How severe it is.
    severity: Level,
    /// The object that it is about. Of several pods with the same finding, one.
    object: ObjectRef,
    /// Number of objects with the same finding.
    #[schema(minimum = 1)]
    count: u32,
    /// Time since which it holds.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Time at which it ended; null while it holds.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// What is wrong.
    text: String,
    /// What it was concluded from, quoted. Credentials are masked.
    evidence: Vec<Quote>,
    /// What to do, in this order.
    steps: Vec<StepBody>,
}

/// What to do about a finding.
#[derive(Serialize, ToSchema)]
pub(crate) struct StepBody {
    /// What to do.
    text: String,
    /// The request that does it; null if none does.
    call: Option<CallBody>,
}

/// A request to this API.
#[derive(Serialize, ToSchema)]
pub(crate) struct CallBody {
    /// `GET` or `POST`.
    method: &'static str,
    /// The path.
    path: &'static str,
    /// The query parameters, or the fields of the body, that are known.
    #[schema(value_type = Object)]
    params: BTreeMap<&'static str, Value>,
}

impl FindingBody {
    /// Writes a finding about an object of a cluster in the language of a catalog.
    pub(crate) fn of(finding: Finding, cluster: ClusterId, catalog: &Catalog) -> Self {
        let text = catalog.finding(&finding);
        let step = |step: &Step| StepBody::of(step, &finding, cluster, catalog);
        let steps = finding.steps.iter().map(step).collect();
        let Finding { rule, variant, severity, object, count, since, until, evidence, .. } = finding;
        Self { rule, variant, severity, object, count, since, until, text, evidence, steps }
    }
}

impl StepBody {
    fn of(step: &Step, finding: &Finding, cluster: ClusterId, catalog: &Catalog) -> Self {
        let call = step.call.clone().map(|SuggestedCall { method, path, params }| {
            let params = params.into_iter().map(|(name, value)| (name, Value::from(value)));
            let mut params: BTreeMap<_, _> = params.collect();
            // a number in a body, a text in a query
            let id: Value = if method == "POST" { cluster.0.into() } else { cluster.to_string().into() };
            params.insert("cluster_id", id);
            CallBody { method, path, params }
        });
        Self { text: catalog.step(step.action, finding), call }
    }
}
