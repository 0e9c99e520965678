//! Pages, counts and changes of kept lists.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    gate::Warning,
    inventory::{
        Counts, Join, List, ListEvent, ListInfo, ListQuery, Listing, Owner, Pagination, Row, Source, Table,
        WatchSnapshot, select,
    },
    kind::Kind,
    name::{NamespaceScope, ObjectName},
};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};

use super::{
    ListCache,
    store::{Freshness, Ready, Store, Uncacheable},
};
use crate::{transport::Transport, uncached};

/// How long a change made through this process is waited for, until the list is read from the cluster.
const READ_YOUR_WRITES_TIMEOUT: Duration = Duration::from_secs(2);

/// What a kept list has to say.
pub(crate) enum CacheResult<T> {
    /// This.
    Hit(T),
    /// Nothing: it has to be read from the cluster. What should be known of that, and what is shown should the cluster
    /// not answer.
    Miss(Option<Warning>, Option<T>),
}

/// The stores that a list is shown from.
struct CachedStores {
    store: Arc<Store>,
    /// Of the list that tells what rows lack; none when the credential may not read it.
    with: Option<(Join, Option<Arc<Store>>)>,
}

/// Whether a list can be shown from memory.
enum Availability {
    Current(CachedStores),
    /// A change is not in it yet.
    Behind(CachedStores),
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
            Availability::Current(shown) => {
                self.check_owner(permit, transport, info, query).await?;
                Ok(CacheResult::Hit(shown.page(query).await?))
            }
            Availability::Behind(shown) => Ok(CacheResult::Miss(None, Some(shown.page(query).await?))),
            Availability::Uncacheable(warning) => Ok(CacheResult::Miss(Some(warning), None)),
        }
    }

    /// How many rows a list has of each status.
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
        if *permit.namespaces() != NamespaceScope::All {
            return Ok(CacheResult::Miss(None, None));
        }
        let store = self.store(permit, info, info.kinds, transport)?;
        Ok(match store.ready(Instant::now() + self.deadline).await? {
            Ready::Uncacheable(kind, _) => {
                CacheResult::Miss(Some(Warning::NotCached(kind.info().plural)), None)
            }
            Ready::Synced => {
                let Freshness { as_of, stale } = store.freshness().0;
                CacheResult::Hit(Counts::of(&store.table(), as_of, stale))
            }
        })
    }

    /// The rows of a list, and what happens to them.
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
        let info = list.info();
        let store = self.store(permit, info, &query.kinds, transport)?;
        if let Ready::Uncacheable(_, why) = store.ready(Instant::now() + self.deadline).await? {
            return Err(match why {
                Uncacheable::Forbidden(error) => error,
                Uncacheable::Ended if transport.closed().is_cancelled() => Error::new(Cause::Unreachable),
                Uncacheable::TooLarge | Uncacheable::Ended => Error::new(Cause::NotCached),
            });
        }
        let (rows, events) = store.watched(query).await?;
        let (Freshness { as_of, stale }, absent) = store.freshness();
        let events = stream::unfold(Some(events), next).boxed();
        Ok(WatchSnapshot { rows, as_of, stale, warnings: not_served(absent), events })
    }

    /// Waits until a list and the one that completes it can be shown, with all that was changed through this process.
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
        let mut shown = CachedStores { store, with: None };
        if let Some(join) = info.join {
            let with = self.store(permit, join.with.info(), join.with.info().kinds, transport)?;
            shown.with = Some(match with.ready(deadline).await? {
                Ready::Synced => (join, Some(with)),
                Ready::Uncacheable(_, Uncacheable::Forbidden(_)) => (join, None),
                Ready::Uncacheable(kind, Uncacheable::TooLarge | Uncacheable::Ended) => {
                    return Ok(Availability::Uncacheable(Warning::NotCached(kind.info().plural)));
                }
            });
        }
        let within = deadline.min(Instant::now() + READ_YOUR_WRITES_TIMEOUT);
        let mut current = true;
        for store in shown.stores() {
            current = current && up_to_date(store, transport, within).await;
        }
        Ok(if current { Availability::Current(shown) } else { Availability::Behind(shown) })
    }

    /// Looks for the owner whose objects are asked for.
    async fn check_owner(
        &self,
        permit: &Permit,
        transport: &Arc<Transport>,
        info: &ListInfo,
        query: &ListQuery,
    ) -> Result<()> {
        let Some((Owner { kind, list, .. }, name)) = info.owner.zip(query.owner.as_ref()) else {
            return Ok(());
        };
        let owners = self.store(permit, list.info(), &[kind], transport)?;
        let deadline = Instant::now() + self.deadline;
        // owners that cannot be kept cannot be missed either: then there is just nothing of theirs
        let known = matches!(owners.ready(deadline).await?, Ready::Synced);
        let known = known
            && up_to_date(&owners, transport, deadline.min(Instant::now() + READ_YOUR_WRITES_TIMEOUT)).await;
        if known && !exists(&owners.table(), &query.namespaces, name) {
            return Err(uncached::no_owner(kind, &query.namespaces, name));
        }
        Ok(())
    }
}

