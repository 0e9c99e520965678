//! What the outside lends to the rules: time, detached tasks, randomness. All come in as arguments, so that a test
//! can hold them still.

use std::time::Duration;

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::{FutureExt, future::BoxFuture};
use jiff::{Timestamp, fmt::temporal::Pieces};
use uuid::Uuid;

use crate::error::{Error, Reason, Result};

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
pub trait Spawner: Send + Sync {
    /// Starts a task that nobody can cancel; a graceful stop waits for it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Waits.
    async fn sleep(&self, duration: Duration);

    /// Runs `work`, which takes more than a moment of CPU, on another thread than those that serve requests. Few run at
    /// once, and not many wait. Returns when it is done.
    ///
    /// # Errors
    /// `Overloaded` when too many wait; then it is not run.
    async fn compute(&self, work: Computation) -> Result<()>;
}

/// Work that holds a thread.
pub type Computation = Box<dyn FnOnce() + Send>;

/// Runs `work` by [`Spawner::compute`].
///
/// # Errors
/// What `work` says; `Overloaded`; `Internal` when it panicked.
pub async fn computed<T: Send + 'static>(
    spawner: &dyn Spawner,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    let work = move || {
        // the caller may have gone
        let _ = done.send(work());
    };
    spawner.compute(Box::new(work)).await?;
    result.await.unwrap_or_else(|_| Err(Error::internal("a computation ended without a result")))
}

/// Runs `work` to its end in a task of its own, whatever becomes of the caller.
///
/// # Errors
/// What `work` says; `Internal` when it panicked.
pub async fn detached<T: Send + 'static>(
    spawner: &dyn Spawner,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    spawner.spawn(
        async move {
            // nobody may be waiting any more; the work is done all the same
            let _ = done.send(work.await);
        }
        .boxed(),
    );
    result.await.unwrap_or_else(|_| Err(Error::internal("a detached task ended without a result")))
}

/// Randomness fit for keys.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Rng: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// A UUID of version 7: ordered by time, 74 random bits.
pub fn uuid_v7(now: Timestamp, rng: &dyn Rng) -> Uuid {
    let mut random = [0; 10];
    rng.fill(&mut random);
    let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// A time as RFC 3339 writes it. The last hours of the year 9999, which people write for "for ever", are beyond every
/// [`Timestamp`]: they are the last one.
///
/// # Errors
/// `Malformed`.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, Reason> {
    let for_ever = || {
        let pieces = Pieces::parse(text).ok()?;
        (pieces.date().year() == 9999 && pieces.time().is_some() && pieces.offset().is_some())
            .then_some(Timestamp::MAX)
    };
    text.parse().ok().or_else(for_ever).ok_or(Reason::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_by_table() {
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
