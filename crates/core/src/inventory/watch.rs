//! List watch: a stream of the matching rows of a list followed by their changes, of a page of a list each time it
//! changes (`window.rs`), or of several of both (`live.rs`).

use std::sync::Arc;

use futures_util::{
    future::BoxFuture,
    stream::{BoxStream, Stream, StreamExt, unfold},
};
use jiff::Timestamp;

use super::{
    Inventory, List, ListedScope,
    objects::{ObjectQuery, Objects, to_list_objects},
    to_list,
};
use crate::{
    access::{Caller, Permit},
    error::{Error, Result},
    gate::{Gate, Warning},
    ids::ClusterId,
    rows::{ListQuery, Pagination, Row},
    spawn::Spawner,
    streams::{EventStream, StreamEvent, StreamGuard, StreamSlot, Streams},
    usage::{Usage, UsageApi},
};

mod live;
mod rows;
mod window;

pub use live::{LiveEvent, LiveStream, MAX_LIVE_WATCHES};
use window::{Pages, Window};

/// Query of a watch: one list of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchQuery {
    /// The list.
    pub list: List,
    /// The cluster.
    pub cluster: ClusterId,
    /// The rows.
    pub query: ListQuery,
    /// Whether the stream consists of the page that the query requests, instead of all rows and their changes.
    pub window: bool,
    /// The query of [`List::Objects`], whose kind is looked up in the cluster's discovery when the watch begins.
    pub objects: Option<ObjectQuery>,
}

impl WatchQuery {
    /// Number of rows of a requested page; `None` if none is requested.
    fn rows_of_page(&self) -> Option<u64> {
        self.window.then(|| self.objects.as_ref().map_or(self.query.per_page, ObjectQuery::per_page))
    }
}

/// Item of a list stream.
pub type ListStreamEvent = StreamEvent<WatchEvent>;
/// Event stream of a watched list.
pub type ListStream = EventStream<WatchEvent>;

/// The events of one watch up to its end.
type WatchEvents = BoxStream<'static, ListStreamEvent>;

/// Event of a list stream.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// Changes of rows, in this order. The stream begins with the existing rows as `Added`.
    Rows(Vec<(ChangeKind, Row)>),
    /// All existing rows have been sent. Events after this one are changes.
    Synced {
        /// Number of existing rows.
        total: u64,
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
        /// The part of the request that the stream covers.
        scope: ListedScope,
        /// Warnings for the caller.
        warnings: Vec<Warning>,
    },
    /// The cluster became unreachable, or reachable again.
    Freshness {
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
    },
    /// The requested page, which replaces the one before it.
    Window {
        /// The rows of the page. The usage in them is null.
        rows: Vec<Row>,
        /// The usage of CPU and memory of each row, in the same order. Empty if none is known, or the list has no usage.
        usage: Vec<Option<Usage>>,
        /// The position of the page among all matching rows.
        pagination: Pagination,
        /// Last time at which the rows were known to be current.
        as_of: Timestamp,
        /// Whether the cluster could not be reached since `as_of`.
        stale: bool,
        /// The part of the request that the page covers.
        scope: ListedScope,
        /// Warnings for the caller.
        warnings: Vec<Warning>,
    },
}

/// Kind of a row change, relative to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// The row matches now and did not before.
    Added,
    /// The row matched before and still matches. The event has its new content.
    Changed,
    /// The row no longer exists or no longer matches. The event has its last content.
    Removed,
}

impl ChangeKind {
    /// Name of the change, also the event name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// Use case: watching lists.
#[derive(Clone)]
pub struct Watches {
    pub(crate) gate: Gate,
    pub(crate) inventory: Arc<dyn Inventory>,
    /// Usage in windows; without it, the usage of every row is null.
    pub(crate) usage: Option<Arc<dyn UsageApi>>,
    /// Objects of any kind; without them, only the lists of [`LISTS`](super::LISTS) can be watched.
    pub(crate) objects: Option<Objects>,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) streams: Streams,
}

