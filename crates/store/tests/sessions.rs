//! Refreshes and logouts at once, on the rows and locks of a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{sync::Arc, time::Duration};

use common::Place;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::future::join;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Permit, Resource, Verb},
    clock::Clock as _,
    session::{Rotation, SecretHash, Session, SessionRecord, SessionStore as _},
    testing::contract::StorePorts,
    user::{PasswordHash, User, UserRegistry as _},
};
use pilothouse_store::Store;
use tokio::task::JoinHandle;

/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

struct World {
    place: Place,
    store: Store,
    ports: StorePorts,
    user: User,
}

impl World {
    async fn on(place: Place) -> Self {
        let store = place.open().await;
        let ports = StorePorts::over(Arc::new(store.clone()));
        let user = store.create(&ports.people(), common::user(&ports, "admin")).await.unwrap();
        Self { place, store, ports, user }
    }

    fn permit(&self, verb: Verb) -> Permit {
        self.ports.permit(AccessRequest::to(verb, Resource::Session).named("admin"))
    }

    fn secret(&self) -> SecretHash {
        let mut bytes = [0; 32];
        self.place.deps.rng.fill(&mut bytes);
        SecretHash(bytes)
    }

    /// An open session and its refresh token.
    async fn session(&self) -> (Session, SecretHash) {
        let (at, refresh) = (self.place.clock.now(), self.secret());
        let record = SessionRecord {
            user_id: self.user.id,
            cookie: self.secret(),
            refresh,
            source_ip: None,
            user_agent: None,
            at,
            expires_at: at + Duration::from_secs(3600),
            counted_by: None,
        };
        let verified = PasswordHash::new("hash".to_owned());
        (self.store.open(&self.permit(Verb::Login), record, &verified).await.unwrap(), refresh)
    }

    fn refresh(&self, session: &Session, presented: SecretHash) -> JoinHandle<Result<Rotation>> {
        let (store, permit, id) = (self.store.clone(), self.permit(Verb::Refresh), session.id);
        let (fresh, at) = (self.secret(), self.place.clock.now());
        let grace = Duration::from_secs(10);
        tokio::spawn(async move { store.rotate(&permit, id, presented, fresh, at, grace).await })
    }

    fn logout(&self, session: &Session) -> JoinHandle<Result<bool>> {
        let (store, permit, id) = (self.store.clone(), self.permit(Verb::Logout), session.id);
        tokio::spawn(async move { store.end(&permit, id).await })
    }

    /// Waits until a transaction of the store waits for a lock of another one.
    async fn somebody_waits(&self) {
        let waiting = "SELECT count(*) AS n FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'pilothouse' AND wait_event_type = 'Lock'";
        let waits = async {
            while self.place.count(waiting).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waits).await.expect("a transaction that waits");
    }

    /// A transaction past the store that has run these statements.
    async fn transaction(&self, statements: &str) -> AsyncPgConnection {
        let mut connection = self.place.postgres_connection().await;
        connection.batch_execute(&format!("BEGIN; {statements}")).await.unwrap();
        connection
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_60_refreshes_and_logouts_at_once_every_logout_succeeds() {
    for place in Place::all() {
        let world = World::on(place).await;
        let mut sessions = Vec::new();
        for _ in 0..60 {
            sessions.push(world.session().await);
        }
        // as many transactions at once as there are connections; more would wait for these, and not for locks
        for sessions in sessions.chunks(8) {
            let start = |(session, refresh): &(Session, SecretHash)| {
                (world.refresh(session, *refresh), world.logout(session))
            };
            let running: Vec<_> = sessions.iter().map(start).collect();
            for (refreshed, ended) in running {
                let (refreshed, ended) = join(refreshed, ended).await;
                assert!(ended.unwrap().unwrap(), "the session was there and is ended");
                let refreshed = refreshed.unwrap().unwrap();
                assert!(matches!(refreshed, Rotation::Rotated(2) | Rotation::Unknown), "{refreshed:?}");
            }
        }
        for (session, _) in &sessions {
            assert!(world.store.get(session.id).await.unwrap().is_none(), "no session lives on");
        }
        for table in ["sessions", "refresh_tokens"] {
            assert_eq!(world.place.count(&format!("SELECT count(*) AS n FROM {table}")).await, 0);
        }
    }
}

/// A logout has the session's row and goes on to the tokens; a refresh that had locked the token first, and then waited for
/// the session, would be in its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_waits_for_a_session_holds_none_of_its_tokens() {
    let Some(place) = Place::postgres() else { return };
    let world = World::on(place).await;
    let (session, refresh) = world.session().await;
    let lock = format!("SELECT 1 FROM sessions WHERE id = {} FOR UPDATE", session.id);
    let mut logout = world.transaction(&lock).await;
    let refreshed = world.refresh(&session, refresh);
    world.somebody_waits().await;
    let delete = format!("DELETE FROM sessions WHERE id = {}; COMMIT", session.id);
    logout.batch_execute(&delete).await.expect("no deadlock");
    assert_eq!(refreshed.await.unwrap().unwrap(), Rotation::Unknown);
}

/// Whichever of the two PostgreSQL ends, the store's transaction is made in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_ended_by_a_deadlock_is_repeated() {
    let Some(place) = Place::postgres() else { return };
    let world = World::on(place).await;
    let (session, refresh) = world.session().await;
    let mut other = world
        .transaction(&format!("SELECT 1 FROM refresh_tokens WHERE session_id = {} FOR UPDATE", session.id))
        .await;
    let refreshed = world.refresh(&session, refresh);
    world.somebody_waits().await;
    let against = format!("SELECT 1 FROM sessions WHERE id = {} FOR UPDATE", session.id);
    let _ = other.batch_execute(&against).await;
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(refreshed.await.unwrap().unwrap(), Rotation::Rotated(2));
}
