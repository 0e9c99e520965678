//! Kubernetes events: list rows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    level,
    object::{Labels, Metadata, lenient_time, or_default},
    rows::{Cell, Field, Filter, Level, ListRow},
};

/// Fields of an Event (`v1`) that Pilothouse reads: the old fields and those of `events.k8s.io`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
    #[serde(deserialize_with = "or_default")]
    involved_object: EventSubject,
    count: Option<i64>,
    #[serde(deserialize_with = "lenient_time")]
    first_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    last_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    event_time: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    series: Series,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Series {
    count: Option<i64>,
    #[serde(deserialize_with = "lenient_time")]
    last_observed_time: Option<Timestamp>,
}

/// Object that an event refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct EventSubject {
    /// Its kind: `Pod`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// List row of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Normal` or `Warning`.
    pub r#type: String,
    /// Level of the type.
    pub level: Level,
    /// Machine-readable reason.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
    /// The object that it refers to.
    pub object: EventSubject,
    /// Number of occurrences.
    pub count: i64,
    /// Time of the first occurrence.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub first_seen: Option<Timestamp>,
    /// Time of the last occurrence.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_seen: Option<Timestamp>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl EventRow {
    /// Projects an Event. Times and count are derived as in `kubectl get events`.
    pub fn project(object: EventObject) -> Self {
        let created_at = object.metadata.creation_timestamp;
        let first_seen = object.first_timestamp.or(object.event_time).or(created_at);
        Self {
            name: object.metadata.name,
            namespace: object.metadata.namespace.unwrap_or_default(),
            uid: object.metadata.uid,
            level: level::of_event(&object.kind),
            r#type: object.kind,
            reason: object.reason,
            message: object.message,
            object: object.involved_object,
            count: object.series.count.or(object.count).unwrap_or(1),
            first_seen,
            last_seen: object.series.last_observed_time.or(object.last_timestamp).or(first_seen),
            labels: object.metadata.labels,
            created_at,
        }
    }
}

impl ListRow for EventRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered("type", Filter::Any, |row| Cell::text(&*row.r#type)),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::text(&*row.reason)),
        Field::new("message", |row| Cell::text(&*row.message)),
        Field::new("count", |row| Cell::from(row.count)),
        Field::new("first_seen", |row| Cell::from(row.first_seen)),
        Field::new("last_seen", |row| Cell::from(row.last_seen)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::filter_only("object", |row| Cell::text(format!("{}/{}", row.object.kind, row.object.name))),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }

    fn search_terms(&self) -> Vec<&str> {
        vec![&self.object.name, &self.reason]
    }
}
