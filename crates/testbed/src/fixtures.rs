//! Broken workloads of `tests/fixtures/broken`: YAML files, each with the objects of one workload that does not work.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    Admin, FaultyRegistry,
    error::{Error, Result, io},
    workloads,
};

/// Folder of the files.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/broken");
/// Kinds of the files that have no namespace.
const CLUSTER_SCOPED: [&str; 6] = [
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

/// A file with a broken workload. In its text, `${namespace}` and `${registry}` stand for the namespace that it is
/// applied in and for the address of a [`FaultyRegistry`].
#[derive(Clone, Debug)]
pub struct BrokenWorkload {
    /// Name of the file without its extension.
    pub name: String,
    /// Text of the file. Its first line is a comment that names the rule that the workload breaks.
    pub text: String,
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
                all.push(Self { name, text: fs::read_to_string(&path).map_err(reading())? });
            }
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
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
        for object in self.objects(namespace, registry)? {
            client.apply(&object).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_lie_in_the_given_namespace_and_pull_from_the_registry() {
        let text = "# rule: image_pull not_found\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  \
                    - {name: a, image: \"${registry}/missing/app:1\"}\n---\napiVersion: storage.k8s.io/v1\n\
                    kind: StorageClass\nmetadata: {name: \"${namespace}-none\"}\nprovisioner: example.org/none\n";
        let broken = BrokenWorkload { name: "a".into(), text: text.into() };
        let objects = broken.objects_with("shop", "127.0.0.1:5000").expect("two objects");
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["metadata"], json!({"name": "a", "namespace": "shop"}));
        assert_eq!(objects[0]["spec"]["containers"][0]["image"], "127.0.0.1:5000/missing/app:1");
        assert_eq!(objects[1]["metadata"], json!({"name": "shop-none"}));
    }

    #[test]
    fn only_yaml_files_are_read_and_they_are_sorted() {
        let folder = tempfile::tempdir().expect("a directory");
        for name in ["b.yaml", "a.yaml", "README.md"] {
            fs::write(folder.path().join(name), "kind: Pod").expect("a file");
        }
        let all = BrokenWorkload::all_in(folder.path()).expect("the files");
        assert_eq!(all.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["a", "b"]);
    }
}
