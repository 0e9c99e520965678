//! Routes for nodes.

use actix_web::web::Data;
use pilothouse_core::{access::Caller, change_reason::ChangeReason, name::ObjectName, node::NodeRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::Id;
use crate::{
    api::Api, body::Body, error::Result, extract::Authenticated, messages::Message, response::Response,
};

/// A node to cordon or to uncordon.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeBody {
    /// The id of the cluster.
    cluster_id: Id,
    name: ObjectName,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct OneNode {
    /// The node after the change. Its pods are not counted: `pods` is null.
    node: NodeRow,
}

pub(crate) async fn cordon(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NodeBody>>,
) -> Result<Response<OneNode>> {
    Ok(set_unschedulable(&api, signed_in.caller(), body, true).await?.with_message(Message::NodeCordoned))
}

pub(crate) async fn uncordon(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NodeBody>>,
) -> Result<Response<OneNode>> {
    Ok(set_unschedulable(&api, signed_in.caller(), body, false).await?.with_message(Message::NodeUncordoned))
}

async fn set_unschedulable(
    api: &Api,
    caller: &Caller,
    body: NodeBody,
    unschedulable: bool,
) -> Result<Response<OneNode>> {
    let NodeBody { cluster_id, name, reason } = body;
    let nodes = &api.app.nodes;
    let changed = nodes.cordon(caller, cluster_id.into(), &name, unschedulable, reason).await?;
    Ok(Response::changed(changed, |node| OneNode { node }))
}
