//! Budgets of reads from clusters: how many bytes and objects one request may read, how much memory the reads of one
//! cluster and of all clusters may hold at once, and how many answers are parsed at once.
//!
//! - A request has fixed limits ([`Limits`]); over them it is refused with `too_large`.
//! - All reads share [`ReadBudgets::memory`]. A cluster may hold as much of it as it leaves free for all others, so however many
//!   clusters send without end, there is room for the next one. Without room a read is refused with `overloaded`.
//! - Parsing of a large answer runs on a blocking thread, after taking one of a few turns, of which one cluster may have
//!   half. No turn is held while anything waits for the network.
//!
//! The list cache has a budget of its own (`kept.rs`): reads never evict a cached list.

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
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// An answer of at most so many bytes is parsed where it is awaited.
pub(crate) const INLINE: usize = 256 << 10;
/// When to try again after a refusal for lack of memory or turns.
const RETRY: Duration = Duration::from_secs(1);

/// What may be read from clusters.
#[derive(Clone, Copy, Debug)]
pub struct ReadBudgets {
    /// The memory that all reads may hold at once, in bytes, besides the list cache.
    pub memory: usize,
    /// What one request may cost.
    pub request: Limits,
}

impl Default for ReadBudgets {
    fn default() -> Self {
        let request = Limits { memory: 64 << 20, received: 512 << 20, objects: 250_000 };
        Self { memory: 128 << 20, request }
    }
}

/// What one read may cost at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory held at once: answers that are not parsed yet, and what is kept of the parsed ones.
    pub memory: usize,
    /// Bytes received.
    pub received: usize,
    /// Objects in the answers.
    pub objects: usize,
}

/// Reading all objects of a kind into the list cache, whose own budget counts the rows.
pub(crate) const FILL: Limits = Limits { memory: 64 << 20, received: 16 << 30, objects: 5_000_000 };

/// The budget of all clusters.
pub(crate) struct Budget {
    reads: ReadBudgets,
    held: AtomicUsize,
    turns: Arc<Semaphore>,
    turns_of_cluster: usize,
    /// Where answers are parsed.
    runtime: Handle,
}

impl Budget {
    /// At most `turns` answers are parsed at once, and never more than there are processors.
    pub(crate) fn new(reads: ReadBudgets, turns: usize, runtime: Handle) -> Arc<Self> {
        let turns = turns.min(available_parallelism().map_or(2, NonZero::get)).max(1);
        Arc::new(Self {
            reads,
            held: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(turns)),
            turns_of_cluster: turns.div_ceil(2),
            runtime,
        })
    }
}

/// The budget of one cluster.
pub(crate) struct ClusterBudget {
    all: Arc<Budget>,
    held: AtomicUsize,
    turns: Arc<Semaphore>,
}

