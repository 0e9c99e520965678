//! Fake API server whose watches the test controls.

use std::sync::{Arc, Mutex};

use pilothouse_kube::CacheSettings;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::{Instant, sleep},
};

use super::*;

pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The sender of an open watch's body.
pub(super) type Watch = UnboundedSender<BodyPart>;

/// A cluster whose watches the test controls.
pub(super) struct WatchServer {
    pub(super) server: FakeServer,
    pub(super) adapter: KubeClusters,
    pub(super) watches: Arc<Mutex<Vec<Watch>>>,
}

pub(super) fn event(kind: &str, name: &str, version: u64, phase: &str) -> String {
    let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": version.to_string()});
    format!("{}\n", json!({"type": kind, "object": {"metadata": metadata, "status": {"phase": phase}}}))
}

/// The bookmark that ends the initial events, with this resource version.
pub(super) fn initial_events_end(version: u64) -> String {
    let annotations = json!({"k8s.io/initial-events-end": "true"});
    let metadata = json!({"resourceVersion": version.to_string(), "annotations": annotations});
    format!("{}\n", json!({"type": "BOOKMARK", "object": {"metadata": metadata}}))
}

pub(super) fn error(code: u16) -> String {
    format!("{}\n", json!({"type": "ERROR", "object": {"kind": "Status", "code": code, "metadata": {}}}))
}

pub(super) fn send(watch: &Watch, text: &str) {
    // the client may have closed the watch
    let _ = watch.send(BodyPart::Bytes(text.as_bytes().to_vec()));
}

/// A list with this resource version.
pub(super) fn list(names: &[&str], version: u64) -> Reply {
    let items: Vec<_> =
        names.iter().map(|name| json!({"metadata": {"name": name, "namespace": "shop"}})).collect();
    let metadata = json!({"resourceVersion": version.to_string()});
    Reply::json(200, &json!({"kind": "PodList", "metadata": metadata, "items": items}))
}

pub(super) fn is_watch(request: &RecordedRequest) -> bool {
    request.target.contains("watch=true") || request.target.contains("watch=1")
}

impl WatchServer {
    /// Starts a server. `first` returns the first body part of a watch, given the number of earlier watches. `other`
    /// replies to all other requests, and to watches for which `first` returns none.
    pub(super) async fn new(
        first: impl Fn(&RecordedRequest, usize) -> Option<String> + Send + Sync + 'static,
        other: impl Fn(&RecordedRequest) -> Reply + Send + Sync + 'static,
        settings: CacheSettings,
    ) -> Self {
        let watches = Arc::<Mutex<Vec<Watch>>>::default();
        let open_watches = watches.clone();
        let server = FakeServer::start(move |request, _| {
            if is_watch(request) {
                let (write, read) = unbounded_channel();
                let mut open_watches = open_watches.lock().unwrap();
                if let Some(text) = first(request, open_watches.len()) {
                    send(&write, &text);
                    open_watches.push(write);
                    return Reply::Stream(read);
                }
            }
            other(request)
        })
        .await;
        let connection = by_token(&server.address, Some(&server.ca), TOKEN);
        let adapter = common::with_cache(connection, SHORT_DEADLINES, settings).0;
        Self { server, adapter, watches }
    }

    /// Initial events of every watch: pods `a` and `b` at resource version 5.
    pub(super) async fn with_two_pods() -> Self {
        Self::new(
            |request, _| {
                let all = event("ADDED", "b", 3, "Running")
                    + &event("ADDED", "a", 2, "Running")
                    + &initial_events_end(5);
                Some(if requests_initial_events(request) { all } else { String::new() })
            },
            |_| list(&["direct"], 5),
            CacheSettings::default(),
        )
        .await
    }

    pub(super) fn last_watch(&self) -> Watch {
        self.watches.lock().unwrap().last().cloned().expect("a watch is open")
    }

    pub(super) async fn page(&self) -> Result<Listing> {
        let query = ListQuery { kinds: vec![Kind::Pod], ..ListQuery::default() };
        self.adapter.page(&permit_all(Verb::List, Kind::Pod), List::Pods, &query).await
    }

    /// Waits until the pods have these names and states.
    pub(super) async fn wait_for_rows(&self, expected: &[&str]) -> Listing {
        self.wait_for(|listing| names_and_states(listing) == expected, &format!("{expected:?}")).await
    }

    pub(super) async fn wait_for(&self, condition: impl Fn(&Listing) -> bool, what: &str) -> Listing {
        let end = Instant::now() + TEST_TIMEOUT;
        loop {
            // on a loaded machine the first rows may take longer than a read's timeout
            let listing = self.page().await;
            match listing {
                Ok(listing) if condition(&listing) => return listing,
                _ => {}
            }
            let actual = listing.as_ref().map(|listing| (names_and_states(listing), listing.stale));
            assert!(Instant::now() < end, "{what}, but {actual:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Number of requests other than watches.
    pub(super) fn other_requests(&self) -> usize {
        self.server.requests().iter().filter(|request| !is_watch(request)).count()
    }

    pub(super) fn watch_targets(&self) -> Vec<String> {
        self.server.requests().into_iter().filter(is_watch).map(|request| request.target).collect()
    }
}

pub(super) fn requests_initial_events(request: &RecordedRequest) -> bool {
    request.target.contains("sendInitialEvents=true")
}

fn names_and_states(listing: &Listing) -> Vec<String> {
    let row = |row: &pilothouse_core::rows::Row| {
        let json: Value = serde_json::from_str(row.json()).unwrap();
        format!("{} {}", row.name(), json["status"].as_str().unwrap_or_default())
    };
    listing.rows.iter().map(row).collect()
}
