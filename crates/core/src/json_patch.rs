//! JSON patch (RFC 6902) of one object, with the conditions under which the API server applies it.

use serde::Serialize;
use serde_json::{Value, json};

use crate::object::Metadata;

/// A JSON patch. It begins with operations `test`, so that nothing is applied to an object that somebody else has changed
/// since it was read: the port that sends it then returns `Modified`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct JsonPatch(Vec<Value>);

impl JsonPatch {
    /// A patch without changes for the object that was read with this metadata. It holds for this object (`uid`) in this
    /// generation, which increases with each change of what is wanted and not with the status. It holds for this
    /// version of an object without a generation.
    pub fn of(metadata: &Metadata) -> Self {
        let patch = Self(Vec::new()).test("/metadata/uid", metadata.uid.as_str());
        match metadata.generation {
            Some(generation) => patch.test("/metadata/generation", generation),
            None => patch.in_same_version(metadata),
        }
    }

    /// The patch with the condition that the value at this JSON pointer is `value`.
    #[must_use]
    pub fn test(self, path: &str, value: impl Into<Value>) -> Self {
        self.with(json!({"op": "test", "path": path, "value": value.into()}))
    }

    /// The patch with the addition of a value, or with the replacement of the one that is there.
    #[must_use]
    pub fn add(self, path: &str, value: impl Into<Value>) -> Self {
        self.with(json!({"op": "add", "path": path, "value": value.into()}))
    }

    /// The patch with the replacement of a value. The API server adds a member that does not exist (Kubernetes 1.37).
    #[must_use]
    pub fn replace(self, path: &str, value: impl Into<Value>) -> Self {
        self.with(json!({"op": "replace", "path": path, "value": value.into()}))
    }

    /// The patch with the removal of a value. Nothing is applied if there is none.
    #[must_use]
    pub fn remove(self, path: &str) -> Self {
        self.with(json!({"op": "remove", "path": path}))
    }

    /// The patch with an annotation of the object that was read with this metadata. Its other annotations stay.
    #[must_use]
    pub fn annotate(self, metadata: &Metadata, key: &str, value: &str) -> Self {
        if metadata.annotations.is_empty() {
            // an addition of the whole map would replace annotations that were added since, in the same generation
            self.in_same_version(metadata).add("/metadata/annotations", json!({key: value}))
        } else {
            self.add(&pointer(&["metadata", "annotations", key]), value)
        }
    }

    fn in_same_version(self, metadata: &Metadata) -> Self {
        self.test("/metadata/resourceVersion", metadata.resource_version.as_str())
    }

    fn with(mut self, operation: Value) -> Self {
        self.0.push(operation);
        self
    }
}

