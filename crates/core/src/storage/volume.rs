//! List row of a PersistentVolume.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Quantities, bytes};
use crate::{
    level,
    object::{Labels, Metadata, or_default},
    rows::{AgingLevel, Cell, Field, Filter, Level, ListRow, NextLevel, has_reason},
};

/// Fields of PersistentVolume that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VolumeObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: VolumeSpec,
    #[serde(deserialize_with = "or_default")]
    status: Phase,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VolumeSpec {
    #[serde(deserialize_with = "or_default")]
    capacity: Quantities,
    #[serde(deserialize_with = "or_default")]
    access_modes: Vec<String>,
    persistent_volume_reclaim_policy: Option<String>,
    storage_class_name: Option<String>,
    claim_ref: Option<ClaimRef>,
    volume_mode: Option<String>,
    /// The other fields. One of them is the volume source.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ClaimRef {
    #[serde(deserialize_with = "or_default")]
    namespace: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: Option<String>,
    reason: Option<String>,
}

/// Keys of a volume's `spec` that hold an object but are not the volume source.
const NON_SOURCE_KEYS: [&str; 1] = ["nodeAffinity"];

/// List row of a PersistentVolume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeRow {
    /// Its name.
    pub name: String,
    /// `Pending`, `Available`, `Bound`, `Released` or `Failed`; `Terminating` while it is being deleted, as in kubectl.
    pub status: Option<String>,
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
    /// Its capacity, as a Kubernetes quantity.
    pub capacity: Option<String>,
    /// Access modes, such as `ReadWriteOnce`.
    pub access_modes: Vec<String>,
    /// `Retain`, `Delete` or `Recycle`.
    pub reclaim_policy: Option<String>,
    /// Its storage class.
    pub storage_class: Option<String>,
    /// The claim that it is bound to: `namespace/name`.
    pub claim: Option<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: Option<String>,
    /// Its volume source: the name of the CSI driver, otherwise the key of the source, such as `hostPath` or `nfs`.
    pub source: Option<String>,
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
}

impl VolumeRow {
    /// Projects a PersistentVolume.
    pub fn project(object: VolumeObject) -> Self {
        let VolumeObject { metadata, mut spec, status } = object;
        let source = spec
            .rest
            .iter()
            .find(|(key, value)| value.is_object() && !NON_SOURCE_KEYS.contains(&key.as_str()));
        let (created_at, deleted_at) = (metadata.creation_timestamp, metadata.deletion_timestamp);
        let status_text = if deleted_at.is_some() { Some("Terminating".to_owned()) } else { status.phase };
        let AgingLevel { level, next } = level::of_phase(status_text.as_deref(), created_at, deleted_at);
        let source = source
            .map(|(key, value)| value["driver"].as_str().filter(|_| key == "csi").unwrap_or(key).to_owned());
        Self {
            name: metadata.name,
            uid: metadata.uid,
            status: status_text,
            level,
            reason: status.reason.filter(|reason| has_reason(level) && !reason.is_empty()),
            capacity: spec.capacity.remove("storage"),
            access_modes: spec.access_modes,
            reclaim_policy: spec.persistent_volume_reclaim_policy,
            storage_class: spec.storage_class_name.filter(|name| !name.is_empty()),
            claim: spec.claim_ref.map(|claim| format!("{}/{}", claim.namespace, claim.name)),
            volume_mode: spec.volume_mode,
            source,
            labels: metadata.labels,
            created_at,
            next_level: next,
        }
    }
}

impl ListRow for VolumeRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered(
            "status",
            Filter::OneOf(&["Pending", "Available", "Bound", "Released", "Failed", "Terminating"]),
            |row: &Self| Cell::from(&row.status),
        )
        .counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
        Field::new("capacity", |row| bytes(&row.capacity)),
        Field::new("reclaim_policy", |row| Cell::from(&row.reclaim_policy)),
        Field::filtered("storage_class", Filter::Any, |row| Cell::from(&row.storage_class)),
        Field::new("claim", |row| Cell::from(&row.claim)),
        Field::new("volume_mode", |row| Cell::from(&row.volume_mode)),
        Field::new("source", |row| Cell::from(&row.source)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }

    fn next_level(&self) -> Option<NextLevel> {
        self.next_level
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{ListQuery, Row, Sort, select};
    use serde_json::json;

    fn volume(spec: Value) -> VolumeRow {
        VolumeRow::project(
            serde_json::from_value(json!({"metadata": {"name": spec["capacity"]["storage"]}, "spec": spec}))
                .unwrap(),
        )
    }

    #[test]
    fn volume_row_contains_source_and_claim() {
        let csi = volume(
            json!({"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "v"}, "nodeAffinity": {"required": {}},
            "claimRef": {"namespace": "shop", "name": "data"}, "storageClassName": ""}),
        );
        assert_eq!(
            (csi.source.as_deref(), csi.claim.as_deref()),
            (Some("ebs.csi.aws.com"), Some("shop/data"))
        );
        assert_eq!(csi.storage_class, None);
        assert_eq!(volume(json!({"hostPath": {"path": "/x"}})).source.as_deref(), Some("hostPath"));
        assert_eq!(volume(json!({})).source, None);
    }

    #[test]
    fn capacities_sort_by_value() {
        let sizes = ["10Gi", "9Gi", "1Ti", "500Mi"];
        let rows = sizes
            .iter()
            .map(|size| Row::of(&volume(json!({"capacity": {"storage": size}}))).unwrap())
            .collect();
        let field = VolumeRow::FIELDS.len() - 7;
        let query = ListQuery { sort: Some(Sort { field, descending: false }), ..ListQuery::default() };
        let sorted: Vec<_> = select(rows, &query).0.iter().map(|row| row.name().to_owned()).collect();
        assert_eq!(sorted, ["500Mi", "9Gi", "10Gi", "1Ti"]);
    }

    #[test]
    fn volume_with_deletion_timestamp_is_terminating() {
        let volume = |metadata: Value| {
            let object = json!({"metadata": metadata, "status": {"phase": "Released"}});
            VolumeRow::project(serde_json::from_value(object).unwrap()).status
        };
        assert_eq!(volume(json!({})).as_deref(), Some("Released"));
        assert_eq!(
            volume(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})).as_deref(),
            Some("Terminating")
        );
    }
}
