//! Tests of the end of a stream's authorisation, with mocks.

use std::sync::Arc;

use futures_executor::block_on;
use pilothouse_types::{
    ids::{ClusterId, SessionId, UserId},
    kind::Kind,
    role::Role,
    testing::FakeRuntime,
};

use super::*;
use crate::{
    access::{Resource, Verb},
    gate::{MockClusterNames, MockSessionCheck},
    operation::MockAuditWriter,
};

fn logs() -> AccessRequest {
    AccessRequest::to(Verb::Logs, Resource::Kind(Kind::Pod)).in_cluster(ClusterId(1))
}

/// Opens a stream with the session of a super admin. `check` is the response of the session check from the second call
/// on. Returns the reason for the end of the authorisation, and the permit.
fn followed(
    access: AccessRequest,
    mut check: impl FnMut(&FakeRuntime) -> Result<Role> + Send + 'static,
    cluster_remains: bool,
) -> (Error, Permit) {
    let runtime = FakeRuntime::default();
    let mut sessions = MockSessionCheck::new();
    let (mut calls, runtime_in_check) = (0, runtime.clone());
    sessions.expect_current_role().returning(move |id| {
        assert_eq!(id, SessionId(3));
        calls += 1;
        if calls > 1 { check(&runtime_in_check) } else { Ok(Role::SuperAdmin) }
    });
    let mut clusters = MockClusterNames::new();
    let mut lookups = 0;
    clusters.expect_name().returning(move |_| {
        lookups += 1;
        Ok((cluster_remains || lookups == 1).then(|| "prod".to_owned()))
    });
    let trail = Arc::new(MockAuditWriter::new());
    let gate = Gate::new(trail, Arc::new(clusters), runtime.clock, runtime.rng, runtime.spawner)
        .with_sessions(Arc::new(sessions));
    let caller = Caller { user_id: Some(UserId(7)), session: Some(SessionId(3)), ..Caller::system() };
    let (permit, revoked) = block_on(gate.follow(&caller, access)).unwrap();
    (block_on(revoked), permit)
}

/// Cause of the end of the authorisation of a followed log whose cluster stays registered.
fn end(check: impl FnMut(&FakeRuntime) -> Result<Role> + Send + 'static) -> Cause {
    followed(logs(), check, true).0.cause
}

#[test]
fn stream_ends_when_the_session_ends() {
    assert_eq!(end(|_| Err(Error::new(Cause::SessionEnded))), Cause::SessionEnded);
}

#[test]
fn stream_ends_when_the_role_becomes_too_low() {
    let users = AccessRequest::to(Verb::List, Resource::User);
    let (error, _) = followed(users, |_| Ok(Role::OpsAdmin), true);
    assert_eq!((error.cause, error.context.required_role), (Cause::RoleTooLow, Some(Role::SuperAdmin)));
}

#[test]
fn stream_ends_when_the_cluster_is_deleted() {
    let (error, permit) = followed(logs(), |_| Ok(Role::Viewer), false);
    assert_eq!((error.cause, error.context.resource.as_deref()), (Cause::NotFound, Some("cluster")));
    assert!(permit.operation().is_none(), "a read is not recorded");
}

#[test]
fn stream_ends_when_a_database_outage_exceeds_the_grace_period() {
    let unavailable = |runtime: &FakeRuntime| {
        runtime.clock.advance(Duration::from_secs(2));
        Err(Error::new(Cause::StoreUnavailable))
    };
    assert_eq!(end(unavailable), Cause::StoreUnavailable);
    let mut calls = 0;
    let recovers = move |runtime: &FakeRuntime| {
        runtime.clock.advance(Duration::from_secs(20));
        calls += 1;
        match calls {
            1 | 3 => Err(Error::new(Cause::StoreUnavailable)),
            2 => Ok(Role::Viewer),
            _ => Err(Error::new(Cause::SessionEnded)),
        }
    };
    assert_eq!(end(recovers), Cause::SessionEnded, "each response restarts the grace period");
}
