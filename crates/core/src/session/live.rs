//! Session liveness: the rule for requests, and for streams that outlive a request.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Claims, SecretHash, Session, SessionStore};
use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
    gate::SessionCheck,
    ids::SessionId,
    role::Role,
    user::User,
};

/// Finds live sessions: neither ended nor expired, of users who are not disabled.
#[derive(Clone)]
pub(crate) struct LiveSessions {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Idle timeout of a session.
    pub(crate) idle: Duration,
}

impl LiveSessions {
    /// The session of a cookie and its user.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie(&self, cookie: &str) -> Result<(Session, User)> {
        self.require_live(self.store.find(SecretHash::of(cookie)).await?)
    }

    /// The session of a cookie and its user, for an access token whose signature was verified. If the token's
    /// generation is newer than the cached session's, another replica has issued it since. Then this reads past the
    /// cache: once per such token, each time the cache has an older session.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie_and_token(&self, cookie: &str, token: &Claims) -> Result<(Session, User)> {
        let cookie = SecretHash::of(cookie);
        let found = self.store.find(cookie).await?;
        let is_older_than_token =
            |session: &Session| session.id == token.session_id && session.generation < token.generation;
        match found {
            Some((session, _)) if is_older_than_token(&session) => {
                self.require_live(self.store.find_uncached(cookie).await?)
            }
            found => self.require_live(found),
        }
    }

    /// Whether a session has not expired.
    pub(super) fn is_live(&self, session: &Session, now: Timestamp) -> bool {
        now < session.expires_at && now < session.last_seen_at + self.idle
    }

    fn require_live(&self, found: Option<(Session, User)>) -> Result<(Session, User)> {
        found
            .filter(|(session, user)| !user.disabled && self.is_live(session, self.clock.now()))
            .ok_or_else(|| Error::new(Cause::SessionEnded))
    }
}

#[async_trait]
impl SessionCheck for LiveSessions {
    async fn current_role(&self, session: SessionId) -> Result<Role> {
        let (_, user) = self.require_live(self.store.get(session).await?)?;
        Ok(user.role)
    }
}
