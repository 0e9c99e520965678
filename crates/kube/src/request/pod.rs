//! Requests of the subresources of pods.

use http::Request;
use kube::core::{request::Request as Builder, subresource::LogParams};
use pilothouse_core::{
    Result,
    json_patch::JsonPatch,
    kind::Kind,
    name::{Namespace, ObjectName},
};
use serde_json::json;

use super::{Call, FIELD_MANAGER, Limit, collection, post, with_json};

/// The subresource with which pods are resized, in RBAC notation.
pub(crate) const POD_RESIZE: &str = "pods/resize";
/// The subresource with which pods are evicted, in RBAC notation.
pub(crate) const POD_EVICTION: &str = "pods/eviction";

impl Call {
    /// GET of a container's log. Of a longer log, the last `max_bytes` bytes are read.
    pub(crate) fn logs(
        namespace: &Namespace,
        pod: &ObjectName,
        params: &LogParams,
        max_bytes: usize,
    ) -> Result<Self> {
        let request = Builder::new(collection(Kind::Pod, Some(namespace))).logs(pod.as_str(), params);
        let call = Self::for_kind(Kind::Pod, "get", request)?.with_object(Some(namespace), Some(pod));
        Ok(Self { resource: "pods/log", limit: Limit::Newest(max_bytes), ..call })
    }

    /// A JSON patch of a pod's subresource `resize`. The server rejects unknown fields.
    pub(crate) fn resize(namespace: &Namespace, pod: &ObjectName, patch: &JsonPatch) -> Result<Self> {
        let path = collection(Kind::Pod, Some(namespace));
        let uri = format!("{path}/{pod}/resize?fieldManager={FIELD_MANAGER}&fieldValidation=Strict");
        let request = with_json(Request::patch(uri), "application/json-patch+json", patch);
        let call = Self::for_kind(Kind::Pod, "patch", request)?.with_object(Some(namespace), Some(pod));
        Ok(Self { resource: POD_RESIZE, ..call })
    }

    /// POST of the eviction of the pod with this uid. The response is a `Status`.
    pub(crate) fn evict(namespace: &Namespace, pod: &ObjectName, uid: &str) -> Result<Self> {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod.as_str(), "namespace": namespace.as_str()},
            "deleteOptions": {"preconditions": {"uid": uid}},
        });
        let path = collection(Kind::Pod, Some(namespace));
        let request = post(&format!("{path}/{pod}/eviction?fieldManager={FIELD_MANAGER}"), &eviction);
        let call = Self::for_kind(Kind::Pod, "create", request)?.with_object(Some(namespace), Some(pod));
        Ok(Self { resource: POD_EVICTION, ..call })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_of_an_eviction_is_in_the_body() {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web-0").unwrap());
        let evict = Call::evict(&namespace, &name, "u").unwrap();
        let body: serde_json::Value = serde_json::from_slice(evict.request.body()).unwrap();
        assert_eq!(evict.request.uri().path(), "/api/v1/namespaces/shop/pods/web-0/eviction");
        assert_eq!(body["deleteOptions"], json!({"preconditions": {"uid": "u"}}));
        assert_eq!((evict.verb, evict.resource), ("create", "pods/eviction"));
    }
}
