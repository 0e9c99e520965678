//! Budgets of reads from clusters: how many bytes and objects one request may read, how much memory the reads of one
//! cluster and of all clusters may hold at once, and how many responses are parsed at once.
//!
//! - A request has fixed limits ([`Limits`]); above them it is refused with `too_large`.
//! - All reads share [`ReadBudgets::memory`]. A cluster may hold at most as many bytes as remain free, so n
//!   clusters that send without end leave 1/(n+1) of the memory for another one. Without free memory a read is refused
//!   with `overloaded`.
//! - A large response is parsed on a thread of low priority, with one of a few parse slots, of which one cluster may have
//!   half. No parse slot is held while anything waits for the network.
//! - Of the large reads of a cluster, one runs at a time (`large_reads.rs`).
//!
//! The list cache has its own budget (`cache.rs`): reads never evict a cached list.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use pilothouse_core::{Cause, Error, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    large_reads::{LargeRead, LargeReads},
    parser_threads::ParserThreads,
};

/// Largest response, in bytes, that is parsed on the task that reads it.
pub(crate) const INLINE_PARSE_BYTES: usize = 256 << 10;
/// `Retry-After` of a refusal for lack of memory or parse slots.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Budgets of reads from clusters.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudgets {
    /// Memory that all reads together may hold, in bytes, besides the list cache.
    pub memory: usize,
    /// Limits of one request.
    pub request: Limits,
}

impl Default for ReadBudgets {
    fn default() -> Self {
        let request = Limits { memory: 64 << 20, received: 512 << 20, objects: 250_000 };
        Self { memory: 128 << 20, request }
    }
}

/// Limits of one read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory held at once, in bytes: responses that are not parsed yet, and the retained parts of parsed ones.
    pub memory: usize,
    /// Received bytes.
    pub received: usize,
    /// Number of objects in the responses.
    pub objects: usize,
}

/// Limits of listing all objects of a kind for the list cache, whose own budget counts the rows.
pub(crate) const FILL_LIMITS: Limits = Limits { memory: 64 << 20, received: 16 << 30, objects: 5_000_000 };

/// Budget shared by all clusters.
pub(crate) struct Budget {
    reads: ReadBudgets,
    held: AtomicUsize,
    slots: Arc<Semaphore>,
    slots_per_cluster: usize,
    /// One thread per slot.
    threads: ParserThreads,
}

impl Budget {
    /// Allows `slots` responses to be parsed at once, at most the number of processors.
    ///
    /// # Panics
    /// As [`ParserThreads::start`].
    pub(crate) fn new(reads: ReadBudgets, slots: usize) -> Arc<Self> {
        let slots = slots.min(available_parallelism().map_or(2, NonZero::get)).max(1);
        Arc::new(Self {
            reads,
            held: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(slots)),
            slots_per_cluster: slots.div_ceil(2),
            threads: ParserThreads::start(slots),
        })
    }
}

/// Share of one cluster in the budget.
pub(crate) struct ClusterBudget {
    all: Arc<Budget>,
    held: AtomicUsize,
    slots: Arc<Semaphore>,
    large_reads: LargeReads,
}

