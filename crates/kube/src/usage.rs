//! [`UsageApi`]: usage of CPU and memory, polled from `metrics.k8s.io` while somebody reads it. One task per cluster
//! (`usage/poller.rs`) sends one request at a time and so takes one place in the cluster's breaker. It ends when nobody has
//! read usage for two minutes. Readers get what was read last.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use pilothouse_core::{
    Result,
    access::Permit,
    gate::Warning,
    ids::ClusterId,
    kind::Kind,
    name::ObjectName,
    object::parse,
    usage::{KnownUsage, Subject, UsageApi, UsageRings, UsageSeries},
};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    KubeClusters, cache::ListCache, observe::Observer, request::Call, transport::Transport,
    workload::MetadataOnly,
};

mod parts;
mod poller;
mod response;

use self::{parts::Part, poller::ClusterUsage};

/// Maximum number of nodes and pods whose usage over time is kept.
const MAX_RINGS: usize = 2_000;

/// Node or pod whose usage over time is kept. A node has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RingKey {
    cluster: ClusterId,
    namespace: Option<String>,
    name: String,
}

impl RingKey {
    fn subject(&self) -> Subject<'_> {
        match &self.namespace {
            Some(namespace) => Subject::Pod { namespace, name: &self.name },
            None => Subject::Node { name: &self.name },
        }
    }
}

/// The usage of all clusters.
pub(crate) struct Usages {
    clusters: Mutex<HashMap<ClusterId, Arc<ClusterUsage>>>,
    rings: Mutex<UsageRings<RingKey>>,
    /// Cache with the rows of pods, for the usage of workloads.
    cache: Option<Weak<ListCache>>,
    observer: Arc<dyn Observer>,
    /// Timeout of a request.
    deadline: Duration,
    /// Runtime of the pollers.
    runtime: Handle,
    weak_self: Weak<Self>,
}

/// A read of the usage of one part of a cluster.
struct Read {
    usage: Arc<ClusterUsage>,
    part: Part,
    /// Whether what is read was not polled before.
    is_new: bool,
}

impl Usages {
    pub(crate) fn new(
        cache: Option<&Arc<ListCache>>,
        observer: Arc<dyn Observer>,
        deadline: Duration,
        runtime: Handle,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak_self| Self {
            clusters: Mutex::default(),
            rings: Mutex::new(UsageRings::new(MAX_RINGS)),
            cache: cache.map(Arc::downgrade),
            observer,
            deadline,
            runtime,
            weak_self: weak_self.clone(),
        })
    }

    /// Records a read under a permit. `None` if the cluster is not polled, or over a connection that was replaced.
    ///
    /// # Errors
    /// `Internal` when the permit is not one to read usage.
    fn read(&self, permit: &Permit) -> Result<Option<Read>> {
        let clusters = self.clusters();
        let usage = clusters.get(&permit.cluster()?).filter(|usage| usage.is_open());
        usage.map(|usage| record_read(usage, permit)).transpose()
    }

    /// As [`Self::read`]; begins to poll the cluster if it is not polled yet.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn begin(&self, permit: &Permit, transport: Arc<Transport>) -> Result<Read> {
        let cluster = permit.cluster()?;
        let mut clusters = self.clusters();
        if let Some(usage) = clusters.get(&cluster).filter(|usage| usage.is_open()) {
            return record_read(usage, permit);
        }
        let usage = Arc::new(ClusterUsage::new(cluster, transport, self));
        let read = record_read(&usage, permit)?;
        clusters.insert(cluster, usage.clone());
        drop(clusters);
        self.runtime.spawn(poller::run(usage, self.weak_self.clone()));
        Ok(read)
    }

    /// Removes a cluster that nobody reads, or whose connection is closed. Returns false, and does nothing, if it is read
    /// again.
    fn remove(&self, usage: &Arc<ClusterUsage>) -> bool {
        // reads are recorded under this lock
        let mut clusters = self.clusters();
        if usage.is_open() && usage.is_read() {
            return false;
        }
        if clusters.get(&usage.cluster).is_some_and(|current| Arc::ptr_eq(current, usage)) {
            clusters.remove(&usage.cluster);
        }
        if !usage.is_open() {
            // another connection may lead to another cluster
            self.rings().retain(|key| key.cluster != usage.cluster);
        }
        true
    }

    fn clusters(&self) -> MutexGuard<'_, HashMap<ClusterId, Arc<ClusterUsage>>> {
        lock(&self.clusters)
    }

    fn rings(&self) -> MutexGuard<'_, UsageRings<RingKey>> {
        lock(&self.rings)
    }
}

fn record_read(usage: &Arc<ClusterUsage>, permit: &Permit) -> Result<Read> {
    let (part, is_new) = usage.record_read(permit, Instant::now())?;
    Ok(Read { usage: usage.clone(), part, is_new })
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KubeClusters {
    /// What is known of the usage that a permit covers. Waits for a moment for a part that was not polled before.
    async fn read_usage(&self, permit: &Permit) -> Result<KnownUsage> {
        let read = match self.usage.read(permit)? {
            Some(read) => read,
            None => self.usage.begin(permit, self.transport(permit).await?)?,
        };
        let Read { usage, part, is_new } = read;
        if is_new {
            usage.wait_for_first(&part).await;
        }
        Ok(usage.known(&part))
    }
}

#[async_trait]
impl UsageApi for KubeClusters {
    async fn known(&self, permit: &Permit) -> KnownUsage {
        // the list that the usage is for reports the same error
        self.read_usage(permit).await.unwrap_or_default()
    }

    async fn series(
        &self,
        permit: &Permit,
        name: &ObjectName,
    ) -> Result<Option<(UsageSeries, Option<Warning>)>> {
        let kind = permit.kind()?;
        let namespace = if kind == Kind::Node { None } else { Some(permit.namespace()?) };
        let key = RingKey {
            cluster: permit.cluster()?,
            namespace: namespace.map(ToString::to_string),
            name: name.to_string(),
        };
        let KnownUsage { table, warning } = self.read_usage(permit).await?;
        let kept = self.usage.rings().read(&key);
        if let Some(series) = kept {
            return Ok(Some((series, warning)));
        }
        let client = self.client(permit, self.deadlines().read).await?;
        let object = client.find_object(&Call::get(kind, namespace, name)?, parse::<MetadataOnly>).await?;
        if object.is_none() {
            return Ok(None);
        }
        let usage = table.get(key.subject());
        let series = self.usage.rings().begin(key, self.now(), usage);
        Ok(Some((series, warning)))
    }
}
