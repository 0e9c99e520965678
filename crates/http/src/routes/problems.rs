//! Route for the problems of all clusters.

use actix_web::{HttpRequest, dev::Payload, web::Data};
use pilothouse_core::{
    diagnosis::Rule,
    problem::{ProblemPage, ProblemQuery},
};
use serde_json::json;

use super::parameters::{filter, namespace, parameter};
use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::{Authenticated, Input},
    query::RawQuery,
    response::Response,
};

pub(crate) async fn list(
    api: Data<Api>,
    Authenticated(signed_in, query): Authenticated<ProblemQuery>,
) -> Result<Response<ProblemPage>> {
    Ok(Response::of(api.app.problems.list(signed_in.caller(), &query).await?))
}

impl Input for ProblemQuery {
    async fn read(request: &HttpRequest, _: Payload) -> Result<Self> {
        Ok(Self::parse(&RawQuery::of(request)?.0)?)
    }
}

impl Documented for ProblemQuery {
    fn describe(docs: &mut Docs) {
        let id = json!({"type": "integer", "format": "int64", "minimum": 1});
        let levels: Vec<_> = Self::LEVELS.iter().map(|level| level.as_str()).collect();
        let rules: Vec<_> = Self::rules().map(Rule::as_str).collect();
        let page = json!({"type": "integer", "format": "int64", "minimum": 1, "default": 1});
        let per_page = json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 20});
        docs.parameters.extend([
            filter("cluster_id", "Only these clusters", id),
            namespace("A namespace, or `*` (the default) for all, and for nodes and clusters"),
            filter("level", "Only problems of these levels", json!({"type": "string", "enum": levels})),
            filter("rule", "Only problems with these causes", json!({"type": "string", "enum": rules})),
            parameter("page", false, "From 1; page × per_page is at most 10000", page),
            parameter("per_page", false, "Problems per page", per_page),
        ]);
    }
}
