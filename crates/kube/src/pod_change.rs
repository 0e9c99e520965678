//! [`PodChangeApi`]: deletes, evicts and resizes pods.

use async_trait::async_trait;
use http::StatusCode;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::{Changed, Warning},
    json_patch::JsonPatch,
    kind::Kind,
    name::{ContainerName, ObjectName, Uid},
    object::{Metadata, parse},
    pod::PodRow,
    pod_change::{Amounts, PodChangeApi, PodIdentity, Resize},
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{KubeClusters, object_client::ObjectClient, request::Call};

#[async_trait]
impl PodChangeApi for KubeClusters {
    async fn identify_pod(&self, permit: &Permit, name: &ObjectName) -> Result<Option<PodIdentity>> {
        let object = self.object(permit, Kind::Pod, name, self.deadlines().read).await?;
        object.find(PodIdentity::project).await
    }

    async fn delete_pod(
        &self,
        permit: &Permit,
        name: &ObjectName,
        uid: &Uid,
        grace_seconds: Option<u32>,
    ) -> Result<()> {
        let object = self.object(permit, Kind::Pod, name, self.deadlines().write).await?;
        object.delete_uid(uid.as_str(), grace_seconds).await
    }

    async fn evict_pod(&self, permit: &Permit, name: &ObjectName, uid: &Uid) -> Result<()> {
        let object = self.object(permit, Kind::Pod, name, self.deadlines().write).await?;
        let call = Call::evict(permit.namespace()?, name, uid.as_str())?;
        object.client().change(&call).await.map_err(|failure| object.for_uid(failure))?;
        record_eviction(&object, permit, name).await;
        Ok(())
    }

    async fn resize_pod(
        &self,
        permit: &Permit,
        name: &ObjectName,
        uid: &Uid,
        resize: &Resize,
    ) -> Result<Changed<PodRow>> {
        let object = self.object(permit, Kind::Pod, name, self.deadlines().write).await?;
        let read = |object: &RawValue| Ok((parse::<PodResources>(object)?, row(object)?));
        let (pod, value) = object.get(read).await?;
        if pod.metadata.uid != uid.as_str() {
            return Err(object.error(Cause::Modified));
        }
        let patch = pod.patch(resize).ok_or_else(|| container_not_found(&object, &resize.container))?;
        if pod.has(resize) {
            return Ok(Changed { value, warnings: vec![Warning::Unchanged] });
        }
        let call = Call::resize(permit.namespace()?, name, &patch)?;
        let resized = object.client().change(&call).await?.object(&call)?;
        Ok(row(&resized)?.into())
    }
}

fn row(object: &RawValue) -> Result<PodRow> {
    Ok(PodRow::project(parse(object)?))
}

/// Reads the state of a pod after its eviction, so that the next list contains it: the response to an eviction has no
/// pod. The eviction was made, so a failure is ignored.
async fn record_eviction(object: &ObjectClient<'_>, permit: &Permit, name: &ObjectName) {
    let Ok(namespace) = permit.namespace() else { return };
    let Ok(get) = Call::get(Kind::Pod, Some(namespace), name) else { return };
    let pending_writes = object.client().transport().pending_writes();
    match object.client().read(&get).await {
        Ok(pod) => pending_writes.record(&get, &pod.body),
        Err(failure) if failure.is(StatusCode::NOT_FOUND) => {
            if let Ok(delete) = Call::delete(Kind::Pod, Some(namespace), name) {
                pending_writes.record(&delete, b"");
            }
        }
        Err(_) => {}
    }
}

/// The resources of the containers of a pod.
#[derive(Deserialize)]
struct PodResources {
    metadata: Metadata,
    spec: PodSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    resources: Option<Resources>,
}

#[derive(Default, Deserialize)]
struct Resources {
    requests: Option<Map<String, Value>>,
    limits: Option<Map<String, Value>>,
}

impl PodResources {
    /// The list of a container, its index in the list, and the container.
    fn container(&self, name: &ContainerName) -> Option<(&'static str, usize, &Container)> {
        let PodSpec { containers, init_containers } = &self.spec;
        let init_containers = init_containers.as_deref().unwrap_or_default();
        let lists = [("containers", &containers[..]), ("initContainers", init_containers)];
        lists.into_iter().find_map(|(list, containers)| {
            let index = containers.iter().position(|container| container.name == name.as_str())?;
            Some((list, index, &containers[index]))
        })
    }

