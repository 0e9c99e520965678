//! Lists of a fake API server: objects that never change. A watch begins with them; a list has them if it is served.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, rt,
    web::{Bytes, Data},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// Objects per chunk of a response.
const OBJECTS_PER_CHUNK: usize = 100;
/// Duration of a watch whose request has no timeout, in seconds.
const DEFAULT_WATCH_SECONDS: u64 = 300;
/// Interval between the bookmark of a watch and its end.
const BOOKMARK_LEAD: Duration = Duration::from_secs(2);

/// The objects of a list.
#[derive(Clone)]
pub(crate) struct Objects {
    count: usize,
    object: Arc<dyn Fn(usize) -> Value + Send + Sync>,
    /// Whether lists have the objects. If not, only watches have them.
    listed: bool,
}

impl Objects {
    /// Objects that only watches have. `object` makes object `i`.
    pub(crate) fn watched(count: usize, object: impl Fn(usize) -> Value + Send + Sync + 'static) -> Self {
        Self { count, object: Arc::new(object), listed: false }
    }

    /// Objects that lists have too.
    pub(crate) fn listed(count: usize, object: impl Fn(usize) -> Value + Send + Sync + 'static) -> Self {
        Self { count, object: Arc::new(object), listed: true }
    }

    fn none() -> Self {
        Self::watched(0, |_| Value::Null)
    }

    /// The objects as `format` writes them, in chunks.
    fn chunks(self, format: impl Fn(usize, &Value) -> String + 'static) -> impl Iterator<Item = Bytes> {
        (0..self.count).step_by(OBJECTS_PER_CHUNK).map(move |start| {
            let range = start..self.count.min(start + OBJECTS_PER_CHUNK);
            Bytes::from(range.map(|i| format(i, &(self.object)(i))).collect::<String>())
        })
    }
}

/// Returns the list at a path, if it is served.
type FindList = dyn Fn(&str) -> Option<Objects> + Send + Sync;

/// The lists of a server, by path.
#[derive(Clone)]
pub(crate) struct Lists(Arc<FindList>);

impl Lists {
    pub(crate) fn new(objects: impl Fn(&str) -> Option<Objects> + Send + Sync + 'static) -> Self {
        Self(Arc::new(objects))
    }

    pub(crate) fn empty() -> Self {
        Self::new(|_| None)
    }

    fn at(&self, path: &str) -> Option<Objects> {
        (self.0)(path)
    }
}

/// A watch, or a list that is served; otherwise the response of [`super::respond`].
pub(super) async fn respond(request: HttpRequest, lists: Data<Lists>) -> HttpResponse {
    let objects = lists.at(request.path());
    let query = request.query_string();
    if query.split('&').any(|one| one == "watch=true") {
        return watch(query, objects.unwrap_or_else(Objects::none));
    }
    match objects {
        Some(objects) if objects.listed => list(objects),
        _ => super::respond(request).await,
    }
}

/// Begins with all objects if the request has `sendInitialEvents`. Ends with a bookmark, as a real API server does.
fn watch(query: &str, objects: Objects) -> HttpResponse {
    let seconds = query.split('&').find_map(|one| one.strip_prefix("timeoutSeconds=")?.parse().ok());
    let timeout = Duration::from_secs(seconds.unwrap_or(DEFAULT_WATCH_SECONDS));
    let with_initial_events = query.split('&').any(|one| one == "sendInitialEvents=true");
    let initial = if with_initial_events { objects } else { Objects::none() };
    let chunks = initial.chunks(|_, object| format!("{}\n", json!({"type": "ADDED", "object": object})));
    let begin = with_initial_events.then(|| bookmark(json!({"k8s.io/initial-events-end": "true"})));
    let end = async move {
        rt::time::sleep(timeout.saturating_sub(BOOKMARK_LEAD)).await;
        bookmark(json!({}))
    };
    let silence = async move {
        rt::time::sleep(BOOKMARK_LEAD).await;
        Bytes::new()
    };
    let events = stream::iter(chunks.chain(begin)).chain(stream::once(end)).chain(stream::once(silence));
    HttpResponse::Ok()
        .content_type("application/json")
        .streaming(Box::pin(events.map(Ok::<_, actix_web::Error>)))
}

fn bookmark(annotations: Value) -> Bytes {
    let object = json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "annotations": annotations},
    });
    format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
}

/// All objects in one response, without chunks by `limit`.
fn list(objects: Objects) -> HttpResponse {
    let head = Bytes::from_static(
        br#"{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":["#,
    );
    let items = objects.chunks(|i, object| if i == 0 { object.to_string() } else { format!(",{object}") });
    let body = std::iter::once(head).chain(items).chain([Bytes::from_static(b"]}")]);
    HttpResponse::Ok()
        .content_type("application/json")
        .streaming(stream::iter(body.map(Ok::<_, actix_web::Error>)))
}
