//! Object client: reads and changes one object of a kind in the permit's cluster and namespace. The adapters of
//! ConfigMaps, Secrets, namespaces and workloads use it and add only their manifests and projections.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    json_patch::JsonPatch,
    kind::Kind,
    name::{Namespace, ObjectName},
    object::{Labels, parse},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::{
    KubeClusters,
    client::ClusterClient,
    error,
    error::Failure,
    replace::{Current, Replacement},
    request::Call,
};

/// Client for the calls of one request to one object, under one permit and one deadline. A call is refused as
/// `Internal` when the permit does not cover the kind or the namespace.
pub(crate) struct ObjectClient<'a> {
    client: ClusterClient<'a>,
    /// Timeout of a read, within the deadline.
    read_timeout: Duration,
    kind: Kind,
    /// The namespace; none for a cluster-scoped kind.
    namespace: Option<&'a Namespace>,
    name: &'a ObjectName,
}

impl KubeClusters {
    /// Creates a client for the object of this kind and name in the permit's cluster and namespace. Its calls end after
    /// `timeout`.
    ///
    /// # Errors
    /// `Internal` when the kind has namespaces and the permit names none; the errors of the connection to the cluster.
    pub(crate) async fn object<'a>(
        &self,
        permit: &'a Permit,
        kind: Kind,
        name: &'a ObjectName,
        timeout: Duration,
    ) -> Result<ObjectClient<'a>> {
        let namespace = if kind.info().namespaced { Some(permit.namespace()?) } else { None };
        let client = self.client(permit, timeout).await?;
        Ok(ObjectClient { client, read_timeout: self.deadlines().read, kind, namespace, name })
    }
}

impl<'a> ObjectClient<'a> {
    /// Reads the object and projects it; the memory of its text stays reserved until this client is dropped.
    ///
    /// # Errors
    /// As every call to a cluster; the errors of `project`.
    pub(crate) async fn get<T: Send + 'static>(
        &self,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let call = self.get_call()?;
        Ok(self.client.with_timeout(self.read_timeout).get_object(&call, project).await?)
    }

    /// As [`ObjectClient::get`]; none when the object does not exist.
    ///
    /// # Errors
    /// As [`ObjectClient::get`].
    pub(crate) async fn find<T: Send + 'static>(
        &self,
        project: impl FnOnce(&RawValue) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let call = self.get_call()?;
        self.client.with_timeout(self.read_timeout).find_object(&call, project).await
    }

    /// Creates the object and returns it. Sent once, as every change.
    ///
    /// # Errors
    /// As every change in a cluster.
    pub(crate) async fn create(&self, manifest: &impl Serialize) -> Result<Box<RawValue>> {
        self.change(Call::create(self.kind, self.namespace, self.name, manifest)?).await
    }

    /// Creates an object of another kind or name in the same namespace and returns it.
    ///
    /// # Errors
    /// As every change in a cluster; `Internal` when the permit does not cover the kind.
    pub(crate) async fn create_other(
        &self,
        kind: Kind,
        name: &ObjectName,
        manifest: &impl Serialize,
    ) -> Result<Box<RawValue>> {
        self.change(Call::create(kind, self.namespace, name, manifest)?).await
    }

    /// Sends a merge patch and returns the patched object.
    ///
    /// # Errors
    /// As every change in a cluster.
    pub(crate) async fn patch(&self, patch: &Value) -> Result<Box<RawValue>> {
        self.change(Call::patch(self.kind, self.namespace, self.name, patch)?).await
    }

    /// Sends a JSON patch and returns the patched object.
    ///
    /// # Errors
    /// `Modified` if a condition of the patch does not hold; otherwise as every change in a cluster.
    pub(crate) async fn json_patch(&self, patch: &JsonPatch) -> Result<Box<RawValue>> {
        self.change(Call::json_patch(self.kind, self.namespace, self.name, patch)?).await
    }

    /// Replaces the contents of the object, unless the object changes between the read and the write. Returns the new
    /// object.
    ///
    /// # Errors
    /// `ConflictInCluster`; `InvalidInput` for a key without a value that the object does not have; otherwise as every
    /// change in a cluster.
    pub(crate) async fn replace(&self, replacement: Replacement<'_>) -> Result<Box<RawValue>> {
        let current = self.get(parse::<Current>).await?;
        if replacement.version.is_some_and(|version| version != current.metadata.resource_version) {
            return Err(self.error(Cause::ConflictInCluster));
        }
        self.patch(&replacement.merge_patch(current)?).await
    }

    /// Deletes the object.
    ///
    /// # Errors
    /// As every change in a cluster.
    pub(crate) async fn delete(&self) -> Result<()> {
        let call = Call::delete(self.kind, self.namespace, self.name)?;
        self.client.change(&call).await?;
        Ok(())
    }

    /// Deletes the object with this uid, with a grace period in seconds instead of the object's own.
    ///
    /// # Errors
    /// `Modified` when the object has another uid; otherwise as every change in a cluster.
    pub(crate) async fn delete_uid(&self, uid: &str, grace_seconds: Option<u32>) -> Result<()> {
        let call = Call::delete_uid(self.kind, self.namespace, self.name, uid, grace_seconds)?;
        self.client.change(&call).await.map_err(|failure| self.for_uid(failure))?;
        Ok(())
    }

    /// The error of a change that was sent for a uid: a conflict means that the object has another one.
    pub(crate) fn for_uid(&self, failure: Failure) -> Error {
        let error = Error::from(failure);
        if error.cause == Cause::ConflictInCluster { self.error(Cause::Modified) } else { error }
    }

    /// Metadata of the manifest that creates the object.
    pub(crate) fn metadata(&self, labels: &Labels) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.to_string()),
            namespace: self.namespace.map(ToString::to_string),
            labels: Some(labels.clone()).filter(|labels| !labels.is_empty()),
            ..ObjectMeta::default()
        }
    }

    /// An error with the object's kind, namespace and name.
    pub(crate) fn error(&self, cause: Cause) -> Error {
        error::about_object(cause, self.kind.info().singular, self.namespace, Some(self.name))
    }

    /// The client of the cluster, for calls about other objects of the same request.
    pub(crate) fn client(&self) -> &ClusterClient<'a> {
        &self.client
    }

    fn get_call(&self) -> Result<Call> {
        Call::get(self.kind, self.namespace, self.name)
    }

    async fn change(&self, call: Call) -> Result<Box<RawValue>> {
        self.client.change(&call).await?.object(&call)
    }
}
