//! What keeps one bad cluster from costing the others anything: so many calls to it at once and no more, and a pause
//! after several that got no answer.
//!
//! The circuit opens after [`TRIES`] calls in a row without an answer; for [`PAUSE`] nothing is sent. Then one call is
//! let through, the trial: an answer closes the circuit, silence opens it again. Any answer counts as one, a refusal
//! and an error of the API server included: who answers at once holds nobody up.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use pilothouse_core::{Cause, Error, Result};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// Calls at once to one cluster; more wait, within their deadline.
const PLACES: usize = 32;
/// Calls without an answer that open the circuit.
const TRIES: u32 = 5;
/// A silence longer ago than this is forgotten.
const WINDOW: Duration = Duration::from_secs(30);
/// How long an open circuit refuses every call. Short, so that a cluster that is back is soon seen to be.
const PAUSE: Duration = Duration::from_secs(3);

/// The breaker of one cluster, for one version of its connection.
pub(crate) struct Breaker {
    places: Semaphore,
    circuit: Mutex<Circuit>,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(PLACES), circuit: Mutex::new(Circuit::new(Instant::now())) }
    }

    /// Lets a call through; when too many are under way, as soon as one of them ends.
    ///
    /// # Errors
    /// `CircuitOpen`, with the rest of the pause; `Overloaded` when no place came free until the deadline. Nothing was
    /// sent.
    pub(crate) async fn enter(&self, deadline: Instant) -> Result<Passage<'_>> {
        // who cannot pass anyhow should not wait for a place first
        self.circuit().refusal(Instant::now())?;
        let place = match timeout_at(deadline, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(Error::new(Cause::Overloaded).retry_after(PAUSE)),
        };
        let trial = self.circuit().enter(Instant::now())?;
        Ok(Passage { breaker: self, trial, _place: place })
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call on its way. Dropped before it is settled, it says nothing of the cluster.
pub(crate) struct Passage<'a> {
    breaker: &'a Breaker,
    trial: bool,
    _place: SemaphorePermit<'a>,
}

impl Passage<'_> {
    /// Notes how the call ended: without an answer, or with one, of whatever kind.
    pub(crate) fn settle(mut self, error: Option<&Error>) {
        self.trial = false;
        self.breaker.circuit().ended(error.map(|error| error.cause), Instant::now());
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.trial {
            // nobody knows: the next one tries
            *self.breaker.circuit() = Circuit::Open { until: Instant::now() };
        }
    }
}

#[derive(Debug)]
enum Circuit {
    /// So many calls in a row had no answer, the last one then.
    Closed { silent: u32, last: Instant },
    /// Nothing is sent until then.
    Open { until: Instant },
    /// One call is under way.
    Trial,
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self::Closed { silent: 0, last: now }
    }

    /// Why no call may pass now.
    fn refusal(&self, now: Instant) -> Result<()> {
        let open = |pause| Err(Error::new(Cause::CircuitOpen).retry_after(pause));
        match self {
            Self::Closed { .. } => Ok(()),
            Self::Trial => open(PAUSE),
            Self::Open { until } => match until.saturating_duration_since(now) {
                Duration::ZERO => Ok(()),
                left => open(left),
            },
        }
    }

    /// Lets a call pass; whether it is the trial.
    fn enter(&mut self, now: Instant) -> Result<bool> {
        self.refusal(now)?;
        let trial = matches!(self, Self::Open { .. });
        if trial {
            *self = Self::Trial;
        }
        Ok(trial)
    }

    /// A call ended, with this cause or well.
    fn ended(&mut self, cause: Option<Cause>, now: Instant) {
        let silence = [Cause::Unreachable, Cause::ConnectionLost, Cause::DeadlineExceeded];
        if !cause.is_some_and(|cause| silence.contains(&cause)) {
            *self = Self::new(now);
            return;
        }
        let silent = match self {
            Self::Closed { silent, last } if now.saturating_duration_since(*last) <= WINDOW => *silent + 1,
            Self::Closed { .. } => 1,
            Self::Open { .. } | Self::Trial => TRIES,
        };
        *self = match silent {
            TRIES.. => Self::Open { until: now + PAUSE },
            silent => Self::Closed { silent, last: now },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A circuit that has just opened, and when.
    fn open() -> (Circuit, Instant) {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        for _ in 0..TRIES {
            assert_eq!(circuit.enter(now), Ok(false));
            circuit.ended(Some(Cause::DeadlineExceeded), now);
        }
        (circuit, now)
    }

    #[test]
    fn silence_in_a_row_opens_the_circuit_and_says_for_how_long() {
        let (mut circuit, now) = open();
        let refused = circuit.enter(now + Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.cause, Cause::CircuitOpen);
        assert_eq!(refused.context.retry_after, Some(PAUSE - Duration::from_secs(1)));
    }

    #[test]
    fn answers_of_any_kind_keep_it_closed() {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        let answers = [
            None,
            Some(Cause::FailingCluster),
            Some(Cause::CredentialRejected),
            Some(Cause::RejectedByCluster),
        ];
        for answer in answers {
            for _ in 1..TRIES {
                circuit.ended(Some(Cause::Unreachable), now);
            }
            circuit.ended(answer, now);
        }
        assert_eq!(circuit.enter(now), Ok(false));
    }

    #[test]
    fn silence_long_ago_is_forgotten() {
        let mut now = Instant::now();
        let mut circuit = Circuit::new(now);
        for _ in 0..2 * TRIES {
            circuit.ended(Some(Cause::ConnectionLost), now);
            now += WINDOW + Duration::from_secs(1);
        }
        assert_eq!(circuit.enter(now), Ok(false));
    }

    #[test]
    fn one_call_tries_and_the_others_wait_for_what_it_finds() {
        let (mut circuit, mut now) = open();
        now += PAUSE;
        assert_eq!(circuit.enter(now), Ok(true));
        assert!(circuit.enter(now).is_err(), "one trial at a time");
        circuit.ended(Some(Cause::Unreachable), now);
        assert!(circuit.enter(now).is_err(), "still silent");
        now += PAUSE;
        assert_eq!(circuit.enter(now), Ok(true));
        circuit.ended(None, now);
        assert_eq!(circuit.enter(now), Ok(false));
    }

    #[tokio::test]
    async fn only_so_many_pass_at_once_and_who_gives_up_leaves_a_place() {
        let breaker = Breaker::new();
        let enter = || breaker.enter(Instant::now());
        let mut inside = Vec::new();
        for _ in 0..PLACES {
            inside.push(enter().await.expect("a place is free"));
        }
        assert_eq!(enter().await.err().map(|error| error.cause), Some(Cause::Overloaded));
        inside.pop();
        assert!(enter().await.is_ok());
    }

    #[tokio::test]
    async fn a_trial_that_is_given_up_is_the_next_ones() {
        let breaker = Breaker::new();
        *breaker.circuit() = Circuit::Open { until: Instant::now() };
        let trial = breaker.enter(Instant::now() + PAUSE).await.expect("the pause is over");
        assert!(breaker.enter(Instant::now() + PAUSE).await.is_err());
        drop(trial);
        assert!(breaker.enter(Instant::now() + PAUSE).await.is_ok());
    }
}
