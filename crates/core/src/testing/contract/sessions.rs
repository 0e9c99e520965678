use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::Cause,
    ids::{SessionId, UserId},
    operation::Status,
    role::Role,
    session::{Activity, RefreshExchange, RefreshHolder, Rotation, SecretHash, SessionRecord},
    user::{PasswordHash, SetBy, UserPatch},
};

const GRACE: Duration = Duration::from_secs(10);

/// A session without a client address.
fn record(
    user_id: UserId,
    cookie: SecretHash,
    refresh: SecretHash,
    at: Timestamp,
    expires_at: Timestamp,
) -> SessionRecord {
    let (source_ip, user_agent, throttle_key) = (None, None, None);
    SessionRecord {
        user_id,
        cookie,
        refresh,
        source_ip,
        user_agent,
        at,
        expires_at,
        authenticated_at: at,
        factor_at: None,
        throttle_key,
    }
}

impl StorePorts {
    async fn rotate(
        &self,
        id: SessionId,
        presented: SecretHash,
        fresh: SecretHash,
        at: Timestamp,
    ) -> Rotation {
        self.rotate_by(Activity::User, id, presented, fresh, at).await
    }

    async fn rotate_by(
        &self,
        activity: Activity,
        id: SessionId,
        presented: SecretHash,
        fresh: SecretHash,
        at: Timestamp,
    ) -> Rotation {
        let permit = self.permit(AccessRequest::to(Verb::Refresh, Resource::Session).named("user"));
        let holder = RefreshHolder::Client;
        let exchange = RefreshExchange { holder, presented, fresh, at, grace: GRACE, activity };
        self.sessions.rotate(&permit, id, exchange).await.unwrap()
    }

    async fn end(&self, id: SessionId) -> bool {
        let permit = self.permit(AccessRequest::to(Verb::Logout, Resource::Session).named("user"));
        self.sessions.end(&permit, id).await.unwrap()
    }
}

pub(super) async fn open_session_is_found_by_cookie_and_id(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, refresh) = ports.session(&user).await;
    assert_eq!((session.user_id, session.generation), (user.id, 1));
    assert_eq!((session.source_ip.as_deref(), &session.user_agent), (Some("192.0.2.1"), &None));
    assert_eq!((session.created_at, session.last_seen_at), (ports.now(), ports.now()));
    let found = ports.sessions.find(cookie).await.unwrap().unwrap();
    let owner = &found.user;
    assert_eq!((&found.session, owner.id, owner.role), (&session, user.id, Role::SuperAdmin));
    assert_eq!(ports.sessions.get(session.id).await.unwrap().as_ref(), Some(&found));
    assert!(ports.sessions.get(SessionId(1_000_000)).await.unwrap().is_none());
    assert_eq!(owner.last_login_at, Some(ports.now()), "the login is recorded");
    assert!(ports.sessions.find(refresh).await.unwrap().is_none(), "a refresh token is not a cookie");
}

/// Verifying a password takes time: the state of the user when the session opens is decisive.
pub(super) async fn session_opens_only_with_the_current_password(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("ann", Role::Viewer).await;
    let verified = ports.new_user("ann", Role::Viewer).password;
    let open = async |user_id: UserId, verified: &PasswordHash| {
        let (cookie, refresh) = (ports.secret(), ports.secret());
        let (at, expires_at) = (ports.now(), ports.now() + Duration::from_secs(3600));
        let record = record(user_id, cookie, refresh, at, expires_at);
        let opened = ports.sessions.open(&ports.people(), record, verified).await;
        let found = ports.sessions.find(cookie).await.unwrap();
        assert_eq!(opened.is_ok(), found.is_some());
        opened.map(drop).map_err(|error| error.cause)
    };
    let set_disabled = async |disabled: bool| {
        let patch = UserPatch { disabled: Some(disabled), ..UserPatch::default() };
        ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    };
    let refused = Err(Cause::BadCredentials);
    assert_eq!(open(user.id, &verified).await, Ok(()));
    assert_eq!(open(UserId(1_000_000), &verified).await, refused, "unknown user");
    set_disabled(true).await;
    assert_eq!(open(user.id, &verified).await, refused, "disabled");
    set_disabled(false).await;
    assert_eq!(open(user.id, &verified).await, Ok(()));
    let another = PasswordHash::new("another".to_owned());
    ports
        .users
        .set_password(&ports.people(), user.id, another.clone(), SetBy::Administrator, ports.now())
        .await
        .unwrap();
    assert_eq!(open(user.id, &verified).await, refused, "old password");
    assert_eq!(open(user.id, &another).await, Ok(()));
}

