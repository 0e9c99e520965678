//! Changes of a rollout as JSON patches: undo, pause, resume, new images.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::history::{CHANGE_CAUSE, Revisions, StoredRevision};
use crate::{
    error::{Cause, Error, FieldError, Reason, Result},
    json_patch::{JsonPatch, pointer},
    kind::Kind,
    name::{ContainerName, ObjectName},
    object::Metadata,
};

/// Maximum number of references of a pod template that are checked.
const MAX_REFERENCES: usize = 32;
/// The lists of containers in a pod template.
const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// New images of containers, by the name of the container: 1 to 50.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images(BTreeMap<ContainerName, String>);

impl Images {
    /// Maximum number of containers.
    pub const MAX: usize = 50;
    /// Maximum length of an image, in characters.
    pub const MAX_IMAGE_CHARS: usize = 512;

    /// Checks images: each 1 to [`Images::MAX_IMAGE_CHARS`] visible ASCII characters. The cluster's nodes decide whether
    /// there is such an image.
    ///
    /// # Errors
    /// `InvalidInput`, naming each container as `images.<name>`.
    pub fn new(images: BTreeMap<String, String>) -> Result<Self> {
        let mut refused = Vec::new();
        match images.len() {
            0 => refused.push(FieldError { name: "images".to_owned(), reason: Reason::Required }),
            n if n > Self::MAX => {
                refused.push(FieldError { name: "images".to_owned(), reason: Reason::TooLong });
            }
            _ => {}
        }
        let mut checked = BTreeMap::new();
        for (container, image) in images {
            let name = format!("images.{container}");
            match ContainerName::new(container).and_then(|container| Ok((container, check(image)?))) {
                Ok((container, image)) => drop(checked.insert(container, image)),
                Err(reason) => refused.push(FieldError { name, reason }),
            }
        }
        if refused.is_empty() { Ok(Self(checked)) } else { Err(Error::fields(refused)) }
    }

    /// The images in one line, for the audit trail: `web=nginx:2 log=fluent-bit:4`.
    pub fn summary(&self) -> String {
        self.0.iter().map(|(name, image)| format!("{name}={image}")).collect::<Vec<_>>().join(" ")
    }
}

fn check(image: String) -> Result<String, Reason> {
    match image.len() {
        0 => Err(Reason::Required),
        length if length > Images::MAX_IMAGE_CHARS => Err(Reason::TooLong),
        _ if image.bytes().all(|b| b.is_ascii_graphic()) => Ok(image),
        _ => Err(Reason::Malformed),
    }
}

/// An object of the workload's namespace that a pod template needs, so that its pods can start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// ConfigMap or Secret.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
}

/// The patch that makes a revision the wanted one; `None` if it is already. Only the pod template and the change cause
/// change.
///
/// # Errors
/// `UnexpectedAnswer` if the revision has no pod template.
pub(crate) fn undo(
    revisions: &Revisions,
    revision: &StoredRevision,
    change_cause: &str,
) -> Result<Option<JsonPatch>> {
    let template = revision.template()?;
    if revisions.is_current(revision) || template == revisions.template {
        return Ok(None);
    }
    let patch = JsonPatch::of(&revisions.metadata).replace("/spec/template", template);
    Ok(Some(patch.annotate(&revisions.metadata, CHANGE_CAUSE, change_cause)))
}

/// The fields of a workload that the other changes need.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Workload {
    #[serde(deserialize_with = "crate::object::or_default")]
    pub(crate) metadata: Metadata,
    pub(crate) spec: Value,
}

impl Workload {
    /// Whether its rollout is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.spec["paused"] == true
    }

    /// The patch that pauses or resumes the rollout; `None` if it is so already.
    pub(crate) fn pause(&self, paused: bool) -> Option<JsonPatch> {
        let patch = || JsonPatch::of(&self.metadata).add("/spec/paused", paused);
        (self.is_paused() != paused).then(patch)
    }

    /// The patch that sets images; `None` if the containers have them already.
    ///
    /// # Errors
    /// `NotFoundInCluster`, naming a container that the pod template does not have.
    pub(crate) fn set_images(
        &self,
        Images(images): &Images,
        change_cause: &str,
    ) -> Result<Option<JsonPatch>> {
        let mut patch = JsonPatch::of(&self.metadata);
        let (mut is_changed, mut missing) = (false, images.keys().collect::<BTreeSet<_>>());
        let pod = &self.spec["template"]["spec"];
        for list in CONTAINER_LISTS {
            for (index, container) in pod[list].as_array().into_iter().flatten().enumerate() {
                let name = container["name"].as_str().unwrap_or_default();
                let Some((name, image)) = images.iter().find(|(wanted, _)| wanted.as_str() == name) else {
                    continue;
                };
                missing.remove(name);
                if container["image"] != image.as_str() {
                    let index = index.to_string();
                    let path = pointer(&["spec", "template", "spec", list, &index, "image"]);
                    (patch, is_changed) = (patch.add(&path, image.as_str()), true);
                }
            }
        }
        match missing.first() {
            Some(name) => Err(Error::new(Cause::NotFoundInCluster).resource("container").name(name.as_str())),
            None => Ok(is_changed.then(|| patch.annotate(&self.metadata, CHANGE_CAUSE, change_cause))),
        }
    }
}

