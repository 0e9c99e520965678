//! Concurrent refreshes and logouts, with the row locks of a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{sync::Arc, time::Duration};

use common::TestDatabase;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::future::join;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Permit, Resource, Verb},
    clock::Clock as _,
    session::{
        Activity, RefreshExchange, RefreshHolder, Rotation, SecretHash, Session, SessionRecord,
        SessionStore as _,
    },
    testing::contract::StorePorts,
    user::{PasswordHash, User, UserRegistry as _},
};
use pilothouse_store::Store;
use tokio::task::JoinHandle;

/// Maximum wait before a test fails.
const TIMEOUT: Duration = Duration::from_secs(30);

struct Fixture {
    db: TestDatabase,
    store: Store,
    ports: StorePorts,
    user: User,
}

impl Fixture {
    async fn on(db: TestDatabase) -> Self {
        let store = db.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let user = store.create(&ports.people(), common::user(&ports, "admin")).await.unwrap();
        Self { db, store, ports, user }
    }

    fn permit(&self, verb: Verb) -> Permit {
        self.ports.permit(AccessRequest::to(verb, Resource::Session).named("admin"))
    }

    fn secret(&self) -> SecretHash {
        let mut bytes = [0; 32];
        self.db.deps.rng.fill(&mut bytes);
        SecretHash(bytes)
    }

    /// Opens a session and returns it with its refresh token.
    async fn session(&self) -> (Session, SecretHash) {
        let (at, refresh) = (self.db.clock.now(), self.secret());
        let record = SessionRecord {
            user_id: self.user.id,
            cookie: self.secret(),
            refresh,
            source_ip: None,
            user_agent: None,
            at,
            expires_at: at + Duration::from_secs(3600),
            authenticated_at: at,
            factor_at: None,
            throttle_key: None,
        };
        let verified = PasswordHash::new("hash".to_owned());
        (self.store.open(&self.permit(Verb::Login), record, &verified).await.unwrap(), refresh)
    }

    fn refresh(&self, session: &Session, presented: SecretHash) -> JoinHandle<Result<Rotation>> {
        let (store, permit, id) = (self.store.clone(), self.permit(Verb::Refresh), session.id);
        let (fresh, at) = (self.secret(), self.db.clock.now());
        let grace = Duration::from_secs(10);
        let (holder, activity) = (RefreshHolder::Client, Activity::User);
        let exchange = RefreshExchange { holder, presented, fresh, at, grace, activity };
        tokio::spawn(async move { store.rotate(&permit, id, exchange).await })
    }

    fn logout(&self, session: &Session) -> JoinHandle<Result<bool>> {
        let (store, permit, id) = (self.store.clone(), self.permit(Verb::Logout), session.id);
        tokio::spawn(async move { store.end(&permit, id).await })
    }

    /// Waits until a transaction of the store is blocked by the lock of another one.
    async fn wait_for_blocked_transaction(&self) {
        let waiting = "SELECT count(*) AS n FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'pilothouse' AND wait_event_type = 'Lock'";
        let blocked = async {
            while self.db.count(waiting).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, blocked).await.expect("a blocked transaction before the deadline");
    }

    /// A transaction outside the store that has run these statements.
    async fn transaction(&self, statements: &str) -> AsyncPgConnection {
        let mut connection = self.db.postgres_connection().await;
        connection.batch_execute(&format!("BEGIN; {statements}")).await.unwrap();
        connection
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_logout_succeeds_among_60_concurrent_refreshes() {
    for db in TestDatabase::all() {
        let fixture = Fixture::on(db).await;
        let mut sessions = Vec::new();
        for _ in 0..60 {
            sessions.push(fixture.session().await);
        }
        // as many concurrent transactions as connections; more would wait for a connection, not for a lock
        for sessions in sessions.chunks(8) {
            let start = |(session, refresh): &(Session, SecretHash)| {
                (fixture.refresh(session, *refresh), fixture.logout(session))
            };
            let running: Vec<_> = sessions.iter().map(start).collect();
            for (refreshed, ended) in running {
                let (refreshed, ended) = join(refreshed, ended).await;
                assert!(ended.unwrap().unwrap(), "the session existed and is ended");
                let refreshed = refreshed.unwrap().unwrap();
                assert!(matches!(refreshed, Rotation::Rotated(2) | Rotation::Unknown), "{refreshed:?}");
            }
        }
        for (session, _) in &sessions {
            assert!(fixture.store.get(session.id).await.unwrap().is_none(), "the session is deleted");
        }
        for table in ["sessions", "refresh_tokens"] {
            assert_eq!(fixture.db.count(&format!("SELECT count(*) AS n FROM {table}")).await, 0);
        }
    }
}

/// A logout locks the row of the session and then its tokens. A refresh that locked the token first and then waited
/// for the session would deadlock with it.
#[tokio::test(flavor = "multi_thread")]
async fn refresh_waiting_for_a_session_locks_no_token() {
    let Some(db) = TestDatabase::postgres() else { return };
    let fixture = Fixture::on(db).await;
    let (session, refresh) = fixture.session().await;
    let lock = format!("SELECT 1 FROM sessions WHERE id = {} FOR UPDATE", session.id);
    let mut logout = fixture.transaction(&lock).await;
    let refreshed = fixture.refresh(&session, refresh);
    fixture.wait_for_blocked_transaction().await;
    let delete = format!("DELETE FROM sessions WHERE id = {}; COMMIT", session.id);
    logout.batch_execute(&delete).await.expect("no deadlock");
    assert_eq!(refreshed.await.unwrap().unwrap(), Rotation::Unknown);
}

/// The transaction of the store succeeds, whether PostgreSQL ends that transaction or the other one.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_ended_by_a_deadlock_is_retried() {
    let Some(db) = TestDatabase::postgres() else { return };
    let fixture = Fixture::on(db).await;
    let (session, refresh) = fixture.session().await;
    let mut other = fixture
        .transaction(&format!("SELECT 1 FROM refresh_tokens WHERE session_id = {} FOR UPDATE", session.id))
        .await;
    let refreshed = fixture.refresh(&session, refresh);
    fixture.wait_for_blocked_transaction().await;
    let against = format!("SELECT 1 FROM sessions WHERE id = {} FOR UPDATE", session.id);
    let _ = other.batch_execute(&against).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(refreshed.await.unwrap().unwrap(), Rotation::Rotated(2));
}
