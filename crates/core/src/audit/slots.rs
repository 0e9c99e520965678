//! Places for work of which only so much may be under way at once. Nobody keeps others out by holding one unused.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
};

/// A number of places, each taken by one at a time.
#[derive(Clone)]
pub(super) struct SlotPool {
    taken: Arc<Mutex<Vec<Taken>>>,
    most: usize,
    /// After how long unused a place may be taken away, when all are taken.
    unused: Duration,
    clock: Arc<dyn Clock>,
}

struct Taken {
    id: Arc<()>,
    /// When it was last used, by the monotonic clock.
    used: Duration,
}

/// A place that is taken, until this is dropped or it is taken away.
pub(super) struct Slot {
    id: Arc<()>,
    of: SlotPool,
}

fn overloaded() -> Error {
    Error::new(Cause::Overloaded).retry_after(Duration::from_secs(5))
}

impl SlotPool {
    pub(super) fn new(most: usize, unused: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { taken: Arc::default(), most, unused, clock }
    }

    /// Takes one; when all are taken, the one that has been unused for longest, if it was for long.
    ///
    /// # Errors
    /// `Overloaded` when all are in use.
    pub(super) fn take(&self) -> Result<Slot> {
        let now = self.clock.monotonic();
        let mut taken = self.lock();
        if taken.len() >= self.most {
            let is_unused = |one: &&Taken| now.saturating_sub(one.used) >= self.unused;
            let oldest = taken.iter().filter(is_unused).min_by_key(|one| one.used).ok_or_else(overloaded)?;
            let id = oldest.id.clone();
            taken.retain(|one| !Arc::ptr_eq(&one.id, &id));
        }
        let id = Arc::new(());
        taken.push(Taken { id: id.clone(), used: now });
        Ok(Slot { id, of: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Says that it is in use.
    ///
    /// # Errors
    /// `Overloaded` when it was taken away.
    pub(super) fn is_used(&self) -> Result<()> {
        let mut taken = self.of.lock();
        let one = taken.iter_mut().find(|one| Arc::ptr_eq(&one.id, &self.id)).ok_or_else(overloaded)?;
        one.used = self.of.clock.monotonic();
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.of.lock().retain(|one| !Arc::ptr_eq(&one.id, &self.id));
    }
}
