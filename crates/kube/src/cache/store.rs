//! A list of one cluster that is kept: its rows, how current they are, and who waits for them.

use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    inventory::{Change, ListEvent, ListInfo, ListQuery, Pagination, Row, Source, Table},
    kind::Kind,
};
use tokio::{
    sync::{Mutex, broadcast, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::CacheBudget;
use crate::{pending_writes::ReadBarrier, transport::Transport};

/// Batches of changes that wait for the slowest reader; who is further behind has missed some.
const WAITING: usize = 256;

/// The rows of a list, fed by a task for each of its kinds.
pub(super) struct Store {
    pub(super) info: &'static ListInfo,
    pub(super) kinds: Vec<Kind>,
    pub(super) transport: Arc<Transport>,
    table: RwLock<Table>,
    /// Who changes rows holds it, so that the table itself is locked for moments only.
    writing: Mutex<()>,
    standing: watch::Sender<Vec<SyncState>>,
    events: broadcast::Sender<ListEvent>,
    /// Changes when somebody asks and there is nothing to show yet.
    pub(super) asked: watch::Sender<()>,
    budget: Arc<CacheBudget>,
    /// What this store has taken of it.
    taken: AtomicUsize,
    /// How long rows are current after the last proof of it.
    fresh: Duration,
    /// When it was last read, in milliseconds since `began`.
    read: AtomicU64,
    began: Instant,
}

/// How a kind of a list stands.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncState {
    /// Whether all its rows have been read.
    pub(super) filled: bool,
    /// The newest version that they are of.
    pub(super) version: u64,
    /// When they were known to be current.
    pub(super) as_of: Timestamp,
    /// The same by the clock that only goes forward: when the server last said a whole event, a bookmark, or the end of
    /// a watch in its time. None before all rows have been read.
    pub(super) proof: Option<Instant>,
    /// All rows have to be read anew.
    pub(super) outdated: bool,
    /// Why it is not known whether they still are.
    pub(super) failure: Option<Error>,
    /// How many tries have failed.
    pub(super) failures: u64,
    /// How often all rows were read.
    pub(super) fills: u64,
    /// The cluster does not serve the kind.
    pub(super) absent: bool,
    /// Why it cannot be kept at all.
    pub(super) unkept: Option<Uncacheable>,
    /// The list is not kept any more, so what is not read yet never will be.
    ended: bool,
}

impl SyncState {
    fn is_stale(&self, now: Instant, fresh: Duration) -> bool {
        let proven = self.proof.is_some_and(|proof| now.saturating_duration_since(proof) <= fresh);
        self.failure.is_some() || self.outdated || !proven
    }
}

/// Why a kind cannot be kept.
#[derive(Clone, Debug)]
pub(super) enum Uncacheable {
    /// The credential may not watch it in all namespaces.
    Forbidden(Error),
    /// There are too many of it.
    TooLarge,
    /// The list is not kept any more: its memory is needed for others, or its cluster's connection was closed.
    Ended,
}

/// What a reader finds.
pub(super) enum Ready {
    /// The rows, as current as the standing says.
    Synced,
    /// They have to be read from the cluster.
    Uncacheable(Kind, Uncacheable),
}

/// How current a list is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Freshness {
    pub(super) as_of: Timestamp,
    pub(super) stale: bool,
}

impl Freshness {
    /// That of two lists shown as one.
    pub(super) fn and(self, other: Self) -> Self {
        Self { as_of: self.as_of.min(other.as_of), stale: self.stale || other.stale }
    }
}

impl Store {
    pub(super) fn new(
        info: &'static ListInfo,
        kinds: &[Kind],
        transport: Arc<Transport>,
        budget: Arc<CacheBudget>,
        fresh: Duration,
    ) -> Self {
        Self {
            info,
            kinds: kinds.to_vec(),
            transport,
            table: RwLock::new(Table::new(info)),
            writing: Mutex::new(()),
            standing: watch::Sender::new(vec![SyncState::default(); kinds.len()]),
            events: broadcast::Sender::new(WAITING),
            asked: watch::Sender::new(()),
            budget,
            taken: AtomicUsize::new(0),
            fresh,
            read: AtomicU64::new(0),
            began: Instant::now(),
        }
    }

