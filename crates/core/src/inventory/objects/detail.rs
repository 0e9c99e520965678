//! Details of an object of any kind: the object without internal fields, as JSON and as YAML, with the owners of its
//! fields, its events and its level.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{FieldOwner, owners::owners, yaml};
use crate::{
    error::{Cause, Error, Result},
    event::EventRow,
    gate::Warning,
    inventory::LISTS,
    kind::Kind,
    level,
    manifest::{mask, read_manifest},
    mask::MaskedFields,
    object::{Metadata, or_default, parse},
    rows::{Aging, Level},
};

/// Maximum number of events in the details.
const MAX_EVENTS: usize = 20;

/// An object, and the events about it.
#[derive(Clone, Debug)]
pub struct ObjectParts {
    /// The object, in the API server's JSON.
    pub object: Box<RawValue>,
    /// Events about it.
    pub events: Vec<EventRow>,
    /// Warnings about parts that could not be read.
    pub warnings: Vec<Warning>,
}

/// Details of an object of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObjectDetail {
    /// The object without `managedFields` and the last applied configuration.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub object: Value,
    /// The same as YAML.
    pub yaml: String,
    /// The owners of its fields, by path: at most 5000.
    pub owners: Vec<FieldOwner>,
    /// The tool that manages the object, and would undo a change by hand; null if none is known to.
    pub managed_by: Option<ManagedBy>,
    /// The newest 20 events about it, newest first.
    pub events: Vec<EventRow>,
    /// Level of its status, as in the list of its kind; of other kinds by its conditions. Null if it has no status.
    pub level: Option<Level>,
    /// The cause of its level, in Kubernetes' word; null if there is none.
    pub reason: Option<String>,
    /// Its resource version.
    pub resource_version: String,
    /// Its uid.
    pub uid: String,
    /// Warnings about parts that could not be read. The response carries them as messages.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// Tool that manages objects from a source of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ManagedBy {
    /// Helm.
    Helm,
    /// Argo CD.
    Argocd,
    /// Flux.
    Flux,
}

#[derive(Deserialize)]
struct WithMetadata {
    #[serde(default, deserialize_with = "or_default")]
    metadata: Metadata,
}

impl ObjectDetail {
    /// Assembles the details of an object of this kind and name at `now`. The use case masks the
    /// object and adds its YAML.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is another one; `SecretRefused` if it is a Secret, whatever its kind was called.
    pub fn assemble(kind: Kind, name: &str, parts: ObjectParts, now: Timestamp) -> Result<Self> {
        let ObjectParts { object: raw, mut events, warnings } = parts;
        let WithMetadata { metadata } = parse(&raw)?;
        let object = read_manifest(&raw)?;
        if object["kind"] == "Secret" && object["apiVersion"] == "v1" {
            return Err(Error::new(Cause::SecretRefused));
        }
        if metadata.name != name {
            return Err(Error::new(Cause::UnexpectedAnswer));
        }
        let (owners, managers) = owners(&raw, &object)?;
        events.sort_by(|a, b| b.last_seen.cmp(&a.last_seen).then_with(|| a.name.cmp(&b.name)));
        events.truncate(MAX_EVENTS);
        let Status { level, reason } = Status::of(kind, &raw, &object, now);
        Ok(Self {
            managed_by: ManagedBy::of(&metadata, &managers),
            object,
            yaml: String::new(),
            owners,
            events,
            level,
            reason,
            resource_version: metadata.resource_version,
            uid: metadata.uid,
            warnings,
        })
    }

    /// Masks the literal values of environment variables and these fields, if any are given, and writes the YAML.
    #[must_use]
    pub(super) fn finish(mut self, masked: Option<&MaskedFields>) -> Self {
        if let Some(fields) = masked {
            mask(&mut self.object, fields);
        }
        self.yaml = yaml::document(&self.object);
        self
    }
}

