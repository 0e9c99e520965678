//! Manifests of Jobs that are made from a CronJob, or from another Job.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    error::Result,
    name::ObjectName,
    object::{Labels, Metadata, OwnerReference, or_default, parse},
};

/// Annotation of a Job that a CronJob did not start by its schedule.
const INSTANTIATE: &str = "cronjob.kubernetes.io/instantiate";
/// Labels that the Job controller gives to a Job and to the pods of its template. Those of another Job are refused.
const CONTROLLER_LABELS: [&str; 4] =
    ["controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"];
/// Annotations that are about one Job: the manifest it was applied with, and the time for which it was started.
const OWN_ANNOTATIONS: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "batch.kubernetes.io/cronjob-scheduled-timestamp",
    "batch.kubernetes.io/job-tracking",
];
/// Fields of a Job's spec that select the pods of one Job, or keep it from running.
const OWN_FIELDS: [&str; 3] = ["selector", "manualSelector", "suspend"];

/// A Job to create. It has no `Debug` output, because its environment may contain passwords.
pub struct NewJob {
    /// Its manifest.
    pub manifest: Value,
    /// Name of a Job that is still running, and that the source of the manifest does not want beside another one.
    pub beside: Option<String>,
}

#[derive(Deserialize)]
struct CronJobObject {
    metadata: Metadata,
    spec: CronJobSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: CronJobStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CronJobSpec {
    #[serde(default, deserialize_with = "or_default")]
    concurrency_policy: String,
    job_template: JobTemplate,
}

#[derive(Deserialize)]
struct JobTemplate {
    #[serde(default, deserialize_with = "or_default")]
    metadata: Metadata,
    spec: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CronJobStatus {
    #[serde(deserialize_with = "or_default")]
    active: Vec<ActiveJob>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ActiveJob {
    name: String,
}

#[derive(Deserialize)]
struct JobObject {
    metadata: Metadata,
    spec: Map<String, Value>,
    #[serde(default, deserialize_with = "or_default")]
    status: JobStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobStatus {
    #[serde(deserialize_with = "or_default")]
    active: i64,
}

impl NewJob {
    /// The Job `name` from the template of a CronJob, as `kubectl create job --from=cronjob/…` makes it. It runs beside
    /// another one if the CronJob has the policy `Forbid`.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a CronJob.
    pub fn of_cron_job(cron_job: &RawValue, name: &ObjectName) -> Result<Self> {
        let CronJobObject { metadata, spec, status } = parse(cron_job)?;
        let Metadata { labels, mut annotations, .. } = spec.job_template.metadata;
        annotations.entry(INSTANTIATE.to_owned()).or_insert_with(|| "manual".to_owned());
        let owner = owner_reference(&metadata.name, &metadata.uid);
        let manifest = NewMetadata { name, namespace: &metadata, labels, annotations, owner: Some(owner) };
        let active = status.active.into_iter().next().filter(|_| spec.concurrency_policy == "Forbid");
        Ok(Self {
            manifest: manifest.with_spec(spec.job_template.spec),
            beside: active.map(|active| active.name),
        })
    }

    /// The Job `name` as a copy of another Job. It belongs to the same CronJob, and to no other owner: another controller
    /// would take it for the Job that it made.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a Job.
    pub fn of_job(job: &RawValue, name: &ObjectName) -> Result<Self> {
        let JobObject { mut metadata, mut spec, status } = parse(job)?;
        let mut labels = std::mem::take(&mut metadata.labels);
        let mut annotations = std::mem::take(&mut metadata.annotations);
        labels.retain(|key, _| !CONTROLLER_LABELS.contains(&key.as_str()));
        annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
        spec.retain(|key, _| !OWN_FIELDS.contains(&key.as_str()));
        let template = spec.get_mut("template").and_then(|template| template.pointer_mut("/metadata/labels"));
        if let Some(labels) = template.and_then(Value::as_object_mut) {
            labels.retain(|key, _| !CONTROLLER_LABELS.contains(&key.as_str()));
        }
        let owner = metadata.controller().filter(|owner| owner.kind == "CronJob");
        let owner = owner.map(|OwnerReference { name, uid, .. }| owner_reference(name, uid));
        if owner.is_some() {
            annotations.insert(INSTANTIATE.to_owned(), "manual".to_owned());
        }
        let manifest = NewMetadata { name, namespace: &metadata, labels, annotations, owner };
        let manifest = manifest.with_spec(spec.into());
        Ok(Self { manifest, beside: (status.active > 0).then_some(metadata.name) })
    }
}

/// The metadata of a new Job.
struct NewMetadata<'a> {
    name: &'a ObjectName,
    /// Metadata of the source, in whose namespace the Job is.
    namespace: &'a Metadata,
    labels: Labels,
    annotations: Labels,
    owner: Option<Value>,
}

impl NewMetadata<'_> {
    fn with_spec(self, spec: Value) -> Value {
        let Self { name, namespace, labels, annotations, owner } = self;
        let mut metadata = json!({
            "name": name.as_str(), "namespace": namespace.namespace, "labels": labels, "annotations": annotations,
        });
        if let Some(owner) = owner {
            metadata["ownerReferences"] = json!([owner]);
        }
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec})
    }
}

