//! Dependents of an object: what the garbage collector deletes with it, and what stays.
//!
//! The garbage collector deletes an object when all owners in its `metadata.ownerReferences` are gone. The claims of a
//! StatefulSet belong to it by their names, and have it as their owner only if its
//! `persistentVolumeClaimRetentionPolicy` is to delete them.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    error::{Cause, Error, Result},
    gate::{Gate, Warning},
    ids::ClusterId,
    inventory::objects::{ObjectApi, ResourceName, ServedKind, ServedKinds},
    kind::Kind,
    name::{Namespace, ObjectName},
    rights::{RightVerb, resource_of_kind},
};

mod object;
mod tree;

pub use object::{Dependee, OwnedObject};
use tree::Tree;

/// Number of kinds that are read at the same time.
const CONCURRENT_KINDS: usize = 4;
/// Age of a cluster's discovery up to which a kind that it does not name is taken as not served.
const FRESH: Duration = Duration::from_secs(1);
/// Maximum number of kinds that are not in the table of kinds and are read for one answer. Their names are kept for the
/// life of the process.
const MAX_DYNAMIC_KINDS: usize = 300;

/// Why an object stays although an owner of it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// It has another owner, which is not deleted.
    OtherOwner,
    /// It is a claim of a StatefulSet that retains its claims.
    Retained,
}

/// An object that belongs to the object, or to another one that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DependentRow {
    /// Its kind: `ReplicaSet`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The uid of the owner that is deleted, which is the object itself or a row before this one.
    pub owned_by: String,
    /// Whether it stays.
    pub keeps: bool,
    /// Why it stays: `other_owner`, `retained`. Null if it is deleted.
    pub why: Option<Keeps>,
}

/// What the answer lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DependentsNote {
    /// Some kinds could not be read: there may be more dependents.
    Partial,
    /// There are more dependents than rows; they are counted.
    Truncated,
}

/// The dependents of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dependents {
    /// The dependents, each after its owner; at most 1,000.
    pub tree: Vec<DependentRow>,
    /// Number of dependents that are deleted.
    pub count: u64,
    /// Number of PersistentVolumeClaims among them.
    pub pvcs: u64,
    /// What is missing: `partial`, `truncated`, or null.
    pub note: Option<DependentsNote>,
    /// Kinds that could not be read.
    #[serde(skip)]
    pub warnings: Vec<Warning>,
}

/// Port: reads the objects that belong to others, in the permit's cluster and namespace.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait DependentApi: Send + Sync {
    /// Returns an object of the permit's kind; `None` if it does not exist. A permit to list suffices.
    ///
    /// # Errors
    /// The errors of every call to a cluster.
    async fn dependee(&self, permit: &Permit, name: &ObjectName) -> Result<Option<Dependee>>;

    /// Returns the objects of the permit's kind in its namespace that have an owner, of PersistentVolumeClaims all; `None`
    /// if the credential may not list them.
    ///
    /// # Errors
    /// `TooLarge`; and the errors of every call to a cluster.
    async fn owned_objects(&self, permit: &Permit) -> Result<Option<Vec<OwnedObject>>>;
}

/// Use case: reading what belongs to an object.
#[derive(Clone)]
pub struct DependentReader {
    pub(crate) gate: Gate,
    pub(crate) objects: Arc<dyn ObjectApi>,
    pub(crate) api: Arc<dyn DependentApi>,
}

