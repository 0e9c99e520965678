//! Sign-ins that opened no session: rules for the count of failed logins and for audit rows.

use super::Federation;
use crate::{
    access::{AccessRequest, Caller, Origin, Resource, Verb},
    error::{Error, Result},
    name::ProviderId,
    session::{ClientAddress, ThrottleKey},
};

/// A sign-in before its user is identified.
pub(super) struct Attempt {
    pub(super) caller: Caller,
    pub(super) access: AccessRequest,
    /// Throttle keys under which a failure is counted.
    pub(super) keys: Vec<ThrottleKey>,
}

impl Attempt {
    /// `shown` is the name in the audit trail. A failure counts under `account`, if there is one, and the address.
    pub(super) fn new(shown: &str, account: Option<ThrottleKey>, origin: Origin) -> Self {
        let address = origin.source_ip.map(ClientAddress::of);
        Self {
            access: AccessRequest::to(Verb::Login, Resource::Session).named(shown),
            caller: Caller::anonymous(shown, origin),
            keys: account.into_iter().chain(address.as_ref().map(ThrottleKey::address)).collect(),
        }
    }

    /// A sign-in without a known name.
    pub(super) fn nameless(provider: &ProviderId, origin: Origin) -> Self {
        Self::new(&unnamed(provider), None, origin)
    }
}

/// The name in the audit trail for a sign-in whose name is unknown or not recorded.
fn unnamed(provider: &ProviderId) -> String {
    format!("{provider}:-")
}

impl Federation {
    /// Refuses an attempt while one of its keys is blocked.
    ///
    /// # Errors
    /// `TooManyLogins`; `StoreUnavailable`; `AuditUnavailable`.
    pub(super) async fn require_unblocked(&self, attempt: &Attempt) -> Result<()> {
        let sessions = &self.sessions;
        match sessions.ports.throttle.blocked_for(&attempt.keys, sessions.clock.now()).await? {
            Some(pause) => {
                let Attempt { caller, access, keys } = attempt;
                sessions.throttled(caller.clone(), access.clone(), keys.clone(), pause).await
            }
            None => Ok(()),
        }
    }

    /// Counts an attempt as a failed login and records it.
    ///
    /// # Errors
    /// `refusal`; `StoreUnavailable`; `AuditUnavailable`.
    pub(super) async fn refuse<T>(&self, attempt: &Attempt, refusal: Error) -> Result<T> {
        let sessions = &self.sessions;
        sessions.ports.throttle.failed(&attempt.keys, sessions.clock.now()).await?;
        sessions.gate.record_refused_login(&attempt.caller, &attempt.access, &refusal).await?;
        Err(refusal)
    }

    /// Ends an attempt for which the provider made no decision, for example because the provider does not answer. The
    /// attempt is not counted as a failed login: an outage must not block later sign-ins. At most one audit row is
    /// written per provider, address and minute, for all names together.
    ///
    /// # Errors
    /// `failure`; `StoreUnavailable`; `AuditUnavailable`.
    pub(super) async fn undecided<T>(
        &self,
        provider: &ProviderId,
        attempt: Attempt,
        failure: Error,
    ) -> Result<T> {
        let sessions = &self.sessions;
        let Attempt { caller, access, .. } = attempt;
        let address = caller.origin.source_ip.map(ClientAddress::of);
        let key = ThrottleKey::undecided(provider, address.as_ref());
        if let Some(count) = sessions.ports.throttle.refused(&key, sessions.clock.now()).await? {
            let caller = Caller::anonymous(unnamed(provider), caller.origin);
            let access = access.named(unnamed(provider)).with("refused_before", count);
            sessions.gate.record_refused_login(&caller, &access, &failure).await?;
        }
        Err(failure)
    }
}
