//! Fields of workload objects that Pilothouse reads.

use jiff::Timestamp;
use serde::Deserialize;

use crate::object::{Labels, Metadata, lenient_time, or_default};

/// Fields of a workload that Pilothouse reads: the union over all types.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadObject {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: ObjectStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) replicas: Option<i64>,
    pub(super) paused: Option<bool>,
    pub(super) suspend: Option<bool>,
    pub(super) schedule: Option<String>,
    pub(super) time_zone: Option<String>,
    pub(super) concurrency_policy: Option<String>,
    pub(super) completions: Option<i64>,
    pub(super) parallelism: Option<i64>,
    pub(super) selector: Option<Selector>,
    #[serde(deserialize_with = "or_default")]
    pub(super) update_strategy: UpdateStrategy,
    #[serde(deserialize_with = "or_default")]
    pub(super) template: Template,
    #[serde(deserialize_with = "or_default")]
    pub(super) job_template: JobTemplate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(deserialize_with = "or_default")]
    pub(super) match_labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct UpdateStrategy {
    pub(super) r#type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) rolling_update: RollingUpdate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RollingUpdate {
    pub(super) partition: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobTemplate {
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: JobSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct JobSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) template: Template,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Template {
    #[serde(deserialize_with = "or_default")]
    pub(super) metadata: TemplateMetadata,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: TemplateSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateMetadata {
    #[serde(deserialize_with = "or_default")]
    pub(super) annotations: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    #[serde(deserialize_with = "or_default")]
    pub(super) image: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ObjectStatus {
    pub(super) observed_generation: Option<i64>,
    pub(super) replicas: Option<i64>,
    pub(super) ready_replicas: Option<i64>,
    pub(super) updated_replicas: Option<i64>,
    pub(super) available_replicas: Option<i64>,
    pub(super) desired_number_scheduled: Option<i64>,
    pub(super) number_ready: Option<i64>,
    pub(super) updated_number_scheduled: Option<i64>,
    pub(super) number_available: Option<i64>,
    pub(super) ready: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) conditions: Vec<StatusCondition>,
    /// A number in a job, a list of references in a cron job.
    pub(super) active: Option<serde_json::Value>,
    #[serde(deserialize_with = "lenient_time")]
    pub(super) last_schedule_time: Option<Timestamp>,
    #[serde(deserialize_with = "lenient_time")]
    pub(super) last_successful_time: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StatusCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) reason: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
    #[serde(deserialize_with = "lenient_time")]
    pub(super) last_transition_time: Option<Timestamp>,
}

impl ObjectStatus {
    pub(super) fn condition(&self, kind: &str) -> Option<&StatusCondition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether a job of a cron job runs.
    pub(super) fn has_active_job(&self) -> bool {
        self.active.as_ref().and_then(serde_json::Value::as_array).is_some_and(|jobs| !jobs.is_empty())
    }

    pub(super) fn has_condition(&self, kind: &str, value: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == value)
    }
}
