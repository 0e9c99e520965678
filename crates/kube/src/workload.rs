//! [`WorkloadApi`].

use std::collections::HashSet;

use async_trait::async_trait;
use futures_util::{future::OptionFuture, join, try_join};
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, params::ListParams};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::{Changed, Warning},
    kind::Kind,
    name::{Namespace, NamespaceScope, ObjectName},
    object::{Metadata, OwnerReference, parse},
    workload::{Replicas, WorkloadApi, WorkloadParts, WorkloadRow},
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    KubeClusters,
    error::{self, Failure},
    list,
    request::Call,
    visit::Visit,
};

/// The annotation by which `kubectl rollout restart` replaces pods.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// The most events read about one workload. They come in no order; more than these expire within the hour.
const EVENTS: u32 = 500;

#[async_trait]
impl WorkloadApi for KubeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadParts>> {
        let visit = self.visit(permit, self.deadlines().read).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let Some(object) = visit.find(&Call::get(kind, Some(namespace), name)?).await? else {
            return Ok(None);
        };
        let head: Head = parse(&object)?;
        let family = Family { visit: &visit, scope: NamespaceScope::One(namespace.clone()), head: &head };
        let ((pods, revisions, mut warnings), (events, unreadable)) =
            try_join!(family.pods_and_revisions(kind), family.events())?;
        warnings.extend(unreadable);
        Ok(Some(WorkloadParts { object, pods, events, revisions, warnings }))
    }

    async fn row(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadRow>> {
        let visit = self.visit(permit, self.deadlines().read).await?;
        let kind = permit.kind()?;
        let object = visit.find(&Call::get(kind, Some(permit.namespace()?), name)?).await?;
        object.map(|object| WorkloadRow::project(kind, &object)).transpose()
    }

    async fn scale(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>> {
        let visit = self.visit(permit, self.deadlines().write).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let call = Call::patch(kind, Some(namespace), name, &json!({"spec": {"replicas": replicas.get()}}))?;
        let look = visit.within(self.deadlines().read);
        let (answer, warnings) = join!(visit.change(&call), autoscaled(&look, kind, namespace, name));
        let value = WorkloadRow::project(kind, &answer?.object(&call)?)?;
        Ok(Changed { value, warnings: warnings.into_iter().collect() })
    }

    async fn restart(&self, permit: &Permit, name: &ObjectName, at: Timestamp) -> Result<WorkloadRow> {
        let visit = self.visit(permit, self.deadlines().write).await?;
        let (kind, namespace) = (permit.kind()?, permit.namespace()?);
        let call = Call::get(kind, Some(namespace), name)?;
        let object = visit.within(self.deadlines().read).read(&call).await?.object(&call)?;
        if parse::<Head>(&object)?.spec.paused.unwrap_or(false) {
            return Err(error::about(Cause::RolloutPaused, &call));
        }
        // the annotation counts seconds: a second restart in the same one would do nothing, and kubectl refuses it too
        let last = WorkloadRow::project(kind, &object)?.restarted_at;
        if last.is_some_and(|last| last.as_second() == at.as_second()) {
            return Err(error::about(Cause::ConflictInCluster, &call));
        }
        let annotations = json!({RESTARTED_AT: at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        let patch = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
        let call = Call::patch(kind, Some(namespace), name, &patch)?;
        let object = visit.change(&call).await?.object(&call)?;
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
struct Family<'a> {
    visit: &'a Visit<'a>,
    scope: NamespaceScope,
    head: &'a Head,
}

type Objects = Vec<Box<RawValue>>;

impl Family<'_> {
    /// Its pods, what its history is kept in, and which of them may not be read: that need not hide the rest.
    async fn pods_and_revisions(&self, kind: Kind) -> Result<(Objects, Objects, Vec<Warning>)> {
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
        let revisions = OptionFuture::from(revisions.map(|kind| self.controlled(kind, &selection)));
        let revisions = async { revisions.await.transpose() };
        let (revisions, (pods, pods_unreadable)) =
            try_join!(revisions, self.controlled(Kind::Pod, &of_pods))?;
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
                let owners: HashSet<_> =
                    revisions.iter().map(|(revision, _)| revision.uid.as_str()).collect();
                of_owner(pods, |owner| owners.contains(owner.uid.as_str()))
            }
            _ => of_owner(pods, |owner| owner.uid == *uid),
        };
        let bare =
            |objects: Vec<(Metadata, Box<RawValue>)>| objects.into_iter().map(|(_, object)| object).collect();
        let unreadable = pods_unreadable.into_iter().chain(revisions_unreadable).collect();
        Ok((bare(pods), bare(revisions), unreadable))
    }

    /// The objects of a kind that match and that something controls; by whom is looked at when all owners are known.
    async fn controlled(
        &self,
        kind: Kind,
        selection: &ListParams,
    ) -> Result<(Vec<(Metadata, Box<RawValue>)>, Option<Warning>)> {
        let controlled = |object: &RawValue| {
            let Bare { metadata } = parse(object)?;
            Ok(metadata.controller().is_some().then(|| (metadata, object.to_owned())))
        };
        let listed = list::all(self.visit, kind, &self.scope, selection, controlled).await;
        readable(kind, listed.map(|listed| listed.kept))
    }

    /// The events about it.
    async fn events(&self) -> Result<(Objects, Option<Warning>)> {
        let about = format!("involvedObject.uid={}", self.head.metadata.uid);
        let selection = ListParams::default().fields(&about).limit(EVENTS);
        readable(Kind::Event, list::first(self.visit, Kind::Event, &self.scope, &selection).await)
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

/// The objects whose controller is the one meant.
fn of_owner(
    objects: Vec<(Metadata, Box<RawValue>)>,
    meant: impl Fn(&OwnerReference) -> bool,
) -> Vec<(Metadata, Box<RawValue>)> {
    let owned = |metadata: &Metadata| metadata.controller().is_some_and(&meant);
    objects.into_iter().filter(|(metadata, _)| owned(metadata)).collect()
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
    visit: &Visit<'_>,
    kind: Kind,
    namespace: &Namespace,
    name: &ObjectName,
) -> Option<Warning> {
    let scope = NamespaceScope::One(namespace.clone());
    let targets_it = |found: &Autoscaler| {
        let Target { kind: of, name: named } = &found.spec.scale_target_ref;
        of == kind.info().kind && named == name.as_str()
    };
    let autoscalers = Kind::HorizontalPodAutoscaler;
    // from the API server's cache: beside a change, a list of the newest waits up to 100 ms for that cache
    match list::first(visit, autoscalers, &scope, &ListParams::default().match_any()).await {
        Ok(objects) => {
            let found = objects.iter().filter_map(|object| parse::<Autoscaler>(object).ok()).find(targets_it);
            found.map(|found| Warning::Autoscaled(found.metadata.name))
        }
        Err(refused) if refused.is(StatusCode::FORBIDDEN) => {
            Some(Warning::Unreadable(autoscalers.info().plural))
        }
        Err(_) => None,
    }
}
