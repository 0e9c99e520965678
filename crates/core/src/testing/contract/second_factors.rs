use std::time::Duration;

use futures_util::future::join_all;
use uuid::Uuid;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Permit, Resource, Verb},
    error::{Cause, Result},
    ids::{SessionId, UserId},
    role::Role,
    second_factor::{Confirmation, FactorUse, SecondFactor, TotpSeed},
    session::SecretHash,
    user::User,
};

const STEP: i64 = 1000;

/// A seed whose bytes all have this value.
fn seed(byte: u8) -> TotpSeed {
    TotpSeed::new([byte; TotpSeed::BYTES])
}

fn recovery(code: &str) -> FactorUse {
    FactorUse::Recovery(SecretHash::of(code))
}

impl StorePorts {
    fn own_factor(&self, verb: Verb) -> Permit {
        self.permit(AccessRequest::to(verb, Resource::OwnSecondFactor).named("user"))
    }

    async fn begin(&self, user: UserId, byte: u8) -> Result<Uuid> {
        let enrolment = crate::rng::uuid_v7(self.now(), &*self.runtime.rng);
        let permit = self.own_factor(Verb::Enroll);
        self.second_factors.begin(&permit, user, enrolment, seed(byte)).await?;
        Ok(enrolment)
    }

    /// Confirms with the recovery codes `one` and `two`.
    async fn confirm(&self, user: UserId, enrolment: Uuid, session: SessionId) -> Result<()> {
        let recovery = ["one", "two"].map(SecretHash::of).to_vec();
        let confirmation = Confirmation { enrolment, step: STEP, recovery, session };
        self.second_factors.confirm(&self.own_factor(Verb::Enroll), user, confirmation).await
    }

    /// Creates a user with a confirmed second factor and a session.
    pub(super) async fn enrolled(&self, name: &str) -> (User, SessionId, SecretHash) {
        let user = self.user(name, Role::Viewer).await;
        let (session, cookie, _) = self.session(&user).await;
        let enrolment = self.begin(user.id, 7).await.unwrap();
        self.confirm(user.id, enrolment, session.id).await.unwrap();
        (user, session.id, cookie)
    }

    async fn factor(&self, user: UserId) -> Option<SecondFactor> {
        self.second_factors.find(user).await.unwrap()
    }

    async fn spend(&self, user: UserId, factor_use: FactorUse) -> bool {
        self.second_factors.spend(user, factor_use).await.unwrap()
    }

    async fn is_enrolled(&self, cookie: SecretHash) -> bool {
        self.sessions.find(cookie).await.unwrap().unwrap().enrolled
    }
}

pub(super) async fn enrolment_is_pending_until_its_confirmation(ports: &StorePorts) {
    let user = ports.user("ann", Role::Viewer).await;
    let (session, cookie, _) = ports.session(&user).await;
    assert!(ports.factor(user.id).await.is_none());
    let replaced = ports.begin(user.id, 1).await.unwrap();
    let enrolment = ports.begin(user.id, 2).await.unwrap();
    let pending = ports.factor(user.id).await.unwrap();
    assert_eq!((pending.enrolment, pending.user_id), (enrolment, user.id));
    assert_eq!(pending.seed.bytes(), seed(2).bytes(), "the seed is opened as it was sealed");
    assert_eq!((pending.created_at, pending.confirmed_at, pending.last_step), (ports.now(), None, None));
    assert!(!ports.is_enrolled(cookie).await);

    let refused = ports.confirm(user.id, replaced, session.id).await.unwrap_err();
    assert_eq!(refused.cause, Cause::NotFound, "a code of the replaced seed");
    let refused = ports.confirm(user.id, enrolment, SessionId(1_000_000)).await.unwrap_err();
    assert_eq!(refused.cause, Cause::SessionEnded);
    assert!(ports.factor(user.id).await.unwrap().confirmed_at.is_none(), "a refusal changes nothing");
    ports.runtime.clock.advance(Duration::from_secs(60));
    ports.confirm(user.id, enrolment, session.id).await.unwrap();
    let factor = ports.factor(user.id).await.unwrap();
    assert_eq!((factor.confirmed_at, factor.last_step), (Some(ports.now()), Some(STEP)));
    assert_eq!(factor.created_at, pending.created_at);
    let found = ports.sessions.find(cookie).await.unwrap().unwrap();
    assert!(found.enrolled);
    assert_eq!(found.session.factor_at, Some(ports.now()));
    assert!(ports.sessions.get(session.id).await.unwrap().unwrap().enrolled);

    let absent = ports.begin(UserId(1_000_000), 1).await.unwrap_err();
    assert_eq!(absent.cause, Cause::NotFound);
    let other = ports.user("bob", Role::Viewer).await;
    let absent = ports.confirm(other.id, enrolment, session.id).await.unwrap_err();
    assert_eq!(absent.cause, Cause::NotFound, "the enrolment of another user");
}

pub(super) async fn confirmed_second_factor_is_not_replaced(ports: &StorePorts) {
    let (user, session, _) = ports.enrolled("ann").await;
    let before = ports.factor(user.id).await.unwrap();
    assert_eq!(ports.begin(user.id, 9).await.unwrap_err().cause, Cause::AlreadyEnrolled);
    let again = ports.confirm(user.id, before.enrolment, session).await.unwrap_err();
    assert_eq!(again.cause, Cause::AlreadyEnrolled);
    let after = ports.factor(user.id).await.unwrap();
    assert_eq!((after.enrolment, after.seed.bytes()), (before.enrolment, before.seed.bytes()));
}

