//! Routes for requests for grants.

use actix_web::web::Data;
use pilothouse_core::{
    grant::{Decision, GrantRequest, NewRequest},
    ids::GrantRequestId,
    rights::{ClusterScope, Reach, RoleName},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::IdAndReasonBody;
use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, response::Response,
    routes::params::Bounded,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneRequest {
    /// The request after the change.
    request: GrantRequest,
}

/// A request for a grant to oneself.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRequestBody {
    /// The role: a built-in or an own one.
    #[schema(value_type = String, min_length = 3, max_length = 40, pattern = "^[a-z0-9-]+$")]
    role: RoleName,
    /// The clusters: `{"all": true}`, `{"ids": [1, 2]}` or `{"labels": "environment in (dev,staging)"}`.
    #[schema(value_type = Object)]
    clusters: ClusterScope,
    /// Patterns of namespaces, 1 to 100: `name`, `prefix-*`, or `*` for all but `kube-*`; null for the whole cluster.
    #[schema(value_type = Option<Vec<String>>, required = true)]
    namespaces: Reach,
    /// The duration of the grant from its approval, in seconds.
    #[schema(value_type = u32, minimum = 60, maximum = 31536000)]
    duration_seconds: Bounded<60, 31_536_000>,
    /// Why the rights are needed.
    #[schema(min_length = 5, max_length = 500)]
    reason: String,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewRequestBody>>,
) -> Result<Response<OneRequest>> {
    let NewRequestBody { role, clusters, namespaces: reach, duration_seconds, reason } = body;
    let new = NewRequest { role, clusters, reach, duration_seconds: duration_seconds.0, reason };
    let request = api.app.grants.request(signed_in.caller(), new).await?;
    Ok(Response::of(OneRequest { request }).with_message(Message::RequestCreated))
}

pub(crate) async fn approve(
    api: Data<Api>,
    request: Authenticated<Body<IdAndReasonBody>>,
) -> Result<Response<OneRequest>> {
    Ok(decide(&api, request, Decision::Approve).await?.with_message(Message::RequestApproved))
}

pub(crate) async fn deny(
    api: Data<Api>,
    request: Authenticated<Body<IdAndReasonBody>>,
) -> Result<Response<OneRequest>> {
    Ok(decide(&api, request, Decision::Deny).await?.with_message(Message::RequestDenied))
}

pub(crate) async fn withdraw(
    api: Data<Api>,
    request: Authenticated<Body<IdAndReasonBody>>,
) -> Result<Response<OneRequest>> {
    Ok(decide(&api, request, Decision::Withdraw).await?.with_message(Message::RequestWithdrawn))
}

async fn decide(
    api: &Api,
    Authenticated(signed_in, Body(body)): Authenticated<Body<IdAndReasonBody>>,
    decision: Decision,
) -> Result<Response<OneRequest>> {
    let IdAndReasonBody { id, reason } = body;
    let id = GrantRequestId(id.0);
    let request = api.app.grants.decide(signed_in.caller(), id, decision, reason).await?;
    Ok(Response::of(OneRequest { request }))
}
