//! Server-sent events (WHATWG HTML, 9.2): encodes streams as `text/event-stream`, and reads `Last-Event-ID` to resume a
//! log.
//!
//! - `lists.rs`: the events of watched lists.
//! - `workload_log.rs`: the events of the logs of a workload.

use std::{convert::Infallible, io::Write, str::FromStr, task::Poll, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::BoxBody,
    dev::Payload,
    http::header::HeaderName,
    rt::time::{Instant, interval_at},
    web::Bytes,
};
use futures_util::{
    Stream, StreamExt,
    future::ready,
    stream::{once, poll_fn},
};
use pilothouse_core::{
    Error,
    error::Reason,
    pod::{LineId, LogLine},
    streams::{EventStream, StreamEnd, StreamEvent},
    workload_log::LogTime,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    docs::{Docs, Documented},
    error::Result,
    extract::Input,
    messages::Catalog,
    middleware::{RequestContext, log_defect},
    query::Params,
};

mod lists;
mod workload_log;

/// Interval of the heartbeat comments, which keep the connection open in proxies and clients.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// An empty comment; clients ignore it.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Request header with the id of the last event that the client received.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A stream item that is encoded as one or more events.
pub(crate) trait SseEvent: Unpin + 'static {
    /// Description of the events for the OpenAPI document.
    const EVENTS: &'static str;

    /// Appends the encoded events to the buffer.
    fn write(&self, buffer: &mut Vec<u8>, catalog: &Catalog);
}

/// A response that streams events.
pub(crate) struct Events<T>(pub(crate) EventStream<T>);

impl<T: SseEvent> Responder for Events<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let catalog = RequestContext::language(request).catalog();
        HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header(("x-accel-buffering", "no"))
            .streaming(event_stream(self.0, catalog))
    }
}

impl<T: SseEvent> Documented for Events<T> {
    fn describe(docs: &mut Docs) {
        docs.stream = Some(("text/event-stream", T::EVENTS));
    }
}

/// Encodes the stream. The first bytes are a comment, so that the client of an idle stream sees that the stream is
/// open.
fn event_stream<T: SseEvent>(
    mut stream: EventStream<T>,
    catalog: &'static Catalog,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL);
    // not the first tick of the interval: the timer may fire late, after the first event
    let first = once(ready(Ok(COMMENT)));
    first.chain(poll_fn(move |cx| {
        if heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(COMMENT)));
        }
        stream.poll_next_unpin(cx).map(|event| event.map(|event| Ok(encode(&event, catalog).into())))
    }))
}

fn encode<T: SseEvent>(event: &StreamEvent<T>, catalog: &Catalog) -> Vec<u8> {
    let mut buffer = Vec::new();
    match event {
        StreamEvent::Next(item) => item.write(&mut buffer, catalog),
        StreamEvent::End(end) => write_end(end, catalog, &mut buffer),
    }
    buffer
}

impl SseEvent for Vec<LogLine> {
    const EVENTS: &'static str = "Server-sent events. `log`: data is one line, id is sent back as `Last-Event-ID` to go on after it. \
        `end`, always the last event: data is JSON, `{\"reason\", \"error_code\", \"details\"}`; reason is `completed`, \
        `server_stopping`, `too_slow`, or the cause of an error such as `session_ended`, `rights_changed`, `connection_lost`; error_code \
        is null except for an error. A comment is sent every 15 seconds.";

    /// A carriage return also ends a line of an event stream, so a text that contains one is sent as several `data`
    /// fields; the client joins them with newlines.
    fn write(&self, buffer: &mut Vec<u8>, _: &Catalog) {
        buffer.reserve(self.iter().map(|line| line.text.len() + 96).sum());
        for LogLine { id, text } in self {
            buffer.extend_from_slice(b"event: log\n");
            if let Some(id) = id {
                // writing to memory cannot fail
                let _ = writeln!(buffer, "id: {id}");
            }
            for part in text.split(['\r', '\n']) {
                buffer.extend_from_slice(b"data: ");
                buffer.extend_from_slice(part.as_bytes());
                buffer.push(b'\n');
            }
            buffer.push(b'\n');
        }
    }
}

/// Appends the event `end` of a stream.
fn write_end(end: &StreamEnd, catalog: &Catalog, buffer: &mut Vec<u8>) {
    let _ = write!(buffer, "event: end\ndata: {}\n\n", end_data(end, catalog));
}

