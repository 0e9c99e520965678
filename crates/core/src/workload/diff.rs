//! Differences between the pod templates of two revisions.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    json_patch::pointer,
    manifest::{mask, remove_internal_fields},
    mask::MaskedFields,
};

/// Fields that identify an item of a list, as Kubernetes merges lists: of containers and variables, of mounts, of ports.
const ITEM_KEYS: [&str; 4] = ["name", "mountPath", "containerPort", "topologyKey"];

/// A field that differs between two versions of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldChange {
    /// JSON pointer of the field. An item of a list is named by its index in the newer version, or in the older one if
    /// it was removed.
    pub path: String,
    /// Its value in the older version; null if absent. `***`: the caller may not see it.
    pub from: Value,
    /// Its value in the newer version; null if absent. `***`: the caller may not see it.
    pub to: Value,
}

/// A value, and the same as the caller sees it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    whole: &'a Value,
    shown: &'a Value,
}

impl Seen<'static> {
    const ABSENT: Self = Self { whole: &Value::Null, shown: &Value::Null };
}

impl<'a> Seen<'a> {
    fn field(self, name: &str) -> Self {
        Self { whole: &self.whole[name], shown: &self.shown[name] }
    }

    fn items(self) -> Option<Vec<Self>> {
        let items = self.whole.as_array()?.iter().zip(self.shown.as_array()?);
        Some(items.map(|(whole, shown)| Self { whole, shown }).collect())
    }

    /// The fields, if none of them is hidden together with the others.
    fn fields(self) -> Option<&'a Map<String, Value>> {
        self.shown.as_object()?;
        self.whole.as_object()
    }
}

/// The fields that differ between two pod templates of a workload, by path. With `masked`, literal values of environment
/// variables and these fields are not shown: only whether they are the same.
pub(crate) fn changes(from: Value, to: Value, masked: Option<&MaskedFields>) -> Vec<FieldChange> {
    let [from, to] = [from, to].map(|template| {
        // the paths of masked fields begin at the object
        let mut whole = serde_json::json!({"spec": {"template": template}});
        remove_internal_fields(&mut whole);
        let mut shown = whole.clone();
        if let Some(fields) = masked {
            mask(&mut shown, fields);
        }
        (whole, shown)
    });
    let [from, to] = [&from, &to].map(|(whole, shown)| Seen { whole, shown });
    let mut changes = Vec::new();
    compare(&mut Vec::new(), from, to, &mut changes);
    changes
}

fn compare(path: &mut Vec<String>, from: Seen<'_>, to: Seen<'_>, changes: &mut Vec<FieldChange>) {
    if from.whole == to.whole {
        return;
    }
    if let (Some(from_fields), Some(to_fields)) = (from.fields(), to.fields()) {
        let names: BTreeSet<_> = from_fields.keys().chain(to_fields.keys()).collect();
        for name in names {
            within(path, name.clone(), from.field(name), to.field(name), changes);
        }
        return;
    }
    if let (Some(from_items), Some(to_items)) = (from.items(), to.items()) {
        let before = changes.len();
        compare_items(path, &from_items, &to_items, changes);
        if changes.len() > before {
            return;
        }
        // the lists differ only in the order of their items
    }
    let segments: Vec<_> = path.iter().map(String::as_str).collect();
    changes.push(FieldChange { path: pointer(&segments), from: from.shown.clone(), to: to.shown.clone() });
}

fn within(
    path: &mut Vec<String>,
    segment: String,
    from: Seen<'_>,
    to: Seen<'_>,
    changes: &mut Vec<FieldChange>,
) {
    path.push(segment);
    compare(path, from, to, changes);
    path.pop();
}

/// Compares lists: items of the same key, where every item has one of its own, otherwise those of the same index.
fn compare_items(path: &mut Vec<String>, from: &[Seen<'_>], to: &[Seen<'_>], changes: &mut Vec<FieldChange>) {
    let keys = ITEM_KEYS.iter().find_map(|key| Some((keys_of(from, key)?, keys_of(to, key)?)));
    // for each item of the newer list, the index of the same item in the older one
    let earlier: Vec<Option<usize>> = match &keys {
        Some((before, after)) => {
            after.iter().map(|key| before.iter().position(|other| other == key)).collect()
        }
        None => (0..to.len()).map(|index| Some(index).filter(|index| *index < from.len())).collect(),
    };
    for (index, (&item, earlier)) in to.iter().zip(&earlier).enumerate() {
        let before = earlier.map_or(Seen::ABSENT, |at| from[at]);
        within(path, index.to_string(), before, item, changes);
    }
    for (index, &item) in from.iter().enumerate() {
        if !earlier.contains(&Some(index)) {
            within(path, index.to_string(), item, Seen::ABSENT, changes);
        }
    }
}

