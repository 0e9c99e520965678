use futures_util::future::join;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::Cause,
    ids::UserId,
    role::Role,
    user::{PasswordHash, SetBy, UserPatch, Username},
};

pub(super) async fn created_user_is_found(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let viewer = ports.user("viewer", Role::Viewer).await;
    assert_eq!((admin.username.as_str(), admin.role, admin.disabled), ("admin", Role::SuperAdmin, false));
    assert_eq!(
        (&*viewer.display_name, viewer.created_at, viewer.last_login_at),
        ("viewer 先生", ports.now(), None)
    );
    assert_eq!(ports.users.list().await.unwrap(), [admin, viewer.clone()]);
    let (found, hash) = ports.users.credentials(&viewer.username).await.unwrap().unwrap();
    assert_eq!((found, hash.phc()), (viewer, "hash of viewer"));
    assert!(ports.users.credentials(&Username::new("nobody").unwrap()).await.unwrap().is_none());
}

pub(super) async fn names_are_unique(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let duplicate =
        ports.users.create(&ports.people(), ports.new_user("ＡＤＭＩＮ", Role::Viewer)).await.unwrap_err();
    assert_eq!(duplicate.cause, Cause::NameTaken);
    assert_eq!(ports.users.list().await.unwrap().len(), 1);
    let (one, other) = join(
        ports.users.create(&ports.people(), ports.new_user("viewer", Role::Viewer)),
        ports.users.create(&ports.people(), ports.new_user("viewer", Role::Viewer)),
    )
    .await;
    assert_eq!(one.is_ok(), other.is_err(), "one of two concurrent calls succeeds");
    assert_eq!(one.and(other).unwrap_err().cause, Cause::NameTaken);
}

pub(super) async fn ids_are_never_reused(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let first = ports.user("viewer", Role::Viewer).await;
    ports.users.delete(&ports.people(), first.id).await.unwrap();
    let second = ports.user("viewer", Role::Viewer).await;
    assert!(second.id > first.id);
}

pub(super) async fn concurrent_create_first_creates_one_user(ports: &StorePorts) {
    let create = async |name| {
        let record = ports.new_user(name, Role::SuperAdmin);
        ports.users.create_first(&ports.people(), record).await.unwrap()
    };
    let (one, other) = join(create("admin"), create("root")).await;
    assert_eq!(one.is_some(), other.is_none(), "one of two concurrent calls succeeds");
    assert!(create("third").await.is_none());
    assert_eq!(ports.users.list().await.unwrap().len(), 1);
    assert_eq!(ports.operations().await.len(), 1, "no audit row without a created user");
}

pub(super) async fn update_sets_only_given_fields(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("viewer", Role::Viewer).await;
    let update =
        async |patch| ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    let named = update(UserPatch { display_name: Some("新名".to_owned()), ..UserPatch::default() }).await;
    assert_eq!((&*named.display_name, named.role, named.disabled), ("新名", Role::Viewer, false));
    let promoted = update(UserPatch { role: Some(Role::OpsAdmin), ..UserPatch::default() }).await;
    assert_eq!((&*promoted.display_name, promoted.role, promoted.disabled), ("新名", Role::OpsAdmin, false));
    let disabled = update(UserPatch { disabled: Some(true), ..UserPatch::default() }).await;
    assert_eq!((disabled.role, disabled.disabled), (Role::OpsAdmin, true));
    assert_eq!(ports.users.list().await.unwrap()[1], disabled);
}

pub(super) async fn last_super_admin_cannot_be_removed(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let disabled = ports.user("disabled", Role::SuperAdmin).await;
    let patch = async |patch| ports.users.update(&ports.people(), admin.id, patch, ports.now()).await;
    let disable = UserPatch { disabled: Some(true), ..UserPatch::default() };
    ports.users.update(&ports.people(), disabled.id, disable.clone(), ports.now()).await.unwrap();

    let demote = UserPatch { role: Some(Role::OpsAdmin), ..UserPatch::default() };
    for change in [demote.clone(), disable.clone()] {
        assert_eq!(patch(change).await.unwrap_err().cause, Cause::LastSuperAdmin);
    }
    let deleted = ports.users.delete(&ports.people(), admin.id).await;
    assert_eq!(deleted.unwrap_err().cause, Cause::LastSuperAdmin);
    patch(UserPatch { display_name: Some("名".to_owned()), ..UserPatch::default() }).await.unwrap();

    // a disabled super admin can be deleted; with a second enabled one, either can be demoted
    ports.users.delete(&ports.people(), disabled.id).await.unwrap();
    ports.user("second", Role::SuperAdmin).await;
    patch(demote).await.unwrap();
}

pub(super) async fn one_super_admin_survives_concurrent_deletes(ports: &StorePorts) {
    let one = ports.user("one", Role::SuperAdmin).await;
    let two = ports.user("two", Role::SuperAdmin).await;
    let disable = UserPatch { disabled: Some(true), ..UserPatch::default() };
    let (disabled, deleted) = join(
        ports.users.update(&ports.people(), one.id, disable, ports.now()),
        ports.users.delete(&ports.people(), two.id),
    )
    .await;
    assert_eq!(disabled.is_ok(), deleted.is_err(), "one of two concurrent calls succeeds");
    let left = ports.users.list().await.unwrap();
    assert!(left.iter().any(|user| user.role == Role::SuperAdmin && !user.disabled));
}

