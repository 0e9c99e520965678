//! Manifest of a workload as displayed: without internal fields, and with environment variables masked for viewers.

use serde_json::{Map, Value, value::RawValue};

use super::WorkloadType;
use crate::{
    annotation::{Hidden, masked},
    error::{Cause, Error, Result},
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MASK: &str = "***";

/// The object without `managedFields` and the last applied configuration, which may hold values that were since moved
/// to a Secret.
pub(super) fn read_manifest(object: &RawValue) -> Result<Value> {
    let mut manifest: Value =
        serde_json::from_str(object.get()).map_err(|_| Error::new(Cause::UnexpectedAnswer))?;
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for_all_annotations(&mut manifest, &mut |annotations| {
        annotations.remove(LAST_APPLIED);
    });
    if manifest.is_object() { Ok(manifest) } else { Err(Error::new(Cause::UnexpectedAnswer)) }
}

/// Calls `visit` for the annotations of an object and of the templates in it.
fn for_all_annotations(value: &mut Value, visit: &mut dyn FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            if let Some(annotations) = fields.get_mut("annotations").and_then(Value::as_object_mut) {
                visit(annotations);
            }
            fields.values_mut().for_each(|value| for_all_annotations(value, visit));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| for_all_annotations(value, visit)),
        _ => {}
    }
}

/// Masks the literal values of environment variables in the manifest; names and references stay. Annotations that
/// may repeat such a value (`Hidden::may_show`) are masked, too; their names and sizes stay.
pub(super) fn mask_environment(manifest: &mut Value, r#type: WorkloadType) {
    let path = ["template", "spec"];
    let spec = &mut manifest["spec"];
    let spec = if r#type == WorkloadType::CronJob { &mut spec["jobTemplate"]["spec"] } else { spec };
    let mut hidden = Hidden::default();
    let pod = path.iter().try_fold(spec, |value, key| value.get_mut(key));
    let mut none = Value::Null;
    let pod = pod.unwrap_or(&mut none);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        let variables = containers.filter_map(|container| container.get_mut("env")?.as_array_mut()).flatten();
        for value in variables.filter_map(|variable| variable.get_mut("value")) {
            hidden.insert(value.as_str().unwrap_or_default().as_bytes());
            *value = Value::from(MASK);
        }
    }
    for_all_annotations(manifest, &mut |annotations| {
        for value in annotations.values_mut() {
            let text = value.as_str().unwrap_or_default();
            if !value.is_string() || !hidden.may_show(text) {
                *value = Value::from(masked(text));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_do_not_reveal_masked_literals() {
        let annotations = json!({
            LAST_APPLIED: "whatever",
            "kapp.k14s.io/original": r#"{"env":[{"name":"A","value":"the literal"}]}"#,
            "objectset.rio.cattle.io/applied": "H4sIAAAAAAAAA0vOyUwtAgCzVzNLBgAAAA==",
            "copy": "dGhlIGxpdGVyYWw=",
            "long": "x".repeat(257),
            "prometheus.io/scrape": "true",
            "owner": "shop",
        });
        let template = json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [{"name": "a", "env": [{"name": "A", "value": "the literal"}, {"name": "B", "value": "true"}]}]},
        });
        let claims = json!([{"metadata": {"annotations": annotations}}]);
        let objects = [
            (WorkloadType::StatefulSet, json!({"template": template, "volumeClaimTemplates": claims})),
            (
                WorkloadType::CronJob,
                json!({"jobTemplate": {"metadata": {"annotations": annotations}, "spec": {"template": template}}}),
            ),
        ];
        for (r#type, spec) in objects {
            let object = json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec});
            let raw = serde_json::value::to_raw_value(&object).unwrap();
            let mut manifest = read_manifest(&raw).unwrap();
            assert!(!manifest.to_string().contains("whatever"));
            assert_eq!(manifest["metadata"]["annotations"]["long"], "x".repeat(257));
            mask_environment(&mut manifest, r#type);
            let mut seen = 0;
            for_all_annotations(&mut manifest, &mut |annotations| {
                seen += 1;
                assert_eq!(
                    Value::from(annotations.clone()),
                    json!({
                        "kapp.k14s.io/original": "*** (44 bytes)",
                        "objectset.rio.cattle.io/applied": "*** (36 bytes)",
                        "copy": "*** (16 bytes)",
                        "long": "*** (257 bytes)",
                        "prometheus.io/scrape": "true",
                        "owner": "shop",
                    })
                );
            });
            assert_eq!(seen, 3);
        }
    }
}
