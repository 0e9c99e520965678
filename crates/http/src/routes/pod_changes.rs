//! Routes that delete, evict and resize pods.

use actix_web::web::Data;
use pilothouse_core::{
    change_reason::ChangeReason,
    name::{ContainerName, Namespace, ObjectName, Uid},
    pod::PodRow,
    pod_change::{Amounts, PodRef, Resize},
    quantity::Quantity,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{Bounded, Id};
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

/// Longest grace period in seconds: a day.
const MAX_GRACE_SECONDS: u32 = 86_400;

/// A pod to delete.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodDeletionBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The name of the pod.
    pod_name: ObjectName,
    /// The uid of the pod; a conflict if another pod has the name since.
    uid: Uid,
    /// The time that its containers have to end, in seconds; the default is that of the pod. With 0, nothing waits for its
    /// node to confirm that they have ended.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 86400)]
    grace_seconds: Option<Bounded<0, MAX_GRACE_SECONDS>>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PodDeletionBody>>,
) -> Result<Response<Empty>> {
    let PodDeletionBody { cluster_id, namespace, pod_name, uid, grace_seconds, reason } = body;
    let pod = PodRef { namespace, name: pod_name, uid };
    let (caller, cluster) = (signed_in.caller(), cluster_id.into());
    let grace_seconds = grace_seconds.map(|seconds| seconds.0);
    let changed = api.app.pod_changes.delete(caller, cluster, &pod, grace_seconds, reason).await?;
    Ok(Response::changed(changed, |()| Empty {}).with_message(Message::PodDeleted))
}

/// A pod to evict.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodEvictionBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The name of the pod.
    pod_name: ObjectName,
    /// The uid of the pod; a conflict if another pod has the name since.
    uid: Uid,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn evict(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PodEvictionBody>>,
) -> Result<Response<Empty>> {
    let PodEvictionBody { cluster_id, namespace, pod_name, uid, reason } = body;
    let pod = PodRef { namespace, name: pod_name, uid };
    let (caller, cluster) = (signed_in.caller(), cluster_id.into());
    let changed = api.app.pod_changes.evict(caller, cluster, &pod, reason).await?;
    Ok(Response::changed(changed, |()| Empty {}).with_message(Message::PodEvicted))
}

/// New resources of a container of a running pod. What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodResizeBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The name of the pod.
    pod_name: ObjectName,
    /// The uid of the pod; a conflict if another pod has the name since.
    uid: Uid,
    container: ContainerName,
    /// What the container requests.
    requests: Option<AmountsBody>,
    /// What the container may use.
    limits: Option<AmountsBody>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

/// Amounts of resources.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AmountsBody {
    /// The amount of CPU.
    cpu: Option<Quantity>,
    /// The amount of memory.
    memory: Option<Quantity>,
}

impl AmountsBody {
    fn amounts(body: Option<Self>) -> Amounts {
        let Self { cpu, memory } = body.unwrap_or_default();
        Amounts { cpu, memory }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OnePod {
    /// The pod after the change.
    pod: PodRow,
}

pub(crate) async fn resize(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PodResizeBody>>,
) -> Result<Response<OnePod>> {
    let PodResizeBody { cluster_id, namespace, pod_name, uid, container, requests, limits, reason } = body;
    let pod = PodRef { namespace, name: pod_name, uid };
    let (caller, cluster) = (signed_in.caller(), cluster_id.into());
    let (requests, limits) = (AmountsBody::amounts(requests), AmountsBody::amounts(limits));
    let resize = Resize { container, requests, limits };
    let changed = api.app.pod_changes.resize(caller, cluster, &pod, resize, reason).await?;
    Ok(Response::changed(changed, |pod| OnePod { pod }).with_message(Message::PodResized))
}
