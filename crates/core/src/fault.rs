//! Faults: what the row of an object that is not as wanted keeps for the rules of problems, besides its fields. A fault is
//! stored with the row and is no part of its JSON. The row of an object that is as wanted has none.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::rows::{Cell, Row};

/// Name of the field of a row that holds its fault.
pub(crate) const FAULT: &str = "fault";

/// Maximum length of a message, in characters.
const MAX_MESSAGE_CHARS: usize = 512;

/// Facts about an object that is not as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// The container of a pod that causes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether that is an init container.
    #[serde(skip_serializing_if = "is_false")]
    pub is_init: bool,
    /// What Kubernetes says about it, shortened.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Time since which it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Time since which the container runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Whether the pod has ended with a failure.
    #[serde(skip_serializing_if = "is_false")]
    pub has_failed: bool,
    /// Whether finalizers keep the object.
    #[serde(skip_serializing_if = "is_false")]
    pub has_finalizers: bool,
    /// The cron job that controls a job, as `cronjob/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Fault {
    /// Sets the message, shortened.
    pub(crate) fn with_message(self, message: &str) -> Self {
        Self { message: message.chars().take(MAX_MESSAGE_CHARS).collect(), ..self }
    }

    /// The value of the field of a row.
    pub(crate) fn cell(fault: Option<&Self>) -> Cell {
        let json = fault.and_then(|fault| serde_json::to_string(fault).ok());
        json.map_or(Cell::Null, Cell::text)
    }

    /// The fault of a row, whose field has this index.
    pub(crate) fn of(row: &Row, field: usize) -> Option<Self> {
        serde_json::from_str(row.text(field)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_facts_are_stored() {
        let text = |fault: &Fault| match Fault::cell(Some(fault)) {
            Cell::Text(text) => text.into_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&Fault::default()), "{}");
        let fault = Fault { is_init: true, container: Some("app".to_owned()), ..Fault::default() };
        let fault = fault.with_message(&"ä".repeat(600));
        assert_eq!(fault.message.chars().count(), 512);
        assert_eq!(serde_json::from_str::<Fault>(&text(&fault)).unwrap(), fault);
        assert_eq!(Fault::cell(None), Cell::Null);
    }
}
