//! Events of the logs of a workload. The data of each is one line of JSON.

use std::io::Write;

use jiff::Timestamp;
use pilothouse_core::{
    ids::ClusterId,
    workload_log::{LogSource, WorkloadLogEvent, WorkloadLogLine},
};
use serde::Serialize;

use super::SseEvent;
use crate::messages::Catalog;

/// Data of the event `log`.
#[derive(Serialize)]
struct LogData<'a> {
    cluster_id: ClusterId,
    pod: &'a str,
    container: &'a str,
    time: Option<Timestamp>,
    line: &'a str,
}

impl SseEvent for WorkloadLogEvent {
    const EVENTS: &'static str = "Server-sent events. `log`: data is one line, `{\"cluster_id\", \"pod\", \"container\", \"time\", \"line\"}`; \
        lines of all containers are ordered by time as far as they have arrived. The id is the time, sent back as `Last-Event-ID` to \
        go on; a line has none while going on from it would lose lines. \
        `source`: data is `{\"cluster_id\", \"pod\", \"container\", \"state\", \"reason\"}`; state is `following`, `waiting` (has not \
        started), `ended`, `failed` (is tried again) or `left_out`, with `pods`, the number of pods that are not followed because \
        there are more than 50 containers. Without a container it is about a pod, without a pod about those of a cluster. \
        `end`, always the last event: data is `{\"reason\", \"error_code\", \"details\"}`; reason is `completed` (of previous logs), \
        `connection_changed`, `server_stopping`, `too_slow`, or the cause of an error such as `session_ended`, `rights_changed`; \
        error_code is null except for an error. A comment is sent every 15 seconds.";

    fn write(&self, buffer: &mut Vec<u8>, _: &Catalog) {
        match self {
            Self::Lines(lines) => {
                buffer.reserve(lines.iter().map(|line| line.text.len() + 256).sum());
                for WorkloadLogLine { source, time, id, text } in lines {
                    let LogSource { cluster_id, pod, container } = &**source;
                    let data = LogData { cluster_id: *cluster_id, pod, container, time: *time, line: text };
                    // writing to memory cannot fail
                    let _ = match id {
                        Some(id) => write!(buffer, "event: log\nid: {id}\ndata: "),
                        None => write!(buffer, "event: log\ndata: "),
                    };
                    write_json(&data, buffer);
                }
            }
            Self::Source(source) => {
                buffer.extend_from_slice(b"event: source\ndata: ");
                write_json(source, buffer);
            }
        }
    }
}

/// Appends the data of an event and its end. The JSON of a text contains no line break.
fn write_json(data: &impl Serialize, buffer: &mut Vec<u8>) {
    // data of texts, numbers and times always serialises
    let _ = serde_json::to_writer(&mut *buffer, data);
    buffer.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pilothouse_core::workload_log::{SourceEvent, SourceState};
    use serde_json::{Value, json};

    use super::*;
    use crate::language::Language;

    fn encoded(event: &WorkloadLogEvent) -> String {
        let mut buffer = Vec::new();
        event.write(&mut buffer, Language::English.catalog());
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn line_is_one_event_with_any_content() {
        let source =
            LogSource { cluster_id: ClusterId(1), pod: "web-0".to_owned(), container: "app".to_owned() };
        let source = Arc::new(source);
        let time = Some("2026-01-01T00:00:00.5Z".parse().unwrap());
        let id = Some("2026-01-01T00:00:00.5Z".parse().unwrap());
        for text in ["", "plain", "50%\r100%", "a\n\nevent: end", "\u{2028}\0 部署 \"x\""] {
            for id in [id, None] {
                let line = WorkloadLogLine { source: source.clone(), time, id, text: text.to_owned() };
                let event = encoded(&WorkloadLogEvent::Lines(vec![line.clone(), line]));
                let start = if id.is_some() {
                    "event: log\nid: 2026-01-01T00:00:00.5Z\ndata: "
                } else {
                    "event: log\ndata: "
                };
                let lines: Vec<_> = event.split("\n\n").collect();
                assert_eq!((lines.len(), lines[2]), (3, ""), "{event:?}");
                for line in &lines[..2] {
                    let data: Value = serde_json::from_str(line.strip_prefix(start).unwrap()).unwrap();
                    assert_eq!(
                        data,
                        json!({"cluster_id": 1, "pod": "web-0", "container": "app",
                            "time": "2026-01-01T00:00:00.5Z", "line": text})
                    );
                }
            }
        }
    }

    #[test]
    fn source_event_names_the_container_and_its_state() {
        let event = SourceEvent {
            cluster_id: Some(ClusterId(1)),
            pod: Some("web-0".to_owned()),
            container: Some("app".to_owned()),
            state: SourceState::Waiting,
            reason: Some("ImagePullBackOff".to_owned()),
            pods: None,
        };
        let left_out = SourceEvent {
            cluster_id: None,
            pod: None,
            container: None,
            state: SourceState::LeftOut,
            reason: Some("too_many_sources".to_owned()),
            pods: Some(10),
        };
        let text = [event, left_out].map(|event| encoded(&WorkloadLogEvent::Source(event))).concat();
        assert_eq!(
            text,
            "event: source\ndata: {\"cluster_id\":1,\"pod\":\"web-0\",\"container\":\"app\",\"state\":\"waiting\",\
             \"reason\":\"ImagePullBackOff\"}\n\n\
             event: source\ndata: {\"cluster_id\":null,\"pod\":null,\"container\":null,\"state\":\"left_out\",\
             \"reason\":\"too_many_sources\",\"pods\":10}\n\n"
        );
    }
}
