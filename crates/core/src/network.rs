//! Services and Ingresses: list rows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// Load balancer status of a Service or Ingress.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LoadBalancerStatus {
    #[serde(deserialize_with = "or_default")]
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    #[serde(deserialize_with = "or_default")]
    ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancerIngress {
    ip: Option<String>,
    hostname: Option<String>,
}

impl LoadBalancerStatus {
    fn addresses(self) -> impl Iterator<Item = String> {
        self.load_balancer.ingress.into_iter().filter_map(|ingress| ingress.ip.or(ingress.hostname))
    }
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

/// Fields of Ingress that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IngressObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: IngressSpec,
    #[serde(deserialize_with = "or_default")]
    status: LoadBalancerStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IngressSpec {
    ingress_class_name: Option<String>,
    default_backend: Option<BackendObject>,
    #[serde(deserialize_with = "or_default")]
    rules: Vec<RuleObject>,
    #[serde(deserialize_with = "or_default")]
    tls: Vec<TlsObject>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RuleObject {
    host: Option<String>,
    #[serde(deserialize_with = "or_default")]
    http: RuleHttp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RuleHttp {
    #[serde(deserialize_with = "or_default")]
    paths: Vec<PathObject>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PathObject {
    path: Option<String>,
    path_type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    backend: BackendObject,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BackendObject {
    service: Option<BackendService>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BackendService {
    name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    port: BackendPort,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BackendPort {
    name: Option<String>,
    number: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TlsObject {
    #[serde(deserialize_with = "or_default")]
    hosts: Vec<String>,
    secret_name: Option<String>,
}

/// Routing rule of an Ingress. One rule per path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IngressRule {
    /// The host; null matches any host.
    pub host: Option<String>,
    /// The path; null for the default backend, and for a host that is routed to the default backend as a whole.
    pub path: Option<String>,
    /// `Prefix`, `Exact` or `ImplementationSpecific`.
    pub path_type: Option<String>,
    /// The target Service; null if the target is another resource or the default backend.
    pub service: Option<String>,
    /// The port of the Service, a number or a name.
    pub port: Option<String>,
}

/// TLS certificate of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IngressTls {
    /// The hosts of the certificate.
    pub hosts: Vec<String>,
    /// Name of the Secret that contains it.
    pub secret: Option<String>,
}

/// List row of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IngressRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its ingress class.
    pub class: Option<String>,
    /// Its routing rules, one per path.
    pub rules: Vec<IngressRule>,
    /// Its TLS certificates.
    pub tls: Vec<IngressTls>,
    /// Its load balancer addresses.
    pub addresses: Vec<String>,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl IngressRow {
    /// Projects an Ingress.
    pub fn project(object: IngressObject) -> Self {
        let IngressObject { metadata, spec, status } = object;
        let default =
            spec.default_backend.map(|backend| rule(None, PathObject { backend, ..PathObject::default() }));
        let rules = spec.rules.into_iter().flat_map(|RuleObject { host, http }| {
            // a host without paths is routed to the default backend
            let paths = if http.paths.is_empty() { vec![PathObject::default()] } else { http.paths };
            paths.into_iter().map(move |path| rule(host.clone(), path))
        });
        let class = spec.ingress_class_name;
        Self {
            class: class.or_else(|| metadata.annotations.get("kubernetes.io/ingress.class").cloned()),
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            rules: rules.chain(default).collect(),
            tls: spec
                .tls
                .into_iter()
                .map(|tls| IngressTls { hosts: tls.hosts, secret: tls.secret_name })
                .collect(),
            addresses: status.addresses().collect(),
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

fn rule(host: Option<String>, path: PathObject) -> IngressRule {
    let BackendService { name, port } = path.backend.service.unwrap_or_default();
    IngressRule {
        host,
        path: path.path,
        path_type: path.path_type,
        service: name,
        port: port.name.or_else(|| port.number.map(|number| number.to_string())),
    }
}

impl ListRow for IngressRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("class", |row| Cell::from(&row.class)),
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

    #[test]
    fn ingress_has_one_rule_per_path_or_host_without_paths() {
        let backend = |name: &str, port: Value| json!({"service": {"name": name, "port": port}});
        let object = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "old"}}, "spec": {
            "defaultBackend": backend("rest", json!({"name": "http"})),
            "rules": [{"host": "a", "http": {"paths": [
                {"path": "/x", "pathType": "Prefix", "backend": backend("x", json!({"number": 80}))},
                {"path": "/y", "backend": {"resource": {"kind": "Bucket"}}}]}}, {"host": "b", "http": null}],
            "tls": [{"hosts": ["a"], "secretName": "cert"}]}});
        let row = IngressRow::project(serde_json::from_value(object).unwrap());
        let rules: Vec<_> =
            row.rules.iter().map(|r| (r.host.as_deref(), r.service.as_deref(), r.port.as_deref())).collect();
        assert_eq!(
            rules,
            [
                (Some("a"), Some("x"), Some("80")),
                (Some("a"), None, None),
                (Some("b"), None, None),
                (None, Some("rest"), Some("http"))
            ]
        );
        assert_eq!((row.class.as_deref(), row.tls[0].secret.as_deref()), (Some("old"), Some("cert")));
    }
}
