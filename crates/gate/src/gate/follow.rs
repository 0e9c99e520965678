//! Authorisation for streams: checked when a stream opens, and rechecked every [`RECHECK_INTERVAL`] (2 s).

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use pilothouse_types::error::{Cause, Code, Error, Result};

use super::Gate;
use crate::access::{AccessRequest, Caller, Permit};

/// Interval between two checks of a stream's authorisation.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for which the authorisation of a stream stays valid while the database is unavailable.
const OUTAGE_GRACE: Duration = Duration::from_secs(30);

impl Gate {
    /// Authorises a stream. Returns the permit and a future that resolves with the reason when the authorisation ends:
    /// within seconds of the end of the caller's session (revoked, expired, idle for too long, the user disabled or
    /// with another role) or of the cluster's registration. An open stream does not count as a use of the session.
    ///
    /// # Errors
    /// As [`Gate::allow`].
    pub async fn follow(
        &self,
        caller: &Caller,
        access: AccessRequest,
    ) -> Result<(Permit, BoxFuture<'static, Error>)> {
        let access = self.authorise(caller, access).await?;
        let revoked = self.clone().revoked(caller.clone(), access.clone());
        Ok((Permit::new(access, None), revoked.boxed()))
    }

    /// Resolves with the reason when the caller is no longer authorised.
    async fn revoked(self, caller: Caller, access: AccessRequest) -> Error {
        let mut confirmed = self.clock.monotonic();
        loop {
            self.spawner.sleep(RECHECK_INTERVAL).await;
            match self.recheck(&caller, &access).await {
                Ok(()) => confirmed = self.clock.monotonic(),
                Err(error) if error.code() == Code::ServiceUnavailable => {
                    if self.clock.monotonic().saturating_sub(confirmed) >= OUTAGE_GRACE {
                        return error;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    async fn recheck(&self, caller: &Caller, access: &AccessRequest) -> Result<()> {
        if let Some(session) = caller.session {
            let sessions = self.sessions.as_ref();
            let sessions = sessions.ok_or_else(|| {
                Error::internal("the caller has a session, but no session store is configured")
            })?;
            let role = sessions.current_role(session).await?;
            let current = Caller { role: Some(role), ..caller.clone() };
            current.check(access.verb, access.resource)?;
        }
        match access.cluster {
            Some(id) if self.clusters.name(id).await?.is_none() => {
                Err(Error::new(Cause::NotFound).resource("cluster").name(id.to_string()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
