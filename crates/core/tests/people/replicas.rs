//! Two replicas on one database, each with its own session cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Result,
    access::{Origin, Permit},
    app::{App, AppSettings},
    ids::{SessionId, UserId},
    session::{
        Activity, FoundSession, RefreshExchange, Rotation, SecretHash, Session, SessionRecord, SessionStore,
        SignedIn, Tokens,
    },
    testing::fake::MemoryStore,
    user::{PasswordHash, Username},
};
use secrecy::ExposeSecret;

use crate::{Fixture, PASSWORD, cause};

/// A session store that counts session look-ups.
struct CountingStore {
    store: Arc<MemoryStore>,
    lookups: AtomicUsize,
}

#[async_trait]
impl SessionStore for CountingStore {
    async fn open(
        &self,
        permit: &Permit,
        session: SessionRecord,
        verified: &PasswordHash,
    ) -> Result<Session> {
        self.store.open(permit, session, verified).await
    }

    async fn find(&self, cookie: SecretHash) -> Result<Option<FoundSession>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.store.find(cookie).await
    }

    async fn get(&self, id: SessionId) -> Result<Option<FoundSession>> {
        self.store.get(id).await
    }

    async fn touch(&self, id: SessionId, at: Timestamp) -> Result<()> {
        self.store.touch(id, at).await
    }

    async fn renew_factor(&self, permit: &Permit, id: SessionId, at: Timestamp) -> Result<()> {
        self.store.renew_factor(permit, id, at).await
    }

    async fn rotate(&self, permit: &Permit, id: SessionId, exchange: RefreshExchange) -> Result<Rotation> {
        self.store.rotate(permit, id, exchange).await
    }

    async fn end(&self, permit: &Permit, id: SessionId) -> Result<bool> {
        self.store.end(permit, id).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(Session, Username)>> {
        self.store.list(user).await
    }
}

/// Another replica on the database of a fixture.
struct Replica {
    app: App,
    sessions: Arc<CountingStore>,
}

impl Replica {
    fn of(fixture: &Fixture) -> Self {
        let sessions =
            Arc::new(CountingStore { store: fixture.fake.store.clone(), lookups: AtomicUsize::new(0) });
        let mut ports = fixture.fake.ports();
        ports.users.sessions = sessions.clone();
        Self { app: App::new(ports, AppSettings::default()), sessions }
    }

    fn signed_in(&self, tokens: &Tokens) -> Result<SignedIn> {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(self.app.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User))
    }

    /// Session look-ups in the database since the previous call.
    fn lookups(&self) -> usize {
        self.sessions.lookups.swap(0, Ordering::SeqCst)
    }
}

#[test]
fn token_refreshed_at_one_replica_is_valid_at_the_other_at_once() {
    let here = Fixture::new();
    let there = Replica::of(&here);
    let mut tokens = here.login("admin", PASSWORD).unwrap();
    there.signed_in(&tokens).unwrap();
    for _ in 0..20 {
        let old = tokens.clone();
        tokens = here.refresh(&tokens).unwrap();
        there.lookups();
        for _ in 0..10 {
            there.signed_in(&tokens).unwrap();
        }
        assert_eq!(there.lookups(), 1, "one look-up bypasses the cache");
        assert_eq!(cause(there.signed_in(&old)), Cause::TokenExpired, "the old token is invalid there");
        assert_eq!(there.lookups(), 0, "an old token is refused from the cache");
    }
}

#[test]
fn session_opened_at_one_replica_is_valid_at_the_other_at_once() {
    let here = Fixture::new();
    let there = Replica::of(&here);
    for _ in 0..3 {
        let tokens = here.login("admin", PASSWORD).unwrap();
        there.signed_in(&tokens).unwrap();
    }
}

/// The cached session has exceeded the idle timeout; the one in the database was refreshed just before the timeout.
#[test]
fn refresh_just_before_idle_timeout_applies_at_the_other_replica() {
    let here = Fixture::new();
    let there = Replica::of(&here);
    let tokens = here.login("admin", PASSWORD).unwrap();
    let clock = &here.fake.runtime.clock;
    clock.advance(Duration::from_secs(30 * 60) - Duration::from_millis(300));
    // an expired token causes no session look-up, the cookie alone does
    block_on(there.app.sessions.check_cookie(tokens.session_id.expose_secret())).unwrap();
    let tokens = here.refresh(&tokens).unwrap();
    clock.advance(Duration::from_millis(400));
    there.signed_in(&tokens).unwrap();
}

#[test]
fn only_newer_signed_tokens_bypass_the_cache() {
    let here = Fixture::new();
    let there = Replica::of(&here);
    let (one, other) = (here.login("admin", PASSWORD).unwrap(), here.login("admin", PASSWORD).unwrap());
    there.signed_in(&one).unwrap();
    there.lookups();
    let forged = Tokens { access_token: "x.y.z".into(), ..one.clone() };
    let mixed = Tokens { access_token: other.access_token.clone(), ..one.clone() };
    let newer_of_another = Tokens { access_token: here.refresh(&other).unwrap().access_token, ..one.clone() };
    for _ in 0..10 {
        assert_eq!(cause(there.signed_in(&forged)), Cause::TokenInvalid);
        assert_eq!(cause(there.signed_in(&mixed)), Cause::SessionMismatch);
        assert_eq!(cause(there.signed_in(&newer_of_another)), Cause::SessionMismatch);
        there.signed_in(&one).unwrap();
    }
    assert_eq!(there.lookups(), 0);
}

#[test]
fn newer_token_of_an_ended_session_is_refused() {
    let here = Fixture::new();
    let there = Replica::of(&here);
    let tokens = here.login("admin", PASSWORD).unwrap();
    there.signed_in(&tokens).unwrap();
    let tokens = here.refresh(&tokens).unwrap();
    block_on(here.app.sessions.logout(tokens.session_id.expose_secret(), Origin::default())).unwrap();
    assert_eq!(cause(there.signed_in(&tokens)), Cause::SessionEnded);
}
