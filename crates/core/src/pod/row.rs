//! Row of a pod.

use jiff::Timestamp;
use serde::Serialize;

use super::{object::PodObject, status::ComputedStatus};
use crate::{
    object::Labels,
    rows::{Cell, Field, Filter, ListRow},
    usage::Usage,
};

/// Controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Owner {
    /// Its kind: `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// List row of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its status as `kubectl get pods` prints it: `Running`, `CrashLoopBackOff`, `Init:0/1`, `Terminating`.
    pub status: String,
    /// Ready containers and all containers: `1/2`.
    pub ready: String,
    /// Number of restarts of all containers.
    pub restarts: i64,
    /// The node that it runs on; null before it is scheduled.
    pub node: Option<String>,
    /// Its IP address.
    pub pod_ip: Option<String>,
    /// The names of its containers.
    pub containers: Vec<String>,
    /// Its controller.
    pub owner: Option<Owner>,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// Its usage of CPU and memory, filled in when a page of one cluster is read; null if it is not known, and elsewhere.
    pub usage: Option<Usage>,
    /// Whether it has terminated (`Succeeded`, `Failed`) and no longer counts on its node, as in `kubectl describe
    /// node`.
    #[serde(skip)]
    ended: bool,
}

/// Field with the workload of a pod.
pub(crate) const WORKLOAD: &str = "workload";

/// Internal field by which the pods of each node are counted.
pub(crate) const OCCUPIES_NODE: &str = "occupies";

impl ListRow for PodRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::filtered("status", Filter::Any, |row: &Self| Cell::text(&*row.status)).counted(),
        Field::new("ready", |row| Cell::text(&*row.ready)),
        Field::new("restarts", |row| Cell::from(row.restarts)),
        Field::filtered("node", Filter::Any, |row| Cell::from(&row.node)),
        Field::new("pod_ip", |row| Cell::from(&row.pod_ip)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::filter_only(WORKLOAD, |row| Cell::from(&row.workload())),
        Field::internal(
            OCCUPIES_NODE,
            |row: &Self| {
                if row.ended { Cell::Null } else { Cell::from(&row.node) }
            },
        )
        .counted(),
        Field::late("usage_cpu"),
        Field::late("usage_memory"),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

impl PodRow {
    /// Projects a Pod.
    pub fn project(object: PodObject) -> Self {
        let computed = ComputedStatus::of(&object);
        let owner = object
            .metadata
            .controller()
            .map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() });
        let PodObject { metadata, spec, status } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            status: computed.reason,
            ready: format!("{}/{}", computed.ready, computed.total),
            restarts: computed.restarts,
            node: spec.node_name,
            pod_ip: status.pod_ip,
            containers: spec.containers.into_iter().map(|container| container.name).collect(),
            owner,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
            usage: None,
            ended: matches!(&*status.phase, "Succeeded" | "Failed"),
        }
    }

    /// The workload to which the pod belongs, as `type/name`. A pod of a deployment is owned by a replica set, whose
    /// name is the deployment's name followed by the hash of the pod template.
    pub fn workload(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        let hash = self.labels.get("pod-template-hash");
        match (owner.kind.as_str(), hash) {
            ("ReplicaSet", Some(hash)) => {
                let deployment = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
                Some(format!("deployment/{deployment}"))
            }
            (kind, _) => Some(format!("{}/{}", kind.to_lowercase(), owner.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(pod: Value) -> PodRow {
        PodRow::project(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn workload_is_derived_from_the_controller() {
        let owned = |kind: &str, name: &str, labels: Value| {
            row(json!({"metadata": {"labels": labels,
                "ownerReferences": [{"kind": "Node", "name": "x"}, {"kind": kind, "name": name, "controller": true}]}}))
            .workload()
        };
        let hash = json!({"pod-template-hash": "5d9f"});
        assert_eq!(owned("ReplicaSet", "web-5d9f", hash).as_deref(), Some("deployment/web"));
        assert_eq!(owned("ReplicaSet", "web", json!({})).as_deref(), Some("replicaset/web"));
        assert_eq!(owned("StatefulSet", "db", json!(null)).as_deref(), Some("statefulset/db"));
        assert_eq!(row(json!({})).workload(), None);
    }
}
