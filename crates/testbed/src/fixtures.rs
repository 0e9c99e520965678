//! Broken workloads of `tests/fixtures/broken`: YAML files, each with the objects of one workload that does not work.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Admin, FaultyRegistry,
    error::{Error, Result, io},
    path_of, workloads,
};

/// Folder of the files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/broken");
/// Kinds of the files that have no namespace.
const CLUSTER_SCOPED: [&str; 7] = [
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

/// Lists that are searched for the sign of a broken workload.
const SOURCES: [&str; 9] = [
    "api/v1/events",
    "api/v1/pods",
    "api/v1/persistentvolumeclaims",
    "apis/apps/v1/replicasets",
    "apis/batch/v1/jobs",
    "apis/discovery.k8s.io/v1/endpointslices",
    "apis/autoscaling/v2/horizontalpodautoscalers",
    "apis/policy/v1/poddisruptionbudgets",
    "apis/networking.k8s.io/v1/ingresses",
];
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Characters of the events that the error without a sign contains.
const MAX_LAST: usize = 4_000;

/// A file with a broken workload; `tests/fixtures/broken/README.md` describes its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenWorkload {
    /// Name of the file without its extension.
    pub name: String,
    /// The rule that a diagnosis of the object finds, on the wire; `none` for a workload that works.
    pub rule: String,
    /// The variant of the rule.
    pub variant: Option<String>,
    /// Type and name of the object that is diagnosed, for instance `("deployment", "app")`.
    pub object: (String, String),
    /// Text in an event or an object of the namespace, once the workload does not work. In JSON, without spaces.
    pub sign: String,
    /// Type and name of the object that is deleted after all are created.
    delete: Option<(String, String)>,
    text: String,
}

impl BrokenWorkload {
    /// All files, by name.
    pub fn all() -> Result<Vec<Self>> {
        Self::all_in(Path::new(FOLDER))
    }

