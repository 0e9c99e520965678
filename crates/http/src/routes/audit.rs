//! Routes to verify and export the audit trail; its list is one of core's `LISTS`.

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    web::{Bytes, Data},
};
use futures_util::stream::try_unfold;
use jiff::Timestamp;
use pilothouse_core::{
    Error,
    audit::{Export, ExportFormat, ExportQuery, Verdict},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::optional_timestamp;
use crate::{
    api::Api,
    docs::{Docs, Documented},
    error::Result,
    extract::Authenticated,
    query::{NoParams, Params},
    response::Response,
};

pub(crate) async fn verify(
    api: Data<Api>,
    Authenticated(signed_in, NoParams): Authenticated<NoParams>,
) -> Result<Response<Verdict>> {
    Ok(Response::of(api.app.audit.verify(signed_in.caller()).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportParams {
    /// The format of the export.
    #[param(inline, required = false)]
    #[serde(default)]
    format: ExportFormat,
    /// Start: the first entry at or after this time.
    #[param(value_type = String, format = DateTime, required = false)]
    #[serde(default, deserialize_with = "optional_timestamp")]
    from: Option<Timestamp>,
    /// End: the last entry before this time.
    #[param(value_type = String, format = DateTime, required = false)]
    #[serde(default, deserialize_with = "optional_timestamp")]
    to: Option<Timestamp>,
}

pub(crate) async fn export(
    api: Data<Api>,
    Authenticated(signed_in, Params(params)): Authenticated<Params<ExportParams>>,
) -> Result<ExportStream> {
    let ExportParams { format, from, to } = params;
    Ok(ExportStream(
        api.app.audit.export(signed_in.caller(), ExportQuery { format, from, to }).await?,
        format,
    ))
}

/// A streamed export, without the envelope. If reading fails, the connection is aborted, so that a client does not
/// mistake a truncated export for a complete one.
pub(crate) struct ExportStream(Export, ExportFormat);

impl Responder for ExportStream {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let Self(export, format) = self;
        let name = match format {
            ExportFormat::Jsonl => "attachment; filename=\"pilothouse-audit.jsonl\"",
            ExportFormat::K8s => "attachment; filename=\"pilothouse-audit.k8s.jsonl\"",
        };
        let lines = try_unfold(export, async |mut export| {
            let lines =
                export.next().await.inspect_err(|error| tracing::error!(%error, "an export was aborted"))?;
            Ok::<_, Error>(lines.map(|lines| (Bytes::from(lines), export)))
        });
        HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, JSON_LINES))
            .insert_header((CONTENT_DISPOSITION, name))
            .streaming(lines)
    }
}

/// The media type of JSON Lines.
const JSON_LINES: &str = "application/x-ndjson";

impl Documented for ExportStream {
    fn describe(docs: &mut Docs) {
        docs.stream =
            Some((JSON_LINES, "One JSON object per line: see docs/api.md, or an event of audit.k8s.io/v1"));
    }
}
