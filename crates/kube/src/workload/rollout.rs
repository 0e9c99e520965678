//! [`RolloutApi`]: history of a workload, JSON patches, and warnings about a pod template.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    json_patch::JsonPatch,
    kind::Kind,
    name::ObjectName,
    namespaces::NamespaceScope,
    rollout::RolloutApi,
    workload::{History, Reference, StoredRevision, WorkloadRow, WorkloadType},
};
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::{OwnedObjects, autoscaler_warning, controlled_by, is_readable, read_manifest, unreadable};
use crate::{KubeClusters, client::ClusterClient, request::Call};

/// Interval at which the progress of a watched rollout is read.
const READ_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of references that are read at the same time.
const MAX_CONCURRENT_READS: usize = 8;

#[async_trait]
impl RolloutApi for KubeClusters {
    async fn workload(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Box<RawValue>>> {
        let object = self.object(permit, permit.kind()?, name, self.deadlines().read).await?;
        object.find(|object| Ok(read_manifest(object)?.1)).await
    }

    async fn history(&self, permit: &Permit, name: &ObjectName) -> Result<Option<History>> {
        history(self, permit, name).await
    }

    async fn patch(&self, permit: &Permit, name: &ObjectName, patch: &JsonPatch) -> Result<WorkloadRow> {
        let kind = permit.kind()?;
        let object = self.object(permit, kind, name, self.deadlines().write).await?;
        WorkloadRow::project(kind, &object.json_patch(patch).await?)
    }

    async fn signals(&self, permit: &Permit) -> Result<BoxStream<'static, ()>> {
        let closed = self.transport(permit).await?.closed().clone();
        let ticks = stream::unfold((), |()| async {
            sleep(READ_INTERVAL).await;
            Some(((), ()))
        });
        Ok(ticks.take_until(closed.cancelled_owned()).boxed())
    }

    async fn advice(&self, permit: &Permit, name: &ObjectName, references: &[Reference]) -> Vec<Warning> {
        advice(self, permit, name, references).await.unwrap_or_default()
    }
}

async fn history(clusters: &KubeClusters, permit: &Permit, name: &ObjectName) -> Result<Option<History>> {
    let (kind, namespace) = (permit.kind()?, permit.namespace()?);
    let object = clusters.object(permit, kind, name, clusters.deadlines().read).await?;
    let client = object.client();
    client.meter().begin(format!("revisions of {kind} {namespace}/{name}"))?;
    let Some((fields, workload)) = object.find(read_manifest).await? else { return Ok(None) };
    let owned = OwnedObjects { client, scope: NamespaceScope::One(namespace.clone()), fields: &fields };
    let (revisions, unreadable) = loop {
        let read = owned.stored_revisions(kind).await;
        if !client.restart(read.as_ref().err().map(|error| error.cause)).await? {
            break read?;
        }
    };
    Ok(Some(History { workload, revisions, unreadable }))
}

impl OwnedObjects<'_> {
    /// The revisions of the workload, or a warning if they may not be read.
    async fn stored_revisions(&self, kind: Kind) -> Result<(Vec<StoredRevision>, Option<Warning>)> {
        let stored_as = WorkloadType::of(kind).and_then(WorkloadType::revision_kind);
        let stored_as = stored_as.ok_or_else(|| Error::internal(format!("{kind} has no revisions")))?;
        let selection = ListParams::default().labels(&self.selector()?);
        let (found, unreadable) = self.controlled(stored_as, &selection, StoredRevision::project).await?;
        let own = controlled_by(found, |owner| owner.uid == self.fields.metadata.uid);
        Ok((own.into_iter().map(|revision| revision.projected).collect(), unreadable))
    }
}

async fn advice(
    clusters: &KubeClusters,
    permit: &Permit,
    name: &ObjectName,
    references: &[Reference],
) -> Result<Vec<Warning>> {
    let (kind, namespace) = (permit.kind()?, permit.namespace()?);
    let client = clusters.client(permit, clusters.deadlines().read).await?;
    let checks: Vec<_> = references.iter().map(|reference| check(&client, reference)).collect();
    let checked: Vec<Option<Warning>> = stream::iter(checks).buffered(MAX_CONCURRENT_READS).collect().await;
    let autoscaled = autoscaler_warning(&client, kind, namespace, name).await;
    let mut warnings = Vec::new();
    for warning in checked.into_iter().chain([autoscaled]).flatten() {
        // one warning for a kind that cannot be read
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    Ok(warnings)
}

/// A warning if the object does not exist, or may not be read. Only its metadata is read.
async fn check(client: &ClusterClient<'_>, Reference { kind, name }: &Reference) -> Option<Warning> {
    if !is_readable(client, *kind).ok()? {
        return Some(unreadable(*kind));
    }
    let call = Call::get_metadata(*kind, client.permit().namespace().ok(), name).ok()?;
    match client.find_object(&call, |_| Ok(())).await {
        Ok(Some(())) => None,
        Ok(None) => Some(Warning::MissingReference(format!("{kind}/{name}"))),
        Err(error) if error.cause == Cause::ForbiddenByCluster => Some(unreadable(*kind)),
        Err(_) => None,
    }
}
