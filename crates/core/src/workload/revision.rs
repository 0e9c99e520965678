//! Revisions of a workload.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::detail::containers;
use crate::{
    error::Result,
    object::{Metadata, or_default, parse},
};

/// Revision of a workload: its current or a former state; for a cron job, one of its jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revision {
    /// Name of the object that stores it.
    pub name: String,
    /// Revision number; null for a job.
    pub revision: Option<i64>,
    /// The images of its containers.
    pub images: Vec<String>,
    /// Number of replicas that run it; null if the object does not record it.
    pub replicas: Option<i64>,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevisionObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    /// Revision number, in a controller revision.
    revision: Option<i64>,
    /// Spec, in a replica set or job.
    #[serde(deserialize_with = "or_default")]
    spec: Value,
    #[serde(deserialize_with = "or_default")]
    status: Value,
    /// Patch of the workload, in a controller revision.
    #[serde(deserialize_with = "or_default")]
    data: Value,
}

impl Revision {
    /// Projects the object that stores the revision.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object does not have the expected shape.
    pub fn project(object: &RawValue) -> Result<Self> {
        let RevisionObject { metadata, revision, spec, status, data } = parse(object)?;
        let annotated = || metadata.annotations.get("deployment.kubernetes.io/revision")?.parse().ok();
        let pod =
            if data.is_object() { &data["spec"]["template"]["spec"] } else { &spec["template"]["spec"] };
        Ok(Self {
            revision: revision.or_else(annotated),
            images: containers(pod)
                .into_iter()
                .filter(|container| !container.init)
                .map(|c| c.image)
                .collect(),
            replicas: status["replicas"].as_i64(),
            created_at: metadata.creation_timestamp,
            name: metadata.name,
        })
    }
}