pub(super) async fn each_step_is_used_once(ports: &StorePorts) {
    let (user, ..) = ports.enrolled("ann").await;
    let (other, ..) = ports.enrolled("bob").await;
    assert!(!ports.spend(user.id, FactorUse::Step(STEP)).await, "the confirmation has used it");
    assert!(ports.spend(user.id, FactorUse::Step(STEP + 2)).await);
    for used in [STEP + 2, STEP + 1, STEP] {
        assert!(!ports.spend(user.id, FactorUse::Step(used)).await, "step {used}");
    }
    assert!(ports.spend(user.id, FactorUse::Step(STEP + 3)).await);
    assert_eq!(ports.factor(user.id).await.unwrap().last_step, Some(STEP + 3));
    assert!(ports.spend(other.id, FactorUse::Step(STEP + 1)).await, "of another user");
}

pub(super) async fn each_recovery_code_is_used_once(ports: &StorePorts) {
    let (user, ..) = ports.enrolled("ann").await;
    let (other, ..) = ports.enrolled("bob").await;
    assert!(!ports.spend(user.id, recovery("three")).await);
    assert!(ports.spend(user.id, recovery("one")).await);
    assert!(!ports.spend(user.id, recovery("one")).await);
    assert!(ports.spend(user.id, recovery("two")).await);
    assert!(ports.spend(other.id, recovery("one")).await, "of another user");
    assert_eq!(ports.factor(user.id).await.unwrap().last_step, Some(STEP), "no step was used");
}

pub(super) async fn one_of_concurrent_uses_is_made(ports: &StorePorts) {
    let (user, ..) = ports.enrolled("ann").await;
    for factor_use in [FactorUse::Step(STEP + 1), recovery("one")] {
        let made = join_all((0..8).map(|_| ports.spend(user.id, factor_use))).await;
        assert_eq!(made.into_iter().filter(|made| *made).count(), 1, "{factor_use:?}");
    }
}

pub(super) async fn pending_enrolment_has_no_codes(ports: &StorePorts) {
    let user = ports.user("ann", Role::Viewer).await;
    assert!(!ports.spend(user.id, FactorUse::Step(STEP)).await, "no enrolment");
    ports.begin(user.id, 1).await.unwrap();
    assert!(!ports.spend(user.id, FactorUse::Step(STEP)).await);
    assert!(!ports.spend(user.id, recovery("one")).await);
    assert_eq!(ports.factor(user.id).await.unwrap().last_step, None);
}

pub(super) async fn one_of_concurrent_confirmations_succeeds(ports: &StorePorts) {
    let user = ports.user("ann", Role::Viewer).await;
    let (session, ..) = ports.session(&user).await;
    let enrolment = ports.begin(user.id, 1).await.unwrap();
    let confirmed = join_all((0..4).map(|_| ports.confirm(user.id, enrolment, session.id))).await;
    let (done, refused): (Vec<_>, Vec<_>) = confirmed.into_iter().partition(Result::is_ok);
    assert_eq!(done.len(), 1);
    assert!(refused.into_iter().all(|refused| refused.unwrap_err().cause == Cause::AlreadyEnrolled));
}

pub(super) async fn removal_ends_the_other_sessions(ports: &StorePorts) {
    let (user, session, cookie) = ports.enrolled("ann").await;
    let (_, other_cookie, _) = ports.session(&user).await;
    let (bob, _, bobs_cookie) = ports.enrolled("bob").await;
    let remove =
        async |keep| ports.second_factors.remove(&ports.own_factor(Verb::Disable), user.id, keep).await;
    remove(Some(session)).await.unwrap();
    assert!(ports.factor(user.id).await.is_none());
    let kept = ports.sessions.find(cookie).await.unwrap().unwrap();
    assert!(!kept.enrolled);
    assert_eq!(kept.session.factor_at, None);
    assert_eq!(ports.sessions.find(other_cookie).await.unwrap(), None);
    assert!(!ports.spend(user.id, recovery("one")).await, "recovery codes are removed");
    assert_eq!(remove(None).await.unwrap_err().cause, Cause::NotFound);
    assert!(ports.sessions.find(cookie).await.unwrap().is_some(), "a refusal changes nothing");

    ports.begin(user.id, 3).await.unwrap();
    remove(None).await.unwrap();
    assert!(ports.factor(user.id).await.is_none(), "also a pending one");
    assert_eq!(ports.sessions.find(cookie).await.unwrap(), None, "no session is kept");
    assert!(ports.is_enrolled(bobs_cookie).await && ports.factor(bob.id).await.is_some(), "another user");
}

pub(super) async fn second_factor_is_deleted_with_its_user(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let (user, ..) = ports.enrolled("ann").await;
    ports.users.delete(&ports.people(), user.id).await.unwrap();
    assert!(ports.factor(user.id).await.is_none());
    assert!(!ports.spend(user.id, recovery("one")).await);
}

pub(super) async fn each_change_writes_one_row(ports: &StorePorts) {
    let (user, session, _) = ports.enrolled("ann").await;
    ports.spend(user.id, recovery("one")).await;
    ports.begin(user.id, 1).await.unwrap_err();
    ports.sessions.renew_factor(&ports.own_factor(Verb::Verify), session, ports.now()).await.unwrap();
    ports.second_factors.remove(&ports.own_factor(Verb::Disable), user.id, None).await.unwrap();
    let rows = ports.operations().await;
    let types: Vec<_> = rows.iter().map(|row| &*row.operation_type).collect();
    assert_eq!(types, ["update", "login", "enroll", "enroll", "verify", "disable"]);
    assert!(rows[2..].iter().all(|row| row.resource_type == "second_factor"));
}
