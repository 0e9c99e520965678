//! Routes for liveness, readiness, the version and the OpenAPI document.

use actix_web::{
    HttpRequest, HttpResponse, Responder, body::BoxBody, dev::Payload, http::header::ContentType, web::Data,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::{Input, Public},
    query::NoParams,
    response::Response,
};

/// Input that ignores parameters and body, because probes may send any.
pub(crate) struct IgnoredInput;

impl Input for IgnoredInput {
    async fn read(_: &HttpRequest, _: Payload) -> Result<Self> {
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

/// The version of the server.
#[derive(Serialize, ToSchema)]
pub(crate) struct ServerVersion {
    /// Version of Pilothouse.
    version: &'static str,
    /// Commit of the source of the binary; null if it was not known at the build.
    #[schema(value_type = Option<String>)]
    commit: Option<&'static str>,
    /// Build of the console that the binary contains; null if it contains none.
    #[schema(value_type = Option<String>)]
    console: Option<&'static str>,
}

pub(crate) async fn version(api: Data<Api>, _: Public<NoParams>) -> Result<Response<ServerVersion>> {
    let commit = api.settings.commit;
    Ok(Response::of(ServerVersion { version: env!("CARGO_PKG_VERSION"), commit, console: None }))
}

/// The OpenAPI document, without the envelope.
pub(crate) struct Document(&'static str);

pub(crate) async fn openapi(api: Data<Api>, _: Public<IgnoredInput>) -> Result<Document> {
    Ok(Document((api.document)()))
}

impl Responder for Document {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().content_type(ContentType::json()).body(self.0)
    }
}

impl Documented for Document {
    fn describe(_: &mut Docs) {}
}