/// The reference to a CronJob as the controller. `blockOwnerDeletion` is not set: it takes the right to update the
/// finalizers of the CronJob.
fn owner_reference(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": name, "uid": uid, "controller": true})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    fn cron_job(policy: &str, active: Value) -> Value {
        let template = json!({
            "metadata": {"labels": {"app": "report"}, "annotations": {"team": "shop"}},
            "spec": {"backoffLimit": 2, "futureField": {"a": 1}, "template": {"spec": {"restartPolicy": "Never"}}},
        });
        json!({"metadata": {"name": "report", "namespace": "shop", "uid": "c1", "labels": {"of": "the cron job"}},
            "spec": {"concurrencyPolicy": policy, "suspend": true, "jobTemplate": template},
            "status": {"active": active}})
    }

    #[test]
    fn job_of_a_cron_job_is_what_kubectl_creates() {
        let new = NewJob::of_cron_job(&raw(&cron_job("Allow", json!(null))), &name("report-1")).unwrap();
        assert_eq!(
            new.manifest,
            json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": "report-1", "namespace": "shop", "labels": {"app": "report"},
                    "annotations": {"team": "shop", "cronjob.kubernetes.io/instantiate": "manual"},
                    "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "report",
                        "uid": "c1", "controller": true}]},
                "spec": {"backoffLimit": 2, "futureField": {"a": 1},
                    "template": {"spec": {"restartPolicy": "Never"}}}})
        );
        assert_eq!(new.beside, None);
    }

    #[test]
    fn running_job_is_named_only_where_the_cron_job_forbids_another() {
        let cases = [
            ("Forbid", json!([{"name": "report-0"}]), Some("report-0")),
            ("Forbid", json!([]), None),
            ("Allow", json!([{"name": "report-0"}]), None),
            ("Replace", json!([{"name": "report-0"}]), None),
        ];
        for (policy, active, expected) in cases {
            let new = NewJob::of_cron_job(&raw(&cron_job(policy, active)), &name("report-1")).unwrap();
            assert_eq!(new.beside.as_deref(), expected, "{policy}");
        }
    }

    fn job(owners: Value, active: Value) -> Value {
        let labels = json!({"app": "migrate", "controller-uid": "j1", "job-name": "migrate",
            "batch.kubernetes.io/controller-uid": "j1", "batch.kubernetes.io/job-name": "migrate"});
        let annotations = json!({"team": "shop", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-02T03:00:00Z"});
        json!({
            "metadata": {"name": "migrate", "namespace": "shop", "uid": "j1", "resourceVersion": "7",
                "labels": labels, "annotations": annotations, "ownerReferences": owners},
            "spec": {"suspend": true, "manualSelector": false, "selector": {"matchLabels": {"job-name": "migrate"}},
                "completions": 2, "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never"}}},
            "status": {"active": active, "succeeded": 1},
        })
    }

    #[test]
    fn copy_of_a_job_selects_its_own_pods_and_runs() {
        let new = NewJob::of_job(&raw(&job(json!(null), json!(null))), &name("migrate-2")).unwrap();
        assert_eq!(
            new.manifest,
            json!({"apiVersion": "batch/v1", "kind": "Job",
                "metadata": {"name": "migrate-2", "namespace": "shop", "labels": {"app": "migrate"},
                    "annotations": {"team": "shop"}},
                "spec": {"completions": 2, "template": {"metadata": {"labels": {"app": "migrate"}},
                    "spec": {"restartPolicy": "Never"}}}})
        );
        assert_eq!(new.beside, None);
        let running = NewJob::of_job(&raw(&job(json!([]), json!(1))), &name("migrate-2")).unwrap();
        assert_eq!(running.beside.as_deref(), Some("migrate"));
    }

    #[test]
    fn copy_of_a_job_belongs_to_its_cron_job_and_to_no_other_owner() {
        let owner = |kind: &str| json!([{"kind": kind, "name": "report", "uid": "c1", "controller": true}]);
        let of_cron_job = NewJob::of_job(&raw(&job(owner("CronJob"), json!(0))), &name("again")).unwrap();
        assert_eq!(
            of_cron_job.manifest["metadata"]["ownerReferences"],
            json!([owner_reference("report", "c1")])
        );
        assert_eq!(of_cron_job.manifest["metadata"]["annotations"][INSTANTIATE], "manual");
        let of_another = NewJob::of_job(&raw(&job(owner("Workflow"), json!(0))), &name("again")).unwrap();
        assert_eq!(of_another.manifest["metadata"].get("ownerReferences"), None);
    }

    #[test]
    fn other_objects_are_refused() {
        for object in [json!({}), json!({"metadata": {}, "spec": {}}), json!([])] {
            assert!(NewJob::of_cron_job(&raw(&object), &name("x")).is_err(), "{object}");
        }
        assert!(NewJob::of_job(&raw(&json!({"metadata": {}})), &name("x")).is_err());
    }
}
