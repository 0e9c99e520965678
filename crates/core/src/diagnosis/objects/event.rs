//! Fields of events.

use jiff::Timestamp;
use serde::Deserialize;

use crate::object::{lenient_time, or_default};

/// An event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes Event")]
pub struct EventObject {
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(deserialize_with = "or_default")]
    pub involved_object: EventSubject,
    #[serde(deserialize_with = "lenient_time")]
    pub last_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    pub event_time: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub series: EventSeries,
}

/// The object of an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ObjectReference")]
pub struct EventSubject {
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub field_path: String,
}

/// The series of an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes EventSeries")]
pub struct EventSeries {
    #[serde(deserialize_with = "lenient_time")]
    pub last_observed_time: Option<Timestamp>,
}

impl EventObject {
    /// Time of the last occurrence.
    pub fn last_seen(&self) -> Option<Timestamp> {
        self.series.last_observed_time.or(self.last_timestamp).or(self.event_time)
    }

    /// The container that the event is about: `spec.containers{app}`, `spec.initContainers{app}`.
    pub fn container(&self) -> Option<&str> {
        let (_, rest) = self.involved_object.field_path.split_once('{')?;
        rest.strip_suffix('}')
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn event_names_its_container() {
        let event: EventObject =
            serde_json::from_value(json!({"involvedObject": {"fieldPath": "spec.containers{app}"}})).unwrap();
        assert_eq!(event.container(), Some("app"));
        assert_eq!(EventObject::default().container(), None);
    }
}