pub(super) async fn touch_updates_last_seen(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, _) = ports.session(&user).await;
    let later = ports.now() + Duration::from_secs(60);
    ports.sessions.touch(session.id, later).await.unwrap();
    ports.sessions.touch(session.id, ports.now()).await.unwrap(); // out of order: no effect
    let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
    assert_eq!((found.last_seen_at, found.created_at), (later, ports.now()));
    ports.sessions.touch(SessionId(1_000_000), later).await.unwrap();
}

pub(super) async fn refresh_token_is_single_use(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let (second, third) = (ports.secret(), ports.secret());
    let at = ports.now() + Duration::from_secs(60);
    assert_eq!(ports.rotate(session.id, first, second, at).await, Rotation::Rotated(2));
    let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
    assert_eq!((found.generation, found.last_seen_at), (2, at));
    assert_eq!(ports.rotate(session.id, first, third, at + GRACE).await, Rotation::JustUsed);
    assert_eq!(ports.rotate(session.id, third, ports.secret(), at).await, Rotation::Unknown, "never issued");
    assert_eq!(ports.rotate(session.id, second, third, at).await, Rotation::Rotated(3));
}

pub(super) async fn background_refresh_does_not_update_last_seen(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let (second, third) = (ports.secret(), ports.secret());
    let seen = async || {
        let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
        (found.generation, found.last_seen_at)
    };
    let later = ports.now() + Duration::from_secs(60);
    let rotated = ports.rotate_by(Activity::Background, session.id, first, second, later).await;
    assert_eq!(rotated, Rotation::Rotated(2));
    assert_eq!(seen().await, (2, ports.now()));
    let rotated = ports.rotate_by(Activity::User, session.id, second, third, later).await;
    assert_eq!(rotated, Rotation::Rotated(3));
    assert_eq!(seen().await, (3, later));
}

pub(super) async fn one_of_concurrent_refreshes_succeeds(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let attempts = (0..20).map(|_| ports.rotate(session.id, first, ports.secret(), ports.now()));
    let rotations = join_all(attempts).await;
    let count = |wanted| rotations.iter().filter(|rotation| **rotation == wanted).count();
    assert_eq!((count(Rotation::Rotated(2)), count(Rotation::JustUsed)), (1, 19));
    let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
    assert_eq!(found.generation, 2);
    let recorded = ports.operations().await;
    assert_eq!(recorded.iter().filter(|row| row.operation_type == "refresh").count(), 1);
}

/// Concurrent refreshes over several generations: only the token of the successful refresh is valid.
pub(super) async fn concurrent_refreshes_leave_one_valid_chain(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let mut newest = first;
    for generation in 2..6 {
        let fresh: Vec<_> = (0..8).map(|_| ports.secret()).collect();
        let attempts = fresh.iter().map(|fresh| ports.rotate(session.id, newest, *fresh, ports.now()));
        let rotations = join_all(attempts).await;
        let succeeded = |rotation: &Rotation| *rotation == Rotation::Rotated(generation);
        assert_eq!(rotations.iter().filter(|rotation| succeeded(rotation)).count(), 1, "{rotations:?}");
        let successful = rotations.iter().position(succeeded).unwrap();
        for (n, refused) in fresh.iter().enumerate().filter(|(n, _)| *n != successful) {
            let rotation = ports.rotate(session.id, *refused, ports.secret(), ports.now()).await;
            assert_eq!(rotation, Rotation::Unknown, "refused refresh {n}");
        }
        newest = fresh[successful];
    }
    // a late replay of any used token ends the whole session
    let late = ports.now() + GRACE + Duration::from_secs(1);
    assert_eq!(ports.rotate(session.id, first, ports.secret(), late).await, Rotation::Replayed);
    assert_eq!(ports.rotate(session.id, newest, ports.secret(), late).await, Rotation::Unknown);
    assert!(ports.sessions.find(cookie).await.unwrap().is_none());
}

pub(super) async fn replayed_token_ends_the_session(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let (_, bystander, _) = ports.session(&user).await;
    let second = ports.secret();
    ports.rotate(session.id, first, second, ports.now()).await;
    let late = ports.now() + GRACE + Duration::from_micros(1);
    assert_eq!(ports.rotate(session.id, first, ports.secret(), late).await, Rotation::Replayed);
    assert!(ports.sessions.find(cookie).await.unwrap().is_none());
    assert_eq!(
        ports.rotate(session.id, second, ports.secret(), late).await,
        Rotation::Unknown,
        "the session has ended"
    );
    assert!(ports.sessions.find(bystander).await.unwrap().is_some());
    let recorded = ports.operations().await;
    let failed: Vec<_> = recorded.iter().filter(|row| row.status == Status::Failed).collect();
    assert_eq!(failed.len(), 1, "the end of the session is recorded");
    assert_eq!(failed[0].error_code.as_deref(), Some("AUTHENTICATION_ERROR"));
}

