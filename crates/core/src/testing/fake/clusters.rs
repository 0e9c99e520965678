//! Fake clusters without a network: objects are JSON and are projected by the same table as real ones.

mod compare;
mod config;
mod diagnosis;
mod objects;
mod pods;
mod rollout;
mod small_changes;
mod usage;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures_util::{StreamExt, future, stream};
use jiff::Timestamp;
use serde_json::{Value, json, value::RawValue};

use crate::{
    access::Permit,
    cluster::{ClusterProbe, NodeCount, Permission, ProbeTarget, Probed, Report},
    connection::{Connection, StoredConnection},
    error::{Cause, Error, Result},
    event::EventRow,
    gate::{Changed, Warning},
    ids::ClusterId,
    inventory::{Inventory, Join, List, ListEvent, ListOwner, Listing, WatchSnapshot, objects::ServedKind},
    kind::Kind,
    name::ObjectName,
    namespace::{NamespaceApi, NamespaceRow},
    object::{Labels, parse},
    pod::PodRow,
    rows::{ListQuery, Row, Table, select},
    usage::KnownUsage,
    workload::{Replicas, WorkloadApi, WorkloadDetail, WorkloadParts, WorkloadRow, WorkloadType},
};

type Key = (ClusterId, Kind, String, String);

/// Objects in the clusters, and the calls to the clusters.
#[derive(Default)]
pub struct FakeClusters {
    objects: Mutex<BTreeMap<Key, Value>>,
    calls: Mutex<Vec<String>>,
    fault: Mutex<Option<Cause>>,
    logs: Mutex<VecDeque<UnboundedReceiver<Result<Vec<u8>>>>>,
    events: Mutex<VecDeque<UnboundedReceiver<ListEvent>>>,
    conditions: Mutex<BTreeMap<ClusterId, Condition>>,
    changed: Mutex<Vec<ClusterId>>,
    usage: Mutex<BTreeMap<ClusterId, KnownUsage>>,
    /// A change that another client makes before the next JSON patch.
    other_change: Mutex<Option<(Key, rollout::OtherChange)>>,
    signals: Mutex<VecDeque<UnboundedReceiver<()>>>,
    served: Mutex<Vec<ServedKind>>,
}

/// State of one cluster's lists. Without a condition, the lists are current, with `as_of` 1970-01-01.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// Requests fail with this cause.
    Failing(Cause),
    /// Requests never complete.
    Hanging,
    /// The lists are cached.
    Cached {
        /// Last time at which the lists were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
    },
}

impl FakeClusters {
    /// Adds an object, given as its manifest, to a cluster.
    pub fn put(&self, cluster: ClusterId, kind: Kind, mut object: Value) {
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = (cluster, kind, text("namespace"), text("name"));
        next_version(&mut object);
        lock(&self.objects).insert(key, object);
    }

    /// Sets the cause with which every following call fails; `None`: calls succeed.
    pub fn fail(&self, cause: Option<Cause>) {
        *lock(&self.fault) = cause;
    }

    /// Sets the state of a cluster's lists.
    pub fn set(&self, cluster: ClusterId, condition: Condition) {
        lock(&self.conditions).insert(cluster, condition);
    }

    /// Returns the sender of the next log that is followed. The log ends when the sender is dropped; the sender is
    /// closed when the reader is dropped.
    pub fn next_log(&self) -> UnboundedSender<Result<Vec<u8>>> {
        let (write, read) = mpsc::unbounded();
        lock(&self.logs).push_back(read);
        write
    }

    /// Returns the sender of events for the next list that is watched.
    pub fn next_watch(&self) -> UnboundedSender<ListEvent> {
        let (write, read) = mpsc::unbounded();
        lock(&self.events).push_back(read);
        write
    }

    /// Returns all calls since the previous call of this method, such as `scale deployment web`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.calls))
    }

    /// Returns all clusters reported to [`ClusterProbe::connection_changed`] since the previous call of this method.
    pub fn changed(&self) -> Vec<ClusterId> {
        std::mem::take(&mut *lock(&self.changed))
    }

    fn call(&self, permit: &Permit, what: &str) -> Result<()> {
        lock(&self.calls).push(format!("{} {} {what}", permit.verb().as_str(), permit.resource().as_str()));
        lock(&self.fault).map_or(Ok(()), |cause| Err(Error::new(cause)))
    }

    fn key(permit: &Permit, name: &ObjectName) -> Result<Key> {
        Ok((permit.cluster()?, permit.kind()?, permit.namespace()?.to_string(), name.to_string()))
    }

    fn find(&self, key: &Key) -> Result<Option<Box<RawValue>>> {
        lock(&self.objects).get(key).map(raw).transpose()
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Value) -> Result<()>) -> Result<Box<RawValue>> {
        let mut objects = lock(&self.objects);
        let object = objects.get_mut(key).ok_or_else(|| not_found(key))?;
        change(object)?;
        next_version(object);
        raw(object)
    }

    fn insert(&self, key: Key, mut object: Value) -> Result<Box<RawValue>> {
        let mut objects = lock(&self.objects);
        if objects.contains_key(&key) {
            return Err(Error::new(Cause::AlreadyExists).resource(key.1.to_string()).name(&*key.3));
        }
        next_version(&mut object);
        let written = raw(&object);
        objects.insert(key, object);
        written
    }

    fn remove(&self, key: &Key) -> Result<()> {
        lock(&self.objects).remove(key).map(drop).ok_or_else(|| not_found(key))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Increments the resourceVersion, as the API server does at every write.
fn next_version(object: &mut Value) {
    let version =
        object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    object["metadata"]["resourceVersion"] = (version + 1_u64).to_string().into();
}

fn raw(object: &Value) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(object).map_err(|error| Error::internal(error.to_string()))
}

