//! Server-sent events (WHATWG HTML, 9.2): a followed log as `text/event-stream`, and where a broken one is resumed.

use std::{convert::Infallible, fmt::Write, task::Poll, time::Duration};

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
    pod::{LineId, LogEvent, LogLine, LogStream, StreamEnd},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    entry::Input,
    error::Result,
    frame::{RequestInfo, log_defect},
    openapi::{Docs, Documented},
    query::Params,
    words::Words,
};

/// How often something is sent, so that proxies and readers know that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A comment: readers pass over it.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Where a reader was when its connection broke.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What the OpenAPI document says of the events.
const EVENTS: &str = "Server-sent events. `log`: data is one line, id is sent back as `Last-Event-ID` to go on after it. \
    `end`, always the last one: data is JSON, `{\"reason\", \"error_code\", \"details\"}`; reason is `completed`, \
    `server_stopping`, `too_slow`, or the cause of an error such as `session_ended`, `connection_lost`; error_code \
    is null but for an error. A comment every 15 seconds.";

/// A log as it is written.
pub(crate) struct EventStream(pub(crate) LogStream);

impl Responder for EventStream {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let words = RequestInfo::of(request).language.words();
        HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header(("x-accel-buffering", "no"))
            .streaming(frames(self.0, words))
    }
}

impl Documented for EventStream {
    fn describe(docs: &mut Docs) {
        docs.stream = Some(("text/event-stream", EVENTS));
    }
}

/// The stream as it is sent: a comment first, so that whoever waits for a silent log sees that it is followed.
fn frames(mut log: LogStream, words: &'static Words) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    // not the interval's first tick: the timer may be a millisecond late, and a line is there before it
    let first = once(ready(Ok(COMMENT)));
    first.chain(poll_fn(move |cx| {
        if heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(COMMENT)));
        }
        log.poll_next_unpin(cx).map(|event| event.map(|event| Ok(frame(&event, words).into())))
    }))
}

fn frame(event: &LogEvent, words: &Words) -> String {
    match event {
        LogEvent::Line(line) => log(line),
        LogEvent::End(end) => last(end, words),
    }
}

/// A line ends at a carriage return for readers of events, so a text with some is sent as several `data`, which its
/// reader puts together with newlines.
fn log(LogLine { id, text }: &LogLine) -> String {
    let mut frame = String::with_capacity(text.len() + 96);
    frame.push_str("event: log\n");
    if let Some(id) = id {
        // writing to a String cannot fail
        let _ = writeln!(frame, "id: {id}");
    }
    for part in text.split(['\r', '\n']) {
        frame.push_str("data: ");
        frame.push_str(part);
        frame.push('\n');
    }
    frame.push('\n');
    frame
}

fn last(end: &StreamEnd, words: &Words) -> String {
    let code = match end {
        StreamEnd::Failed(error) => {
            log_defect(error);
            Value::from(error.code().as_str())
        }
        _ => Value::Null,
    };
    let data = json!({"reason": end.reason(), "error_code": code, "details": words.end(end)});
    format!("event: end\ndata: {data}\n\n")
}

/// Parameters of a stream, and the id of the last event that its reader has.
///
/// # Errors
/// As [`Params`]; `InvalidInput` naming the header when it holds anything else.
pub(crate) struct Resumable<T>(pub(crate) T, pub(crate) Option<LineId>);

impl<T: DeserializeOwned + 'static> Input for Resumable<T> {
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

impl<T: IntoParams> Documented for Resumable<T> {
    fn describe(docs: &mut Docs) {
        Params::<T>::describe(docs);
        docs.parameters.push(json!({
            "name": "Last-Event-ID",
            "in": "header",
            "required": false,
            "description": "The id of the last event read: the stream goes on after it, without losing or repeating a line.",
            "schema": {"type": "string"},
        }));
    }
}

#[cfg(test)]
mod tests {
    use pilothouse_core::Cause;

    use super::*;
    use crate::words::Language;

    #[test]
    fn no_text_breaks_out_of_its_event() {
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
            assert_eq!(log(&line), format!("event: log\n{data}\n"), "{text:?}");
        }
        let id = "2026-01-01T00:00:00.5Z_2_0000002a";
        let line = LogLine { id: Some(id.parse().unwrap()), text: "x".to_owned() };
        assert_eq!(log(&line), format!("event: log\nid: {id}\ndata: x\n\n"));
    }

    #[test]
    fn the_last_word_is_one_line_of_json() {
        let said = |end| {
            let frame = last(&end, Language::English.words());
            let data = frame.strip_prefix("event: end\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
            serde_json::from_str::<Value>(data).unwrap()
        };
        let end = said(StreamEnd::Completed);
        assert_eq!((&end["reason"], &end["error_code"]), (&json!("completed"), &Value::Null));
        assert!(end["details"].as_str().unwrap().starts_with("The container has ended"));
        let end = said(StreamEnd::Failed(Error::new(Cause::SessionEnded)));
        assert_eq!(
            (&end["reason"], &end["error_code"]),
            (&json!("session_ended"), &json!("AUTHENTICATION_ERROR"))
        );
    }
}
