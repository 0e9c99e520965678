//! Time and tasks, as this process has them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, Unit};
use pilothouse_core::{
    Cause, Error, Result,
    clock::{Clock, Computation, Spawner},
};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The machine's clocks.
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place where the time comes in")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.round(Unit::Microsecond).unwrap_or(now)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// How many computations run at once: the reading of kubeconfigs must leave cores to the rest.
const COMPUTING: usize = 2;
/// How many more may wait; beyond them they are refused.
const WAITING: usize = 32;

/// Tasks on tokio, all of which a graceful stop waits for.
#[derive(Clone)]
pub(crate) struct TrackedSpawner {
    runtime: Handle,
    tracker: TaskTracker,
    /// Computations that run or wait.
    admitted: Arc<Semaphore>,
    /// Computations that run.
    computing: Arc<Semaphore>,
}

impl TrackedSpawner {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            admitted: Arc::new(Semaphore::new(COMPUTING + WAITING)),
            computing: Arc::new(Semaphore::new(COMPUTING)),
        })
    }

    /// Waits for what runs; false when some of it still does after `limit`.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[async_trait]
impl Spawner for TrackedSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // what it logs still bears the id of the request that asked for it
        self.tracker.spawn_on(task.in_current_span(), &self.runtime);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        let admitted =
            self.admitted.clone().try_acquire_owned().map_err(|_| Error::new(Cause::Overloaded))?;
        let closed = |_| Error::internal("the semaphore of computations is closed");
        let place = self.computing.clone().acquire_owned().await.map_err(closed)?;
        let span = tracing::Span::current();
        let run = move || {
            let _held = (admitted, place);
            span.in_scope(work);
        };
        let done = self.tracker.spawn_blocking_on(run, &self.runtime).await;
        done.map_err(|error| Error::internal(format!("a computation: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test]
    async fn few_computations_run_at_once_and_a_flood_of_them_is_refused() {
        let spawner = TrackedSpawner::new();
        let (started, starts) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let compute = || {
            let (started, gate) = (started.clone(), gate.clone());
            spawner.compute(Box::new(move || {
                started.send(()).unwrap();
                // ends when the test drops its end
                let _ = gate.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
            }))
        };
        let mut waiting: Vec<_> = (0..COMPUTING + WAITING).map(|_| Box::pin(compute())).collect();
        for computation in &mut waiting {
            assert!(computation.now_or_never().is_none());
        }
        assert_eq!(compute().await.unwrap_err().cause, Cause::Overloaded);
        for _ in 0..COMPUTING {
            starts.recv().unwrap();
        }
        assert!(starts.try_recv().is_err(), "no more than {COMPUTING} run");
        drop(release);
        assert!(join_all(waiting).await.iter().all(Result::is_ok));
        assert_eq!(compute().await, Ok(()), "there is room again");
    }
}
