//! Work that runs once for all callers who ask for the same (single flight).

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use pilothouse_core::{Cause, Error, Result};
use tokio::{runtime::Handle, time::Instant};
use tracing::Instrument;

/// How long an answer is kept at most.
pub(crate) const KEPT: Duration = Duration::from_secs(1);

/// The answer of a flight, for each who waits for it.
pub(crate) type Answer<V> = Shared<BoxFuture<'static, Result<V>>>;

/// Flights by key.
pub(crate) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Flight<V>>>,
    /// The most at once.
    most: usize,
    runtime: Handle,
}

struct Flight<V> {
    answer: Answer<V>,
    ended: Arc<OnceLock<Instant>>,
}

/// Notes the end of a flight when it is dropped: also after a panic.
struct Ends(Arc<OnceLock<Instant>>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.set(Instant::now());
    }
}

impl<V> Flight<V> {
    /// Whether it is under way, or ended less than this ago.
    fn is_within(&self, age: Duration) -> bool {
        self.ended.get().is_none_or(|ended| ended.elapsed() < age)
    }
}

impl<K: Eq + Hash, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// At most this many at once, on this runtime.
    pub(crate) fn new(most: usize, runtime: Handle) -> Self {
        Self { flights: Mutex::default(), most, runtime }
    }

    /// The answer of the flight that is under way for `key`, or that ended less than `age` ago (at most [`KEPT`]); without
    /// one `begin` says what to do. The work runs to its end although nobody waits for it any more.
    ///
    /// # Errors
    /// Those of `begin`; `Overloaded` when too many are under way.
    pub(crate) fn join<F>(
        &self,
        key: K,
        age: Duration,
        begin: impl FnOnce() -> Result<F>,
    ) -> Result<Answer<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key)
            && flight.is_within(age)
        {
            return Ok(flight.answer.clone());
        }
        flights.retain(|_, flight| flight.is_within(KEPT));
        if flights.len() >= self.most {
            return Err(Error::new(Cause::Overloaded).retry_after(KEPT));
        }
        let (work, ended) = (begin()?, Arc::new(OnceLock::new()));
        let ends = Ends(ended.clone());
        let task = async move {
            let _ends = ends;
            work.await
        };
        let task = self.runtime.spawn(task.in_current_span());
        let answer =
            async move { task.await.unwrap_or_else(|_| Err(Error::internal("a shared task panicked"))) };
        let answer = answer.boxed().shared();
        flights.insert(key, Flight { answer: answer.clone(), ended });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    fn flights(most: usize) -> SingleFlight<&'static str, usize> {
        SingleFlight::new(most, Handle::current())
    }

    #[tokio::test]
    async fn callers_at_once_share_one_flight_and_later_ones_do_not() {
        let (flights, begun) = (flights(8), Arc::new(AtomicUsize::new(0)));
        let ask = |age| {
            let work = || Ok(ready(Ok(begun.fetch_add(1, Ordering::SeqCst))));
            flights.join("a", age, work).unwrap()
        };
        let (end, ended) = oneshot::channel();
        let first = flights.join("a", KEPT, || Ok(ended.map(|said| Ok(said.unwrap())))).unwrap();
        let others: Vec<_> = (0..9).map(|_| ask(Duration::ZERO)).collect();
        end.send(7).unwrap();
        assert_eq!(first.await, Ok(7));
        assert!(join_all(others).await.iter().all(|answer| *answer == Ok(7)));
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        assert_eq!(ask(Duration::ZERO).await, Ok(0), "an answer that has ended is not shared without an age");
    }

    #[tokio::test]
    async fn a_flight_goes_on_without_its_callers_and_a_panic_ends_it() {
        let flights = flights(8);
        let (end, ended) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        drop(flights.join("a", KEPT, || {
            Ok(async move {
                let _ = ended.await;
                tell.send(()).map(|()| 1).map_err(|()| Error::internal("nobody listens"))
            })
        }));
        end.send(()).unwrap();
        told.await.expect("the work ran to its end");
        let panics = flights.join("b", KEPT, || Ok(async { panic!("on purpose") })).unwrap();
        assert_eq!(panics.await.unwrap_err().cause, Cause::Internal);
        let again = flights.join("b", Duration::ZERO, || Ok(ready(Ok(2)))).unwrap();
        assert_eq!(again.await, Ok(2));
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_under_way() {
        let flights = flights(2);
        for key in ["a", "b"] {
            drop(flights.join(key, KEPT, || Ok(pending())).unwrap());
        }
        let refused = flights.join("c", KEPT, || Ok(ready(Ok(1)))).map(drop);
        assert_eq!(refused.unwrap_err().cause, Cause::Overloaded);
        assert!(flights.join("a", KEPT, || Ok(ready(Ok(1)))).is_ok(), "one that is under way is joined");
    }
}
