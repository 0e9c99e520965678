//! List cache: one store per list of a cluster, filled by reflectors when the list is first requested, kept up to date
//! by watches, and read from memory. The core's [`Table`] builds pages; each request's permit decides which rows may be
//! returned.
//!
//! A list stays cached until it has been idle for [`CacheSettings::idle`], its cluster's connection changes, or its
//! memory is needed for other lists. Its reflectors (`cache/reflector.rs`) fill its store (`cache/store.rs`), which
//! serves the queries.
//!
//! [`Table`]: pilothouse_core::rows::Table

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    clock::Clock,
    cluster::Connections,
    ids::ClusterId,
    inventory::{List, ListInfo},
    kind::Kind,
    rows::Source,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

mod initial_events;
mod query;
mod reflector;
mod store;
mod sync_state;
mod watch_event;
mod watch_reader;
mod watch_state;

pub(crate) use self::query::CacheResult;
use self::{reflector::Reflector, store::ListStore};
use crate::{observe::Observer, projection::Projection, transport::Transport};

/// Settings of the list cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// Idle time after which a list without readers is removed from the cache.
    pub idle: Duration,
    /// Memory that all cached lists may use, in bytes. Above it, the least recently read lists are evicted first. A
    /// list that needs more than half of it is not cached, nor is a list with which the lists of its cluster would use
    /// more than three quarters.
    pub memory: usize,
    /// Number of large responses that are parsed at once, at most the number of processors; at most half of them for
    /// one cluster.
    pub fills: usize,
    /// Timeout requested for each watch. Rows count as current for 1.25 times as long after the last complete event.
    pub watch: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { idle: Duration::from_secs(600), memory: 1 << 30, fills: 4, watch: Duration::from_secs(20) }
    }
}

impl CacheSettings {
    /// Time for which rows count as current after the last complete event. A watch ends earlier, and its end counts as
    /// an event.
    fn max_age(&self) -> Duration {
        self.watch + self.watch / 4
    }
}

/// Interval of the eviction of idle lists, and of the changes of levels that come with age.
const EVICT_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of the check that each cached list's cluster still exists.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// Cluster, list, and the first of its kinds: lists that query one kind by `type` are cached separately.
type Key = (ClusterId, List, Kind);

/// The list cache: all cached lists of all clusters.
pub(crate) struct ListCache {
    settings: CacheSettings,
    lists: Mutex<HashMap<Key, CachedList>>,
    budget: Arc<CacheBudget>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    /// Timeout until a response begins.
    deadline: Duration,
    /// Runtime of the reflectors.
    runtime: Handle,
    weak_self: Weak<Self>,
}

/// A cached list. Dropping this value ends the reflectors and wakes the requests that wait for rows.
struct CachedList {
    store: Arc<ListStore>,
    _reflectors: JoinSet<()>,
}

impl Drop for CachedList {
    fn drop(&mut self) {
        self.store.mark_removed();
    }
}

impl ListCache {
    /// Creates an empty cache and starts its eviction task.
    pub(crate) fn new(
        settings: CacheSettings,
        connections: Arc<dyn Connections>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        deadline: Duration,
    ) -> Arc<Self> {
        let cache = Arc::new_cyclic(|weak_self| Self {
            settings,
            lists: Mutex::default(),
            budget: Arc::new(CacheBudget { limit: settings.memory, used: AtomicUsize::new(0) }),
            clock,
            observer,
            deadline,
            runtime: Handle::current(),
            weak_self: weak_self.clone(),
        });
        cache.runtime.spawn(evict(Arc::downgrade(&cache), connections));
        cache
    }

    /// Returns the store of a list under a permit to list it; starts the reflectors if the list is not cached yet.
    ///
    /// # Errors
    /// `Internal` when the permit covers another kind or no cluster.
    fn store(
        &self,
        permit: &Permit,
        info: &'static ListInfo,
        kinds: &[Kind],
        transport: &Arc<Transport>,
    ) -> Result<Arc<ListStore>> {
        let kinds = if kinds.iter().all(|kind| info.kinds.contains(kind)) { info.kinds } else { kinds };
        let first_kind = *kinds.first().ok_or_else(|| Error::internal("a list without a kind"))?;
        let key = (permit.cluster()?, info.list, first_kind);
        let permits = kinds.iter().map(|kind| permit.for_cache(*kind)).collect::<Result<Vec<_>>>()?;
        let projection = Projection::new(info, kinds, &self.clock)?;
        let mut lists = self.lists();
        if transport.closed().is_cancelled() {
            return Err(Error::new(Cause::Unreachable));
        }
        if let Some(CachedList { store, .. }) = lists.get(&key)
            && Arc::ptr_eq(&store.transport, transport)
        {
            return Ok(store.clone());
        }
        let store = Arc::new(ListStore::new(
            info,
            kinds,
            transport.clone(),
            self.budget.clone(),
            self.settings.max_age(),
            self.clock.clone(),
            projection.clone(),
        ));
        let mut reflectors = JoinSet::new();
        for (source, (kind, permit)) in (0..).zip(kinds.iter().zip(permits)) {
            let reflector = Reflector {
                store: store.clone(),
                source: source as Source,
                kind: *kind,
                projection: projection.clone(),
                permit,
                clock: self.clock.clone(),
                observer: self.observer.clone(),
                watch_timeout: self.settings.watch,
                cache: self.weak_self.clone(),
                deadline: self.deadline,
            };
            reflectors.spawn_on(reflector.run(), &self.runtime);
        }
        lists.insert(key, CachedList { store: store.clone(), _reflectors: reflectors });
        Ok(store)
    }

