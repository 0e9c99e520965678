//! What was changed through this process, so that a list read next shows it.

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

/// What is not seen by then is not waited for any more: whoever changed something has long read the list.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The changes to one cluster, over one version of its connection.
#[derive(Default)]
pub(crate) struct PendingWrites(Mutex<HashMap<Kind, ReadBarrier>>);

/// What a list of a kind must show.
#[derive(Clone, Debug)]
pub(crate) struct ReadBarrier {
    /// The version that the last change made.
    version: u64,
    /// Objects deleted, of whose deletion no version is known.
    gone: Vec<(Option<Namespace>, String)>,
    /// When the last change was made.
    at: Instant,
}

impl ReadBarrier {
    /// Whether rows of this version show it.
    pub(crate) fn is_met(&self, version: u64, gone: impl Fn(Option<&str>, &str) -> bool) -> bool {
        version >= self.version
            && self.gone.iter().all(|(namespace, name)| gone(namespace.as_ref().map(Namespace::as_str), name))
    }
}

#[derive(Deserialize)]
struct Changed {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    resource_version: Option<String>,
}

impl PendingWrites {
    /// Notes a change that was made, and how the cluster answered it: with the object, or of one that is gone at once,
    /// with a mere status.
    pub(crate) fn made(&self, call: &Call, answer: &[u8]) {
        let (Some(kind), Some(name)) = (call.kind, &call.name) else { return };
        let version =
            serde_json::from_slice(answer).ok().and_then(|Changed { metadata }| metadata.resource_version);
        let version = version.and_then(|version| version.parse::<u64>().ok());
        let now = Instant::now();
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let expected =
            changes.entry(kind).or_insert_with(|| ReadBarrier { version: 0, gone: Vec::new(), at: now });
        if now.duration_since(expected.at) > REMEMBERED {
            expected.gone.clear();
        }
        expected.at = now;
        let object = (call.namespace.clone(), name.to_string());
        expected.gone.retain(|gone| *gone != object);
        match version {
            Some(version) => expected.version = expected.version.max(version),
            None if call.request.method() == Method::DELETE => expected.gone.push(object),
            None => {}
        }
    }

    /// What a list of a kind must show now.
    pub(crate) fn expected(&self, kind: Kind) -> Option<ReadBarrier> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.get(&kind).filter(|expected| expected.at.elapsed() <= REMEMBERED).cloned()
    }

    /// Notes that a list showed what was expected of it.
    pub(crate) fn shown(&self, kind: Kind, expected: &ReadBarrier) {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.get(&kind).is_some_and(|now| now.at == expected.at) {
            changes.remove(&kind);
        }
    }
}
