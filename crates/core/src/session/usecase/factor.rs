//! Second factor of a login.

use secrecy::SecretString;

use super::Sessions;
use crate::{
    access::{AccessRequest, Caller},
    error::{Cause, Error, Result},
    second_factor::FactorCode,
    session::ThrottleKey,
    user::{User, Username},
};

impl Sessions {
    /// Checks and uses the code of a login. Returns the kind of code for the audit trail; `None` if the user has no
    /// second factor. `keys` count the failures.
    ///
    /// # Errors
    /// `SecondFactorRequired` without a code; `BadCredentials` for a wrong code; `TooManyLogins`; `StoreUnavailable`.
    pub(crate) async fn second_factor(
        &self,
        user: &User,
        code: Option<&SecretString>,
        keys: &[ThrottleKey],
    ) -> Result<Option<&'static str>> {
        let Some(factor) = self.factors.confirmed(user.id).await? else { return Ok(None) };
        let code = FactorCode::parse(code.ok_or_else(|| Error::new(Cause::SecondFactorRequired))?);
        self.factors.spend(&factor, &code, keys).await?;
        Ok(Some(code.as_str()))
    }

    /// Refuses a login because of its code, and records the refusal. A login without a code usually precedes a login
    /// with a code, so at most one such audit row is written per account and minute.
    pub(crate) async fn refused_code<T>(
        &self,
        caller: Caller,
        access: AccessRequest,
        keys: Vec<ThrottleKey>,
        username: &Username,
        refusal: Error,
    ) -> Result<T> {
        match refusal.cause {
            Cause::TooManyLogins => {
                let pause = refusal.context.retry_after.unwrap_or_default();
                return self.throttled(caller, access, keys, pause).await;
            }
            Cause::BadCredentials => self.gate.record_refused_login(&caller, &access, &refusal).await?,
            Cause::SecondFactorRequired => {
                let key = ThrottleKey::missing_factor(username);
                if let Some(count) = self.ports.throttle.refused(&key, self.clock.now()).await? {
                    let access = access.with("refused_before", count);
                    self.gate.record_refused_login(&caller, &access, &refusal).await?;
                }
            }
            _ => {}
        }
        Err(refusal)
    }
}