impl ManagedBy {
    /// The tool that marks the object, or owns a field of it. Flux is asked first: it also installs Helm's releases.
    fn of(metadata: &Metadata, managers: &[String]) -> Option<Self> {
        let labels = |keys: &[&str]| keys.iter().any(|key| metadata.labels.contains_key(*key));
        let annotations = |keys: &[&str]| keys.iter().any(|key| metadata.annotations.contains_key(*key));
        let owns = |names: &[&str]| managers.iter().any(|manager| names.contains(&&**manager));
        if labels(&["kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name"])
            || owns(&["kustomize-controller", "helm-controller"])
        {
            Some(Self::Flux)
        } else if annotations(&["argocd.argoproj.io/tracking-id"])
            || labels(&["argocd.argoproj.io/instance"])
            || owns(&["argocd-controller", "argocd-application-controller"])
        {
            Some(Self::Argocd)
        } else if annotations(&["meta.helm.sh/release-name"])
            || metadata.labels.get("app.kubernetes.io/managed-by").is_some_and(|by| by == "Helm")
            || owns(&["helm"])
        {
            Some(Self::Helm)
        } else {
            None
        }
    }
}

/// Level of an object, and its cause.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Status {
    level: Option<Level>,
    reason: Option<String>,
}

/// A condition of an object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(deserialize_with = "or_default")]
    r#type: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
    reason: Option<String>,
}

impl Status {
    /// The status of an object at `now`: that of its row, if its kind has a list.
    fn of(kind: Kind, raw: &RawValue, object: &Value, now: Timestamp) -> Self {
        let list = LISTS.iter().find(|list| list.kinds.contains(&kind) || list.more_kinds.contains(&kind));
        let Some((list, project)) = list.and_then(|list| Some((list, list.project?))) else {
            return Self::by_conditions(object, now);
        };
        // an object of several rows has no level of its own, nor has one that cannot be projected
        match project(kind, raw).as_deref() {
            Ok([row]) => {
                let row = Aging::of(&(list.fields)()).advance(row.clone(), now);
                row.parse().unwrap_or_default()
            }
            _ => Self::default(),
        }
    }

    /// The status by the conditions that are common among custom resources: `Ready` and its like, `Stalled`,
    /// `Reconciling`, as kstatus reads them.
    fn by_conditions(object: &Value, now: Timestamp) -> Self {
        let deleted_at = object["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse().ok());
        if deleted_at.is_some() {
            let status = "Terminating";
            let level = level::of_phase(Some(status), None, deleted_at).at(now).level;
            return Self { level: Some(level), reason: Some(status.to_owned()) };
        }
        let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let conditions = conditions.iter().filter_map(|value| Condition::deserialize(value).ok());
        let conditions: Vec<Condition> = conditions.collect();
        let find = |types: &[&str], status: &[&str]| {
            let is_it =
                |found: &&Condition| types.contains(&&*found.r#type) && status.contains(&&*found.status);
            conditions.iter().find(is_it)
        };
        let ready = ["Ready", "Available", "Healthy", "Established"];
        let rules = [
            (find(&["Stalled", "Failed"], &["True"]), Level::Bad),
            (find(&ready, &["False", "Unknown"]), Level::Warn),
            (find(&["Reconciling"], &["True"]), Level::Progress),
            (find(&ready, &["True"]), Level::Ok),
        ];
        let found = rules.into_iter().find_map(|(condition, level)| Some((condition?, level)));
        found.map_or_else(Self::default, |(condition, level)| {
            let reason = condition.reason.clone().filter(|reason| !reason.is_empty() && level != Level::Ok);
            Self { level: Some(level), reason }
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::dynamic_kind::{DynamicKind, KindNames};

    fn boats() -> Kind {
        let names = KindNames {
            group: "day2.example.org",
            version: "v1",
            plural: "boats",
            kind: "Boat",
            namespaced: true,
            custom: true,
        };
        Kind::Dynamic(DynamicKind::new(names).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn assemble(kind: Kind, object: &Value) -> Result<ObjectDetail> {
        let parts =
            ObjectParts { object: to_raw_value(object).unwrap(), events: Vec::new(), warnings: Vec::new() };
        ObjectDetail::assemble(kind, "ship", parts, at("2026-03-01T12:00:00Z"))
    }

    #[test]
    fn internal_fields_and_masked_values_are_not_shown() {
        let object = json!({
            "apiVersion": "day2.example.org/v1", "kind": "Boat",
            "metadata": {
                "name": "ship", "uid": "u-1", "resourceVersion": "7",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary-applied", "a": "b"},
                "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {
                    "f:spec": {"f:env": {"k:{\"name\":\"canary-key\"}": {"f:value": {}}}, "f:crew": {"v:\"canary-value\"": {}}}}}],
            },
            "spec": {"env": [{"name": "TOKEN", "value": "canary-literal"}], "password": "canary-field", "crew": ["ann"]},
        });
        let detail = assemble(boats(), &object).unwrap();
        assert_eq!((&*detail.uid, &*detail.resource_version), ("u-1", "7"));
        let shown =
            |masked: Option<&MaskedFields>| serde_json::to_string(&detail.clone().finish(masked)).unwrap();
        let plain = shown(None);
        assert!(plain.contains("canary-literal") && plain.contains("canary-field"));
        for hidden in ["canary-applied", "canary-key", "canary-value", "managedFields"] {
            assert!(!plain.contains(hidden), "{hidden}");
        }
        assert!(!shown(Some(&"/spec/password".parse().unwrap())).contains("canary"));
        let yaml = detail.finish(None).yaml;
        assert!(yaml.contains("password: canary-field\n"), "{yaml}");
    }

    #[test]
    fn secrets_and_other_objects_are_refused() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ship"}, "data": {"a": "Y2FuYXJ5"}});
        assert_eq!(assemble(boats(), &secret).unwrap_err().cause, Cause::SecretRefused);
        let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}});
        assert_eq!(assemble(boats(), &other).unwrap_err().cause, Cause::UnexpectedAnswer);
    }

