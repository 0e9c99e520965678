//! Pods of a fake API server: a watch of all pods begins with them, and they never change.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, rt,
    web::{Bytes, Data},
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::pods::{Population, Size};

/// Number of namespaces.
pub(crate) const NAMESPACES: usize = 500;
/// Pods per chunk of a watch.
const PODS_PER_CHUNK: usize = 100;
/// Duration of a watch whose request has no timeout, in seconds.
const DEFAULT_WATCH_SECONDS: u64 = 300;
/// Interval between the bookmark of a watch and its end.
const BOOKMARK_LEAD: Duration = Duration::from_secs(2);

/// The pods of a [`Population`], spread over [`NAMESPACES`] namespaces.
#[derive(Clone, Copy)]
pub(crate) struct FakePods {
    pub(crate) count: usize,
}

impl FakePods {
    fn population(self) -> Population {
        Population { count: self.count, size: Size::Small }
    }

    /// The namespace of pod `i`. Fewer pods than namespaces lie in namespaces at equal distances.
    pub(crate) fn namespace(self, i: usize) -> String {
        let distance = NAMESPACES / self.count.clamp(1, NAMESPACES);
        namespace(i * distance % NAMESPACES)
    }

    /// The name of pod `i`.
    pub(crate) fn name(self, i: usize) -> String {
        self.population().name(i)
    }

    fn object(self, i: usize) -> Value {
        let mut pod = self.population().pod(i);
        pod["status"] = self.population().status_patch(i)["status"].take();
        let metadata = &mut pod["metadata"];
        metadata["namespace"] = self.namespace(i).into();
        metadata["uid"] = format!("00000000-0000-4000-8001-{i:012x}").into();
        metadata["resourceVersion"] = "1".into();
        metadata["creationTimestamp"] =
            format!("2026-01-{:02}T{:02}:{:02}:{:02}Z", 1 + i % 28, i % 24, i / 24 % 60, i / 1440 % 60)
                .into();
        pod
    }

    fn added(self, pods: std::ops::Range<usize>) -> Bytes {
        pods.map(|i| format!("{}\n", json!({"type": "ADDED", "object": self.object(i)})))
            .collect::<String>()
            .into()
    }
}

/// The name of namespace `n`.
pub(crate) fn namespace(n: usize) -> String {
    format!("team-{n:03}")
}

/// A list of no pods, or a watch: it begins with all pods if the request has `sendInitialEvents`.
pub(super) async fn respond(request: HttpRequest, pods: Data<FakePods>) -> HttpResponse {
    let query = request.query_string().to_owned();
    let has = |parameter: &str| query.split('&').any(|one| one == parameter);
    if !has("watch=true") {
        return super::respond(request).await;
    }
    let seconds = query.split('&').find_map(|one| one.strip_prefix("timeoutSeconds=")?.parse().ok());
    let timeout = Duration::from_secs(seconds.unwrap_or(DEFAULT_WATCH_SECONDS));
    let pods = **pods;
    let with_initial_events = has("sendInitialEvents=true");
    let initial = if with_initial_events { pods.count } else { 0 };
    let chunks = (0..initial)
        .step_by(PODS_PER_CHUNK)
        .map(move |start| pods.added(start..initial.min(start + PODS_PER_CHUNK)));
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
