//! [`WorkloadApi`]: workload details, scale and restart.

use std::{collections::HashSet, io};

use async_trait::async_trait;
use futures_util::{future::OptionFuture, join, try_join};
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, params::ListParams};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    event::EventRow,
    gate::{Changed, Warning},
    kind::Kind,
    name::{Namespace, ObjectName},
    namespaces::NamespaceScope,
    object::{Metadata, OwnerReference, parse},
    pod::PodRow,
    workload::{Replicas, Revision, WorkloadApi, WorkloadDetail, WorkloadParts, WorkloadRow, WorkloadType},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::{
    KubeClusters,
    client::ClusterClient,
    error::Failure,
    list::{self, Size},
};

mod rollout;

/// Annotation with which `kubectl rollout restart` replaces pods.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Maximum number of events read about one object. Further events are omitted: Kubernetes deletes events after an
/// hour.
pub(crate) const MAX_EVENTS: u32 = 500;
/// Largest manifest of an object that is shown, in bytes of JSON.
pub(crate) const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Memory of a parsed manifest, as a multiple of its length as JSON. Counts against the read budget.
pub(crate) const TREE_FACTOR: usize = 8;

#[async_trait]
impl WorkloadApi for KubeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadDetail>> {
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let r#type = WorkloadType::of(kind).ok_or_else(|| Error::internal("a workload of another kind"))?;
        let object = self.object(permit, kind, name, self.deadlines().read).await?;
        let client = object.client();
        client.meter().begin(format!("details of {kind} {namespace}/{name}"))?;
        let Some((fields, manifest)) = object.find(read_manifest).await? else { return Ok(None) };
        let bytes = manifest.get().len();
        let mut tree = client.meter().reserve();
        tree.add(bytes * TREE_FACTOR)?;
        let owned = OwnedObjects { client, scope: NamespaceScope::One(namespace.clone()), fields: &fields };
        let ((pods, revisions, mut warnings), (events, unreadable)) = loop {
            let read = try_join!(owned.pods_and_revisions(kind), owned.events());
            if !client.restart(read.as_ref().err().map(|error| error.cause)).await? {
                break read?;
            }
        };
        warnings.extend(unreadable);
        let parts = WorkloadParts { object: manifest, pods, events, revisions, warnings };
        client.run_job(bytes, move || WorkloadDetail::assemble(r#type, parts)).await?.map(Some)
    }

    async fn scale(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>> {
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let object = self.object(permit, kind, name, self.deadlines().write).await?;
        let patch = json!({"spec": {"replicas": replicas.get()}});
        let read_client = object.client().with_timeout(self.deadlines().read);
        let (scaled, warnings) =
            join!(object.patch(&patch), autoscaler_warning(&read_client, kind, namespace, name));
        let value = WorkloadRow::project(kind, &scaled?)?;
        Ok(Changed { value, warnings: warnings.into_iter().collect() })
    }

    async fn restart(&self, permit: &Permit, name: &ObjectName, at: Timestamp) -> Result<WorkloadRow> {
        let kind = permit.kind()?;
        let object = self.object(permit, kind, name, self.deadlines().write).await?;
        let read_row = move |object: &RawValue| {
            Ok((parse::<WorkloadFields>(object)?, WorkloadRow::project(kind, object)?.restarted_at))
        };
        let (fields, last) = object.get(read_row).await?;
        if fields.spec.paused.unwrap_or(false) {
            return Err(object.error(Cause::RolloutPaused));
        }
        // the annotation has a resolution of 1 s: a second restart in the same second would do nothing, and kubectl
        // refuses it too
        if last.is_some_and(|last| last.as_second() == at.as_second()) {
            return Err(object.error(Cause::ConflictInCluster));
        }
        let annotations = json!({RESTARTED_AT: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        WorkloadRow::project(kind, &object.patch(&patch).await?)
    }
}

/// The fields of a workload and its whole text.
fn read_manifest(object: &RawValue) -> Result<(WorkloadFields, Box<RawValue>)> {
    if object.get().len() > MAX_MANIFEST_BYTES {
        return Err(Error::new(Cause::TooLarge));
    }
    Ok((parse(object)?, object.to_owned()))
}

/// The fields of a workload that identify its pods, revisions and events.
#[derive(Deserialize)]
struct WorkloadFields {
    metadata: Metadata,
    #[serde(default)]
    spec: WorkloadFieldsSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadFieldsSpec {
    paused: Option<bool>,
    selector: Option<LabelSelector>,
}

/// Reads the objects that belong to a workload.
struct OwnedObjects<'a> {
    client: &'a ClusterClient<'a>,
    scope: NamespaceScope,
    fields: &'a WorkloadFields,
}

impl OwnedObjects<'_> {
    /// Pods and revisions of the workload, and a warning per kind that the credential may not read.
    async fn pods_and_revisions(&self, kind: Kind) -> Result<(Vec<PodRow>, Vec<Revision>, Vec<Warning>)> {
        let uid = &self.fields.metadata.uid;
        let revisions = WorkloadType::of(kind).and_then(WorkloadType::revision_kind);
        // jobs have no label of their CronJob, and their pods are recognisable only as pods of some job
        let (selection, pod_selection) = if kind == Kind::CronJob {
            (ListParams::default(), ListParams::default().labels("job-name"))
        } else {
            let selection = ListParams::default().labels(&self.selector()?);
            (selection.clone(), selection)
        };
        let revisions =
            OptionFuture::from(revisions.map(|kind| self.controlled(kind, &selection, Revision::project)));
        let revisions = async { revisions.await.transpose() };
        let pod = |object: &RawValue| Ok(PodRow::project(parse(object)?));
        let (revisions, (pods, pods_unreadable)) =
            try_join!(revisions, self.controlled(Kind::Pod, &pod_selection, pod))?;
        let (revisions, revisions_unreadable) = revisions.unwrap_or_default();
        let revisions = controlled_by(revisions, |owner| owner.uid == *uid);
        let pods = match kind {
            // a Deployment's pods belong to its ReplicaSets, whose names begin with its name
            Kind::Deployment if revisions_unreadable.is_some() => {
                let prefix = format!("{}-", self.fields.metadata.name);
                controlled_by(pods, |owner| {
                    let hash = owner.name.strip_prefix(&prefix);
                    owner.kind == Kind::ReplicaSet.info().kind && hash.is_some_and(|hash| !hash.contains('-'))
                })
            }
            Kind::Deployment | Kind::CronJob => {
                let owners: HashSet<_> = revisions.iter().map(|revision| revision.uid.as_str()).collect();
                controlled_by(pods, |owner| owners.contains(owner.uid.as_str()))
            }
            _ => controlled_by(pods, |owner| owner.uid == *uid),
        };
        let unreadable = pods_unreadable.into_iter().chain(revisions_unreadable).collect();
        let pods = pods.into_iter().map(|pod| pod.projected).collect();
        Ok((pods, revisions.into_iter().map(|revision| revision.projected).collect(), unreadable))
    }

    /// Projections of the objects of a kind that match `selection` and have a controller. The caller filters them by
    /// controller, once all owners are known.
    async fn controlled<T: Serialize + Send + 'static>(
        &self,
        kind: Kind,
        selection: &ListParams,
        project: fn(&RawValue) -> Result<T>,
    ) -> Result<(Vec<Controlled<T>>, Option<Warning>)> {
        if !is_readable(self.client, kind)? {
            return Ok((Vec::new(), Some(unreadable(kind))));
        }
        let controlled = move |object: &RawValue| {
            let MetadataOnly { metadata } = parse(object)?;
            let Some(owner) = metadata.controller() else { return Ok(None) };
            let (uid, owner) = (metadata.uid.clone(), owner.clone());
            Ok(Some(Controlled { uid, owner, projected: project(object)? }))
        };
        let listed = list::all(self.client, kind, &self.scope, selection, controlled).await;
        readable(kind, listed.map(|listed| listed.objects))
    }

    /// The events about the workload.
    async fn events(&self) -> Result<(Vec<EventRow>, Option<Warning>)> {
        if !is_readable(self.client, Kind::Event)? {
            return Ok((Vec::new(), Some(unreadable(Kind::Event))));
        }
        let about = format!("involvedObject.uid={}", self.fields.metadata.uid);
        let selection = ListParams::default().fields(&about).limit(MAX_EVENTS);
        let row = |object: &RawValue| Ok(Some(Projected(EventRow::project(parse(object)?))));
        let read = list::first(self.client, Kind::Event, &self.scope, &selection, row).await;
        readable(Kind::Event, read.map(|events| events.into_iter().map(|Projected(event)| event).collect()))
    }

    fn selector(&self) -> Result<String> {
        let selector = Selector::try_from(self.fields.spec.selector.clone().unwrap_or_default());
        selector.map(|selector| selector.to_string()).map_err(|_| Error::new(Cause::UnexpectedAnswer))
    }
}

/// The metadata of an object.
#[derive(Deserialize)]
pub(crate) struct MetadataOnly {
    pub(crate) metadata: Metadata,
}

/// Whether the caller may list a related kind of the permit's object.
fn is_readable(client: &ClusterClient<'_>, kind: Kind) -> Result<bool> {
    Ok(client.permit().namespaces_of(kind)?.is_some())
}

/// The warning for a kind that the caller or the credential may not read.
fn unreadable(kind: Kind) -> Warning {
    Warning::Unreadable(kind.info().plural)
}

/// A list; empty with a warning where the credential may not read it.
fn readable<T>(kind: Kind, listed: Result<Vec<T>, Failure>) -> Result<(Vec<T>, Option<Warning>)> {
    match listed {
        Ok(objects) => Ok((objects, None)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => Ok((Vec::new(), Some(unreadable(kind)))),
        Err(failure) => Err(failure.into()),
    }
}

/// Projection of an object with a controller.
struct Controlled<T> {
    uid: String,
    owner: OwnerReference,
    projected: T,
}

impl<T: Serialize> Size for Controlled<T> {
    fn size(&self) -> usize {
        let OwnerReference { kind, name, uid, .. } = &self.owner;
        let texts = self.uid.len() + kind.len() + name.len() + uid.len();
        size_of::<Self>() + texts + json_len(&self.projected)
    }
}

/// Projection of an object.
struct Projected<T>(T);

impl<T: Serialize> Size for Projected<T> {
    fn size(&self) -> usize {
        size_of::<T>() + json_len(&self.0)
    }
}

/// Length of a value as JSON, in bytes: about the memory of its texts.
fn json_len(value: &impl Serialize) -> usize {
    struct ByteCounter(usize);
    impl io::Write for ByteCounter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = ByteCounter(0);
    // a row always serialises, and counting cannot fail
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// The objects whose controller matches.
fn controlled_by<T>(
    objects: Vec<Controlled<T>>,
    matches: impl Fn(&OwnerReference) -> bool,
) -> Vec<Controlled<T>> {
    objects.into_iter().filter(|object| matches(&object.owner)).collect()
}

#[derive(Deserialize)]
struct Autoscaler {
    metadata: Metadata,
    spec: AutoscalerSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AutoscalerSpec {
    scale_target_ref: ScaleTarget,
}

#[derive(Deserialize)]
struct ScaleTarget {
    kind: String,
    name: String,
}

/// A warning about the autoscaler that will override the replicas. Read concurrently with the write: a failure here
/// must not hide that the write was made.
async fn autoscaler_warning(
    client: &ClusterClient<'_>,
    kind: Kind,
    namespace: &Namespace,
    name: &ObjectName,
) -> Option<Warning> {
    let scope = NamespaceScope::One(namespace.clone());
    let (target_kind, target_name) = (kind.info().kind, name.to_string());
    let is_target = move |object: &RawValue| {
        // a malformed autoscaler is ignored
        let autoscaler = parse::<Autoscaler>(object).ok();
        let autoscaler = autoscaler.filter(|autoscaler| {
            let ScaleTarget { kind, name } = &autoscaler.spec.scale_target_ref;
            kind == target_kind && *name == target_name
        });
        Ok(autoscaler.map(|autoscaler| Projected(autoscaler.metadata.name)))
    };
    let autoscalers = Kind::HorizontalPodAutoscaler;
    if !matches!(is_readable(client, autoscalers), Ok(true)) {
        return Some(unreadable(autoscalers));
    }
    // served from the API server's watch cache: concurrently with a write, a list of the newest state waits up to 100
    // ms for that cache
    match list::first(client, autoscalers, &scope, &ListParams::default().match_any(), is_target).await {
        Ok(names) => names.into_iter().next().map(|Projected(name)| Warning::Autoscaled(name)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => Some(unreadable(autoscalers)),
        Err(_) => None,
    }
}
