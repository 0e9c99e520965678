//! Routes for fleet search, fleet overview and list watch. The parameter `kind` of each is the key of a list.

use std::collections::BTreeMap;

use actix_web::{
    HttpRequest, HttpResponse, Responder, body::BoxBody, dev::Payload, http::header::ContentType, web::Data,
};
use pilothouse_core::{
    Error,
    error::{FieldError, Reason},
    inventory::{
        ClusterResult, FoundRow, List, ListInfo, LiveEvent, Overview, SearchQuery, SearchResults, WatchEvent,
        WatchQuery, countable_lists, searchable_lists,
    },
    rows::Pagination,
};
use serde_json::{Map, Value, json};

use super::{
    objects::resource,
    parameters::{filter, label, namespace, parameter, with_example},
};
use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::{ApiError, Result},
    extract::{Authenticated, Input},
    language::Language,
    list_response::{member, serialization_error},
    messages::Message,
    middleware::RequestContext,
    query::RawQuery,
    response::Response,
    sse::Events,
};

/// Input of the fleet overview: the kinds to count.
pub(crate) struct OverviewQuery(Vec<List>);

/// Input of a watch: one list of one cluster.
pub(crate) struct WatchInput(WatchQuery);

/// Input of a live stream: the queries of several watches.
pub(crate) struct LiveInput(Vec<WatchQuery>);

pub(crate) async fn search(
    api: Data<Api>,
    Authenticated(signed_in, query): Authenticated<SearchQuery>,
) -> Result<SearchResponse> {
    Ok(SearchResponse(api.app.fleet.search(signed_in.caller(), &query).await?))
}

pub(crate) async fn overview(
    api: Data<Api>,
    Authenticated(signed_in, OverviewQuery(lists)): Authenticated<OverviewQuery>,
) -> Result<Response<Overview>> {
    Ok(Response::of(api.app.fleet.overview(signed_in.caller(), &lists).await?))
}

pub(crate) async fn watch(
    api: Data<Api>,
    Authenticated(signed_in, WatchInput(query)): Authenticated<WatchInput>,
) -> Result<Events<WatchEvent>> {
    Ok(Events(api.app.watches.watch(signed_in.caller(), query).await?))
}

pub(crate) async fn live(
    api: Data<Api>,
    Authenticated(signed_in, LiveInput(watches)): Authenticated<LiveInput>,
) -> Result<Events<LiveEvent>> {
    Ok(Events(api.app.watches.live(signed_in.caller(), watches)?))
}

impl Input for SearchQuery {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self::parse(&RawQuery::of(request)?.0)?)
    }
}

impl Input for OverviewQuery {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self(List::parse_countable(&RawQuery::of(request)?.0)?))
    }
}

impl Input for WatchInput {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self(WatchQuery::parse(&RawQuery::of(request)?.0)?))
    }
}

impl Input for LiveInput {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        let pairs = RawQuery::of(request)?.0;
        let unknown = pairs.iter().filter(|(name, _)| name != SUB).map(|(name, _)| name.clone());
        let refused: Vec<_> = unknown.map(|name| FieldError { name, reason: Reason::Unknown }).collect();
        if !refused.is_empty() {
            return Err(Error::fields(refused).into());
        }
        if (1..pairs.len()).any(|at| pairs[..at].contains(&pairs[at])) {
            return Err(Error::invalid(SUB, Reason::Duplicate).into());
        }
        let watches = pairs.iter().map(|(_, query)| watch_of(query));
        Ok(Self(watches.collect::<Result<_, Error>>()?))
    }
}

/// Parameter of a live stream, given once for each watch.
const SUB: &str = "sub";

/// Parses the query of one watch of a live stream. The first refused parameter in it gives the reason.
fn watch_of(query: &str) -> Result<WatchQuery, Error> {
    RawQuery::parse_pairs(query).and_then(|RawQuery(pairs)| WatchQuery::parse(&pairs)).map_err(|error| {
        let reason = error.context.fields.first().map_or(Reason::Malformed, |field| field.reason);
        Error::invalid(SUB, reason)
    })
}