pub(super) async fn refresh_token_is_bound_to_its_session(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (one, _, first) = ports.session(&user).await;
    let (other, _, _) = ports.session(&user).await;
    assert_eq!(ports.rotate(other.id, first, ports.secret(), ports.now()).await, Rotation::Unknown);
    assert_eq!(ports.rotate(one.id, first, ports.secret(), ports.now()).await, Rotation::Rotated(2));
}

pub(super) async fn session_ends_once(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, refresh) = ports.session(&user).await;
    assert!(ports.end(session.id).await);
    assert!(ports.sessions.find(cookie).await.unwrap().is_none());
    assert!(ports.sessions.get(session.id).await.unwrap().is_none());
    assert_eq!(ports.rotate(session.id, refresh, ports.secret(), ports.now()).await, Rotation::Unknown);
    assert!(!ports.end(session.id).await);
    let (next, _, _) = ports.session(&user).await;
    assert!(next.id > session.id, "ids are never reused");
    let recorded = ports.operations().await;
    assert_eq!(recorded.iter().filter(|row| row.operation_type == "logout").count(), 1);
}

pub(super) async fn sessions_are_listed_by_user(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let viewer = ports.user("viewer", Role::Viewer).await;
    let (a, _, _) = ports.session(&admin).await;
    let (b, _, _) = ports.session(&viewer).await;
    let (ended, _, _) = ports.session(&viewer).await;
    ports.end(ended.id).await;
    let list = async |user| ports.sessions.list(user).await.unwrap();
    assert_eq!(list(None).await, [(a, admin.username), (b.clone(), viewer.username.clone())]);
    assert_eq!(list(Some(viewer.id)).await, [(b, viewer.username)]);
    assert_eq!(list(Some(UserId(1_000_000))).await, []);
}

pub(super) async fn only_expired_sessions_are_deleted(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let open = async |at, expires_at| {
        let (cookie, refresh) = (ports.secret(), ports.secret());
        let user_id = user.id;
        let record = record(user_id, cookie, refresh, at, expires_at);
        let verified = ports.new_user("admin", Role::SuperAdmin).password;
        ports.sessions.open(&ports.people(), record, &verified).await.unwrap();
        cookie
    };
    let minute = Duration::from_secs(60);
    open(ports.now(), ports.now() + minute).await;
    let alive = open(ports.now(), ports.now() + 2 * minute).await;
    let newest = open(ports.now() + minute, ports.now() + 2 * minute).await;
    for cookie in [alive, newest] {
        assert!(
            ports.sessions.find(cookie).await.unwrap().is_some(),
            "a session that has not expired is kept"
        );
    }
}

pub(super) async fn login_and_second_factor_have_their_times(ports: &StorePorts) {
    let user = ports.user("ann", Role::Viewer).await;
    let (cookie, refresh) = (ports.secret(), ports.secret());
    let now = ports.now();
    let earlier = now - Duration::from_secs(60);
    let record = SessionRecord {
        authenticated_at: earlier,
        factor_at: Some(earlier),
        ..record(user.id, cookie, refresh, now, now + Duration::from_secs(3600))
    };
    let verified = ports.users.credentials(&user.username).await.unwrap().unwrap().1;
    let opened = ports.sessions.open(&ports.people(), record, &verified).await.unwrap();
    assert_eq!((opened.authenticated_at, opened.factor_at), (earlier, Some(earlier)));
    let (other, other_cookie, _) = ports.session(&user).await;
    let later = now + Duration::from_secs(60);
    ports.sessions.renew_factor(&ports.people(), opened.id, later).await.unwrap();
    let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
    assert_eq!((found.created_at, found.authenticated_at, found.factor_at), (now, earlier, Some(later)));
    assert_eq!(ports.sessions.get(opened.id).await.unwrap().unwrap().session, found);
    assert_eq!(ports.sessions.find(other_cookie).await.unwrap().unwrap().session, other, "of one session");
    ports.end(opened.id).await;
    let ended = ports.sessions.renew_factor(&ports.people(), opened.id, later).await;
    assert_eq!(ended.unwrap_err().cause, Cause::SessionEnded);
}
