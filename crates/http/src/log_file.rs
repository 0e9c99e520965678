//! Download of a log: its bytes as an attachment, without the envelope, compressed if the client accepts it. If the log
//! cannot be read to its end, the connection is aborted, so that a client does not mistake a truncated log for a complete
//! one.

use std::io;

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY},
    web::Bytes,
};
use futures_util::{Stream, StreamExt, stream::try_unfold};
use pilothouse_core::{
    name::ContainerName,
    pod::LogDownload,
    streams::{EventStream, StreamEnd, StreamEvent},
};

use crate::{
    docs::{Docs, Documented},
    gzip::{GzipStream, should_compress},
};

/// The media type.
const TEXT: &str = "text/plain";

/// A log as an attachment.
pub(crate) struct LogFile {
    name: String,
    bytes: EventStream<Vec<u8>>,
}

impl LogFile {
    /// The log of a container of this pod.
    pub(crate) fn of(pod: &str, LogDownload { container, bytes }: LogDownload) -> Self {
        // the name of the container comes from the cluster
        let container =
            ContainerName::new(container).map_or_else(|_| String::new(), |name| format!("_{name}"));
        Self { name: format!("{pod}{container}.log"), bytes }
    }
}

impl Responder for LogFile {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let gzip = should_compress(request.headers(), usize::MAX).then(GzipStream::new);
        let mut response = HttpResponse::Ok();
        response
            .insert_header((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")))
            .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", self.name)))
            .insert_header((VARY, HeaderValue::from_static("Accept-Encoding")));
        if gzip.is_some() {
            response.insert_header((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        response.streaming(body(self.bytes, gzip))
    }
}

impl Documented for LogFile {
    fn describe(docs: &mut Docs) {
        docs.stream =
            Some((TEXT, "The log, as the container wrote it; an attachment, compressed if accepted"));
    }
}

/// The body; an error if the log was not read to its end.
fn body(
    bytes: EventStream<Vec<u8>>,
    gzip: Option<GzipStream>,
) -> impl Stream<Item = Result<Bytes, io::Error>> {
    try_unfold(Some((bytes, gzip)), async |state| {
        let Some((mut bytes, mut gzip)) = state else { return Ok(None) };
        loop {
            let part = match bytes.next().await {
                Some(StreamEvent::Next(part)) => part,
                Some(StreamEvent::End(StreamEnd::Completed)) | None => {
                    let rest = gzip.map(GzipStream::finish).transpose()?.unwrap_or_default();
                    // an empty chunk would end the body twice
                    return Ok((!rest.is_empty()).then(|| (Bytes::from(rest), None)));
                }
                Some(StreamEvent::End(end)) => {
                    tracing::warn!(reason = end.reason(), "a log download was aborted");
                    return Err(io::Error::other(end.reason()));
                }
            };
            let part = match &mut gzip {
                Some(gzip) => gzip.add(&part)?,
                None => part,
            };
            // a part may wait in the compressor
            if !part.is_empty() {
                return Ok(Some((Bytes::from(part), Some((bytes, gzip)))));
            }
        }
    })
}
