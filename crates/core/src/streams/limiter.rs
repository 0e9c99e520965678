//! Stream limiter: limits the number of open streams and of the connections that they hold, and ends all of them at
//! shutdown.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::{FutureExt, future::Shared};

use crate::{
    access::Principal,
    error::{Cause, Error, Result},
    limiter::{Limiter, LimiterSlot},
};

/// Limits of open streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Maximum number of streams of all kinds of one user or service account.
    pub per_user: usize,
    /// Maximum number of streams of lists of all users. Each holds at most 64 KiB of memory, so that all of them hold
    /// at most 320 MiB.
    pub lists: usize,
    /// Maximum number of existing rows that the watches of all users hold until they are sent, 24 bytes each.
    pub unsent_rows: usize,
    /// Maximum number of these rows of one user or service account.
    pub unsent_rows_per_user: usize,
    /// Maximum number of connections to clusters for logs, of all users: one for each container that is followed. Each
    /// holds at most 1 MiB of memory.
    pub log_connections: usize,
    /// Maximum number of these connections of one user or service account.
    pub log_connections_per_user: usize,
    /// Maximum time that a reader may stall before its stream ends.
    pub stall_timeout: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            per_user: 32,
            lists: 5_000,
            unsent_rows: 8_000_000,
            unsent_rows_per_user: 2_000_000,
            log_connections: 512,
            log_connections_per_user: 128,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// Retry delay that is reported when a limit is reached.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Open streams: limits their number and ends all of them at shutdown. Clones share the streams.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    limits: StreamLimits,
    users: Limiter<Option<Principal>>,
    lists: Limiter<()>,
    rows: Limiter<Option<Principal>>,
    connections: Limiter<Option<Principal>>,
    /// `None` after [`Streams::close`].
    stop: Mutex<Option<oneshot::Sender<()>>>,
    stopping: Shared<oneshot::Receiver<()>>,
}

impl Streams {
    /// Creates a set of open streams with these limits, initially empty.
    pub fn new(limits: StreamLimits) -> Self {
        let (stop, stopping) = oneshot::channel();
        Self(Arc::new(Inner {
            limits,
            users: Limiter::new(limits.per_user, usize::MAX),
            lists: Limiter::new(usize::MAX, limits.lists),
            rows: Limiter::new(limits.unsent_rows_per_user, limits.unsent_rows),
            connections: Limiter::new(limits.log_connections_per_user, limits.log_connections),
            stop: Mutex::new(Some(stop)),
            stopping: stopping.shared(),
        }))
    }

    /// Acquires a slot for a stream of a user or service account that holds no connection to a cluster: of one or
    /// several lists.
    ///
    /// # Errors
    /// `Overloaded` if a limit is reached, or after [`Streams::close`].
    pub(crate) fn enter(&self, user: Option<Principal>) -> Result<StreamSlot> {
        self.enter_list(user, EVENTS)
    }

    /// Acquires a slot for a stream of one or several lists with pages of up to `per_page` rows.
    ///
    /// # Errors
    /// As [`Streams::enter`].
    pub(crate) fn enter_pages(&self, user: Option<Principal>, per_page: u64) -> Result<StreamSlot> {
        let pages = usize::try_from(PAGE_ROWS / per_page.max(1)).unwrap_or(EVENTS);
        self.enter_list(user, pages.min(EVENTS))
    }

    /// Acquires the room for existing rows that are sent at the beginning of a watch.
    ///
    /// # Errors
    /// `Overloaded` if a limit is reached.
    pub(crate) fn hold_rows(&self, user: Option<Principal>, count: usize) -> Result<HeldRows> {
        Ok(HeldRows { _slot: self.0.rows.acquire_many(user, count).ok_or_else(overloaded)? })
    }

    fn enter_list(&self, user: Option<Principal>, buffered_events: usize) -> Result<StreamSlot> {
        let list = self.0.lists.acquire(()).ok_or_else(overloaded)?;
        self.open(user, buffered_events, Some(list), None)
    }

