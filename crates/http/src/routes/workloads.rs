//! Routes for workloads.

use actix_web::web::Data;
use pilothouse_core::{
    ids::ClusterId,
    name::{Namespace, ObjectName},
    workload::{Replicas, WorkloadDetail, WorkloadRef, WorkloadRow, WorkloadType},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Id;
use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, query::Params,
    response::Response,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneWorkload {
    /// The workload after the change.
    pub(super) workload: WorkloadRow,
}

/// The reference to a workload, as query parameters or as a request body.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadBody {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    #[param(inline)]
    r#type: WorkloadType,
    #[param(inline)]
    name: ObjectName,
}

impl WorkloadBody {
    /// The cluster and the workload.
    pub(super) fn into_parts(self) -> (ClusterId, WorkloadRef) {
        let Self { cluster_id, namespace, r#type: kind, name } = self;
        (cluster_id.into(), WorkloadRef { namespace, kind, name })
    }
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<WorkloadBody>>,
) -> Result<Response<WorkloadDetail>> {
    let (cluster, workload) = query.into_parts();
    let detail = api.app.workloads.detail(signed_in.caller(), cluster, &workload).await?;
    let warnings = detail.warnings.clone();
    Ok(Response::of(detail).warning(warnings))
}

/// The desired number of replicas of a workload.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The type: `deployment` or `statefulset`.
    r#type: WorkloadType,
    name: ObjectName,
    replicas: Replicas,
}

pub(crate) async fn scale(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<ScaleBody>>,
) -> Result<Response<OneWorkload>> {
    let workload = WorkloadRef { namespace: body.namespace, kind: body.r#type, name: body.name };
    let changed =
        api.app.workloads.scale(signed_in.caller(), body.cluster_id.into(), &workload, body.replicas).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::WorkloadScaled))
}

pub(crate) async fn restart(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<WorkloadBody>>,
) -> Result<Response<OneWorkload>> {
    let (cluster, workload) = body.into_parts();
    let changed = api.app.workloads.restart(signed_in.caller(), cluster, &workload).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload })
        .with_message(Message::WorkloadRestarted))
}
