//! Use cases of second factors: enrolment, confirmation, renewal and removal by the user, and reset by a super admin.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use super::{
    CodeCheck, Confirmation, FactorCode, RecoveryCodes, SecondFactor, SecondFactorPorts, TotpSeed,
    code::{otpauth_url, seed_text},
};
use crate::{
    access::{AccessRequest, Caller, Granted, Permit, Resource, Verb},
    clock::Clock,
    error::{Cause, Error, Result},
    gate::Gate,
    ids::UserId,
    rng::{Rng, uuid_v7},
    session::{ClientAddress, LoginThrottle, SessionStore, SignedIn, ThrottleKey, account_key},
    user::UserRegistry,
};

/// Maximum age of the login in which a user enrols.
const LOGIN_AGE: Duration = Duration::from_mins(10);
/// Time within which a pending enrolment can be confirmed.
const PENDING: Duration = Duration::from_mins(10);

/// A pending enrolment as shown to its user, once.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The seed in base32.
    pub secret: SecretString,
    /// The `otpauth` URL of the seed, for a QR code.
    pub otpauth_url: SecretString,
}

/// Use cases of second factors.
#[derive(Clone)]
pub struct SecondFactors {
    pub(crate) gate: Gate,
    pub(crate) ports: SecondFactorPorts,
    pub(crate) check: CodeCheck,
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) throttle: Arc<dyn LoginThrottle>,
    pub(crate) users: Arc<dyn UserRegistry>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
}

impl SecondFactors {
    /// Begins the enrolment of the caller with a new seed, in place of an earlier one that is not confirmed.
    ///
    /// # Errors
    /// `LoginStale` if the login is more than 10 minutes ago; `AlreadyEnrolled`; `StoreUnavailable`.
    pub async fn enroll(&self, signed_in: &SignedIn) -> Result<Enrolment> {
        let granted = self.grant_own(signed_in, Verb::Enroll).await?;
        let (user, now) = (signed_in.user.id, self.clock.now());
        if signed_in.session.authenticated_at + LOGIN_AGE < now {
            return self.gate.refuse_granted(&granted, Error::new(Cause::LoginStale)).await;
        }
        if self.check.confirmed(user).await?.is_some() {
            return self.gate.refuse_granted(&granted, Error::new(Cause::AlreadyEnrolled)).await;
        }
        let (seed, enrolment) = (TotpSeed::random(&*self.rng), uuid_v7(now, &*self.rng));
        let shown = Enrolment {
            secret: seed_text(&seed),
            otpauth_url: otpauth_url(&seed, signed_in.user.username.as_str()),
        };
        let store = self.ports.store.clone();
        let work = async move |permit: Permit| {
            store.begin(&permit, user, enrolment, seed).await?;
            Ok(shown)
        };
        self.gate.change_local_granted(granted.with("confirmed", false), work).await
    }