/// Waits until a store shows what was changed through this process.
async fn up_to_date(store: &Store, transport: &Transport, within: Instant) -> bool {
    for (source, kind) in (0..).zip(&store.kinds) {
        if let Some(expected) = transport.pending_writes().expected(*kind) {
            if !store.shows(source as Source, &expected, within).await {
                return false;
            }
            transport.pending_writes().shown(*kind, &expected);
        }
    }
    true
}

fn exists(owners: &Table, scope: &NamespaceScope, name: &ObjectName) -> bool {
    match scope {
        NamespaceScope::One(namespace) => owners.contains(Some(namespace.as_str()), name.as_str()),
        NamespaceScope::All => owners.rows().any(|row| row.name() == name.as_str()),
    }
}

impl CachedStores {
    fn stores(&self) -> impl Iterator<Item = &Arc<Store>> {
        [&self.store].into_iter().chain(self.with.iter().filter_map(|(_, with)| with.as_ref()))
    }

    async fn page(&self, query: &ListQuery) -> Result<Listing> {
        // the standing is read before the rows: these may be newer than they say, never older
        let (mut freshness, absent) = self.store.freshness();
        let mut warnings = not_served(absent);
        let (rows, pagination) = match &self.with {
            None => self.store.page(query).await?,
            Some((join, None)) => {
                warnings.push(uncached::unreadable(*join));
                self.store.page(query).await?
            }
            Some((join, Some(with))) => {
                freshness = freshness.and(with.freshness().0);
                self.joined(query, *join, with).await?
            }
        };
        let Freshness { as_of, stale } = freshness;
        Ok(Listing { rows, pagination, as_of, stale, warnings })
    }

    /// A page whose rows another list completes. To sort by what it tells, all rows are completed first.
    async fn joined(&self, query: &ListQuery, join: Join, with: &Store) -> Result<(Vec<Row>, Pagination)> {
        let fields = (self.store.info.fields)();
        if query.sort.is_some_and(|sort| fields[sort.field].name == join.field) {
            let with = with.table();
            let rows = self.store.table().rows().map(|row| (join.row)(row, &with)).collect::<Result<_>>()?;
            return Ok(select(rows, query));
        }
        let (rows, pagination) = self.store.page(query).await?;
        let with = with.table();
        Ok((rows.iter().map(|row| (join.row)(row, &with)).collect::<Result<_>>()?, pagination))
    }
}

fn not_served(absent: Vec<Kind>) -> Vec<Warning> {
    absent.into_iter().map(|kind| Warning::NotServed(kind.info().plural)).collect()
}

/// The next event, and who goes on; nobody after the last one.
async fn next(events: Option<Receiver<ListEvent>>) -> Option<(ListEvent, Option<Receiver<ListEvent>>)> {
    let mut events = events?;
    Some(match events.recv().await {
        Ok(event) => (event, Some(events)),
        Err(RecvError::Lagged(_)) => (ListEvent::Lagged, None),
        Err(RecvError::Closed) => (ListEvent::ConnectionChanged, None),
    })
}