impl ClusterBudget {
    pub(crate) fn new(all: &Arc<Budget>) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(all.slots_per_cluster));
        Arc::new(Self { all: all.clone(), held: AtomicUsize::new(0), slots, large_reads: LargeReads::new() })
    }

    /// The meter of a request, with the configured limits.
    pub(crate) fn request(self: &Arc<Self>) -> Arc<Meter> {
        self.meter(self.all.reads.request)
    }

    /// The meter of a read with these limits.
    pub(crate) fn meter(self: &Arc<Self>, limits: Limits) -> Arc<Meter> {
        let counter = AtomicUsize::default;
        Arc::new(Meter {
            cluster: self.clone(),
            limits,
            held: counter(),
            received: counter(),
            objects: counter(),
            large_read: LargeRead::default(),
        })
    }

    /// Waits for a parse slot.
    ///
    /// # Errors
    /// `Overloaded` when none is free by the deadline.
    pub(crate) async fn parse_slot(&self, deadline: Instant) -> Result<ParseSlot> {
        // the cluster's own semaphore first, so that a cluster queues for the shared one at most with its share
        let slots = async {
            let of_cluster = self.slots.clone().acquire_owned().await.ok()?;
            Some(ParseSlot {
                _of_cluster: of_cluster,
                _of_all: self.all.slots.clone().acquire_owned().await.ok()?,
            })
        };
        timeout_at(deadline, slots).await.ok().flatten().ok_or_else(overloaded)
    }

    /// Runs a CPU-bound job: on the caller's task for at most `inline` bytes, else on a parser thread with a parse slot.
    ///
    /// # Errors
    /// As [`Self::parse_slot`]; `Internal` when the job panics.
    pub(crate) async fn run_job<R: Send + 'static>(
        &self,
        bytes: usize,
        inline: usize,
        deadline: Instant,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        if bytes <= inline {
            return Ok(job());
        }
        let slot = self.parse_slot(deadline).await?;
        let job = move || {
            let done = job();
            drop(slot);
            done
        };
        self.all.threads.run(job).await
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Slot to parse one response. Released when dropped.
pub(crate) struct ParseSlot {
    _of_cluster: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The refusal for lack of memory or slots.
pub(crate) fn overloaded() -> Error {
    Error::new(Cause::Overloaded).retry_after(RETRY_AFTER)
}

/// Meter of one read. Releases all of its memory when dropped.
pub(crate) struct Meter {
    cluster: Arc<ClusterBudget>,
    limits: Limits,
    held: AtomicUsize,
    received: AtomicUsize,
    objects: AtomicUsize,
    large_read: LargeRead,
}

impl Meter {
    /// Names the request, so that this read is limited like every large read. The name is equal for requests that read
    /// the same objects.
    ///
    /// # Errors
    /// `TooLarge` when the same request was too large a short time ago.
    pub(crate) fn begin(&self, request: String) -> Result<()> {
        self.large_read.begin(&self.cluster.large_reads, request)
    }

    /// Whether a read that ended with `cause` (none: a success) has to start again.
    ///
    /// # Errors
    /// As [`LargeRead::restart`].
    pub(crate) async fn restart(&self, cause: Option<Cause>, deadline: Instant) -> Result<bool> {
        self.large_read.restart(&self.cluster.large_reads, cause, deadline).await
    }

    /// An empty reservation for a part of the read.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { meter: self.clone(), bytes: 0 }
    }

    /// Counts bytes received.
    ///
    /// # Errors
    /// `TooLarge` when the read exceeds its limit.
    pub(crate) fn received(&self, bytes: usize) -> Result<()> {
        add_within(&self.received, bytes, self.limits.received)
    }

    /// Counts objects of a response, whose bytes were counted before.
    ///
    /// # Errors
    /// `TooLarge` when the read exceeds its limit; as [`LargeRead::check`].
    pub(crate) fn objects(&self, count: usize) -> Result<()> {
        add_within(&self.objects, count, self.limits.objects)?;
        self.large_read.check(&self.cluster.large_reads, self.received.load(Ordering::Relaxed))
    }

    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.cluster.held.fetch_add(bytes, Ordering::Relaxed);
        self.cluster.all.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.cluster.release(bytes);
    }

    fn check(&self) -> Result<()> {
        if self.held.load(Ordering::Relaxed) > self.limits.memory {
            return Err(Error::new(Cause::TooLarge));
        }
        let free =
            self.cluster.all.reads.memory.saturating_sub(self.cluster.all.held.load(Ordering::Relaxed));
        if self.cluster.held.load(Ordering::Relaxed) > free {
            return Err(overloaded());
        }
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.cluster.release(*self.held.get_mut());
    }
}

fn add_within(counter: &AtomicUsize, more: usize, limit: usize) -> Result<()> {
    if counter.fetch_add(more, Ordering::Relaxed).saturating_add(more) > limit {
        return Err(Error::new(Cause::TooLarge));
    }
    Ok(())
}

/// Memory reserved for a part of a read. Released when dropped.
pub(crate) struct Reservation {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Reservation {
    /// Reserves more memory.
    ///
    /// # Errors
    /// `TooLarge` when the read exceeds its limit; `Overloaded` when the reads of the cluster leave too little to
    /// others. Then nothing is reserved.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<()> {
        self.add_unchecked(bytes);
        self.meter.check().inspect_err(|_| {
            self.meter.release(bytes);
            self.bytes -= bytes;
        })
    }

    /// Reserves more memory without a check: the response to a write must not be refused.
    pub(crate) fn add_unchecked(&mut self, bytes: usize) {
        self.meter.add(bytes);
        self.bytes += bytes;
    }

