//! Which sessions live: the one rule, for requests and for streams that outlast them.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{SecretHash, Session, SessionId, SessionStore};
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
