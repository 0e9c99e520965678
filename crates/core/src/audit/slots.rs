//! Slot pool: a fixed number of revocable slots for exports and verifications. A slot that is held but idle can be
//! revoked for another caller.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
};

/// Pool of slots.
#[derive(Clone)]
pub(super) struct SlotPool {
    held: Arc<Mutex<Vec<HeldSlot>>>,
    capacity: usize,
    /// Idle time after which a slot may be revoked when all slots are held.
    idle_timeout: Duration,
    clock: Arc<dyn Clock>,
}

struct HeldSlot {
    id: Arc<()>,
    /// Time of the last use, by the monotonic clock.
    last_used: Duration,
}

/// Guard of a held slot. Released on drop, unless the pool revokes it before.
pub(super) struct RevocableSlot {
    id: Arc<()>,
    pool: SlotPool,
}

fn overloaded() -> Error {
    Error::new(Cause::Overloaded).retry_after(Duration::from_secs(5))
}

impl SlotPool {
    pub(super) fn new(capacity: usize, idle_timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { held: Arc::default(), capacity, idle_timeout, clock }
    }

    /// Acquires a slot. When all are held, revokes the one that has been idle longest, if it has been idle for the
    /// timeout.
    ///
    /// # Errors
    /// `Overloaded` when all slots are in use.
    pub(super) fn acquire(&self) -> Result<RevocableSlot> {
        let now = self.clock.monotonic();
        let mut held = self.lock();
        if held.len() >= self.capacity {
            let is_idle = |slot: &&HeldSlot| now.saturating_sub(slot.last_used) >= self.idle_timeout;
            let idlest = held.iter().filter(is_idle).min_by_key(|slot| slot.last_used);
            let id = idlest.ok_or_else(overloaded)?.id.clone();
            held.retain(|slot| !Arc::ptr_eq(&slot.id, &id));
        }
        let id = Arc::new(());
        held.push(HeldSlot { id: id.clone(), last_used: now });
        Ok(RevocableSlot { id, pool: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HeldSlot>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RevocableSlot {
    /// Marks the slot as used now.
    ///
    /// # Errors
    /// `Overloaded` when the slot was revoked.
    pub(super) fn touch(&self) -> Result<()> {
        let mut held = self.pool.lock();
        let slot = held.iter_mut().find(|slot| Arc::ptr_eq(&slot.id, &self.id)).ok_or_else(overloaded)?;
        slot.last_used = self.pool.clock.monotonic();
        Ok(())
    }
}

impl Drop for RevocableSlot {
    fn drop(&mut self) {
        self.pool.lock().retain(|slot| !Arc::ptr_eq(&slot.id, &self.id));
    }
}
