//! Fake API server of Kubernetes 1.30 whose objects change: they begin as those of `kubernetes-1.30.json`.

use std::sync::{Arc, Mutex};

use super::{older::read, *};

/// The objects that the server begins with, with a uid and a version each.
fn objects() -> Value {
    let mut objects = older::RECORDED.clone();
    for list in objects.as_object_mut().unwrap().values_mut().filter_map(Value::as_array_mut) {
        for object in list {
            let metadata = object["metadata"].as_object_mut().unwrap();
            let uid = metadata["name"].clone();
            metadata.entry("uid").or_insert(uid);
            metadata.entry("resourceVersion").or_insert("1".into());
        }
    }
    objects
}

/// The server. Stops when dropped.
pub(super) struct OldCluster {
    pub(super) server: FakeServer,
    objects: Arc<Mutex<Value>>,
}

impl OldCluster {
    pub(super) async fn start() -> Self {
        let objects = Arc::new(Mutex::new(objects()));
        let shared = objects.clone();
        let server = FakeServer::start(move |request, _| reply(&mut shared.lock().unwrap(), request)).await;
        Self { server, objects }
    }

    /// The object of this name in a list such as `/api/v1/pods`, as it is now.
    pub(super) fn object(&self, list: &str, name: &str) -> Option<Value> {
        let objects = self.objects.lock().unwrap();
        let mut list = objects[list].as_array().into_iter().flatten();
        list.find(|object| object["metadata"]["name"] == *name).cloned()
    }
}

fn reply(objects: &mut Value, request: &RecordedRequest) -> Reply {
    let path = request.target.split('?').next().unwrap_or_default().replace("/namespaces/shop/", "/");
    let body = || serde_json::from_str::<Value>(&request.body).unwrap();
    match request.method.as_str() {
        "GET" => read(objects, request),
        "POST" => match path.strip_suffix("/eviction") {
            Some(pod) => remove(objects, pod, 201),
            None => create(objects, &path, body()),
        },
        "PATCH" => patch(objects, &path, &body()),
        "DELETE" => remove(objects, &path, 200),
        _ => unknown(),
    }
}

/// The list and the position of the object with this path.
fn find<'a>(objects: &'a mut Value, path: &str) -> Option<(&'a mut Vec<Value>, usize)> {
    let (list, name) = path.rsplit_once('/')?;
    let list = objects.get_mut(list)?.as_array_mut()?;
    let position = list.iter().position(|object| object["metadata"]["name"] == *name)?;
    Some((list, position))
}

fn create(objects: &mut Value, path: &str, mut object: Value) -> Reply {
    let Some(list) = objects.get_mut(path).and_then(Value::as_array_mut) else { return unknown() };
    object["metadata"]["uid"] = object["metadata"]["name"].clone();
    object["metadata"]["resourceVersion"] = "2".into();
    object["metadata"]["creationTimestamp"] = "2024-05-02T09:00:00Z".into();
    list.push(object.clone());
    Reply::json(201, &object)
}

fn remove(objects: &mut Value, path: &str, code: u16) -> Reply {
    let Some((list, position)) = find(objects, path) else { return unknown() };
    list.remove(position);
    Reply::json(code, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}

/// Applies a JSON patch, or nothing of it. 1.30 has no subresource `resize`.
fn patch(objects: &mut Value, path: &str, patch: &Value) -> Reply {
    let Some((list, position)) = find(objects, path) else { return unknown() };
    let mut object = list[position].clone();
    for step in patch.as_array().unwrap() {
        let (pointer, value) = (step["path"].as_str().unwrap(), &step["value"]);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let applied = match step["op"].as_str().unwrap() {
            "test" => object.pointer(pointer) == Some(value),
            "add" | "replace" => {
                object.pointer_mut(parent).and_then(Value::as_object_mut).is_some_and(|map| {
                    map.insert(key.replace("~1", "/"), value.clone());
                    true
                })
            }
            _ => false,
        };
        if !applied {
            let message = "the server rejected our request due to an error in our request";
            return Reply::status(422, "Invalid", message, json!({}));
        }
    }
    object["metadata"]["resourceVersion"] = "2".into();
    list[position] = object.clone();
    Reply::json(200, &object)
}

fn unknown() -> Reply {
    Reply::status(404, "NotFound", "the server could not find the requested resource", json!({}))
}
