//! Routes for namespaces.

use actix_web::web::Data;
use pilothouse_core::{name::Namespace, namespace::NamespaceRow, object::Labels};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::params::Id;
use crate::{
    api::Api,
    body::Body,
    error::Result,
    extract::Authenticated,
    messages::Message,
    response::{Empty, Response},
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneNamespace {
    /// The namespace after the change.
    namespace: NamespaceRow,
}

/// A namespace to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNamespaceBody {
    /// The id of the cluster.
    cluster_id: Id,
    name: Namespace,
}

pub(crate) async fn create(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NewNamespaceBody>>,
) -> Result<Response<OneNamespace>> {
    let changed = api
        .app
        .namespaces
        .create(signed_in.caller(), body.cluster_id.into(), &body.name, Labels::new())
        .await?;
    Ok(Response::changed(changed, |namespace| OneNamespace { namespace })
        .with_message(Message::NamespaceCreated))
}

/// A namespace to delete.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
}

pub(crate) async fn delete(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<NamespaceBody>>,
) -> Result<Response<Empty>> {
    let changed =
        api.app.namespaces.delete(signed_in.caller(), body.cluster_id.into(), &body.namespace).await?;
    Ok(Response::changed(changed, |()| Empty {}).with_message(Message::NamespaceDeleted))
}