    /// Evicts other lists, least recently read first, until the cache is within its budget. Evicts none for a list of
    /// `size` bytes that exceeds its own share, and none when `no_eviction` is set.
    ///
    /// # Errors
    /// `NotCached` when the list does not fit.
    fn ensure_capacity(&self, needed: &Arc<ListStore>, size: usize, no_eviction: bool) -> Result<()> {
        let limit = self.settings.memory;
        if size > limit / 2 || size + self.other_bytes_of_cluster(needed) > limit / 4 * 3 {
            return Err(Error::new(Cause::NotCached));
        }
        while self.budget.is_over() {
            if no_eviction {
                return Err(Error::new(Cause::NotCached));
            }
            let mut lists = self.lists();
            let others = lists.iter().filter(|(_, cached)| !Arc::ptr_eq(&cached.store, needed));
            let least_recent = others.max_by_key(|(_, cached)| cached.store.idle_for()).map(|(key, _)| *key);
            let evicted = least_recent.and_then(|key| lists.remove(&key));
            drop(lists);
            match evicted {
                // the memory is freed when the last reader drops the store
                Some(evicted) => self.budget.adjust(evicted.store.release(), 0),
                None => return Err(Error::new(Cause::NotCached)),
            }
        }
        Ok(())
    }

    /// Memory of the other cached lists of a list's cluster, in bytes.
    fn other_bytes_of_cluster(&self, of: &Arc<ListStore>) -> usize {
        let lists = self.lists();
        let stores = lists.values().map(|cached| &cached.store);
        let others =
            stores.filter(|store| Arc::ptr_eq(&store.transport, &of.transport) && !Arc::ptr_eq(store, of));
        others.map(|store| store.bytes()).sum()
    }

    /// Whether a list may exceed the budget: a cheap check before [`Self::ensure_capacity`].
    fn may_exceed_budget(&self, store: &ListStore) -> bool {
        self.budget.is_over() || store.bytes() > self.settings.memory / 2
    }

    /// Removes the lists whose transport is closed; their watches end.
    pub(crate) fn drop_closed(&self) {
        self.lists().retain(|_, cached| !cached.store.transport.closed().is_cancelled());
    }

    /// Removes a list, whose watches end. The next read of it begins anew.
    fn forget(&self, store: &Arc<ListStore>) {
        self.lists().retain(|_, cached| !Arc::ptr_eq(&cached.store, store));
    }

    /// Removes the lists of objects of any kind of a cluster, except for the kinds that it serves; their watches end.
    pub(crate) fn retain_objects(&self, transport: &Arc<Transport>, is_served: impl Fn(Kind) -> bool) {
        self.lists().retain(|(_, list, kind), cached| {
            *list != List::Objects || !Arc::ptr_eq(&cached.store.transport, transport) || is_served(*kind)
        });
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<Key, CachedList>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Statistics of each cached list, over all clusters.
    pub(crate) fn stats(&self) -> Vec<ListCacheStats> {
        let mut stats = HashMap::new();
        for ((_, list, _), CachedList { store, .. }) in &*self.lists() {
            let entry = stats.entry(*list).or_insert_with(|| ListCacheStats::empty(list.info().key));
            entry.clusters += 1;
            entry.rows += store.table().len();
            entry.bytes += store.bytes();
            entry.stale += usize::from(store.freshness().0.stale);
            let (fills, failures) = store.counts();
            entry.fills += fills;
            entry.failures += failures;
        }
        let mut stats: Vec<_> = stats.into_values().collect();
        stats.sort_unstable_by_key(|entry| entry.list);
        stats
    }
}

/// Statistics of one cached list, over all clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListCacheStats {
    /// Key of the list's rows in a response, such as `pods`.
    pub list: &'static str,
    /// Number of clusters for which the list is cached.
    pub clusters: usize,
    /// Number of those clusters for which the list is stale.
    pub stale: usize,
    /// Number of rows.
    pub rows: usize,
    /// Memory, in bytes.
    pub bytes: usize,
    /// Number of complete reads of the lists that are cached now.
    pub fills: u64,
    /// Number of failed attempts to synchronise the lists that are cached now.
    pub failures: u64,
}

impl ListCacheStats {
    fn empty(list: &'static str) -> Self {
        Self { list, clusters: 0, stale: 0, rows: 0, bytes: 0, fills: 0, failures: 0 }
    }
}

/// Eviction task: removes idle lists, and lists of clusters that no longer exist. Also changes the levels of rows that
/// change with age.
async fn evict(cache: Weak<ListCache>, connections: Arc<dyn Connections>) {
    let mut ticks = interval(EVICT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_recheck = Instant::now();
    loop {
        ticks.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        let idle = cache.settings.idle;
        cache.lists().retain(|_, cached| cached.store.idle_for() <= idle);
        let stores: Vec<_> = cache.lists().values().map(|cached| cached.store.clone()).collect();
        for store in stores {
            store.age().await;
        }
        if last_recheck.elapsed() < RECHECK_INTERVAL {
            continue;
        }
        last_recheck = Instant::now();
        let clusters: Vec<_> = {
            let lists = cache.lists();
            let mut clusters: Vec<_> = lists.keys().map(|(cluster, ..)| *cluster).collect();
            clusters.sort_unstable();
            clusters.dedup();
            clusters
        };
        for cluster in clusters {
            // an error does not prove that the cluster was removed, so the list stays
            if let Ok(None) = connections.connection(cluster).await {
                cache.lists().retain(|(id, ..), _| *id != cluster);
            }
        }
    }
}

/// Memory budget of all cached lists.
pub(crate) struct CacheBudget {
    limit: usize,
    used: AtomicUsize,
}

impl CacheBudget {
    /// Replaces a list's previous usage by its current one, in bytes.
    fn adjust(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit
    }
}
