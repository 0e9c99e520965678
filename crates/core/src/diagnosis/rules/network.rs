//! Rules about Services and Ingresses.

use serde_json::Value;

use super::Context;
use crate::{
    diagnosis::{
        Finding, Quote, Rule, Variant,
        objects::{Backend, BackendService, Condition, PodObject, ServiceObject, ServicePort, SliceObject},
    },
    rows::Level,
};

/// Label of a slice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl<'a> Context<'a> {
    /// The findings of the diagnosed Service.
    pub(super) fn of_diagnosed_service(&self) -> Vec<Finding> {
        let of_service = |service| self.of_service(service);
        self.evidence.services.iter().filter_map(of_service).collect()
    }

    fn of_service(&self, service: &ServiceObject) -> Option<Finding> {
        // without a selector, others write its endpoints
        if service.spec.kind == "ExternalName" || service.spec.selector.is_empty() {
            return None;
        }
        // pods that could not be read may exist
        if !self.evidence.checked.contains(&"pods") {
            return self.of_endpoints(service);
        }
        let pods: Vec<_> = self.evidence.pods.iter().filter(|pod| is_running(pod)).collect();
        let finding = Finding::new(Rule::Service, Level::Warn, service.metadata.reference("Service"));
        let selector: Vec<_> =
            service.spec.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selector = selector.join(",");
        let finding = finding.fact("service", &service.metadata.name).fact("selector", &selector);
        let source = format!("service/{} spec", service.metadata.name);
        if pods.is_empty() {
            let quote = Quote::new(source, None, &format!("selector {selector} matches no pod"));
            return Some(finding.variant(Variant::Selector).quotes([quote]));
        }
        if let Some(port) = service.spec.ports.iter().find_map(|port| absent_port(port, &pods)) {
            let quote =
                Quote::new(source, None, &format!("targetPort {port} is the name of no container's port"));
            return Some(finding.variant(Variant::PortName).fact("port", port).quotes([quote]));
        }
        if self.has_ready_endpoint(&service.metadata.name) || pods.iter().any(|pod| is_ready(pod)) {
            return None;
        }
        let quotes = pods.iter().take(3).map(|pod| {
            let ready = Condition::find(&pod.status.conditions, "Ready");
            let text = ready.map_or("", |condition| condition.message.as_str());
            let text = if text.is_empty() {
                format!("phase {}, not ready", pod.status.phase)
            } else {
                text.to_owned()
            };
            Quote::new(
                format!("pod/{}", pod.metadata.name),
                ready.and_then(|c| c.last_transition_time),
                &text,
            )
        });
        Some(finding.variant(Variant::NoneReady).quotes(quotes))
    }

    /// The findings of the diagnosed Ingress: backends that do not exist, and those that have no ready endpoint.
    pub(super) fn of_diagnosed_ingress(&self) -> Vec<Finding> {
        let Some(ingress) = &self.evidence.ingress else { return Vec::new() };
        let rules = ingress.spec.rules.iter().flat_map(|rule| &rule.http.paths).map(|path| &path.backend);
        let backends = ingress.spec.default_backend.iter().chain(rules);
        let services = backends.filter_map(|Backend { service }| service.as_ref());
        services.filter_map(|service| self.of_backend(service)).collect()
    }

    fn of_backend(&self, backend: &BackendService) -> Option<Finding> {
        let BackendService { name, port } = backend;
        let wanted = match (&port.name, port.number) {
            (Some(name), _) => name.clone(),
            (None, Some(number)) => number.to_string(),
            (None, None) => String::new(),
        };
        let is_wanted = |own: &ServicePort| match &port.name {
            Some(name) => own.name.as_ref() == Some(name),
            None => port.number == Some(own.port),
        };
        let missing = |text: String| {
            let finding = Finding::new(Rule::Ingress, Level::Bad, self.evidence.reference());
            let finding =
                finding.variant(Variant::BackendMissing).fact("service", name).fact("port", &wanted);
            let source = format!("ingress/{} spec", self.evidence.object.name);
            Some(finding.quotes([Quote::new(source, None, &text)]))
        };
        let Some(service) = self.evidence.services.iter().find(|service| service.metadata.name == *name)
        else {
            // a Service that could not be read may exist
            let is_read = self.evidence.checked.contains(&"services");
            return is_read.then(|| missing(format!("service {name} does not exist"))).flatten();
        };
        if !service.spec.ports.iter().any(is_wanted) {
            return missing(format!("service {name} has no port {wanted}"));
        }
        self.of_endpoints(service)
    }

    /// A Service with a selector that has no ready endpoint, by its slices alone.
    fn of_endpoints(&self, service: &ServiceObject) -> Option<Finding> {
        let name = &service.metadata.name;
        let is_selecting = service.spec.kind != "ExternalName" && !service.spec.selector.is_empty();
        let is_read = self.evidence.checked.contains(&"endpointslices");
        if !is_selecting || !is_read || self.has_ready_endpoint(name) {
            return None;
        }
        let finding = Finding::new(Rule::Service, Level::Warn, service.metadata.reference("Service"));
        let has_endpoint = self.slices(name).any(|slice| !slice.endpoints.is_empty());
        let finding = finding.variant(has_endpoint.then_some(Variant::NoneReady)).fact("service", name);
        let text = if has_endpoint { "no endpoint is ready" } else { "no endpoints" };
        Some(finding.quotes([Quote::new(format!("service/{name} endpointslices"), None, text)]))
    }

    fn slices(&self, service: &str) -> impl Iterator<Item = &'a SliceObject> {
        let is_of = move |slice: &&SliceObject| {
            slice.metadata.labels.get(SERVICE_NAME).is_some_and(|name| name == service)
        };
        self.evidence.slices.iter().filter(is_of)
    }

    fn has_ready_endpoint(&self, service: &str) -> bool {
        let mut endpoints = self.slices(service).flat_map(|slice| &slice.endpoints);
        endpoints.any(|endpoint| endpoint.conditions.ready != Some(false))
    }
}

/// Whether a pod has not ended and is not being deleted.
fn is_running(pod: &PodObject) -> bool {
    !["Succeeded", "Failed"].contains(&pod.status.phase.as_str()) && pod.metadata.deletion_timestamp.is_none()
}

fn is_ready(pod: &PodObject) -> bool {
    Condition::find(&pod.status.conditions, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The target port of a Service that is a name of no port of the pods.
fn absent_port<'a>(port: &'a ServicePort, pods: &[&PodObject]) -> Option<&'a str> {
    let Value::String(name) = &port.target_port else { return None };
    let mut ports = pods
        .iter()
        .flat_map(|pod| pod.spec.containers.iter().chain(&pod.spec.init_containers))
        .flat_map(|c| &c.ports);
    let exists = ports.any(|own| own.name.as_ref() == Some(name));
    // an empty name, and a number written as text, are numbers
    let is_name = name.bytes().any(|b| b.is_ascii_alphabetic());
    (is_name && !exists).then_some(name.as_str())
}