/// The ConfigMaps and Secrets that a pod template needs, at most [`MAX_REFERENCES`]: of volumes and variables, except
/// optional ones, and of image pulls.
pub(crate) fn references(template: &Value) -> Vec<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |kind: Kind, from: &Value, field: &str| {
        let name = from[field].as_str().filter(|_| from["optional"] != true);
        if let Some(name) = name.and_then(|name| ObjectName::new(name).ok()) {
            found.insert(Reference { kind, name });
        }
    };
    let pod = &template["spec"];
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for volume in items(&pod["volumes"]) {
        add(Kind::ConfigMap, &volume["configMap"], "name");
        add(Kind::Secret, &volume["secret"], "secretName");
        for source in items(&volume["projected"]["sources"]) {
            add(Kind::ConfigMap, &source["configMap"], "name");
            add(Kind::Secret, &source["secret"], "name");
        }
    }
    for container in CONTAINER_LISTS.iter().flat_map(|list| items(&pod[*list])) {
        for source in items(&container["envFrom"]) {
            add(Kind::ConfigMap, &source["configMapRef"], "name");
            add(Kind::Secret, &source["secretRef"], "name");
        }
        for variable in items(&container["env"]) {
            add(Kind::ConfigMap, &variable["valueFrom"]["configMapKeyRef"], "name");
            add(Kind::Secret, &variable["valueFrom"]["secretKeyRef"], "name");
        }
    }
    for secret in items(&pod["imagePullSecrets"]) {
        add(Kind::Secret, &secret, "name");
    }
    found.into_iter().take(MAX_REFERENCES).collect()
}

