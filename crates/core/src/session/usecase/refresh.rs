//! Refresh: the exchange of a refresh token and its session's cookie for a new pair of tokens.

use secrecy::{ExposeSecret, SecretString};

use super::{Sessions, Tokens, caller};
use crate::{
    access::Origin,
    error::{Cause, Error, Result},
    session::{
        Activity, FoundSession, REFRESH_GRACE, RefreshExchange, RefreshHolder, Rotation, SecretHash, Session,
    },
};

impl Sessions {
    /// Exchanges a refresh token and its session's cookie for a new token pair. A second use of a token is refused;
    /// more than ten seconds after the first use it also ends the session. A refresh that the user caused extends the
    /// session.
    ///
    /// # Errors
    /// `RefreshRejected`, `SessionEnded`; `StoreUnavailable`.
    pub async fn refresh(
        &self,
        refresh: &SecretString,
        cookie: &SecretString,
        origin: Origin,
        activity: Activity,
    ) -> Result<Tokens> {
        let at = self.clock.now();
        let found = self.live.by_cookie(cookie.expose_secret()).await?;
        let fresh = self.secret();
        let exchange = RefreshExchange {
            holder: RefreshHolder::Client,
            presented: SecretHash::of(refresh.expose_secret()),
            fresh: SecretHash::of(fresh.expose_secret()),
            at,
            grace: REFRESH_GRACE,
            activity,
        };
        let rotation = self.exchange(&found, origin, exchange).await?;
        match rotation {
            Rotation::Rotated(generation) => {
                let session = Session { generation, ..found.session };
                self.tokens(&session, cookie.clone(), fresh, at)
            }
            other => Err(refusal(other)),
        }
    }

    /// As [`Sessions::refresh`], for a browser, whose tabs share the refresh token as a cookie: refreshes within ten
    /// seconds give the same pair, at any replica, so that a refresh of one tab does not make the tokens of another tab
    /// invalid. Each refresh token after the first is derived from the session and its generation.
    ///
    /// # Errors
    /// As [`Sessions::refresh`].
    pub async fn refresh_browser(
        &self,
        refresh: &SecretString,
        cookie: &SecretString,
        origin: Origin,
        activity: Activity,
    ) -> Result<Tokens> {
        let at = self.clock.now();
        let found = self.live.by_cookie(cookie.expose_secret()).await?;
        let cookie_hash = SecretHash::of(cookie.expose_secret());
        let derived = |generation| self.ports.tokens.refresh_token(cookie_hash, generation);
        // a cached session may have an older generation: then another refresh has just rotated it, and its pair is
        // returned
        let generation = found.session.generation;
        let fresh = derived(generation + 1);
        let presented = SecretHash::of(refresh.expose_secret());
        let exchange = RefreshExchange {
            holder: RefreshHolder::Browser { generation },
            presented,
            fresh: SecretHash::of(fresh.expose_secret()),
            at,
            grace: REFRESH_GRACE,
            activity,
        };
        let rotation = self.exchange(&found, origin, exchange).await?;
        match rotation {
            Rotation::Rotated(generation) => {
                let session = Session { generation, ..found.session };
                self.tokens(&session, cookie.clone(), fresh, at)
            }
            Rotation::Repeated { generation, issued_at, newest } => {
                let again = if newest == presented { refresh.clone() } else { derived(generation) };
                // another token is the newest if the session is also used without the cookie, or the key has changed
                if SecretHash::of(again.expose_secret()) != newest {
                    return Err(Error::new(Cause::RefreshRejected));
                }
                let session = Session { generation, ..found.session };
                let tokens = self.tokens(&session, cookie.clone(), again, issued_at)?;
                let age = at.duration_since(issued_at).unsigned_abs();
                Ok(Tokens { expires_in: tokens.expires_in.saturating_sub(age), ..tokens })
            }
            other => Err(refusal(other)),
        }
    }

    async fn exchange(
        &self,
        FoundSession { session, user, .. }: &FoundSession,
        origin: Origin,
        exchange: RefreshExchange,
    ) -> Result<Rotation> {
        let permit = self.gate.permit_refresh(&caller(user, session, origin));
        self.ports.store.rotate(&permit, session.id, exchange).await
    }
}

/// The refusal of an exchange that gave no tokens.
fn refusal(rotation: Rotation) -> Error {
    Error::new(match rotation {
        Rotation::Replayed => Cause::SessionEnded,
        _ => Cause::RefreshRejected,
    })
}
