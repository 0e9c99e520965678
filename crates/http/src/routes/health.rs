//! Routes for liveness, readiness and the OpenAPI document.

use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::{Input, Public},
    openapi::Document,
    response::Response,
};

/// Input that ignores parameters and body, because probes may send any.
pub(crate) struct IgnoredInput;

impl Input for IgnoredInput {
    async fn read(_: &actix_web::HttpRequest, _: actix_web::dev::Payload) -> Result<Self> {
        Ok(Self)
    }
}

impl Documented for IgnoredInput {
    fn describe(_: &mut Docs) {}
}

/// The status of the server.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alive {
    /// Always `ok`.
    status: &'static str,
}

pub(crate) async fn live(_: Data<Api>, _: Public<IgnoredInput>) -> Result<Response<Alive>> {
    Ok(Response::of(Alive { status: "ok" }))
}

pub(crate) async fn ready(api: Data<Api>, _: Public<IgnoredInput>) -> Result<Response<Alive>> {
    api.hooks.readiness.ready().await?;
    Ok(Response::of(Alive { status: "ok" }))
}

pub(crate) async fn openapi(_: Data<Api>, _: Public<IgnoredInput>) -> Result<Document> {
    Ok(Document)
}
