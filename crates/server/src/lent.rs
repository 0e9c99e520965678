//! Time and tasks, as this process has them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, Unit};
use pilothouse_core::clock::{Clock, Tasks};
use tokio::runtime::Handle;
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

/// Tasks on tokio, all of which a graceful stop waits for.
#[derive(Clone)]
pub(crate) struct TrackedTasks {
    runtime: Handle,
    tracker: TaskTracker,
}

impl TrackedTasks {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { runtime: Handle::current(), tracker: TaskTracker::new() })
    }

    /// Waits for what runs; false when some of it still does after `limit`.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}

#[async_trait]
impl Tasks for TrackedTasks {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        // what it logs still bears the id of the request that asked for it
        self.tracker.spawn_on(task.in_current_span(), &self.runtime);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
