use async_trait::async_trait;
use uuid::Uuid;

use super::{MemoryStore, State, grants::author};
use crate::{
    access::Permit,
    error::{Cause, Error, Result},
    ids::{SessionId, UserId},
    second_factor::{Confirmation, FactorUse, SecondFactor, SecondFactorStore, TotpSeed},
};

#[async_trait]
impl SecondFactorStore for MemoryStore {
    async fn find(&self, user: UserId) -> Result<Option<SecondFactor>> {
        let state = self.lock();
        let found =
            state.second_factors.iter().map(|(factor, _)| factor).find(|factor| factor.user_id == user);
        Ok(found.cloned())
    }

    async fn begin(&self, permit: &Permit, user: UserId, enrolment: Uuid, seed: TotpSeed) -> Result<()> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        state.user(user)?;
        state.require_unconfirmed(user)?;
        state.second_factors.retain(|(factor, _)| factor.user_id != user);
        let factor = SecondFactor {
            enrolment,
            user_id: user,
            seed,
            created_at: at,
            confirmed_at: None,
            last_step: None,
        };
        state.second_factors.push((factor, Vec::new()));
        state.record_success(permit, None)
    }

    async fn confirm(&self, permit: &Permit, user: UserId, confirmation: Confirmation) -> Result<()> {
        let mut state = self.write()?;
        let (_, at) = author(permit)?;
        state.require_unconfirmed(user)?;
        let is_pending = |(factor, _): &(SecondFactor, _)| {
            factor.user_id == user && factor.enrolment == confirmation.enrolment
        };
        let pending = state.second_factors.iter().position(is_pending).ok_or_else(|| not_found(user))?;
        let session = state
            .sessions
            .iter_mut()
            .map(|(session, _)| session)
            .find(|session| session.id == confirmation.session && session.user_id == user);
        session.ok_or_else(|| Error::new(Cause::SessionEnded))?.factor_at = Some(at);
        let (factor, recovery) = &mut state.second_factors[pending];
        (factor.confirmed_at, factor.last_step) = (Some(at), Some(confirmation.step));
        *recovery = confirmation.recovery;
        state.record_success(permit, None)
    }

    async fn spend(&self, user: UserId, factor_use: FactorUse) -> Result<bool> {
        let mut state = self.write()?;
        let confirmed =
            |(factor, _): &&mut (SecondFactor, _)| factor.user_id == user && factor.confirmed_at.is_some();
        let Some((factor, recovery)) = state.second_factors.iter_mut().find(confirmed) else {
            return Ok(false);
        };
        Ok(match factor_use {
            FactorUse::Step(step) => {
                let is_new = factor.last_step.is_none_or(|last| last < step);
                if is_new {
                    factor.last_step = Some(step);
                }
                is_new
            }
            FactorUse::Recovery(hash) => {
                let unused = recovery.len();
                recovery.retain(|own| *own != hash);
                recovery.len() < unused
            }
        })
    }

    async fn remove(&self, permit: &Permit, user: UserId, keep: Option<SessionId>) -> Result<()> {
        let mut state = self.write()?;
        let before = state.second_factors.len();
        state.second_factors.retain(|(factor, _)| factor.user_id != user);
        if state.second_factors.len() == before {
            return Err(not_found(user));
        }
        state.end_sessions(user, keep);
        for (session, _) in state.sessions.iter_mut().filter(|(session, _)| session.user_id == user) {
            session.factor_at = None;
        }
        state.record_success(permit, None)
    }
}

impl State {
    /// The confirmed second factor of a user.
    pub(super) fn confirmed_factor(&self, user: UserId) -> Option<&SecondFactor> {
        let mut factors = self.second_factors.iter().map(|(factor, _)| factor);
        factors.find(|factor| factor.user_id == user && factor.confirmed_at.is_some())
    }

    fn require_unconfirmed(&self, user: UserId) -> Result<()> {
        match self.confirmed_factor(user) {
            Some(_) => Err(Error::new(Cause::AlreadyEnrolled).resource("user").name(user.to_string())),
            None => Ok(()),
        }
    }
}

fn not_found(user: UserId) -> Error {
    Error::new(Cause::NotFound).resource("second_factor").name(user.to_string())
}
