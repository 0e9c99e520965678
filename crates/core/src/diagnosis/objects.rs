//! Fields of Kubernetes objects that the rules examine. Lenient, as all projections: what is missing, null or malformed
//! is the default, and the rule that needs it does not apply.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::ObjectRef;
use crate::object::{Labels, lenient_time, or_default};

mod event;
mod network;
mod pod;
mod scaling;

pub use event::{EventObject, EventSeries, EventSubject};
pub use network::{
    Backend, BackendPort, BackendService, Endpoint, EndpointConditions, IngressPath, IngressPaths,
    IngressRule, IngressSpec, ServicePort, ServiceSpec, SliceObject,
};
pub use pod::{
    ClaimSource, ContainerPort, ContainerSpec, ContainerState, ContainerStatus, EnvironmentVariable, Named,
    PodSpec, PodStatus, Resources, Running, Terminated, Volume, Waiting,
};
pub use scaling::{
    AutoscalerSpec, AutoscalerStatus, BudgetSpec, BudgetStatus, ScaleTarget, Selector, SelectorTerm,
};

pub(in crate::diagnosis) use scaling::equality_query;

/// An object with metadata, spec and status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, bound(deserialize = "Spec: Deserialize<'de> + Default, Status: Deserialize<'de> + Default"))]
#[allow(missing_docs, reason = "the parts of every Kubernetes object")]
pub struct Object<Spec, Status> {
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMetadata,
    #[serde(deserialize_with = "or_default")]
    pub spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub status: Status,
}

/// A pod.
pub type PodObject = Object<PodSpec, PodStatus>;
/// A workload, or a ReplicaSet.
pub type WorkloadObject = Object<WorkloadSpec, WorkloadStatus>;
/// A PersistentVolumeClaim.
pub type ClaimObject = Object<ClaimSpec, ClaimStatus>;
/// A node.
pub type NodeObject = Object<IgnoredAny, NodeStatus>;
/// A Service.
pub type ServiceObject = Object<ServiceSpec, IgnoredAny>;
/// An Ingress.
pub type IngressObject = Object<IngressSpec, IgnoredAny>;
/// A HorizontalPodAutoscaler.
pub type AutoscalerObject = Object<AutoscalerSpec, AutoscalerStatus>;
/// A PodDisruptionBudget.
pub type BudgetObject = Object<BudgetSpec, BudgetStatus>;

/// Fields of `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ObjectMeta")]
pub struct ObjectMetadata {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub namespace: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "lenient_time")]
    pub creation_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    pub deletion_timestamp: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub finalizers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<Owner>,
}

impl ObjectMetadata {
    /// A reference to the object, which is of this kind.
    pub fn reference(&self, kind: &str) -> ObjectRef {
        ObjectRef::new(kind, self.namespace.as_deref(), &self.name)
    }

    /// The uid of the controller.
    pub fn controller_uid(&self) -> Option<&str> {
        self.owner_references.iter().find(|owner| owner.controller).map(|owner| owner.uid.as_str())
    }
}

/// An owner reference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes OwnerReference")]
pub struct Owner {
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub controller: bool,
}

/// A condition in the status of an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of a Kubernetes condition")]
pub struct Condition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    #[serde(deserialize_with = "lenient_time")]
    pub last_transition_time: Option<Timestamp>,
}

impl Condition {
    /// The condition of a type.
    pub fn find<'a>(conditions: &'a [Self], kind: &str) -> Option<&'a Self> {
        conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// Fields of a workload's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes workloads")]
pub struct WorkloadSpec {
    pub replicas: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub paused: bool,
    #[serde(deserialize_with = "or_default")]
    pub suspend: bool,
    pub schedule: Option<String>,
    pub time_zone: Option<String>,
    pub concurrency_policy: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub selector: Selector,
}

/// Fields of a workload's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes workloads")]
pub struct WorkloadStatus {
    #[serde(deserialize_with = "or_default")]
    pub replicas: i64,
    #[serde(deserialize_with = "or_default")]
    pub desired_number_scheduled: i64,
    #[serde(deserialize_with = "or_default")]
    pub current_number_scheduled: i64,
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    /// A number in a job, a list of references in a cron job.
    #[serde(deserialize_with = "or_default")]
    pub active: Value,
    #[serde(deserialize_with = "lenient_time")]
    pub last_schedule_time: Option<Timestamp>,
}

/// Fields of a claim's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes PersistentVolumeClaimSpec")]
pub struct ClaimSpec {
    pub storage_class_name: Option<String>,
}

/// Fields of a claim's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes PersistentVolumeClaimStatus")]
pub struct ClaimStatus {
    #[serde(deserialize_with = "or_default")]
    pub phase: String,
}

/// Fields of a node's `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes NodeStatus")]
pub struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "or_default")]
    pub allocatable: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_and_malformed_fields_are_defaults() {
        let pod: PodObject = serde_json::from_value(json!({
            "metadata": {"name": "web", "finalizers": null, "deletionTimestamp": "soon"},
            "spec": {"containers": null, "affinity": null},
            "status": null,
        }))
        .unwrap();
        assert_eq!((&*pod.metadata.name, pod.metadata.deletion_timestamp), ("web", None));
        assert!(pod.spec.containers.is_empty() && pod.spec.affinity.is_none());
        assert_eq!(pod.status.phase, "");
    }
}
