//! Events of watched lists. The data of each is one line of JSON, an object with at least one member. A row was
//! serialised when it was projected; only the framing is written around it.

use std::io::Write;

use pilothouse_core::{
    gate::Warning,
    inventory::{LiveEvent, WatchEvent},
    rows::Row,
    streams::StreamEvent,
    usage::{Usage, UsageJson},
};
use serde_json::{Value, json};

use super::{SseEvent, end_data};
use crate::messages::Catalog;

impl SseEvent for WatchEvent {
    const EVENTS: &'static str = "Server-sent events. `added`, `changed`, `removed`: data is a row, as in the list of its kind or, with `resource`, of objects. \
        The existing rows come first as `added`, then `synced`: data is `{\"total\", \"as_of\", \"stale\", \"scope\", \"warnings\"}`; \
        later events are changes after it. `freshness`: data is `{\"as_of\", \"stale\"}`. \
        With `page`, `per_page` or `sort` there is only `window`: data is `{\"rows\", \"pagination\", \"as_of\", \"stale\", \"scope\", \
        \"warnings\"}`, the page as in the list, first as it is and then each time it changes, at most once a second. \
        `end`, always the last event: data is `{\"reason\", \"error_code\", \"details\"}`; reason is `lagged` (too many changes \
        at once: reconnect), `connection_changed` (the cluster or its connection changed), `server_stopping`, `too_slow`, or the cause of an \
        error such as `session_ended`, `rights_changed`; error_code is null except for an error. A comment is sent every 15 seconds.";

    fn write(&self, buffer: &mut Vec<u8>, catalog: &Catalog) {
        write_event(self, b"{", buffer, catalog);
    }
}

impl SseEvent for LiveEvent {
    const EVENTS: &'static str = "Server-sent events: those of each watch, as in `/api/k8s/watch`; the first member of the data is `sub`, \
        the place of the watch among the parameters, from 0. The `end` of one watch has it too, and the others go on. \
        The `end` without it is the last event: it has the reason of the watch that ended last, or `server_stopping`, `too_slow`. \
        A comment is sent every 15 seconds.";

    fn write(&self, buffer: &mut Vec<u8>, catalog: &Catalog) {
        let start = format!("{{\"sub\":{},", self.sub).into_bytes();
        match &self.event {
            StreamEvent::Next(event) => write_event(event, &start, buffer, catalog),
            StreamEvent::End(end) => write_value("end", &end_data(end, catalog), &start, buffer),
        }
    }
}

/// Appends an event. `start` replaces the first brace of its data.
fn write_event(event: &WatchEvent, start: &[u8], buffer: &mut Vec<u8>, catalog: &Catalog) {
    let texts = |warnings: &[Warning]| -> Vec<_> {
        warnings.iter().map(|warning| catalog.warning(warning)).collect()
    };
    match event {
        WatchEvent::Rows(rows) => {
            buffer.reserve(rows.iter().map(|(_, row)| row.bytes().len() + start.len() + 32).sum());
            for (change, row) in rows {
                begin(change.as_str(), buffer);
                write_object(row.bytes(), start, buffer);
                buffer.extend_from_slice(b"\n\n");
            }
        }
        WatchEvent::Synced { total, as_of, stale, scope, warnings } => {
            let warnings = texts(warnings);
            let data =
                json!({"total": total, "as_of": as_of, "stale": stale, "scope": scope, "warnings": warnings});
            write_value("synced", &data, start, buffer);
        }
        WatchEvent::Freshness { as_of, stale } => {
            write_value("freshness", &json!({"as_of": as_of, "stale": stale}), start, buffer);
        }
        WatchEvent::Window { rows, usage, pagination, as_of, stale, scope, warnings } => {
            let warnings = texts(warnings);
            let rest = json!({"pagination": pagination, "as_of": as_of, "stale": stale, "scope": scope, "warnings": warnings});
            let rest = rest.to_string();
            buffer.reserve(rows.iter().map(|row| row.bytes().len() + 1).sum::<usize>() + rest.len() + 64);
            begin("window", buffer);
            buffer.extend_from_slice(start);
            write_rows(rows, usage, buffer);
            // the members after the rows
            buffer.push(b',');
            buffer.extend_from_slice(&rest.as_bytes()[1..]);
            buffer.extend_from_slice(b"\n\n");
        }
    }
}

/// Appends the member `"rows"`: rows with their usage, if it is known.
fn write_rows(rows: &[Row], usage: &[Option<Usage>], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(b"\"rows\":[");
    let mut json = UsageJson::default();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            buffer.push(b',');
        }
        json.row(buffer, row.bytes(), usage.get(i).copied().flatten());
    }
    buffer.push(b']');
}

fn write_value(name: &str, data: &Value, start: &[u8], buffer: &mut Vec<u8>) {
    begin(name, buffer);
    write_object(data.to_string().as_bytes(), start, buffer);
    buffer.extend_from_slice(b"\n\n");
}

/// Appends the name of an event, and the name of its data.
fn begin(name: &str, buffer: &mut Vec<u8>) {
    // writing to memory cannot fail
    let _ = write!(buffer, "event: {name}\ndata: ");
}

