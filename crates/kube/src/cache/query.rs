//! Queries of the list cache: pages, counts and watches.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    inventory::{
        Counts, Join, List, ListEvent, ListInfo, ListOwner, Listing, ObjectKey, WatchSnapshot,
        objects::ObjectListing,
    },
    kind::Kind,
    name::ObjectName,
    namespaces::NamespaceScope,
    rows::{Change, ListQuery, Pagination, Row, Source, Table, select},
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};

use super::{
    ListCache,
    store::ListStore,
    sync_state::{Freshness, Ready, Uncacheable},
};
use crate::{transport::Transport, uncached};

/// Maximum wait of a query for a write of this process to reach the cache. Then the list is read from the cluster.
const READ_YOUR_WRITES_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of a query of the list cache.
pub(crate) enum CacheResult<T> {
    /// The response, from the cache.
    Hit(T),
    /// The list has to be read from the cluster. Carries a warning for the response, and the rows to show, as stale, if
    /// the cluster cannot be read.
    Miss(Option<Warning>, Option<T>),
}

/// The stores from which a list is built.
struct CachedStores {
    store: Arc<ListStore>,
    joined: Option<JoinedStore>,
}

/// The list with which a list is joined.
struct JoinedStore {
    join: Join,
    /// The store, and the namespaces in which the caller may list its kind. `None` when the caller or the credential may
    /// not read it.
    rows: Option<(Arc<ListStore>, NamespaceScope)>,
    /// Whether the caller may list all that the join reads.
    complete: bool,
}

/// Whether the cache has the rows for a query.
enum Availability {
    /// The rows contain all writes of this process.
    Current(CachedStores),
    /// A write of this process is not in the rows yet.
    Behind(CachedStores),
    /// The list is not cached.
    Uncacheable(Warning),
}

impl ListCache {
    /// A page of a list.
    ///
    /// # Errors
    /// As `Inventory::page`.
    pub(crate) async fn page(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
        query: &ListQuery,
    ) -> Result<CacheResult<Listing>> {
        let info = list.info();
        match self.availability(permit, transport, info, &query.kinds).await? {
            Availability::Current(stores) => {
                self.check_owner(permit, transport, info, query).await?;
                Ok(CacheResult::Hit(stores.page(query).await?))
            }
            Availability::Behind(stores) => Ok(CacheResult::Miss(None, Some(stores.page(query).await?))),
            Availability::Uncacheable(warning) => Ok(CacheResult::Miss(Some(warning), None)),
        }
    }

    /// A page of objects of the kind in the query, with its columns.
    ///
    /// # Errors
    /// As `Inventory::page`.
    pub(crate) async fn objects(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        query: &ListQuery,
    ) -> Result<CacheResult<ObjectListing>> {
        let info = List::Objects.info();
        match self.availability(permit, transport, info, &query.kinds).await? {
            Availability::Current(stores) => Ok(CacheResult::Hit(stores.objects(query).await?)),
            Availability::Behind(stores) => Ok(CacheResult::Miss(None, Some(stores.objects(query).await?))),
            Availability::Uncacheable(warning) => Ok(CacheResult::Miss(Some(warning), None)),
        }
    }

    /// Counts of a list's rows by status.
    ///
    /// # Errors
    /// As `Inventory::count`.
    pub(crate) async fn count(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
    ) -> Result<CacheResult<Counts>> {
        let info = list.info();
        let store = self.store(permit, info, info.kinds, transport)?;
        Ok(match store.ready(Instant::now() + self.deadline).await? {
            Ready::Uncacheable(kind, _) => {
                CacheResult::Miss(Some(Warning::NotCached(kind.info().plural)), None)
            }
            Ready::Synced => {
                let Freshness { as_of, stale } = store.freshness().0;
                CacheResult::Hit(Counts::of(&store.table(), permit.namespaces(), as_of, stale))
            }
        })
    }

    /// All rows of a list, for what is computed from them; `None` if the list cannot be cached. The rows themselves must
    /// not be returned to a reader without a check of the reader's permit.
    ///
    /// # Errors
    /// As `Inventory::page`.
    pub(crate) async fn all_rows(
        &self,
        permit: &Permit,
        list: List,
        transport: &Arc<Transport>,
    ) -> Result<Option<Vec<Row>>> {
        let info = list.info();
        let store = self.store(permit, info, info.kinds, transport)?;
        Ok(match store.ready(Instant::now() + self.deadline).await? {
            Ready::Synced => Some(store.table().rows().cloned().collect()),
            Ready::Uncacheable(..) => None,
        })
    }