    /// Confirms the caller's enrolment by a one-time code, which also gives the second factor in the caller's session.
    /// Returns the recovery codes, which are not shown again.
    ///
    /// # Errors
    /// `BadCredentials` for a wrong code; `NotFound` without an enrolment within the last 10 minutes;
    /// `AlreadyEnrolled`; `TooManyLogins`; `SessionEnded`; `StoreUnavailable`.
    pub async fn confirm(&self, signed_in: &SignedIn, code: &SecretString) -> Result<RecoveryCodes> {
        let keys = self.unblocked_keys(signed_in).await?;
        let granted = self.grant_own(signed_in, Verb::Enroll).await?.with("confirmed", true);
        let user = signed_in.user.id;
        let factor = match self.ports.store.find(user).await? {
            Some(factor) if factor.confirmed_at.is_some() => {
                return self.gate.refuse_granted(&granted, Error::new(Cause::AlreadyEnrolled)).await;
            }
            Some(factor) if self.clock.now() < factor.created_at + PENDING => factor,
            Some(_) | None => return self.gate.refuse_granted(&granted, not_found(signed_in)).await,
        };
        let codes = RecoveryCodes::random(&*self.rng);
        let (store, check) = (self.ports.store.clone(), self.check.clone());
        let (code, session) = (FactorCode::parse(code), signed_in.session.id);
        let work = async move |permit: Permit| {
            let step = check.confirming_step(&factor, &code, &keys).await?;
            let recovery = codes.hashes();
            let confirmation = Confirmation { enrolment: factor.enrolment, step, recovery, session };
            store.confirm(&permit, user, confirmation).await?;
            Ok(codes)
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Renews the caller's second factor, so that it is fresh for operations that require it.
    ///
    /// # Errors
    /// `BadCredentials` for a wrong code; `SecondFactorNotEnrolled`; `TooManyLogins`; `SessionEnded`;
    /// `StoreUnavailable`.
    pub async fn verify(&self, signed_in: &SignedIn, code: &SecretString) -> Result<()> {
        let keys = self.unblocked_keys(signed_in).await?;
        let code = FactorCode::parse(code);
        let granted = self.grant_own(signed_in, Verb::Verify).await?.with("second_factor", code.as_str());
        let factor = self.own(signed_in, &granted).await?;
        let (sessions, check, clock) = (self.sessions.clone(), self.check.clone(), self.clock.clone());
        let session = signed_in.session.id;
        let work = async move |permit: Permit| {
            check.spend(&factor, &code, &keys).await?;
            sessions.renew_factor(&permit, session, clock.now()).await
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Removes the caller's second factor, and ends the caller's other sessions.
    ///
    /// # Errors
    /// `BadCredentials` for a wrong code; `SecondFactorNotEnrolled`; `NotAllowedBySettings` if the settings require a
    /// second factor of the caller; `TooManyLogins`; `StoreUnavailable`.
    pub async fn disable(&self, signed_in: &SignedIn, code: &SecretString) -> Result<()> {
        let keys = self.unblocked_keys(signed_in).await?;
        let code = FactorCode::parse(code);
        let granted = self.grant_own(signed_in, Verb::Disable).await?.with("second_factor", code.as_str());
        let factor = self.own(signed_in, &granted).await?;
        if signed_in.caller.factor.required {
            return self.gate.refuse_granted(&granted, Error::new(Cause::NotAllowedBySettings)).await;
        }
        let (store, check) = (self.ports.store.clone(), self.check.clone());
        let (user, session) = (signed_in.user.id, signed_in.session.id);
        let work = async move |permit: Permit| {
            check.spend(&factor, &code, &keys).await?;
            store.remove(&permit, user, Some(session)).await
        };
        self.gate.change_local_granted(granted, work).await
    }

    /// Removes the second factor of a user who has lost it, and ends the user's sessions. For super admins and the
    /// command line.
    ///
    /// # Errors
    /// `RoleTooLow`; `SecondFactorStale`, `SecondFactorNotEnrolled` of the caller; `NotFound` if there is no such user,
    /// or the user has none; `StoreUnavailable`.
    pub async fn reset(&self, caller: &Caller, id: UserId) -> Result<()> {
        let access = AccessRequest::to(Verb::Disable, Resource::SecondFactor).named(id.to_string());
        let granted = self.gate.grant(caller, access).await?;
        let user = self.users.list().await?.into_iter().find(|user| user.id == id);
        let granted = match user {
            Some(user) => granted.named(user.username.as_str()),
            None => granted,
        };
        let store = self.ports.store.clone();
        let work = async move |permit: Permit| store.remove(&permit, id, None).await;
        self.gate.change_local_granted(granted, work).await
    }

    async fn grant_own(&self, signed_in: &SignedIn, verb: Verb) -> Result<Granted> {
        let access =
            AccessRequest::to(verb, Resource::OwnSecondFactor).named(signed_in.user.username.as_str());
        self.gate.grant(&signed_in.caller, access).await
    }

    /// The caller's confirmed second factor.
    ///
    /// # Errors
    /// `SecondFactorNotEnrolled`, recorded; `StoreUnavailable`.
    async fn own(&self, signed_in: &SignedIn, granted: &Granted) -> Result<SecondFactor> {
        match self.check.confirmed(signed_in.user.id).await? {
            Some(factor) => Ok(factor),
            None => {
                let refusal = Error::new(Cause::SecondFactorNotEnrolled);
                self.gate.refuse_granted(granted, refusal).await
            }
        }
    }

    /// The keys under which wrong codes of the caller count, as those of failed logins. A blocked caller is refused
    /// before anything is recorded.
    ///
    /// # Errors
    /// `TooManyLogins`; `StoreUnavailable`.
    async fn unblocked_keys(&self, signed_in: &SignedIn) -> Result<Vec<ThrottleKey>> {
        let address = signed_in.caller.origin.source_ip.map(ClientAddress::of);
        let (username, now) = (&signed_in.user.username, self.clock.now());
        let account = account_key(&*self.throttle, username, address.as_ref(), now).await?;
        let keys: Vec<_> = [account].into_iter().chain(address.as_ref().map(ThrottleKey::address)).collect();
        self.check.require_unblocked(&keys).await?;
        Ok(keys)
    }
}

fn not_found(signed_in: &SignedIn) -> Error {
    Error::new(Cause::NotFound).resource("second_factor").name(signed_in.user.username.as_str())
}
