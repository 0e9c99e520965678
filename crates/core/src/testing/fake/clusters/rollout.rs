//! Rollouts of the fake clusters.

use async_trait::async_trait;
use futures_channel::mpsc::{self, UnboundedSender};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{FakeClusters, lock, not_found};
use crate::{
    access::Permit,
    error::{Cause, Error, Result},
    gate::Warning,
    ids::ClusterId,
    json_patch::JsonPatch,
    kind::Kind,
    name::ObjectName,
    object::{Metadata, parse},
    rollout::RolloutApi,
    workload::{History, Reference, StoredRevision, WorkloadRow, WorkloadType},
};

/// A change that another client makes.
pub(super) type OtherChange = Box<dyn FnOnce(&mut Value) + Send>;

#[derive(Deserialize)]
struct Owned {
    metadata: Metadata,
}

impl FakeClusters {
    /// Changes an object, as another client does, before the next JSON patch is applied to any object.
    pub fn change_before_patch(
        &self,
        cluster: ClusterId,
        kind: Kind,
        (namespace, name): (&str, &str),
        change: impl FnOnce(&mut Value) + Send + 'static,
    ) {
        let key = (cluster, kind, namespace.to_owned(), name.to_owned());
        *lock(&self.other_change) = Some((key, Box::new(change)));
    }

    /// Returns the sender of signals for the next rollout that is watched. Without it, the stream ends after the first
    /// event.
    pub fn next_rollout(&self) -> UnboundedSender<()> {
        let (write, read) = mpsc::unbounded();
        lock(&self.signals).push_back(read);
        write
    }

    /// Returns an object as it is stored; null if it does not exist.
    pub fn stored(&self, cluster: ClusterId, kind: Kind, (namespace, name): (&str, &str)) -> Value {
        let key = (cluster, kind, namespace.to_owned(), name.to_owned());
        lock(&self.objects).get(&key).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl RolloutApi for FakeClusters {
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>> {
        self.call(permit, name.as_str())?;
        self.find(&Self::key(permit, name)?)
    }

    async fn history(&self, permit: &Permit, name: &ObjectName) -> Result<Option<History>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let Some(workload) = self.find(&key)? else { return Ok(None) };
        let stored_as = WorkloadType::of(key.1).and_then(WorkloadType::revision_kind);
        let stored_as = stored_as.ok_or_else(|| Error::internal("a kind without revisions"))?;
        let own = |object: &RawValue| {
            let Owned { metadata } = parse(object)?;
            let is_own = metadata.controller().is_some_and(|owner| {
                owner.kind == key.1.info().kind
                    && owner.name == key.3
                    && metadata.namespace.as_ref() == Some(&key.2)
            });
            is_own.then(|| StoredRevision::project(object)).transpose()
        };
        let (revisions, unreadable) = self.related(permit, stored_as, own)?;
        let revisions = revisions.into_iter().flatten().collect();
        Ok(Some(History { workload, revisions, unreadable }))
    }

    async fn patch(&self, permit: &Permit, name: &ObjectName, patch: &JsonPatch) -> Result<WorkloadRow> {
        self.call(permit, name.as_str())?;
        let other = lock(&self.other_change).take();
        if let Some((key, change)) = other {
            self.change(&key, |object| {
                edit(object, change);
                Ok(())
            })?;
        }
        let key = Self::key(permit, name)?;
        let object = self.change(&key, |object| {
            // objects of tests may have no uid
            let uid = &mut object["metadata"]["uid"];
            if uid.is_null() {
                *uid = json!("");
            }
            let mut applied = false;
            edit(object, |object| applied = patch.apply(object));
            if applied { Ok(()) } else { Err(Error { cause: Cause::Modified, ..not_found(&key) }) }
        })?;
        WorkloadRow::project(key.1, &object)
    }

    async fn signals(&self, _: &Permit) -> Result<BoxStream<'static, ()>> {
        let signals = lock(&self.signals).pop_front();
        Ok(signals.map_or_else(|| stream::empty().boxed(), StreamExt::boxed))
    }

    async fn advice(&self, permit: &Permit, _: &ObjectName, references: &[Reference]) -> Vec<Warning> {
        let (Ok(cluster), Ok(namespace)) = (permit.cluster(), permit.namespace()) else { return Vec::new() };
        let mut warnings = Vec::new();
        for Reference { kind, name } in references {
            let key = (cluster, *kind, namespace.to_string(), name.to_string());
            let warning = match permit.namespaces_of(*kind) {
                Ok(Some(_)) if lock(&self.objects).contains_key(&key) => continue,
                Ok(Some(_)) => Warning::MissingReference(format!("{kind}/{name}")),
                _ => Warning::Unreadable(kind.info().plural),
            };
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

/// Changes an object. The generation of one that has any grows with each change of its spec, as at the API server.
fn edit(object: &mut Value, change: impl FnOnce(&mut Value)) {
    let before = object["spec"].clone();
    change(object);
    if let Some(generation) = object["metadata"]["generation"].as_i64().filter(|_| object["spec"] != before) {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}
