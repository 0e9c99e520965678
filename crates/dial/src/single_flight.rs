//! Single flight: callers with the same key share one execution and its result.

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

/// Maximum age of a shared result.
pub const MAX_RESULT_AGE: Duration = Duration::from_secs(1);

/// Future of a flight's result; clones share it.
pub type SharedResult<V> = Shared<BoxFuture<'static, Result<V>>>;

/// Running and recently ended flights, by key.
pub struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Flight<V>>>,
    /// Maximum number of flights, running or ended less than [`MAX_RESULT_AGE`] ago.
    max_flights: usize,
    runtime: Handle,
}

struct Flight<V> {
    result: SharedResult<V>,
    ended: Arc<OnceLock<Instant>>,
}

/// Records the end of a flight when dropped: also after a panic.
struct EndRecorder(Arc<OnceLock<Instant>>);

impl Drop for EndRecorder {
    fn drop(&mut self) {
        let _ = self.0.set(Instant::now());
    }
}

impl<V> Flight<V> {
    /// Whether the flight is running, or ended less than `age` ago.
    fn is_within(&self, age: Duration) -> bool {
        self.ended.get().is_none_or(|ended| ended.elapsed() < age)
    }
}

impl<K: Eq + Hash, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// Allows `max_flights` flights at once, and runs them on `runtime`.
    pub fn new(max_flights: usize, runtime: Handle) -> Self {
        Self { flights: Mutex::default(), max_flights, runtime }
    }

    /// Joins the flight for `key` that is running or ended less than `age` ago (at most [`MAX_RESULT_AGE`]); otherwise
    /// starts one with `start`. A flight runs to its end even if all callers are dropped.
    ///
    /// # Errors
    /// Those of `start`; `Overloaded` when there are `max_flights` flights.
    pub fn join<F>(&self, key: K, age: Duration, start: impl FnOnce() -> Result<F>) -> Result<SharedResult<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key)
            && flight.is_within(age)
        {
            return Ok(flight.result.clone());
        }
        flights.retain(|_, flight| flight.is_within(MAX_RESULT_AGE));
        if flights.len() >= self.max_flights {
            return Err(Error::new(Cause::Overloaded).retry_after(MAX_RESULT_AGE));
        }
        let (work, ended) = (start()?, Arc::new(OnceLock::new()));
        let recorder = EndRecorder(ended.clone());
        let task = async move {
            let _recorder = recorder;
            work.await
        };
        let task = self.runtime.spawn(task.in_current_span());
        let result =
            async move { task.await.unwrap_or_else(|_| Err(Error::internal("a shared task panicked"))) };
        let result = result.boxed().shared();
        flights.insert(key, Flight { result: result.clone(), ended });
        Ok(result)
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

    fn flights(max_flights: usize) -> SingleFlight<&'static str, usize> {
        SingleFlight::new(max_flights, Handle::current())
    }

    #[tokio::test]
    async fn concurrent_callers_share_one_flight_and_later_ones_do_not() {
        let (flights, started) = (flights(8), Arc::new(AtomicUsize::new(0)));
        let join = |age| {
            let work = || Ok(ready(Ok(started.fetch_add(1, Ordering::SeqCst))));
            flights.join("a", age, work).unwrap()
        };
        let (end, ended) = oneshot::channel();
        let first = flights.join("a", MAX_RESULT_AGE, || Ok(ended.map(|value| Ok(value.unwrap())))).unwrap();
        let others: Vec<_> = (0..9).map(|_| join(Duration::ZERO)).collect();
        end.send(7).unwrap();
        assert_eq!(first.await, Ok(7));
        assert!(join_all(others).await.iter().all(|result| *result == Ok(7)));
        assert_eq!(started.load(Ordering::SeqCst), 0);
        assert_eq!(join(Duration::ZERO).await, Ok(0), "without an age, an ended flight is not shared");
    }

    #[tokio::test]
    async fn flight_continues_without_callers_and_ends_on_panic() {
        let flights = flights(8);
        let (end, ended) = oneshot::channel::<()>();
        let (done, ran_to_end) = oneshot::channel();
        drop(flights.join("a", MAX_RESULT_AGE, || {
            Ok(async move {
                let _ = ended.await;
                done.send(()).map(|()| 1).map_err(|()| Error::internal("the receiver was dropped"))
            })
        }));
        end.send(()).unwrap();
        ran_to_end.await.expect("the flight ran to its end");
        let panics = flights.join("b", MAX_RESULT_AGE, || Ok(async { panic!("on purpose") })).unwrap();
        assert_eq!(panics.await.unwrap_err().cause, Cause::Internal);
        let second = flights.join("b", Duration::ZERO, || Ok(ready(Ok(2)))).unwrap();
        assert_eq!(second.await, Ok(2));
    }

    #[tokio::test]
    async fn number_of_flights_is_limited() {
        let flights = flights(2);
        for key in ["a", "b"] {
            drop(flights.join(key, MAX_RESULT_AGE, || Ok(pending())).unwrap());
        }
        let refused = flights.join("c", MAX_RESULT_AGE, || Ok(ready(Ok(1)))).map(drop);
        assert_eq!(refused.unwrap_err().cause, Cause::Overloaded);
        assert!(flights.join("a", MAX_RESULT_AGE, || Ok(ready(Ok(1)))).is_ok(), "a running flight is joined");
    }
}
