//! Concurrency limiter: counts the slots that are held, per key and in total, and refuses one more at a limit.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Limiter of concurrent work.
#[derive(Clone)]
pub(crate) struct Limiter<K> {
    held: Arc<Mutex<Held<K>>>,
    per_key: usize,
    total: usize,
}

struct Held<K> {
    by_key: HashMap<K, usize>,
    total: usize,
}

/// Guard of one or several held slots. Dropping it releases them.
pub(crate) struct LimiterSlot<K: Eq + Hash> {
    held: Arc<Mutex<Held<K>>>,
    key: K,
    count: usize,
}

impl<K: Copy + Eq + Hash> Limiter<K> {
    /// Creates a limiter of `per_key` slots for each key and `total` slots for all keys.
    pub(crate) fn new(per_key: usize, total: usize) -> Self {
        let held = Held { by_key: HashMap::new(), total: 0 };
        Self { held: Arc::new(Mutex::new(held)), per_key, total }
    }

    /// Acquires a slot. `None` at a limit.
    pub(crate) fn acquire(&self, key: K) -> Option<LimiterSlot<K>> {
        self.acquire_many(key, 1)
    }

    /// Acquires `count` slots. `None` if they would exceed a limit.
    pub(crate) fn acquire_many(&self, key: K, count: usize) -> Option<LimiterSlot<K>> {
        let mut held = lock(&self.held);
        let by_key = held.by_key.get(&key).copied().unwrap_or_default().saturating_add(count);
        let total = held.total.saturating_add(count);
        if by_key > self.per_key || total > self.total {
            return None;
        }
        held.by_key.insert(key, by_key);
        held.total = total;
        Some(LimiterSlot { held: self.held.clone(), key, count })
    }
}

impl<K: Eq + Hash> Drop for LimiterSlot<K> {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.total -= self.count;
        if let Some(count) = held.by_key.get_mut(&self.key) {
            *count -= self.count;
            if *count == 0 {
                held.by_key.remove(&self.key);
            }
        }
    }
}

fn lock<K>(held: &Mutex<Held<K>>) -> MutexGuard<'_, Held<K>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_limited_per_key_and_in_total_and_released_on_drop() {
        let limiter = Limiter::new(2, 3);
        let first = limiter.acquire('a').unwrap();
        let _second = limiter.acquire('a').unwrap();
        assert!(limiter.acquire('a').is_none(), "limit of two slots per key");
        let third = limiter.acquire('b').unwrap();
        assert!(limiter.acquire('b').is_none(), "limit of three slots in total");
        drop(third);
        assert!(limiter.acquire('a').is_none());
        drop(first);
        assert!(limiter.acquire('a').is_some());
        assert!(limiter.acquire('b').is_some());
        assert_eq!(lock(&limiter.held).by_key.len(), 1, "keys without slots are removed");
    }

    #[test]
    fn several_slots_are_acquired_and_released_at_once() {
        let limiter = Limiter::new(5, 8);
        let first = limiter.acquire_many('a', 3).unwrap();
        assert!(limiter.acquire_many('a', 3).is_none(), "limit of five slots per key");
        let _second = limiter.acquire_many('b', 5).unwrap();
        assert!(limiter.acquire('c').is_none(), "limit of eight slots in total");
        assert!(limiter.acquire_many('c', usize::MAX).is_none());
        assert!(limiter.acquire_many('c', 0).is_some());
        drop(first);
        assert!(limiter.acquire_many('a', 3).is_some());
        assert_eq!(lock(&limiter.held).by_key.len(), 1, "keys without slots are removed");
    }
}