impl DependentReader {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, objects: Arc<dyn ObjectApi>, api: Arc<dyn DependentApi>) -> Self {
        Self { gate, objects, api }
    }

    /// Returns the dependents of an object, of the kinds that the caller may list. A kind whose objects cannot be read is
    /// left out with a warning, unless the whole cluster fails.
    ///
    /// # Errors
    /// `KindNotServed` for a kind whose objects the garbage collector does not delete, or that has no namespaces;
    /// `NotFoundInCluster`; otherwise as [`Gate::allow`], [`ObjectApi::kinds`] and [`DependentApi`].
    pub async fn read(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        resource: &ResourceName,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<Dependents> {
        let (kind, served) = self.served(caller, cluster, resource).await?;
        let permit = self.gate.allow(caller, list(cluster, kind, namespace).named(name.as_str())).await?;
        let found = self.api.dependee(&permit, name).await?;
        let dependee = found.ok_or_else(|| permit.object_not_found())?;

        let (kinds, all) = collected_kinds(&served);
        let (mut reads, mut warnings) = (Vec::new(), served.warnings.clone());
        let unanswered = Unanswered::default();
        for kind in kinds {
            let right = resource_of_kind(kind, false);
            if caller.has_right(RightVerb::List, right, cluster, namespace) {
                let permit = self.gate.allow(caller, list(cluster, kind, namespace)).await?;
                reads.push(owned(self.api.clone(), kind, permit, unanswered.clone()));
            } else {
                warnings.push(Warning::Unreadable(kind.info().plural));
            }
        }
        let read: Vec<_> = stream::iter(reads).buffer_unordered(CONCURRENT_KINDS).try_collect().await?;
        let mut objects = Vec::new();
        for (kind, owned) in read {
            match owned {
                Ok(owned) => objects.extend(owned.into_iter().map(|object| (kind, object))),
                Err(warning) => warnings.push(warning),
            }
        }
        warnings.sort_by(|one, other| one.subject().cmp(other.subject()));
        Ok(Tree::new(&dependee, &objects).dependents(namespace, warnings, all))
    }

    /// The kind of this name, and all kinds that the cluster serves. A name that the last discovery does not have is
    /// looked up again: its definition may be new.
    async fn served(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        resource: &ResourceName,
    ) -> Result<(Kind, Arc<ServedKinds>)> {
        let any_right = AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(cluster);
        let permit = self.gate.allow(caller, any_right).await?;
        for max_age in [None, Some(FRESH)] {
            let kinds = self.objects.kinds(&permit, max_age).await?;
            let served = kinds.find(resource).filter(|served| is_collected(served));
            if let Some(kind) = served.and_then(ServedKind::to_kind) {
                return Ok((kind, kinds));
            }
        }
        Err(Error::new(Cause::KindNotServed).resource(resource.to_string()))
    }
}

fn list(cluster: ClusterId, kind: Kind, namespace: &Namespace) -> AccessRequest {
    AccessRequest::to(Verb::List, Resource::Kind(kind)).in_cluster(cluster).in_namespace(namespace)
}

/// Whether the garbage collector watches a kind with namespaces, and deletes its objects
/// (`GetDeletableResources` of `k8s.io/kubernetes/pkg/controller/garbagecollector`). It ignores events.
fn is_collected(served: &ServedKind) -> bool {
    let verbs = ["delete", "list", "watch"];
    served.namespaced
        && served.kind != Kind::Event.info().kind
        && verbs.iter().all(|verb| served.has_verb(verb))
}

/// The kinds whose objects may be dependents, and whether these are all of the cluster.
fn collected_kinds(served: &ServedKinds) -> (Vec<Kind>, bool) {
    let (mut kinds, mut dynamic, mut all) = (Vec::new(), 0_usize, true);
    for served in served.kinds.iter().filter(|served| is_collected(served)) {
        let in_table = Kind::in_table(&served.group, &served.version, &served.plural).is_some();
        dynamic += usize::from(!in_table);
        let kind = Some(served).filter(|_| in_table || dynamic <= MAX_DYNAMIC_KINDS);
        match kind.and_then(ServedKind::to_kind) {
            Some(kind) => kinds.push(kind),
            None => all = false,
        }
    }
    (kinds, all)
}

/// API groups whose server did not answer in time.
type Unanswered = Arc<Mutex<HashSet<&'static str>>>;

/// The objects of a kind, or the warning that they cannot be read. Of a group whose server did not answer in time, no
/// further kind is read: each would take as long, and the circuit of the whole cluster would open.
async fn owned(
    api: Arc<dyn DependentApi>,
    kind: Kind,
    permit: Permit,
    unanswered: Unanswered,
) -> Result<(Kind, Result<Vec<OwnedObject>, Warning>)> {
    let info = kind.info();
    let groups = || unanswered.lock().unwrap_or_else(PoisonError::into_inner);
    if groups().contains(info.group) {
        return Ok((kind, Err(Warning::NotRead(info.plural))));
    }
    match api.owned_objects(&permit).await {
        Ok(owned) => Ok((kind, owned.ok_or(Warning::Unreadable(info.plural)))),
        Err(error) if fails_alone(kind, error.cause) => {
            if is_dynamic(kind) && error.cause == Cause::DeadlineExceeded {
                groups().insert(info.group);
            }
            Ok((kind, Err(Warning::NotRead(info.plural))))
        }
        Err(error) => Err(error),
    }
}

/// Whether a kind that cannot be read for this cause says nothing about the others: the server of its API group is down
/// or slow, or there are too many of its objects.
fn fails_alone(kind: Kind, cause: Cause) -> bool {
    match cause {
        Cause::FailingCluster
        | Cause::UnexpectedAnswer
        | Cause::DeadlineExceeded
        | Cause::RateLimitedByCluster
        | Cause::RejectedByCluster
        | Cause::TooLarge => true,
        // the API server passes on what another server answers
        Cause::CredentialRejected | Cause::ConnectionLost => is_dynamic(kind),
        _ => false,
    }
}

/// Whether another server than the API server may serve a kind.
fn is_dynamic(kind: Kind) -> bool {
    matches!(kind, Kind::Dynamic(_))
}
