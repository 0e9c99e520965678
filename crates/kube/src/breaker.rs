//! Circuit breaker and concurrency limit of one cluster, so that a failing cluster does not slow down the others.
//!
//! The circuit opens after [`FAILURE_THRESHOLD`] consecutive calls without a response; for [`OPEN_DURATION`] no call is
//! sent. Then the circuit is half-open: all calls of one client request pass. A response closes the circuit, a call
//! without a response opens it again. A probe passes at any time; at most one runs at once. Any HTTP response, 4xx and
//! 5xx included, counts as success: only calls without a response open the circuit, because a cluster that responds at
//! once delays no other request.

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

/// Maximum number of concurrent calls to one cluster. Further calls wait for a slot until their deadline.
const MAX_CONCURRENT: usize = 32;
/// Number of consecutive calls without a response that opens the circuit.
const FAILURE_THRESHOLD: u32 = 5;
/// Failures further apart than this are not consecutive.
const FAILURE_WINDOW: Duration = Duration::from_secs(30);
/// Time for which an open circuit refuses every call. Short, so that a recovered cluster is detected soon.
const OPEN_DURATION: Duration = Duration::from_secs(3);

/// Breaker of one cluster, for one version of its connection.
pub(crate) struct Breaker {
    slots: Semaphore,
    circuit: Mutex<Circuit>,
    next_group: AtomicU64,
}

/// Identifies the calls of one client request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallGroup {
    id: u64,
    /// Whether the calls of the group pass an open circuit.
    is_probe: bool,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        let circuit = Mutex::new(Circuit::new(Instant::now()));
        Self { slots: Semaphore::new(MAX_CONCURRENT), circuit, next_group: AtomicU64::new(0) }
    }

    /// A new call group.
    pub(crate) fn call_group(&self) -> CallGroup {
        CallGroup { id: self.next_group.fetch_add(1, Ordering::Relaxed), is_probe: false }
    }

    /// A new call group of a probe, which passes an open circuit to find out whether the cluster responds again.
    pub(crate) fn probe(&self) -> CallGroup {
        CallGroup { is_probe: true, ..self.call_group() }
    }

    /// Checks whether a new call group would be refused.
    ///
    /// # Errors
    /// `CircuitOpen`, with the remaining pause as `Retry-After`.
    pub(crate) fn check(&self) -> Result<()> {
        self.circuit().check(self.call_group(), Instant::now())
    }

    /// Admits a call, after a wait while too many are running.
    ///
    /// # Errors
    /// `CircuitOpen`, with the remaining pause as `Retry-After`; `Overloaded` when no slot became free by the deadline.
    /// Nothing was sent.
    pub(crate) async fn enter(&self, call_group: CallGroup, deadline: Instant) -> Result<CallGuard<'_>> {
        // a call that is refused anyway should not wait for a slot
        self.circuit().check(call_group, Instant::now())?;
        let Ok(Ok(slot)) = timeout_at(deadline, self.slots.acquire()).await else {
            return Err(Error::new(Cause::Overloaded).retry_after(OPEN_DURATION));
        };
        self.circuit().enter(call_group, Instant::now())?;
        Ok(CallGuard { breaker: self, call_group, settled: false, _slot: slot })
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running call. Dropped without [`CallGuard::settle`], it counts neither as success nor as failure.
pub(crate) struct CallGuard<'a> {
    breaker: &'a Breaker,
    call_group: CallGroup,
    settled: bool,
    _slot: SemaphorePermit<'a>,
}

impl CallGuard<'_> {
    /// Records the result of the call: no response, or a response of any kind.
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
    /// Calls are admitted. The last `failures` calls had no response, the newest of them ended at `last`.
    Closed { failures: u32, last: Instant },
    /// Calls other than those of probes are refused until `until`.
    Open { until: Instant },
    /// Only the calls of `group` and of probes are admitted. The next result closes or opens the circuit.
    HalfOpen { group: CallGroup },
}

impl Circuit {
    fn new(now: Instant) -> Self {
        Self::Closed { failures: 0, last: now }
    }

    /// Refuses the call while the circuit is open.
    fn check(&self, call_group: CallGroup, now: Instant) -> Result<()> {
        let open = |pause| Err(Error::new(Cause::CircuitOpen).retry_after(pause));
        match self {
            Self::Closed { .. } => Ok(()),
            _ if call_group.is_probe => Ok(()),
            Self::HalfOpen { group } if *group == call_group => Ok(()),
            Self::HalfOpen { .. } => open(OPEN_DURATION),
            Self::Open { until } => match until.saturating_duration_since(now) {
                Duration::ZERO => Ok(()),
                remaining => open(remaining),
            },
        }
    }

    /// Admits a call. The first call after the pause, or a call of a probe, makes an open circuit half-open.
    fn enter(&mut self, call_group: CallGroup, now: Instant) -> Result<()> {
        self.check(call_group, now)?;
        if matches!(self, Self::Open { .. }) {
            *self = Self::HalfOpen { group: call_group };
        }
        Ok(())
    }

