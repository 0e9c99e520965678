//! Tests of the end of a stream's authorisation, with mocks.

use std::sync::Arc;

use futures_executor::block_on;
use pilothouse_types::{
    ids::{ClusterId, SessionId, TokenId, UserId},
    kind::Kind,
    name::Namespace,
    namespaces::{NamespacePattern, NamespaceScope},
    role::Role,
    testing::FakeRuntime,
};

use super::*;
use crate::{
    access::{Resource, Verb},
    gate::{MockClusterNames, MockSessionCheck, MockTokenCheck},
    operation::MockAuditWriter,
    rights::{ClusterLabels, EffectiveGrant, Labels, Reach, Rights},
};

fn logs() -> AccessRequest {
    AccessRequest::to(Verb::Logs, Resource::Kind(Kind::Pod)).in_cluster(ClusterId(1))
}

fn of_role(role: Role) -> Result<CurrentRights> {
    Ok(CurrentRights { role, rights: Rights::preset(role) })
}

/// Opens a stream with the session of a super admin. `check` is the response of the session check from the second call
/// on. Returns the reason for the end of the authorisation, and the permit.
fn followed(
    access: AccessRequest,
    mut check: impl FnMut(&FakeRuntime) -> Result<CurrentRights> + Send + 'static,
    cluster_remains: bool,
) -> (Error, Permit) {
    let runtime = FakeRuntime::default();
    let mut sessions = MockSessionCheck::new();
    let (mut calls, runtime_in_check) = (0, runtime.clone());
    sessions.expect_current_rights().returning(move |id| {
        assert_eq!(id, SessionId(3));
        calls += 1;
        if calls > 1 { check(&runtime_in_check) } else { of_role(Role::SuperAdmin) }
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
fn end(check: impl FnMut(&FakeRuntime) -> Result<CurrentRights> + Send + 'static) -> Cause {
    followed(logs(), check, true).0.cause
}

#[test]
fn stream_ends_when_the_session_ends() {
    assert_eq!(end(|_| Err(Error::new(Cause::SessionEnded))), Cause::SessionEnded);
}

#[test]
fn stream_ends_when_the_right_is_lost() {
    let users = AccessRequest::to(Verb::List, Resource::User);
    let (error, _) = followed(users, |_| of_role(Role::OpsAdmin), true);
    assert_eq!(error.cause, Cause::RightsChanged);
}

#[test]
fn stream_ends_when_the_scope_of_the_right_changes() {
    let pods = || AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(ClusterId(1));
    // the viewer's rights in these namespaces only, through a grant
    let in_namespaces = |pattern: &str| {
        let reach = Reach::try_from(vec![NamespacePattern::parse(pattern).unwrap()]).unwrap();
        let grant = EffectiveGrant { reach, ..EffectiveGrant::preset(Role::Viewer) };
        let clusters = ClusterLabels::from([(ClusterId(1), Labels::new())]);
        let rights = Rights::compile(&[grant], &clusters, jiff::Timestamp::UNIX_EPOCH);
        CurrentRights { role: Role::None, rights: Arc::new(rights) }
    };
    let narrowed = move |_: &FakeRuntime| Ok(in_namespaces("team-*"));
    let (error, permit) = followed(pods().within(NamespaceScope::All), narrowed, true);
    assert_eq!(error.cause, Cause::RightsChanged, "all namespaces became a set");
    assert_eq!(permit.namespaces(), &NamespaceScope::All);

    // another grant with the same scope does not end the stream
    let team = Namespace::new("team-a").unwrap();
    let mut calls = 0;
    let same_scope = move |_: &FakeRuntime| {
        calls += 1;
        if calls < 4 { Ok(in_namespaces("team-*")) } else { Err(Error::new(Cause::SessionEnded)) }
    };
    let (error, _) = followed(pods().in_namespace(&team), same_scope, true);
    assert_eq!(error.cause, Cause::SessionEnded);
}

#[test]
fn caller_of_a_stream_is_refreshed_with_the_rights_of_the_moment() {
    let runtime = FakeRuntime::default();
    let mut sessions = MockSessionCheck::new();
    sessions.expect_current_rights().returning(|_| of_role(Role::Viewer));
    let (trail, clusters) = (Arc::new(MockAuditWriter::new()), Arc::new(MockClusterNames::new()));
    let gate = Gate::new(trail, clusters, runtime.clock, runtime.rng, runtime.spawner)
        .with_sessions(Arc::new(sessions));
    let caller = Caller { user_id: Some(UserId(7)), session: Some(SessionId(3)), ..Caller::system() };
    let current = block_on(gate.refreshed(&caller, &logs())).unwrap();
    assert_eq!((current.role, current.session), (Some(Role::Viewer), Some(SessionId(3))));
    let users = AccessRequest::to(Verb::List, Resource::User);
    assert_eq!(block_on(gate.refreshed(&caller, &users)).unwrap_err().cause, Cause::RightsChanged);
    let system = block_on(gate.refreshed(&Caller::system(), &users)).unwrap();
    assert_eq!(system.session, None, "the system has no session");
}

#[test]
fn stream_ends_when_the_cluster_is_deleted() {
    let (error, permit) = followed(logs(), |_| of_role(Role::Viewer), false);
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
            2 => of_role(Role::Viewer),
            _ => Err(Error::new(Cause::SessionEnded)),
        }
    };
    assert_eq!(end(recovers), Cause::SessionEnded, "each response restarts the grace period");
}

/// Cause of the end of a followed log of a caller with a token, whose check has these responses, then the last again.
fn end_of_token(checks: Vec<Result<CurrentRights>>) -> Cause {
    let runtime = FakeRuntime::default();
    let mut tokens = MockTokenCheck::new();
    let mut checks = checks.into_iter();
    tokens.expect_current_rights().returning(move |id| {
        assert_eq!(id, TokenId(5));
        checks.next().expect("the stream ended before")
    });
    let mut clusters = MockClusterNames::new();
    clusters.expect_name().returning(|_| Ok(Some("prod".to_owned())));
    let trail = Arc::new(MockAuditWriter::new());
    let gate = Gate::new(trail, Arc::new(clusters), runtime.clock, runtime.rng, runtime.spawner)
        .with_tokens(Arc::new(tokens));
    let caller = Caller { user_id: Some(UserId(7)), token: Some(TokenId(5)), ..Caller::system() };
    let (_, revoked) = block_on(gate.follow(&caller, logs())).unwrap();
    block_on(revoked).cause
}

#[test]
fn stream_ends_when_the_token_ends() {
    for cause in [Cause::TokenInvalid, Cause::TokenExpired] {
        let held = of_role(Role::SuperAdmin);
        assert_eq!(end_of_token(vec![held.clone(), held, Err(Error::new(cause))]), cause);
    }
}

#[test]
fn stream_ends_when_the_rights_of_the_token_end() {
    assert_eq!(end_of_token(vec![of_role(Role::SuperAdmin), of_role(Role::None)]), Cause::RightsChanged);
}
