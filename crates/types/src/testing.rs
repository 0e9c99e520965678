//! Fakes of the runtime ports: a clock that only tests advance, a counter as random source, threads as tasks. And the
//! extent of random tests.

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
    clock::Clock,
    error::Result,
    rng::Rng,
    spawn::{Computation, Spawner},
};

/// The number in an environment variable that sets the extent of a random test (`just rights`); `default` if the
/// variable is unset or empty.
///
/// # Panics
/// If the value is not a number.
#[allow(clippy::disallowed_methods, reason = "the environment sets the extent of a test")]
pub fn env_number(name: &str, default: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}"))
        }
        _ => default,
    }
}

/// The fake runtime ports.
#[derive(Clone)]
pub struct FakeRuntime {
    /// The clock.
    pub clock: Arc<FakeClock>,
    /// The random source.
    pub rng: Arc<FakeRng>,
    /// The task spawner.
    pub spawner: Arc<ThreadSpawner>,
}

/// First number of the next random source, so that no two sources of this process produce the same bytes.
static SEED: AtomicU64 = AtomicU64::new(1);

impl Default for FakeRuntime {
    fn default() -> Self {
        let start = "2026-01-01T00:00:00Z".parse().expect("valid timestamp");
        Self {
            clock: Arc::new(FakeClock(Mutex::new((start, Duration::ZERO)))),
            rng: Arc::new(FakeRng(AtomicU64::new(SEED.fetch_add(1 << 32, Ordering::Relaxed)))),
            spawner: Arc::new(ThreadSpawner),
        }
    }
}

/// A clock that only tests advance.
pub struct FakeClock(Mutex<(Timestamp, Duration)>);

impl FakeClock {
    /// Advances wall clock and monotonic clock.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += by;
        now.1 += by;
    }

    /// Sets the wall clock forward or back; the monotonic clock does not change.
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

/// Random source that counts: predictable, and no two default sources of a process produce the same bytes.
pub struct FakeRng(AtomicU64);

impl FakeRng {
    /// A source that produces the same bytes as every other one with this start.
    pub fn starting_at(start: u64) -> Self {
        Self(AtomicU64::new(start))
    }
}

impl Rng for FakeRng {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // an odd factor permutes the 64-bit numbers, so that all bytes vary
            let next = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            chunk.copy_from_slice(&next.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// Task spawner that runs each task in its own thread, without an async runtime. Tasks outlive their caller.
pub struct ThreadSpawner;

#[async_trait]
impl Spawner for ThreadSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        thread::spawn(move || futures_executor::block_on(task));
    }

    async fn sleep(&self, duration: Duration) {
        let (wake, woken) = oneshot::channel::<()>();
        thread::spawn(move || {
            // at most 5 ms, so that tests are fast
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
