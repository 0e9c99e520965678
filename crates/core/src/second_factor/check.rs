//! Check of a code: throttled as a login, and each code counts once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use secrecy::SecretString;

use super::{FactorCode, FactorUse, SecondFactor, SecondFactorPorts};
use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
    ids::UserId,
    session::{LoginThrottle, ThrottleKey},
};

/// `Retry-After` of a code that is sent during the check of another code of the same user.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Checks codes. A wrong code counts as a failed login.
#[derive(Clone)]
pub(crate) struct CodeCheck {
    ports: SecondFactorPorts,
    throttle: Arc<dyn LoginThrottle>,
    clock: Arc<dyn Clock>,
    /// Users with a running check. At most one check runs per user, so that concurrent guesses do not pass the throttle
    /// together.
    running: Arc<Mutex<HashSet<UserId>>>,
}

impl CodeCheck {
    pub(crate) fn new(
        ports: SecondFactorPorts,
        throttle: Arc<dyn LoginThrottle>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { ports, throttle, clock, running: Arc::default() }
    }

    /// The confirmed second factor of a user.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    pub(crate) async fn confirmed(&self, user: UserId) -> Result<Option<SecondFactor>> {
        Ok(self.ports.store.find(user).await?.filter(|factor| factor.confirmed_at.is_some()))
    }

    /// Checks and uses a code of a confirmed second factor. `keys` count the failures.
    ///
    /// # Errors
    /// `BadCredentials` for a wrong code, and for one that was used before; `TooManyLogins`; `StoreUnavailable`.
    pub(crate) async fn spend(
        &self,
        factor: &SecondFactor,
        code: &FactorCode,
        keys: &[ThrottleKey],
    ) -> Result<()> {
        let _running = self.begin(factor.user_id, keys).await?;
        let factor_use = match code {
            FactorCode::Totp(code) => self.step_of(factor, code).map(FactorUse::Step),
            FactorCode::Recovery(hash) => Some(FactorUse::Recovery(*hash)),
            FactorCode::Malformed => None,
        };
        if let Some(factor_use) = factor_use
            && self.ports.store.spend(factor.user_id, factor_use).await?
        {
            return Ok(());
        }
        self.failed(keys).await
    }

    /// Checks a one-time code of a pending enrolment, and returns its time step.
    ///
    /// # Errors
    /// `BadCredentials` for a wrong code; `TooManyLogins`; `StoreUnavailable`.
    pub(crate) async fn confirming_step(
        &self,
        factor: &SecondFactor,
        code: &FactorCode,
        keys: &[ThrottleKey],
    ) -> Result<i64> {
        let _running = self.begin(factor.user_id, keys).await?;
        let step = match code {
            FactorCode::Totp(code) => self.step_of(factor, code),
            FactorCode::Recovery(_) | FactorCode::Malformed => None,
        };
        match step {
            Some(step) => Ok(step),
            None => self.failed(keys).await,
        }
    }

    /// Fails if codes of these keys are not checked now.
    ///
    /// # Errors
    /// `TooManyLogins`; `StoreUnavailable`.
    pub(crate) async fn require_unblocked(&self, keys: &[ThrottleKey]) -> Result<()> {
        match self.throttle.blocked_for(keys, self.clock.now()).await? {
            Some(pause) => Err(Error::new(Cause::TooManyLogins).retry_after(pause)),
            None => Ok(()),
        }
    }

    fn step_of(&self, factor: &SecondFactor, code: &SecretString) -> Option<i64> {
        self.ports.codec.step_of(&factor.seed, code, self.clock.now())
    }

    /// Counts a failure.
    async fn failed<T>(&self, keys: &[ThrottleKey]) -> Result<T> {
        self.throttle.failed(keys, self.clock.now()).await?;
        Err(Error::new(Cause::BadCredentials))
    }

    /// Begins the only check of a user's code in this process.
    async fn begin(&self, user: UserId, keys: &[ThrottleKey]) -> Result<Running> {
        if !lock(&self.running).insert(user) {
            return Err(Error::new(Cause::TooManyLogins).retry_after(RETRY_AFTER));
        }
        let running = Running { users: self.running.clone(), user };
        self.require_unblocked(keys).await?;
        Ok(running)
    }
}

/// A check of a user's code, until it is dropped.
struct Running {
    users: Arc<Mutex<HashSet<UserId>>>,
    user: UserId,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.users).remove(&self.user);
    }
}

fn lock(users: &Mutex<HashSet<UserId>>) -> MutexGuard<'_, HashSet<UserId>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}
