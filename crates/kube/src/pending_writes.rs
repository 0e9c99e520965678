//! Read-your-writes: records the resource version of each write, so that the cache waits for the write.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::Method;
use pilothouse_core::{kind::Kind, name::Namespace};
use serde::Deserialize;
use tokio::time::Instant;

use crate::request::Call;

/// Time after which the cache no longer waits for a write. The client that made the write reads the list sooner.
const RETENTION: Duration = Duration::from_secs(60);

/// Writes to one cluster that the cache may not contain yet, for one version of its connection.
#[derive(Default)]
pub(crate) struct PendingWrites(Mutex<HashMap<Kind, ReadBarrier>>);

/// Writes that the rows of a kind must contain before they are shown.
#[derive(Clone, Debug)]
pub(crate) struct ReadBarrier {
    /// The highest resource version that a write returned.
    version: u64,
    /// Deleted objects whose deletion returned no resource version: namespace and name.
    deleted: Vec<(Option<Namespace>, String)>,
    /// Time of the last write.
    written_at: Instant,
}

impl ReadBarrier {
    /// Whether rows of this resource version contain the writes. `is_absent` returns whether the rows lack an object.
    pub(crate) fn is_met(&self, version: u64, is_absent: impl Fn(Option<&str>, &str) -> bool) -> bool {
        version >= self.version
            && self
                .deleted
                .iter()
                .all(|(namespace, name)| is_absent(namespace.as_ref().map(Namespace::as_str), name))
    }
}

#[derive(Deserialize)]
struct WrittenObject {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    resource_version: Option<String>,
}

impl PendingWrites {
    /// Records a write. The body of its response is the object, or a `Status` for an object that was deleted at once.
    pub(crate) fn record(&self, call: &Call, body: &[u8]) {
        let (Some(kind), Some(name)) = (call.kind, &call.name) else { return };
        let version = serde_json::from_slice(body)
            .ok()
            .and_then(|WrittenObject { metadata }| metadata.resource_version);
        let version = version.and_then(|version| version.parse::<u64>().ok());
        let now = Instant::now();
        let mut barriers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let barrier = barriers.entry(kind).or_insert_with(|| ReadBarrier {
            version: 0,
            deleted: Vec::new(),
            written_at: now,
        });
        if now.duration_since(barrier.written_at) > RETENTION {
            barrier.deleted.clear();
        }
        barrier.written_at = now;
        let object = (call.namespace.clone(), name.to_string());
        barrier.deleted.retain(|other| *other != object);
        match version {
            Some(version) => barrier.version = barrier.version.max(version),
            None if call.request.method() == Method::DELETE => barrier.deleted.push(object),
            None => {}
        }
    }

    /// The barrier for rows of a kind; none without recent writes.
    pub(crate) fn barrier(&self, kind: Kind) -> Option<ReadBarrier> {
        let barriers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        barriers.get(&kind).filter(|barrier| barrier.written_at.elapsed() <= RETENTION).cloned()
    }

    /// Removes a barrier that the cached rows have met, unless another write was made since.
    pub(crate) fn confirm(&self, kind: Kind, barrier: &ReadBarrier) {
        let mut barriers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if barriers.get(&kind).is_some_and(|current| current.written_at == barrier.written_at) {
            barriers.remove(&kind);
        }
    }
}