    /// The rows of these objects, of the permit's namespaces.
    ///
    /// # Errors
    /// As `Inventory::find`.
    pub(crate) async fn find(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
        objects: &[ObjectKey],
    ) -> Result<CacheResult<Vec<Row>>> {
        let info = list.info();
        let store = self.store(permit, info, info.kinds, transport)?;
        if let Ready::Uncacheable(..) = store.ready(Instant::now() + self.deadline).await? {
            return Ok(CacheResult::Miss(None, None));
        }
        let table = store.table();
        let permitted = objects.iter().filter(|(namespace, _)| permit.namespaces().contains(Some(namespace)));
        let rows = permitted.flat_map(|(namespace, name)| table.rows_named(Some(namespace), name));
        Ok(CacheResult::Hit(rows.cloned().collect()))
    }

    /// The rows of a list and the events from then on, of the permit's namespaces.
    ///
    /// # Errors
    /// As `Inventory::watch`.
    pub(crate) async fn watch(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
        query: &ListQuery,
    ) -> Result<WatchSnapshot> {
        let store = self.watchable(permit, transport, list, query).await?;
        let (rows, events) = store.subscribe(query).await?;
        let (Freshness { as_of, stale }, absent) = store.freshness();
        // printed when they are taken: until then, a row shares the memory of the cache
        let printing = store.projection.clone();
        let rows = Box::new(rows.into_iter().map(move |row| printing.shown_row(row)));
        let projection = store.projection.clone();
        let events = permitted_events(events, permit.namespaces().clone());
        let events = events.map(move |event| projection.shown_event(event)).boxed();
        Ok(WatchSnapshot { rows, as_of, stale, warnings: not_served(absent), events })
    }

    /// The events of a list from now on, of the permit's namespaces.
    ///
    /// # Errors
    /// As `Inventory::watch`.
    pub(crate) async fn changes(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
        query: &ListQuery,
    ) -> Result<BoxStream<'static, ListEvent>> {
        let store = self.watchable(permit, transport, list, query).await?;
        Ok(permitted_events(store.events(), permit.namespaces().clone()))
    }

    /// The store of a list that can be watched.
    async fn watchable(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        list: List,
        query: &ListQuery,
    ) -> Result<Arc<ListStore>> {
        let store = self.store(permit, list.info(), &query.kinds, transport)?;
        match store.ready(Instant::now() + self.deadline).await? {
            Ready::Synced => Ok(store),
            Ready::Uncacheable(_, reason) => Err(match reason {
                Uncacheable::Forbidden(error) => error,
                Uncacheable::Ended if transport.closed().is_cancelled() => Error::new(Cause::Unreachable),
                Uncacheable::TooLarge | Uncacheable::Ended => Error::new(Cause::NotCached),
            }),
        }
    }

    /// Waits until a list and its joined list are cached and contain all writes of this process.
    async fn availability(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        info: &'static ListInfo,
        kinds: &[Kind],
    ) -> Result<Availability> {
        let deadline = Instant::now() + self.deadline;
        let store = self.store(permit, info, kinds, transport)?;
        if let Ready::Uncacheable(kind, _) = store.ready(deadline).await? {
            return Ok(Availability::Uncacheable(Warning::NotCached(kind.info().plural)));
        }
        let mut stores = CachedStores { store, joined: None };
        if let Some(join) = info.join {
            let mut joined = JoinedStore { join, rows: None, complete: permit.is_complete_for(join.kind()) };
            if let Some(namespaces) = permit.namespaces_of(join.kind())? {
                let with = join.with.info();
                let store = self.store(permit, with, with.kinds, transport)?;
                match store.ready(deadline).await? {
                    Ready::Synced => joined.rows = Some((store, namespaces.clone())),
                    Ready::Uncacheable(_, Uncacheable::Forbidden(_)) => {}
                    Ready::Uncacheable(kind, Uncacheable::TooLarge | Uncacheable::Ended) => {
                        return Ok(Availability::Uncacheable(Warning::NotCached(kind.info().plural)));
                    }
                }
            }
            stores.joined = Some(joined);
        }
        let write_deadline = deadline.min(Instant::now() + READ_YOUR_WRITES_TIMEOUT);
        let mut current = true;
        for store in stores.all() {
            current = current && up_to_date(store, transport, write_deadline).await;
        }
        Ok(if current { Availability::Current(stores) } else { Availability::Behind(stores) })
    }

    /// Checks that the owner by which a query filters exists.
    async fn check_owner(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        info: &ListInfo,
        query: &ListQuery,
    ) -> Result<()> {
        let Some((ListOwner { kind, list, .. }, name)) = info.owner.zip(query.owner.as_ref()) else {
            return Ok(());
        };
        let owners = self.store(permit, list.info(), &[kind], transport)?;
        let deadline = Instant::now() + self.deadline;
        // owners that cannot be cached cannot be checked: then the response is an empty list
        let verifiable = matches!(owners.ready(deadline).await?, Ready::Synced);
        let verifiable = verifiable
            && up_to_date(&owners, transport, deadline.min(Instant::now() + READ_YOUR_WRITES_TIMEOUT)).await;
        if verifiable && !exists(&owners.table(), &query.namespaces, name) {
            return Err(uncached::owner_not_found(kind, &query.namespaces, name));
        }
        Ok(())
    }
}