/// Appends an object of at least one member. `start` replaces its first brace.
fn write_object(object: &[u8], start: &[u8], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(start);
    buffer.extend_from_slice(&object[1..]);
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pilothouse_core::{
        Cause, Error,
        inventory::{ChangeKind, ListedScope},
        rows::{Cell, Field, ListRow, Pagination},
        streams::StreamEnd,
    };
    use serde::Serialize;

    use super::*;
    use crate::language::Language;

    fn encoded(item: &impl SseEvent) -> String {
        let mut buffer = Vec::new();
        item.write(&mut buffer, Language::English.catalog());
        String::from_utf8(buffer).unwrap()
    }

    /// The data of one event of this name.
    fn data(event: &str, name: &str) -> Value {
        let data = event.strip_prefix(&format!("event: {name}\ndata: ")).unwrap();
        serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap()
    }

    #[derive(Serialize)]
    struct SampleRow {
        name: &'static str,
    }

    impl ListRow for SampleRow {
        const FIELDS: &'static [Field<Self>] = &[Field::new("name", |row| Cell::text(row.name))];

        fn name(&self) -> &str {
            self.name
        }

        fn namespace(&self) -> Option<&str> {
            None
        }
    }

    fn row(name: &'static str) -> Row {
        Row::of(&SampleRow { name }).unwrap()
    }

    fn as_of() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn warning() -> (Vec<Warning>, String) {
        let warning = Warning::NotServed("ingresses");
        let text = Language::English.catalog().warning(&warning);
        (vec![warning], text)
    }

    fn scope() -> ListedScope {
        ListedScope { complete: false, namespaces: Some(vec!["team-*".to_owned()]) }
    }

    #[test]
    fn each_row_is_one_line_with_any_content() {
        let rows = [
            (ChangeKind::Added, "a\n\nevent: end"),
            (ChangeKind::Changed, "b\r"),
            (ChangeKind::Removed, "部署"),
        ];
        let rows = rows.map(|(change, name)| (change, row(name)));
        let expected = "event: added\ndata: {\"name\":\"a\\n\\nevent: end\"}\n\n\
            event: changed\ndata: {\"name\":\"b\\r\"}\n\nevent: removed\ndata: {\"name\":\"部署\"}\n\n";
        assert_eq!(encoded(&WatchEvent::Rows(rows.into())), expected);
        let (warnings, text) = warning();
        let synced = WatchEvent::Synced { total: 3, as_of: as_of(), stale: false, scope: scope(), warnings };
        assert_eq!(
            data(&encoded(&synced), "synced"),
            json!({"total": 3, "as_of": "2026-01-01T00:00:00Z", "stale": false,
                "scope": {"complete": false, "namespaces": ["team-*"]}, "warnings": [text]})
        );
        let older = encoded(&WatchEvent::Freshness { as_of: as_of(), stale: true });
        assert_eq!(older, "event: freshness\ndata: {\"as_of\":\"2026-01-01T00:00:00Z\",\"stale\":true}\n\n");
    }

    #[test]
    fn window_is_a_page_on_one_line() {
        let pagination = Pagination { page: 2, per_page: 2, total: 4, pages: 2 };
        for names in [&[][..], &["a\n"], &["a", "b"]] {
            let (warnings, text) = warning();
            let rows = names.iter().map(|name| row(name)).collect();
            let window = WatchEvent::Window {
                rows,
                usage: Vec::new(),
                pagination,
                as_of: as_of(),
                stale: false,
                scope: scope(),
                warnings,
            };
            let rows: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            assert_eq!(
                data(&encoded(&window), "window"),
                json!({"rows": rows, "pagination": {"page": 2, "per_page": 2, "total": 4, "pages": 2},
                    "as_of": "2026-01-01T00:00:00Z", "stale": false,
                    "scope": {"complete": false, "namespaces": ["team-*"]}, "warnings": [text]})
            );
        }
    }

    #[test]
    fn events_of_a_live_stream_have_the_place_of_their_watch() {
        let pagination = Pagination { page: 1, per_page: 1, total: 1, pages: 1 };
        let (as_of, scope) = (as_of(), scope());
        let events = [
            (WatchEvent::Rows(vec![(ChangeKind::Added, row("a"))]), "added", json!("a")),
            (WatchEvent::Freshness { as_of, stale: true }, "freshness", Value::Null),
            (
                WatchEvent::Synced { total: 0, as_of, stale: false, scope: scope.clone(), warnings: vec![] },
                "synced",
                Value::Null,
            ),
            (
                WatchEvent::Window {
                    rows: vec![row("a")],
                    usage: Vec::new(),
                    pagination,
                    as_of,
                    stale: false,
                    scope,
                    warnings: vec![],
                },
                "window",
                Value::Null,
            ),
        ];
        for (event, name, row_name) in events {
            let plain = data(&encoded(&event), name);
            let event = LiveEvent { sub: 15, event: StreamEvent::Next(event) };
            let mut live = data(&encoded(&event), name);
            assert_eq!(live["sub"], 15, "{name}");
            assert_eq!(live["name"], row_name, "{name}");
            live.as_object_mut().unwrap().remove("sub");
            assert_eq!(live, plain, "{name}");
        }
        let end = StreamEvent::End(StreamEnd::Failed(Error::new(Cause::RightsChanged)));
        let end = data(&encoded(&LiveEvent { sub: 0, event: end }), "end");
        assert_eq!((&end["sub"], &end["reason"]), (&json!(0), &json!("rights_changed")));
        assert_eq!(end["error_code"], "PERMISSION_DENIED");
    }
}
