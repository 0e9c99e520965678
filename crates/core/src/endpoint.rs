//! Endpoints: the addresses of a Service, from its EndpointSlices. Each address is a list row.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, ListRow},
};

/// Label of an EndpointSlice that holds the name of its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Fields of EndpointSlice that Pilothouse reads.
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

/// Target object of an address.
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
    /// Its number; null means all ports.
    pub port: Option<i64>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// List row of an address of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndpointRow {
    /// Name of the EndpointSlice that contains it.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The address.
    pub ip: String,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// Whether it accepts requests. Unknown counts as ready, as in Kubernetes.
    pub ready: bool,
    /// Whether it can accept requests, whether or not it is terminating.
    pub serving: bool,
    /// Whether it is terminating.
    pub terminating: bool,
    /// The node that it is on.
    pub node: Option<String>,
    /// Its target object.
    pub target: Option<Target>,
    /// UID of the EndpointSlice.
    pub uid: String,
    /// The slice's labels.
    pub labels: Labels,
    /// Creation time of the slice.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl EndpointRow {
    /// Projects an EndpointSlice to one row per address.
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
                    uid: metadata.uid.clone(),
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
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::new("ip", |row| Cell::text(&*row.ip)),
        Field::new("ready", |row| Cell::from(row.ready)),
        Field::new("serving", |row| Cell::from(row.serving)),
        Field::new("terminating", |row| Cell::from(row.terminating)),
        Field::new("node", |row| Cell::from(&row.node)),
        Field::internal("service", |row| {
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
    fn slice_has_one_row_per_address() {
        let slice = json!({"metadata": {"name": "web-x", "namespace": "shop"}, "ports": [{"name": "", "port": 80}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true},
                    "nodeName": "a", "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop"}},
                {"addresses": ["10.0.0.2"], "conditions": {}}]});
        let rows: Vec<_> = EndpointRow::project(serde_json::from_value(slice).unwrap()).collect();
        let [terminating, ready] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((terminating.ready, terminating.serving, terminating.terminating), (false, true, true));
        assert_eq!(terminating.target.as_ref().map(|target| target.name.as_str()), Some("web-1"));
        assert_eq!(
            (ready.ready, ready.serving, ready.ports[0].port, ready.ports[0].name.as_ref()),
            (true, true, Some(80), None)
        );
    }
}
