//! Stream limiter: limits the number of open streams, per user and in total, and ends all of them at shutdown.

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

/// Limits of open streams, logs and lists together. Each stream holds some memory; a log stream also holds a connection
/// to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// Maximum number of streams of one user or service account.
    pub per_user: usize,
    /// Maximum number of streams of all users and service accounts.
    pub total: usize,
    /// Maximum time that a reader may stall before its stream ends.
    pub stall_timeout: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { per_user: 32, total: 512, stall_timeout: Duration::from_secs(30) }
    }
}

/// Retry delay that is reported when a limit is reached.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Open streams: limits their number and ends all of them at shutdown. Clones share the streams.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    limits: StreamLimits,
    limiter: Limiter<Option<Principal>>,
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
            limiter: Limiter::new(limits.per_user, limits.total),
            stop: Mutex::new(Some(stop)),
            stopping: stopping.shared(),
        }))
    }

    /// Acquires a slot for one more stream of a user or service account.
    ///
    /// # Errors
    /// `Overloaded` if a limit is reached, or after [`Streams::close`].
    pub(crate) fn enter(&self, user: Option<Principal>) -> Result<StreamSlot> {
        let is_open = self.0.stop().is_some();
        let slot = self.0.limiter.acquire(user).filter(|_| is_open);
        let slot = slot.ok_or_else(|| Error::new(Cause::Overloaded).retry_after(RETRY_AFTER))?;
        Ok(StreamSlot { streams: self.0.clone(), _slot: slot })
    }

    /// Ends all streams with [`StreamEnd::ServerStopping`](super::StreamEnd::ServerStopping) and refuses new ones, for
    /// shutdown.
    pub fn close(&self) {
        *self.0.stop() = None;
    }
}

impl Inner {
    fn stop(&self) -> MutexGuard<'_, Option<oneshot::Sender<()>>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slot of one stream. Dropping it releases the slot.
pub(crate) struct StreamSlot {
    streams: Arc<Inner>,
    _slot: LimiterSlot<Option<Principal>>,
}

impl StreamSlot {
    /// The limits of the stream.
    pub(super) fn limits(&self) -> StreamLimits {
        self.streams.limits
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

    #[test]
    fn slots_are_limited_per_user_and_in_total_and_released_on_drop() {
        let limits = StreamLimits { per_user: 2, total: 3, ..StreamLimits::default() };
        let streams = Streams::new(limits);
        let [ann, bob] =
            [Principal::User(UserId(1)), Principal::ServiceAccount(ServiceAccountId(1))].map(Some);
        let full = |user| streams.enter(user).err().map(|error| (error.cause, error.context.retry_after));
        let overloaded = Some((Cause::Overloaded, Some(RETRY_AFTER)));
        let first = streams.enter(ann).unwrap();
        let _second = streams.enter(ann).unwrap();
        assert_eq!(full(ann), overloaded);
        let third = streams.enter(bob).unwrap();
        assert_eq!(full(bob), overloaded, "limit of three streams in total");
        drop(third);
        assert_eq!(full(ann), overloaded);
        drop(first);
        assert_eq!(full(ann), None);
        assert_eq!(full(bob), None);
    }

    #[test]
    fn close_ends_all_streams_and_refuses_new_ones() {
        let streams = Streams::new(StreamLimits::default());
        let slot = streams.enter(None).unwrap();
        assert!(slot.stopping().now_or_never().is_none());
        streams.close();
        assert!(slot.stopping().now_or_never().is_some());
        assert_eq!(streams.enter(None).err().map(|error| error.cause), Some(Cause::Overloaded));
    }
}
