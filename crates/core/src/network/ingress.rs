//! List row of an Ingress.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::LoadBalancerStatus;
use crate::{
    object::{Labels, Metadata, or_default},
    rows::{Cell, Field, ListRow},
};

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
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
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
            uid: metadata.uid,
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
        Field::new("uid", |row| Cell::text(&*row.uid)),
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
    use serde_json::{Value, json};

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
