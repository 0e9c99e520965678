//! Sign-ins without a session: which of them count as failed logins, and what is recorded.

use super::Federation;
use crate::{
    access::{AccessRequest, Caller, Origin, Resource, Verb},
    error::{Error, Result},
    name::ProviderId,
    session::{ClientAddress, ThrottleKey},
};

/// A sign-in of somebody who is not known yet.
pub(super) struct Attempt {
    pub(super) caller: Caller,
    pub(super) access: AccessRequest,
    /// Keys under which it counts if it fails.
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

    /// A sign-in of which no name is known.
    pub(super) fn nameless(provider: &ProviderId, origin: Origin) -> Self {
        Self::new(&nobody(provider), None, origin)
    }
}

/// The name in the audit trail of a sign-in of which no name is recorded.
fn nobody(provider: &ProviderId) -> String {
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

    /// Ends an attempt that the provider has not decided, because it does not answer, for example. It is no failed
    /// login: an outage must not block those who sign in after it. So that it writes few audit rows, each provider has
    /// at most one per minute and address, for all names together.
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
            let caller = Caller::anonymous(nobody(provider), caller.origin);
            let access = access.named(nobody(provider)).with("refused_before", count);
            sessions.gate.record_refused_login(&caller, &access, &failure).await?;
        }
        Err(failure)
    }
}
