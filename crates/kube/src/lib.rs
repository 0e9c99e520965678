//! The ports towards clusters, over kube-rs: its types, parameters and request builders. The way to the cluster is our
//! own (`transport.rs`), so of kube-rs no client, no retry and no reading of kubeconfigs is even compiled.
//!
//! A call goes one way: a port's method builds a `Call` (`request.rs`: a path from validated names only), a `ClusterClient`
//! (`client.rs`) holds it against the permit, sends it within the deadline and with the operation's id, through the
//! cluster's `Breaker` (`breaker.rs`) over its `Transport` (`transport.rs`: guarded dialer, TLS, HTTP/1.1), and `error.rs` turns
//! what is refused into the core's errors. What is read is counted (`budget.rs`), and large answers are parsed on blocking
//! threads. Lists are kept (`cache.rs`) where they can be. Nothing of a library's or a certificate's text is ever part of one.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use http::HeaderValue;
use jiff::Timestamp;
use pilothouse_core::{Result, access::Permit, clock::Clock, cluster::Connections};
use tokio::{
    runtime::Handle,
    time::{MissedTickBehavior, interval},
};

mod breaker;
mod budget;
mod cache;
mod client;
mod client_pool;
mod config;
mod dial;
mod dns;
mod egress;
mod error;
mod inventory;
mod list;
mod namespace;
mod observe;
mod pending_writes;
mod permissions;
mod pod;
mod probe;
mod replace;
mod request;
mod secret;
mod single_flight;
mod test_limiter;
mod tls;
mod transport;
mod uncached;
mod workload;

pub use budget::{Limits, ReadBudgets};
pub use cache::{CacheSettings, ListCacheStats};
pub use dns::{Resolver, SystemResolver};
pub use egress::{EgressRules, Networks, NotNetworks, OwnSocket};
pub use observe::{Exchange, Observer, Unobserved};

use crate::{
    budget::Budget,
    cache::ListCache,
    client::ClusterClient,
    client_pool::ClientPool,
    dial::EgressGuard,
    dns::{DnsResolver, ResolverLimits},
    probe::Probes,
    transport::Transport,
};

/// How often it is looked whether stored connections were replaced or removed, as by another replica.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a cluster may take to answer. Connecting alone may take 3 s, of these.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// A read, such as a page of a list with all its chunks.
    pub read: Duration,
    /// A change, with the reads around it.
    pub write: Duration,
    /// The test of a cluster, with all its questions.
    pub test: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(10), write: Duration::from_secs(30), test: Duration::from_secs(5) }
    }
}

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// How long a cluster may take to answer.
    pub deadlines: Deadlines,
    /// Which addresses a cluster may have.
    pub egress: EgressRules,
    /// Who says which addresses a cluster's name has.
    pub resolver: Arc<dyn Resolver>,
    /// Who we say we are: `pilothouse/1.2.3`.
    pub user_agent: HeaderValue,
    /// Told of every request to a cluster.
    pub observer: Arc<dyn Observer>,
    /// Which lists are kept; without it every list is read from its cluster each time.
    pub cache_settings: Option<CacheSettings>,
    /// What may be read from clusters at once, and for one request.
    pub reads: ReadBudgets,
}

impl Default for KubeSettings {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            egress: EgressRules::default(),
            resolver: Arc::new(SystemResolver),
            user_agent: HeaderValue::from_static(concat!("pilothouse/", env!("CARGO_PKG_VERSION"))),
            observer: Arc::new(Unobserved),
            cache_settings: None,
            reads: ReadBudgets::default(),
        }
    }
}

/// Every port towards clusters: `Inventory`, `WorkloadApi`, `PodApi`, `NamespaceApi`, `ConfigApi`, `SecretApi`,
/// `ClusterProbe`.
/// Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct KubeClusters {
    pool: Arc<ClientPool>,
    clock: Arc<dyn Clock>,
    deadlines: Deadlines,
    observer: Arc<dyn Observer>,
    cache: Option<Arc<ListCache>>,
    probes: Arc<Probes>,
}

impl fmt::Debug for KubeClusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeClusters").field("deadlines", &self.deadlines).finish_non_exhaustive()
    }
}

impl KubeClusters {
    /// The clusters of `connections`. Nothing is connected before it is asked for.
    ///
    /// # Panics
    /// Outside a tokio runtime: connections live on the one it is called in.
    pub fn new(settings: KubeSettings, connections: Arc<dyn Connections>, clock: Arc<dyn Clock>) -> Self {
        let KubeSettings { deadlines, egress, resolver, user_agent, observer, cache_settings, reads } =
            settings;
        let budget = Budget::new(reads, cache_settings.unwrap_or_default().fills, Handle::current());
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
            let names = Arc::new(DnsResolver::new(resolver.clone(), lookups, runtime.clone()));
            EgressGuard { rules: rules.clone(), names }
        };
        let pool = Arc::new(ClientPool {
            connections,
            guard: guard(ResolverLimits::REGISTERED),
            trial_guard: guard(ResolverLimits::UNREGISTERED),
            user_agent,
            runtime: runtime.clone(),
            budget,
            entries: Mutex::new(HashMap::new()),
        });
        runtime.spawn(confirm(Arc::downgrade(&pool), cache.as_ref().map(Arc::downgrade)));
        let probes = Arc::new(Probes::new(&runtime));
        Self { pool, clock, deadlines, observer, cache, probes }
    }

    /// What there is of each kept list, over all clusters.
    pub fn list_cache_stats(&self) -> Vec<ListCacheStats> {
        self.cache.as_ref().map(|cache| cache.stats()).unwrap_or_default()
    }

    /// The way to the permit's cluster.
    async fn transport(&self, permit: &Permit) -> Result<Arc<Transport>> {
        self.pool.of(permit.cluster()?).await
    }

    /// A visit to the permit's cluster.
    async fn client<'a>(&self, permit: &'a Permit, at_most: Duration) -> Result<ClusterClient<'a>> {
        ClusterClient::new(self.transport(permit).await?, permit, at_most, &self.observer)
    }

    fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Closes what goes over connections that were replaced or removed, until nobody uses them any more.
async fn confirm(pool: Weak<ClientPool>, cache: Option<Weak<ListCache>>) {
    let mut ticks = interval(RECHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.confirm_all().await;
        if let Some(cache) = cache.as_ref().and_then(Weak::upgrade) {
            cache.drop_closed();
        }
    }
}
