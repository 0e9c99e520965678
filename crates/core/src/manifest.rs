//! Manifest of an object as displayed: without internal fields, and with masked values for a caller who may not see
//! them.

use serde_json::{Map, Value, value::RawValue};

use crate::{
    annotation::{Hidden, masked},
    error::{Cause, Error, Result},
    mask::{MASK, MaskedFields, Segment},
};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object without `managedFields` and the last applied configuration, which may hold values that were since moved
/// to a Secret.
///
/// # Errors
/// `UnexpectedAnswer` if the text is not a JSON object.
pub(crate) fn read_manifest(object: &RawValue) -> Result<Value> {
    let mut manifest: Value =
        serde_json::from_str(object.get()).map_err(|_| Error::new(Cause::UnexpectedAnswer))?;
    remove_internal_fields(&mut manifest);
    if manifest.is_object() { Ok(manifest) } else { Err(Error::new(Cause::UnexpectedAnswer)) }
}

/// Removes `managedFields` and each last applied configuration.
pub(crate) fn remove_internal_fields(manifest: &mut Value) {
    if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for_all_annotations(manifest, &mut |annotations| {
        annotations.remove(LAST_APPLIED);
    });
}

/// Masks the literal values of environment variables in an object of any kind, and these fields. Names of variables and
/// references stay. Annotations that may repeat a masked value ([`Hidden::may_show`]) are masked, too; their names and
/// sizes stay.
pub(crate) fn mask(manifest: &mut Value, fields: &MaskedFields) {
    let mut hidden = Hidden::default();
    mask_environment(manifest, &mut hidden);
    for path in fields.paths() {
        mask_path(manifest, path, &mut hidden);
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

/// Masks the literals in every field `env`, at any depth: custom resources have pod templates, too.
fn mask_environment(value: &mut Value, hidden: &mut Hidden) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.as_str() == "env" {
                    mask_variables(value, hidden);
                }
                mask_environment(value, hidden);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|value| mask_environment(value, hidden)),
        _ => {}
    }
}

/// Masks the literals of a list of variables as in a container, or of a map of variables as in some custom resources.
fn mask_variables(env: &mut Value, hidden: &mut Hidden) {
    match env {
        Value::Array(variables) => {
            let literals = variables.iter_mut().filter_map(|variable| variable.get_mut("value"));
            literals.for_each(|literal| hide(literal, hidden));
        }
        Value::Object(variables) => {
            for variable in variables.values_mut() {
                match variable {
                    Value::Object(variable) => {
                        if let Some(literal) = variable.get_mut("value") {
                            hide(literal, hidden);
                        }
                    }
                    literal => hide(literal, hidden),
                }
            }
        }
        _ => {}
    }
}

/// Masks the fields at a path.
fn mask_path(value: &mut Value, path: &[Segment], hidden: &mut Hidden) {
    let Some((segment, rest)) = path.split_first() else { return hide(value, hidden) };
    match value {
        Value::Object(fields) => {
            for (_, value) in fields.iter_mut().filter(|(name, _)| segment.matches(name)) {
                mask_path(value, rest, hidden);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter_mut().enumerate() {
                if segment.matches(&index.to_string()) {
                    mask_path(value, rest, hidden);
                }
            }
        }
        _ => {}
    }
}

/// Replaces a value, and adds its texts to those that annotations must not repeat.
fn hide(value: &mut Value, hidden: &mut Hidden) {
    if !value.is_null() {
        insert_texts(value, hidden);
        *value = Value::from(MASK);
    }
}

fn insert_texts(value: &Value, hidden: &mut Hidden) {
    match value {
        Value::String(text) => hidden.insert(text.as_bytes()),
        Value::Number(number) => hidden.insert(number.to_string().as_bytes()),
        Value::Array(items) => items.iter().for_each(|item| insert_texts(item, hidden)),
        Value::Object(fields) => fields.values().for_each(|value| insert_texts(value, hidden)),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(object: &Value) -> Value {
        read_manifest(&serde_json::value::to_raw_value(object).unwrap()).unwrap()
    }

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
        let specs = [
            json!({"template": template, "volumeClaimTemplates": claims}),
            json!({"jobTemplate": {"metadata": {"annotations": annotations}, "spec": {"template": template}}}),
        ];
        for spec in specs {
            let object = json!({"metadata": {"name": "web", "annotations": annotations}, "spec": spec});
            let mut manifest = manifest(&object);
            assert!(!manifest.to_string().contains("whatever"));
            assert_eq!(manifest["metadata"]["annotations"]["long"], "x".repeat(257));
            mask(&mut manifest, &MaskedFields::default());
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

    #[test]
    fn literals_of_any_kind_are_masked_and_references_stay() {
        let reference = json!({"name": "R", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
        let cases = [
            (
                json!([{"name": "A", "value": "literal"}, reference]),
                json!([{"name": "A", "value": "***"}, reference]),
            ),
            (
                json!([{"name": "A"}, {"name": "B", "value": 7}, "?"]),
                json!([{"name": "A"}, {"name": "B", "value": "***"}, "?"]),
            ),
            (
                json!({"A": "literal", "B": true, "C": {"value": "literal"}, "R": {"valueFrom": {"key": "k"}}}),
                json!({"A": "***", "B": "***", "C": {"value": "***"}, "R": {"valueFrom": {"key": "k"}}}),
            ),
            (json!("prod"), json!("prod")),
            (json!(null), json!(null)),
        ];
        for (env, masked) in cases {
            let of = |env: &Value| json!({"metadata": {"labels": {"env": "prod"}}, "spec": {"pods": [{"tasks": {"env": env}}]}});
            let mut manifest = manifest(&of(&env));
            mask(&mut manifest, &MaskedFields::default());
            assert_eq!(manifest, of(&masked));
        }
    }

    #[test]
    fn fields_of_the_setting_are_masked_with_their_copies_in_annotations() {
        let object = json!({
            "metadata": {"name": "web", "annotations": {"copy": "a password", "example.org/token": "canary", "kept": "yes"}},
            "spec": {"args": ["--user=shop", "--password=a password"], "items": [{"key": 4711, "name": "a"}, {"name": "b"}],
                "absent": null},
        });
        let masked = |fields: &str| {
            let mut manifest = manifest(&object);
            mask(&mut manifest, &fields.parse().unwrap());
            manifest
        };
        let both = masked("/spec/args/1, /metadata/annotations/example.org~1token,/no/such/field");
        assert_eq!(both["spec"]["args"], json!(["--user=shop", "***"]));
        assert_eq!(
            both["metadata"]["annotations"],
            json!({"copy": "a password", "example.org/token": "***", "kept": "yes"})
        );
        let any = masked("/spec/items/*/key,/spec/absent");
        assert_eq!(any["spec"]["items"], json!([{"key": "***", "name": "a"}, {"name": "b"}]));
        assert_eq!(any["spec"]["absent"], Value::Null);
        let whole = masked("/spec");
        assert_eq!((&whole["spec"], &whole["metadata"]["name"]), (&json!("***"), &json!("web")));
        // the annotation repeats a whole masked text
        let mut copied = manifest(
            &json!({"metadata": {"annotations": {"copy": "it is a password"}}, "spec": {"key": "a password"}}),
        );
        mask(&mut copied, &"/spec/key".parse().unwrap());
        assert_eq!(copied["metadata"]["annotations"]["copy"], "*** (16 bytes)");
    }
}
