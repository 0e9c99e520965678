//! Routes for autoscalers.

use actix_web::web::Data;
use pilothouse_core::{
    autoscaler::AutoscalerRow,
    autoscaler_limits::AutoscalerLimits,
    change_reason::ChangeReason,
    error::{Error, Reason},
    name::{Namespace, ObjectName},
    workload::Replicas,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::{Bounded, Id};
use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, response::Response,
};

/// New limits of an autoscaler.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AutoscalerLimitsBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    name: ObjectName,
    /// The smallest number of replicas.
    #[schema(value_type = u32, minimum = 1, maximum = 10000)]
    min: Bounded<1, 10_000>,
    /// The largest number of replicas, at least `min`.
    #[schema(value_type = u32, minimum = 1, maximum = 10000)]
    max: Bounded<1, 10_000>,
    /// The `resource_version` that was read; a conflict if the object was changed since, its status included.
    #[schema(min_length = 1, max_length = 253, pattern = "^[!-~]+$")]
    resource_version: Option<String>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneAutoscaler {
    /// The autoscaler after the change.
    autoscaler: AutoscalerRow,
}

pub(crate) async fn update(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<AutoscalerLimitsBody>>,
) -> Result<Response<OneAutoscaler>> {
    let AutoscalerLimitsBody { cluster_id, namespace, name, min, max, resource_version, reason } = body;
    let (caller, cluster) = (signed_in.caller(), cluster_id.into());
    let limits =
        AutoscalerLimits { min: replicas("min", min)?, max: replicas("max", max)?, resource_version };
    let changed = api.app.autoscalers.update(caller, cluster, &namespace, name, limits, reason).await?;
    Ok(Response::changed(changed, |autoscaler| OneAutoscaler { autoscaler })
        .with_message(Message::AutoscalerUpdated))
}

fn replicas(field: &str, number: Bounded<1, 10_000>) -> Result<Replicas, Error> {
    Replicas::try_from(i64::from(number.0)).map_err(|reason: Reason| Error::invalid(field, reason))
}
