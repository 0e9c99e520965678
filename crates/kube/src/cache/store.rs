//! Store of one cached list: its rows, their freshness, and the channels on which requests wait.

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pilothouse_core::{
    Cause, Error, Result,
    clock::Clock,
    inventory::{ListEvent, ListInfo},
    kind::Kind,
    rows::{Aging, Change, ListQuery, Pagination, Row, Source, Table},
};
use tokio::{
    sync::{Mutex, broadcast, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    CacheBudget,
    sync_state::{Freshness, Ready, SyncState, readiness},
};
use crate::{pending_writes::ReadBarrier, projection::Projection, transport::Transport};

/// Batches of changes buffered for the slowest watcher; a watcher further behind lags.
const EVENT_BUFFER: usize = 256;
/// Maximum number of rows whose level changes with age while the table is locked.
const MAX_AGED_ROWS: usize = 512;

/// The rows of a list, updated by one reflector per kind.
pub(super) struct ListStore {
    pub(super) info: &'static ListInfo,
    pub(super) kinds: Vec<Kind>,
    pub(super) transport: Arc<Transport>,
    table: RwLock<Table>,
    aging: Aging,
    clock: Arc<dyn Clock>,
    pub(super) projection: Projection,
    /// Held while rows are changed, so that the table itself is locked only briefly.
    write_lock: Mutex<()>,
    states: watch::Sender<Vec<SyncState>>,
    events: broadcast::Sender<ListEvent>,
    /// Changed by a request that waits for the first rows.
    pub(super) demand: watch::Sender<()>,
    budget: Arc<CacheBudget>,
    /// Bytes of the budget that this store uses.
    used: AtomicUsize,
    /// Time for which rows count as current after `SyncState::synced_at`.
    max_age: Duration,
    /// Time of the last read of the list, in milliseconds since `created`.
    last_read_ms: AtomicU64,
    created: Instant,
}

impl ListStore {
    pub(super) fn new(
        info: &'static ListInfo,
        kinds: &[Kind],
        transport: Arc<Transport>,
        budget: Arc<CacheBudget>,
        max_age: Duration,
        clock: Arc<dyn Clock>,
        projection: Projection,
    ) -> Self {
        let fields = (info.fields)();
        Self {
            info,
            kinds: kinds.to_vec(),
            transport,
            table: RwLock::new(Table::new(&fields)),
            aging: Aging::of(&fields),
            clock,
            projection,
            write_lock: Mutex::new(()),
            states: watch::Sender::new(vec![SyncState::default(); kinds.len()]),
            events: broadcast::Sender::new(EVENT_BUFFER),
            demand: watch::Sender::new(()),
            budget,
            used: AtomicUsize::new(0),
            max_age,
            last_read_ms: AtomicU64::new(0),
            created: Instant::now(),
        }
    }

    /// Waits until all rows have been read, or the list cannot be cached.
    ///
    /// # Errors
    /// The error of an attempt that failed meanwhile, if no rows were ever read; `DeadlineExceeded` at the deadline.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<Ready> {
        self.record_read();
        if let Some(readiness) = readiness(&self.kinds, &self.states.borrow(), None) {
            return readiness;
        }
        let mut states = self.states.subscribe();
        let before: Vec<_> = states.borrow_and_update().iter().map(|state| state.failures).collect();
        loop {
            if let Some(readiness) = readiness(&self.kinds, &states.borrow_and_update(), Some(&before)) {
                return readiness;
            }
            self.demand.send_replace(());
            match timeout_at(deadline, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::new(Cause::ConnectionLost).read_only()),
                Err(_) => return Err(Error::new(Cause::DeadlineExceeded).read_only()),
            }
        }
    }

    /// Waits until the rows contain a write of this process; false at the deadline.
    pub(super) async fn wait_for_write(
        &self,
        source: Source,
        barrier: &ReadBarrier,
        deadline: Instant,
    ) -> bool {
        let mut states = self.states.subscribe();
        loop {
            let version =
                states.borrow_and_update().get(usize::from(source)).map_or(0, |state| state.version);
            let is_absent = |namespace: Option<&str>, name: &str| {
                !self.table().contains(self.row_namespace(source, namespace, name), name)
            };
            if barrier.is_met(version, is_absent) {
                return true;
            }
            if !matches!(timeout_at(deadline, states.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// The page for a query; builds a missing sort index on a blocking thread.
    pub(super) async fn page(self: &Arc<Self>, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        loop {
            if let Some(page) = self.table().page(query) {
                return Ok(page);
            }
            // rows must not change between building the index and storing it
            let _write_guard = self.write_lock.lock().await;
            let (store, query) = (self.clone(), query.clone());
            let building = tokio::task::spawn_blocking(move || store.table().build_index(&query)).await;
            let index = building.map_err(|_| Error::internal("building a sort index panicked"))?;
            self.table.write().unwrap_or_else(PoisonError::into_inner).add_indexes(index);
            self.update_usage();
        }
    }

    /// The rows under a read lock; must not be held across an await.
    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All rows that match a query, in order, and the events from then on.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        query: &ListQuery,
    ) -> Result<(Vec<Row>, broadcast::Receiver<ListEvent>)> {
        let unpaged = ListQuery { page: 1, per_page: u64::MAX, ..query.clone() };
        loop {
            self.page(&unpaged).await?;
            let table = self.table();
            let events = self.events.subscribe();
            // another query may have evicted the index meanwhile
            if let Some((rows, _)) = table.page(&unpaged) {
                return Ok((rows, events));
            }
        }
    }

    /// The events of all rows from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<ListEvent> {
        self.events.subscribe()
    }

    /// Freshness of the rows, and the kinds that the cluster does not serve.
    pub(super) fn freshness(&self) -> (Freshness, Vec<Kind>) {
        let states = self.states.borrow();
        let served = states.iter().filter(|state| !state.absent);
        let as_of = served.clone().map(|state| state.as_of).min();
        let absent = states.iter().zip(&self.kinds).filter(|(state, _)| state.absent).map(|(_, kind)| *kind);
        let as_of = as_of.or_else(|| states.iter().map(|state| state.as_of).min()).unwrap_or_default();
        let now = Instant::now();
        (
            Freshness { as_of, stale: states.iter().any(|state| state.is_stale(now, self.max_age)) },
            absent.collect(),
        )
    }

    /// Whether a kind's rows have been read.
    pub(super) fn is_filled(&self, source: Source) -> bool {
        self.states.borrow().get(usize::from(source)).is_some_and(|state| state.filled)
    }

    /// Whether a kind's rows may be outdated.
    pub(super) fn is_stale(&self, source: Source) -> bool {
        let states = self.states.borrow();
        states.get(usize::from(source)).is_none_or(|state| state.is_stale(Instant::now(), self.max_age))
    }

    /// Sends a freshness event to watchers when a kind's rows become stale because nothing confirmed them in time. Runs
    /// until the store is dropped.
    pub(super) async fn notify_when_stale(&self, source: Source) {
        let mut states = self.states.subscribe();
        let synced_at =
            |states: &[SyncState]| states.get(usize::from(source)).and_then(|state| state.synced_at);
        let mut notified = None;
        loop {
            let is_new = |states: &Vec<SyncState>| {
                synced_at(states).is_some_and(|synced_at| Some(synced_at) != notified)
            };
            // never an error: the store holds the sender
            let Ok(synced) = states.wait_for(is_new).await.map(|states| synced_at(&states)) else { return };
            let Some(synced) = synced else { continue };
            sleep_until(synced + self.max_age).await;
            if synced_at(&self.states.borrow()) == Some(synced) {
                notified = Some(synced);
                let Freshness { as_of, stale } = self.freshness().0;
                // there may be no watcher; a kind that is no longer served is not stale
                let _ = self.events.send(ListEvent::Freshness { as_of, stale });
            }
        }
    }

    /// Marks the list as removed from the cache, and wakes the requests that wait for rows.
    pub(super) fn mark_removed(&self) {
        self.states.send_modify(|states| {
            for state in states {
                state.removed = true;
            }
        });
    }

    /// Changes a kind's state, wakes waiting requests, and sends an event when the freshness changes.
    pub(super) fn update(&self, source: Source, change: impl FnOnce(&mut SyncState)) {
        let before = self.freshness().0;
        self.states.send_modify(|states| {
            if let Some(state) = states.get_mut(usize::from(source)) {
                change(state);
            }
        });
        let after = self.freshness().0;
        if before.stale != after.stale {
            // there may be no watcher
            let _ = self.events.send(ListEvent::Freshness { as_of: after.as_of, stale: after.stale });
        }
    }

    /// Applies changed objects and sends the changes to watchers.
    pub(super) async fn apply(&self, source: Source, batch: Vec<ObjectRows>) {
        if batch.is_empty() {
            return;
        }
        let _write_guard = self.write_lock.lock().await;
        let now = self.clock.now();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        for ObjectRows { namespace, name, rows } in batch {
            let namespace = self.row_namespace(source, namespace.as_deref(), &name);
            let rows = rows.into_iter().map(|row| self.aging.advance(row, now)).collect();
            changes.extend(table.apply(source, (namespace, &name), rows));
        }
        self.publish(changes);
        drop(table);
        self.update_usage();
    }

    /// Changes the levels of rows whose time has come, and sends the changes to watchers.
    pub(super) async fn age(&self) {
        let now = self.clock.now();
        let is_due = || self.table().level_changes_at().is_some_and(|at| at <= now);
        while is_due() {
            let _write_guard = self.write_lock.lock().await;
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let changes = table.age(now, MAX_AGED_ROWS);
            self.publish(changes);
            drop(table);
            self.update_usage();
        }
    }

    /// The namespace of the rows of an object: that of the object; a `Namespace` belongs to itself.
    fn row_namespace<'a>(
        &self,
        source: Source,
        namespace: Option<&'a str>,
        name: &'a str,
    ) -> Option<&'a str> {
        if self.kinds.get(usize::from(source)) == Some(&Kind::Namespace) { Some(name) } else { namespace }
    }

    /// Replaces all rows of a kind and sends the changes to watchers.
    pub(super) async fn replace_rows(self: &Arc<Self>, source: Source, rows: Vec<Row>) -> Result<()> {
        let _write_guard = self.write_lock.lock().await;
        let store = self.clone();
        let now = self.clock.now();
        let fill = move || {
            let rows = rows.into_iter().map(|row| store.aging.advance(row, now)).collect();
            store.table().replace_all(source, rows)
        };
        let filling = tokio::task::spawn_blocking(fill).await;
        let (filled, changes) = filling.map_err(|_| Error::internal("sorting a list panicked"))?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let replaced = std::mem::replace(&mut *table, filled);
        self.publish(changes);
        drop(table);
        drop(replaced);
        self.update_usage();
        Ok(())
    }

    /// Removes the rows of a kind that cannot be cached any more; its watchers have to read the list again.
    pub(super) async fn clear_rows(self: &Arc<Self>, source: Source) -> Result<()> {
        let _write_guard = self.write_lock.lock().await;
        let store = self.clone();
        let emptying =
            tokio::task::spawn_blocking(move || store.table().replace_all(source, Vec::new())).await;
        let (remaining, _) = emptying.map_err(|_| Error::internal("emptying a list panicked"))?;
        let replaced = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *table, remaining)
        };
        // there may be no watcher
        let _ = self.events.send(ListEvent::Lagged);
        drop(replaced);
        self.update_usage();
        Ok(())
    }

    fn publish(&self, changes: Vec<Change>) {
        if !changes.is_empty() && self.events.receiver_count() > 0 {
            // fails if the last watcher was dropped meanwhile
            let _ = self.events.send(ListEvent::Changes(changes.into()));
        }
    }

    /// Updates the usage of the shared budget: the rows, and `staged` bytes of rows that are still being read.
    pub(super) fn set_staged_bytes(&self, staged: usize) {
        let now = self.table().bytes() + staged;
        let before = self.used.swap(now, Ordering::Relaxed);
        self.budget.adjust(before, now);
    }

    fn update_usage(&self) {
        self.set_staged_bytes(0);
    }

    /// Removes the store from the shared budget; returns its previous usage in bytes.
    pub(super) fn release(&self) -> usize {
        self.used.swap(0, Ordering::Relaxed)
    }

    /// Memory used, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn record_read(&self) {
        let millis = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_read_ms.store(millis, Ordering::Relaxed);
    }

    /// Time since the last read; zero while a watch is open.
    pub(super) fn idle_for(&self) -> Duration {
        if self.events.receiver_count() > 0 {
            return Duration::ZERO;
        }
        self.created
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed)))
    }

    /// Numbers of complete reads and of failed attempts, over all kinds.
    pub(super) fn counts(&self) -> (u64, u64) {
        let states = self.states.borrow();
        states
            .iter()
            .fold((0, 0), |(fills, failures), state| (fills + state.fills, failures + state.failures))
    }
}

impl Drop for ListStore {
    fn drop(&mut self) {
        self.budget.adjust(self.release(), 0);
    }
}

/// A changed object as rows; no rows if it was deleted.
pub(super) struct ObjectRows {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) rows: Vec<Row>,
}
