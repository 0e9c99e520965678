//! Authorisation for streams: checked when a stream opens, and rechecked every [`RECHECK_INTERVAL`] (2 s).

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use pilothouse_types::error::{Cause, Code, Error, Result};

use super::{CurrentRights, Gate};
use crate::access::{AccessRequest, Allowed, Caller, Permit, cluster_not_found};

/// Interval between two checks of a stream's authorisation.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for which the authorisation of a stream stays valid while the database is unavailable.
const OUTAGE_GRACE: Duration = Duration::from_secs(30);

impl Gate {
    /// Authorises a stream. Returns the permit and a future that resolves with the reason when the authorisation ends:
    /// within seconds of the end of the caller's session (revoked, expired, idle for too long, the user disabled or
    /// with another role) or API token (revoked, expired, its owner disabled or absent), of a change of what the
    /// caller's rights reach (`RightsChanged`), or of the cluster's registration. An open stream does not count as a
    /// use of the session.
    ///
    /// # Errors
    /// As [`Gate::allow`].
    pub async fn follow(
        &self,
        caller: &Caller,
        access: AccessRequest,
    ) -> Result<(Permit, BoxFuture<'static, Error>)> {
        let asked = access.clone();
        let (access, allowed) = self.authorise(caller, access).await?;
        let revoked = self.clone().revoked(caller.clone(), asked, allowed.clone());
        Ok((Permit::new(access, allowed, None), revoked.boxed()))
    }

    /// The caller with their rights at this moment, for another read under the authorisation of an open stream. What the
    /// read takes besides `asked` is judged by the rights of that caller.
    ///
    /// # Errors
    /// The reason for which the caller's session or token has ended; `RightsChanged` if the caller has lost the right to
    /// `asked`; `StoreUnavailable`.
    pub async fn refreshed(&self, caller: &Caller, asked: &AccessRequest) -> Result<Caller> {
        let Some(CurrentRights { role, rights }) = self.current_rights(caller).await? else {
            return Ok(caller.clone());
        };
        let current = caller.clone().with_rights(role, rights);
        match current.judge(asked) {
            Ok(_) => Ok(current),
            Err(_) => Err(Error::new(Cause::RightsChanged)),
        }
    }

    /// Resolves with the reason when the caller is no longer authorised.
    async fn revoked(self, caller: Caller, asked: AccessRequest, held: Allowed) -> Error {
        let mut confirmed = self.clock.monotonic();
        loop {
            self.spawner.sleep(RECHECK_INTERVAL).await;
            match self.recheck(&caller, &asked, &held).await {
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

    /// Checks that the caller's session or token is live, that the cluster is registered, and that the caller's rights
    /// reach the same part of the request as when the stream was opened.
    async fn recheck(&self, caller: &Caller, asked: &AccessRequest, held: &Allowed) -> Result<()> {
        let current = self.current_rights(caller).await?;
        if let Some(id) = asked.cluster
            && self.clusters.name(id).await?.is_none()
        {
            return Err(cluster_not_found(id));
        }
        let Some(CurrentRights { role, rights }) = current else { return Ok(()) };
        match caller.clone().with_rights(role, rights).judge(asked) {
            Ok(allowed) if allowed.has_same_scope(held) => Ok(()),
            Ok(_) | Err(_) => Err(Error::new(Cause::RightsChanged)),
        }
    }

    /// Role and rights of the caller at this moment, if the session or token is live. `None` for a caller without one, such
    /// as the system.
    async fn current_rights(&self, caller: &Caller) -> Result<Option<CurrentRights>> {
        let without = |what: &str| {
            Error::internal(format!("the caller has a {what}, but no store of them is configured"))
        };
        match (caller.session, caller.token) {
            (None, None) => Ok(None),
            (Some(session), _) => {
                let sessions = self.sessions.as_ref().ok_or_else(|| without("session"))?;
                sessions.current_rights(session).await.map(Some)
            }
            (None, Some(token)) => {
                let tokens = self.tokens.as_ref().ok_or_else(|| without("token"))?;
                tokens.current_rights(token).await.map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests;
