//! Which sessions live: the one rule, for requests and for streams that outlast them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{Claims, SecretHash, Session, SessionId, SessionStore};
use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
    user::User,
};

/// Finds sessions that have not ended, of users that are not disabled.
#[derive(Clone)]
pub(crate) struct LiveSessions {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long one lives without being used.
    pub(crate) idle: Duration,
}

impl LiveSessions {
    /// The session of a cookie and its user.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie(&self, cookie: &str) -> Result<(Session, User)> {
        self.alive(self.store.find(SecretHash::of(cookie)).await?)
    }

    /// The session of a cookie and its user, for the bearer of an access token whose signature was verified. A token of a
    /// newer generation than the cached session was issued by another replica since; then the cache is passed over,
    /// once for each such token and each time the cache has an older session.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie_and_token(&self, cookie: &str, token: &Claims) -> Result<(Session, User)> {
        let cookie = SecretHash::of(cookie);
        let found = self.store.find(cookie).await?;
        let is_older =
            |session: &Session| session.id == token.session_id && session.generation < token.generation;
        match found {
            Some((session, _)) if is_older(&session) => self.alive(self.store.find_uncached(cookie).await?),
            found => self.alive(found),
        }
    }

    /// A session and its user.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_id(&self, id: SessionId) -> Result<(Session, User)> {
        self.alive(self.store.get(id).await?)
    }

    /// Whether a session has not expired.
    pub(super) fn lives(&self, session: &Session, now: Timestamp) -> bool {
        now < session.expires_at && now < session.last_seen_at + self.idle
    }

    fn alive(&self, found: Option<(Session, User)>) -> Result<(Session, User)> {
        found
            .filter(|(session, user)| !user.disabled && self.lives(session, self.clock.now()))
            .ok_or_else(|| Error::new(Cause::SessionEnded))
    }
}
