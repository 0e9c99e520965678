//! What was read a moment ago: a burst of requests asks the database once. Nothing here is older than [`TTL`], and
//! what this process changes is forgotten before the change is answered, so that it holds from the next request on.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{clock::Clock, error::Result};

/// How old an answer may be. Another process's change holds within a second here (contract, section 5); the rest of the
/// second is for the request that asks.
pub(crate) const TTL: Duration = Duration::from_millis(800);

/// How many values there may be before those too old to be used are looked for.
const MIN_SWEEP: usize = 64;

/// Values by key, as they were read.
pub(crate) struct TtlCache<K, V> {
    clock: Arc<dyn Clock>,
    kept: Arc<Mutex<Entry<K, V>>>,
}

struct Entry<K, V> {
    /// How often all was forgotten. What began to be read before that may be what it was before the change.
    forgotten: u64,
    /// When each began to be read, and what it was.
    values: HashMap<K, (Duration, V)>,
    /// At how many values the old ones are looked for.
    sweep_at: usize,
}

/// Forgets when it is dropped: also after a panic.
struct Forgets<K, V>(Arc<Mutex<Entry<K, V>>>);

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let kept = Entry { forgotten: 0, values: HashMap::new(), sweep_at: MIN_SWEEP };
        Self { clock, kept: Arc::new(Mutex::new(kept)) }
    }

    /// What is known of `key`, else what `read` says. Absence and errors are not kept.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) async fn get(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        let now = self.clock.monotonic();
        if let Some((since, value)) = lock(&self.kept).values.get(&key)
            && is_young(*since, now)
        {
            return Ok(Some(value.clone()));
        }
        self.read(key, read).await
    }

    /// What `read` says, whatever is known of `key`. It is kept as [`TtlCache::get`] keeps it.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) async fn read(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        let began = self.clock.monotonic();
        let forgotten = lock(&self.kept).forgotten;
        let found = read.await?;
        if let Some(value) = &found {
            let mut kept = lock(&self.kept);
            // a change that was answered meanwhile is not in it, perhaps
            if kept.forgotten == forgotten {
                kept.keep(key, began, value.clone());
            }
        }
        Ok(found)
    }

    /// `change`, and after it, whatever came of it, everything is forgotten. To be run to its end: a change that is made
    /// while nobody waits for it any more would be forgotten too early.
    pub(crate) fn invalidate_after<T>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static
    where
        K: Send + 'static,
        V: Send + 'static,
        T: Send + 'static,
    {
        let forgets = Forgets(self.kept.clone());
        async move {
            let _forgets = forgets;
            change.await
        }
    }
}

impl<K: Eq + Hash, V> Entry<K, V> {
    fn keep(&mut self, key: K, began: Duration, value: V) {
        // a slow read does not replace what a later one found
        if self.values.get(&key).is_some_and(|(since, _)| *since > began) {
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|_, (since, _)| is_young(*since, began));
            self.sweep_at = (2 * self.values.len()).max(MIN_SWEEP);
        }
        self.values.insert(key, (began, value));
    }
}

impl<K, V> Drop for Forgets<K, V> {
    fn drop(&mut self) {
        let mut kept = lock(&self.0);
        kept.forgotten += 1;
        kept.values.clear();
    }
}

fn is_young(since: Duration, now: Duration) -> bool {
    now.saturating_sub(since) < TTL
}

