//! A right that is used for longer than a request: asked for once, and then again and again.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};

use super::Gate;
use crate::{
    access::{AccessRequest, Caller, Permit},
    error::{Cause, Code, Error, Result},
};

/// How often a right in use is asked for again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How long a right holds while the database cannot say whether it does.
const OUTAGE_GRACE: Duration = Duration::from_secs(30);

impl Gate {
    /// Allows a read that goes on: also a future that ends when the right to it does, with the reason. That is within
    /// seconds of the end of the caller's session (revoked, expired, unused for too long, the user disabled or of
    /// another role) or of the cluster's registration. Following does not count as a use of the session.
    ///
    /// # Errors
    /// As [`Gate::allow`].
    pub async fn follow(
        &self,
        caller: &Caller,
        access: AccessRequest,
    ) -> Result<(Permit, BoxFuture<'static, Error>)> {
        let access = self.authorise(caller, access).await?;
        let lost = self.clone().revoked(caller.clone(), access.clone());
        Ok((Permit::new(access, None), lost.boxed()))
    }

    /// Ends when the right does not hold any more.
    async fn revoked(self, caller: Caller, access: AccessRequest) -> Error {
        let mut confirmed = self.clock.monotonic();
        loop {
            self.spawner.sleep(RECHECK_INTERVAL).await;
            match self.still_holds(&caller, &access).await {
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

    async fn still_holds(&self, caller: &Caller, access: &AccessRequest) -> Result<()> {
        if let Some(session) = caller.session {
            let sessions = self.sessions.as_ref();
            let sessions = sessions.ok_or_else(|| {
                Error::internal("the caller has a session, but no session store is configured")
            })?;
            let (_, user) = sessions.by_id(session).await?;
            let now = Caller { role: Some(user.role), ..caller.clone() };
            now.check(access.verb, access.resource)?;
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
