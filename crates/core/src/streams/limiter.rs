//! The streams that run: how many there may be, and how all of them end at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::{FutureExt, future::Shared};

use crate::{
    error::{Cause, Error, Result},
    user::UserId,
};

/// How many streams may be followed at once, logs and lists together, and how patiently. Each holds some memory, that of
/// a log also a connection to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// By one user.
    pub per_user: usize,
    /// By all.
    pub total: usize,
    /// How long a reader may stand still before its stream ends.
    pub blocked: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { per_user: 32, total: 512, blocked: Duration::from_secs(30) }
    }
}

/// When to try again if there are too many.
const RETRY: Duration = Duration::from_secs(5);

/// Counts streams.
#[derive(Clone)]
pub(crate) struct Streams(Arc<Inner>);

struct Inner {
    limits: StreamLimits,
    state: Mutex<State>,
    stopping: Shared<oneshot::Receiver<()>>,
}

struct State {
    running: HashMap<Option<UserId>, usize>,
    /// Gone once all streams were told to end.
    stop: Option<oneshot::Sender<()>>,
}

impl Streams {
    pub(crate) fn new(limits: StreamLimits) -> Self {
        let (stop, stopping) = oneshot::channel();
        let state = Mutex::new(State { running: HashMap::new(), stop: Some(stop) });
        Self(Arc::new(Inner { limits, state, stopping: stopping.shared() }))
    }

    /// A place for one more stream of a user.
    ///
    /// # Errors
    /// `Overloaded` when there are too many, and once all were told to end.
    pub(crate) fn enter(&self, user: Option<UserId>) -> Result<StreamSlot> {
        let mut state = self.0.state();
        let total: usize = state.running.values().sum();
        let theirs = state.running.get(&user).copied().unwrap_or_default();
        let room = theirs < self.0.limits.per_user && total < self.0.limits.total;
        if !room || state.stop.is_none() {
            return Err(Error::new(Cause::Overloaded).retry_after(RETRY));
        }
        state.running.insert(user, theirs + 1);
        Ok(StreamSlot { streams: self.0.clone(), user })
    }

    /// Ends all streams, and lets none begin.
    pub(crate) fn stop(&self) {
        self.0.state().stop = None;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one stream, free again when it is dropped.
pub(crate) struct StreamSlot {
    streams: Arc<Inner>,
    user: Option<UserId>,
}

impl StreamSlot {
    /// How patient to be.
    pub(super) fn limits(&self) -> StreamLimits {
        self.streams.limits
    }

    /// Resolves when all streams are told to end.
    pub(crate) fn stopping(&self) -> Shared<oneshot::Receiver<()>> {
        self.streams.stopping.clone()
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut state = self.streams.state();
        if let Some(count) = state.running.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_user_and_in_all_and_given_back() {
        let limits = StreamLimits { per_user: 2, total: 3, ..StreamLimits::default() };
        let streams = Streams::new(limits);
        let [ann, bob] = [UserId(1), UserId(2)].map(Some);
        let full = |user| streams.enter(user).err().map(|error| (error.cause, error.context.retry_after));
        let overloaded = Some((Cause::Overloaded, Some(RETRY)));
        let first = streams.enter(ann).unwrap();
        let _second = streams.enter(ann).unwrap();
        assert_eq!(full(ann), overloaded);
        let third = streams.enter(bob).unwrap();
        assert_eq!(full(bob), overloaded, "three in all");
        drop(third);
        assert_eq!(full(ann), overloaded);
        drop(first);
        assert_eq!(full(ann), None);
        assert_eq!(full(bob), None);
    }

    #[test]
    fn once_stopped_none_begins_and_all_know() {
        let streams = Streams::new(StreamLimits::default());
        let place = streams.enter(None).unwrap();
        assert!(place.stopping().now_or_never().is_none());
        streams.stop();
        assert!(place.stopping().now_or_never().is_some());
        assert_eq!(streams.enter(None).err().map(|error| error.cause), Some(Cause::Overloaded));
    }
}