/// The values of a key in all items; `None` if an item has none, or not its own one.
fn keys_of<'a>(items: &[Seen<'a>], key: &str) -> Option<Vec<&'a Value>> {
    let keys: Vec<_> = items.iter().map(|item| item.whole.get(key)).collect::<Option<_>>()?;
    let is_unique = |(index, key): (usize, &&Value)| !keys[..index].contains(key);
    keys.iter().enumerate().all(is_unique).then_some(keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"annotations": {"a/b": "1"}}, "spec": {"containers": containers}})
    }

    /// The changes as path, older and newer value.
    fn list(from: &Value, to: &Value, masked: Option<&str>) -> Vec<(String, Value, Value)> {
        let fields = masked
            .map(|fields| if fields.is_empty() { MaskedFields::default() } else { fields.parse().unwrap() });
        let changes = changes(from.clone(), to.clone(), fields.as_ref());
        changes.into_iter().map(|change| (change.path, change.from, change.to)).collect()
    }

    fn change(path: &str, from: Value, to: Value) -> (String, Value, Value) {
        (format!("/spec/template{path}"), from, to)
    }

    #[test]
    fn equal_templates_have_no_changes() {
        let one = pod(json!([{"name": "app", "image": "a:1"}]));
        assert_eq!(list(&one, &one, None), []);
    }

    #[test]
    fn changed_added_and_removed_fields_are_named() {
        let from = pod(json!([{"name": "app", "image": "a:1", "tty": true}]));
        let mut to = pod(json!([{"name": "app", "image": "a:2", "stdin": true}]));
        to["metadata"]["annotations"]["a/b"] = json!("2");
        let expected = [
            change("/metadata/annotations/a~1b", json!("1"), json!("2")),
            change("/spec/containers/0/image", json!("a:1"), json!("a:2")),
            change("/spec/containers/0/stdin", json!(null), json!(true)),
            change("/spec/containers/0/tty", json!(true), json!(null)),
        ];
        assert_eq!(list(&from, &to, None), expected);
    }

    #[test]
    fn items_of_lists_are_matched_by_their_key() {
        let [log, app] = [json!({"name": "log", "image": "l:1"}), json!({"name": "app", "image": "a:1"})];
        let newer = json!({"name": "app", "image": "a:2"});
        let from = pod(json!([log, app]));
        let expected = [
            change("/spec/containers/0/image", json!("a:1"), json!("a:2")),
            change("/spec/containers/0", log.clone(), json!(null)),
        ];
        assert_eq!(list(&from, &pod(json!([newer])), None), expected);
        let added = [change("/spec/containers/0", json!(null), log.clone())];
        assert_eq!(list(&pod(json!([app])), &pod(json!([log, app])), None), added);
        let reordered = [change("/spec/containers", json!([log, app]), json!([app, log]))];
        assert_eq!(list(&from, &pod(json!([app, log])), None), reordered);
    }

    #[test]
    fn items_without_a_key_are_compared_by_index() {
        let of = |args: Value| pod(json!([{"name": "app", "args": args}]));
        let expected = [
            change("/spec/containers/0/args/1", json!("b"), json!("c")),
            change("/spec/containers/0/args/2", json!(null), json!("d")),
        ];
        assert_eq!(list(&of(json!(["a", "b"])), &of(json!(["a", "c", "d"])), None), expected);
    }

    #[test]
    fn masked_values_are_only_the_same_or_not() {
        let of = |value: &str, same: &str| {
            let env = json!([{"name": "A", "value": value}, {"name": "B", "value": same}]);
            pod(json!([{"name": "app", "env": env, "args": [value], "command": {"of": value}}]))
        };
        let (from, to) = (of("canary-1", "canary-0"), of("canary-2", "canary-0"));
        let fields = "/spec/template/spec/containers/*/args, /spec/template/spec/containers/*/command";
        let masked = |path: &str| change(&format!("/spec/containers/0/{path}"), json!("***"), json!("***"));
        let expected = [masked("args"), masked("command"), masked("env/0/value")];
        let found = list(&from, &to, Some(fields));
        assert_eq!(found, expected);
        let by_default = list(&from, &to, Some(""));
        assert_eq!(by_default[2], masked("env/0/value"));
        assert_eq!(
            list(&from, &to, None)[2],
            change("/spec/containers/0/env/0/value", json!("canary-1"), json!("canary-2"))
        );
    }

    #[test]
    fn last_applied_configuration_is_not_compared() {
        let of = |applied: &str| json!({"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}}});
        assert_eq!(list(&of("canary-1"), &of("canary-2"), None), []);
    }
}