    /// Acquires a slot for a stream of one log, with its connection to a cluster.
    ///
    /// # Errors
    /// As [`Streams::enter`].
    pub(crate) fn enter_log(&self, user: Option<Principal>) -> Result<StreamSlot> {
        let connection = self.connect(user).ok_or_else(overloaded)?;
        self.open(user, EVENTS, None, Some(connection))
    }

    /// Acquires a slot for the download of a log, with its connection to a cluster.
    ///
    /// # Errors
    /// As [`Streams::enter`].
    pub(crate) fn enter_download(&self, user: Option<Principal>) -> Result<StreamSlot> {
        let connection = self.connect(user).ok_or_else(overloaded)?;
        self.open(user, DOWNLOAD_EVENTS, None, Some(connection))
    }

    /// Acquires a slot for one more connection of an open stream to a cluster, for a log. `None` at a limit.
    pub(crate) fn connect(&self, user: Option<Principal>) -> Option<LogConnection> {
        Some(LogConnection { _slot: self.0.connections.acquire(user)? })
    }

    fn open(
        &self,
        user: Option<Principal>,
        buffered_events: usize,
        list: Option<LimiterSlot<()>>,
        connection: Option<LogConnection>,
    ) -> Result<StreamSlot> {
        let is_open = self.0.stop().is_some();
        let user = self.0.users.acquire(user).filter(|_| is_open).ok_or_else(overloaded)?;
        let streams = self.0.clone();
        Ok(StreamSlot { streams, buffered_events, _user: user, _list: list, _connection: connection })
    }

    /// Ends all streams with [`StreamEnd::ServerStopping`](super::StreamEnd::ServerStopping) and refuses new ones, for
    /// shutdown.
    pub fn close(&self) {
        *self.0.stop() = None;
    }
}

fn overloaded() -> Error {
    Error::new(Cause::Overloaded).retry_after(RETRY_AFTER)
}

impl Inner {
    fn stop(&self) -> MutexGuard<'_, Option<oneshot::Sender<()>>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slot of one stream. Dropping it releases the slot.
pub(crate) struct StreamSlot {
    streams: Arc<Inner>,
    buffered_events: usize,
    _user: LimiterSlot<Option<Principal>>,
    _list: Option<LimiterSlot<()>>,
    _connection: Option<LogConnection>,
}

/// Room for the existing rows of one watch. Dropping it releases the room.
pub(crate) struct HeldRows {
    _slot: LimiterSlot<Option<Principal>>,
}

/// Slot of one connection to a cluster for a log. Dropping it releases the slot.
pub(crate) struct LogConnection {
    _slot: LimiterSlot<Option<Principal>>,
}

/// Number of events buffered for a reader. An event has at most 16 KiB of lines or 2 KiB of rows, or one line or row.
const EVENTS: usize = 8;
/// Number of rows in the pages that are buffered for a reader besides the one page that always is. A page replaces the
/// one before it, so a slow reader needs none of the older ones.
const PAGE_ROWS: u64 = 100;
/// Number of events buffered for the reader of a download. An event has at most 64 KiB.
const DOWNLOAD_EVENTS: usize = 1;

impl StreamSlot {
    /// The limits of the stream.
    pub(super) fn limits(&self) -> StreamLimits {
        self.streams.limits
    }

    /// Number of events that are buffered for the reader.
    pub(super) const fn buffered_events(&self) -> usize {
        self.buffered_events
    }

    /// Resolves when all streams must end.
    pub(crate) fn stopping(&self) -> Shared<oneshot::Receiver<()>> {
        self.streams.stopping.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ServiceAccountId, UserId};

    fn users() -> [Option<Principal>; 2] {
        [Principal::User(UserId(1)), Principal::ServiceAccount(ServiceAccountId(1))].map(Some)
    }

    fn refusal<T>(result: Result<T>) -> Option<(Cause, Option<Duration>)> {
        result.err().map(|error| (error.cause, error.context.retry_after))
    }

