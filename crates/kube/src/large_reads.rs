//! Large reads of one cluster: at most one runs at a time, and a request that was too large is refused for a while
//! without reading. Otherwise callers that repeat a request for an endless list keep the processors busy with decrypting
//! and parsing, and delay requests for other clusters.
//!
//! A read is the uncached part of one client request: a page of a list, or the details of a workload. It becomes large
//! with more than [`LARGE_READ_BYTES`] received, and then needs the cluster's slot for large reads. Without the slot it
//! ends, releases its memory, waits for the slot and starts again, so that the reads that wait hold no memory.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pilothouse_core::{Cause, Error, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::budget::overloaded;

/// Bytes received by a read above which the read is large.
pub(crate) const LARGE_READ_BYTES: usize = 4 << 20;
/// Time for which a request that was too large is refused without reading.
const REFUSAL_DURATION: Duration = Duration::from_secs(30);
/// Maximum number of refused requests per cluster. Further requests that are too large are read each time.
const MAX_REFUSED: usize = 64;

/// Large reads of one cluster.
pub(crate) struct LargeReads {
    slot: Arc<Semaphore>,
    /// Requests that were too large, and when each was.
    refused: Mutex<HashMap<String, Instant>>,
}

impl LargeReads {
    pub(crate) fn new() -> Self {
        Self { slot: Arc::new(Semaphore::new(1)), refused: Mutex::default() }
    }

