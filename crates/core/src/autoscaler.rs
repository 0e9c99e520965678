//! Horizontal pod autoscalers: list rows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    object::{Labels, Metadata, lenient_time, or_default},
    rows::{Cell, Field, Filter, ListRow},
    workload::Condition,
};

/// Fields of HorizontalPodAutoscaler (`autoscaling/v2`) that Pilothouse reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AutoscalerObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: AutoscalerSpec,
    #[serde(deserialize_with = "or_default")]
    status: AutoscalerStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AutoscalerSpec {
    #[serde(deserialize_with = "or_default")]
    scale_target_ref: Reference,
    min_replicas: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    max_replicas: i64,
    #[serde(deserialize_with = "or_default")]
    metrics: Vec<MetricObject>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AutoscalerStatus {
    #[serde(deserialize_with = "or_default")]
    current_replicas: i64,
    #[serde(deserialize_with = "or_default")]
    desired_replicas: i64,
    #[serde(deserialize_with = "lenient_time")]
    last_scale_time: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    current_metrics: Vec<MetricObject>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<ConditionObject>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Reference {
    #[serde(deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
}

impl Reference {
    fn text(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

/// A metric of `spec.metrics`, or its measurement in `status.currentMetrics`. Only the source named by `type` is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetricObject {
    #[serde(deserialize_with = "or_default")]
    r#type: String,
    resource: Option<MetricSource>,
    container_resource: Option<MetricSource>,
    pods: Option<MetricSource>,
    object: Option<MetricSource>,
    external: Option<MetricSource>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetricSource {
    /// Name of a resource.
    name: Option<String>,
    container: Option<String>,
    /// Name of a metric that is not a resource.
    #[serde(deserialize_with = "or_default")]
    metric: MetricName,
    described_object: Option<Reference>,
    /// Target, in the spec.
    target: Option<MetricNumbers>,
    /// Measurement, in the status.
    current: Option<MetricNumbers>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct MetricName {
    #[serde(deserialize_with = "or_default")]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MetricNumbers {
    average_utilization: Option<i64>,
    average_value: Option<String>,
    value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConditionObject {
    #[serde(deserialize_with = "or_default")]
    r#type: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
    reason: Option<String>,
    message: Option<String>,
    #[serde(deserialize_with = "lenient_time")]
    last_transition_time: Option<Timestamp>,
}

/// Value of a metric. Those that do not apply are null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricValue {
    /// Average over the pods, in percent of what they request.
    pub average_utilization: Option<i64>,
    /// Average over the pods, as a Kubernetes quantity.
    pub average_value: Option<String>,
    /// Value of the whole metric, as a Kubernetes quantity.
    pub value: Option<String>,
}

/// Metric of an autoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AutoscalerMetric {
    /// `Resource`, `ContainerResource`, `Pods`, `Object` or `External`.
    pub r#type: String,
    /// Name of the resource or metric, such as `cpu`.
    pub name: String,
    /// The measured container, for `ContainerResource`.
    pub container: Option<String>,
    /// The measured object, for `Object`: `Kind/name`.
    pub object: Option<String>,
    /// The value that the autoscaler aims at.
    pub target: MetricValue,
    /// The measured value; null if it could not be measured.
    pub current: Option<MetricValue>,
}

/// List row of a HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AutoscalerRow {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The object that it scales: `Kind/name`.
    pub target: String,
    /// Lower limit of the number of replicas.
    pub min_replicas: i64,
    /// Upper limit of the number of replicas.
    pub max_replicas: i64,
    /// Number of replicas when it last read its target; 0 before that.
    pub current_replicas: i64,
    /// Number of replicas that it last computed; 0 before that.
    pub desired_replicas: i64,
    /// Time at which it last changed the number of replicas.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_scale_at: Option<Timestamp>,
    /// Its metrics, in the order of its `spec`.
    pub metrics: Vec<AutoscalerMetric>,
    /// Its conditions: `AbleToScale`, `ScalingActive`, `ScalingLimited`.
    pub conditions: Vec<Condition>,
    /// UID of the object. An object that is created again under the same name has another one.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Creation time.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
}

impl AutoscalerRow {
    /// Projects a HorizontalPodAutoscaler.
    pub fn project(object: AutoscalerObject) -> Self {
        let AutoscalerObject { metadata, spec, status } = object;
        Self {
            name: metadata.name,
            namespace: metadata.namespace.unwrap_or_default(),
            uid: metadata.uid,
            target: spec.scale_target_ref.text(),
            // the API server's default is one replica
            min_replicas: spec.min_replicas.unwrap_or(1),
            max_replicas: spec.max_replicas,
            current_replicas: status.current_replicas,
            desired_replicas: status.desired_replicas,
            last_scale_at: status.last_scale_time,
            metrics: metrics(spec.metrics, status.current_metrics),
            conditions: status.conditions.into_iter().map(Condition::from).collect(),
            labels: metadata.labels,
            created_at: metadata.creation_timestamp,
        }
    }
}

/// The metrics of the spec with their measurements. The controller writes a measurement to the position of its metric,
/// and an empty one if it failed. Until it runs after a change of the spec, the measurements are of the old metrics.
fn metrics(spec: Vec<MetricObject>, status: Vec<MetricObject>) -> Vec<AutoscalerMetric> {
    let mut measured = status.into_iter().map(AutoscalerMetric::from);
    let with_measurement = |metric: AutoscalerMetric| {
        let measurement = measured.next().filter(|measurement| measurement.measures(&metric));
        AutoscalerMetric { current: measurement.and_then(|measurement| measurement.current), ..metric }
    };
    spec.into_iter().map(AutoscalerMetric::from).map(with_measurement).collect()
}

impl AutoscalerMetric {
    /// Whether this is a measurement of `metric`.
    fn measures(&self, metric: &Self) -> bool {
        let Self { r#type, name, container, object, .. } = self;
        (r#type, name, container, object) == (&metric.r#type, &metric.name, &metric.container, &metric.object)
    }
}

impl From<MetricObject> for AutoscalerMetric {
    fn from(metric: MetricObject) -> Self {
        let MetricObject { r#type, resource, container_resource, pods, object, external } = metric;
        let source = resource.or(container_resource).or(pods).or(object).or(external).unwrap_or_default();
        Self {
            r#type,
            name: source.name.unwrap_or(source.metric.name),
            container: source.container,
            object: source.described_object.map(|object| object.text()),
            target: source.target.unwrap_or_default().into(),
            current: source.current.map(MetricValue::from),
        }
    }
}

impl From<MetricNumbers> for MetricValue {
    fn from(numbers: MetricNumbers) -> Self {
        let MetricNumbers { average_utilization, average_value, value } = numbers;
        Self { average_utilization, average_value, value }
    }
}

impl From<ConditionObject> for Condition {
    fn from(condition: ConditionObject) -> Self {
        let ConditionObject { r#type, status, reason, message, last_transition_time } = condition;
        Self { r#type, status, reason, message, last_transition_time }
    }
}

impl ListRow for AutoscalerRow {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("name", |row| Cell::text(&*row.name)),
        Field::new("namespace", |row| Cell::text(&*row.namespace)),
        Field::new("uid", |row| Cell::text(&*row.uid)),
        Field::filtered("target", Filter::Reference, |row| Cell::text(&*row.target)),
        Field::new("min_replicas", |row| Cell::from(row.min_replicas)),
        Field::new("max_replicas", |row| Cell::from(row.max_replicas)),
        Field::new("current_replicas", |row| Cell::from(row.current_replicas)),
        Field::new("desired_replicas", |row| Cell::from(row.desired_replicas)),
        Field::new("last_scale_at", |row| Cell::from(row.last_scale_at)),
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

    fn row(object: Value) -> AutoscalerRow {
        AutoscalerRow::project(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn row_contains_target_limits_and_replicas() {
        let row = row(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "minReplicas": 2, "maxReplicas": 10},
            "status": {"currentReplicas": 3, "desiredReplicas": 4, "lastScaleTime": "2026-01-02T03:04:05Z",
                "conditions": [{"type": "ScalingLimited", "status": "False", "reason": "DesiredWithinRange"}]},
        }));
        assert_eq!(row.target, "Deployment/web");
        let replicas = [row.min_replicas, row.max_replicas, row.current_replicas, row.desired_replicas];
        assert_eq!(replicas, [2, 10, 3, 4]);
        assert_eq!(row.last_scale_at.map(|at| at.to_string()).as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(
            (row.conditions[0].r#type.as_str(), row.conditions[0].reason.as_deref()),
            ("ScalingLimited", Some("DesiredWithinRange"))
        );
    }

    #[test]
    fn min_replicas_defaults_to_one() {
        assert_eq!(row(json!({"spec": {"maxReplicas": 3}})).min_replicas, 1);
    }

    #[test]
    fn metric_has_its_target_and_its_measurement() {
        let resource = |section: &str, name: &str, numbers: Value| {
            let source = json!({"name": name, section: numbers});
            json!({"type": "Resource", "resource": source})
        };
        let container = |section: &str, numbers: Value| {
            json!({"type": "ContainerResource",
                "containerResource": {"name": "memory", "container": "app", section: numbers}})
        };
        let object = |section: &str, numbers: Value| {
            let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "shop"});
            json!({"type": "Object",
                "object": {"metric": {"name": "requests"}, "describedObject": ingress, section: numbers}})
        };
        let cpu = resource("target", "cpu", json!({"type": "Utilization", "averageUtilization": 80}));
        let unmeasured = json!({"type": "Resource", "name": "cpu", "container": null, "object": null,
            "target": {"average_utilization": 80, "average_value": null, "value": null}, "current": null});
        let mut measured = unmeasured.clone();
        measured["current"] = json!({"average_utilization": 62, "average_value": "155m", "value": null});
        let cases = [
            (
                cpu.clone(),
                json!([resource(
                    "current",
                    "cpu",
                    json!({"averageUtilization": 62, "averageValue": "155m"})
                )]),
                measured,
            ),
            (
                container("target", json!({"type": "AverageValue", "averageValue": "64Mi"})),
                json!([container("current", json!({"averageValue": "70Mi"}))]),
                json!({"type": "ContainerResource", "name": "memory", "container": "app", "object": null,
                    "target": {"average_utilization": null, "average_value": "64Mi", "value": null},
                    "current": {"average_utilization": null, "average_value": "70Mi", "value": null}}),
            ),
            (
                object("target", json!({"type": "Value", "value": "2k"})),
                json!([object("current", json!({"value": "1500"}))]),
                json!({"type": "Object", "name": "requests", "container": null, "object": "Ingress/shop",
                    "target": {"average_utilization": null, "average_value": null, "value": "2k"},
                    "current": {"average_utilization": null, "average_value": null, "value": "1500"}}),
            ),
            // not measured yet, measurement failed, measurement of a metric that was replaced
            (cpu.clone(), json!(null), unmeasured.clone()),
            (cpu.clone(), json!([{"type": ""}]), unmeasured.clone()),
            (cpu, json!([resource("current", "memory", json!({"averageUtilization": 62}))]), unmeasured),
        ];
        for (metric, status, expected) in cases {
            let row = row(json!({"spec": {"metrics": [metric]}, "status": {"currentMetrics": status}}));
            assert_eq!(json!(row.metrics), json!([expected]), "{status}");
        }
    }

    #[test]
    fn failed_measurement_does_not_shift_the_others() {
        let metric = |name: &str, section: &str| {
            let source = json!({"name": name, section: {"averageValue": "1"}});
            json!({"type": "Resource", "resource": source})
        };
        let row = row(json!({
            "spec": {"metrics": [metric("cpu", "target"), metric("memory", "target")]},
            "status": {"currentMetrics": [{"type": ""}, metric("memory", "current")]},
        }));
        let measured: Vec<_> = row.metrics.iter().map(|metric| metric.current.is_some()).collect();
        assert_eq!(measured, [false, true]);
    }
}