    /// Waits until the rows can be shown, or somebody knows why not.
    ///
    /// # Errors
    /// Why the last try failed, when nothing was ever read; `DeadlineExceeded` when that takes too long.
    pub(super) async fn ready(&self, deadline: Instant) -> Result<Ready> {
        self.touch();
        if let Some(verdict) = verdict(&self.kinds, &self.standing.borrow(), None) {
            return verdict;
        }
        let mut standing = self.standing.subscribe();
        let before: Vec<_> = standing.borrow_and_update().iter().map(|of| of.failures).collect();
        loop {
            if let Some(verdict) = verdict(&self.kinds, &standing.borrow_and_update(), Some(&before)) {
                return verdict;
            }
            self.asked.send_replace(());
            match timeout_at(deadline, standing.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::new(Cause::ConnectionLost).read_only()),
                Err(_) => return Err(Error::new(Cause::DeadlineExceeded).read_only()),
            }
        }
    }

    /// Waits until the rows show a change that was made through this process; false when they do not in time.
    pub(super) async fn shows(&self, source: Source, expected: &ReadBarrier, deadline: Instant) -> bool {
        let mut standing = self.standing.subscribe();
        loop {
            let version = standing.borrow_and_update().get(usize::from(source)).map_or(0, |of| of.version);
            if expected.is_met(version, |namespace, name| !self.table().contains(namespace, name)) {
                return true;
            }
            if !matches!(timeout_at(deadline, standing.changed()).await, Ok(Ok(()))) {
                return false;
            }
        }
    }

    /// The page that a query wants.
    pub(super) async fn page(self: &Arc<Self>, query: &ListQuery) -> Result<(Vec<Row>, Pagination)> {
        loop {
            if let Some(page) = self.table().page(query) {
                return Ok(page);
            }
            // nothing changes between what is prepared and its keeping
            let _writing = self.writing.lock().await;
            let (store, query) = (self.clone(), query.clone());
            let preparing = tokio::task::spawn_blocking(move || store.table().build_index(&query)).await;
            let prepared = preparing.map_err(|_| Error::internal("building a sort index panicked"))?;
            self.table.write().unwrap_or_else(PoisonError::into_inner).keep(prepared);
            self.account();
        }
    }

    /// The rows, for a moment: nothing may be waited for meanwhile.
    pub(super) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows that match in their order, and what happens to the list from then on.
    pub(super) async fn watched(
        self: &Arc<Self>,
        query: &ListQuery,
    ) -> Result<(Vec<Row>, broadcast::Receiver<ListEvent>)> {
        let whole = ListQuery { page: 1, per_page: u64::MAX, ..query.clone() };
        self.page(&whole).await?;
        let table = self.table();
        let events = self.events.subscribe();
        let rows = table.page(&whole).map(|(rows, _)| rows).unwrap_or_default();
        Ok((rows, events))
    }

    /// How current the rows are, and which kinds the cluster does not serve.
    pub(super) fn freshness(&self) -> (Freshness, Vec<Kind>) {
        let standing = self.standing.borrow();
        let served = standing.iter().filter(|of| !of.absent);
        let as_of = served.clone().map(|of| of.as_of).min();
        let absent = standing.iter().zip(&self.kinds).filter(|(of, _)| of.absent).map(|(_, kind)| *kind);
        let as_of = as_of.or_else(|| standing.iter().map(|of| of.as_of).min()).unwrap_or_default();
        let now = Instant::now();
        (Freshness { as_of, stale: standing.iter().any(|of| of.is_stale(now, self.fresh)) }, absent.collect())
    }

    /// Whether a kind's rows have been read.
    pub(super) fn is_filled(&self, source: Source) -> bool {
        self.standing.borrow().get(usize::from(source)).is_some_and(|of| of.filled)
    }

    /// Whether a kind's rows are not known to be current.
    pub(super) fn is_stale(&self, source: Source) -> bool {
        let standing = self.standing.borrow();
        standing.get(usize::from(source)).is_none_or(|of| of.is_stale(Instant::now(), self.fresh))
    }

    /// Tells those who watch when a kind's rows become stale because time passes and nothing proves them; for ever.
    pub(super) async fn tell_when_stale(&self, source: Source) {
        let mut standing = self.standing.subscribe();
        let proof = |standing: &[SyncState]| standing.get(usize::from(source)).and_then(|of| of.proof);
        let mut told = None;
        loop {
            let unknown = |of: &Vec<SyncState>| proof(of).is_some_and(|proof| Some(proof) != told);
            // the sender lives as long as the store
            let Ok(since) = standing.wait_for(unknown).await.map(|known| proof(&known)) else { return };
            let Some(since) = since else { continue };
            sleep_until(since + self.fresh).await;
            if proof(&self.standing.borrow()) == Some(since) {
                told = Some(since);
                let Freshness { as_of, stale } = self.freshness().0;
                // nobody may listen; a kind that is no longer served is not stale
                let _ = self.events.send(ListEvent::Freshness { as_of, stale });
            }
        }
    }

    /// The list is not kept any more. Tells those who wait for rows.
    pub(super) fn end(&self) {
        self.standing.send_modify(|standing| {
            for of in standing {
                of.ended = true;
            }
        });
    }

    /// Changes how a kind stands, and tells those who wait.
    pub(super) fn update(&self, source: Source, change: impl FnOnce(&mut SyncState)) {
        let before = self.freshness().0;
        self.standing.send_modify(|standing| {
            if let Some(of) = standing.get_mut(usize::from(source)) {
                change(of);
            }
        });
        let after = self.freshness().0;
        if before.stale != after.stale {
            // nobody may listen
            let _ = self.events.send(ListEvent::Freshness { as_of: after.as_of, stale: after.stale });
        }
    }

    /// Puts objects in the place of what was known of them.
    pub(super) async fn apply(&self, source: Source, batch: Vec<Applied>) {
        if batch.is_empty() {
            return;
        }
        let _writing = self.writing.lock().await;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        for Applied { namespace, name, rows } in batch {
            changes.extend(table.apply(source, (namespace.as_deref(), &name), rows));
        }
        self.tell(changes);
        drop(table);
        self.account();
    }

    /// Puts these rows in the place of all that a kind had.
    pub(super) async fn refill(self: &Arc<Self>, source: Source, rows: Vec<Row>) -> Result<()> {
        let _writing = self.writing.lock().await;
        let store = self.clone();
        let filling = tokio::task::spawn_blocking(move || store.table().replace_all(source, rows)).await;
        let (filled, changes) = filling.map_err(|_| Error::internal("sorting a list panicked"))?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let emptied = std::mem::replace(&mut *table, filled);
        self.tell(changes);
        drop(table);
        drop(emptied);
        self.account();
        Ok(())
    }

    /// Gives back the memory of a kind's rows, which cannot be kept any more: who watches them has to read them anew.
    pub(super) async fn empty(self: &Arc<Self>, source: Source) -> Result<()> {
        let _writing = self.writing.lock().await;
        let store = self.clone();
        let emptying =
            tokio::task::spawn_blocking(move || store.table().replace_all(source, Vec::new())).await;
        let (left, _) = emptying.map_err(|_| Error::internal("emptying a list panicked"))?;
        let emptied = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *table, left)
        };
        // nobody may listen
        let _ = self.events.send(ListEvent::Lagged);
        drop(emptied);
        self.account();
        Ok(())
    }

    fn tell(&self, changes: Vec<Change>) {
        if !changes.is_empty() && self.events.receiver_count() > 0 {
            // the last reader may have gone meanwhile
            let _ = self.events.send(ListEvent::Changes(changes.into()));
        }
    }

    /// Takes what the rows need of the memory for all lists, and what is read for them besides.
    pub(super) fn account_for(&self, staged: usize) {
        let now = self.table().bytes() + staged;
        let before = self.taken.swap(now, Ordering::Relaxed);
        self.budget.moved(before, now);
    }

    fn account(&self) {
        self.account_for(0);
    }

    /// Its memory is not counted any more; how much it was.
    pub(super) fn release(&self) -> usize {
        self.taken.swap(0, Ordering::Relaxed)
    }

    /// Memory taken, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Notes that somebody reads.
    fn touch(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.read.store(millis, Ordering::Relaxed);
    }

    /// How long nobody has read it. Who watches reads all the time.
    pub(super) fn idle_for(&self) -> Duration {
        if self.events.receiver_count() > 0 {
            return Duration::ZERO;
        }
        self.began.elapsed().saturating_sub(Duration::from_millis(self.read.load(Ordering::Relaxed)))
    }

    /// How often its kinds were read whole, and how often a try failed.
    pub(super) fn history(&self) -> (u64, u64) {
        let standing = self.standing.borrow();
        standing.iter().fold((0, 0), |(fills, failures), of| (fills + of.fills, failures + of.failures))
    }
}

