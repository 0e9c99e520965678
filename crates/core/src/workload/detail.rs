//! Details of one workload, assembled from the objects that belong to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use super::{Revision, WorkloadRow, WorkloadType};
use crate::{
    error::Result,
    event::EventRow,
    gate::Warning,
    manifest::{mask, read_manifest},
    mask::MaskedFields,
    object::lenient_time,
    pod::PodRow,
};

/// A workload and the objects that belong to it. Only the workload is complete. The other objects, which may be many,
/// are reduced to their rows.
#[derive(Clone, Debug)]
pub struct WorkloadParts {
    /// The workload itself, in the API server's JSON.
    pub object: Box<RawValue>,
    /// Pods of the workload.
    pub pods: Vec<PodRow>,
    /// Events about the workload.
    pub events: Vec<EventRow>,
    /// History of the workload: replica sets, controller revisions, or a cron job's jobs.
    pub revisions: Vec<Revision>,
    /// Warnings about parts that could not be read.
    pub warnings: Vec<Warning>,
}

/// A workload with the objects that belong to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkloadDetail {
    /// Its row.
    pub workload: WorkloadRow,
    /// Its update strategy in Kubernetes' format; for a job or cron job, fields of its `spec` such as the schedule.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub strategy: Value,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// The containers of its pod template, init containers first.
    pub containers: Vec<ContainerDetail>,
    /// Its pods, by name.
    pub pods: Vec<PodRow>,
    /// The newest 20 events about it, newest first.
    pub events: Vec<EventRow>,
    /// Its revisions, newest first.
    pub revisions: Vec<Revision>,
    /// The object without `managedFields` and the last applied configuration.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub manifest: Value,
    /// Warnings about parts that could not be read. The response carries them as messages.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// A condition of a workload or an autoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Condition {
    /// Its type: `Available`, `Progressing`, …
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Machine-readable reason.
    pub reason: Option<String>,
    /// Human-readable message.
    pub message: Option<String>,
    /// Time of the last change of its status.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_transition_time: Option<Timestamp>,
}

/// A container of a pod template.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContainerDetail {
    /// Its name.
    pub name: String,
    /// Whether it is an init container.
    pub init: bool,
    /// Its image.
    pub image: String,
    /// Its declared ports.
    pub ports: Vec<ContainerPort>,
    /// Its resource requests: resource to quantity.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub requests: Value,
    /// Its resource limits: resource to quantity.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub limits: Value,
    /// Its probes.
    pub probes: Probes,
    /// The names of its environment variables.
    pub env: Vec<String>,
}

/// A port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContainerPort {
    /// The port's name.
    pub name: Option<String>,
    /// Its number.
    pub container_port: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// A container's probes in Kubernetes' format; null if not set.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Probes {
    /// Liveness probe: decides whether the container is restarted.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub liveness: Option<Value>,
    /// Readiness probe: decides whether the container receives requests.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub readiness: Option<Value>,
    /// Startup probe: runs before the other probes begin.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub startup: Option<Value>,
}

/// Maximum number of events in the details.
const MAX_EVENTS: usize = 20;

impl WorkloadDetail {
    /// Assembles the details of a workload of this type.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if an object does not have the expected shape.
    pub fn assemble(r#type: WorkloadType, parts: WorkloadParts) -> Result<Self> {
        let WorkloadParts { object, mut pods, mut events, mut revisions, warnings } = parts;
        let workload = WorkloadRow::project(r#type.kind(), &object)?;
        let manifest = read_manifest(&object)?;
        let Parts { strategy, conditions, containers } = Parts::of(r#type, &manifest);

        pods.sort_by(|a, b| a.name.cmp(&b.name));
        events.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.name.cmp(&b.name)));
        events.truncate(MAX_EVENTS);
        revisions
            .sort_by(|a, b| (b.revision, b.created_at, &a.name).cmp(&(a.revision, a.created_at, &b.name)));

        Ok(Self { workload, strategy, conditions, containers, pods, events, revisions, manifest, warnings })
    }