    /// Whether the resources of the container are as requested.
    fn has(&self, resize: &Resize) -> bool {
        let container = self.container(&resize.container);
        let Some(resources) = container.and_then(|(_, _, container)| container.resources.as_ref()) else {
            return false;
        };
        let Resources { requests, limits } = resources;
        [(requests, &resize.requests), (limits, &resize.limits)].into_iter().all(|(own, amounts)| {
            let own = |name: &str| own.as_ref().and_then(|own| own.get(name)).and_then(Value::as_str);
            amounts.iter().all(|(name, amount)| own(name) == Some(amount.as_str()))
        })
    }

    /// The patch that changes the resources of a container, also of an init container that runs beside the others. `None`
    /// if the pod has no such container.
    fn patch(&self, resize: &Resize) -> Option<JsonPatch> {
        let (list, index, container) = self.container(&resize.container)?;
        let path = format!("/spec/{list}/{index}");
        let mut patch = JsonPatch::of(&self.metadata).test(&format!("{path}/name"), container.name.as_str());
        if container.resources.is_none() {
            patch = patch.add(&format!("{path}/resources"), json!({}));
        }
        let none = Resources::default();
        let Resources { requests, limits } = container.resources.as_ref().unwrap_or(&none);
        for (name, before, amounts) in
            [("requests", requests, &resize.requests), ("limits", limits, &resize.limits)]
        {
            if let Some(after) = changed(before.as_ref(), amounts) {
                patch = patch.add(&format!("{path}/resources/{name}"), after);
            }
        }
        Some(patch)
    }
}

/// The amounts after a change; `None` if none is given.
fn changed(before: Option<&Map<String, Value>>, amounts: &Amounts) -> Option<Map<String, Value>> {
    let mut after = before.cloned().unwrap_or_default();
    let mut given = amounts.iter().peekable();
    given.peek()?;
    after.extend(given.map(|(name, amount)| (name.to_owned(), amount.as_str().into())));
    Some(after)
}

fn container_not_found(object: &ObjectClient<'_>, container: &ContainerName) -> Error {
    let mut error = object.error(Cause::NotFoundInCluster).resource("container");
    error.context.pod = error.context.name.replace(container.to_string());
    error
}

#[cfg(test)]
mod tests {
    use pilothouse_core::quantity::Quantity;

    use super::*;

    fn pod(object: &Value) -> PodResources {
        serde_json::from_value(object.clone()).unwrap()
    }

    fn amounts(cpu: Option<&str>, memory: Option<&str>) -> Amounts {
        let [cpu, memory] =
            [cpu, memory].map(|amount| amount.map(|amount| Quantity::try_from(amount.to_owned()).unwrap()));
        Amounts { cpu, memory }
    }

    fn resize(container: &str, requests: Amounts, limits: Amounts) -> Resize {
        Resize { container: ContainerName::new(container).unwrap(), requests, limits }
    }

    #[test]
    fn resize_changes_the_given_amounts_of_one_container() {
        let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi", "example.com/gpu": "1"}, "limits": {"memory": "64Mi"}});
        let object = json!({"metadata": {"uid": "p", "generation": 1}, "spec": {"containers": [
            {"name": "sidecar"}, {"name": "app", "resources": resources}]}});
        let change = resize("app", amounts(Some("250m"), None), amounts(None, Some("128Mi")));
        let mut patched = object.clone();
        assert!(pod(&object).patch(&change).unwrap().apply(&mut patched));
        let expected = json!({"requests": {"cpu": "250m", "memory": "64Mi", "example.com/gpu": "1"}, "limits": {"memory": "128Mi"}});
        assert_eq!(patched["spec"]["containers"][1]["resources"], expected);
        assert_eq!(patched["spec"]["containers"][0], json!({"name": "sidecar"}));
        // the containers have another order since
        let mut reordered = object.clone();
        reordered["spec"]["containers"].as_array_mut().unwrap().reverse();
        assert!(!pod(&object).patch(&change).unwrap().apply(&mut reordered));
    }

    #[test]
    fn resources_that_were_absent_are_added() {
        let object = json!({"metadata": {"uid": "p", "generation": 1},
            "spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "proxy", "resources": {}}]}});
        for (container, pointer) in
            [("app", "/spec/containers/0/resources"), ("proxy", "/spec/initContainers/0/resources")]
        {
            let change = resize(container, amounts(None, None), amounts(Some("1"), None));
            let mut patched = object.clone();
            assert!(pod(&object).patch(&change).unwrap().apply(&mut patched), "{container}");
            assert_eq!(patched.pointer(pointer), Some(&json!({"limits": {"cpu": "1"}})));
        }
    }

    #[test]
    fn absent_container_has_no_patch() {
        let object = json!({"metadata": {"uid": "p"}, "spec": {"containers": [{"name": "app"}]}});
        let change = resize("absent", amounts(Some("1"), None), amounts(None, None));
        assert!(pod(&object).patch(&change).is_none());
    }
}
