//! List row of a StorageClass.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, ListRow},
};

/// Fields of StorageClass that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StorageClassObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    provisioner: Option<String>,
    reclaim_policy: Option<String>,
    volume_binding_mode: Option<String>,
    #[serde(deserialize_with = "or_default")]
    allow_volume_expansion: bool,
}

/// List row of a StorageClass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StorageClassRow {
    /// Its name.
    pub name: String,
    /// The provisioner of its volumes.
    pub provisioner: Option<String>,
    /// Reclaim policy of its volumes after their claim is deleted.
    pub reclaim_policy: Option<String>,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub volume_binding_mode: Option<String>,
    /// Whether claims may be expanded.
    pub allow_volume_expansion: bool,
    /// Whether it is the default for claims without a storage class.
    pub is_default: bool,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

/// Annotations of the default class, current and beta. kubectl honours both.
const DEFAULT_CLASS_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

impl StorageClassRow {
    /// Projects a StorageClass.
    pub fn project(object: StorageClassObject) -> Self {
        let annotations = &object.metadata.annotations;
        let is_default = DEFAULT_CLASS_ANNOTATIONS
            .iter()
            .any(|key| annotations.get(*key).is_some_and(|value| value == "true"));
        Self {
            name: object.metadata.name,
            uid: object.metadata.uid,
            provisioner: object.provisioner,
            reclaim_policy: object.reclaim_policy,
            volume_binding_mode: object.volume_binding_mode,
            allow_volume_expansion: object.allow_volume_expansion,
            is_default,
            labels: object.metadata.labels,
            created_at: object.metadata.creation_timestamp,
        }
    }
}

impl ListRow for StorageClassRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::new("provisioner", |row| Cell::from(&row.provisioner)),
        Field::new("reclaim_policy", |row| Cell::from(&row.reclaim_policy)),
        Field::new("volume_binding_mode", |row| Cell::from(&row.volume_binding_mode)),
        Field::new("allow_volume_expansion", |row| Cell::from(row.allow_volume_expansion)),
        Field::new("is_default", |row| Cell::from(row.is_default)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}
