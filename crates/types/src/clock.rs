//! Clock, task spawner and random source, injected so that tests are deterministic.

use std::time::Duration;

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::{FutureExt, future::BoxFuture};
use jiff::{Timestamp, fmt::temporal::Pieces};
use uuid::Uuid;

use crate::error::{Error, Reason, Result};

/// Clock.
#[cfg_attr(feature = "testing", mockall::automock)]
pub trait Clock: Send + Sync {
    /// Wall clock in whole microseconds, the precision of both databases.
    fn now(&self) -> Timestamp;

    /// Monotonic clock for measuring durations: the time since a fixed, arbitrary moment.
    fn monotonic(&self) -> Duration;
}

/// Task spawner: tasks outlive the request that started them.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait Spawner: Send + Sync {
    /// Starts a task that cannot be cancelled; a graceful shutdown waits for it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Sleeps for `duration`.
    async fn sleep(&self, duration: Duration);

    /// Runs CPU-bound `work` outside the threads that serve requests. The number of concurrent computations and the
    /// length of the queue are limited. Returns when `work` is done.
    ///
    /// # Errors
    /// `Overloaded` when the queue is full; then `work` is not run.
    async fn compute(&self, work: Computation) -> Result<()>;
}

/// CPU-bound work that occupies a thread.
pub type Computation = Box<dyn FnOnce() + Send>;

/// Runs `work` with [`Spawner::compute`] and returns its result.
///
/// # Errors
/// The error of `work`; `Overloaded`; `Internal` when it panicked.
pub async fn computed<T: Send + 'static>(
    spawner: &dyn Spawner,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // the caller may have been dropped
        let _ = done.send(work());
    };
    spawner.compute(Box::new(work)).await?;
    result.await.unwrap_or_else(|_| Err(Error::internal("a computation ended without a result")))
}

/// Runs `work` to completion in a task of its own, even if the caller is dropped.
///
/// # Errors
/// The error of `work`; `Internal` when it panicked.
pub async fn detached<T: Send + 'static>(
    spawner: &dyn Spawner,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    spawner.spawn(
        async move {
            // the caller may have been dropped; the work is complete in any case
            let _ = done.send(work.await);
        }
        .boxed(),
    );
    result.await.unwrap_or_else(|_| Err(Error::internal("a detached task ended without a result")))
}

/// Cryptographically secure random source.
#[cfg_attr(feature = "testing", mockall::automock)]
pub trait Rng: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// Creates a UUID version 7: ordered by time, with 74 random bits.
pub fn uuid_v7(now: Timestamp, rng: &dyn Rng) -> Uuid {
    let mut random = [0; 10];
    rng.fill(&mut random);
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Parses an RFC 3339 timestamp. The last hours of the year 9999, a common value for "no end", are beyond the range of
/// [`Timestamp`]; they yield [`Timestamp::MAX`].
///
/// # Errors
/// `Malformed`.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Reason> {
    let end_of_9999 = || {
        let pieces = Pieces::parse(text).ok()?;
        (pieces.date().year() == 9999 && pieces.time().is_some() && pieces.offset().is_some())
            .then_some(Timestamp::MAX)
    };
    text.parse().ok().or_else(end_of_9999).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_need_an_offset_and_are_limited_to_the_maximum() {
        let cases = [
            ("2026-01-01T00:00:00Z", Ok("2026-01-01T00:00:00Z")),
            ("2026-01-01T08:00:00.5+08:00", Ok("2026-01-01T00:00:00.5Z")),
            ("9999-12-31T23:59:59Z", Ok("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-31T23:59:59.999+00:00", Ok("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-31", Err(Reason::Malformed)),
            ("9999-12-31T23:59:59", Err(Reason::Malformed)),
            ("9999-13-31T23:59:59Z", Err(Reason::Malformed)),
            ("10000-01-01T00:00:00Z", Err(Reason::Malformed)),
            ("for ever", Err(Reason::Malformed)),
            ("", Err(Reason::Malformed)),
        ];
        for (text, expected) in cases {
            assert_eq!(
                parse_timestamp(text).map(|time| time.to_string()),
                expected.map(str::to_owned),
                "{text}"
            );
        }
    }
}
