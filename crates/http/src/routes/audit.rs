//! Verifying and exporting the audit trail; its list is one of core's `LISTS`.

use std::borrow::Cow;

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
    clock::parse_timestamp,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use utoipa::IntoParams;

use crate::{
    error::Result,
    extract::Authenticated,
    openapi::{Docs, Documented},
    query::{NoParams, Params},
    response::Response,
    server::Api,
};

pub(crate) async fn verify(
    api: Data<Api>,
    Authenticated(who, NoParams): Authenticated<NoParams>,
) -> Result<Response<Verdict>> {
    Ok(Response::of(api.app.audit.verify(&who.caller).await?))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExportParams {
    /// How it is written.
    #[param(inline, required = false)]
    #[serde(default)]
    format: ExportFormat,
    /// From the first entry at or after this time.
    #[param(value_type = String, format = DateTime, required = false)]
    #[serde(default, deserialize_with = "optional_moment")]
    from: Option<Timestamp>,
    /// To the last entry before this time.
    #[param(value_type = String, format = DateTime, required = false)]
    #[serde(default, deserialize_with = "optional_moment")]
    to: Option<Timestamp>,
}

/// As [`moment`]; none for null.
fn optional_moment<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<Cow<'_, str>>::deserialize(from)?;
    text.map(|text| parse_timestamp(&text).map_err(D::Error::custom)).transpose()
}

pub(crate) async fn export(
    api: Data<Api>,
    Authenticated(who, Params(params)): Authenticated<Params<ExportParams>>,
) -> Result<Lines> {
    let ExportParams { format, from, to } = params;
    Ok(Lines(api.app.audit.export(&who.caller, ExportQuery { format, from, to }).await?, format))
}

/// An export as it is read; without the envelope. When reading fails half-way the connection breaks, so that nobody takes
/// a part for the whole.
pub(crate) struct Lines(Export, ExportFormat);

impl Responder for Lines {
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
            .insert_header((CONTENT_TYPE, MEDIA_TYPE))
            .insert_header((CONTENT_DISPOSITION, name))
            .streaming(lines)
    }
}

/// JSON, a line each.
const MEDIA_TYPE: &str = "application/x-ndjson";

impl Documented for Lines {
    fn describe(docs: &mut Docs) {
        docs.stream =
            Some((MEDIA_TYPE, "One JSON object per line: see docs/api.md, or an event of audit.k8s.io/v1"));
    }
}