fn not_found((_, kind, namespace, name): &Key) -> Error {
    Error::new(Cause::NotFoundInCluster).resource(kind.to_string()).namespace(&**namespace).name(&**name)
}

impl FakeClusters {
    /// Rows of these kinds in a cluster, projected as the list's table entry defines.
    fn rows(&self, cluster: ClusterId, list: List, kinds: &[Kind]) -> Result<Vec<Row>> {
        if list == List::Objects {
            return self.stored_objects(cluster, kinds);
        }
        let project = list.info().project.ok_or_else(|| Error::internal("a local list"))?;
        let objects = lock(&self.objects);
        let wanted = objects.iter().filter(|((of, kind, ..), _)| *of == cluster && kinds.contains(kind));
        Ok(wanted
            .map(|((_, kind, ..), object)| project(*kind, &raw(object)?))
            .collect::<Result<Vec<_>>>()?
            .concat())
    }

    /// The objects of a kind related to the permit's object that the caller may list, and a warning if these are not
    /// all.
    fn related<T>(
        &self,
        permit: &Permit,
        kind: Kind,
        project: impl Fn(&RawValue) -> Result<T>,
    ) -> Result<(Vec<T>, Option<Warning>)> {
        let unreadable = (!permit.is_complete_for(kind)).then(|| Warning::Unreadable(kind.info().plural));
        let (cluster, namespaces) = (permit.cluster()?, permit.namespaces_of(kind)?);
        let Some(namespaces) = namespaces else { return Ok((Vec::new(), unreadable)) };
        let objects = lock(&self.objects);
        let readable = objects.iter().filter(|((of, found, namespace, _), _)| {
            let namespace = kind.info().namespaced.then_some(namespace.as_str());
            (*of, *found) == (cluster, kind) && namespaces.contains(namespace)
        });
        let rows = readable.map(|(_, object)| project(&raw(object)?)).collect::<Result<_>>()?;
        Ok((rows, unreadable))
    }

    /// As [`Self::rows`], joined with the list of [`Join::with`], as far as the permit covers it.
    fn joined(&self, permit: &Permit, list: List, kinds: &[Kind]) -> Result<(Vec<Row>, Vec<Warning>)> {
        let cluster = permit.cluster()?;
        let rows = self.rows(cluster, list, kinds)?;
        let Some(join) = list.info().join else { return Ok((rows, Vec::new())) };
        let kind = join.kind();
        let unreadable = (!permit.is_complete_for(kind)).then(|| Warning::Unreadable(kind.info().plural));
        let warnings = unreadable.into_iter().collect();
        let Some(namespaces) = permit.namespaces_of(kind)? else { return Ok((rows, warnings)) };
        let Join { with, row: fill, .. } = join;
        let empty = Table::new(&(with.info().fields)());
        let (with, _) = empty.replace_all(0, self.rows(cluster, with, with.info().kinds)?);
        let rows = rows.iter().map(|row| fill(row, &with, namespaces)).collect::<Result<_>>()?;
        Ok((rows, warnings))
    }
}

#[async_trait]
impl Inventory for FakeClusters {
    async fn page(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<Listing> {
        self.call(permit, list.info().key)?;
        let (cluster, query) = (permit.cluster()?, query.within(permit.namespaces()));
        if let Some((ListOwner { kind, .. }, name)) = list.info().owner.zip(query.owner.as_ref())
            && !lock(&self.objects).keys().any(|(of, found, namespace, named)| {
                (*of, *found, named.as_str()) == (cluster, kind, name.as_str())
                    && query.namespaces.contains(Some(namespace))
            })
        {
            return Err(Error::new(Cause::NotFoundInCluster).resource(kind.to_string()).name(name.as_str()));
        }
        let condition = lock(&self.conditions).get(&cluster).copied();
        let (as_of, stale) = match condition {
            None => (Timestamp::UNIX_EPOCH, false),
            Some(Condition::Cached { as_of, stale }) => (as_of, stale),
            Some(Condition::Failing(cause)) => return Err(Error::new(cause)),
            Some(Condition::Hanging) => future::pending().await,
        };
        let (rows, warnings) = self.joined(permit, list, &query.kinds)?;
        let (rows, pagination) = select(rows, &query);
        let rows = if list == List::Objects { objects::printed(&query.kinds, &rows)? } else { rows };
        Ok(Listing { rows, pagination, as_of, stale, warnings })
    }

    async fn watch(&self, permit: &Permit, list: List, query: &ListQuery) -> Result<WatchSnapshot> {
        let whole = ListQuery { page: 1, per_page: u64::MAX, ..query.clone() };
        let Listing { rows, as_of, stale, warnings, .. } = self.page(permit, list, &whole).await?;
        let events = lock(&self.events).pop_front();
        let events = events.map_or_else(|| stream::empty().boxed(), StreamExt::boxed);
        Ok(WatchSnapshot { rows: Box::new(rows.into_iter()), as_of, stale, warnings, events })
    }
}

#[async_trait]
impl ClusterProbe for FakeClusters {
    fn check(&self, _: &Connection) -> Result<()> {
        Ok(())
    }