/// What a reader finds, as soon as that is known. Only failures since it came are its own: `before` is how many there
/// were.
fn verdict(kinds: &[Kind], standing: &[SyncState], before: Option<&[u64]>) -> Option<Result<Ready>> {
    if let Some((of, kind)) = standing.iter().zip(kinds).find(|(of, _)| of.unkept.is_some()) {
        return of.unkept.clone().map(|why| Ok(Ready::Uncacheable(*kind, why)));
    }
    let mut unread = (0..).zip(standing).filter(|(_, of)| !of.filled && !of.absent).peekable();
    if unread.peek().is_none() {
        return Some(Ok(Ready::Synced));
    }
    if let Some((source, _)) = unread.clone().find(|(_, of)| of.ended) {
        return Some(Ok(Ready::Uncacheable(kinds[source], Uncacheable::Ended)));
    }
    let (_, failed) =
        unread.find(|(source, of)| before.is_some_and(|before| of.failures > before[*source]))?;
    Some(Err(failed.failure.clone().unwrap_or_else(|| Error::new(Cause::Unreachable))))
}

impl Drop for Store {
    fn drop(&mut self) {
        self.budget.moved(self.release(), 0);
    }
}

/// An object that changed, as rows; none when it is gone.
pub(super) struct Applied {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) rows: Vec<Row>,
}
