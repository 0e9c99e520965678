//! [`DiagnosisSource`]: the objects that a diagnosis examines, read from the cluster and projected on arrival. A related
//! kind that cannot be read, for whatever reason, does not fail the diagnosis.

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::core::params::ListParams;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    diagnosis::{DiagnosisSource, Related, RelatedObject, Selection},
    kind::Kind,
    name::{Namespace, ObjectName},
    namespaces::NamespaceScope,
};
use serde_json::value::RawValue;

use crate::{
    KubeClusters,
    client::ClusterClient,
    error::Failure,
    list::{self, Size},
    request::Call,
};

/// Maximum number of events that are read about one object. Kubernetes combines equal events, and deletes them after an
/// hour.
const MAX_EVENTS: u32 = 100;
/// Maximum number of concurrent reads of objects by name.
const MAX_CONCURRENT_READS: usize = 4;

#[async_trait]
impl DiagnosisSource for KubeClusters {
    async fn diagnosed_object(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RelatedObject>> {
        let kind = permit.kind()?;
        let object = self.object(permit, kind, name, self.deadlines().read).await?;
        object.find(move |object: &RawValue| RelatedObject::project(kind, object)).await
    }

    async fn related_objects(&self, permit: &Permit, kind: Kind, selection: &Selection) -> Result<Related> {
        let scope = permit.namespaces_of(kind)?.filter(|_| permit.is_complete_for(kind));
        let Some(scope) = scope else { return Ok(Related::Unreadable) };
        let client = match self.client(permit, self.deadlines().read).await {
            Ok(client) => client,
            Err(error) => return unreadable(error),
        };
        match read(&client, kind, scope, selection).await {
            Ok(objects) => Ok(Related::Read(objects)),
            Err(error) => unreadable(error),
        }
    }
}

/// The answer for a kind that cannot be read.
fn unreadable(error: Error) -> Result<Related> {
    if error.cause == Cause::Internal { Err(error) } else { Ok(Related::Unreadable) }
}

async fn read(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    selection: &Selection,
) -> Result<Vec<RelatedObject>> {
    let params = ListParams::default();
    let about =
        |field: &str, value: &str| params.clone().fields(&format!("{field}={value}")).limit(MAX_EVENTS);
    match selection {
        Selection::All => all(client, kind, scope, &params).await,
        Selection::Labels(query) => all(client, kind, scope, &params.clone().labels(query)).await,
        Selection::Names(names) => by_name(client, kind, scope.one(), names).await,
        Selection::AboutUid(uid) => first(client, kind, scope, &about("involvedObject.uid", uid)).await,
        Selection::AboutNode(name) => {
            let events = about("involvedObject.kind=Node,involvedObject.name", name.as_str());
            first(client, kind, scope, &events).await
        }
    }
}

/// All objects that match.
async fn all(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    params: &ListParams,
) -> Result<Vec<RelatedObject>> {
    client.meter().begin(format!("diagnosis {kind} {scope:?} {:?}", params.label_selector))?;
    loop {
        let read =
            list::all(client, kind, scope, params, move |object: &RawValue| project(kind, object)).await;
        let read = read.map(|listed| listed.objects).map_err(Error::from);
        if !client.restart(read.as_ref().err().map(|error| error.cause)).await? {
            return Ok(read?.into_iter().map(|projected| projected.object).collect());
        }
    }
}

/// The first objects that match.
async fn first(
    client: &ClusterClient<'_>,
    kind: Kind,
    scope: &NamespaceScope,
    params: &ListParams,
) -> Result<Vec<RelatedObject>> {
    let read: Result<Vec<Projected>, Failure> =
        list::first(client, kind, scope, params, move |object: &RawValue| project(kind, object)).await;
    Ok(read?.into_iter().map(|projected| projected.object).collect())
}

/// The objects of these names that exist.
async fn by_name(
    client: &ClusterClient<'_>,
    kind: Kind,
    namespace: Option<&Namespace>,
    names: &[ObjectName],
) -> Result<Vec<RelatedObject>> {
    let gets: Vec<_> = names.iter().map(|name| find(client, kind, namespace, name)).collect();
    let found: Vec<_> = stream::iter(gets).buffered(MAX_CONCURRENT_READS).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

async fn find(
    client: &ClusterClient<'_>,
    kind: Kind,
    namespace: Option<&Namespace>,
    name: &ObjectName,
) -> Result<Option<RelatedObject>> {
    let call = Call::get(kind, namespace, name)?;
    client.find_object(&call, move |object: &RawValue| RelatedObject::project(kind, object)).await
}

/// A projected object, with the length of the object's JSON as an upper limit of its memory.
struct Projected {
    bytes: usize,
    object: RelatedObject,
}

impl Size for Projected {
    fn size(&self) -> usize {
        self.bytes + size_of::<Self>()
    }
}

fn project(kind: Kind, object: &RawValue) -> Result<Option<Projected>> {
    Ok(Some(Projected { bytes: object.get().len(), object: RelatedObject::project(kind, object)? }))
}
