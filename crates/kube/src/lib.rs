//! Adapter for Kubernetes clusters: implements the core's cluster ports with kube-rs's types, parameters and request
//! builders. The transport is Pilothouse's own (`transport.rs`), so neither kube-rs's client nor its retries nor its
//! kubeconfig reader are compiled.
//!
//! Path of a call: a port's method builds a `Call` (`request.rs`: a path from validated names only), for one object
//! through an `ObjectClient` (`object_client.rs`). A `ClusterClient` (`client.rs`) checks the call against the permit and
//! sends it before the deadline, with the operation id, through the cluster's `Breaker` (`breaker.rs`) and `Transport`
//! (`transport.rs`: guarded dialer, TLS, HTTP/1.1). `error.rs` maps error responses to the core's errors. Reads are
//! counted (`budget.rs`), a cluster has one large read at a time (`large_reads.rs`), and large responses are parsed on
//! threads of low priority (`parser_threads.rs`). Lists are cached (`cache.rs`) where possible. An error never contains
//! text of a library or a certificate.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use http::HeaderValue;
use jiff::Timestamp;
use pilothouse_core::{Result, access::Permit, clock::Clock, cluster::Connections};
use pilothouse_dial::{dial, dns, egress, single_flight};
use tokio::{
    runtime::Handle,
    time::{MissedTickBehavior, interval},
};

mod apiserver_messages;
mod autoscaler_limits;
mod breaker;
mod budget;
mod cache;
mod client;
mod client_pool;
mod compare;
mod config;
mod cordon;
mod dependents;
mod diagnosis;
mod discovery;
mod error;
mod inventory;
mod job;
mod large_reads;
mod list;
mod namespace;
mod object;
mod object_client;
mod observe;
mod parser_threads;
mod pending_writes;
mod permissions;
mod pod;
mod pod_change;
mod probe;
mod projection;
mod rbac;
mod replace;
mod request;
mod secret;
mod test_limiter;
mod tls;
mod transport;
mod uncached;
mod usage;
mod workload;

pub use budget::{Limits, ReadBudgets};
pub use cache::{CacheSettings, ListCacheStats};
pub use observe::{Exchange, NoopObserver, Observer};
pub use permissions::Credential;
pub use pilothouse_dial::{
    dns::{Resolver, SystemResolver},
    egress::{EgressRules, Networks, NotNetworks, OwnSocket},
};
pub use rbac::rbac_manifest;

use crate::{
    budget::Budget,
    cache::ListCache,
    client::ClusterClient,
    client_pool::ClientPool,
    dial::EgressGuard,
    dns::{DnsResolver, ResolverLimits},
    probe::Probes,
    transport::Transport,
    usage::Usages,
};

/// Interval of the check whether stored connections were replaced or removed, as by another replica.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Timeouts of cluster operations. Connecting may take up to 3 s of each.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A read, such as a page of a list with all its chunks.
    pub read: Duration,
    /// A write, including the reads around it.
    pub write: Duration,
    /// A connection test or probe, with all its requests.
    pub test: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(10), write: Duration::from_secs(30), test: Duration::from_secs(5) }
    }
}

/// Settings of the adapter.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// Timeouts of cluster operations.
    pub deadlines: Deadlines,
    /// Egress rules for cluster addresses.
    pub egress: EgressRules,
    /// Resolver of cluster host names.
    pub resolver: Arc<dyn Resolver>,
    /// `User-Agent` of all requests: `pilothouse/1.2.3`.
    pub user_agent: HeaderValue,
    /// Observer of every request to a cluster.
    pub observer: Arc<dyn Observer>,
    /// Settings of the list cache. `None`: every list is read from its cluster.
    pub cache_settings: Option<CacheSettings>,
    /// Budgets of reads from clusters.
    pub reads: ReadBudgets,
}

impl Default for KubeSettings {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            egress: EgressRules::default(),
            resolver: Arc::new(SystemResolver),
            user_agent: HeaderValue::from_static(concat!("pilothouse/", env!("CARGO_PKG_VERSION"))),
            observer: Arc::new(NoopObserver),
            cache_settings: None,
            reads: ReadBudgets::default(),
        }
    }
}

/// Implementation of the cluster ports: `Inventory`, `UsageApi`, `ObjectApi`, `WorkloadApi`, `CompareApi`, `RolloutApi`,
/// `JobApi`, `PodApi`, `PodChangeApi`, `DiagnosisSource`, `NodeApi`, `AutoscalerApi`, `DependentApi`, `NamespaceApi`,
/// `ConfigApi`, `SecretApi`, `ClusterProbe`. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct KubeClusters {
    pool: Arc<ClientPool>,
    clock: Arc<dyn Clock>,
    deadlines: Deadlines,
    observer: Arc<dyn Observer>,
    cache: Option<Arc<ListCache>>,
    usage: Arc<Usages>,
    probes: Arc<Probes>,
}

impl fmt::Debug for KubeClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeClusters").field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

impl KubeClusters {
    /// Creates the adapter for the clusters in `connections`. Connects on first use.
    ///
    /// # Panics
    /// Outside a tokio runtime: connections run on the current runtime. When the operating system starts no thread.
    pub fn new(settings: KubeSettings, connections: Arc<dyn Connections>, clock: Arc<dyn Clock>) -> Self {
        let KubeSettings { deadlines, egress, resolver, user_agent, observer, cache_settings, reads } =
            settings;
        let budget = Budget::new(reads, cache_settings.unwrap_or_default().fills);
        let cache = cache_settings.map(|cache_settings| {
            ListCache::new(
                cache_settings,
                connections.clone(),
                clock.clone(),
                observer.clone(),
                deadlines.read,
            )
        });
        let (runtime, rules) = (Handle::current(), Arc::new(egress));
        let guard = |lookups| {
            let dns_resolver = Arc::new(DnsResolver::new(resolver.clone(), lookups, runtime.clone()));
            EgressGuard { rules: rules.clone(), resolver: dns_resolver }
        };
        let pool = Arc::new(ClientPool {
            connections,
            guard: guard(ResolverLimits::REGISTERED),
            test_guard: guard(ResolverLimits::UNREGISTERED),
            user_agent,
            runtime: runtime.clone(),
            budget,
            entries: Mutex::new(HashMap::new()),
        });
        runtime.spawn(recheck(Arc::downgrade(&pool), cache.as_ref().map(Arc::downgrade)));
        let probes = Arc::new(Probes::new(&runtime));
        let usage = Usages::new(cache.as_ref(), observer.clone(), deadlines.read, runtime);
        Self { pool, clock, deadlines, observer, cache, usage, probes }
    }

    /// Statistics of the list cache, per list over all clusters.
    pub fn list_cache_stats(&self) -> Vec<ListCacheStats> {
        self.cache.as_ref().map(|cache| cache.stats()).unwrap_or_default()
    }

    /// The transport of the permit's cluster.
    async fn transport(&self, permit: &Permit) -> Result<Arc<Transport>> {
        self.pool.get(permit.cluster()?).await
    }

    /// A request-scoped client for the permit's cluster.
    async fn client<'a>(&self, permit: &'a Permit, timeout: Duration) -> Result<ClusterClient<'a>> {
        ClusterClient::new(self.transport(permit).await?, permit, timeout, &self.observer)
    }

    fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Task that closes transports whose stored connection was replaced or removed. Ends with the pool.
async fn recheck(pool: Weak<ClientPool>, cache: Option<Weak<ListCache>>) {
    let mut ticks = interval(RECHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.recheck_all().await;
        if let Some(cache) = cache.as_ref().and_then(Weak::upgrade) {
            cache.drop_closed();
        }
    }
}
