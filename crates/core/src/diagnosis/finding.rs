//! Findings: a rule that applies, the object that it applies to, quoted evidence, and next steps.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::{Quote, Rule, Step, Variant};
use crate::rows::Level;

/// Names and values for the placeholders of a finding's texts: `container`, `image`, `limit`.
pub type Facts = BTreeMap<&'static str, String>;

/// A Kubernetes object that a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObjectRef {
    /// Its kind: `Pod`.
    pub kind: String,
    /// Its namespace; null for a kind without namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Creates a reference to an object in a namespace.
    pub fn new(kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.map(ToOwned::to_owned), name: name.to_owned() }
    }
}

/// A rule that applies. The texts of a finding are written by the HTTP layer, in the caller's language, from the rule,
/// the variant and the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What kind of the rule it is, if that is known.
    pub variant: Option<Variant>,
    /// How severe it is.
    pub severity: Level,
    /// The object that it is about. Of several pods with the same finding, one.
    pub object: ObjectRef,
    /// Number of objects with the same finding, at least 1.
    pub count: u32,
    /// Time since which it holds, if that is known.
    pub since: Option<Timestamp>,
    /// Time at which it ended. `None` while it holds.
    pub until: Option<Timestamp>,
    /// Names and values for the placeholders of its texts.
    pub facts: Facts,
    /// What it was concluded from, quoted: at most [`Finding::MAX_EVIDENCE`].
    pub evidence: Vec<Quote>,
    /// What to do next, in this order.
    pub steps: Vec<Step>,
    /// The log whose last lines belong to the evidence, if the finding has no better text.
    pub(super) log: Option<LogSource>,
}

/// A container's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogSource {
    /// The pod.
    pub(super) pod: String,
    /// The container.
    pub(super) container: String,
    /// Whether it is the log of the run before the current one.
    pub(super) previous: bool,
}

impl Finding {
    /// Maximum number of quotes in a finding.
    pub const MAX_EVIDENCE: usize = 8;

    /// Creates a finding without evidence and steps, about one object.
    pub(crate) fn new(rule: Rule, severity: Level, object: ObjectRef) -> Self {
        Self {
            rule,
            variant: None,
            severity,
            object,
            count: 1,
            since: None,
            until: None,
            facts: Facts::new(),
            evidence: Vec::new(),
            steps: Vec::new(),
            log: None,
        }
    }

    /// Sets the variant.
    #[must_use]
    pub(super) fn variant(self, variant: impl Into<Option<Variant>>) -> Self {
        Self { variant: variant.into(), ..self }
    }

    /// Sets the time since which it holds.
    #[must_use]
    pub(super) fn since(self, since: Option<Timestamp>) -> Self {
        Self { since, ..self }
    }

    /// Marks the finding as over. It is then a warning.
    #[must_use]
    pub(super) fn until(self, until: Option<Timestamp>) -> Self {
        let severity = if until.is_some() { self.severity.min(Level::Warn) } else { self.severity };
        Self { until, severity, ..self }
    }

    /// Adds a fact, unless its value is empty.
    #[must_use]
    pub(super) fn fact(mut self, name: &'static str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.facts.insert(name, value);
        }
        self
    }

    /// Adds quotes, except empty ones and those that it has.
    #[must_use]
    pub(super) fn quotes(mut self, quotes: impl IntoIterator<Item = Quote>) -> Self {
        for quote in quotes {
            let is_known = self.evidence.iter().any(|known| known.text == quote.text);
            if self.evidence.len() < Self::MAX_EVIDENCE && !quote.text.is_empty() && !is_known {
                self.evidence.push(quote);
            }
        }
        self
    }

    /// Whether another finding is the same for the reader: the same rule, variant and container.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let key = |finding: &Self| (finding.rule, finding.variant, finding.until.is_some());
        key(self) == key(other) && self.facts.get("container") == other.facts.get("container")
    }
}
