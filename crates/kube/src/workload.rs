//! [`WorkloadApi`].

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
    name::{Namespace, NamespaceScope, ObjectName},
    object::{Metadata, OwnerReference, parse},
    pod::PodRow,
    workload::{Replicas, Revision, WorkloadApi, WorkloadDetail, WorkloadParts, WorkloadRow, WorkloadType},
};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use crate::{
    KubeClusters,
    client::ClusterClient,
    error::{self, Failure},
    list::{self, Size},
    request::Call,
};

/// The annotation by which `kubectl rollout restart` replaces pods.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// The most events read about one workload. They come in no order; more than these expire within the hour.
const EVENTS: u32 = 500;
/// The largest workload that is shown with its manifest, in bytes of JSON. As a tree it takes many times that: in the worst
/// case, and as it is counted, [`TREE`] times.
const LARGEST: usize = 4 << 20;
const TREE: usize = 8;

#[async_trait]
impl WorkloadApi for KubeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadDetail>> {
        let client = self.client(permit, self.deadlines().read).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let r#type = WorkloadType::of(kind).ok_or_else(|| Error::internal("a workload of another kind"))?;
        let call = Call::get(kind, Some(namespace), name)?;
        let whole = |object: &RawValue| {
            if object.get().len() > LARGEST {
                return Err(Error::new(Cause::TooLarge));
            }
            Ok((parse::<Head>(object)?, object.to_owned()))
        };
        let Some((head, object)) = client.find(&call, whole).await? else { return Ok(None) };
        let bytes = object.get().len();
        let mut tree = client.meter().hold();
        tree.add(bytes * TREE)?;
        let family =
            OwnedObjects { client: &client, scope: NamespaceScope::One(namespace.clone()), head: &head };
        let ((pods, revisions, mut warnings), (events, unreadable)) =
            try_join!(family.pods_and_revisions(kind), family.events())?;
        warnings.extend(unreadable);
        let parts = WorkloadParts { object, pods, events, revisions, warnings };
        client.work(bytes, move || WorkloadDetail::assemble(r#type, parts)).await?.map(Some)
    }

    async fn row(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadRow>> {
        let client = self.client(permit, self.deadlines().read).await?;
        let kind = permit.kind()?;
        let call = Call::get(kind, Some(permit.namespace()?), name)?;
        client.find(&call, move |object| WorkloadRow::project(kind, object)).await
    }

    async fn scale(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>> {
        let client = self.client(permit, self.deadlines().write).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let call = Call::patch(kind, Some(namespace), name, &json!({"spec": {"replicas": replicas.get()}}))?;
        let look = client.within(self.deadlines().read);
        let (answer, warnings) = join!(client.change(&call), autoscaled(&look, kind, namespace, name));
        let value = WorkloadRow::project(kind, &answer?.object(&call)?)?;
        Ok(Changed { value, warnings: warnings.into_iter().collect() })
    }

    async fn restart(&self, permit: &Permit, name: &ObjectName, at: Timestamp) -> Result<WorkloadRow> {
        let client = self.client(permit, self.deadlines().write).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let call = Call::get(kind, Some(namespace), name)?;
        let now = move |object: &RawValue| {
            Ok((parse::<Head>(object)?, WorkloadRow::project(kind, object)?.restarted_at))
        };
        let (head, last) = client.within(self.deadlines().read).one(&call, now).await?;
        if head.spec.paused.unwrap_or(false) {
            return Err(error::about(Cause::RolloutPaused, &call));
        }
        // the annotation counts seconds: a second restart in the same one would do nothing, and kubectl refuses it too
        if last.is_some_and(|last| last.as_second() == at.as_second()) {
            return Err(error::about(Cause::ConflictInCluster, &call));
        }
        let annotations = json!({RESTARTED_AT: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let call = Call::patch(kind, Some(namespace), name, &patch)?;
        let object = client.change(&call).await?.object(&call)?;
        WorkloadRow::project(kind, &object)
    }
}

/// What is looked at to find what belongs to a workload.
#[derive(Deserialize)]
struct Head {
    metadata: Metadata,
    #[serde(default)]
    spec: HeadSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadSpec {
    paused: Option<bool>,
    selector: Option<LabelSelector>,
}

/// What belongs to a workload.
struct OwnedObjects<'a> {
    client: &'a ClusterClient<'a>,
    scope: NamespaceScope,
    head: &'a Head,
}

impl OwnedObjects<'_> {
    /// Its pods, what its history is kept in, and which of them may not be read: that need not hide the rest.
    async fn pods_and_revisions(&self, kind: Kind) -> Result<(Vec<PodRow>, Vec<Revision>, Vec<Warning>)> {
        let uid = &self.head.metadata.uid;
        let revisions = match kind {
            Kind::Deployment => Some(Kind::ReplicaSet),
            Kind::StatefulSet | Kind::DaemonSet => Some(Kind::ControllerRevision),
            Kind::CronJob => Some(Kind::Job),
            _ => None,
        };
        // a cron job's jobs bear no label of it; of its pods it is only known that they are some job's
        let (selection, of_pods) = if kind == Kind::CronJob {
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
            try_join!(revisions, self.controlled(Kind::Pod, &of_pods, pod))?;
        let (revisions, revisions_unreadable) = revisions.unwrap_or_default();
        let revisions = of_owner(revisions, |owner| owner.uid == *uid);
        let pods = match kind {
            // a deployment's pods are its replica sets', which bear its name
            Kind::Deployment if revisions_unreadable.is_some() => {
                let prefix = format!("{}-", self.head.metadata.name);
                of_owner(pods, |owner| {
                    let hash = owner.name.strip_prefix(&prefix);
                    owner.kind == Kind::ReplicaSet.info().kind && hash.is_some_and(|hash| !hash.contains('-'))
                })
            }
            Kind::Deployment | Kind::CronJob => {
                let owners: HashSet<_> = revisions.iter().map(|revision| revision.uid.as_str()).collect();
                of_owner(pods, |owner| owners.contains(owner.uid.as_str()))
            }
            _ => of_owner(pods, |owner| owner.uid == *uid),
        };
        let unreadable = pods_unreadable.into_iter().chain(revisions_unreadable).collect();
        let pods = pods.into_iter().map(|pod| pod.shown).collect();
        Ok((pods, revisions.into_iter().map(|revision| revision.shown).collect(), unreadable))
    }

    /// What is shown of the objects of a kind that match and that something controls; by whom is looked at when all owners
    /// are known.
    async fn controlled<T: Serialize + Send + 'static>(
        &self,
        kind: Kind,
        selection: &ListParams,
        project: fn(&RawValue) -> Result<T>,
    ) -> Result<(Vec<Controlled<T>>, Option<Warning>)> {
        let controlled = move |object: &RawValue| {
            let Bare { metadata } = parse(object)?;
            let Some(owner) = metadata.controller() else { return Ok(None) };
            let (uid, owner) = (metadata.uid.clone(), owner.clone());
            Ok(Some(Controlled { uid, owner, shown: project(object)? }))
        };
        let listed = list::all(self.client, kind, &self.scope, selection, controlled).await;
        readable(kind, listed.map(|listed| listed.objects))
    }

    /// The events about it.
    async fn events(&self) -> Result<(Vec<EventRow>, Option<Warning>)> {
        let about = format!("involvedObject.uid={}", self.head.metadata.uid);
        let selection = ListParams::default().fields(&about).limit(EVENTS);
        let row = |object: &RawValue| Ok(Some(Shown(EventRow::project(parse(object)?))));
        let read = list::first(self.client, Kind::Event, &self.scope, &selection, row).await;
        readable(Kind::Event, read.map(|events| events.into_iter().map(|Shown(event)| event).collect()))
    }

    fn selector(&self) -> Result<String> {
        let selector = Selector::try_from(self.head.spec.selector.clone().unwrap_or_default());
        selector.map(|selector| selector.to_string()).map_err(|_| Error::new(Cause::UnexpectedAnswer))
    }
}

#[derive(Deserialize)]
struct Bare {
    metadata: Metadata,
}

/// A list, or none and a warning where the credential may not read it.
fn readable<T>(kind: Kind, listed: Result<Vec<T>, Failure>) -> Result<(Vec<T>, Option<Warning>)> {
    match listed {
        Ok(objects) => Ok((objects, None)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => {
            Ok((Vec::new(), Some(Warning::Unreadable(kind.info().plural))))
        }
        Err(failure) => Err(failure.into()),
    }
}

/// What is shown of an object that another one controls.
struct Controlled<T> {
    uid: String,
    owner: OwnerReference,
    shown: T,
}

impl<T: Serialize> Size for Controlled<T> {
    fn size(&self) -> usize {
        let OwnerReference { kind, name, uid, .. } = &self.owner;
        let texts = self.uid.len() + kind.len() + name.len() + uid.len();
        size_of::<Self>() + texts + written(&self.shown)
    }
}

/// What is shown of an object.
struct Shown<T>(T);

impl<T: Serialize> Size for Shown<T> {
    fn size(&self) -> usize {
        size_of::<T>() + written(&self.0)
    }
}

/// How long something is as JSON: about what its texts take.
fn written(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // a row always serialises, and counting cannot fail
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// The objects whose controller is the one meant.
fn of_owner<T>(objects: Vec<Controlled<T>>, meant: impl Fn(&OwnerReference) -> bool) -> Vec<Controlled<T>> {
    objects.into_iter().filter(|object| meant(&object.owner)).collect()
}

#[derive(Deserialize)]
struct Autoscaler {
    metadata: Metadata,
    spec: AutoscalerSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AutoscalerSpec {
    scale_target_ref: Target,
}

#[derive(Deserialize)]
struct Target {
    kind: String,
    name: String,
}

/// Who will set the replicas again. Asked while the change is made: no failure here may hide that it was.
async fn autoscaled(
    client: &ClusterClient<'_>,
    kind: Kind,
    namespace: &Namespace,
    name: &ObjectName,
) -> Option<Warning> {
    let scope = NamespaceScope::One(namespace.clone());
    let (target, named) = (kind.info().kind, name.to_string());
    let targets_it = move |object: &RawValue| {
        // one that is not of its shape is not ours to complain about
        let found = parse::<Autoscaler>(object).ok();
        let found = found.filter(|found| {
            let Target { kind, name } = &found.spec.scale_target_ref;
            kind == target && *name == named
        });
        Ok(found.map(|found| Shown(found.metadata.name)))
    };
    let autoscalers = Kind::HorizontalPodAutoscaler;
    // from the API server's cache: beside a change, a list of the newest waits up to 100 ms for that cache
    match list::first(client, autoscalers, &scope, &ListParams::default().match_any(), targets_it).await {
        Ok(found) => found.into_iter().next().map(|Shown(name)| Warning::Autoscaled(name)),
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => {
            Some(Warning::Unreadable(autoscalers.info().plural))
        }
        Err(_) => None,
    }
}
