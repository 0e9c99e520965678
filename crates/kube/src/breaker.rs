//! What keeps one bad cluster from costing the others anything: so many calls to it at once and no more, and a pause
//! after several that got no answer.
//!
//! The circuit opens after [`FAILURE_THRESHOLD`] calls in a row without an answer; for [`PAUSE`] nothing is sent. Then one visit is
//! let through, the trial, with all its calls: an answer closes the circuit, silence opens it again. A probe passes at any
//! time: there is one at a time. Any answer counts as one, a refusal and an error of the API server included: who answers
//! at once holds nobody up.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pilothouse_core::{Cause, Error, Result};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// Calls at once to one cluster; more wait, within their deadline.
const MAX_CONCURRENT: usize = 32;
/// Calls without an answer that open the circuit.
const FAILURE_THRESHOLD: u32 = 5;
/// A silence longer ago than this is forgotten.
const WINDOW: Duration = Duration::from_secs(30);
/// How long an open circuit refuses every call. Short, so that a cluster that is back is soon seen to be.
const PAUSE: Duration = Duration::from_secs(3);

/// The breaker of one cluster, for one version of its connection.
pub(crate) struct Breaker {
    places: Semaphore,
    circuit: Mutex<Circuit>,
    visits: AtomicU64,
}

/// Whose calls belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallGroup {
    number: u64,
    /// Whether it passes an open circuit.
    tries: bool,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        let circuit = Mutex::new(Circuit::new(Instant::now()));
        Self { places: Semaphore::new(MAX_CONCURRENT), circuit, visits: AtomicU64::new(0) }
    }

    /// A visitor like no other.
    pub(crate) fn call_group(&self) -> CallGroup {
        CallGroup { number: self.visits.fetch_add(1, Ordering::Relaxed), tries: false }
    }

    /// One that an open circuit does not refuse: a probe, which finds out whether the cluster answers again.
    pub(crate) fn probe(&self) -> CallGroup {
        CallGroup { tries: true, ..self.call_group() }
    }

    /// Why a new visitor's calls would be refused.
    ///
    /// # Errors
    /// `CircuitOpen`, with the rest of the pause.
    pub(crate) fn check(&self) -> Result<()> {
        self.circuit().refusal(self.call_group(), Instant::now())
    }

    /// Lets a call through; when too many are under way, as soon as one of them ends.
    ///
    /// # Errors
    /// `CircuitOpen`, with the rest of the pause; `Overloaded` when no place came free until the deadline. Nothing was
    /// sent.
    pub(crate) async fn enter(&self, call_group: CallGroup, deadline: Instant) -> Result<CallGuard<'_>> {
        // who cannot pass anyhow should not wait for a place first
        self.circuit().refusal(call_group, Instant::now())?;
        let place = match timeout_at(deadline, self.places.acquire()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) | Err(_) => return Err(Error::new(Cause::Overloaded).retry_after(PAUSE)),
        };
        self.circuit().enter(call_group, Instant::now())?;
        Ok(CallGuard { breaker: self, call_group, settled: false, _place: place })
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call on its way. Dropped before it is settled, it says nothing of the cluster.
pub(crate) struct CallGuard<'a> {
    breaker: &'a Breaker,
    call_group: CallGroup,
    settled: bool,
    _place: SemaphorePermit<'a>,
}

impl CallGuard<'_> {
    /// Notes how the call ended: without an answer, or with one, of whatever kind.
    pub(crate) fn settle(mut self, error: Option<&Error>) {
        self.settled = true;
        self.breaker.circuit().ended(error.map(|error| error.cause), Instant::now());
    }
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.breaker.circuit().abandoned(self.call_group, Instant::now());
        }
    }
}

