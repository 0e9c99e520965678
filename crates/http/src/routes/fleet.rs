//! All clusters at once, and one list as it goes on: what is asked by `kind`, the key of a list.

use std::collections::BTreeMap;

use actix_web::{
    HttpRequest, HttpResponse, Responder, body::BoxBody, dev::Payload, http::header::ContentType, web::Data,
};
use pilothouse_core::{
    cluster::ClusterId,
    inventory::{
        ClusterResult, List, ListInfo, ListQuery, Overview, Pagination, SearchResults, WatchEvent,
        countable_lists, searchable_lists,
    },
};
use serde_json::{Map, Value, json};

use super::lists::{parameter, row_schema};
use crate::{
    error::{Failure, Result},
    extract::{Authenticated, Input},
    list_response::{member, unwritten},
    messages::{Language, Message},
    middleware::RequestContext,
    openapi::{Docs, Documented},
    query::RawQuery,
    response::Response,
    server::Api,
    sse::Events,
};

/// What is looked for in all clusters.
pub(crate) struct Search(List, ListQuery);

/// What is counted in all clusters.
pub(crate) struct Counted(Vec<List>);

/// What is watched in one.
pub(crate) struct Watch(List, ClusterId, ListQuery);

pub(crate) async fn search(
    api: Data<Api>,
    Authenticated(who, Search(list, query)): Authenticated<Search>,
) -> Result<Results> {
    Ok(Results(api.app.across.search(&who.caller, list, &query).await?))
}

pub(crate) async fn overview(
    api: Data<Api>,
    Authenticated(who, Counted(lists)): Authenticated<Counted>,
) -> Result<Response<Overview>> {
    Ok(Response::of(api.app.across.overview(&who.caller, &lists).await?))
}

pub(crate) async fn watch(
    api: Data<Api>,
    Authenticated(who, Watch(list, cluster, query)): Authenticated<Watch>,
) -> Result<Events<WatchEvent>> {
    Ok(Events(api.app.watches.watch(&who.caller, cluster, list, query).await?))
}

impl Input for Search {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        let (list, query) = ListQuery::parse_across(&RawQuery::of(request)?.0)?;
        Ok(Self(list, query))
    }
}

impl Input for Counted {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self(List::parse_counted(&RawQuery::of(request)?.0)?))
    }
}

impl Input for Watch {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        let (list, cluster, query) = ListQuery::parse_watch(&RawQuery::of(request)?.0)?;
        Ok(Self(list, cluster, query))
    }
}

/// What was found, written around the rows' own bytes as a list's page is.
pub(crate) struct Results(SearchResults);

impl Responder for Results {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self.body(RequestContext::language(request)) {
            Ok(body) => HttpResponse::Ok().content_type(ContentType::json()).body(body),
            Err(error) => HttpResponse::from_error(Failure::from(unwritten(error))),
        }
    }
}

impl Results {
    fn body(&self, language: Language) -> serde_json::Result<Vec<u8>> {
        let SearchResults { rows, pagination, clusters } = &self.0;
        // the same beginning of every row of a cluster: its first two fields
        let beginnings = clusters.iter().map(|ClusterResult { id, name, .. }| {
            let mut beginning = format!("{{\"cluster_id\":{id}").into_bytes();
            member(&mut beginning, "cluster_name", name)?;
            Ok(beginning)
        });
        let beginnings = beginnings.collect::<serde_json::Result<Vec<_>>>()?;
        let size: usize = rows.iter().map(|(of, row)| beginnings[*of].len() + row.bytes().len() + 1).sum();
        let mut body = Vec::with_capacity(size + 256 + 160 * clusters.len());
        body.extend_from_slice(b"{\"success\":true,\"data\":{\"results\":[");
        for (i, (of, row)) in rows.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&beginnings[*of]);
            // a row is an object that has fields
            body.push(b',');
            body.extend_from_slice(&row.bytes()[1..]);
        }
        body.push(b']');
        member(&mut body, "clusters", clusters)?;
        member(&mut body, "pagination", pagination)?;
        body.push(b'}');
        member(&mut body, "message", language.words().message(Message::Done))?;
        body.push(b'}');
        Ok(body)
    }
}

