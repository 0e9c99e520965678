//! Workloads.

use actix_web::web::Data;
use pilothouse_core::{
    name::{Namespace, ObjectName},
    workload::{Replicas, WorkloadDetail, WorkloadRef, WorkloadRow, WorkloadType},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::input::Id;
use crate::{
    answer::Answer, body::Body, entry::Signed, error::Result, query::Params, server::Api, words::Message,
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
    Signed(who, Params(query)): Signed<Params<WorkloadBody>>,
) -> Result<Answer<WorkloadDetail>> {
    let workload = WorkloadRef { namespace: query.namespace, kind: query.r#type, name: query.name };
    let detail = api.app.workloads.detail(&who.caller, query.cluster_id.into(), &workload).await?;
    let warnings = detail.warnings.clone();
    Ok(Answer::of(detail).warning(warnings))
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
    Signed(who, Body(body)): Signed<Body<ScaleBody>>,
) -> Result<Answer<OneWorkload>> {
    let workload = WorkloadRef { namespace: body.namespace, kind: body.r#type, name: body.name };
    let changed =
        api.app.workloads.scale(&who.caller, body.cluster_id.into(), &workload, body.replicas).await?;
    Ok(Answer::changed(changed, |workload| OneWorkload { workload }).saying(Message::WorkloadScaled))
}

pub(crate) async fn restart(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<WorkloadBody>>,
) -> Result<Answer<OneWorkload>> {
    let workload = WorkloadRef { namespace: body.namespace, kind: body.r#type, name: body.name };
    let changed = api.app.workloads.restart(&who.caller, body.cluster_id.into(), &workload).await?;
    Ok(Answer::changed(changed, |workload| OneWorkload { workload }).saying(Message::WorkloadRestarted))
}