/// The data of the event `end`.
fn end_data(end: &StreamEnd, catalog: &Catalog) -> Value {
    let code = match end {
        StreamEnd::Failed(error) => {
            log_defect(error);
            Value::from(error.code().as_str())
        }
        _ => Value::Null,
    };
    json!({"reason": end.reason(), "error_code": code, "details": catalog.end(end)})
}

/// Id of an event after which a stream can be resumed.
pub(crate) trait EventId: FromStr<Err = Reason> + 'static {
    /// How the stream continues, for the OpenAPI document.
    const CONTINUES: &'static str;
    /// An id.
    const EXAMPLE: &'static str;
}

impl EventId for LineId {
    const CONTINUES: &'static str = "the stream continues after it without losing or repeating a line";
    const EXAMPLE: &'static str = "2026-11-22T21:27:37.551766Z_0_0badcafe";
}

impl EventId for LogTime {
    const CONTINUES: &'static str = "the stream continues without losing a line, and repeats some";
    const EXAMPLE: &'static str = "2026-11-22T21:27:37.551766Z";
}

/// Parameters of a stream, and the id of the last event that the client received.
///
/// # Errors
/// As [`Params`]; `InvalidInput` naming the header when its value is not an event id.
pub(crate) struct Resumable<T, I = LineId>(pub(crate) T, pub(crate) Option<I>);

impl<T: DeserializeOwned + 'static, I: EventId> Input for Resumable<T, I> {
    async fn read(request: &HttpRequest, payload: Payload) -> Result<Self> {
        let Params(params) = Params::read(request, payload).await?;
        let refused = |reason| Error::invalid("Last-Event-ID", reason);
        let mut given = request.headers().get_all(LAST_EVENT_ID).filter(|id| !id.is_empty());
        let after = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(id), None) => {
                let text = id.to_str().map_err(|_| refused(Reason::Malformed))?;
                Some(text.parse().map_err(refused)?)
            }
            (Some(_), Some(_)) => return Err(refused(Reason::Duplicate).into()),
        };
        Ok(Self(params, after))
    }
}

impl<T: IntoParams, I: EventId> Documented for Resumable<T, I> {
    fn describe(docs: &mut Docs) {
        Params::<T>::describe(docs);
        docs.parameters.push(json!({
            "name": "Last-Event-ID",
            "in": "header",
            "required": false,
            "description": format!("The id of the last event received; {}.", I::CONTINUES),
            "schema": {"type": "string"},
            "example": I::EXAMPLE,
        }));
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::Cause;

    use super::*;
    use crate::language::Language;

    fn encoded(item: impl SseEvent) -> String {
        String::from_utf8(encode(&StreamEvent::Next(item), Language::English.catalog())).unwrap()
    }

    #[test]
    fn log_text_cannot_add_fields_or_events() {
        let cases = [
            ("plain", "data: plain\n"),
            ("", "data: \n"),
            (" leading", "data:  leading\n"),
            ("50%\r100%", "data: 50%\ndata: 100%\n"),
            ("a\nevent: end", "data: a\ndata: event: end\n"),
            ("a\r\n\r\nid: 1", "data: a\ndata: \ndata: \ndata: \ndata: id: 1\n"),
            ("\u{feff}\u{2028}\0\u{85}", "data: \u{feff}\u{2028}\0\u{85}\n"),
        ];
        for (text, data) in cases {
            let line = LogLine { id: None, text: text.to_owned() };
            assert_eq!(encoded(vec![line]), format!("event: log\n{data}\n"), "{text:?}");
        }
        let id = "2026-01-01T00:00:00.5Z_2_0000002a";
        let line = LogLine { id: Some(id.parse().unwrap()), text: "x".to_owned() };
        let event = format!("event: log\nid: {id}\ndata: x\n\n");
        assert_eq!(encoded(vec![line.clone(), line]), event.repeat(2));
    }

    #[test]
    fn end_event_is_one_line_of_json() {
        let end_data = |end| {
            let event = encode(&StreamEvent::<Vec<LogLine>>::End(end), Language::English.catalog());
            let event = String::from_utf8(event).unwrap();
            let data = event.strip_prefix("event: end\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
            serde_json::from_str::<Value>(data).unwrap()
        };
        let end = end_data(StreamEnd::Completed);
        assert_eq!((&end["reason"], &end["error_code"]), (&json!("completed"), &Value::Null));
        assert_eq!(end["details"], Language::English.catalog().end(&StreamEnd::Completed));
        let end = end_data(StreamEnd::Failed(Error::new(Cause::SessionEnded)));
        assert_eq!(
            (&end["reason"], &end["error_code"]),
            (&json!("session_ended"), &json!("AUTHENTICATION_ERROR"))
        );
    }
}