    /// Masks the literal values of environment variables and these fields in the manifest ([`mask`]), and in what is
    /// derived from it. The row stays: lists show it, too.
    pub(super) fn mask(&mut self, fields: &MaskedFields) {
        mask(&mut self.manifest, fields);
        let Parts { strategy, conditions, containers } = Parts::of(self.workload.r#type, &self.manifest);
        (self.strategy, self.conditions, self.containers) = (strategy, conditions, containers);
    }
}

/// The parts of the details that are derived from the manifest.
struct Parts {
    strategy: Value,
    conditions: Vec<Condition>,
    containers: Vec<ContainerDetail>,
}

impl Parts {
    fn of(r#type: WorkloadType, manifest: &Value) -> Self {
        let spec = &manifest["spec"];
        let conditions: Vec<RawCondition> = list(&manifest["status"]["conditions"]);
        Self {
            strategy: strategy(r#type, spec),
            conditions: conditions.into_iter().map(Condition::from).collect(),
            containers: containers(pod_spec(r#type, spec)),
        }
    }
}

fn pod_spec(r#type: WorkloadType, spec: &Value) -> &Value {
    let spec = if r#type == WorkloadType::CronJob { &spec["jobTemplate"]["spec"] } else { spec };
    &spec["template"]["spec"]
}

fn strategy(r#type: WorkloadType, spec: &Value) -> Value {
    let pick = |names: &[&str]| -> Value {
        let fields = names.iter().filter_map(|name| Some(((*name).to_owned(), spec.get(*name)?.clone())));
        Value::Object(fields.collect::<Map<_, _>>())
    };
    match r#type {
        WorkloadType::Deployment => spec.get("strategy").cloned().unwrap_or_else(|| pick(&[])),
        WorkloadType::StatefulSet | WorkloadType::DaemonSet => {
            spec.get("updateStrategy").cloned().unwrap_or_else(|| pick(&[]))
        }
        WorkloadType::Job => pick(&["parallelism", "completions", "completionMode", "backoffLimit"]),
        WorkloadType::CronJob => {
            pick(&["schedule", "timeZone", "concurrencyPolicy", "startingDeadlineSeconds"])
        }
    }
}

/// Deserialises the items of an array. Items that do not have the expected shape are skipped.
fn list<T: serde::de::DeserializeOwned>(value: &Value) -> Vec<T> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| T::deserialize(item).ok()).collect()
}

pub(super) fn containers(pod: &Value) -> Vec<ContainerDetail> {
    let containers_of = |list: &str, init: bool| -> Vec<ContainerDetail> {
        let containers = pod[list].as_array().into_iter().flatten();
        containers.map(|container| ContainerDetail::of(container, init)).collect()
    };
    [containers_of("initContainers", true), containers_of("containers", false)].concat()
}

impl ContainerDetail {
    fn of(container: &Value, init: bool) -> Self {
        let text = |name: &str| container[name].as_str().unwrap_or_default().to_owned();
        let object =
            |value: &Value| if value.is_object() { value.clone() } else { Value::Object(Map::new()) };
        let probe = |name: &str| container.get(name).filter(|probe| probe.is_object()).cloned();
        let names: Vec<EnvName> = list(&container["env"]);
        let ports: Vec<RawPort> = list(&container["ports"]);
        Self {
            name: text("name"),
            init,
            image: text("image"),
            ports: ports.into_iter().map(ContainerPort::from).collect(),
            requests: object(&container["resources"]["requests"]),
            limits: object(&container["resources"]["limits"]),
            probes: Probes {
                liveness: probe("livenessProbe"),
                readiness: probe("readinessProbe"),
                startup: probe("startupProbe"),
            },
            env: names.into_iter().map(|variable| variable.name).collect(),
        }
    }
}

#[derive(Deserialize)]
struct EnvName {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<String>,
}

impl From<RawPort> for ContainerPort {
    fn from(port: RawPort) -> Self {
        let protocol = port.protocol.unwrap_or_else(|| "TCP".to_owned());
        Self { name: port.name, container_port: port.container_port, protocol }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    r#type: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(default, deserialize_with = "lenient_time")]
    last_transition_time: Option<Timestamp>,
}

impl From<RawCondition> for Condition {
    fn from(raw: RawCondition) -> Self {
        let RawCondition { r#type, status, reason, message, last_transition_time } = raw;
        Self { r#type, status, reason, message, last_transition_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::parse;
    use serde_json::json;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn parts(object: &Value) -> WorkloadParts {
        WorkloadParts {
            object: raw(object),
            pods: vec![],
            events: vec![],
            revisions: vec![],
            warnings: vec![],
        }
    }

    #[test]
    fn deployment_detail_omits_last_applied_and_managed_fields() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop", "managedFields": [{}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary", "kept": "yes"}},
            "spec": {"replicas": 1, "strategy": {"type": "Recreate"}, "template": {"spec": {
                "initContainers": [{"name": "first", "image": "i:1"}],
                "containers": [{"name": "app", "image": "a:1", "ports": [{"containerPort": 80}],
                    "resources": {"requests": {"cpu": "100m"}}, "readinessProbe": {"periodSeconds": 5},
                    "env": [{"name": "A", "value": "literal"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}]}}},
            "status": {"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        });
        let mut detail = WorkloadDetail::assemble(WorkloadType::Deployment, WorkloadParts {
            revisions: [
                raw(&json!({"metadata": {"name": "web-1", "annotations": {"deployment.kubernetes.io/revision": "1"}}})),
                raw(&json!({"metadata": {"name": "web-2", "annotations": {"deployment.kubernetes.io/revision": "2"}},
                    "spec": {"template": {"spec": {"containers": [{"image": "a:1"}]}}}, "status": {"replicas": 1}})),
            ].iter().map(|object| Revision::project(object).unwrap()).collect(),
            ..parts(&object)
        }).unwrap();
        assert_eq!(detail.strategy, json!({"type": "Recreate"}));
        assert_eq!(detail.conditions.len(), 1);
        let names: Vec<_> = detail.containers.iter().map(|c| (c.name.as_str(), c.init)).collect();
        assert_eq!(names, [("first", true), ("app", false)]);
        let app = &detail.containers[1];
        assert_eq!(
            (app.env.as_slice(), app.ports[0].protocol.as_str()),
            (&["A".to_owned(), "B".to_owned()][..], "TCP")
        );
        assert_eq!((&app.requests, &app.limits), (&json!({"cpu": "100m"}), &json!({})));
        assert!(app.probes.readiness.is_some() && app.probes.liveness.is_none());
        let revisions: Vec<_> =
            detail.revisions.iter().map(|r| (r.revision, r.images.len(), r.replicas)).collect();
        assert_eq!(revisions, [(Some(2), 1, Some(1)), (Some(1), 0, None)]);
        assert_eq!(
            detail.manifest["metadata"],
            json!({"name": "web", "namespace": "shop", "annotations": {"kept": "yes"}})
        );

        detail.mask(&MaskedFields::default());
        let env = &detail.manifest["spec"]["template"]["spec"]["containers"][0]["env"];
        assert_eq!(
            (&env[0]["value"], &env[1]["valueFrom"]["secretKeyRef"]["name"]),
            (&json!("***"), &json!("s"))
        );
    }

    #[test]
    fn environment_of_a_cron_job_is_masked() {
        let object = json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "containers": [{"name": "a", "env": [{"name": "A", "value": "literal"}]}]}}}}}});
        let mut detail = WorkloadDetail::assemble(WorkloadType::CronJob, parts(&object)).unwrap();
        assert_eq!(detail.strategy, json!({"schedule": "* * * * *"}));
        assert_eq!(detail.containers[0].env, ["A"]);
        detail.mask(&MaskedFields::default());
        assert!(!detail.manifest.to_string().contains("literal"));
        assert_eq!(detail.containers[0].env, ["A"], "names stay");
    }

    #[test]
    fn masked_fields_are_masked_in_the_parts_derived_from_the_manifest() {
        let probe = |path: &str| json!({"httpGet": {"path": path}});
        let object = json!({
            "spec": {"strategy": {"type": "Recreate"}, "template": {"spec": {"containers": [
                {"name": "a", "livenessProbe": probe("/canary"), "readinessProbe": probe("/ready")}]}}},
            "status": {"conditions": [{"type": "Available", "status": "True", "message": "canary"}]},
        });
        let mut detail = WorkloadDetail::assemble(WorkloadType::Deployment, parts(&object)).unwrap();
        let fields = "/spec/strategy/type, /status/conditions/*/message, \
            /spec/template/spec/containers/*/livenessProbe/httpGet/path";
        detail.mask(&fields.parse().unwrap());
        assert!(!serde_json::to_string(&detail).unwrap().contains("canary"));
        assert_eq!(
            (&detail.strategy, detail.conditions[0].message.as_deref()),
            (&json!({"type": "***"}), Some("***"))
        );
        let probes = &detail.containers[0].probes;
        assert_eq!((&probes.liveness, &probes.readiness), (&Some(probe("***")), &Some(probe("/ready"))));
    }

    #[test]
    fn detail_contains_the_newest_twenty_events() {
        let event = |i: u32| {
            let metadata = json!({"name": format!("e{i}")});
            let event = json!({"metadata": metadata, "lastTimestamp": format!("2026-01-01T00:00:{i:02}Z")});
            EventRow::project(parse(&raw(&event)).unwrap())
        };
        let detail = WorkloadDetail::assemble(
            WorkloadType::Deployment,
            WorkloadParts { events: (0..30).map(event).collect(), ..parts(&json!({})) },
        )
        .unwrap();
        assert_eq!((detail.events.len(), detail.events[0].name.as_str()), (20, "e29"));
    }
}