fn lock<K, V>(kept: &Mutex<Entry<K, V>>) -> MutexGuard<'_, Entry<K, V>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn read(recent: &TtlCache<u8, u64>, says: u64) -> u64 {
        block_on(recent.get(1, ready(Ok(Some(says))))).unwrap().unwrap()
    }

    #[test]
    fn a_value_is_kept_for_less_than_a_second() {
        let runtime = FakeRuntime::default();
        let recent = TtlCache::new(runtime.clock.clone());
        assert_eq!(read(&recent, 7), 7);
        runtime.clock.advance(TTL - Duration::from_millis(1));
        assert_eq!(read(&recent, 8), 7);
        runtime.clock.advance(Duration::from_millis(1));
        assert_eq!(read(&recent, 8), 8);
    }

    #[test]
    fn a_read_past_the_cache_replaces_what_is_cached() {
        let runtime = FakeRuntime::default();
        let recent = TtlCache::new(runtime.clock.clone());
        assert_eq!(read(&recent, 7), 7);
        assert_eq!(block_on(recent.read(1, ready(Ok(Some(8))))).unwrap(), Some(8));
        assert_eq!(read(&recent, 9), 8);
    }

    #[test]
    fn a_slow_read_does_not_replace_a_later_one() {
        let runtime = FakeRuntime::default();
        let recent = TtlCache::<u8, u64>::new(runtime.clock.clone());
        let (answer, answered) = oneshot::channel();
        let slow = recent.read(1, answered.map(|said| Ok(said.ok())));
        let rest = async {
            runtime.clock.advance(Duration::from_millis(1));
            assert_eq!(recent.read(1, ready(Ok(Some(8)))).await.unwrap(), Some(8));
            answer.send(7).unwrap();
        };
        assert_eq!(block_on(join(slow, rest)).0.unwrap(), Some(7));
        assert_eq!(read(&recent, 9), 8);
    }

    #[test]
    fn neither_absence_nor_an_error_is_kept() {
        let recent = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        assert_eq!(block_on(recent.get(1, ready(Ok(None)))).unwrap(), None);
        assert!(block_on(recent.get(1, ready(Err(Error::new(Cause::StoreUnavailable))))).is_err());
        assert_eq!(read(&recent, 7), 7);
    }

    #[test]
    fn what_began_to_be_read_before_a_change_is_not_kept_after_it() {
        let recent = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        let (answer, answered) = oneshot::channel();
        let slow = recent.get(1, answered.map(|said| Ok(said.ok())));
        let rest = async {
            recent.invalidate_after(ready(())).await;
            answer.send(7).unwrap();
        };
        assert_eq!(block_on(join(slow, rest)).0.unwrap(), Some(7), "it was asked before the change was over");
        assert_eq!(read(&recent, 8), 8);
    }

    #[test]
    fn a_change_that_panics_may_have_been_made() {
        let recent = TtlCache::<u8, u64>::new(FakeRuntime::default().clock);
        read(&recent, 7);
        let change = recent.invalidate_after(async { panic!("after the commit") });
        let _: Result<(), _> = thread::spawn(move || block_on(change)).join();
        assert_eq!(read(&recent, 8), 8);
    }

    #[test]
    fn old_values_are_dropped_as_new_ones_come() {
        let runtime = FakeRuntime::default();
        let recent = TtlCache::<u64, u64>::new(runtime.clock.clone());
        for key in 0..10_000 {
            block_on(recent.get(key, ready(Ok(Some(key))))).unwrap();
            runtime.clock.advance(Duration::from_millis(10));
        }
        // 80 are young
        assert!(lock(&recent.kept).values.len() <= 2 * 81, "{}", lock(&recent.kept).values.len());
    }

    /// Readers whose reads take their time, and a writer who looks after each of its changes whether it holds.
    #[test]
    fn a_change_holds_from_the_next_read_whoever_reads_meanwhile() {
        let recent = Arc::new(TtlCache::<u8, u64>::new(FakeRuntime::default().clock));
        let (database, done) = (Arc::new(AtomicU64::new(0)), AtomicBool::new(false));
        let ask = async || {
            let said = database.load(Ordering::SeqCst);
            thread::yield_now();
            Ok(Some(said))
        };
        let mut overtaken = 0;
        thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        block_on(recent.get(1, ask())).unwrap();
                    }
                });
            }
            for _ in 0..5_000 {
                let row = database.clone();
                let changed =
                    block_on(recent.invalidate_after(async move { row.fetch_add(1, Ordering::SeqCst) + 1 }));
                overtaken += u32::from(block_on(recent.get(1, ask())).unwrap() != Some(changed));
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(overtaken, 0, "changes that did not hold");
    }
}
