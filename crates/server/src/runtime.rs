//! Adapters of the `Clock` and `Spawner` ports: system clocks and Tokio tasks.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, Unit};
use pilothouse_core::{
    Cause, Error, Result,
    clock::Clock,
    spawn::{Computation, Spawner},
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// [`Clock`] over the system clocks.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the only adapter of the Clock port")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.round(Unit::Microsecond).unwrap_or(now)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Limit of computations that run at once, so that parsing of kubeconfigs leaves CPU cores for requests.
const MAX_RUNNING: usize = 2;
/// Limit of computations that wait; further ones are refused.
const MAX_WAITING: usize = 32;

/// [`Spawner`] over Tokio. A graceful shutdown waits for all its tasks.
#[derive(Clone)]
pub(crate) struct TrackedSpawner {
    runtime: Handle,
    tracker: TaskTracker,
    /// Slots of running and waiting computations.
    admitted: Arc<Semaphore>,
    /// Slots of running computations.
    computing: Arc<Semaphore>,
}

impl TrackedSpawner {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            admitted: Arc::new(Semaphore::new(MAX_RUNNING + MAX_WAITING)),
            computing: Arc::new(Semaphore::new(MAX_RUNNING)),
        })
    }

    /// Waits for all tasks. Returns false when some still run after `limit`.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[async_trait]
impl Spawner for TrackedSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // log lines of the task keep the id of the request that spawned it
        self.tracker.spawn_on(task.in_current_span(), &self.runtime);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        let admitted =
            self.admitted.clone().try_acquire_owned().map_err(|_| Error::new(Cause::Overloaded))?;
        let closed = |_| Error::internal("the semaphore of computations is closed");
        let slot = self.computing.clone().acquire_owned().await.map_err(closed)?;
        let span = tracing::Span::current();
        let run = move || {
            let _held = (admitted, slot);
            span.in_scope(work);
        };
        let done = self.tracker.spawn_blocking_on(run, &self.runtime).await;
        done.map_err(|error| Error::internal(format!("a computation failed: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test]
    async fn computations_are_limited_and_excess_is_overloaded() {
        let spawner = TrackedSpawner::new();
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let compute = || {
            let (started, gate) = (started.clone(), gate.clone());
            spawner.compute(Box::new(move || {
                started.send(()).unwrap();
                // returns when the test drops the sender
                let _ = gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
            }))
        };
        let mut waiting: Vec<_> = (0..MAX_RUNNING + MAX_WAITING).map(|_| Box::pin(compute())).collect();
        for computation in &mut waiting {
            assert!(computation.now_or_never().is_none());
        }
        assert_eq!(compute().await.unwrap_err().cause, Cause::Overloaded);
        for _ in 0..MAX_RUNNING {
            starts.recv().unwrap();
        }
        assert!(starts.try_recv().is_err(), "no more than {MAX_RUNNING} run");
        drop(release);
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!(compute().await, Ok(()), "a slot is free again");
    }
}
