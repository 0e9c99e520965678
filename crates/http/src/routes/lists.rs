//! Routes of all lists: one handler over core's table `LISTS`, with documentation generated from the table.

use actix_web::{http::Method, web::Data};
use pilothouse_core::{
    Code, Error,
    access::{Caller, Verb},
    app::App,
    audit::OperationQuery,
    error::Reason,
    grant::{GrantQuery, WhoQuery},
    inventory::{List, ListInfo, ListPage, ListedScope, Listing},
    kind::Kind,
    rights::{RightResource, RightVerb},
    rows::{Filter, ListScope, Pagination, Row},
};
use serde_json::{Value, json};

use super::{
    CLUSTER, QUESTION, Route,
    parameters::{filter, label, parameter},
};
use crate::{
    api::Api,
    docs::Docs,
    error::Result,
    extract::{Authenticated, RequiredAuth},
    list_response::ListResponse,
    query::RawQuery,
};

/// The route table entry of a list.
pub(crate) fn route(info: &'static ListInfo) -> Route {
    let handler = async move |api: Data<Api>,
                              Authenticated(signed_in, RawQuery(pairs)): Authenticated<RawQuery>|
                -> Result<ListResponse> {
        Ok(page(info.list, &api.app, signed_in.caller(), &pairs).await?)
    };
    Route {
        method: Method::GET,
        path: info.path,
        auth: match info.list {
            List::Who => RequiredAuth::Right(RightVerb::List, RightResource::Grants),
            _ => RequiredAuth::of(Verb::List, info.resource),
        },
        codes: match info.list {
            List::Users
            | List::Sessions
            | List::Tokens
            | List::ServiceAccounts
            | List::Roles
            | List::Requests
            | List::BreakGlass => &[],
            List::Grants => &[Code::ResourceNotFound],
            List::Who => QUESTION,
            _ => CLUSTER,
        },
        summary: info.summary,
        service: actix_web::web::get().to(handler),
        docs: Box::new(|| docs(info)),
    }
}

async fn page(
    list: List,
    app: &App,
    caller: &Caller,
    pairs: &[(String, String)],
) -> Result<ListResponse, Error> {
    let query = || list.parse_page(pairs);
    let key = list.info().key;
    let local = |(rows, pagination): (Vec<Row>, Pagination)| ListResponse {
        key,
        rows,
        usage: Vec::new(),
        columns: None,
        pagination,
        freshness: None,
        scope: None,
        warnings: Vec::new(),
    };
    Ok(match list {
        List::Clusters => local(app.clusters.list(caller, &query()?).await?),
        List::Users => local(app.users.list(caller, &query()?).await?),
        List::Sessions => local(app.sessions.list(caller, &query()?).await?),
        List::Tokens => local(app.tokens.list(caller, &query()?).await?),
        List::ServiceAccounts => local(app.service_accounts.list(caller, &query()?).await?),
        List::Roles => local(app.grants.roles(caller, &query()?).await?),
        List::Grants => local(app.grants.list(caller, &GrantQuery::parse(pairs)?).await?),
        List::Who => local(app.grants.who(caller, &WhoQuery::parse(pairs)?).await?),
        List::Requests => local(app.grants.requests(caller, &query()?).await?),
        List::BreakGlass => local(app.break_glass.list(caller, &query()?).await?),
        List::Operations => {
            let page = app.audit.operations(caller, OperationQuery::parse(pairs)?).await?;
            let rows = page.logs.iter().map(Row::of).collect::<Result<_, _>>()?;
            local((rows, page.pagination))
        }
        // the remaining lists are of a cluster's objects
        _ => {
            let query = query()?;
            let cluster = query.cluster.ok_or_else(|| Error::invalid("cluster_id", Reason::Required))?;
            let ListPage { listing, usage, scope } = app.lists.page(caller, cluster, list, &query).await?;
            let Listing { rows, pagination, as_of, stale, warnings } = listing;
            let freshness = Some((as_of, stale));
            ListResponse {
                key,
                rows,
                usage,
                columns: None,
                pagination,
                freshness,
                scope: Some(scope),
                warnings,
            }
        }
    })
}

fn docs(info: &ListInfo) -> Docs {
    let mut docs = Docs::default();
    docs.revalidated = true;
    docs.parameters = parameters(info);
    docs.parameters.push(if_none_match());
    let row = docs.row_schema(info);
    docs.data = page_schema(&mut docs, info.key, row, info.scope != ListScope::Local);
    docs
}

/// The header of a request for a page that the client has already.
pub(super) fn if_none_match() -> Value {
    json!({
        "name": "If-None-Match", "in": "header", "required": false,
        "description": "The `ETag` of an earlier response: 304 without a body while it still matches.",
        "schema": {"type": "string"},
    })
}

