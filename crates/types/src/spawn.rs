//! Task spawner, injected so that tests are deterministic.

use std::time::Duration;

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::{FutureExt, future::BoxFuture};

use crate::error::{Error, Result};

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