/// Waits until a store contains the writes of this process.
async fn up_to_date(store: &ListStore, transport: &Transport, write_deadline: Instant) -> bool {
    for (source, kind) in (0..).zip(&store.kinds) {
        if let Some(barrier) = transport.pending_writes().barrier(*kind) {
            if !store.wait_for_write(source as Source, &barrier, write_deadline).await {
                return false;
            }
            transport.pending_writes().confirm(*kind, &barrier);
        }
    }
    true
}

fn exists(owners: &Table, scope: &NamespaceScope, name: &ObjectName) -> bool {
    match scope.one() {
        Some(namespace) => owners.contains(Some(namespace.as_str()), name.as_str()),
        None => owners.rows().any(|row| row.name() == name.as_str() && scope.contains(row.namespace())),
    }
}

impl CachedStores {
    fn all(&self) -> impl Iterator<Item = &Arc<ListStore>> {
        let joined = self.joined.iter().filter_map(|joined| joined.rows.as_ref());
        [&self.store].into_iter().chain(joined.map(|(store, _)| store))
    }

    async fn page(&self, query: &ListQuery) -> Result<Listing> {
        // freshness is read before the rows, so the rows may be newer than it but not older
        let (mut freshness, absent) = self.store.freshness();
        let mut warnings = not_served(absent);
        if let Some(joined) = &self.joined
            && (joined.rows.is_none() || !joined.complete)
        {
            warnings.push(uncached::unreadable(joined.join));
        }
        let (rows, pagination) = match &self.joined {
            Some(JoinedStore { join, rows: Some((joined, namespaces)), .. }) => {
                freshness = freshness.join(joined.freshness().0);
                self.joined_page(query, *join, joined, namespaces).await?
            }
            Some(JoinedStore { rows: None, .. }) | None => self.store.page(query).await?,
        };
        let rows = self.store.projection.shown(rows)?;
        let Freshness { as_of, stale } = freshness;
        Ok(Listing { rows, pagination, as_of, stale, warnings })
    }

    async fn objects(&self, query: &ListQuery) -> Result<ObjectListing> {
        Ok(ObjectListing { listing: self.page(query).await?, columns: self.store.projection.columns() })
    }

    /// A page with the fields of the joined list, of its rows in these namespaces. Sorting by such a field joins all rows
    /// first.
    async fn joined_page(
        &self,
        query: &ListQuery,
        join: Join,
        joined: &ListStore,
        namespaces: &NamespaceScope,
    ) -> Result<(Vec<Row>, Pagination)> {
        let fields = (self.store.info.fields)();
        if query.sort.is_some_and(|sort| fields[sort.field].name == join.field) {
            let joined = joined.table();
            let table = self.store.table();
            let rows = table.rows().map(|row| (join.row)(row, &joined, namespaces)).collect::<Result<_>>()?;
            return Ok(select(rows, query));
        }
        let (rows, pagination) = self.store.page(query).await?;
        let joined = joined.table();
        let rows = rows.iter().map(|row| (join.row)(row, &joined, namespaces)).collect::<Result<_>>()?;
        Ok((rows, pagination))
    }
}

fn not_served(absent: Vec<Kind>) -> Vec<Warning> {
    absent.into_iter().map(|kind| Warning::NotServed(kind.info().plural)).collect()
}

/// The next event and the receiver for the following ones; none after the last event.
async fn next_event(events: Option<Receiver<ListEvent>>) -> Option<(ListEvent, Option<Receiver<ListEvent>>)> {
    let mut events = events?;
    Some(match events.recv().await {
        Ok(event) => (event, Some(events)),
        Err(RecvError::Lagged(_)) => (ListEvent::Lagged, None),
        Err(RecvError::Closed) => (ListEvent::ConnectionChanged, None),
    })
}

/// The events that a reader of these namespaces may see.
fn permitted_events(events: Receiver<ListEvent>, scope: NamespaceScope) -> BoxStream<'static, ListEvent> {
    let events = stream::unfold(Some(events), next_event);
    events.filter_map(move |event| ready(permitted_event(event, &scope))).boxed()
}

/// The part of an event that a reader of these namespaces may see; `None` if it may see no part.
fn permitted_event(event: ListEvent, scope: &NamespaceScope) -> Option<ListEvent> {
    let changes = match event {
        ListEvent::Changes(changes) if *scope != NamespaceScope::All => changes,
        event => return Some(event),
    };
    let is_permitted = |change: &&Change| scope.contains(change.row().namespace());
    let permitted = changes.iter().filter(is_permitted).count();
    if permitted == changes.len() {
        Some(ListEvent::Changes(changes))
    } else if permitted > 0 {
        Some(ListEvent::Changes(changes.iter().filter(is_permitted).cloned().collect()))
    } else {
        None
    }
}
