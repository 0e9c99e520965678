//! Namespaces.

use actix_web::web::Data;
use pilothouse_core::{name::Namespace, namespace::NamespaceRow, object::Labels};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::input::Id;
use crate::{
    answer::{Answer, Empty},
    body::Body,
    entry::Signed,
    error::Result,
    server::Api,
    words::Message,
};

#[derive(Serialize, ToSchema)]
pub(crate) struct OneNamespace {
    /// It as it is after the change.
    namespace: NamespaceRow,
}

/// A namespace to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNamespaceBody {
    /// Which cluster.
    cluster_id: Id,
    name: Namespace,
}

pub(crate) async fn create(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<NewNamespaceBody>>,
) -> Result<Answer<OneNamespace>> {
    let changed =
        api.app.namespaces.create(&who.caller, body.cluster_id.into(), &body.name, Labels::new()).await?;
    Ok(Answer::changed(changed, |namespace| OneNamespace { namespace }).saying(Message::NamespaceCreated))
}

/// Which namespace.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceBody {
    /// Which cluster.
    cluster_id: Id,
    namespace: Namespace,
}

pub(crate) async fn delete(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<NamespaceBody>>,
) -> Result<Answer<Empty>> {
    let changed = api.app.namespaces.delete(&who.caller, body.cluster_id.into(), &body.namespace).await?;
    Ok(Answer::changed(changed, |()| Empty {}).saying(Message::NamespaceDeleted))
}
