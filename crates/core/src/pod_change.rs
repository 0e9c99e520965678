//! Changes of single pods: deletion, eviction, and the resources of a container while it runs. A pod is named with its
//! uid, because another pod may have its name since the caller read it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::value::RawValue;

use crate::{
    access::{AccessRequest, Caller, Permit, Verb},
    change_reason::ChangeReason,
    error::{Cause, Error, Reason, Result},
    gate::{Changed, Gate, Warning},
    ids::ClusterId,
    kind::Kind,
    name::{ContainerName, Namespace, ObjectName, Uid},
    object::{Metadata, parse},
    pod::{PodObject, PodRow},
    quantity::Quantity,
};

/// Reference to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace.
    pub namespace: Namespace,
    /// Name.
    pub name: ObjectName,
    /// Uid.
    pub uid: Uid,
}

/// What decides whether a pod may be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// Its uid.
    pub uid: String,
    /// Whether a controller replaces it when it is gone. The owner of the mirror of a static pod, its node, does not: the
    /// kubelet makes the mirror of a pod that keeps running.
    pub replaced: bool,
}

impl PodIdentity {
    /// Projects a Pod from the API server's JSON.
    ///
    /// # Errors
    /// `UnexpectedAnswer` if the object is not a Pod.
    pub fn project(pod: &RawValue) -> Result<Self> {
        let PodObject { metadata, .. } = parse(pod)?;
        let replaced = metadata.controller().is_some_and(|owner| owner.kind != Kind::Node.info().kind);
        let Metadata { uid, .. } = metadata;
        Ok(Self { uid, replaced })
    }
}

/// Amounts of the resources that can be changed while a container runs. `None` leaves an amount as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// CPU.
    pub cpu: Option<Quantity>,
    /// Memory.
    pub memory: Option<Quantity>,
}

impl Amounts {
    /// The given amounts, by the name of the resource.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Quantity)> {
        let amounts = [("cpu", &self.cpu), ("memory", &self.memory)];
        amounts.into_iter().filter_map(|(name, amount)| Some((name, amount.as_ref()?)))
    }

    fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The given amounts in one line, for the audit trail: `cpu=250m memory=64Mi`.
    fn summary(&self) -> String {
        let parts: Vec<_> = self.iter().map(|(name, amount)| format!("{name}={}", amount.as_str())).collect();
        parts.join(" ")
    }
}

/// New resources of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    /// The container.
    pub container: ContainerName,
    /// What the container requests.
    pub requests: Amounts,
    /// What the container may use.
    pub limits: Amounts,
}

/// Port: changes pods in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait PodChangeApi: Send + Sync {
    /// Returns what decides whether a pod may be deleted; `None` if it does not exist.
    ///
    /// # Errors
    /// The errors of every call to a cluster.
    async fn identify_pod(&self, permit: &Permit, name: &ObjectName) -> Result<Option<PodIdentity>>;

    /// Deletes the pod with this uid. Without `grace_seconds`, its containers have the pod's own grace period to end.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `Modified` if the pod has another uid; and the errors of every call to a cluster.
    async fn delete_pod(
        &self,
        permit: &Permit,
        name: &ObjectName,
        uid: &Uid,
        grace_seconds: Option<u32>,
    ) -> Result<()>;

    /// Evicts the pod with this uid, as far as its PodDisruptionBudget allows it.
    ///
    /// # Errors
    /// `EvictRefused` with the numbers of the budget, or if several budgets select the pod; otherwise as
    /// [`PodChangeApi::delete_pod`].
    async fn evict_pod(&self, permit: &Permit, name: &ObjectName, uid: &Uid) -> Result<()>;

    /// Changes the resources of a container of the pod with this uid, without restarting the pod. With the warning
    /// `Unchanged` if they are as requested.
    ///
    /// # Errors
    /// `NotFoundInCluster` for the pod or the container (resource `container`); `Modified` if the pod has another uid, or
    /// if its resources are changed between read and write; `RejectedByCluster` if the pod's quality of service class
    /// would change, or its node is too small; `ClusterTooOld`; and the errors of every call to a cluster.
    async fn resize_pod(
        &self,
        permit: &Permit,
        name: &ObjectName,
        uid: &Uid,
        resize: &Resize,
    ) -> Result<Changed<PodRow>>;
}

/// Use cases: deleting, evicting and resizing pods.
#[derive(Clone)]
pub struct PodChanges {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn PodChangeApi>,
}

