//! Server-sent events (WHATWG HTML, 9.2): what goes on as `text/event-stream`, and where a broken log is resumed.

use std::{convert::Infallible, io::Write, task::Poll, time::Duration};

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
    inventory::WatchEvent,
    pod::{LineId, LogLine},
    streams::{EventStream, StreamEnd, StreamEvent},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    error::Result,
    extract::Input,
    messages::Catalog,
    middleware::{RequestContext, log_defect},
    openapi::{Docs, Documented},
    query::Params,
};

/// How often something is sent, so that proxies and readers know that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A comment: readers pass over it.
const COMMENT: Bytes = Bytes::from_static(b":\n\n");

/// Where a reader was when its connection broke.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a stream tells, as events.
pub(crate) trait SseEvent: Unpin + 'static {
    /// What the OpenAPI document says of the events, but for the last one.
    const EVENTS: &'static str;

    /// Writes them.
    fn write(&self, frames: &mut Vec<u8>, words: &Catalog);
}

/// Something that goes on.
pub(crate) struct Events<T>(pub(crate) EventStream<T>);

impl<T: SseEvent> Responder for Events<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let words = RequestContext::language(request).words();
        HttpResponse::Ok()
            .content_type("text/event-stream")
            .insert_header(("x-accel-buffering", "no"))
            .streaming(frames(self.0, words))
    }
}

impl<T: SseEvent> Documented for Events<T> {
    fn describe(docs: &mut Docs) {
        docs.stream = Some(("text/event-stream", T::EVENTS));
    }
}

/// The stream as it is sent: a comment first, so that whoever waits for a silent one sees that it is followed.
fn frames<T: SseEvent>(
    mut stream: EventStream<T>,
    words: &'static Catalog,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    // not the interval's first tick: the timer may be a millisecond late, and a line is there before it
    let first = once(ready(Ok(COMMENT)));
    first.chain(poll_fn(move |cx| {
        if heartbeat.poll_tick(cx).is_ready() {
            return Poll::Ready(Some(Ok(COMMENT)));
        }
        stream.poll_next_unpin(cx).map(|event| event.map(|event| Ok(frame(&event, words).into())))
    }))
}

fn frame<T: SseEvent>(event: &StreamEvent<T>, words: &Catalog) -> Vec<u8> {
    let mut frames = Vec::new();
    match event {
        StreamEvent::Next(told) => told.write(&mut frames, words),
        StreamEvent::End(end) => last(end, words, &mut frames),
    }
    frames
}

impl SseEvent for Vec<LogLine> {
    const EVENTS: &'static str = "Server-sent events. `log`: data is one line, id is sent back as `Last-Event-ID` to go on after it. \
        `end`, always the last event: data is JSON, `{\"reason\", \"error_code\", \"details\"}`; reason is `completed`, \
        `server_stopping`, `too_slow`, or the cause of an error such as `session_ended`, `connection_lost`; error_code \
        is null except for an error. A comment is sent every 15 seconds.";

    /// A line ends at a carriage return for readers of events, so a text with some is sent as several `data`, which its
    /// reader puts together with newlines.
    fn write(&self, frames: &mut Vec<u8>, _: &Catalog) {
        frames.reserve(self.iter().map(|line| line.text.len() + 96).sum());
        for LogLine { id, text } in self {
            frames.extend_from_slice(b"event: log\n");
            if let Some(id) = id {
                // writing to memory cannot fail
                let _ = writeln!(frames, "id: {id}");
            }
            for part in text.split(['\r', '\n']) {
                frames.extend_from_slice(b"data: ");
                frames.extend_from_slice(part.as_bytes());
                frames.push(b'\n');
            }
            frames.push(b'\n');
        }
    }
}

impl SseEvent for WatchEvent {
    const EVENTS: &'static str = "Server-sent events. `added`, `changed`, `removed`: data is a row, as in the list of its kind. \
        The existing rows come first as `added`, then `synced`: data is `{\"total\", \"as_of\", \"stale\", \"warnings\"}`; \
        later events are changes after it. `freshness`: data is `{\"as_of\", \"stale\"}`. \
        `end`, always the last event: data is `{\"reason\", \"error_code\", \"details\"}`; reason is `lagged` (too many changes \
        at once: reconnect), `connection_changed` (the cluster or its connection changed), `server_stopping`, `too_slow`, or the cause of an \
        error such as `session_ended`; error_code is null except for an error. A comment is sent every 15 seconds.";

