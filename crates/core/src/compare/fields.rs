//! The fields of a workload that are compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ComparedField;
use crate::{ids::ClusterId, name::ObjectName, quantity, workload::WorkloadType};

/// The compared fields of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields {
    /// The values as the caller may see them, by path.
    shown: BTreeMap<String, Value>,
    /// What decides whether fields are the same, by path. It contains masked values.
    plain: BTreeMap<String, Value>,
}

impl Fields {
    /// The fields of a manifest: `shown` as the caller may see it, `plain` without masks.
    pub(super) fn of(r#type: WorkloadType, shown: &Value, plain: &Value) -> Self {
        let shown = flatten(r#type, shown);
        let plain = flatten(r#type, plain).into_iter().map(canonical).collect();
        Self { shown, plain }
    }

    /// Adds a field that is not in the manifest and not masked.
    pub(super) fn insert(&mut self, path: &str, value: Value) {
        self.plain.insert(path.to_owned(), value.clone());
        self.shown.insert(path.to_owned(), value);
    }

    /// The plain values of a field: of its path and of all below it, for a mask may hide a field with all that is in it.
    fn plain_at(&self, path: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.plain.iter().filter(move |(key, _)| {
            key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// Compares the fields of a workload in the clusters that have it.
pub(super) fn compare(clusters: &[(ClusterId, Fields)]) -> Vec<ComparedField> {
    let paths: BTreeSet<&str> =
        clusters.iter().flat_map(|(_, fields)| fields.shown.keys().map(String::as_str)).collect();
    let field = |path: &str| {
        let values = clusters
            .iter()
            .map(|(id, fields)| (id.to_string(), fields.shown.get(path).cloned().unwrap_or(Value::Null)));
        let mut plain = clusters.iter().map(|(_, fields)| fields.plain_at(path).collect::<Vec<_>>());
        let first = plain.next();
        let same = plain.all(|other| Some(other) == first);
        ComparedField { path: path.to_owned(), values: values.collect(), same }
    };
    paths.into_iter().map(field).collect()
}

/// Names of the ConfigMaps that the pods of a workload use, sorted.
pub(super) fn config_maps(r#type: WorkloadType, manifest: &Value) -> Vec<ObjectName> {
    let mut names = Vec::new();
    let pod = pod_spec(r#type, manifest);
    for volume in items(&pod["volumes"]) {
        names.push(&volume["configMap"]["name"]);
        names.extend(items(&volume["projected"]["sources"]).map(|source| &source["configMap"]["name"]));
    }
    for container in items(&pod["initContainers"]).chain(items(&pod["containers"])) {
        names.extend(items(&container["envFrom"]).map(|from| &from["configMapRef"]["name"]));
        names.extend(items(&container["env"]).map(|one| &one["valueFrom"]["configMapKeyRef"]["name"]));
    }
    let names: BTreeSet<&str> = names.into_iter().filter_map(Value::as_str).collect();
    names.into_iter().filter_map(|name| ObjectName::new(name).ok()).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn pod_spec(r#type: WorkloadType, manifest: &Value) -> &Value {
    let spec = &manifest["spec"];
    let spec = if r#type == WorkloadType::CronJob { &spec["jobTemplate"]["spec"] } else { spec };
    &spec["template"]["spec"]
}

/// Fields of `spec` besides the pod template, by type.
const fn own_fields(r#type: WorkloadType) -> &'static [(&'static str, &'static str)] {
    match r#type {
        WorkloadType::Deployment => {
            &[("replicas", "replicas"), ("strategy", "strategy"), ("paused", "paused")]
        }
        WorkloadType::StatefulSet => &[("replicas", "replicas"), ("updateStrategy", "strategy")],
        WorkloadType::DaemonSet => &[("updateStrategy", "strategy")],
        WorkloadType::Job => &[
            ("parallelism", "parallelism"),
            ("completions", "completions"),
            ("backoffLimit", "backoff_limit"),
            ("suspend", "suspend"),
        ],
        WorkloadType::CronJob => &[
            ("schedule", "schedule"),
            ("timeZone", "time_zone"),
            ("concurrencyPolicy", "concurrency_policy"),
            ("suspend", "suspend"),
        ],
    }
}

/// Fields of a container that are compared as a whole.
const CONTAINER_FIELDS: [(&str, &str); 9] = [
    ("image", "image"),
    ("imagePullPolicy", "image_pull_policy"),
    ("command", "command"),
    ("args", "args"),
    ("ports", "ports"),
    ("envFrom", "env_from"),
    ("livenessProbe", "probes/liveness"),
    ("readinessProbe", "probes/readiness"),
    ("startupProbe", "probes/startup"),
];

/// The compared fields of a manifest, by path. A list or map that a mask has replaced is one field.
fn flatten(r#type: WorkloadType, manifest: &Value) -> BTreeMap<String, Value> {
    let mut fields = Flat::default();
    for (name, path) in own_fields(r#type) {
        fields.set((*path).to_owned(), &manifest["spec"][*name]);
    }
    let pod = pod_spec(r#type, manifest);
    fields.set("service_account".to_owned(), &pod["serviceAccountName"]);
    fields.set("node_selector".to_owned(), &pod["nodeSelector"]);
    for (list, path) in [("initContainers", "init_containers"), ("containers", "containers")] {
        if !pod[list].is_array() {
            fields.set(path.to_owned(), &pod[list]);
        }
        for container in items(&pod[list]) {
            let path = format!("{path}/{}", container["name"].as_str().unwrap_or_default());
            for (name, own) in CONTAINER_FIELDS {
                fields.set(format!("{path}/{own}"), &container[name]);
            }
            for part in ["requests", "limits"] {
                fields.set_each(&format!("{path}/resources/{part}"), &container["resources"][part]);
            }
            fields.set_environment(&format!("{path}/env"), &container["env"]);
        }
    }
    fields.0
}

/// Fields by path.
#[derive(Default)]
struct Flat(BTreeMap<String, Value>);

impl Flat {
    /// Sets a field, unless its value is null.
    fn set(&mut self, path: String, value: &Value) {
        if !value.is_null() {
            self.0.insert(path, value.clone());
        }
    }

    /// Sets one field for each key of a map.
    fn set_each(&mut self, path: &str, map: &Value) {
        match map {
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| self.set(format!("{path}/{key}"), value));
            }
            other => self.set(path.to_owned(), other),
        }
    }

    /// Sets one field for each environment variable: its value, or the object with its source.
    fn set_environment(&mut self, path: &str, env: &Value) {
        if !env.is_array() {
            self.set(path.to_owned(), env);
        }
        for variable in items(env) {
            let path = format!("{path}/{}", variable["name"].as_str().unwrap_or_default());
            let from = &variable["valueFrom"];
            let empty = Value::from("");
            self.set(path, if from.is_null() { variable.get("value").unwrap_or(&empty) } else { from });
        }
    }
}

/// A value for comparison: quantities are equal by value (`1` and `1000m`).
fn canonical((path, value): (String, Value)) -> (String, Value) {
    let quantity = value.as_str().filter(|_| path.contains("/resources/")).and_then(quantity::parse);
    (path, quantity.map_or(value, Value::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::mask;

    fn fields(plain: &Value, is_masked: bool) -> Fields {
        let mut shown = plain.clone();
        if is_masked {
            mask(&mut shown, &"/spec/template/spec/containers/*/args".parse().unwrap());
        }
        Fields::of(WorkloadType::Deployment, &shown, plain)
    }

    fn deployment(replicas: i64, container: &Value) -> Value {
        json!({"spec": {"replicas": replicas, "template": {"spec": {"containers": [container]}}}})
    }

    fn compared(one: Fields, other: Fields) -> Vec<(String, Value, Value, bool)> {
        let mut compared = compare(&[(ClusterId(1), one), (ClusterId(22), other)]);
        compared
            .iter_mut()
            .map(|field| {
                let mut take = |id: &str| field.values.remove(id).unwrap();
                let (one, other) = (take("1"), take("22"));
                (field.path.clone(), one, other, field.same)
            })
            .collect()
    }

    #[test]
    fn fields_are_compared_by_path() {
        let one = json!({"name": "app", "image": "web:1", "env": [{"name": "MODE", "value": "fast"}, {"name": "KEY",
            "valueFrom": {"secretKeyRef": {"name": "login", "key": "key"}}}, {"name": "EMPTY"}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}});
        let other = json!({"name": "app", "image": "web:2", "env": [{"name": "MODE", "value": "fast"}],
            "resources": {"requests": {"cpu": "1000m"}}, "livenessProbe": {"periodSeconds": 5}});
        let expected = [
            ("containers/app/env/EMPTY", json!(""), Value::Null, false),
            (
                "containers/app/env/KEY",
                json!({"secretKeyRef": {"name": "login", "key": "key"}}),
                Value::Null,
                false,
            ),
            ("containers/app/env/MODE", json!("fast"), json!("fast"), true),
            ("containers/app/image", json!("web:1"), json!("web:2"), false),
            ("containers/app/probes/liveness", Value::Null, json!({"periodSeconds": 5}), false),
            ("containers/app/resources/limits/memory", json!("1Gi"), Value::Null, false),
            ("containers/app/resources/requests/cpu", json!("1"), json!("1000m"), true),
            ("replicas", json!(3), json!(3), true),
        ];
        let expected = expected.map(|(path, one, other, same)| (path.to_owned(), one, other, same));
        assert_eq!(
            compared(fields(&deployment(3, &one), false), fields(&deployment(3, &other), false)),
            expected
        );
    }

    #[test]
    fn of_a_masked_value_only_equality_is_shown() {
        let container = |value: &str, argument: &str| json!({"name": "app", "env": [{"name": "MODE", "value": value}], "args": [argument]});
        let masked = |value: &str, argument: &str| fields(&deployment(1, &container(value, argument)), true);
        let rows = compared(masked("canary", "a"), masked("canary", "b"));
        let expected = [("containers/app/args", false), ("containers/app/env/MODE", true)];
        for (row, (path, same)) in rows.iter().zip(expected) {
            assert_eq!(row, &(path.to_owned(), json!("***"), json!("***"), same));
        }
        assert!(!compared(masked("canary", "a"), masked("other", "a"))[1].3);
        let seen = fields(&deployment(1, &container("canary", "a")), false);
        let mixed = compared(seen, masked("canary", "a"));
        assert_eq!(mixed[1], ("containers/app/env/MODE".to_owned(), json!("canary"), json!("***"), true));
    }

    #[test]
    fn used_config_maps_are_named_once() {
        let pod = json!({
            "volumes": [{"configMap": {"name": "files"}}, {"secret": {"secretName": "login"}},
                {"projected": {"sources": [{"configMap": {"name": "more"}}]}}, {"configMap": {"name": "../x"}}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "login"}}]}],
            "containers": [{"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}},
                {"name": "B", "value": "settings"}]}],
        });
        let names = |r#type, manifest: &Value| -> Vec<String> {
            config_maps(r#type, manifest).iter().map(ToString::to_string).collect()
        };
        let deployment = json!({"spec": {"template": {"spec": pod}}});
        assert_eq!(names(WorkloadType::Deployment, &deployment), ["files", "more", "settings"]);
        let cron_job = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        assert_eq!(names(WorkloadType::CronJob, &cron_job), ["files", "more", "settings"]);
        assert!(config_maps(WorkloadType::Job, &json!({})).is_empty());
    }
}
