//! Lists that are kept: read once when somebody first asks, brought up to date by watches, shown from memory. What a page
//! is, and what may be shown to whom, is not decided here but by the core's [`Table`] and each reader's permit.
//!
//! A list is kept from its first reader until nobody has read it for a while, its cluster's connection has changed, or its
//! memory is needed for others. Its feeds (`cache/feed.rs`) fill its store (`cache/store.rs`), which answers.
//!
//! [`Table`]: pilothouse_core::inventory::Table

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
    cluster::{ClusterId, Connections},
    inventory::{List, ListInfo, Source},
    kind::Kind,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

mod query;
mod reflector;
mod store;
mod watch_event;
mod watch_reader;

pub(crate) use self::query::CacheResult;
use self::{reflector::Reflector, store::Store};
use crate::{observe::Observer, transport::Transport, uncached};

/// Which lists are kept, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct CacheSettings {
    /// How long a list is kept that nobody reads.
    pub idle: Duration,
    /// The memory that all kept lists may take, in bytes. Of those that are there, the ones read longest ago go first. A
    /// list that needs more than half of it is not kept, nor is one with which its cluster's need more than three
    /// quarters.
    pub memory: usize,
    /// How many large answers are parsed at once, at most as many as there are processors; half of them for one cluster.
    pub fills: usize,
    /// How long a watch is asked to last. Rows are current for a quarter longer after the last whole event.
    pub watch: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { idle: Duration::from_secs(600), memory: 1 << 30, fills: 4, watch: Duration::from_secs(20) }
    }
}

impl CacheSettings {
    /// How long rows are current after the last whole event: a watch ends sooner, and its end is one.
    fn fresh(&self) -> Duration {
        self.watch + self.watch / 4
    }
}

/// How often it is looked for lists that nobody needs.
const EVICT_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is asked whether a list's cluster still has the connection that it is read by.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A list of a cluster; of the kinds that are merged in it, or of one that only `type` brings in.
type Key = (ClusterId, List, Kind);

/// Every list that is kept.
pub(crate) struct ListCache {
    settings: CacheSettings,
    lists: Mutex<HashMap<Key, CachedList>>,
    budget: Arc<CacheBudget>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    /// How long an answer may take to begin.
    deadline: Duration,
    /// Where feeds live.
    runtime: Handle,
    itself: Weak<Self>,
}

/// A list that is kept; dropped, its feeds end, and whoever waits for its rows is told.
struct CachedList {
    store: Arc<Store>,
    _feeds: JoinSet<()>,
}

impl Drop for CachedList {
    fn drop(&mut self) {
        self.store.end();
    }
}

impl ListCache {
    /// Keeps nothing yet.
    pub(crate) fn new(
        settings: CacheSettings,
        connections: Arc<dyn Connections>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn Observer>,
        deadline: Duration,
    ) -> Arc<Self> {
        let cache = Arc::new_cyclic(|itself| Self {
            settings,
            lists: Mutex::default(),
            budget: Arc::new(CacheBudget { most: settings.memory, taken: AtomicUsize::new(0) }),
            clock,
            observer,
            deadline,
            runtime: Handle::current(),
            itself: itself.clone(),
        });
        cache.runtime.spawn(evict(Arc::downgrade(&cache), connections));
        cache
    }

    /// The store of a list under a permit to list it, begun if need be.
    ///
    /// # Errors
    /// `Internal` when the permit is for something else.
    fn store(
        &self,
        permit: &Permit,
        info: &'static ListInfo,
        kinds: &[Kind],
        transport: &Arc<Transport>,
    ) -> Result<Arc<Store>> {
        let kinds = if kinds.iter().all(|kind| info.kinds.contains(kind)) { info.kinds } else { kinds };
        let first = *kinds.first().ok_or_else(|| Error::internal("a list without a kind"))?;
        let key = (permit.cluster()?, info.list, first);
        let permits = kinds.iter().map(|kind| permit.for_cache(*kind)).collect::<Result<Vec<_>>>()?;
        let project = uncached::projection(info)?;
        let mut lists = self.lists();
        if transport.closed().is_cancelled() {
            return Err(Error::new(Cause::Unreachable));
        }
        if let Some(CachedList { store, .. }) = lists.get(&key)
            && Arc::ptr_eq(&store.transport, transport)
        {
            return Ok(store.clone());
        }
        let store =
            Arc::new(Store::new(info, kinds, transport.clone(), self.budget.clone(), self.settings.fresh()));
        let mut feeds = JoinSet::new();
        for (source, (kind, permit)) in (0..).zip(kinds.iter().zip(permits)) {
            let feed = Reflector {
                store: store.clone(),
                source: source as Source,
                kind: *kind,
                project,
                permit,
                clock: self.clock.clone(),
                observer: self.observer.clone(),
                lasts: self.settings.watch,
                cache: self.itself.clone(),
                deadline: self.deadline,
            };
            feeds.spawn_on(feed.run(), &self.runtime);
        }
        lists.insert(key, CachedList { store: store.clone(), _feeds: feeds });
        Ok(store)
    }

