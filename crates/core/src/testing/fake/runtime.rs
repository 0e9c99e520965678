//! A clock that stands still, randomness that counts, tasks on threads.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_channel::oneshot;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::{Clock, Computation, Rng, Spawner},
    error::Result,
};

/// What the outside lends.
#[derive(Clone)]
pub struct FakeRuntime {
    /// Time.
    pub clock: Arc<FakeClock>,
    /// Randomness.
    pub rng: Arc<FakeRng>,
    /// Tasks.
    pub spawner: Arc<ThreadSpawner>,
}

/// Where the next randomness of this process starts, so that no two draw the same bytes.
static SEED: AtomicU64 = AtomicU64::new(1);

impl Default for FakeRuntime {
    fn default() -> Self {
        let start = "2026-01-01T00:00:00Z".parse().expect("a time");
        Self {
            clock: Arc::new(FakeClock(Mutex::new((start, Duration::ZERO)))),
            rng: Arc::new(FakeRng(AtomicU64::new(SEED.fetch_add(1 << 32, Ordering::Relaxed)))),
            spawner: Arc::new(ThreadSpawner),
        }
    }
}

/// A clock that only a test moves.
pub struct FakeClock(Mutex<(Timestamp, Duration)>);

impl FakeClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += by;
        now.1 += by;
    }

    /// Sets the wall clock forth (or back), without any time going by.
    pub fn jump(&self, by: SignedDuration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 += by;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Never the same bytes twice, and no randomness at all.
pub struct FakeRng(AtomicU64);

impl Rng for FakeRng {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // an odd factor permutes the 64-bit numbers, so that all bytes vary
            let next = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&next.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// A thread for each task: runtime-free, and really detached.
pub struct ThreadSpawner;

#[async_trait]
impl Spawner for ThreadSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        thread::spawn(move || futures_executor::block_on(task));
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel::<()>();
        thread::spawn(move || {
            // tests do not wait for pauses, they only need them to end
            thread::sleep(duration.min(Duration::from_millis(5)));
            drop(wake);
        });
        let _ = woken.await;
    }

    async fn compute(&self, work: Computation) -> Result<()> {
        let (done, ended) = oneshot::channel::<()>();
        thread::spawn(move || {
            work();
            drop(done);
        });
        let _ = ended.await;
        Ok(())
    }
}
