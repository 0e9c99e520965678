//! Workloads.

use actix_web::web::Data;
use pilothouse_core::{
    name::{Namespace, ObjectName},
    workload::{Replicas, WorkloadDetail, WorkloadRef, WorkloadRow, WorkloadType},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Id;
use crate::{
    body::Body, error::Result, extract::Authenticated, messages::Message, query::Params, response::Response,
    server::Api,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneWorkload {
    /// It as it is after the change.
    workload: WorkloadRow,
}

/// Which workload: as query parameters, or as a body.
#[derive(Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadBody {
    /// Which cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    #[param(inline)]
    r#type: WorkloadType,
    #[param(inline)]
    name: ObjectName,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(who, Params(query)): Authenticated<Params<WorkloadBody>>,
) -> Result<Response<WorkloadDetail>> {
    let workload = WorkloadRef { namespace: query.namespace, kind: query.r#type, name: query.name };
    let detail = api.app.workloads.detail(&who.caller, query.cluster_id.into(), &workload).await?;
    let warnings = detail.warnings.clone();
    Ok(Response::of(detail).warning(warnings))
}

/// How many replicas a workload should have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// `deployment` or `statefulset`.
    r#type: WorkloadType,
    name: ObjectName,
    replicas: Replicas,
}

pub(crate) async fn scale(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<ScaleBody>>,
) -> Result<Response<OneWorkload>> {
    let workload = WorkloadRef { namespace: body.namespace, kind: body.r#type, name: body.name };
    let changed =
        api.app.workloads.scale(&who.caller, body.cluster_id.into(), &workload, body.replicas).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::WorkloadScaled))
}

pub(crate) async fn restart(
    api: Data<Api>,
    Authenticated(who, Body(body)): Authenticated<Body<WorkloadBody>>,
) -> Result<Response<OneWorkload>> {
    let workload = WorkloadRef { namespace: body.namespace, kind: body.r#type, name: body.name };
    let changed = api.app.workloads.restart(&who.caller, body.cluster_id.into(), &workload).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload })
        .with_message(Message::WorkloadRestarted))
}
