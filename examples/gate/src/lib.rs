//! The process ports that every embedder provides ([`Process`]): clocks, random source and task spawner.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::{Timestamp, Unit};
use pilothouse_types::{
    Error, Result,
    clock::Clock,
    rng::Rng,
    spawn::{Computation, Spawner},
};

/// Process ports: clocks, random source and task spawner (tokio).
pub struct Process(Instant);

impl Default for Process {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Process {
    #[allow(clippy::disallowed_methods, reason = "the only adapter of the Clock port")]
    fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.round(Unit::Microsecond).unwrap_or(now)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Rng for Process {
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("random bytes from the operating system");
    }
}

#[async_trait]
impl Spawner for Process {
    /// Spawns a detached task, which continues if the caller is dropped. A service waits for its tasks before it exits.
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Runs a computation on a blocking thread. A service limits the number of concurrent computations.
    async fn compute(&self, work: Computation) -> Result<()> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Error::internal(format!("a computation failed: {error}")))
    }
}
