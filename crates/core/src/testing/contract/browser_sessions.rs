use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Resource, Verb},
    ids::SessionId,
    role::Role,
    session::{Activity, RefreshExchange, RefreshHolder, Rotation, SecretHash},
};

const GRACE: Duration = Duration::from_secs(10);

impl StorePorts {
    /// A refresh of a browser that has read this generation of the session.
    async fn rotate_browser(
        &self,
        id: SessionId,
        generation: i64,
        presented: SecretHash,
        fresh: SecretHash,
        at: Timestamp,
    ) -> Rotation {
        let permit = self.permit(AccessRequest::to(Verb::Refresh, Resource::Session).named("user"));
        let holder = RefreshHolder::Browser { generation };
        let activity = Activity::User;
        let exchange = RefreshExchange { holder, presented, fresh, at, grace: GRACE, activity };
        self.sessions.rotate(&permit, id, exchange).await.unwrap()
    }

    async fn refreshes(&self) -> usize {
        self.operations().await.iter().filter(|row| row.operation_type == "refresh").count()
    }
}

pub(super) async fn refreshes_within_the_grace_period_give_the_newest_token(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let (second, third, at) = (ports.secret(), ports.secret(), ports.now());
    assert_eq!(ports.rotate_browser(session.id, 1, first, second, at).await, Rotation::Rotated(2));
    let repeated = Rotation::Repeated { generation: 2, issued_at: at, newest: second };
    // the old token, the new one, and the old one with the generation of a cached session
    for (generation, presented) in [(2, first), (2, second), (1, first)] {
        let rotation = ports.rotate_browser(session.id, generation, presented, third, at + GRACE).await;
        assert_eq!(rotation, repeated, "{generation}");
    }
    assert_eq!(ports.refreshes().await, 1, "nothing was changed");
    let found = ports.sessions.find(cookie).await.unwrap().unwrap().session;
    assert_eq!((found.generation, found.last_seen_at), (2, at));
    let later = at + GRACE + Duration::from_micros(1);
    assert_eq!(ports.rotate_browser(session.id, 2, second, third, later).await, Rotation::Rotated(3));
}

pub(super) async fn browser_with_an_old_generation_rotates_nothing(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, _, first) = ports.session(&user).await;
    let (second, third, at) = (ports.secret(), ports.secret(), ports.now());
    ports.rotate_browser(session.id, 1, first, second, at).await;
    let later = at + GRACE + Duration::from_micros(1);
    for generation in [1, 3] {
        let rotation = ports.rotate_browser(session.id, generation, second, third, later).await;
        assert_eq!(rotation, Rotation::JustUsed);
    }
    assert_eq!(ports.rotate_browser(session.id, 2, second, third, later).await, Rotation::Rotated(3));
}

pub(super) async fn concurrent_refreshes_of_a_browser_rotate_once(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, _, first) = ports.session(&user).await;
    let (fresh, at) = (ports.secret(), ports.now());
    let rotations = join_all((0..20).map(|_| ports.rotate_browser(session.id, 1, first, fresh, at))).await;
    let repeated = Rotation::Repeated { generation: 2, issued_at: at, newest: fresh };
    let count = |wanted| rotations.iter().filter(|rotation| **rotation == wanted).count();
    assert_eq!((count(Rotation::Rotated(2)), count(repeated)), (1, 19), "{rotations:?}");
    assert_eq!(ports.refreshes().await, 1);
}

pub(super) async fn browser_token_that_was_never_issued_is_unknown(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, _, first) = ports.session(&user).await;
    let (other, _, _) = ports.session(&user).await;
    let (fresh, at) = (ports.secret(), ports.now());
    let unknown = async |id, presented| {
        let rotation = ports.rotate_browser(id, 1, presented, ports.secret(), at).await;
        assert_eq!(rotation, Rotation::Unknown);
    };
    unknown(session.id, ports.secret()).await;
    unknown(other.id, first).await;
    assert_eq!(ports.rotate_browser(session.id, 1, first, fresh, at).await, Rotation::Rotated(2));
    unknown(session.id, ports.secret()).await;
    unknown(other.id, fresh).await;
}

pub(super) async fn replayed_browser_token_ends_the_session(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (session, cookie, first) = ports.session(&user).await;
    let (second, at) = (ports.secret(), ports.now());
    ports.rotate_browser(session.id, 1, first, second, at).await;
    let late = at + GRACE + Duration::from_micros(1);
    assert_eq!(ports.rotate_browser(session.id, 2, first, ports.secret(), late).await, Rotation::Replayed);
    assert!(ports.sessions.find(cookie).await.unwrap().is_none());
    assert_eq!(ports.rotate_browser(session.id, 2, second, ports.secret(), late).await, Rotation::Unknown);
}