/// The error for a revision that does not exist.
pub(crate) fn no_revision(number: Option<i64>) -> Error {
    let error = Error::new(Cause::NotFoundInCluster).resource("revision");
    match number {
        Some(number) => error.name(number.to_string()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::RawValue};

    use super::*;
    use crate::workload::WorkloadType;

    fn raw(value: &Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).unwrap()
    }

    fn web() -> Value {
        json!({
            "metadata": {"name": "web", "uid": "u", "generation": 3, "resourceVersion": "7",
                "annotations": {"team": "shop"}},
            "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                "initContainers": [{"name": "first", "image": "i:1"}],
                "containers": [{"name": "app", "image": "a:2"}, {"name": "log", "image": "l:1"}]}}},
        })
    }

    fn workload(object: &Value) -> Workload {
        serde_json::from_value(object.clone()).unwrap()
    }

    fn images(pairs: &[(&str, &str)]) -> Result<Images> {
        Images::new(pairs.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect())
    }

    /// Refused fields, as `name=reason`.
    fn refused(result: Result<Images>) -> Vec<String> {
        let error = result.err().unwrap();
        error.context.fields.iter().map(|field| format!("{}={}", field.name, field.reason)).collect()
    }

    #[test]
    fn images_are_checked() {
        let long = "x".repeat(513);
        assert_eq!(refused(images(&[])), ["images=required"]);
        let bad = [("App", "a:1"), ("app", ""), ("b", "a 1"), ("c", "a\u{202e}"), ("d", &long)];
        assert_eq!(
            refused(images(&bad)),
            [
                "images.App=invalid_name",
                "images.app=required",
                "images.b=malformed",
                "images.c=malformed",
                "images.d=too_long"
            ]
        );
        let many: Vec<_> = (0..51).map(|n| (format!("c{n}"), "a".to_owned())).collect();
        assert_eq!(refused(Images::new(many.into_iter().collect())), ["images=too_long"]);
        let two = images(&[("web", "registry.example:5000/shop/web@sha256:00"), ("log", "l:2")]).unwrap();
        assert_eq!(two.summary(), "log=l:2 web=registry.example:5000/shop/web@sha256:00");
    }

    #[test]
    fn images_of_named_containers_change() {
        let mut object = web();
        let wanted = images(&[("app", "a:3"), ("first", "i:2"), ("log", "l:1")]).unwrap();
        let patch = workload(&object).set_images(&wanted, "why").unwrap().unwrap();
        assert!(patch.apply(&mut object));
        let mut expected = web();
        let pod = &mut expected["spec"]["template"]["spec"];
        (pod["containers"][0]["image"], pod["initContainers"][0]["image"]) = (json!("a:3"), json!("i:2"));
        expected["metadata"]["annotations"][CHANGE_CAUSE] = json!("why");
        assert_eq!(object, expected);

        let same = images(&[("app", "a:2")]).unwrap();
        assert_eq!(workload(&web()).set_images(&same, "why"), Ok(None));
        let unknown = images(&[("app", "a:3"), ("absent", "b:1")]).unwrap();
        let error = workload(&web()).set_images(&unknown, "why").unwrap_err();
        assert_eq!((error.cause, error.context.name.as_deref()), (Cause::NotFoundInCluster, Some("absent")));
    }

    #[test]
    fn rollout_is_paused_and_resumed_once() {
        let mut object = web();
        assert!(workload(&object).pause(false).is_none());
        assert!(workload(&object).pause(true).unwrap().apply(&mut object));
        assert_eq!(object["spec"]["paused"], true);
        assert!(workload(&object).pause(true).is_none() && workload(&object).is_paused());
        assert!(workload(&object).pause(false).unwrap().apply(&mut object));
        assert!(!workload(&object).is_paused());
    }

    #[test]
    fn undo_replaces_only_the_pod_template_and_adds_the_cause() {
        let mut object = web();
        let former = json!({"metadata": {"labels": {"app": "web", "pod-template-hash": "x"}},
            "spec": {"containers": [{"name": "app", "image": "a:1"}]}});
        let stored = |revision: &str, template: &Value| {
            let metadata = json!({"name": format!("web-{revision}"),
                "annotations": {"deployment.kubernetes.io/revision": revision, "old": "annotation"}});
            StoredRevision::project(&raw(&json!({"metadata": metadata, "spec": {"template": template}})))
                .unwrap()
        };
        let stored = vec![stored("1", &former), stored("2", &web()["spec"]["template"])];
        let revisions = Revisions::of(WorkloadType::Deployment, &raw(&object), stored).unwrap();
        let (number, revision) = revisions.find(None).unwrap();
        assert_eq!(number, 1);
        assert!(undo(&revisions, revision, "undo to 1").unwrap().unwrap().apply(&mut object));
        let mut expected = web();
        expected["spec"]["template"] = former;
        expected["spec"]["template"]["metadata"]["labels"]
            .as_object_mut()
            .unwrap()
            .remove("pod-template-hash");
        expected["metadata"]["annotations"][CHANGE_CAUSE] = json!("undo to 1");
        assert_eq!(object, expected);

        let (_, current) = revisions.find(Some(2)).unwrap();
        assert_eq!(undo(&revisions, current, "undo to 2"), Ok(None));
        assert!(revisions.find(Some(3)).is_none());
    }

    #[test]
    fn references_that_a_pod_needs_are_found() {
        let template = json!({"spec": {
            "volumes": [
                {"configMap": {"name": "files"}}, {"secret": {"secretName": "tls"}}, {"emptyDir": {}},
                {"configMap": {"name": "maybe", "optional": true}},
                {"projected": {"sources": [{"configMap": {"name": "part"}}, {"secret": {"name": "key"}}]}},
            ],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "settings"}}]}],
            "containers": [{
                "envFrom": [{"secretRef": {"name": "login"}}],
                "env": [
                    {"name": "A", "value": "literal"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "login", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "other", "key": "k", "optional": true}}},
                ],
            }],
            "imagePullSecrets": [{"name": "registry"}, {"name": "NOT VALID"}],
        }});
        let found: Vec<_> =
            references(&template).into_iter().map(|one| format!("{}/{}", one.kind, one.name)).collect();
        let expected = [
            "configmap/files",
            "configmap/part",
            "configmap/settings",
            "secret/key",
            "secret/login",
            "secret/registry",
            "secret/tls",
        ];
        assert_eq!(found, expected);
        let many: Vec<_> = (0..100).map(|n| json!({"name": format!("s{n}")})).collect();
        assert_eq!(references(&json!({"spec": {"imagePullSecrets": many}})).len(), MAX_REFERENCES);
    }
}