    const OVERLOADED: Option<(Cause, Option<Duration>)> = Some((Cause::Overloaded, Some(RETRY_AFTER)));

    #[test]
    fn slots_are_limited_per_user_and_in_total_and_released_on_drop() {
        let limits = StreamLimits { per_user: 2, lists: 3, ..StreamLimits::default() };
        let streams = Streams::new(limits);
        let [ann, bob] = users();
        let full = |user| refusal(streams.enter(user));
        let first = streams.enter(ann).unwrap();
        let _second = streams.enter(ann).unwrap();
        assert_eq!(full(ann), OVERLOADED);
        let third = streams.enter(bob).unwrap();
        assert_eq!(full(bob), OVERLOADED, "limit of three lists in total");
        drop(third);
        assert_eq!(full(ann), OVERLOADED);
        drop(first);
        assert_eq!(full(ann), None);
        assert_eq!(full(bob), None);
    }

    #[test]
    fn streams_of_all_kinds_count_for_their_user() {
        let streams = Streams::new(StreamLimits { per_user: 3, ..StreamLimits::default() });
        let [ann, bob] = users();
        let _list = streams.enter(ann).unwrap();
        let _log = streams.enter_log(ann).unwrap();
        let download = streams.enter_download(ann).unwrap();
        for refused in [streams.enter(ann), streams.enter_log(ann), streams.enter_download(ann)] {
            assert_eq!(refusal(refused), OVERLOADED);
        }
        assert_eq!(refusal(streams.enter_log(bob)), None);
        drop(download);
        assert_eq!(refusal(streams.enter_log(ann)), None);
    }

    #[test]
    fn logs_and_downloads_hold_a_connection() {
        let streams = Streams::new(StreamLimits { log_connections: 2, ..StreamLimits::default() });
        let [ann, bob] = users();
        let log = streams.enter_log(ann).unwrap();
        let _download = streams.enter_download(ann).unwrap();
        assert_eq!(refusal(streams.enter_log(bob)), OVERLOADED);
        assert_eq!(refusal(streams.enter_download(bob)), OVERLOADED);
        assert_eq!(refusal(streams.enter(bob)), None, "a list needs no connection to a cluster");
        drop(log);
        assert_eq!(refusal(streams.enter_log(bob)), None);
    }

    #[test]
    fn refused_stream_holds_nothing() {
        let limits = StreamLimits { per_user: 1, lists: 2, log_connections: 1, ..StreamLimits::default() };
        let streams = Streams::new(limits);
        let [ann, bob] = users();
        let _list = streams.enter(ann).unwrap();
        for _ in 0..3 {
            assert_eq!(refusal(streams.enter(ann)), OVERLOADED);
            assert_eq!(refusal(streams.enter_log(ann)), OVERLOADED);
        }
        assert!(streams.connect(bob).is_some(), "the connection was released");
        assert_eq!(refusal(streams.enter(bob)), None, "the list was released");
    }

    #[test]
    fn connections_are_limited_per_user_and_in_total() {
        let limits =
            StreamLimits { log_connections: 3, log_connections_per_user: 2, ..StreamLimits::default() };
        let streams = Streams::new(limits);
        let [ann, bob] = users();
        let first = streams.connect(ann).unwrap();
        let _second = streams.connect(ann).unwrap();
        assert!(streams.connect(ann).is_none());
        let _third = streams.connect(bob).unwrap();
        assert!(streams.connect(bob).is_none(), "limit of three connections in total");
        drop(first);
        assert!(streams.connect(bob).is_some());
    }

    #[test]
    fn close_ends_all_streams_and_refuses_new_ones() {
        let streams = Streams::new(StreamLimits::default());
        let slot = streams.enter(None).unwrap();
        assert!(slot.stopping().now_or_never().is_none());
        streams.close();
        assert!(slot.stopping().now_or_never().is_some());
        assert_eq!(streams.enter(None).err().map(|error| error.cause), Some(Cause::Overloaded));
        assert_eq!(streams.enter_log(None).err().map(|error| error.cause), Some(Cause::Overloaded));
    }
}
