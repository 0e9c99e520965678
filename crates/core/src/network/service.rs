//! List row of a Service.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::LoadBalancerStatus;
use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, Filter, ListRow},
};

/// Fields of Service that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: ServiceSpec,
    #[serde(deserialize_with = "or_default")]
    status: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "externalIPs", deserialize_with = "or_default")]
    external_ips: Vec<String>,
    external_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ServicePortObject>,
    selector: Option<Labels>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePortObject {
    name: Option<String>,
    port: i64,
    target_port: Option<Value>,
    node_port: Option<i64>,
    protocol: Option<String>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServicePort {
    /// Its name, if any.
    pub name: Option<String>,
    /// The port of the Service.
    pub port: i64,
    /// The port of the pods: a number or the name of a container's port.
    pub target_port: Option<String>,
    /// The port on every node.
    pub node_port: Option<i64>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// List row of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub r#type: String,
    /// Its cluster IP; `None` for a headless Service, as in Kubernetes.
    pub cluster_ip: Option<String>,
    /// Its external addresses: external IPs, load balancer addresses, external name.
    pub external_ips: Vec<String>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Label selector of its pods.
    pub selector: Option<Labels>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl ServiceRow {
    /// Projects a Service.
    pub fn project(object: ServiceObject) -> Self {
        let ServiceObject { metadata, spec, status } = object;
        let external = spec.external_ips.into_iter().chain(status.addresses()).chain(spec.external_name);
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            r#type: spec.r#type.unwrap_or_else(|| "ClusterIP".to_owned()),
            cluster_ip: spec.cluster_ip.filter(|ip| !ip.is_empty()),
            external_ips: external.collect(),
            ports: spec.ports.into_iter().map(ServicePort::from).collect(),
            selector: spec.selector,
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

impl From<ServicePortObject> for ServicePort {
    fn from(object: ServicePortObject) -> Self {
        Self {
            name: object.name,
            port: object.port,
            target_port: object.target_port.as_ref().map(number_or_name),
            node_port: object.node_port.filter(|port| *port != 0),
            protocol: object.protocol.unwrap_or_else(|| "TCP".to_owned()),
        }
    }
}

/// Formats Kubernetes' IntOrString as text.
fn number_or_name(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

impl ListRow for ServiceRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered(
            "type",
            Filter::OneOf(&["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
            |row| Cell::text(&*row.r#type),
        ),
        Field::new("cluster_ip", |row| Cell::from(&row.cluster_ip)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
    ];

    fn name(&self) -> &str {
        &self.name
    }

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn service_row_contains_ports_and_external_addresses() {
        let row = |spec: Value, status: Value| {
            ServiceRow::project(serde_json::from_value(json!({"spec": spec, "status": status})).unwrap())
        };
        let plain = row(json!({"ports": [{"port": 80, "targetPort": "http", "nodePort": 0}]}), json!(null));
        assert_eq!((plain.r#type.as_str(), plain.selector), ("ClusterIP", None));
        let port = &plain.ports[0];
        assert_eq!(
            (port.target_port.as_deref(), port.node_port, port.protocol.as_str()),
            (Some("http"), None, "TCP")
        );
        let balanced = row(
            json!({"type": "LoadBalancer", "externalIPs": ["1.1.1.1"], "ports": [{"port": 1, "targetPort": 8080, "nodePort": 30000}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "2.2.2.2"}, {"hostname": "lb"}]}}),
        );
        assert_eq!(balanced.external_ips, ["1.1.1.1", "2.2.2.2", "lb"]);
        assert_eq!(
            (balanced.ports[0].target_port.as_deref(), balanced.ports[0].node_port),
            (Some("8080"), Some(30000))
        );
    }
}
