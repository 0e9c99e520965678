//! Session liveness: the rule for requests, and for streams that outlive a request.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Claims, FoundSession, SecretHash, Session, SessionStore, UserRights};
use crate::{
    clock::Clock,
    error::{Cause, Error, Result},
    gate::{CurrentRights, SessionCheck},
    ids::SessionId,
};

/// Finds live sessions: neither ended nor expired, of users who are not disabled.
#[derive(Clone)]
pub(crate) struct LiveSessions {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Idle timeout of a session.
    pub(crate) idle: Duration,
    /// Rights of the users.
    pub(crate) rights: Arc<UserRights>,
}

impl LiveSessions {
    /// The session of a cookie.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie(&self, cookie: &str) -> Result<FoundSession> {
        self.require_live(self.store.find(SecretHash::of(cookie)).await?)
    }

    /// The session of a cookie, for an access token whose signature was verified. If the token's
    /// generation is newer than the cached session's, another replica has issued it since. Then the session is
    /// read from the database, at most once for each token and outdated cache entry.
    ///
    /// # Errors
    /// `SessionEnded`; `StoreUnavailable`.
    pub(crate) async fn by_cookie_and_token(&self, cookie: &str, token: &Claims) -> Result<FoundSession> {
        let cookie = SecretHash::of(cookie);
        let found = self.store.find(cookie).await?;
        let is_older_than_token =
            |session: &Session| session.id == token.session_id && session.generation < token.generation;
        match found {
            Some(found) if is_older_than_token(&found.session) => {
                self.require_live(self.store.find_uncached(cookie).await?)
            }
            found => self.require_live(found),
        }
    }

    /// Whether a session has not expired.
    pub(super) fn is_live(&self, session: &Session, now: Timestamp) -> bool {
        now < self.idle_expires_at(session)
    }

    /// Time at which a session ends unless it is used before.
    pub(super) fn idle_expires_at(&self, session: &Session) -> Timestamp {
        session.expires_at.min(session.last_seen_at + self.idle)
    }

    fn require_live(&self, found: Option<FoundSession>) -> Result<FoundSession> {
        found
            .filter(|found| !found.user.disabled && self.is_live(&found.session, self.clock.now()))
            .ok_or_else(|| Error::new(Cause::SessionEnded))
    }
}

#[async_trait]
impl SessionCheck for LiveSessions {
    async fn current_rights(&self, session: SessionId) -> Result<CurrentRights> {
        let found = self.require_live(self.store.get(session).await?)?;
        Ok(CurrentRights { role: found.user.role, rights: self.rights.of(&found).await? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_executor::block_on;

    use super::*;
    use crate::{
        grant::{MockRightsSource, MockRoleRegistry, RightsRows, RightsStamp},
        ids::UserId,
        rights::ClusterLabels,
        role::Role,
        session::{CachedSessions, MockSessionStore},
        testing::fake::FakeRuntime,
        user::{User, Username},
    };

    const IDLE: Duration = Duration::from_secs(1800);

    fn found(now: Timestamp) -> FoundSession {
        FoundSession { session: session(now), user: user(now), enrolled: false, rights: RightsStamp(1) }
    }

    fn session(now: Timestamp) -> Session {
        Session {
            id: SessionId(3),
            user_id: UserId(7),
            generation: 1,
            source_ip: None,
            user_agent: None,
            created_at: now,
            last_seen_at: now,
            expires_at: now + Duration::from_secs(3600),
            authenticated_at: now,
            factor_at: None,
        }
    }

    fn user(now: Timestamp) -> User {
        User {
            id: UserId(7),
            username: Username::new("ann").unwrap(),
            display_name: String::new(),
            role: Role::Viewer,
            disabled: false,
            created_at: now,
            last_login_at: None,
        }
    }

    /// The current role when the store has this session and user, or the cause of the refusal.
    fn current_role(runtime: &FakeRuntime, stored: Option<FoundSession>) -> Result<Role, Cause> {
        let mut store = MockSessionStore::new();
        store.expect_get().returning(move |id| {
            assert_eq!(id, SessionId(3));
            Ok(stored.clone())
        });
        let mut source = MockRightsSource::new();
        source.expect_rights().returning(|_, _| {
            Ok(RightsRows { stamp: RightsStamp(1), grants: Vec::new(), labels: ClusterLabels::new() })
        });
        let clock = runtime.clock.clone();
        let rights =
            Arc::new(UserRights::new(Arc::new(source), Arc::new(MockRoleRegistry::new()), clock.clone()));
        let live = LiveSessions { store: Arc::new(store), clock, idle: IDLE, rights };
        block_on(live.current_rights(SessionId(3))).map(|current| current.role).map_err(|error| error.cause)
    }

    #[test]
    fn only_a_live_session_of_an_enabled_user_has_a_role() {
        let runtime = FakeRuntime::default();
        let now = runtime.clock.now();
        let live = Some(found(now));
        assert_eq!(current_role(&runtime, live.clone()), Ok(Role::Viewer));
        assert_eq!(current_role(&runtime, None), Err(Cause::SessionEnded), "revoked");
        let disabled = Some(FoundSession { user: User { disabled: true, ..user(now) }, ..found(now) });
        assert_eq!(current_role(&runtime, disabled), Err(Cause::SessionEnded), "disabled");
        let expired =
            Some(FoundSession { session: Session { expires_at: now, ..session(now) }, ..found(now) });
        assert_eq!(current_role(&runtime, expired), Err(Cause::SessionEnded), "expired");
        runtime.clock.advance(IDLE);
        assert_eq!(current_role(&runtime, live), Err(Cause::SessionEnded), "idle for too long");
    }

    #[test]
    fn checks_of_many_streams_read_the_session_once() {
        let runtime = FakeRuntime::default();
        let (stored, reads) = (found(runtime.clock.now()), Arc::new(AtomicUsize::new(0)));
        let mut store = MockSessionStore::new();
        let counted = reads.clone();
        store.expect_get().returning(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Some(stored.clone()))
        });
        store.expect_touch().returning(|_, _| Ok(()));
        let (clock, spawner) = (runtime.clock.clone(), runtime.spawner.clone());
        let store = CachedSessions::new(Arc::new(store), clock, spawner);
        let get = || block_on(store.get(SessionId(3))).unwrap().unwrap();
        for _ in 0..100 {
            get();
        }
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        runtime.clock.advance(Duration::from_secs(1));
        get();
        assert_eq!(reads.load(Ordering::SeqCst), 2, "a change by another process is seen within a second");
        block_on(store.touch(SessionId(3), runtime.clock.now())).unwrap();
        get();
        assert_eq!(reads.load(Ordering::SeqCst), 3, "a change by this process is seen at once");
    }
}
