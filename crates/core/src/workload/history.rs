//! History of a workload: its revisions, what caused them, and which one is wanted now.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{WorkloadType, detail::containers};
use crate::{
    audit::OperationRow,
    error::{Cause, Error, Result},
    gate::Warning,
    ids::OperationId,
    object::{Metadata, or_default, parse},
};

/// Annotation with the cause of a revision, as `kubectl rollout history` shows it.
pub const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotation of a replica set with the number of its revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Label that the Deployment controller adds to the pod template of a replica set.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Longest change cause that Pilothouse writes, in characters.
const MAX_CAUSE_CHARS: usize = 400;

/// A revision of a workload in its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionRow {
    /// Its number. A revision that becomes current again gets a new number.
    pub revision: i64,
    /// Name of the replica set or controller revision that stores it.
    pub name: String,
    /// Whether its pod template is the one of the workload.
    pub current: bool,
    /// Time at which the revision was first stored.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub created_at: Option<Timestamp>,
    /// Number of replicas that run it; null for stateful sets and daemon sets, where the cluster does not record it.
    pub replicas: Option<i64>,
    /// The images of its containers.
    pub images: Vec<String>,
    /// The annotation `kubernetes.io/change-cause` of the revision.
    pub change_cause: Option<String>,
    /// The audit row of the operation that the change cause names, if the caller may read it.
    pub by: Option<OperationRow>,
}

