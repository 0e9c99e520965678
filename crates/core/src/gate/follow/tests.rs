//! Tests of the end of a stream's authorisation, with mocks.

use std::sync::Arc;

use futures_executor::block_on;
use jiff::Timestamp;

use super::*;
use crate::{
    access::{Resource, Verb},
    clock::Clock,
    gate::MockClusterNames,
    ids::{ClusterId, SessionId, UserId},
    kind::Kind,
    operation::MockAuditWriter,
    role::Role,
    session::{LiveSessions, MockSessionStore, Session},
    testing::fake::FakeRuntime,
    user::{User, Username},
};

const IDLE: Duration = Duration::from_secs(1800);

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

/// Cause of the end of an authorisation. `then` is the response of the session store from the second call on.
fn end(
    then: impl Fn(&FakeRuntime) -> Result<Option<(Session, User)>> + Send + Sync + 'static,
) -> (Cause, Option<Role>) {
    let (error, _) = followed(then, true);
    (error.cause, error.context.required_role)
}

fn followed(
    then: impl Fn(&FakeRuntime) -> Result<Option<(Session, User)>> + Send + Sync + 'static,
    cluster_remains: bool,
) -> (Error, Permit) {
    let runtime = FakeRuntime::default();
    let mut store = MockSessionStore::new();
    let (mut calls, runtime_in_store) = (0, runtime.clone());
    store.expect_get().returning(move |id| {
        assert_eq!(id, SessionId(3));
        calls += 1;
        let now = runtime_in_store.clock.now();
        if calls > 1 { then(&runtime_in_store) } else { Ok(Some((session(now), user(now)))) }
    });
    let mut clusters = MockClusterNames::new();
    let mut lookups = 0;
    clusters.expect_name().returning(move |_| {
        lookups += 1;
        Ok((cluster_remains || lookups == 1).then(|| "prod".to_owned()))
    });
    let live = LiveSessions { store: Arc::new(store), clock: runtime.clock.clone(), idle: IDLE };
    let trail = Arc::new(MockAuditWriter::new());
    let gate = Gate::new(trail, Arc::new(clusters), runtime.clock, runtime.rng, runtime.spawner)
        .with_sessions(Arc::new(live));
    let caller = Caller {
        user_id: Some(UserId(7)),
        role: Some(Role::Viewer),
        session: Some(SessionId(3)),
        ..Caller::system()
    };
    let access = AccessRequest::to(Verb::Logs, Resource::Kind(Kind::Pod)).in_cluster(ClusterId(1));
    let (permit, revoked) = block_on(gate.follow(&caller, access)).unwrap();
    (block_on(revoked), permit)
}

#[test]
fn stream_ends_with_the_session() {
    assert_eq!(end(|_| Ok(None)), (Cause::SessionEnded, None), "revoked");
    let disabled = |runtime: &FakeRuntime| {
        let now = runtime.clock.now();
        Ok(Some((session(now), User { disabled: true, ..user(now) })))
    };
    assert_eq!(end(disabled), (Cause::SessionEnded, None), "disabled");
    let expired = |runtime: &FakeRuntime| {
        let (then, now) = (runtime.clock.now(), runtime.clock.now());
        Ok(Some((Session { expires_at: then, ..session(then) }, user(now))))
    };
    assert_eq!(end(expired), (Cause::SessionEnded, None), "expired");
    let idle = |runtime: &FakeRuntime| {
        let then = runtime.clock.now();
        runtime.clock.advance(IDLE);
        Ok(Some((session(then), user(then))))
    };
    assert_eq!(end(idle), (Cause::SessionEnded, None), "idle for too long");
}

#[test]
fn stream_ends_with_the_cluster() {
    let (error, permit) = followed(|_| Ok(None), false);
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFound, Some("cluster")));
    assert!(permit.operation().is_none(), "a read is not recorded");
}

#[test]
fn stream_survives_a_short_database_outage() {
    let unavailable = |runtime: &FakeRuntime| {
        runtime.clock.advance(Duration::from_secs(2));
        Err(Error::new(Cause::StoreUnavailable))
    };
    assert_eq!(end(unavailable).0, Cause::StoreUnavailable);
    let calls = std::sync::atomic::AtomicU32::new(0);
    let recovers = move |runtime: &FakeRuntime| {
        let now = runtime.clock.now();
        runtime.clock.advance(Duration::from_secs(20));
        match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 | 2 => Err(Error::new(Cause::StoreUnavailable)),
            1 => Ok(Some((session(now), user(now)))),
            _ => Ok(None),
        }
    };
    assert_eq!(end(recovers).0, Cause::SessionEnded, "each response restarts the grace period");
}