impl PodChanges {
    /// Creates these use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn PodChangeApi>) -> Self {
        Self { gate, api }
    }

    /// Deletes a pod. That takes the right to restart workloads if a controller replaces the pod; otherwise, and without
    /// a grace period, the right to delete workloads.
    ///
    /// # Errors
    /// `RoleTooLow` with the missing right; otherwise as [`Gate::change`] and [`PodChangeApi::delete_pod`].
    pub async fn delete(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        pod: &PodRef,
        grace_seconds: Option<u32>,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<()>> {
        let removal = Removal::new(caller, cluster, pod, grace_seconds);
        let verb = match grace_seconds {
            Some(0) => Verb::Delete,
            _ => removal.verb(Verb::DeleteReplaced, Verb::Delete),
        };
        let access = access(verb, cluster, pod).because(reason);
        let access = match grace_seconds {
            Some(seconds) => access.with("grace_seconds", seconds),
            None => access,
        };
        let api = self.api.clone();
        let work = async move |permit: Permit| {
            removal.check(&*api, &permit).await?;
            api.delete_pod(&permit, &removal.pod.name, &removal.pod.uid, grace_seconds).await?;
            Ok(().into())
        };
        self.gate.change(caller, access, work).await
    }

    /// Evicts a pod. The rights are those of a deletion with a grace period.
    ///
    /// # Errors
    /// `RoleTooLow` with the missing right; otherwise as [`Gate::change`] and [`PodChangeApi::evict_pod`].
    pub async fn evict(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        pod: &PodRef,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<()>> {
        let removal = Removal::new(caller, cluster, pod, None);
        let access = access(removal.verb(Verb::Evict, Verb::EvictUnreplaced), cluster, pod).because(reason);
        let api = self.api.clone();
        let work = async move |permit: Permit| {
            removal.check(&*api, &permit).await?;
            api.evict_pod(&permit, &removal.pod.name, &removal.pod.uid).await?;
            Ok(().into())
        };
        self.gate.change(caller, access, work).await
    }

    /// Changes the resources of a container while it runs. With the warning that they end with the pod.
    ///
    /// # Errors
    /// `InvalidInput` without any amount; otherwise as [`Gate::change`] and [`PodChangeApi::resize_pod`].
    pub async fn resize(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        pod: &PodRef,
        resize: Resize,
        reason: Option<ChangeReason>,
    ) -> Result<Changed<PodRow>> {
        if resize.requests.is_empty() && resize.limits.is_empty() {
            return Err(Error::invalid("requests", Reason::Required));
        }
        let mut access = access(Verb::Resize, cluster, pod).because(reason);
        access = access.with("container", resize.container.as_str());
        for (name, amounts) in [("requests", &resize.requests), ("limits", &resize.limits)] {
            if !amounts.is_empty() {
                access = access.with(name, amounts.summary());
            }
        }
        let (api, pod) = (self.api.clone(), pod.clone());
        let work = async move |permit: Permit| {
            let mut changed = api.resize_pod(&permit, &pod.name, &pod.uid, &resize).await?;
            if !changed.warnings.contains(&Warning::Unchanged) {
                changed.warnings.push(Warning::UntilReplaced);
            }
            Ok(changed)
        };
        self.gate.change(caller, access, work).await
    }
}

/// The removal of a pod, and the refusals of it. Whether a controller replaces the pod is known only after it was read.
struct Removal {
    pod: PodRef,
    /// The refusal if a controller replaces the pod: the caller has no right to restart workloads, or without a grace
    /// period none to delete them.
    of_replaced: Option<Error>,
    /// The refusal if nothing replaces the pod: the caller has no right to delete workloads.
    of_unreplaced: Option<Error>,
}

impl Removal {
    fn new(caller: &Caller, cluster: ClusterId, pod: &PodRef, grace_seconds: Option<u32>) -> Self {
        let refusal = |verb: Verb| caller.judge(&access(verb, cluster, pod)).err();
        let of_unreplaced = refusal(Verb::Delete);
        let of_replaced =
            if grace_seconds == Some(0) { of_unreplaced.clone() } else { refusal(Verb::DeleteReplaced) };
        Self { pod: pod.clone(), of_replaced, of_unreplaced }
    }

    /// The verb by which the gate judges the removal before the pod is read: the one for a pod that is replaced, unless
    /// the caller may remove only others.
    fn verb(&self, replaced: Verb, unreplaced: Verb) -> Verb {
        let only_unreplaced = self.of_replaced.is_some() && self.of_unreplaced.is_none();
        if only_unreplaced { unreplaced } else { replaced }
    }

    /// Reads the pod, and checks its controller and its uid.
    async fn check(&self, api: &dyn PodChangeApi, permit: &Permit) -> Result<()> {
        let found = api.identify_pod(permit, &self.pod.name).await?;
        let found = found.ok_or_else(|| permit.object_not_found())?;
        let refusal = if found.replaced { &self.of_replaced } else { &self.of_unreplaced };
        if let Some(refusal) = refusal {
            return Err(refusal.clone());
        }
        if found.uid != self.pod.uid.as_str() {
            return Err(Error { cause: Cause::Modified, ..permit.object_not_found() });
        }
        Ok(())
    }
}

fn access(verb: Verb, cluster: ClusterId, pod: &PodRef) -> AccessRequest {
    let PodRef { namespace, name, uid } = pod;
    let access = AccessRequest::to_object(verb, Kind::Pod, cluster, namespace, name.as_str());
    access.with("uid", uid.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_pods_with_a_controller_other_than_their_node_are_replaced() {
        let owner =
            |kind: &str, controller: bool| json!([{"kind": kind, "name": "x", "controller": controller}]);
        let cases = [
            (json!(null), false),
            (owner("ReplicaSet", true), true),
            (owner("Workflow", true), true),
            (owner("ConfigMap", false), false),
            (owner("Node", true), false),
        ];
        for (owners, replaced) in cases {
            let pod: Value = json!({"metadata": {"uid": "p1", "ownerReferences": owners}});
            let pod = serde_json::value::to_raw_value(&pod).unwrap();
            let identity = PodIdentity::project(&pod).unwrap();
            assert_eq!(identity, PodIdentity { uid: "p1".to_owned(), replaced }, "{owners}");
        }
    }
}
