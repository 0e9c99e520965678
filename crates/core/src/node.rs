//! Nodes: list rows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    fault::{FAULT, Fault},
    level,
    namespaces::NamespaceScope,
    object::{Labels, Metadata, lenient_time, or_default},
    pod::OCCUPIES_NODE,
    rows::{Cell, Field, Filter, Level, ListRow, Row, Table, has_reason},
    usage::Usage,
};

/// Fields of Node that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: NodeSpec,
    #[serde(deserialize_with = "or_default")]
    status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(deserialize_with = "or_default")]
    unschedulable: bool,
    #[serde(deserialize_with = "or_default")]
    taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeStatus {
    #[serde(deserialize_with = "or_default")]
    capacity: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    allocatable: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<NodeCondition>,
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<NodeAddress>,
    #[serde(deserialize_with = "or_default")]
    node_info: NodeInfo,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeCondition {
    r#type: String,
    status: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "lenient_time")]
    last_transition_time: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeAddress {
    r#type: String,
    address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeInfo {
    kubelet_version: Option<String>,
    os_image: Option<String>,
    kernel_version: Option<String>,
    container_runtime_version: Option<String>,
}

/// Taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// List row of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// `Ready`, `NotReady`, or `Unknown` if its kubelet does not report.
    pub status: String,
    /// Level of the status.
    pub level: Level,
    /// Cause of the level in the words of Kubernetes, such as `OOMKilled`; null if there is none besides the status.
    pub reason: Option<String>,
    /// Its roles, from the labels `node-role.kubernetes.io/<role>`.
    pub roles: Vec<String>,
    /// Its kubelet version.
    pub version: Option<String>,
    /// Its internal IP address.
    pub internal_ip: Option<String>,
    /// Its operating system.
    pub os_image: Option<String>,
    /// Its kernel version.
    pub kernel_version: Option<String>,
    /// Its container runtime and version.
    pub container_runtime: Option<String>,
    /// Its capacity: resource to Kubernetes quantity.
    pub capacity: BTreeMap<String, String>,
    /// The part of its capacity that pods may use.
    pub allocatable: BTreeMap<String, String>,
    /// Number of pods on it that have not terminated; null if the pods may not be listed.
    pub pods: Option<i64>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// Its usage of CPU and memory, filled in when a page of one cluster is read; null if it is not known, and elsewhere.
    pub usage: Option<Usage>,
    /// What is wrong, unless it is as wanted.
    #[serde(skip)]
    fault: Option<Box<Fault>>,
}

/// Conditions of a node that lacks a resource.
const PRESSURES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";