/// The response of a fleet search, written around the rows' serialised bytes like a list response.
pub(crate) struct SearchResponse(SearchResults);

impl Responder for SearchResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self.body(RequestContext::language(request)) {
            Ok(body) => HttpResponse::Ok().content_type(ContentType::json()).body(body),
            Err(error) => HttpResponse::from_error(ApiError::from(serialization_error(error))),
        }
    }
}

impl SearchResponse {
    fn body(&self, language: Language) -> serde_json::Result<Vec<u8>> {
        let SearchResults { rows, pagination, clusters } = &self.0;
        // the first fields of a row, the same for all rows of a cluster
        let prefixes = clusters.iter().map(|ClusterResult { id, name, .. }| {
            let mut prefix = format!("{{\"cluster_id\":{id}").into_bytes();
            member(&mut prefix, "cluster_name", name)?;
            Ok(prefix)
        });
        let prefixes = prefixes.collect::<serde_json::Result<Vec<_>>>()?;
        // a kind is at most as long as the longest key of a list
        let size: usize =
            rows.iter().map(|found| prefixes[found.cluster].len() + found.row.bytes().len() + 40).sum();
        let mut body = Vec::with_capacity(size + 256 + 160 * clusters.len());
        body.extend_from_slice(b"{\"success\":true,\"data\":{\"results\":[");
        for (i, FoundRow { cluster, list, row }) in rows.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&prefixes[*cluster]);
            member(&mut body, "kind", list.info().key)?;
            // a row is an object with at least one field
            body.push(b',');
            body.extend_from_slice(&row.bytes()[1..]);
        }
        body.push(b']');
        member(&mut body, "clusters", clusters)?;
        member(&mut body, "pagination", pagination)?;
        body.push(b'}');
        member(&mut body, "message", language.catalog().message(Message::Done))?;
        body.push(b'}');
        Ok(body)
    }
}

impl Documented for SearchResponse {
    fn describe(docs: &mut Docs) {
        let rows: Vec<_> = searchable_lists().map(|info| result_schema(docs, info)).collect();
        let (cluster, mut pagination) = (docs.schema::<ClusterResult>(), docs.schema::<Pagination>());
        pagination["description"] =
            "The position of the page in the results of the clusters that responded.".into();
        let results =
            "The rows of the page, each as in the list of its kind, with its cluster and kind first.";
        docs.data = json!({
            "type": "object",
            "required": ["results", "clusters", "pagination"],
            "properties": {
                "results": {"type": "array", "items": {"anyOf": rows}, "description": results},
                "clusters": {"type": "array", "items": cluster, "description": "Every cluster in which the caller has a right, by id."},
                "pagination": pagination,
            },
        });
    }
}

/// The schema of a search result: a row of a list, with its cluster.
fn result_schema(docs: &mut Docs, info: &ListInfo) -> Value {
    let row = docs.row_schema(info);
    let mut row = docs.flat(&row);
    let own = row["properties"].as_object().cloned().unwrap_or_default();
    let mut fields = Map::from_iter([
        (
            "cluster_id".to_owned(),
            json!({"type": "integer", "format": "int64", "description": "The cluster's id."}),
        ),
        ("cluster_name".to_owned(), json!({"type": "string", "description": "The cluster's name."})),
        (
            "kind".to_owned(),
            json!({"type": "string", "enum": [info.key], "description": "The kind: the key of its list."}),
        ),
    ]);
    fields.extend(own);
    row["required"] = fields.keys().cloned().collect();
    row["properties"] = fields.into();
    row
}

impl Documented for SearchQuery {
    fn describe(docs: &mut Docs) {
        let q = json!({"type": "string", "minLength": 1, "maxLength": 253});
        let sort = json!({"type": "string", "pattern": "^-?[a-z_]+$", "maxLength": 64});
        let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
        let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
        docs.parameters.extend([
            kinds(),
            with_example(parameter("q", true, "A part of the name, ignoring case", q), "web"),
            namespace("A namespace, or `*` (the default) for all; not for kinds without namespaces"),
            parameter("page", false, "From 1; page × per_page is at most 10000", page),
            parameter("per_page", false, "Rows per page", per_page),
            with_example(
                parameter(
                    "sort",
                    false,
                    "A field of the kind's rows, of several kinds name, namespace, created_at or level; a leading `-` sorts in descending order",
                    sort,
                ),
                "-created_at",
            ),
            label(),
        ]);
        docs.parameters.extend(filters());
    }
}

