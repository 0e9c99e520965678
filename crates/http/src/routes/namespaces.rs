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
    namespace: NamespaceRow,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNamespaceBody {
    #[schema(value_type = i64, minimum = 1)]
    cluster_id: Id,
    #[schema(value_type = String, max_length = 63)]
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceBody {
    #[schema(value_type = i64, minimum = 1)]
    cluster_id: Id,
    #[schema(value_type = String, max_length = 63)]
    namespace: Namespace,
}

pub(crate) async fn delete(
    api: Data<Api>,
    Signed(who, Body(body)): Signed<Body<NamespaceBody>>,
) -> Result<Answer<Empty>> {
    let changed = api.app.namespaces.delete(&who.caller, body.cluster_id.into(), &body.namespace).await?;
    Ok(Answer::changed(changed, |()| Empty {}).saying(Message::NamespaceDeleted))
}