    fn all_in(folder: &Path) -> Result<Vec<Self>> {
        let reading = || io(format!("reading {}", folder.display()));
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).map_err(reading())? {
            let path = entry.map_err(reading())?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                all.push(Self::parse(name, fs::read_to_string(&path).map_err(reading())?)?);
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// Reads the comments at the start of the file.
    fn parse(name: String, text: String) -> Result<Self> {
        let comment = |key: &str| {
            let lines = text.lines().map_while(|line| line.strip_prefix("# "));
            lines
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let required = |key: &str| {
            comment(key).ok_or_else(|| Error::Program(format!("{name}.yaml has no comment `# {key}: …`")))
        };
        let object = |value: &str| {
            let (kind, name) = value.split_once('/').unwrap_or((value, ""));
            (kind.to_owned(), name.to_owned())
        };
        let rule = required("rule")?;
        let (rule, variant) =
            rule.split_once(' ').map_or((rule, None), |(rule, variant)| (rule, Some(variant)));
        Ok(Self {
            rule: rule.to_owned(),
            variant: variant.map(str::to_owned),
            object: object(required("object")?),
            sign: required("sign")?.to_owned(),
            delete: comment("delete").map(object),
            name,
            text,
        })
    }

    /// The objects of the file, in their order, in this namespace.
    pub fn objects(&self, namespace: &str, registry: &FaultyRegistry) -> Result<Vec<Value>> {
        self.objects_with(namespace, &registry.address().to_string())
    }

    fn objects_with(&self, namespace: &str, registry: &str) -> Result<Vec<Value>> {
        let text = self.text.replace("${namespace}", namespace).replace("${registry}", registry);
        let objects = serde_saphyr::from_multiple::<Value>(&text);
        let mut objects = objects.map_err(|e| Error::Program(format!("{}.yaml: {e}", self.name)))?;
        for object in &mut objects {
            let has_namespace = !CLUSTER_SCOPED.iter().any(|kind| object["kind"] == **kind);
            if has_namespace && object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = json!(namespace);
            }
        }
        Ok(objects)
    }

    /// Creates the namespace, waits until pods can be created in it, and applies the objects.
    pub async fn apply(&self, client: &Admin, namespace: &str, registry: &FaultyRegistry) -> Result<()> {
        client.apply(&workloads::namespace(namespace)).await?;
        client.wait_for_default_account(namespace).await?;
        let objects = self.objects(namespace, registry)?;
        for object in &objects {
            client.apply(object).await?;
        }
        if let Some((kind, name)) = &self.delete {
            let is_deleted = |object: &&Value| {
                let of = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
                (of(&object["kind"]), of(&object["metadata"]["name"])) == (kind.clone(), name.clone())
            };
            let object = objects.iter().find(is_deleted);
            let absent = || Error::Program(format!("{}.yaml has no {kind} {name} to delete", self.name));
            client.delete(&path_of(object.ok_or_else(absent)?)).await?;
        }
        Ok(())
    }

    /// Polls the events and objects of the namespace until one has the sign.
    pub async fn wait_for_sign(&self, client: &Admin, namespace: &str, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let mut all = String::new();
            for source in SOURCES {
                let (version, resource) = source.rsplit_once('/').unwrap_or((source, ""));
                let path = format!("/{version}/namespaces/{namespace}/{resource}");
                all.push_str(&client.text(&path).await?.replace("\\\"", "\""));
            }
            if all.contains(&self.sign) {
                return Ok(());
            }
            if Instant::now() > end {
                let what = format!("{} in namespace {namespace}", self.sign);
                let last = all.chars().take(MAX_LAST).collect();
                return Err(Error::Deadline { what, waited: deadline, last });
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TEXT: &str = "# rule: image_pull not_found\n# object: pod/a\n# sign: missing/app:1: not found\n\
        apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  \
        - {name: a, image: \"${registry}/missing/app:1\"}\n---\napiVersion: storage.k8s.io/v1\n\
        kind: StorageClass\nmetadata: {name: \"${namespace}-none\"}\nprovisioner: example.org/none\n";

    #[test]
    fn objects_lie_in_the_given_namespace_and_pull_from_the_registry() {
        let broken = BrokenWorkload::parse("a".into(), TEXT.into()).expect("the comments");
        let objects = broken.objects_with("shop", "127.0.0.1:5000").expect("two objects");
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["metadata"], json!({"name": "a", "namespace": "shop"}));
        assert_eq!(objects[0]["spec"]["containers"][0]["image"], "127.0.0.1:5000/missing/app:1");
        assert_eq!(objects[1]["metadata"], json!({"name": "shop-none"}));
    }

    #[test]
    fn comments_name_rule_object_and_sign() {
        let broken = BrokenWorkload::parse("a".into(), TEXT.into()).expect("the comments");
        assert_eq!((&*broken.rule, broken.variant.as_deref()), ("image_pull", Some("not_found")));
        assert_eq!(broken.object, ("pod".to_owned(), "a".to_owned()));
        assert_eq!((&*broken.sign, broken.delete), ("missing/app:1: not found", None));
        let error =
            BrokenWorkload::parse("b".into(), "kind: Pod\n# rule: oom\n".into()).expect_err("no comments");
        assert!(error.to_string().contains("b.yaml has no comment `# rule: …`"), "{error}");
    }

    #[test]
    fn every_file_is_read_and_has_its_object() {
        let all = BrokenWorkload::all().expect("the files");
        let rules: BTreeSet<_> = all.iter().map(|file| &*file.rule).collect();
        assert!(rules.len() > 20 && rules.contains("none"), "{rules:?}");
        for file in &all {
            let objects = file.objects_with("shop", "127.0.0.1:5000").expect("the objects");
            let names: BTreeSet<_> = objects
                .iter()
                .map(|object| {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
                    (text(&object["kind"]), text(&object["metadata"]["name"]))
                })
                .collect();
            assert!(names.contains(&file.object), "{}: {names:?}", file.name);
            let name = [Some(&*file.rule), file.variant.as_deref()].into_iter().flatten();
            let name = name.collect::<Vec<_>>().join("_");
            assert!(file.rule == "none" || file.name.starts_with(&name), "{} is of {name}", file.name);
        }
    }
}