    /// A row is one line of JSON, written when it was projected; here only the event goes around it.
    fn write(&self, frames: &mut Vec<u8>, words: &Catalog) {
        let data = match self {
            Self::Rows(rows) => {
                frames.reserve(rows.iter().map(|(_, row)| row.bytes().len() + 32).sum());
                for (happened, row) in rows {
                    frames.extend_from_slice(b"event: ");
                    frames.extend_from_slice(happened.as_str().as_bytes());
                    frames.extend_from_slice(b"\ndata: ");
                    frames.extend_from_slice(row.bytes());
                    frames.extend_from_slice(b"\n\n");
                }
                return;
            }
            Self::Synced { total, as_of, stale, warnings } => {
                let warnings: Vec<_> = warnings.iter().map(|warning| words.warning(warning)).collect();
                ("synced", json!({"total": total, "as_of": as_of, "stale": stale, "warnings": warnings}))
            }
            Self::Freshness { as_of, stale } => ("freshness", json!({"as_of": as_of, "stale": stale})),
        };
        let _ = write!(frames, "event: {}\ndata: {}\n\n", data.0, data.1);
    }
}

fn last(end: &StreamEnd, words: &Catalog, frames: &mut Vec<u8>) {
    let code = match end {
        StreamEnd::Failed(error) => {
            log_defect(error);
            Value::from(error.code().as_str())
        }
        _ => Value::Null,
    };
    let data = json!({"reason": end.reason(), "error_code": code, "details": words.end(end)});
    let _ = write!(frames, "event: end\ndata: {data}\n\n");
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
    use pilothouse_core::{
        Cause,
        gate::Warning,
        inventory::{Cell, ChangeKind, Field, ListRow, Row},
    };
    use serde::Serialize;

    use super::*;
    use crate::messages::Language;

    fn written(told: impl SseEvent) -> String {
        String::from_utf8(frame(&StreamEvent::Next(told), Language::English.words())).unwrap()
    }

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
            assert_eq!(written(vec![line]), format!("event: log\n{data}\n"), "{text:?}");
        }
        let id = "2026-01-01T00:00:00.5Z_2_0000002a";
        let line = LogLine { id: Some(id.parse().unwrap()), text: "x".to_owned() };
        let event = format!("event: log\nid: {id}\ndata: x\n\n");
        assert_eq!(written(vec![line.clone(), line]), event.repeat(2));
    }

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
    }

    impl ListRow for Thing {
        const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(row.name))];

        fn name(&self) -> &str {
            self.name
        }

        fn namespace(&self) -> Option<&str> {
            None
        }
    }

    #[test]
    fn rows_are_one_line_each_whatever_is_in_them() {
        let rows = [
            (ChangeKind::Added, "a\n\nevent: end"),
            (ChangeKind::Changed, "b\r"),
            (ChangeKind::Removed, "部署"),
        ];
        let rows = rows.map(|(happened, name)| (happened, Row::of(&Thing { name }).unwrap()));
        let expected = "event: added\ndata: {\"name\":\"a\\n\\nevent: end\"}\n\n\
            event: changed\ndata: {\"name\":\"b\\r\"}\n\nevent: removed\ndata: {\"name\":\"部署\"}\n\n";
        assert_eq!(written(WatchEvent::Rows(rows.into())), expected);
        let as_of = "2026-01-01T00:00:00Z".parse().unwrap();
        let warnings = vec![Warning::NotServed("ingresses")];
        let synced = written(WatchEvent::Synced { total: 3, as_of, stale: false, warnings });
        let data = synced.strip_prefix("event: synced\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        let warning = "The cluster does not serve ingresses";
        assert_eq!(
            data,
            json!({"total": 3, "as_of": "2026-01-01T00:00:00Z", "stale": false, "warnings": [warning]})
        );
        let older = written(WatchEvent::Freshness { as_of, stale: true });
        assert_eq!(older, "event: freshness\ndata: {\"as_of\":\"2026-01-01T00:00:00Z\",\"stale\":true}\n\n");
    }

    #[test]
    fn the_last_word_is_one_line_of_json() {
        let said = |end| {
            let frame = frame(&StreamEvent::<Vec<LogLine>>::End(end), Language::English.words());
            let frame = String::from_utf8(frame).unwrap();
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
