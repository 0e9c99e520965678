//! Fields of Services, EndpointSlices and Ingresses.

use serde::Deserialize;
use serde_json::Value;

use super::ObjectMetadata;
use crate::object::{Labels, or_default};

/// Fields of a Service's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes ServiceSpec")]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub selector: Labels,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes ServicePort")]
pub struct ServicePort {
    pub name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    /// A number or the name of a container's port.
    #[serde(deserialize_with = "or_default")]
    pub target_port: Value,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes EndpointSlice")]
pub struct SliceObject {
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMetadata,
    #[serde(deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes Endpoint")]
pub struct Endpoint {
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
}

/// Conditions of an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes EndpointConditions")]
pub struct EndpointConditions {
    /// `None` counts as ready.
    pub ready: Option<bool>,
}

/// Fields of an Ingress's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of the Kubernetes IngressSpec")]
pub struct IngressSpec {
    pub default_backend: Option<Backend>,
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<IngressRule>,
}

/// A rule of an Ingress.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes IngressRule")]
pub struct IngressRule {
    #[serde(deserialize_with = "or_default")]
    pub http: IngressPaths,
}

/// The paths of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes HTTPIngressRuleValue")]
pub struct IngressPaths {
    #[serde(deserialize_with = "or_default")]
    pub paths: Vec<IngressPath>,
}

/// A path of a rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes HTTPIngressPath")]
pub struct IngressPath {
    #[serde(deserialize_with = "or_default")]
    pub backend: Backend,
}

/// A backend of an Ingress: a Service, or another resource.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes IngressBackend")]
pub struct Backend {
    pub service: Option<BackendService>,
}

/// The Service of a backend.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes IngressServiceBackend")]
pub struct BackendService {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub port: BackendPort,
}

/// The port of a backend: a name or a number.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of the Kubernetes ServiceBackendPort")]
pub struct BackendPort {
    pub name: Option<String>,
    pub number: Option<i64>,
}