    /// Changes the reservation to this size.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(crate) fn set(&mut self, bytes: usize) -> Result<()> {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            self.add(more)
        } else {
            self.meter.release(self.bytes - bytes);
            self.bytes = bytes;
            Ok(())
        }
    }

    /// Keeps the memory reserved until the meter is dropped.
    pub(crate) fn retain(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.meter.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn cause<T>(result: Result<T>) -> Option<Cause> {
        result.err().map(|error| error.cause)
    }

    fn held(budget: &Arc<Budget>) -> usize {
        budget.held.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn request_over_memory_limit_is_refused_and_releases_it() {
        let budget = Budget::new(ReadBudgets::default(), 4);
        let cluster = ClusterBudget::new(&budget);
        let limits = Limits { memory: 3 * MIB, received: 10 * MIB, objects: 10 };
        let meter = cluster.meter(limits);
        let mut first = meter.reserve();
        first.add(2 * MIB).unwrap();
        let mut second = meter.reserve();
        assert_eq!(cause(second.add(2 * MIB)), Some(Cause::TooLarge));
        drop(first);
        second.add(2 * MIB).unwrap();
        second.set(MIB).unwrap();
        assert_eq!(held(&budget), MIB);
        second.retain();
        assert_eq!(held(&budget), MIB, "memory stays reserved until the meter is dropped");
        assert_eq!(cause(meter.received(8 * MIB)), None);
        assert_eq!(cause(meter.received(8 * MIB)), Some(Cause::TooLarge));
        assert_eq!((cause(meter.objects(10)), cause(meter.objects(1))), (None, Some(Cause::TooLarge)));
        drop(meter);
        assert_eq!((held(&budget), cluster.held.load(Ordering::Relaxed)), (0, 0));
    }

    /// A new cluster still finds free memory after any number of clusters have taken all they can.
    #[tokio::test]
    async fn cluster_may_hold_as_much_as_it_leaves_free() {
        let budget = Budget::new(ReadBudgets::default(), 4);
        let mut reservations = Vec::new();
        for others in 0..5 {
            let cluster = ClusterBudget::new(&budget);
            let mut count = 0;
            loop {
                let mut held = cluster.request().reserve();
                if cause(held.add(MIB)) == Some(Cause::Overloaded) {
                    break;
                }
                count += 1;
                reservations.push(held);
            }
            assert!(count > 0, "after {others} other clusters");
        }
        let mut healthy = ClusterBudget::new(&budget).request().reserve();
        assert_eq!(cause(healthy.add(100 << 10)), None);
        drop(reservations);
        assert_eq!(cause(healthy.add(60 * MIB)), None);
    }

    #[tokio::test]
    async fn cluster_takes_at_most_half_of_the_parse_slots() {
        let budget = Budget::new(ReadBudgets::default(), 4);
        let (busy, other) = (ClusterBudget::new(&budget), ClusterBudget::new(&budget));
        let now = Instant::now();
        let mut slots = Vec::new();
        while let Ok(slot) = busy.parse_slot(now).await {
            slots.push(slot);
        }
        assert_eq!(slots.len(), budget.slots_per_cluster);
        if budget.slots_per_cluster > 1 || available_parallelism().unwrap().get() > 1 {
            assert!(other.parse_slot(now).await.is_ok(), "a slot is left for another cluster");
        }
        assert_eq!(cause(busy.parse_slot(now).await), Some(Cause::Overloaded));
        slots.pop();
        assert!(busy.parse_slot(now).await.is_ok());
    }

    #[tokio::test]
    async fn large_response_is_parsed_on_parser_thread() {
        let cluster = ClusterBudget::new(&Budget::new(ReadBudgets::default(), 4));
        let current_thread = std::thread::current().id();
        let end = Instant::now() + Duration::from_secs(60);
        let thread = || std::thread::current().id();
        assert_eq!(cluster.run_job(10, 10, end, thread).await.unwrap(), current_thread);
        assert_ne!(cluster.run_job(11, 10, end, thread).await.unwrap(), current_thread);
        let panicking = cluster.run_job(11, 10, end, || panic!("on purpose")).await;
        assert_eq!(cause(panicking), Some(Cause::Internal));
        assert!(cluster.parse_slot(end).await.is_ok(), "the slot is released");
    }
}