/// A revision as the cluster stores it: a replica set or a controller revision.
#[derive(Clone, Debug, Serialize)]
pub struct StoredRevision {
    /// Name of the object.
    pub name: String,
    /// Number of the revision.
    pub revision: Option<i64>,
    /// Creation time of the object.
    pub created_at: Option<Timestamp>,
    /// Number of replicas, of a replica set.
    pub replicas: Option<i64>,
    /// The annotation [`CHANGE_CAUSE`].
    pub change_cause: Option<String>,
    template: Option<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevisionObject {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    /// Number, in a controller revision.
    revision: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    spec: RevisionSpec,
    #[serde(deserialize_with = "or_default")]
    status: RevisionStatus,
    /// Patch of the workload, in a controller revision.
    #[serde(deserialize_with = "or_default")]
    data: RevisionData,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevisionSpec {
    template: Option<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevisionStatus {
    replicas: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RevisionData {
    #[serde(deserialize_with = "or_default")]
    spec: RevisionSpec,
}

impl StoredRevision {
    /// Projects the object that stores the revision.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object does not have the expected shape.
    pub fn project(object: &RawValue) -> Result<Self> {
        let RevisionObject { mut metadata, revision, spec, status, data } = parse(object)?;
        let annotated = metadata.annotations.get(REVISION).and_then(|text| text.parse().ok());
        Ok(Self {
            revision: revision.or(annotated),
            created_at: metadata.creation_timestamp,
            replicas: status.replicas,
            change_cause: metadata.annotations.remove(CHANGE_CAUSE),
            template: data.spec.template.or(spec.template),
            name: metadata.name,
        })
    }

    /// The pod template of the workload in this revision: without the label `pod-template-hash` of a replica set and
    /// the `$patch` of a controller revision.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object has no pod template.
    pub fn template(&self) -> Result<Value> {
        let unexpected = || Error::new(Cause::UnexpectedAnswer).read_only();
        let template = self.template.as_ref().ok_or_else(unexpected)?;
        let template = serde_json::from_str(template.get()).map_err(|_| unexpected())?;
        Ok(as_wanted(template))
    }
}

/// A pod template without what its controller adds to it in a revision, and without the empty creation time that older
/// API servers write into it.
fn as_wanted(mut template: Value) -> Value {
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("creationTimestamp").is_some_and(Value::is_null)
    {
        metadata.remove("creationTimestamp");
    }
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(TEMPLATE_HASH);
    }
    template
}

/// A workload with its revisions, as the cluster stores them.
#[derive(Clone, Debug)]
pub struct History {
    /// The workload, in the API server's JSON.
    pub workload: Box<RawValue>,
    /// Its revisions, in any order.
    pub revisions: Vec<StoredRevision>,
    /// Warning that the revisions could not be read.
    pub unreadable: Option<Warning>,
}

/// A workload whose revisions have numbers and are sorted, the newest first.
pub(crate) struct Revisions {
    pub(crate) metadata: Metadata,
    /// The workload's own pod template.
    pub(crate) template: Value,
    pub(crate) paused: bool,
    revisions: Vec<(i64, StoredRevision)>,
    /// Index of the current revision.
    current: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Workload {
    #[serde(deserialize_with = "or_default")]
    metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: WorkloadSpec,
    #[serde(deserialize_with = "or_default")]
    status: ObservedStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSpec {
    paused: Option<bool>,
    template: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObservedStatus {
    observed_generation: Option<i64>,
}

impl Revisions {
    /// Sorts the revisions, and finds the current one: the newest with the pod template of the workload. Where none has
    /// it, the newest one of a stateful set or daemon set whose controller has seen its last change: a controller
    /// revision may lack defaults of a newer API server.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if an object does not have the expected shape.
    pub(crate) fn of(
        r#type: WorkloadType,
        workload: &RawValue,
        revisions: Vec<StoredRevision>,
    ) -> Result<Self> {
        let Workload { metadata, spec, status } = parse(workload).map_err(Error::read_only)?;
        let template = as_wanted(spec.template);
        let mut revisions: Vec<_> =
            revisions.into_iter().filter_map(|revision| Some((revision.revision?, revision))).collect();
        revisions.sort_by(|(a_number, a), (b_number, b)| {
            (b_number, b.created_at, &a.name).cmp(&(a_number, a.created_at, &b.name))
        });
        let mut current = None;
        for (index, (_, revision)) in revisions.iter().enumerate() {
            if revision.template()? == template {
                current = Some(index);
                break;
            }
        }
        let is_observed = metadata.generation.is_some() && metadata.generation == status.observed_generation;
        let is_newest = r#type != WorkloadType::Deployment && is_observed && !revisions.is_empty();
        Ok(Self {
            metadata,
            template,
            paused: spec.paused.unwrap_or(false),
            revisions,
            current: current.or(is_newest.then_some(0)),
        })
    }

    /// The rows of the history, the newest first, without the audit rows.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if a revision does not have the expected shape.
    pub(crate) fn rows(&self) -> Result<Vec<RevisionRow>> {
        let row = |(index, (number, revision)): (usize, &(i64, StoredRevision))| {
            let template = revision.template()?;
            let images = containers(&template["spec"]).into_iter().filter(|container| !container.init);
            Ok(RevisionRow {
                revision: *number,
                name: revision.name.clone(),
                current: self.current == Some(index),
                created_at: revision.created_at,
                replicas: revision.replicas,
                images: images.map(|container| container.image).collect(),
                change_cause: revision.change_cause.clone(),
                by: None,
            })
        };
        self.revisions.iter().enumerate().map(row).collect()
    }

    /// The revision of this number; of several, the one that was created last. Without a number, the newest one that is
    /// not current, as `kubectl rollout undo` takes it.
    pub(crate) fn find(&self, number: Option<i64>) -> Option<(i64, &StoredRevision)> {
        let mut all = self.revisions.iter().enumerate();
        let found = all.find(|(index, (own, _))| match number {
            Some(number) => *own == number,
            None => self.current != Some(*index),
        });
        found.map(|(_, (number, revision))| (*number, revision))
    }

    /// The number of the current revision.
    pub(crate) fn current(&self) -> Option<i64> {
        self.current.map(|index| self.revisions[index].0)
    }

    /// Whether the revision is the current one.
    pub(crate) fn is_current(&self, revision: &StoredRevision) -> bool {
        self.current.is_some_and(|index| self.revisions[index].1.name == revision.name)
    }
}

/// The change cause of a change by Pilothouse: `pilothouse undo to 3, operation 01a2…`.
pub(crate) fn change_cause(what: &str, operation: OperationId) -> String {
    let short: String = what.chars().take(MAX_CAUSE_CHARS).collect();
    let mark = if short.len() < what.len() { "…" } else { "" };
    format!("pilothouse {short}{mark}, operation {operation}")
}

/// The operation that a change cause of Pilothouse names.
pub(crate) fn operation_of(change_cause: &str) -> Option<OperationId> {
    let (_, id) = change_cause.strip_prefix("pilothouse ")?.rsplit_once(", operation ")?;
    id.parse().ok().map(OperationId)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}})
    }

    fn replica_set(name: &str, revision: &str, image: &str) -> StoredRevision {
        let mut template = template(image);
        template["metadata"]["labels"]["pod-template-hash"] = json!("abc");
        let annotations = json!({REVISION: revision, CHANGE_CAUSE: format!("image {image}")});
        let object = json!({
            "metadata": {"name": name, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"template": template}, "status": {"replicas": 2},
        });
        StoredRevision::project(&raw(&object)).unwrap()
    }

    fn controller_revision(name: &str, revision: i64, image: &str) -> StoredRevision {
        let mut template = template(image);
        template["$patch"] = json!("replace");
        template["metadata"]["creationTimestamp"] = Value::Null;
        let object = json!({"metadata": {"name": name}, "revision": revision, "data": {"spec": {"template": template}}});
        StoredRevision::project(&raw(&object)).unwrap()
    }

    fn workload(image: &str) -> Value {
        json!({"metadata": {"name": "web", "generation": 4}, "spec": {"template": template(image)},
            "status": {"observedGeneration": 4}})
    }

    fn revisions(r#type: WorkloadType, workload: &Value, revisions: Vec<StoredRevision>) -> Revisions {
        Revisions::of(r#type, &raw(workload), revisions).unwrap()
    }

    #[test]
    fn history_is_sorted_by_number_and_marks_the_current_revision() {
        let stored = vec![
            replica_set("web-a", "9", "a:1"),
            replica_set("web-b", "10", "b:1"),
            replica_set("web-none", "", "c:1"),
        ];
        let rows = revisions(WorkloadType::Deployment, &workload("b:1"), stored).rows().unwrap();
        let short: Vec<_> =
            rows.iter().map(|row| (row.revision, &*row.name, row.current, &*row.images[0])).collect();
        assert_eq!(short, [(10, "web-b", true, "b:1"), (9, "web-a", false, "a:1")]);
        assert_eq!((rows[1].change_cause.as_deref(), rows[1].replicas), (Some("image a:1"), Some(2)));
    }

    #[test]
    fn template_of_a_revision_is_that_of_the_workload() {
        for stored in [replica_set("web-a", "1", "a:1"), controller_revision("web-a", 1, "a:1")] {
            assert_eq!(stored.template().unwrap(), template("a:1"));
        }
        let empty =
            StoredRevision::project(&raw(&json!({"metadata": {"name": "a"}, "revision": 1}))).unwrap();
        assert_eq!(empty.template().unwrap_err().cause, Cause::UnexpectedAnswer);
    }

    #[test]
    fn revision_before_the_current_one_is_found() {
        let stored = || {
            vec![
                replica_set("web-a", "1", "a:1"),
                replica_set("web-b", "2", "b:1"),
                replica_set("web-c", "3", "c:1"),
            ]
        };
        let found = |image: &str, number| {
            let revisions = revisions(WorkloadType::Deployment, &workload(image), stored());
            revisions.find(number).map(|(number, revision)| (number, revisions.is_current(revision)))
        };
        assert_eq!(found("c:1", None), Some((2, false)));
        // the controller has not stored a revision of the last change yet
        assert_eq!(found("d:1", None), Some((3, false)));
        assert_eq!(found("c:1", Some(3)), Some((3, true)));
        assert_eq!(found("c:1", Some(1)), Some((1, false)));
        assert_eq!(found("c:1", Some(4)), None);
        let only = revisions(WorkloadType::Deployment, &workload("a:1"), vec![replica_set("a", "1", "a:1")]);
        assert!(only.find(None).is_none());
    }

    #[test]
    fn of_two_revisions_with_one_number_the_newer_is_found() {
        let mut newer = replica_set("web-a", "3", "new:1");
        newer.created_at = Some("2026-01-02T00:00:00Z".parse().unwrap());
        let stored = vec![replica_set("web-b", "3", "old:1"), newer];
        let revisions = revisions(WorkloadType::Deployment, &workload("c:1"), stored);
        assert_eq!(revisions.find(Some(3)).unwrap().1.name, "web-a");
    }

    #[test]
    fn current_controller_revision_may_lack_defaults_of_a_newer_server() {
        let stored = || vec![controller_revision("db-1", 1, "a:1"), controller_revision("db-2", 2, "b:1")];
        let mut set = workload("b:1");
        set["spec"]["template"]["spec"]["newDefault"] = json!(true);
        let current = |r#type, set: &Value| {
            let rows = revisions(r#type, set, stored()).rows().unwrap();
            rows.iter().find(|row| row.current).map(|row| row.revision)
        };
        assert_eq!(current(WorkloadType::StatefulSet, &set), Some(2));
        // a paused deployment has no revision of its last change
        assert_eq!(current(WorkloadType::Deployment, &set), None);
        set["status"]["observedGeneration"] = json!(3);
        assert_eq!(current(WorkloadType::StatefulSet, &set), None);
    }

    #[test]
    fn change_cause_names_the_operation() {
        let id = OperationId("01a20528-4f82-706b-87c6-a6e63d9e3888".parse().unwrap());
        let cause = change_cause("undo to 3", id);
        assert_eq!(cause, "pilothouse undo to 3, operation 01a20528-4f82-706b-87c6-a6e63d9e3888");
        assert_eq!(operation_of(&cause), Some(id));
        let long = change_cause(&"写".repeat(1000), id);
        assert!(long.chars().count() < 500 && operation_of(&long) == Some(id), "{long}");
        for other in ["kubectl set image web=a:1", "pilothouse undo to 3, operation x", "pilothouse ", ""] {
            assert_eq!(operation_of(other), None, "{other}");
        }
    }
}