    /// Refuses a request that was too large less than [`REFUSAL_DURATION`] ago.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(crate) fn check(&self, request: &str, now: Instant) -> Result<()> {
        match self.refused().get(request) {
            Some(since) if is_refused(*since, now) => Err(Error::new(Cause::TooLarge)),
            _ => Ok(()),
        }
    }

    /// Records that a request was too large.
    fn refuse(&self, request: &str, now: Instant) {
        let mut refused = self.refused();
        refused.retain(|_, since| is_refused(*since, now));
        // a request that is refused already keeps its time
        if refused.len() < MAX_REFUSED && !refused.contains_key(request) {
            refused.insert(request.to_owned(), now);
        }
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_refused(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < REFUSAL_DURATION
}

/// State of one read. A read without a request name is never large.
#[derive(Default)]
pub(crate) struct LargeRead {
    request: OnceLock<String>,
    /// The cluster's slot, from the time at which the read became large until the read is dropped.
    slot: OnceLock<OwnedSemaphorePermit>,
    /// Whether the read ended because another one has the slot.
    interrupted: AtomicBool,
}

impl LargeRead {
    /// Sets the name of the request, which is equal for requests that read the same objects.
    ///
    /// # Errors
    /// As [`LargeReads::check`].
    pub(crate) fn begin(&self, reads: &LargeReads, request: String) -> Result<()> {
        reads.check(&request, Instant::now())?;
        // a read has one name
        let _ = self.request.set(request);
        Ok(())
    }

    /// Checks whether the read may go on after `received` bytes. Takes the slot when the read becomes large.
    ///
    /// # Errors
    /// `Overloaded` when another read has the slot; then [`Self::restart`] waits for it. As [`LargeReads::check`].
    pub(crate) fn check(&self, reads: &LargeReads, received: usize) -> Result<()> {
        let Some(request) = self.request.get() else { return Ok(()) };
        if received <= LARGE_READ_BYTES || self.slot.get().is_some() {
            return Ok(());
        }
        // the same request may have ended since this one began
        reads.check(request, Instant::now())?;
        let Ok(slot) = reads.slot.clone().try_acquire_owned() else {
            self.interrupted.store(true, Ordering::Relaxed);
            return Err(overloaded());
        };
        // concurrent lists of one read share its slot
        let _ = self.slot.set(slot);
        Ok(())
    }

    /// Whether a read that ended with `cause` (none: a success) has to start again because it was interrupted. Then
    /// waits for the slot. Records a request that was too large.
    ///
    /// # Errors
    /// `Overloaded` when the slot is not free by the deadline; `TooLarge` when the same request was too large
    /// meanwhile.
    pub(crate) async fn restart(
        &self,
        reads: &LargeReads,
        cause: Option<Cause>,
        deadline: Instant,
    ) -> Result<bool> {
        let Some(request) = self.request.get() else { return Ok(false) };
        if cause == Some(Cause::TooLarge) {
            reads.refuse(request, Instant::now());
            return Ok(false);
        }
        let interrupted = self.interrupted.load(Ordering::Relaxed) && self.slot.get().is_none();
        if !interrupted || cause != Some(Cause::Overloaded) {
            return Ok(false);
        }
        let Ok(Ok(slot)) = timeout_at(deadline, reads.slot.clone().acquire_owned()).await else {
            return Err(overloaded());
        };
        reads.check(request, Instant::now())?;
        let _ = self.slot.set(slot);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reads: &LargeReads, request: &str) -> LargeRead {
        let read = LargeRead::default();
        read.begin(reads, request.to_owned()).unwrap();
        read
    }

    fn cause<T>(result: Result<T>) -> Option<Cause> {
        result.err().map(|error| error.cause)
    }

    #[tokio::test]
    async fn second_large_read_waits_for_the_first_and_starts_again() {
        let reads = LargeReads::new();
        let (first, second) = (read(&reads, "pods"), read(&reads, "events"));
        for small in [&first, &second] {
            assert_eq!(small.check(&reads, LARGE_READ_BYTES), Ok(()));
        }
        let large = LARGE_READ_BYTES + 1;
        assert_eq!(first.check(&reads, large), Ok(()));
        assert_eq!(first.check(&reads, large), Ok(()), "the first read keeps the slot");
        assert_eq!(cause(second.check(&reads, large)), Some(Cause::Overloaded));

        let overloaded = Some(Cause::Overloaded);
        let now = Instant::now();
        assert_eq!(first.restart(&reads, overloaded, now).await, Ok(false), "for another reason");
        assert_eq!(second.restart(&reads, Some(Cause::ForbiddenByCluster), now).await, Ok(false));
        assert_eq!(cause(second.restart(&reads, overloaded, now).await), overloaded, "the slot is taken");
        drop(first);
        assert_eq!(second.restart(&reads, overloaded, now).await, Ok(true));
        assert_eq!(second.check(&reads, large), Ok(()));
        assert_eq!(second.restart(&reads, overloaded, now).await, Ok(false), "at most once");
        assert_eq!(second.restart(&reads, None, now).await, Ok(false));
    }

    #[tokio::test]
    async fn read_without_request_name_is_never_large() {
        let reads = LargeReads::new();
        let (named, fill) = (read(&reads, "pods"), LargeRead::default());
        assert_eq!(named.check(&reads, usize::MAX), Ok(()));
        assert_eq!(fill.check(&reads, usize::MAX), Ok(()));
        assert_eq!(fill.restart(&reads, Some(Cause::TooLarge), Instant::now()).await, Ok(false));
        assert!(reads.refused().is_empty());
    }

    #[tokio::test]
    async fn request_that_was_too_large_is_refused_for_30_s() {
        let reads = LargeReads::new();
        let [first, waiting, late] = [(); 3].map(|()| read(&reads, "pods"));
        let large = LARGE_READ_BYTES + 1;
        assert_eq!(first.check(&reads, large), Ok(()));
        assert_eq!(cause(waiting.check(&reads, large)), Some(Cause::Overloaded));
        let now = Instant::now();
        assert_eq!(first.restart(&reads, Some(Cause::TooLarge), now).await, Ok(false));
        drop(first);
        let waited = waiting.restart(&reads, Some(Cause::Overloaded), now).await;
        assert_eq!(cause(waited), Some(Cause::TooLarge), "the read that waited does not start again");
        assert_eq!(cause(LargeRead::default().begin(&reads, "pods".to_owned())), Some(Cause::TooLarge));
        assert_eq!(cause(late.check(&reads, large)), Some(Cause::TooLarge), "a read that began before");
        assert_eq!(reads.check("events", Instant::now()), Ok(()));
        assert_eq!(reads.check("pods", Instant::now() + REFUSAL_DURATION), Ok(()));
    }

    #[tokio::test]
    async fn number_of_refused_requests_is_limited() {
        let (reads, now) = (LargeReads::new(), Instant::now());
        for n in 0..2 * MAX_REFUSED {
            reads.refuse(&n.to_string(), now);
        }
        assert_eq!(reads.refused().len(), MAX_REFUSED);
        let later = now + REFUSAL_DURATION;
        reads.refuse("later", later);
        assert_eq!(reads.refused().len(), 1, "older ones have expired");
        assert_eq!(cause(reads.check("later", later)), Some(Cause::TooLarge));
    }
}
