//! Routes for objects of any kind: the kinds that a cluster serves, pages of their objects, and details of one.

use actix_web::{HttpRequest, HttpResponse, Responder, body::BoxBody, dev::Payload, web::Data};
use pilothouse_core::{
    inventory::{
        Listing,
        objects::{
            Column, KindRow, ObjectDetail, ObjectListing, ObjectPage, ObjectQuery, ObjectRef, ObjectRow,
            ResourceName,
        },
    },
    name::{Namespace, PathName},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::{
    lists::{if_none_match, page_schema},
    parameters::{label, namespace, parameter, with_example},
    params::Id,
};
use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::{Authenticated, Input},
    list_response::ListResponse,
    query::{Params, RawQuery},
    response::Response,
};

/// Key of the rows of a page.
const KEY: &str = "objects";

/// A cluster.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct InCluster {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Kinds {
    /// The kinds that the cluster serves, by group and plural, each in the version that the cluster prefers.
    kinds: Vec<KindRow>,
}

pub(crate) async fn kinds(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<InCluster>>,
) -> Result<Response<Kinds>> {
    let (kinds, warnings) = api.app.objects.kinds(signed_in.caller(), query.cluster_id.into()).await?;
    Ok(Response::of(Kinds { kinds }).warning(warnings))
}

/// Input of a page of objects.
pub(crate) struct ObjectsInput(ObjectQuery);

impl Input for ObjectsInput {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self(ObjectQuery::parse(&RawQuery::of(request)?.0)?))
    }
}

/// A page of objects, with the columns of their cells.
pub(crate) struct ObjectsResponse(ListResponse);

impl Responder for ObjectsResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.0.respond_to(request)
    }
}

pub(crate) async fn list(
    api: Data<Api>,
    Authenticated(signed_in, ObjectsInput(query)): Authenticated<ObjectsInput>,
) -> Result<ObjectsResponse> {
    let ObjectPage { page, scope } = api.app.objects.page(signed_in.caller(), &query).await?;
    let ObjectListing { columns, listing } = page;
    let Listing { rows, pagination, as_of, stale, warnings } = listing;
    Ok(ObjectsResponse(ListResponse {
        key: KEY,
        rows,
        usage: Vec::new(),
        columns: Some(columns),
        pagination,
        freshness: Some((as_of, stale)),
        scope: Some(scope),
        warnings,
    }))
}

/// An object of any kind.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByResource {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline, example = "deployments.apps")]
    resource: ResourceName,
    /// The namespace; required for namespaced kinds, unknown for others.
    #[param(value_type = Namespace, inline, required = false)]
    namespace: Option<Namespace>,
    #[param(inline)]
    name: PathName,
}

pub(crate) async fn detail(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<ByResource>>,
) -> Result<Response<ObjectDetail>> {
    let ByResource { cluster_id, resource, namespace, name } = query;
    let object = ObjectRef { resource, namespace, name };
    let detail = api.app.objects.detail(signed_in.caller(), cluster_id.into(), &object).await?;
    let warnings = detail.warnings.clone();
    Ok(Response::of(detail).warning(warnings))
}

impl Documented for ObjectsInput {
    fn describe(docs: &mut Docs) {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
        let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
        let text = json!({"type": "string", "maxLength": 253});
        let sort = json!({"type": "string", "pattern": "^-?(name|namespace|created_at|cell\\.[0-9]{1,2})$"});
        docs.parameters.extend([
            parameter("cluster_id", true, "The id of the cluster", id),
            resource(true, "The kind, by its plural and group; of its versions the one that the cluster prefers"),
            namespace("A namespace, or `*` for all; required for namespaced kinds, unknown for others"),
            parameter("page", false, "From 1", page),
            parameter("per_page", false, "Rows per page", per_page),
            parameter("search", false, "A part of the name, ignoring case", text),
            with_example(
                parameter(
                    "sort",
                    false,
                    "`name`, `namespace`, `created_at`, or `cell.` and the number of a column from 0 to 23; a leading `-` sorts in descending order",
                    sort,
                ),
                "-cell.1",
            ),
            label(),
            if_none_match(),
        ]);
    }
}

/// The parameter that names a kind.
pub(super) fn resource(required: bool, description: &str) -> serde_json::Value {
    let name = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
    let schema = json!({"type": "string", "minLength": 1, "maxLength": 317, "pattern": name});
    with_example(parameter("resource", required, description, schema), "deployments.apps")
}

impl Documented for ObjectsResponse {
    fn describe(docs: &mut Docs) {
        docs.revalidated = true;
        let (row, column) = (docs.schema::<ObjectRow>(), docs.schema::<Column>());
        let mut data = page_schema(docs, KEY, row, true);
        data["properties"]["columns"] =
            json!({"type": "array", "items": column, "description": "The columns of the cells."});
        if let Some(required) = data["required"].as_array_mut() {
            required.push("columns".into());
        }
        docs.data = data;
    }
}