impl Documented for OverviewQuery {
    fn describe(docs: &mut Docs) {
        docs.parameters.push(kind(false, countable_lists()));
    }
}

impl Documented for WatchInput {
    fn describe(docs: &mut Docs) {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        let text = json!({"type": "string", "maxLength": 253});
        let mut kind = kind(false, searchable_lists());
        kind["description"] = "Which list; required without `resource`".into();
        docs.parameters.extend([
            kind,
            resource(false, "The kind of objects, as for `/api/k8s/objects`, in place of `kind`"),
            parameter("cluster_id", true, "The id of the cluster", id),
            namespace("A namespace, or `*` for all; required for namespaced kinds, unknown for others"),
            with_example(parameter("search", false, "A part of the name, ignoring case", text), "web"),
            label(),
        ]);
        docs.parameters.extend(page());
        docs.parameters.extend(filters());
    }
}

impl Documented for LiveInput {
    fn describe(docs: &mut Docs) {
        let description = "The URL-encoded query of one watch, as for `/api/k8s/watch`. Given 1 to 16 times, each query once";
        let schema = json!({"type": "string", "minLength": 1, "maxLength": 8192});
        docs.parameters.push(with_example(
            parameter(SUB, true, description, schema),
            "kind=pods&cluster_id=1&namespace=shop",
        ));
    }
}

/// The parameters of a page of a watched list.
fn page() -> Vec<Value> {
    let sort = json!({"type": "string", "pattern": "^-?([a-z_]+|cell\\.[0-9]{1,2})$", "maxLength": 64});
    let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
    let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
    let order = "A field of the kind's rows, of `resource` as for `/api/k8s/objects`; a leading `-` sorts in descending order; the stream is a page";
    vec![
        parameter("page", false, "From 1; the stream is a page", page),
        parameter("per_page", false, "Rows per page; the stream is a page", per_page),
        with_example(parameter("sort", false, order, sort), "-created_at"),
    ]
}

fn kind(required: bool, lists: impl Iterator<Item = &'static ListInfo>) -> Value {
    let keys: Vec<_> = lists.map(|info| info.key).collect();
    let description = if required { "Which list" } else { "One kind only" };
    with_example(parameter("kind", required, description, json!({"type": "string", "enum": keys})), "pods")
}

/// The parameter for one or several kinds.
fn kinds() -> Value {
    let keys: Vec<_> = searchable_lists().map(|info| info.key).collect();
    let key = format!("({})", keys.join("|"));
    let pattern = format!("^{key}(,{key})*$");
    let description =
        "One or several kinds, separated by commas; with several, the only filters are level and label";
    let schema = json!({"type": "string", "pattern": pattern, "maxLength": 253});
    with_example(parameter("kind", true, description, schema), "pods")
}

/// The filter parameters of all lists, each with the kinds that support it.
fn filters() -> Vec<Value> {
    let mut keys_by_filter = BTreeMap::<&str, Vec<&str>>::new();
    for info in searchable_lists() {
        for field in (info.fields)().iter().filter(|field| field.filter.is_parameter()) {
            keys_by_filter.entry(field.name).or_default().push(info.key);
        }
        if !info.more_kinds.is_empty()
            && !keys_by_filter.get("type").is_some_and(|keys| keys.contains(&info.key))
        {
            keys_by_filter.entry("type").or_default().push(info.key);
        }
    }
    let documented = |(name, keys): (&str, Vec<&str>)| {
        let description =
            format!("Only rows with one of these values; as for the lists of {}", keys.join(", "));
        let schema = json!({"type": "string", "pattern": "^[ -~]+$", "maxLength": 253});
        filter(name, &description, schema)
    };
    keys_by_filter.into_iter().map(documented).collect()
}