    /// Records that a call was dropped before its result. If the call belonged to the group of a half-open circuit, the
    /// next call may belong to any group.
    fn abandoned(&mut self, call_group: CallGroup, now: Instant) {
        if matches!(self, Self::HalfOpen { group } if *group == call_group) {
            *self = Self::Open { until: now };
        }
    }

    /// Records the end of a call, with this cause or without an error.
    fn ended(&mut self, cause: Option<Cause>, now: Instant) {
        let no_response = [Cause::Unreachable, Cause::ConnectionLost, Cause::DeadlineExceeded];
        if !cause.is_some_and(|cause| no_response.contains(&cause)) {
            *self = Self::new(now);
            return;
        }
        let failures = match self {
            Self::Closed { failures, last } if now.saturating_duration_since(*last) <= FAILURE_WINDOW => {
                *failures + 1
            }
            Self::Closed { .. } => 1,
            Self::Open { .. } | Self::HalfOpen { .. } => FAILURE_THRESHOLD,
        };
        *self = match failures {
            FAILURE_THRESHOLD.. => Self::Open { until: now + OPEN_DURATION },
            failures => Self::Closed { failures, last: now },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: CallGroup = CallGroup { id: 1, is_probe: false };
    const OTHER: CallGroup = CallGroup { id: 2, is_probe: false };
    const PROBE: CallGroup = CallGroup { id: 3, is_probe: true };

    /// A circuit that has just opened, and the time.
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
    fn calls_without_response_open_circuit_with_retry_after() {
        let (mut circuit, now) = open();
        let refused = circuit.enter(FIRST, now + Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.cause, Cause::CircuitOpen);
        assert_eq!(refused.context.retry_after, Some(OPEN_DURATION - Duration::from_secs(1)));
    }

    #[test]
    fn any_http_response_keeps_circuit_closed() {
        let now = Instant::now();
        let mut circuit = Circuit::new(now);
        let responses = [
            None,
            Some(Cause::FailingCluster),
            Some(Cause::CredentialRejected),
            Some(Cause::RejectedByCluster),
        ];
        for response in responses {
            for _ in 1..FAILURE_THRESHOLD {
                circuit.ended(Some(Cause::Unreachable), now);
            }
            circuit.ended(response, now);
        }
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn failures_outside_window_do_not_open_circuit() {
        let mut now = Instant::now();
        let mut circuit = Circuit::new(now);
        for _ in 0..2 * FAILURE_THRESHOLD {
            circuit.ended(Some(Cause::ConnectionLost), now);
            now += FAILURE_WINDOW + Duration::from_secs(1);
        }
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn half_open_circuit_admits_all_calls_of_one_group_only() {
        let (mut circuit, mut now) = open();
        now += OPEN_DURATION;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        assert_eq!(circuit.enter(FIRST, now), Ok(()), "lists of several kinds are one group");
        assert!(circuit.enter(OTHER, now).is_err(), "a half-open circuit admits one group at a time");
        circuit.ended(Some(Cause::Unreachable), now);
        circuit.abandoned(FIRST, now);
        assert!(circuit.enter(FIRST, now).is_err(), "no response yet");
        now += OPEN_DURATION;
        assert_eq!(circuit.enter(OTHER, now), Ok(()));
        circuit.ended(None, now);
        circuit.abandoned(OTHER, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
    }

    #[test]
    fn abandoned_half_open_call_lets_another_group_decide() {
        let (mut circuit, mut now) = open();
        now += OPEN_DURATION;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        circuit.abandoned(FIRST, now);
        assert_eq!(circuit.enter(OTHER, now), Ok(()));
    }

    #[test]
    fn probe_passes_open_circuit_and_its_result_decides() {
        let (mut circuit, now) = open();
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        assert!(circuit.enter(FIRST, now).is_err(), "refused until the probe has a result");
        circuit.ended(Some(Cause::Unreachable), now);
        assert!(circuit.enter(FIRST, now).is_err(), "no response yet");
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        circuit.ended(None, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        // a probe while the calls of another group decide
        let (mut circuit, mut now) = open();
        now += OPEN_DURATION;
        assert_eq!(circuit.enter(FIRST, now), Ok(()));
        assert_eq!(circuit.enter(PROBE, now), Ok(()));
        circuit.abandoned(PROBE, now);
        assert_eq!(circuit.enter(FIRST, now), Ok(()), "the circuit still admits the first group");
    }

    #[tokio::test]
    async fn concurrent_calls_are_limited_and_dropped_call_frees_slot() {
        let breaker = Breaker::new();
        let enter = || breaker.enter(FIRST, Instant::now());
        let mut running = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            running.push(enter().await.expect("a slot is free"));
        }
        assert_eq!(enter().await.err().map(|error| error.cause), Some(Cause::Overloaded));
        running.pop();
        assert!(enter().await.is_ok());
    }
}
