//! Owners of fields: which manager last wrote which field, from `metadata.managedFields`.
//!
//! `managedFields` names items of lists by their keys (`k:{"name":"app"}`) or values (`v:"x"`). Both are values of the
//! object, so they are replaced by the index of the item.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    error::Result,
    object::{lenient_time, or_default, parse},
};

/// Maximum number of fields whose owners are shown. An object with more has them in a list of thousands of items.
const MAX_OWNERS: usize = 5_000;

/// Owner of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldOwner {
    /// JSON pointer (RFC 6901) to the field in `object`; items of lists by their index.
    pub path: String,
    /// Name of the manager: `kubectl`, `kube-controller-manager`.
    pub manager: String,
    /// `Apply` for server-side apply, `Update` for any other change.
    pub operation: String,
    /// Time of the manager's last change.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Managed {
    #[serde(default, deserialize_with = "or_default")]
    metadata: ManagedMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ManagedMetadata {
    #[serde(deserialize_with = "or_default")]
    managed_fields: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Entry {
    #[serde(deserialize_with = "or_default")]
    manager: String,
    #[serde(deserialize_with = "or_default")]
    operation: String,
    #[serde(deserialize_with = "lenient_time")]
    time: Option<Timestamp>,
    #[serde(rename = "fieldsV1", deserialize_with = "or_default")]
    fields: Map<String, Value>,
}

/// The owners of the fields of an object, by path, and the managers that own any, in the order of `managedFields`.
/// `shown` is the object as it is shown: a field that it does not have has no owner.
///
/// # Errors
/// `UnexpectedAnswer` if `managedFields` has another shape.
pub(crate) fn owners(object: &RawValue, shown: &Value) -> Result<(Vec<FieldOwner>, Vec<String>)> {
    let Managed { metadata } = parse(object)?;
    let (mut owners, mut managers) = (Vec::new(), Vec::new());
    for Entry { manager, operation, time, fields } in metadata.managed_fields {
        let mut paths = Vec::new();
        collect(&fields, shown, &mut String::new(), &mut paths);
        let owner =
            |path| FieldOwner { path, manager: manager.clone(), operation: operation.clone(), at: time };
        owners.extend(paths.into_iter().map(owner));
        managers.push(manager);
    }
    owners.sort();
    owners.truncate(MAX_OWNERS);
    Ok((owners, managers))
}

/// Adds the paths of a set of fields that `value`, the value at `path`, has.
fn collect(fields: &Map<String, Value>, value: &Value, path: &mut String, paths: &mut Vec<String>) {
    let members = fields.iter().filter(|(name, _)| *name != ".");
    for (name, members) in members {
        let Some((segment, value)) = step(name, value) else { continue };
        let length = path.len();
        path.push('/');
        path.push_str(&segment.replace('~', "~0").replace('/', "~1"));
        let members = members.as_object().filter(|members| members.keys().any(|name| name != "."));
        match members {
            Some(members) => collect(members, value, path, paths),
            None if paths.len() < MAX_OWNERS => paths.push(path.clone()),
            None => {}
        }
        path.truncate(length);
    }
}

/// The segment of a JSON pointer, and the value there, for an element of a path in `managedFields`: a field (`f:`), an
/// item of a list with these keys (`k:`), an item of this value (`v:`) or of this index (`i:`).
fn step<'a>(element: &str, value: &'a Value) -> Option<(String, &'a Value)> {
    let (kind, name) = element.split_once(':')?;
    if kind == "f" {
        return Some((name.to_owned(), value.get(name)?));
    }
    let items = value.as_array()?;
    let wanted: Value = serde_json::from_str(name).ok()?;
    let index = match kind {
        "k" => {
            let keys = wanted.as_object()?;
            items.iter().position(|item| keys.iter().all(|(key, wanted)| has(item, key, wanted)))?
        }
        "v" => items.iter().position(|item| *item == wanted)?,
        "i" => usize::try_from(wanted.as_u64()?).ok()?,
        _ => return None,
    };
    Some((index.to_string(), items.get(index)?))
}