impl Documented for Results {
    fn describe(docs: &mut Docs) {
        let rows: Vec<_> = searchable_lists().map(|info| found_schema(docs, info)).collect();
        let (cluster, mut pagination) = (docs.schema::<ClusterResult>(), docs.schema::<Pagination>());
        pagination["description"] =
            "The position of the page in the results of the clusters that responded.".into();
        let results = "The rows of the page, each as in the list of its kind, with its cluster first.";
        docs.answer = json!({
            "type": "object",
            "required": ["results", "clusters", "pagination"],
            "properties": {
                "results": {"type": "array", "items": {"anyOf": rows}, "description": results},
                "clusters": {"type": "array", "items": cluster, "description": "Every cluster, by id."},
                "pagination": pagination,
            },
        });
    }
}

/// A row of a list with the cluster that it is of.
fn found_schema(docs: &mut Docs, info: &ListInfo) -> Value {
    let row = row_schema(docs, info.list);
    let mut row = docs.flat(&row);
    let own = row["properties"].as_object().cloned().unwrap_or_default();
    let mut fields = Map::from_iter([
        (
            "cluster_id".to_owned(),
            json!({"type": "integer", "format": "int64", "description": "The cluster's id."}),
        ),
        ("cluster_name".to_owned(), json!({"type": "string", "description": "The cluster's name."})),
    ]);
    fields.extend(own);
    row["required"] = fields.keys().cloned().collect();
    row["properties"] = fields.into();
    row
}

impl Documented for Search {
    fn describe(docs: &mut Docs) {
        let q = json!({"type": "string", "minLength": 1, "maxLength": 253});
        let sort = json!({"type": "string", "pattern": "^-?[a-z_]+$", "maxLength": 64});
        let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
        let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
        docs.parameters.extend([
            kind(true, searchable_lists()),
            with_example(parameter("q", true, "A part of the name, ignoring case", q), "web"),
            namespace("A namespace, or `*` (the default) for all; not for kinds without namespaces"),
            parameter("page", false, "From 1; page × per_page is at most 10000", page),
            parameter("per_page", false, "Rows per page", per_page),
            with_example(
                parameter(
                    "sort",
                    false,
                    "A field of the kind's rows; a leading `-` sorts in descending order",
                    sort,
                ),
                "-created_at",
            ),
        ]);
        docs.parameters.extend(filters());
    }
}

impl Documented for Counted {
    fn describe(docs: &mut Docs) {
        docs.parameters.push(kind(false, countable_lists()));
    }
}

impl Documented for Watch {
    fn describe(docs: &mut Docs) {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        let text = json!({"type": "string", "maxLength": 253});
        docs.parameters.extend([
            kind(true, searchable_lists()),
            parameter("cluster_id", true, "Which cluster", id),
            namespace("A namespace, or `*` for all; required for namespaced kinds, unknown for others"),
            with_example(parameter("search", false, "A part of the name, ignoring case", text), "web"),
        ]);
        docs.parameters.extend(filters());
    }
}

fn with_example(mut parameter: Value, example: &str) -> Value {
    parameter["example"] = example.into();
    parameter
}

fn kind(required: bool, lists: impl Iterator<Item = &'static ListInfo>) -> Value {
    let keys: Vec<_> = lists.map(|info| info.key).collect();
    let description = if required { "Which list" } else { "One kind only" };
    with_example(parameter("kind", required, description, json!({"type": "string", "enum": keys})), "pods")
}

fn namespace(description: &str) -> Value {
    let names = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$";
    let schema = json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": names});
    with_example(parameter("namespace", false, description, schema), "*")
}

/// The filters of all lists; of each kind its own.
fn filters() -> Vec<Value> {
    let mut of = BTreeMap::<&str, Vec<&str>>::new();
    for info in searchable_lists() {
        for field in (info.fields)().iter().filter(|field| field.filter.is_parameter()) {
            of.entry(field.name).or_default().push(info.key);
        }
        if !info.more_kinds.is_empty() && !of.get("type").is_some_and(|keys| keys.contains(&info.key)) {
            of.entry("type").or_default().push(info.key);
        }
    }
    let filter = |(name, keys): (&str, Vec<&str>)| {
        let description = format!("Only rows with this value; as for the lists of {}", keys.join(", "));
        let schema = json!({"type": "string", "pattern": "^[ -~]+$", "maxLength": 253});
        let example = match name {
            "node" => "node-1",
            "object" => "Pod/web-6f7c9d-x2x4v",
            "storage_class" => "standard",
            "type" => "deployment",
            "workload" => "deployment/web",
            _ => "Running",
        };
        with_example(parameter(name, false, &description, schema), example)
    };
    of.into_iter().map(filter).collect()
}
