//! Endpoints: the addresses behind a Service, from its EndpointSlices. One slice is many rows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    inventory::{Cell, Field, ListRow},
    object::{Labels, Metadata, or_default},
};

/// The label by which a slice names its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What we read of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SliceObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    endpoints: Vec<EndpointObject>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<PortObject>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EndpointObject {
    #[serde(deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    conditions: Conditions,
    node_name: Option<String>,
    target_ref: Option<Target>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortObject {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

/// What stands behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Target {
    /// Its kind: `Pod`.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndpointPort {
    /// Its name.
    pub name: Option<String>,
    /// Its number; null is every port.
    pub port: Option<i64>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// An address behind a Service as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndpointRow {
    /// The name of the slice that tells of it.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The address.
    pub ip: String,
    /// The ports it serves.
    pub ports: Vec<EndpointPort>,
    /// Whether it takes requests; unknown counts as ready, as Kubernetes says.
    pub ready: bool,
    /// Whether it could take requests, terminating or not.
    pub serving: bool,
    /// Whether it is going away.
    pub terminating: bool,
    /// The node it is on.
    pub node: Option<String>,
    /// What stands behind it.
    pub target: Option<Target>,
    /// The slice's labels.
    pub labels: Labels,
    /// When the slice was created.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl EndpointRow {
    /// Projects an EndpointSlice: one row an address.
    pub fn project(object: SliceObject) -> impl Iterator<Item = Self> {
        let SliceObject { metadata, endpoints, ports } = object;
        let ports: Vec<_> = ports.into_iter().map(EndpointPort::from).collect();
        endpoints.into_iter().flat_map(
            move |EndpointObject { addresses, conditions, node_name, target_ref }| {
                let (metadata, ports) = (metadata.clone(), ports.clone());
                let ready = conditions.ready.unwrap_or(true);
                addresses.into_iter().map(move |ip| Self {
                    name: metadata.name.clone(),
                    namespace: metadata.namespace.clone().unwrap_or_default(),
                    ip,
                    ports: ports.clone(),
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                    node: node_name.clone(),
                    target: target_ref.clone(),
                    labels: metadata.labels.clone(),
                    created_at: metadata.creation_timestamp,
                })
            },
        )
    }
}

impl From<PortObject> for EndpointPort {
    fn from(object: PortObject) -> Self {
        let protocol = object.protocol.unwrap_or_else(|| "TCP".to_owned());
        Self { name: object.name.filter(|name| !name.is_empty()), port: object.port, protocol }
    }
}

impl ListRow for EndpointRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("ip", |row| Cell::text(&*row.ip)),
        Field::new("ready", |row| Cell::from(row.ready)),
        Field::new("serving", |row| Cell::from(row.serving)),
        Field::new("terminating", |row| Cell::from(row.terminating)),
        Field::new("node", |row| Cell::from(&row.node)),
        Field::ours("service", |row| {
            row.labels.get(SERVICE_LABEL).map_or(Cell::Null, |name| Cell::text(&**name))
        }),
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
    fn a_slice_is_a_row_an_address() {
        let slice = json!({"metadata": {"name": "web-x", "namespace": "shop"}, "ports": [{"name": "", "port": 80}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true},
                    "nodeName": "a", "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop"}},
                {"addresses": ["10.0.0.2"], "conditions": {}}]});
        let rows: Vec<_> = EndpointRow::project(serde_json::from_value(slice).unwrap()).collect();
        let [leaving, ready] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((leaving.ready, leaving.serving, leaving.terminating), (false, true, true));
        assert_eq!(leaving.target.as_ref().map(|target| target.name.as_str()), Some("web-1"));
        assert_eq!(
            (ready.ready, ready.serving, ready.ports[0].port, ready.ports[0].name.as_ref()),
            (true, true, Some(80), None)
        );
    }
}