/// The schema of a page of rows under this key.
pub(super) fn page_schema(docs: &mut Docs, key: &str, row: Value, is_of_cluster: bool) -> Value {
    let mut pagination = docs.schema::<Pagination>();
    pagination["description"] = "The position of the page.".into();
    let mut scope = docs.schema::<ListedScope>();
    scope["description"] =
        "The part of the requested list that the page covers: rows outside the caller's rights are left out."
            .into();
    let mut required = vec![key, "pagination"];
    let mut properties = json!({
        key: {"type": "array", "items": row, "description": "The rows of the page."},
        "pagination": pagination,
    });
    if is_of_cluster {
        required.extend(["as_of", "stale", "scope"]);
        properties["scope"] = scope;
        properties["as_of"] = json!({"type": "string", "format": "date-time", "description": "The time at which the rows were last known to be current"});
        properties["stale"] =
            json!({"type": "boolean", "description": "Whether the cluster could not be read since then"});
    }
    json!({"type": "object", "required": required, "properties": properties})
}

fn parameters(info: &ListInfo) -> Vec<Value> {
    let text = || json!({"type": "string", "maxLength": 253});
    let mut parameters = Vec::new();
    if info.scope != ListScope::Local {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        parameters.push(parameter("cluster_id", true, "The id of the cluster", id));
    }
    if info.scope == ListScope::Namespaced {
        let names = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
        let namespace = json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": names});
        parameters.push(parameter("namespace", true, "A namespace, or `*` for all", namespace));
    }
    if let Some(owner) = info.owner {
        let description = format!("The name of the {}", owner.kind.info().kind);
        parameters.push(parameter("name", true, &description, text()));
    }
    if info.list == List::Who {
        let verbs: Vec<_> = RightVerb::ALL.iter().map(|verb| verb.as_str()).collect();
        let verb = json!({"type": "string", "enum": verbs});
        parameters.push(parameter("verb", true, "The verb of the right", verb));
        let resource = json!({"type": "string", "maxLength": 260, "example": "workloads"});
        let description = "The resource of the right: `workloads`, `custom:example.org`";
        parameters.push(parameter("resource", true, description, resource));
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        let description = "The id of the cluster; without it, the right in all clusters";
        parameters.push(parameter("cluster_id", false, description, id));
        let namespace = json!({"type": "string", "minLength": 1, "maxLength": 63});
        let description =
            "A namespace, or `*` for all; without it, the right on an object without a namespace";
        parameters.push(parameter("namespace", false, description, namespace));
    }
    let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
    let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
    parameters.push(parameter("page", false, "From 1", page));
    parameters.push(parameter("per_page", false, "Rows per page", per_page));
    parameters.push(parameter("search", false, "A part of the name, ignoring case", text()));
    if info.scope != ListScope::Local {
        parameters.push(label());
    }

    let fields = (info.fields)();
    let sorts = fields.iter().filter(|field| field.sorts);
    let orders: Vec<_> =
        sorts.flat_map(|field| [field.name.to_owned(), format!("-{}", field.name)]).collect();
    let mut order = json!({"type": "string", "enum": orders});
    if !info.default_sort.is_empty() {
        order["default"] = info.default_sort.into();
    }
    parameters.push(parameter(
        "sort",
        false,
        "A field of the row; a leading `-` sorts in descending order",
        order,
    ));

    if !info.more_kinds.is_empty() {
        let kinds: Vec<_> =
            info.kinds.iter().chain(info.more_kinds).map(|kind| kind.info().singular).collect();
        let names = |kinds: &[Kind]| kinds.iter().map(|kind| kind.info().singular).collect::<Vec<_>>();
        let [several, one] = [info.kinds, info.more_kinds].map(|kinds| names(kinds).join(", "));
        let description = format!("Any of {several}, which are the default, or one of {one}");
        parameters.push(filter("type", &description, json!({"type": "string", "enum": kinds})));
    }
    for field in fields {
        let schema = match field.filter {
            Filter::None | Filter::Internal => continue,
            Filter::Any => json!({"type": "string", "pattern": "^[ -~]+$", "maxLength": 253}),
            Filter::Reference => {
                json!({"type": "string", "pattern": "^[ -.0-~]+/[ -.0-~]+$", "maxLength": 253})
            }
            Filter::Number => json!({"type": "integer", "format": "int64", "minimum": 1}),
            Filter::OneOf(values) => json!({"type": "string", "enum": values}),
        };
        parameters.push(filter(field.name, "Only rows with one of these values", schema));
    }
    if info.list == List::Grants {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        parameters.push(filter("cluster_id", "Only grants that contain one of these clusters", id));
    }
    if info.list == List::Operations {
        let time = || json!({"type": "string", "format": "date-time"});
        parameters.push(parameter("from", false, "Created at or after", time()));
        parameters.push(parameter("to", false, "Created before", time()));
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        parameters.push(parameter("before", false, "Only rows with a smaller id: a cursor", id));
    }
    parameters
}
