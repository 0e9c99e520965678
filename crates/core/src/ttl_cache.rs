//! Sub-second TTL cache: a burst of requests reads the database once, also if they are concurrent. No value is older than
//! [`TTL`]. A change made by this process invalidates the cache before the change returns, so that it is visible from the
//! next request on.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_channel::oneshot;
use futures_util::future::{FutureExt, Shared};

use crate::{
    clock::Clock,
    error::{Error, Result},
};

/// Maximum age of a value. A change by another process must be visible within one second (contract, section 5); the
/// rest of that second is left for the request itself.
pub(crate) const TTL: Duration = Duration::from_millis(800);

/// Minimum number of values before expired values are removed.
const MIN_SWEEP: usize = 64;

/// Cache of values by key.
pub(crate) struct TtlCache<K, V> {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<CacheState<K, V>>>,
}

struct CacheState<K, V> {
    /// Number of invalidations. A read that started before the last one may have returned the value from before the
    /// change.
    generation: u64,
    /// Start time of the read, and the value.
    values: HashMap<K, (Duration, V)>,
    /// Reads that have not returned yet. They resolve with their error, and are cancelled if there is none.
    reads: HashMap<K, Shared<oneshot::Receiver<Error>>>,
    /// Number of values at which expired values are removed next.
    sweep_at: usize,
}

/// A cache that changes invalidate.
pub(crate) trait Invalidate: Send + Sync {
    /// A guard that invalidates all values when dropped, also after a panic.
    fn guard(&self) -> Box<dyn Send>;
}

impl<K: Send + 'static, V: Send + 'static> Invalidate for TtlCache<K, V> {
    fn guard(&self) -> Box<dyn Send> {
        Box::new(InvalidateOnDrop(self.state.clone()))
    }
}

/// Caches that the same changes invalidate.
#[derive(Clone)]
pub(crate) struct Caches(Arc<[Arc<dyn Invalidate>]>);

impl Caches {
    pub(crate) fn new(caches: impl IntoIterator<Item = Arc<dyn Invalidate>>) -> Self {
        Self(caches.into_iter().collect())
    }

    /// As [`TtlCache::invalidate_after`], of all caches.
    pub(crate) fn invalidate_after<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        let guards: Vec<_> = self.0.iter().map(|cache| cache.guard()).collect();
        async move {
            let _guards = guards;
            change.await
        }
    }
}

/// A read that has not returned yet. When dropped, those that wait for it go on.
struct RunningRead<K: Eq + Hash, V> {
    state: Arc<Mutex<CacheState<K, V>>>,
    key: K,
    failed: Option<oneshot::Sender<Error>>,
}

/// Guard that invalidates the cache when dropped, also after a panic.
struct InvalidateOnDrop<K, V>(Arc<Mutex<CacheState<K, V>>>);

impl<K: Clone + Eq + Hash, V: Clone> TtlCache<K, V> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let state =
            CacheState { generation: 0, values: HashMap::new(), reads: HashMap::new(), sweep_at: MIN_SWEEP };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Returns the cached value of `key`, otherwise the result of `read`. Absence and errors are not cached. A caller that
    /// comes while another one reads the value waits for it instead of reading it too.
    ///
    /// # Errors
    /// The errors of `read`, or of the read that the caller waited for.
    pub(crate) async fn get(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        if let Some(value) = self.cached(&key) {
            return Ok(Some(value));
        }
        let running = match self.begin_read(&key) {
            Ok(running) => running,
            Err(other) => {
                if let Ok(error) = other.await {
                    return Err(error);
                }
                if let Some(value) = self.cached(&key) {
                    return Ok(Some(value));
                }
                // the value is absent, or a change came between
                return self.read(key, read).await;
            }
        };
        let result = self.read(key, read).await;
        running.end(&result);
        result
    }

    fn cached(&self, key: &K) -> Option<V> {
        let now = self.clock.monotonic();
        let state = lock(&self.state);
        let (read_at, value) = state.values.get(key)?;
        is_fresh(*read_at, now).then(|| value.clone())
    }

    /// Begins a read, unless another one runs, which is the error.
    fn begin_read(&self, key: &K) -> Result<RunningRead<K, V>, Shared<oneshot::Receiver<Error>>> {
        let mut state = lock(&self.state);
        if let Some(other) = state.reads.get(key) {
            return Err(other.clone());
        }
        let (failed, running) = oneshot::channel();
        state.reads.insert(key.clone(), running.shared());
        Ok(RunningRead { state: self.state.clone(), key: key.clone(), failed: Some(failed) })
    }

    /// Returns the result of `read`, bypassing the cache, and caches it as [`TtlCache::get`] does.
    ///
    /// # Errors
    /// The errors of `read`.
    pub(crate) async fn read(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        let started = self.clock.monotonic();
        let generation = lock(&self.state).generation;
        let found = read.await?;
        if let Some(value) = &found {
            let mut state = lock(&self.state);
            // a change that completed meanwhile may be missing in the value
            if state.generation == generation {
                state.insert(key, started, value.clone());
            }
        }
        Ok(found)
    }

    /// Runs `change`, then invalidates all values, whatever the result. The future must be run to completion: if it
    /// were dropped while the change continues elsewhere, the invalidation would come too early.
    pub(crate) fn invalidate_after<T>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static
    where
        K: Send + 'static,
        V: Send + 'static,
        T: Send + 'static,
    {
        let guard = InvalidateOnDrop(self.state.clone());
        async move {
            let _guard = guard;
            change.await
        }
    }
}