impl ClusterBudget {
    pub(crate) fn new(all: &Arc<Budget>) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(all.turns_of_cluster));
        Arc::new(Self { all: all.clone(), held: AtomicUsize::new(0), turns })
    }

    /// The meter of a request.
    pub(crate) fn request(self: &Arc<Self>) -> Arc<Meter> {
        self.meter(self.all.reads.request)
    }

    /// The meter of one read.
    pub(crate) fn meter(self: &Arc<Self>, limits: Limits) -> Arc<Meter> {
        let zero = AtomicUsize::default;
        Arc::new(Meter { cluster: self.clone(), limits, held: zero(), received: zero(), objects: zero() })
    }

    /// Waits for a turn to parse.
    ///
    /// # Errors
    /// `Overloaded` when there is none until the deadline.
    pub(crate) async fn parse_slot(&self, deadline: Instant) -> Result<ParseSlot> {
        // the cluster's first, so that at most its share waits among all
        let turns = async {
            let of_cluster = self.turns.clone().acquire_owned().await.ok()?;
            Some(ParseSlot {
                _of_cluster: of_cluster,
                _of_all: self.all.turns.clone().acquire_owned().await.ok()?,
            })
        };
        timeout_at(deadline, turns).await.ok().flatten().ok_or_else(overloaded)
    }

    /// Runs a job that takes time: here when it is about at most `inline` bytes, else on a blocking thread, in turn.
    ///
    /// # Errors
    /// As [`Self::parse_slot`]; `Internal` when the job panics.
    pub(crate) async fn work<R: Send + 'static>(
        &self,
        bytes: usize,
        inline: usize,
        deadline: Instant,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R> {
        if bytes <= inline {
            return Ok(job());
        }
        let turn = self.parse_slot(deadline).await?;
        let job = move || {
            let done = job();
            drop(turn);
            done
        };
        let done = self.all.runtime.spawn_blocking(job).await;
        done.map_err(|_| Error::internal("parsing a response panicked"))
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The right to parse; given back when it is dropped.
pub(crate) struct ParseSlot {
    _of_cluster: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

fn overloaded() -> Error {
    Error::new(Cause::Overloaded).retry_after(RETRY)
}

/// Counts what one read costs. Dropped, all of its memory is given back.
pub(crate) struct Meter {
    cluster: Arc<ClusterBudget>,
    limits: Limits,
    held: AtomicUsize,
    received: AtomicUsize,
    objects: AtomicUsize,
}

impl Meter {
    /// Memory for a part of the read: nothing yet.
    pub(crate) fn hold(self: &Arc<Self>) -> Reservation {
        Reservation { meter: self.clone(), bytes: 0 }
    }

    /// Counts bytes received.
    ///
    /// # Errors
    /// `TooLarge` when the read has received more than it may.
    pub(crate) fn received(&self, bytes: usize) -> Result<()> {
        within(&self.received, bytes, self.limits.received)
    }

    /// Counts objects of an answer.
    ///
    /// # Errors
    /// `TooLarge` when there are more than the read may have.
    pub(crate) fn objects(&self, count: usize) -> Result<()> {
        within(&self.objects, count, self.limits.objects)
    }

    fn take(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.cluster.held.fetch_add(bytes, Ordering::Relaxed);
        self.cluster.all.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.cluster.give_back(bytes);
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
        self.cluster.give_back(*self.held.get_mut());
    }
}

fn within(counter: &AtomicUsize, more: usize, most: usize) -> Result<()> {
    if counter.fetch_add(more, Ordering::Relaxed).saturating_add(more) > most {
        return Err(Error::new(Cause::TooLarge));
    }
    Ok(())
}

/// Memory that a part of a read holds; given back when it is dropped.
pub(crate) struct Reservation {
    meter: Arc<Meter>,
    bytes: usize,
}

impl Reservation {
    /// Takes more.
    ///
    /// # Errors
    /// `TooLarge` when the read holds more than it may; `Overloaded` when the reads of its cluster leave too little to
    /// others. Then nothing was taken.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<()> {
        self.add_anyway(bytes);
        self.meter.check().inspect_err(|_| {
            self.meter.give_back(bytes);
            self.bytes -= bytes;
        })
    }

    /// Takes more, for what cannot be refused any more: the answer to a change.
    pub(crate) fn add_anyway(&mut self, bytes: usize) {
        self.meter.take(bytes);
        self.bytes += bytes;
    }

    /// Holds so much from now on.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub(crate) fn set(&mut self, bytes: usize) -> Result<()> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.add(more),
            None => {
                self.meter.give_back(self.bytes - bytes);
                self.bytes = bytes;
                Ok(())
            }
        }
    }

    /// Is held until the whole read is over.
    pub(crate) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.meter.give_back(self.bytes);
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
    async fn a_request_over_its_memory_is_refused_and_gives_all_of_it_back() {
        let budget = Budget::new(ReadBudgets::default(), 4, Handle::current());
        let cluster = ClusterBudget::new(&budget);
        let limits = Limits { memory: 3 * MIB, received: 10 * MIB, objects: 10 };
        let meter = cluster.meter(limits);
        let mut first = meter.hold();
        first.add(2 * MIB).unwrap();
        let mut second = meter.hold();
        assert_eq!(cause(second.add(2 * MIB)), Some(Cause::TooLarge));
        drop(first);
        second.add(2 * MIB).unwrap();
        second.set(MIB).unwrap();
        assert_eq!(held(&budget), MIB);
        second.keep();
        assert_eq!(held(&budget), MIB, "until the read is over");
        assert_eq!(cause(meter.received(8 * MIB)), None);
        assert_eq!(cause(meter.received(8 * MIB)), Some(Cause::TooLarge));
        assert_eq!((cause(meter.objects(10)), cause(meter.objects(1))), (None, Some(Cause::TooLarge)));
        drop(meter);
        assert_eq!((held(&budget), cluster.held.load(Ordering::Relaxed)), (0, 0));
    }

    /// However many clusters take all they can, the next one still finds as much as each of them has.
    #[tokio::test]
    async fn a_cluster_may_hold_what_it_leaves_to_the_others() {
        let budget = Budget::new(ReadBudgets::default(), 4, Handle::current());
        let mut greedy = Vec::new();
        for others in 0..5 {
            let cluster = ClusterBudget::new(&budget);
            let mut of_cluster = 0;
            loop {
                let mut held = cluster.request().hold();
                if cause(held.add(MIB)) == Some(Cause::Overloaded) {
                    break;
                }
                of_cluster += 1;
                greedy.push(held);
            }
            assert!(of_cluster > 0, "after {others} others");
        }
        let mut healthy = ClusterBudget::new(&budget).request().hold();
        assert_eq!(cause(healthy.add(100 << 10)), None);
        drop(greedy);
        assert_eq!(cause(healthy.add(60 * MIB)), None);
    }

    #[tokio::test]
    async fn one_cluster_takes_at_most_half_of_the_turns() {
        let budget = Budget::new(ReadBudgets::default(), 4, Handle::current());
        let (busy, other) = (ClusterBudget::new(&budget), ClusterBudget::new(&budget));
        let now = Instant::now();
        let mut turns = Vec::new();
        while let Ok(turn) = busy.parse_slot(now).await {
            turns.push(turn);
        }
        assert_eq!(turns.len(), budget.turns_of_cluster);
        if budget.turns_of_cluster > 1 || available_parallelism().unwrap().get() > 1 {
            assert!(other.parse_slot(now).await.is_ok(), "a turn is left");
        }
        assert_eq!(cause(busy.parse_slot(now).await), Some(Cause::Overloaded));
        turns.pop();
        assert!(busy.parse_slot(now).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_large_is_parsed_on_another_thread() {
        let cluster = ClusterBudget::new(&Budget::new(ReadBudgets::default(), 4, Handle::current()));
        let here = std::thread::current().id();
        let end = Instant::now() + Duration::from_secs(60);
        let thread = || std::thread::current().id();
        assert_eq!(cluster.work(10, 10, end, thread).await.unwrap(), here);
        assert_ne!(cluster.work(11, 10, end, thread).await.unwrap(), here);
        let panicking = cluster.work(11, 10, end, || panic!("as a test")).await;
        assert_eq!(cause(panicking), Some(Cause::Internal));
        assert!(cluster.parse_slot(end).await.is_ok(), "its turn is given back");
    }
}
