//! List row of a PersistentVolumeClaim.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Quantities, bytes};
use crate::{
    fault::{FAULT, Fault},
    level,
    object::{Labels, Metadata, or_default},
    rows::{AgingLevel, Cell, Field, Filter, Level, ListRow, NextLevel, has_reason},
};

/// Fields of PersistentVolumeClaim that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClaimObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: ClaimSpec,
    #[serde(deserialize_with = "or_default")]
    status: ClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimSpec {
    volume_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    access_modes: Vec<String>,
    storage_class_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    resources: Requirements,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requirements {
    #[serde(deserialize_with = "or_default")]
    requests: Quantities,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimStatus {
    phase: Option<String>,
    #[serde(deserialize_with = "or_default")]
    capacity: Quantities,
}

/// List row of a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClaimRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Pending`, `Bound` or `Lost`; `Terminating` while it is being deleted, as in kubectl.
    pub status: Option<String>,
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
    /// The volume that it is bound to.
    pub volume: Option<String>,
    /// Requested size, as a Kubernetes quantity.
    pub requested: Option<String>,
    /// Actual capacity, as a Kubernetes quantity.
    pub capacity: Option<String>,
    /// Access modes, such as `ReadWriteOnce`.
    pub access_modes: Vec<String>,
    /// Its storage class.
    pub storage_class: Option<String>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// The change of its level that comes with age.
    #[serde(skip)]
    next_level: Option<NextLevel>,
    /// What is wrong, unless it is as wanted.
    #[serde(skip)]
    fault: Option<Box<Fault>>,
}

impl ClaimRow {
    /// Projects a PersistentVolumeClaim.
    pub fn project(object: ClaimObject) -> Self {
        let ClaimObject { metadata, mut spec, mut status } = object;
        let (created_at, deleted_at) = (metadata.creation_timestamp, metadata.deletion_timestamp);
        let status_text = if deleted_at.is_some() { Some("Terminating".to_owned()) } else { status.phase };
        let AgingLevel { level, next } = level::of_phase(status_text.as_deref(), created_at, deleted_at);
        let fault = has_reason(level).then(|| {
            let has_finalizers = !metadata.finalizers.is_empty();
            Box::new(Fault { since: deleted_at, has_finalizers, ..Fault::default() })
        });
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            status: status_text,
            level,
            reason: None,
            volume: spec.volume_name.filter(|name| !name.is_empty()),
            requested: spec.resources.requests.remove("storage"),
            capacity: status.capacity.remove("storage"),
            access_modes: spec.access_modes,
            storage_class: spec.storage_class_name.filter(|name| !name.is_empty()),
            labels: metadata.labels,
            created_at,
            next_level: next,
            fault,
        }
    }
}

impl ListRow for ClaimRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered(
            "status",
            Filter::OneOf(&["Pending", "Bound", "Lost", "Terminating"]),
            |row: &Self| Cell::from(&row.status),
        )
        .counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
        Field::new("volume", |row| Cell::from(&row.volume)),
        Field::new("requested", |row| bytes(&row.requested)),
        Field::new("capacity", |row| bytes(&row.capacity)),
        Field::filtered("storage_class", Filter::Any, |row| Cell::from(&row.storage_class)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::hidden(FAULT, |row: &Self| Fault::cell(row.fault.as_deref())),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }

    fn next_level(&self) -> Option<NextLevel> {
        self.next_level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn claim_with_deletion_timestamp_is_terminating() {
        let claim = |metadata: Value| {
            let object = json!({"metadata": metadata, "spec": {"resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound"}});
            ClaimRow::project(serde_json::from_value(object).unwrap())
        };
        assert_eq!(claim(json!({})).status.as_deref(), Some("Bound"));
        let deleted = claim(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(
            (deleted.status.as_deref(), deleted.requested.as_deref()),
            (Some("Terminating"), Some("1Gi"))
        );
    }
}