#[derive(Debug)]
enum Circuit {
    /// So many calls in a row had no answer, the last one then.
    Closed { silent: u32, last: Instant },
    /// Nothing is sent until then.
    Open { until: Instant },
    /// This one tries.
    HalfOpen { by: CallGroup },
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self::Closed { silent: 0, last: now }
    }

    /// Why no call may pass now.
    fn refusal(&self, call_group: CallGroup, now: Instant) -> Result<()> {
        let open = |pause| Err(Error::new(Cause::CircuitOpen).retry_after(pause));
        match self {
            Self::Closed { .. } => Ok(()),
            _ if call_group.tries => Ok(()),
            Self::HalfOpen { by } if *by == call_group => Ok(()),
            Self::HalfOpen { .. } => open(PAUSE),
            Self::Open { until } => match until.saturating_duration_since(now) {
                Duration::ZERO => Ok(()),
                left => open(left),
            },
        }
    }

    /// Lets a call pass; after the pause, or of a probe, as the trial.
    fn enter(&mut self, call_group: CallGroup, now: Instant) -> Result<()> {
        self.refusal(call_group, now)?;
        if matches!(self, Self::Open { .. }) {
            *self = Self::HalfOpen { by: call_group };
        }
        Ok(())
    }

    /// A call was dropped on its way. If it was the trial's, nobody knows more than before: the next one tries.
    fn abandoned(&mut self, call_group: CallGroup, now: Instant) {
        if matches!(self, Self::HalfOpen { by } if *by == call_group) {
            *self = Self::Open { until: now };
        }
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
            Self::Open { .. } | Self::HalfOpen { .. } => FAILURE_THRESHOLD,
        };
        *self = match silent {
            FAILURE_THRESHOLD.. => Self::Open { until: now + PAUSE },
            silent => Self::Closed { silent, last: now },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: CallGroup = CallGroup { number: 1, tries: false };
    const OTHER: CallGroup = CallGroup { number: 2, tries: false };
    const PROBE: CallGroup = CallGroup { number: 3, tries: true };

    /// A circuit that has just opened, and when.
    fn open() -> (Circuit, Instant) {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        for _ in 0..FAILURE_THRESHOLD {
            assert_eq!(circuit.enter(FIRST, now), Ok(()));
            circuit.ended(Some(Cause::DeadlineExceeded), now);
        }
        (circuit, now)
    }

    #[test]
    fn silence_in_a_row_opens_the_circuit_and_says_for_how_long() {
        let (mut circuit, now) = open();
        let refused = circuit.enter(FIRST, now + Duration::from_secs(1)).unwrap_err();
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
            for _ in 1..FAILURE_THRESHOLD {
                circuit.ended(Some(Cause::Unreachable), now);
            }
            circuit.ended(answer, now);
        }
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn silence_long_ago_is_forgotten() {
        let mut now = Instant::now();
        let mut circuit = Circuit::new(now);
        for _ in 0..2 * FAILURE_THRESHOLD {
            circuit.ended(Some(Cause::ConnectionLost), now);
            now += WINDOW + Duration::from_secs(1);
        }
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn one_visit_tries_with_all_its_calls_and_the_others_are_refused_meanwhile() {
        let (mut circuit, mut now) = open();
        now += PAUSE;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        assert_eq!(circuit.enter(FIRST, now), Ok(()), "lists of several kinds are one visit");
        assert!(circuit.enter(OTHER, now).is_err(), "one trial at a time");
        circuit.ended(Some(Cause::Unreachable), now);
        circuit.abandoned(FIRST, now);
        assert!(circuit.enter(FIRST, now).is_err(), "still silent");
        now += PAUSE;
        assert_eq!(circuit.enter(OTHER, now), Ok(()));
        circuit.ended(None, now);
        circuit.abandoned(OTHER, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn a_trial_that_is_given_up_is_the_next_ones() {
        let (mut circuit, mut now) = open();
        now += PAUSE;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        circuit.abandoned(FIRST, now);
        assert_eq!(circuit.enter(OTHER, now), Ok(()));
    }

    #[test]
    fn a_probe_passes_an_open_circuit_and_what_it_finds_decides() {
        let (mut circuit, now) = open();
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        assert!(circuit.enter(FIRST, now).is_err(), "others wait for what it finds");
        circuit.ended(Some(Cause::Unreachable), now);
        assert!(circuit.enter(FIRST, now).is_err(), "still silent");
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        circuit.ended(None, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        // beside another's trial
        let (mut circuit, mut now) = open();
        now += PAUSE;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        circuit.abandoned(PROBE, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()), "the trial is still the first one's");
    }

    #[tokio::test]
    async fn only_so_many_pass_at_once_and_who_gives_up_leaves_a_place() {
        let breaker = Breaker::new();
        let enter = || breaker.enter(FIRST, Instant::now());
        let mut inside = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            inside.push(enter().await.expect("a place is free"));
        }
        assert_eq!(enter().await.err().map(|error| error.cause), Some(Cause::Overloaded));
        inside.pop();
        assert!(enter().await.is_ok());
    }
}
