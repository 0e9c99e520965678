//! Row of a pod.

use jiff::Timestamp;
use serde::Serialize;

use super::{fault, object::PodObject, status::ComputedStatus};
use crate::{
    fault::{FAULT, Fault},
    object::Labels,
    rows::{AgingLevel, Cell, Field, Filter, Level, ListRow, NextLevel, has_reason},
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
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
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
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
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
    /// The change of its level that comes with age.
    #[serde(skip)]
    next_level: Option<NextLevel>,
    /// What is wrong, unless it is as wanted.
    #[serde(skip)]
    fault: Option<Box<Fault>>,
}

/// Field with the workload of a pod.
pub(crate) const WORKLOAD: &str = "workload";

/// Internal field by which the pods of each node are counted.
pub(crate) const OCCUPIES_NODE: &str = "occupies";

impl ListRow for PodRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered("status", Filter::Any, |row: &Self| Cell::text(&*row.status)).counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
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

impl PodRow {
    /// Projects a Pod.
    pub fn project(object: PodObject) -> Self {
        let computed = ComputedStatus::of(&object);
        let AgingLevel { level, next } = computed.level(&object);
        let reason = if has_reason(level) { computed.cause(&object) } else { None };
        let fault = has_reason(level).then(|| Box::new(fault::of_pod(&object, &computed.reason)));
        let owner = object
            .metadata
            .controller()
            .map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() });
        let PodObject { metadata, spec, status } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            status: computed.reason,
            level,
            reason,
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
            next_level: next,
            fault,
        }
    }

    /// The row at a time, with the level at that time. A row that is as wanted has no reason.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Self {
        let AgingLevel { level, next } = AgingLevel { level: self.level, next: self.next_level }.at(now);
        Self { level, next_level: next, reason: self.reason.filter(|_| has_reason(level)), ..self }
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
    use crate::rows::{Row, Table, fields_of};
    use serde_json::{Value, json};

    fn row(pod: Value) -> PodRow {
        PodRow::project(serde_json::from_value(pod).unwrap())
    }

    /// Memory of a pod's row in a list before it had a uid, a level, a reason and usage: 32 bytes of its slot, 4 of the order
    /// by name, 4 of its namespace, 8 of each of 4 filters, 16 of its digest, 16 of the reference counts, its JSON and its
    /// keys.
    fn bytes_before(pod: &PodRow) -> usize {
        let mut json = serde_json::to_value(pod).unwrap();
        for field in ["uid", "level", "reason", "usage"] {
            json.as_object_mut().unwrap().remove(field).unwrap();
        }
        let json = json.to_string();
        // a text is a reference to its first occurrence in the JSON: a tag, its length and its place
        let text = |text: &str| match json.find(text) {
            Some(at) => 3 + usize::from(at > 127),
            None => 2 + text.len(),
        };
        let number = 9;
        let name = text(&pod.name);
        let of_node = pod.node.as_deref().map_or(1, text);
        let keys = [
            3 * name + 2 * text(&pod.namespace) + text(&pod.status) + text(&pod.ready) + number + 2 * of_node,
            pod.pod_ip.as_deref().map_or(1, text) + number + pod.workload().as_deref().map_or(1, text),
        ];
        32 + 4 + 4 + 4 * 8 + 16 + 16 + json.len() + keys.iter().sum::<usize>()
    }

    #[test]
    fn row_takes_at_most_96_bytes_more_than_before_it_had_a_uid_a_level_a_reason_and_usage() {
        let pod = |n: usize| {
            let name = format!("web-checkout-6f7c9d8b54-{n:05}");
            row(
                json!({"metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-11-22T21:27:37Z",
                "uid": format!("0f4b4a2e-9c1d-4b1e-8f5e-{n:012}"),
                "labels": {"pod-template-hash": "6f7c9d8b54", "app": "web-checkout"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-checkout-6f7c9d8b54", "controller": true}]},
                "spec": {"nodeName": "node-017", "containers": [{"name": "app"}]},
                "status": {"phase": "Running", "podIP": "10.244.13.27", "containerStatuses":
                    [{"name": "app", "ready": true, "state": {"running": {}}}]}}),
            )
        };
        let pods: Vec<_> = (0..1000).map(pod).collect();
        assert_eq!(pods[0].level, Level::Ok);
        let rows = pods.iter().map(|pod| Row::of(pod).unwrap()).collect();
        let bytes = Table::new(&fields_of::<PodRow>()).replace_all(0, rows).0.bytes();
        let before: usize = pods.iter().map(bytes_before).sum();
        let more = (bytes - before).div_ceil(pods.len());
        assert!((1..=96).contains(&more), "{more} bytes a row");
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