    #[test]
    fn managing_tool_is_found_by_its_marks() {
        let found = |metadata: Value| {
            let mut object = json!({"kind": "Boat", "metadata": metadata});
            object["metadata"]["name"] = "ship".into();
            assemble(boats(), &object).unwrap().managed_by
        };
        assert_eq!(found(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}})), Some(ManagedBy::Helm));
        assert_eq!(
            found(json!({"annotations": {"meta.helm.sh/release-name": "web"}})),
            Some(ManagedBy::Helm)
        );
        assert_eq!(found(json!({"labels": {"app.kubernetes.io/managed-by": "kustomize"}})), None);
        assert_eq!(
            found(json!({"annotations": {"argocd.argoproj.io/tracking-id": "a:b"}})),
            Some(ManagedBy::Argocd)
        );
        assert_eq!(
            found(json!({"managedFields": [{"manager": "argocd-controller"}]})),
            Some(ManagedBy::Argocd)
        );
        let both =
            json!({"labels": {"helm.toolkit.fluxcd.io/name": "web", "app.kubernetes.io/managed-by": "Helm"}});
        assert_eq!(found(both), Some(ManagedBy::Flux));
        assert_eq!(found(json!({})), None);
    }

    #[test]
    fn custom_resources_have_the_level_of_their_conditions() {
        let found = |conditions: Value| {
            let Status { level, reason } =
                Status::by_conditions(&json!({"status": {"conditions": conditions}}), Timestamp::UNIX_EPOCH);
            (level, reason.unwrap_or_default())
        };
        let one = |r#type: &str, status: &str| json!([{"type": r#type, "status": status, "reason": "Why"}]);
        let cases = [
            (one("Ready", "True"), (Some(Level::Ok), "")),
            (one("Ready", "False"), (Some(Level::Warn), "Why")),
            (one("Ready", "Unknown"), (Some(Level::Warn), "Why")),
            (one("Stalled", "True"), (Some(Level::Bad), "Why")),
            (one("Reconciling", "True"), (Some(Level::Progress), "Why")),
            (one("Stalled", "False"), (None, "")),
            (one("Painted", "False"), (None, "")),
            (
                json!([{"type": "Ready", "status": "True"}, {"type": "Stalled", "status": "True"}]),
                (Some(Level::Bad), ""),
            ),
            (json!([7, null, {"type": null}]), (None, "")),
            (json!("none"), (None, "")),
        ];
        for (conditions, (level, reason)) in cases {
            assert_eq!(found(conditions.clone()), (level, reason.to_owned()), "{conditions}");
        }
        let deleted = |seconds: i64| {
            let object = json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}});
            Status::by_conditions(&object, at("2026-03-01T12:00:00Z") + SignedDuration::from_secs(seconds))
        };
        for (seconds, level) in [(0, Level::Progress), (599, Level::Progress), (601, Level::Warn)] {
            assert_eq!(
                deleted(seconds),
                Status { level: Some(level), reason: Some("Terminating".to_owned()) }
            );
        }
    }

    #[test]
    fn kind_with_a_list_has_the_level_of_its_row() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ship", "namespace": "shop"},
            "status": {"phase": "Failed", "conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(assemble(Kind::Pod, &pod).unwrap().level, Some(Level::Bad));
    }
}