    /// Lets go of other lists, those read longest ago first, until all have room; but of none for a list of `size` bytes
    /// that is more than its share, nor when they should stay.
    ///
    /// # Errors
    /// `NotCached` when there is no room.
    fn make_room(&self, needed: &Arc<Store>, size: usize, others_stay: bool) -> Result<()> {
        let most = self.settings.memory;
        if size > most / 2 || size + self.others_of_cluster(needed) > most / 4 * 3 {
            return Err(Error::new(Cause::NotCached));
        }
        while self.budget.is_over() {
            if others_stay {
                return Err(Error::new(Cause::NotCached));
            }
            let mut lists = self.lists();
            let others = lists.iter().filter(|(_, running)| !Arc::ptr_eq(&running.store, needed));
            let longest = others.max_by_key(|(_, running)| running.store.idle_for()).map(|(key, _)| *key);
            let gone = longest.and_then(|key| lists.remove(&key));
            drop(lists);
            match gone {
                // its memory is free once its last reader has gone
                Some(gone) => self.budget.moved(gone.store.release(), 0),
                None => return Err(Error::new(Cause::NotCached)),
            }
        }
        Ok(())
    }

    /// The memory of the other lists that are kept of a list's cluster.
    fn others_of_cluster(&self, one: &Arc<Store>) -> usize {
        let lists = self.lists();
        let stores = lists.values().map(|running| &running.store);
        let others =
            stores.filter(|store| Arc::ptr_eq(&store.transport, &one.transport) && !Arc::ptr_eq(store, one));
        others.map(|store| store.bytes()).sum()
    }

    /// Whether a list has grown so that room should be made, as far as can be told at a glance.
    fn is_tight(&self, store: &Store) -> bool {
        self.budget.is_over() || store.bytes() > self.settings.memory / 2
    }

    /// Drops the lists that are read over a closed stack; their watches end.
    pub(crate) fn drop_closed(&self) {
        self.lists().retain(|_, running| !running.store.transport.closed().is_cancelled());
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<Key, CachedList>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is of each list, over all clusters.
    pub(crate) fn stats(&self) -> Vec<ListCacheStats> {
        let mut figures = HashMap::new();
        for ((_, list, _), CachedList { store, .. }) in &*self.lists() {
            let of = figures.entry(*list).or_insert_with(|| ListCacheStats::none(list.info().key));
            of.clusters += 1;
            of.rows += store.table().len();
            of.bytes += store.bytes();
            of.stale += usize::from(store.freshness().0.stale);
            let (fills, failures) = store.history();
            of.fills += fills;
            of.failures += failures;
        }
        let mut figures: Vec<_> = figures.into_values().collect();
        figures.sort_unstable_by_key(|of| of.list);
        figures
    }
}

/// What is kept of one list, over all clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListCacheStats {
    /// The key of its rows in a reply: `pods`.
    pub list: &'static str,
    /// How many clusters it is kept of.
    pub clusters: usize,
    /// Of how many of them it is not known to be current.
    pub stale: usize,
    /// Rows.
    pub rows: usize,
    /// Memory, in bytes.
    pub bytes: usize,
    /// How often those that are kept now were read whole.
    pub fills: u64,
    /// How often one of them could not be brought up to date.
    pub failures: u64,
}

impl ListCacheStats {
    fn none(list: &'static str) -> Self {
        Self { list, clusters: 0, stale: 0, rows: 0, bytes: 0, fills: 0, failures: 0 }
    }
}

/// Lets go of what nobody has read for a while, and of what was read by a connection that is no longer the cluster's.
async fn evict(cache: Weak<ListCache>, connections: Arc<dyn Connections>) {
    let mut ticks = interval(EVICT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirmed = Instant::now();
    loop {
        ticks.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        let idle = cache.settings.idle;
        cache.lists().retain(|_, running| running.store.idle_for() <= idle);
        if confirmed.elapsed() < RECHECK_INTERVAL {
            continue;
        }
        confirmed = Instant::now();
        let clusters: Vec<_> = {
            let lists = cache.lists();
            let mut clusters: Vec<_> = lists.keys().map(|(cluster, ..)| *cluster).collect();
            clusters.sort_unstable();
            clusters.dedup();
            clusters
        };
        for cluster in clusters {
            // without a database nothing is known, so nothing is done
            if let Ok(None) = connections.connection(cluster).await {
                cache.lists().retain(|(of, ..), _| *of != cluster);
            }
        }
    }
}

/// The memory for all kept lists.
pub(crate) struct CacheBudget {
    most: usize,
    taken: AtomicUsize,
}

impl CacheBudget {
    /// What a list takes was so much and is so much.
    fn moved(&self, before: usize, now: usize) {
        if now >= before {
            self.taken.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.taken.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.most
    }
}