impl Watches {
    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(
        gate: Gate,
        inventory: Arc<dyn Inventory>,
        spawner: Arc<dyn Spawner>,
        streams: Streams,
    ) -> Self {
        Self { gate, inventory, usage: None, objects: None, spawner, streams }
    }

    /// Adds the usage of CPU and memory.
    #[must_use]
    pub fn with_usage(self, usage: Arc<dyn UsageApi>) -> Self {
        Self { usage: Some(usage), ..self }
    }

    /// Adds the use cases that look up the kinds of objects.
    #[must_use]
    pub fn with_objects(self, objects: Objects) -> Self {
        Self { objects: Some(objects), ..self }
    }

    /// Streams the matching rows of a list that the caller's rights reach, then their changes. Joined fields
    /// ([`super::ListInfo::join`]) and usage are null. With [`WatchQuery::window`], streams the requested page each time
    /// it changes, at most once a second, as [`super::Lists::page`] returns it.
    ///
    /// # Errors
    /// As [`Inventory::watch`]; for objects of any kind, those of their discovery; `Overloaded` if the caller, or all
    /// callers together, have too many open streams, or too many rows in them that are not sent yet.
    pub async fn watch(&self, caller: &Caller, watch: WatchQuery) -> Result<ListStream> {
        let watch = self.resolve(caller, watch).await?;
        let (permit, revoked) = self.authorise(caller, &watch).await?;
        let slot = self.slot(caller, watch.rows_of_page())?;
        let events = self.events(caller, permit, watch).await?;
        Ok(EventStream::start(StreamGuard { revoked, slot }, &self.spawner, |reader| reader.send_all(events)))
    }

    /// The slot of a stream whose largest page, if it has pages, has this number of rows.
    fn slot(&self, caller: &Caller, rows_of_page: Option<u64>) -> Result<StreamSlot> {
        let user = caller.principal();
        match rows_of_page {
            Some(rows) => self.streams.enter_pages(user, rows),
            None => self.streams.enter(user),
        }
    }

    /// The watch with the kind of its objects, if it is one of objects of any kind.
    async fn resolve(&self, caller: &Caller, watch: WatchQuery) -> Result<WatchQuery> {
        let Some(query) = &watch.objects else { return Ok(watch) };
        let objects = self.objects.as_ref();
        let objects = objects.ok_or_else(|| Error::internal("a watch of objects without their use cases"))?;
        let query = objects.watched(caller, query).await?;
        Ok(WatchQuery { query, ..watch })
    }

    async fn authorise(
        &self,
        caller: &Caller,
        watch: &WatchQuery,
    ) -> Result<(Permit, BoxFuture<'static, Error>)> {
        let access = match watch.list {
            List::Objects => to_list_objects(&watch.query)?,
            list => to_list(list, &watch.query.namespaces),
        };
        self.gate.follow(caller, access.in_cluster(watch.cluster)).await
    }

    /// The events of a watch under a permit to list.
    async fn events(&self, caller: &Caller, permit: Permit, watch: WatchQuery) -> Result<WatchEvents> {
        let WatchQuery { list, query, window, .. } = watch;
        let query = query.within(permit.namespaces()).into_owned();
        if window {
            let pages = Pages {
                inventory: self.inventory.clone(),
                usage: self.usage.clone(),
                spawner: self.spawner.clone(),
                permit,
                list,
                query,
            };
            return Ok(Window::open(pages).await?.events());
        }
        let scope = ListedScope::of(&permit);
        let watched = self.inventory.watch(&permit, list, &query).await?;
        let held = self.streams.hold_rows(caller.principal(), watched.rows.len())?;
        Ok(rows::events(watched, held, query, scope))
    }
}

/// The events up to and including the first end.
fn until_end<T: Send + 'static>(
    events: impl Stream<Item = StreamEvent<T>> + Send + 'static,
) -> BoxStream<'static, StreamEvent<T>> {
    let next = |events: Option<BoxStream<'static, StreamEvent<T>>>| async move {
        let mut events = events?;
        let event = events.next().await?;
        let rest = (!matches!(event, StreamEvent::End(_))).then_some(events);
        Some((event, rest))
    };
    unfold(Some(events.boxed()), next).boxed()
}