impl NodeRow {
    /// Projects a Node. Its pods are counted later, when the row is read.
    pub fn project(object: NodeObject) -> Self {
        let NodeObject { metadata, spec, status } = object;
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        let node_status = match ready.map(|condition| condition.status.as_str()) {
            Some("True") => "Ready",
            Some("False") => "NotReady",
            _ => "Unknown",
        };
        let has_pressure = |condition: &&NodeCondition| {
            condition.status == "True" && PRESSURES.contains(&condition.r#type.as_str())
        };
        let pressure = status.conditions.iter().find(has_pressure).filter(|_| node_status == "Ready");
        let level = level::of_node(node_status, spec.unschedulable, pressure.is_some());
        let reason = match pressure {
            Some(pressure) => Some(pressure.r#type.clone()),
            None => ready.map(|condition| condition.reason.clone()).filter(|reason| !reason.is_empty()),
        };
        let since = pressure.or(ready).and_then(|condition| condition.last_transition_time);
        let fault = has_reason(level).then(|| Box::new(Fault { since, ..Fault::default() }));
        let roles = metadata
            .labels
            .keys()
            .filter_map(|key| key.strip_prefix(ROLE_LABEL_PREFIX))
            .filter(|role| !role.is_empty());
        let internal = status.addresses.into_iter().find(|address| address.r#type == "InternalIP");
        Self {
            status: node_status.to_owned(),
            level,
            reason: reason.filter(|_| has_reason(level)),
            roles: roles.map(str::to_owned).collect(),
            version: status.node_info.kubelet_version,
            internal_ip: internal.map(|address| address.address),
            os_image: status.node_info.os_image,
            kernel_version: status.node_info.kernel_version,
            container_runtime: status.node_info.container_runtime_version,
            capacity: status.capacity,
            allocatable: status.allocatable,
            pods: None,
            unschedulable: spec.unschedulable,
            taints: spec.taints,
            name: metadata.name,
            uid: metadata.uid,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
            usage: None,
            fault,
        }
    }
}

impl NodeRow {
    /// Index of the hidden field, which is the last.
    const FAULT_FIELD: usize = Self::FIELDS.len() - 1;

    /// Joins the row of a node with the table of pods ([`NodeRow::with_pods`]).
    ///
    /// # Errors
    /// `Internal` if the row is not that of a node.
    pub fn join(row: &Row, pods: &Table, namespaces: &NamespaceScope) -> Result<Row> {
        let fault = Fault::of(row, Self::FAULT_FIELD).map(Box::new);
        Row::of(&Self { fault, ..row.parse()? }.with_pods(pods, namespaces))
    }

    /// Sets the number of pods on the node that have not terminated, of the pods in these namespaces.
    pub fn with_pods(self, pods: &Table, namespaces: &NamespaceScope) -> Self {
        let counted = pods.counted_by(OCCUPIES_NODE, &self.name, namespaces);
        Self { pods: i64::try_from(counted).ok(), ..self }
    }
}

impl ListRow for NodeRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered("status", Filter::OneOf(&["Ready", "NotReady", "Unknown"]), |row: &Self| {
            Cell::text(&*row.status)
        })
        .counted(),
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
        Field::new("reason", |row| Cell::from(&row.reason)),
        Field::new("version", |row| Cell::from(&row.version)),
        Field::new("internal_ip", |row| Cell::from(&row.internal_ip)),
        Field::new("os_image", |row| Cell::from(&row.os_image)),
        Field::new("kernel_version", |row| Cell::from(&row.kernel_version)),
        Field::new("container_runtime", |row| Cell::from(&row.container_runtime)),
        Field::new("pods", |row| Cell::from(row.pods)),
        Field::new("unschedulable", |row| Cell::from(row.unschedulable)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::late("usage_cpu"),
        Field::late("usage_memory"),
        Field::hidden(FAULT, |row: &Self| Fault::cell(row.fault.as_deref())),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pod::PodRow,
        rows::{Row, fields_of},
    };
    use serde_json::json;

    #[test]
    fn row_contains_status_roles_and_pod_count() {
        let mut pods = Table::new(&fields_of::<PodRow>());
        for (name, phase) in [("x", "Running"), ("y", "Pending"), ("z", "Succeeded")] {
            let pod = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"nodeName": "a"}, "status": {"phase": phase}});
            let row = PodRow::project(serde_json::from_value(pod).unwrap());
            pods.apply(0, (Some("n"), name), vec![Row::of(&row).unwrap()]);
        }
        let row = |name: &str, conditions: serde_json::Value| {
            let labels = json!({"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/": "", "x": "y"});
            let object = json!({"metadata": {"name": name, "labels": labels}, "status": {"conditions": conditions,
                "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}]}});
            NodeRow::project(serde_json::from_value(object).unwrap()).with_pods(&pods, &NamespaceScope::All)
        };
        let ready = |status: &str| json!([{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status}]);
        let a = row("a", ready("True"));
        assert_eq!(
            (a.status.as_str(), a.pods, a.internal_ip.as_deref()),
            ("Ready", Some(2), Some("10.0.0.1"))
        );
        assert_eq!(a.roles, ["control-plane"]);
        let b = row("b", ready("False"));
        assert_eq!((b.status.as_str(), b.pods), ("NotReady", Some(0)));
        assert_eq!(
            (row("c", ready("Unknown")).status, row("d", json!(null)).status),
            ("Unknown".into(), "Unknown".into())
        );
    }
}
