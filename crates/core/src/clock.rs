//! What the outside lends to the rules: time, detached tasks, randomness. All come in as arguments, so that a test
//! can hold them still.

use std::time::Duration;

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use uuid::Uuid;

use crate::error::{Error, Result};

/// Time.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Clock: Send + Sync {
    /// The wall clock, in whole microseconds (what both databases keep).
    fn now(&self) -> Timestamp;

    /// A clock that only goes forward, for measuring durations: the time since some fixed moment.
    fn monotonic(&self) -> Duration;
}

/// Tasks that outlive the request that started them.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Starts a task that nobody can cancel; a graceful stop waits for it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Waits.
    async fn sleep(&self, duration: Duration);
}

/// Runs `work` to its end in a task of its own, whatever becomes of the caller.
///
/// # Errors
/// What `work` says; `Internal` when it panicked.
pub async fn detached<T: Send + 'static>(
    tasks: &dyn Tasks,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    tasks.spawn(
        async move {
            // nobody may be waiting any more; the work is done all the same
            let _ = done.send(work.await);
        }
        .boxed(),
    );
    result.await.unwrap_or_else(|_| Err(Error::internal("a detached task was lost")))
}

/// Randomness fit for keys.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Entropy: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// A UUID of version 7: ordered by time, 74 random bits.
pub fn uuid_v7(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