/// JSON pointer (RFC 6901) of these segments: keys of maps and indices of lists.
pub fn pointer(segments: &[&str]) -> String {
    segments.iter().map(|segment| format!("/{}", segment.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(any(test, feature = "testing"))]
mod apply {
    use serde_json::Value;

    use super::JsonPatch;

    impl JsonPatch {
        /// Applies the patch as the API server does: completely, or not at all. Returns whether it was applied.
        pub fn apply(&self, object: &mut Value) -> bool {
            let mut patched = object.clone();
            let applied = self.0.iter().all(|operation| apply(operation, &mut patched).is_some());
            if applied {
                *object = patched;
            }
            applied
        }
    }

    fn apply(operation: &Value, object: &mut Value) -> Option<()> {
        let path = operation["path"].as_str()?;
        let value = operation["value"].clone();
        if operation["op"] == "test" {
            return (*object.pointer(path)? == value).then_some(());
        }
        let (parent, key) = path.rsplit_once('/')?;
        let key = key.replace("~1", "/").replace("~0", "~");
        let parent = object.pointer_mut(parent)?;
        match (operation["op"].as_str()?, parent) {
            ("add", Value::Object(fields)) => drop(fields.insert(key, value)),
            ("add", Value::Array(items)) if key == "-" => items.push(value),
            ("add", Value::Array(items)) => {
                let index = key.parse::<usize>().ok().filter(|index| *index <= items.len())?;
                items.insert(index, value);
            }
            ("replace", Value::Object(fields)) => *fields.get_mut(&key)? = value,
            ("replace", Value::Array(items)) => *items.get_mut(key.parse::<usize>().ok()?)? = value,
            ("remove", Value::Object(fields)) => drop(fields.remove(&key)?),
            ("remove", Value::Array(items)) => {
                let index = key.parse::<usize>().ok().filter(|index| *index < items.len())?;
                items.remove(index);
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(object: &Value) -> Metadata {
        serde_json::from_value(object["metadata"].clone()).unwrap()
    }

    fn web() -> Value {
        json!({"metadata": {"uid": "u", "generation": 3, "resourceVersion": "7", "annotations": {"a/b": "1"}},
            "spec": {"replicas": 1}})
    }

    #[test]
    fn patch_is_applied_only_to_the_object_and_generation_that_were_read() {
        let read = web();
        let patch = JsonPatch::of(&metadata(&read)).add("/spec/paused", true).replace("/spec/replicas", 2);
        let with = |path: &str, value: Value| {
            let mut object = web();
            *object.pointer_mut(path).unwrap() = value;
            object
        };
        for (mut object, applied) in [
            (web(), true),
            (with("/metadata/resourceVersion", json!("8")), true),
            (with("/metadata/generation", json!(4)), false),
            (with("/metadata/uid", json!("v")), false),
        ] {
            let before = object.clone();
            assert_eq!(patch.apply(&mut object), applied, "{before}");
            let expected =
                if applied { json!({"replicas": 2, "paused": true}) } else { before["spec"].clone() };
            assert_eq!(object["spec"], expected);
        }
    }

    #[test]
    fn patch_of_an_object_without_generation_holds_for_its_version() {
        let mut object = json!({"metadata": {"uid": "u", "resourceVersion": "7"}});
        let patch = JsonPatch::of(&metadata(&object)).add("/spec", json!({}));
        object["metadata"]["resourceVersion"] = json!("8");
        assert!(!patch.apply(&mut object));
    }

    #[test]
    fn annotation_is_added_to_those_of_others() {
        let mut object = web();
        let patch = JsonPatch::of(&metadata(&object)).annotate(&metadata(&object), "x/cause", "why");
        // somebody else adds an annotation, which does not change the generation
        object["metadata"]["annotations"]["other"] = json!("2");
        object["metadata"]["resourceVersion"] = json!("8");
        assert!(patch.apply(&mut object));
        assert_eq!(object["metadata"]["annotations"], json!({"a/b": "1", "other": "2", "x/cause": "why"}));
    }

    #[test]
    fn first_annotation_does_not_replace_one_that_was_added_since() {
        let mut object = web();
        object["metadata"]["annotations"].take();
        let patch = JsonPatch::of(&metadata(&object)).annotate(&metadata(&object), "x/cause", "why");
        let mut unchanged = object.clone();
        assert!(patch.apply(&mut unchanged));
        assert_eq!(unchanged["metadata"]["annotations"], json!({"x/cause": "why"}));
        object["metadata"]["annotations"] = json!({"other": "2"});
        object["metadata"]["resourceVersion"] = json!("8");
        assert!(!patch.apply(&mut object));
    }

    #[test]
    fn failed_operation_applies_nothing() {
        let patch = JsonPatch(Vec::new()).add("/spec/paused", true).remove("/spec/absent");
        let mut object = web();
        assert!(!patch.apply(&mut object));
        assert_eq!(object, web());
    }

    #[test]
    fn segments_of_a_pointer_are_escaped() {
        assert_eq!(pointer(&["metadata", "labels", "a/b~c"]), "/metadata/labels/a~1b~0c");
        assert_eq!(pointer(&[]), "");
    }
}