impl<K: Eq + Hash, V> CacheState<K, V> {
    /// Stores a value that was read from `started` on.
    fn insert(&mut self, key: K, started: Duration, value: V) {
        // a slow read does not replace the value of a read that started later
        if self.values.get(&key).is_some_and(|(read_at, _)| *read_at > started) {
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, (read_at, _)| is_fresh(*read_at, started));
            self.sweep_at = (2 * self.values.len()).max(MIN_SWEEP);
        }
        self.values.insert(key, (started, value));
    }
}

impl<K: Eq + Hash, V> RunningRead<K, V> {
    /// Ends the read with its result.
    fn end<T>(mut self, result: &Result<T>) {
        if let (Err(error), Some(failed)) = (result, self.failed.take()) {
            let _ = failed.send(error.clone());
        }
    }
}

impl<K: Eq + Hash, V> Drop for RunningRead<K, V> {
    fn drop(&mut self) {
        lock(&self.state).reads.remove(&self.key);
    }
}

impl<K, V> Drop for InvalidateOnDrop<K, V> {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.generation += 1;
        state.values.clear();
    }
}

fn is_fresh(read_at: Duration, now: Duration) -> bool {
    now.saturating_sub(read_at) < TTL
}

fn lock<K, V>(state: &Mutex<CacheState<K, V>>) -> MutexGuard<'_, CacheState<K, V>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        thread,
    };

    use futures_channel::oneshot;
    use futures_executor::block_on;
    use futures_util::future::{FutureExt, join};

    use super::*;
    use crate::{
        error::{Cause, Error},
        testing::fake::FakeRuntime,
    };

    fn read(cache: &TtlCache<u8, u64>, value: u64) -> u64 {
        block_on(cache.get(1, ready(Ok(Some(value))))).unwrap().unwrap()
    }

    #[test]
    fn value_is_cached_for_less_than_a_second() {
        let runtime = FakeRuntime::default();
        let cache = TtlCache::new(runtime.clock.clone());
        assert_eq!(read(&cache, 7), 7);
        runtime.clock.advance(TTL - Duration::from_millis(1));
        assert_eq!(read(&cache, 8), 7);
        runtime.clock.advance(Duration::from_millis(1));
        assert_eq!(read(&cache, 8), 8);
    }

    #[test]
    fn concurrent_readers_wait_for_one_read() {
        let cache = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        let no_read = || async { panic!("another caller reads the value") };
        let (answer, answered) = oneshot::channel();
        let first = cache.get(1, answered.map(|value| Ok(value.ok())));
        let rest = join(cache.get(1, no_read()), async { answer.send(7) });
        let (first, (second, _)) = block_on(join(first, rest));
        assert_eq!((first.unwrap(), second.unwrap()), (Some(7), Some(7)));

        // an error ends all of them
        let (answer, answered) = oneshot::channel::<()>();
        let failure = |_| Err(Error::new(Cause::StoreUnavailable));
        let first = cache.get(2, answered.map(failure));
        let (first, (second, ())) =
            block_on(join(first, join(cache.get(2, no_read()), async { drop(answer) })));
        assert_eq!([first, second].map(|result| result.unwrap_err().cause), [Cause::StoreUnavailable; 2]);

        // a reader that gives up leaves the read to those that wait for it
        let (answer, answered) = oneshot::channel::<u64>();
        let mut first = Box::pin(cache.get(3, answered.map(|value| Ok(value.ok()))));
        assert!(first.as_mut().now_or_never().is_none());
        let second = cache.get(3, ready(Ok(Some(8))));
        let (second, ()) = block_on(join(second, async { drop((first, answer)) }));
        assert_eq!(second.unwrap(), Some(8));
        assert!(lock(&cache.state).reads.is_empty());
    }

    #[test]
    fn uncached_read_replaces_the_cached_value() {
        let runtime = FakeRuntime::default();
        let cache = TtlCache::new(runtime.clock.clone());
        assert_eq!(read(&cache, 7), 7);
        assert_eq!(block_on(cache.read(1, ready(Ok(Some(8))))).unwrap(), Some(8));
        assert_eq!(read(&cache, 9), 8);
    }

    #[test]
    fn slow_read_does_not_replace_a_later_one() {
        let runtime = FakeRuntime::default();
        let cache = TtlCache::<u8, u64>::new(runtime.clock.clone());
        let (answer, answered) = oneshot::channel();
        let slow = cache.read(1, answered.map(|value| Ok(value.ok())));
        let rest = async {
            runtime.clock.advance(Duration::from_millis(1));
            assert_eq!(cache.read(1, ready(Ok(Some(8)))).await.unwrap(), Some(8));
            answer.send(7).unwrap();
        };
        assert_eq!(block_on(join(slow, rest)).0.unwrap(), Some(7));
        assert_eq!(read(&cache, 9), 8);
    }

    #[test]
    fn change_invalidates_all_its_caches() {
        let runtime = FakeRuntime::default();
        let [one, two, other] = [(); 3].map(|()| Arc::new(TtlCache::<u8, u64>::new(runtime.clock.clone())));
        let caches = Caches::new([one.clone() as Arc<dyn Invalidate>, two.clone()]);
        for cache in [&one, &two, &other] {
            assert_eq!(read(cache, 7), 7);
        }
        let change = caches.invalidate_after(async { 5 });
        assert_eq!(read(&one, 8), 7, "only after the change");
        assert_eq!(block_on(change), 5);
        assert_eq!([&one, &two, &other].map(|cache| read(cache, 8)), [8, 8, 7]);
        // also if the change panics
        let fails = || -> u8 { panic!("the change fails") };
        let panics = caches.invalidate_after(async move { fails() });
        assert!(thread::spawn(move || block_on(panics)).join().is_err());
        assert_eq!(read(&two, 9), 9);
    }

    #[test]
    fn absence_and_errors_are_not_cached() {
        let cache = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        assert_eq!(block_on(cache.get(1, ready(Ok(None)))).unwrap(), None);
        assert!(block_on(cache.get(1, ready(Err(Error::new(Cause::StoreUnavailable))))).is_err());
        assert_eq!(read(&cache, 7), 7);
    }

    #[test]
    fn read_started_before_a_change_is_not_cached() {
        let cache = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        let (answer, answered) = oneshot::channel();
        let slow = cache.get(1, answered.map(|value| Ok(value.ok())));
        let rest = async {
            cache.invalidate_after(ready(())).await;
            answer.send(7).unwrap();
        };
        assert_eq!(
            block_on(join(slow, rest)).0.unwrap(),
            Some(7),
            "read started before the change was complete"
        );
        assert_eq!(read(&cache, 8), 8);
    }

    #[test]
    fn change_that_panics_invalidates_the_cache() {
        let cache = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        read(&cache, 7);
        let change = cache.invalidate_after(async { panic!("after the commit") });
        let _: Result<(), _> = thread::spawn(move || block_on(change)).join();
        assert_eq!(read(&cache, 8), 8);
    }

    #[test]
    fn expired_values_are_removed_on_insert() {
        let runtime = FakeRuntime::default();
        let cache = TtlCache::<u64, u64>::new(runtime.clock.clone());
        for key in 0..10_000 {
            block_on(cache.get(key, ready(Ok(Some(key))))).unwrap();
            runtime.clock.advance(Duration::from_millis(10));
        }
        // 80 values are fresh
        assert!(lock(&cache.state).values.len() <= 2 * 81, "{}", lock(&cache.state).values.len());
    }

    /// Concurrent slow readers, and a writer that checks after each change that it is visible.
    #[test]
    fn change_is_visible_to_the_next_read_despite_concurrent_reads() {
        let cache = Arc::new(TtlCache::<u8, u64>::new(FakeRuntime::default().clock));
        let (database, done) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
        let read_database = async || {
            let value = database.load(Ordering::SeqCst);
            thread::yield_now();
            Ok(Some(value))
        };
        let mut stale_reads = 0;
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        block_on(cache.get(1, read_database())).unwrap();
                    }
                });
            }
            for _ in 0..5_000 {
                let row = database.clone();
                let changed =
                    block_on(cache.invalidate_after(async move { row.fetch_add(1, Ordering::SeqCst) + 1 }));
                stale_reads += u32::from(block_on(cache.get(1, read_database())).unwrap() != Some(changed));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(stale_reads, 0, "reads without the change");
    }
}
