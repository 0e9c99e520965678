//! Whether we are there, and what we can do.

use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::Result,
    extract::{Input, Public},
    openapi::{Docs, Document, Documented},
    response::Response,
    server::Api,
};

/// Whatever a prober sends along.
pub(crate) struct Anything;

impl Input for Anything {
    async fn read(_: &actix_web::HttpRequest, _: actix_web::dev::Payload) -> Result<Self> {
        Ok(Self)
    }
}

impl Documented for Anything {
    fn describe(_: &mut Docs) {}
}

/// That the answer came.
#[derive(Serialize, ToSchema)]
pub(crate) struct Alive {
    /// `ok`.
    status: &'static str,
}

pub(crate) async fn live(_: Data<Api>, _: Public<Anything>) -> Result<Response<Alive>> {
    Ok(Response::of(Alive { status: "ok" }))
}

pub(crate) async fn ready(api: Data<Api>, _: Public<Anything>) -> Result<Response<Alive>> {
    api.hooks.readiness.ready().await?;
    Ok(Response::of(Alive { status: "ok" }))
}

pub(crate) async fn openapi(_: Data<Api>, _: Public<Anything>) -> Result<Document> {
    Ok(Document)
}
