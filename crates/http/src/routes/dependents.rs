//! Route for the dependents of an object.

use actix_web::web::Data;
use pilothouse_core::{
    dependents::Dependents,
    inventory::objects::ResourceName,
    name::{Namespace, ObjectName},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::Id;
use crate::{api::Api, error::Result, extract::Authenticated, query::Params, response::Response};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct DependentsQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    /// The kind of the object, one with namespaces, by its plural and API group: `deployments.apps`, `pods`.
    #[param(inline, example = "statefulsets.apps")]
    resource: ResourceName,
    #[param(inline)]
    namespace: Namespace,
    #[param(inline)]
    name: ObjectName,
}

pub(crate) async fn dependents(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<DependentsQuery>>,
) -> Result<Response<Dependents>> {
    let DependentsQuery { cluster_id, resource, namespace, name } = query;
    let (caller, reader) = (signed_in.caller(), &api.app.dependents);
    let dependents = reader.read(caller, cluster_id.into(), &resource, &namespace, &name).await?;
    let warnings = dependents.warnings.clone();
    Ok(Response::of(dependents).warning(warnings))
}
