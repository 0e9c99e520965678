//! Services and Ingresses: list rows.

use serde::Deserialize;

use crate::object::or_default;

mod ingress;
mod service;

pub use ingress::{IngressObject, IngressRow, IngressRule, IngressTls};
pub use service::{ServiceObject, ServicePort, ServiceRow};

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