pub(super) async fn role_change_or_disabling_ends_sessions(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("viewer", Role::Viewer).await;
    let bystander = ports.user("bystander", Role::Viewer).await;
    let (_, others_cookie, _) = ports.session(&bystander).await;
    let update =
        async |patch| ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    for (patch, ends) in [
        (UserPatch { display_name: Some("名".to_owned()), ..UserPatch::default() }, false),
        (UserPatch { role: Some(Role::Viewer), ..UserPatch::default() }, false),
        (UserPatch { role: Some(Role::OpsAdmin), ..UserPatch::default() }, true),
        (UserPatch { disabled: Some(true), ..UserPatch::default() }, true),
    ] {
        let (_, cookie, _) = ports.session(&user).await;
        update(patch.clone()).await;
        assert_eq!(ports.sessions.find(cookie).await.unwrap().is_none(), ends, "{patch:?}");
    }
    update(UserPatch { disabled: Some(false), ..UserPatch::default() }).await;
    let (_, cookie, _) = ports.session(&user).await;
    ports.users.delete(&ports.people(), user.id).await.unwrap();
    assert!(ports.sessions.find(cookie).await.unwrap().is_none());
    assert!(ports.sessions.find(others_cookie).await.unwrap().is_some());
}

pub(super) async fn new_password_ends_other_sessions(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let (kept, kept_cookie, _) = ports.session(&user).await;
    let (_, other_cookie, _) = ports.session(&user).await;
    let set = async |phc: &str, by| {
        let hash = PasswordHash::new(phc.to_owned());
        ports.users.set_password(&ports.people(), user.id, hash, by, ports.now()).await.unwrap();
        let (_, stored) = ports.users.credentials(&user.username).await.unwrap().unwrap();
        assert_eq!(stored.phc(), phc);
    };
    let verified = PasswordHash::new("hash of admin".to_owned());
    set("second", SetBy::Owner { session: kept.id, verified }).await;
    assert!(ports.sessions.find(kept_cookie).await.unwrap().is_some());
    assert!(ports.sessions.find(other_cookie).await.unwrap().is_none());
    set("third", SetBy::Administrator).await;
    assert!(ports.sessions.find(kept_cookie).await.unwrap().is_none());
}

/// Verifying the old password and hashing the new one takes time. A password set meanwhile remains in effect.
pub(super) async fn own_password_change_does_not_override_a_newer_one(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let verified = ports.users.credentials(&user.username).await.unwrap().unwrap().1;
    let set = async |phc: &str, by| {
        let hash = PasswordHash::new(phc.to_owned());
        ports.users.set_password(&ports.people(), user.id, hash, by, ports.now()).await
    };
    let stored = async || ports.users.credentials(&user.username).await.unwrap().unwrap().1;
    let (session, ..) = ports.session(&user).await;
    let own = SetBy::Owner { session: session.id, verified: verified.clone() };
    set("hash of the reset", SetBy::Administrator).await.unwrap();
    let rows = ports.operations().await.len();
    assert_eq!(set("hash of the change", own).await.unwrap_err().cause, Cause::SessionEnded);
    assert_eq!(stored().await.phc(), "hash of the reset");
    assert_eq!(ports.operations().await.len(), rows, "the store writes no row for a refusal");

    // the same with a session that was opened afterwards
    let (session, cookie, _) = ports.session(&user).await;
    let own = SetBy::Owner { session: session.id, verified };
    assert_eq!(set("hash of the change", own).await.unwrap_err().cause, Cause::SessionEnded);
    assert!(ports.sessions.find(cookie).await.unwrap().is_some(), "the session is still open");

    // of a concurrent reset and change, the change is committed before the reset or refused
    for _ in 0..10 {
        let verified = stored().await;
        let (session, cookie, _) = ports.session(&user).await;
        let own = SetBy::Owner { session: session.id, verified };
        let (reset, _) =
            join(set("hash of the reset", SetBy::Administrator), set("hash of the change", own)).await;
        reset.unwrap();
        assert_eq!(stored().await.phc(), "hash of the reset");
        assert!(ports.sessions.find(cookie).await.unwrap().is_none());
        set("before", SetBy::Administrator).await.unwrap();
    }
}

pub(super) async fn ended_session_cannot_change_password(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let other = ports.user("other", Role::Viewer).await;
    let verified = ports.users.credentials(&user.username).await.unwrap().unwrap().1;
    let (ended, ..) = ports.session(&user).await;
    let (kept, kept_cookie, _) = ports.session(&user).await;
    let (others, ..) = ports.session(&other).await;
    let permit = ports.permit(AccessRequest::to(Verb::Logout, Resource::Session).named("user"));
    assert!(ports.sessions.end(&permit, ended.id).await.unwrap());
    let set = async |session| {
        let (hash, by) =
            (PasswordHash::new("second".to_owned()), SetBy::Owner { session, verified: verified.clone() });
        ports.users.set_password(&ports.people(), user.id, hash, by, ports.now()).await
    };
    for session in [ended.id, others.id] {
        assert_eq!(set(session).await.unwrap_err().cause, Cause::SessionEnded);
    }
    assert_eq!(ports.users.credentials(&user.username).await.unwrap().unwrap().1.phc(), verified.phc());
    assert!(ports.sessions.find(kept_cookie).await.unwrap().is_some(), "the session is still open");
    set(kept.id).await.unwrap();
}

pub(super) async fn operations_on_absent_users_are_not_found(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let absent = UserId(1_000_000);
    let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
    let hash = PasswordHash::new("x".to_owned());
    let refusals = [
        ports.users.update(&ports.people(), absent, patch, ports.now()).await.map(drop),
        ports.users.delete(&ports.people(), absent).await,
        ports.users.set_password(&ports.people(), absent, hash, SetBy::Administrator, ports.now()).await,
    ];
    for refusal in refusals {
        assert_eq!(refusal.unwrap_err().cause, Cause::NotFound);
    }
}