    async fn probe(&self, permit: &Permit, target: ProbeTarget) -> Result<Probed> {
        let result = self.call(permit, server(&target)).map(|()| Report {
            version: "v1.37.2".to_owned(),
            latency: Duration::from_millis(1),
            identity: Some("admin".to_owned()),
            nodes: Some(NodeCount { ready: 1, total: 1 }),
            pods: Some(0),
            namespaces: Some(4),
            certificates: Vec::new(),
        });
        match result {
            Err(error) if matches!(error.cause, Cause::CircuitOpen | Cause::Overloaded) => Err(error),
            result => Ok(Probed { at: Timestamp::UNIX_EPOCH, record: true, result }),
        }
    }

    async fn permissions(&self, permit: &Permit, target: ProbeTarget) -> Result<Vec<Permission>> {
        self.call(permit, server(&target))?;
        Ok(vec![Permission { feature: "list_pods".to_owned(), allowed: true, missing: Vec::new() }])
    }

    async fn connection_changed(&self, id: ClusterId) {
        lock(&self.changed).push(id);
    }
}

fn server(target: &ProbeTarget) -> &str {
    let (ProbeTarget::New(connection) | ProbeTarget::Registered(StoredConnection { connection, .. }, _)) =
        target;
    connection.server.as_str()
}

#[async_trait]
impl NamespaceApi for FakeClusters {
    async fn create(&self, permit: &Permit, labels: &Labels) -> Result<NamespaceRow> {
        let name = permit.namespace()?.to_string();
        self.call(permit, &name)?;
        let object = json!({"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}});
        let object = self.insert((permit.cluster()?, permit.kind()?, String::new(), name), object)?;
        Ok(NamespaceRow::project(parse(&object)?))
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let name = permit.namespace()?.to_string();
        self.call(permit, &name)?;
        self.remove(&(permit.cluster()?, permit.kind()?, String::new(), name))
    }
}

#[async_trait]
impl WorkloadApi for FakeClusters {
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<WorkloadDetail>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let r#type = WorkloadType::of(key.1).ok_or_else(|| Error::internal("not a workload"))?;
        let Some(object) = self.find(&key)? else { return Ok(None) };
        let pod = |object: &RawValue| Ok(PodRow::project(parse(object)?));
        let event = |object: &RawValue| Ok(EventRow::project(parse(object)?));
        let (mut pods, pods_unreadable) = self.related(permit, Kind::Pod, pod)?;
        let (mut events, events_unreadable) = self.related(permit, Kind::Event, event)?;
        let workload = format!("{}/{name}", r#type.as_str());
        pods.retain(|pod| pod.workload().as_ref() == Some(&workload));
        let kind = r#type.kind().info().kind;
        events.retain(|event| event.object.kind == kind && event.object.name == name.as_str());
        let warnings = pods_unreadable.into_iter().chain(events_unreadable).collect();
        let parts = WorkloadParts { object, pods, events, revisions: Vec::new(), warnings };
        WorkloadDetail::assemble(r#type, parts).map(Some)
    }

    async fn scale(
        &self,
        permit: &Permit,
        name: &ObjectName,
        replicas: Replicas,
    ) -> Result<Changed<WorkloadRow>> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let object = self.change(&key, |object| {
            object["spec"]["replicas"] = replicas.get().into();
            Ok(())
        })?;
        Ok(WorkloadRow::project(key.1, &object)?.into())
    }

    async fn restart(&self, permit: &Permit, name: &ObjectName, at: Timestamp) -> Result<WorkloadRow> {
        self.call(permit, name.as_str())?;
        let key = Self::key(permit, name)?;
        let object = self.change(&key, |object| {
            if object["spec"]["paused"] == true {
                return Err(Error::new(Cause::RolloutPaused).resource(key.1.to_string()).name(&*key.3));
            }
            let annotation = json!({"kubectl.kubernetes.io/restartedAt": at.to_string()});
            object["spec"]["template"]["metadata"]["annotations"] = annotation;
            Ok(())
        })?;
        WorkloadRow::project(key.1, &object)
    }
}