/// Whether an item has this value at a key. Of a key that it does not have, the API server uses the default, as it does
/// for the protocol of a port.
fn has(item: &Value, key: &str, wanted: &Value) -> bool {
    item.get(key).is_none_or(|value| value == wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::*;

    fn found(object: &Value) -> (Vec<String>, Vec<String>) {
        let (owners, managers) = owners(&to_raw_value(object).unwrap(), object).unwrap();
        let line = |owner: FieldOwner| format!("{} {} {}", owner.path, owner.manager, owner.operation);
        (owners.into_iter().map(line).collect(), managers)
    }

    #[test]
    fn items_are_named_by_index_and_no_value_of_managed_fields_is_shown() {
        let object = json!({
            "metadata": {
                "name": "web", "labels": {"a/b~c": "x"}, "finalizers": ["canary-finalizer", "other"],
                "managedFields": [
                    {"manager": "kubectl", "operation": "Apply", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {
                        "f:metadata": {"f:labels": {".": {}, "f:a/b~c": {}, "f:gone": {}}, "f:finalizers": {".": {}, "v:\"other\"": {}}},
                        "f:spec": {"f:containers": {"k:{\"name\":\"canary-container\"}": {".": {}, "f:name": {}, "f:image": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}},
                    }},
                    {"manager": "kube-scheduler", "operation": "Update", "fieldsV1": {"f:spec": {"f:nodeName": {}, "f:list": {"i:1": {}, "i:7": {}}}}},
                    {"manager": "nothing"},
                ],
            },
            "spec": {
                "nodeName": "n1", "list": [1, 2],
                "containers": [{"name": "first"}, {"name": "canary-container", "image": "x", "ports": [{"containerPort": 80}]}],
            },
        });
        let (owners, managers) = found(&object);
        assert_eq!(
            owners,
            [
                "/metadata/finalizers/1 kubectl Apply",
                "/metadata/labels/a~1b~0c kubectl Apply",
                "/spec/containers/1/image kubectl Apply",
                "/spec/containers/1/name kubectl Apply",
                "/spec/containers/1/ports/0/containerPort kubectl Apply",
                "/spec/list/1 kube-scheduler Update",
                "/spec/nodeName kube-scheduler Update",
            ]
        );
        assert_eq!(managers, ["kubectl", "kube-scheduler", "nothing"]);
        assert!(!owners.concat().contains("canary"));
        for path in owners.iter().filter_map(|line| line.split_once(' ')) {
            assert!(object.pointer(path.0).is_some(), "{path:?}");
        }
    }

    #[test]
    fn unexpected_elements_are_left_out() {
        let object = |fields: Value| json!({"metadata": {"name": "x", "managedFields": [{"manager": "m", "fieldsV1": fields}]}, "spec": {"a": [1]}});
        for fields in [
            json!({"f": {}, "x:spec": {}, "k:{": {}, "spec": {}}),
            json!({"f:spec": {"f:a": {"k:[]": {}, "k:7": {}, "v:": {}, "i:-1": {}, "i:x": {}}}}),
            json!({"f:spec": {"v:1": {}, "i:0": {}}}),
            json!(null),
        ] {
            assert_eq!(found(&object(fields.clone())).0, Vec::<String>::new(), "{fields}");
        }
        assert_eq!(found(&json!({"metadata": {"managedFields": null}})).0, Vec::<String>::new());
        let many: Map<String, Value> = (0..9_000).map(|n| (format!("f:{n}"), json!({}))).collect();
        let data: Map<String, Value> = (0..9_000).map(|n| (n.to_string(), json!(""))).collect();
        let large = json!({"metadata": {"managedFields": [{"fieldsV1": {"f:data": many}}]}, "data": data});
        assert_eq!(found(&large).0.len(), MAX_OWNERS);
    }
}
