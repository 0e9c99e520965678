//! Password changes: interruptions between verifying the old and hashing the new password, and the limit on wrong
//! passwords.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::BoxFuture;
use pilothouse_core::{
    Cause, Result,
    access::Caller,
    app::{App, Ports, Settings},
    operation::Status,
    role::Role,
    session::{PasswordChange, SignedIn},
    testing::fake::PlainHasher,
    user::{NewPassword, PasswordHash, PasswordHasher},
};
use secrecy::SecretString;

use crate::{PASSWORD, World, cause};

/// A hasher that runs another future before its first hash.
#[derive(Default)]
struct Interrupted(Mutex<Option<BoxFuture<'static, ()>>>);

#[async_trait]
impl PasswordHasher for Interrupted {
    async fn hash(&self, password: &SecretString) -> Result<PasswordHash> {
        let meanwhile = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        PlainHasher.hash(password).await
    }

    async fn verify<'a>(&self, password: &SecretString, hash: Option<&'a PasswordHash>) -> Result<bool> {
        PlainHasher.verify(password, hash).await
    }
}

fn change(old: &str, new: &str) -> PasswordChange {
    PasswordChange { old: old.into(), new: NewPassword::new(&new.into()).unwrap() }
}

/// An app whose next password change is interrupted by `meanwhile`.
fn interrupted(world: &World, meanwhile: impl FnOnce(App) -> BoxFuture<'static, ()>) -> App {
    let other_app = App::new(world.fake.ports(), Settings::default());
    let hasher = Interrupted(Mutex::new(Some(meanwhile(other_app))));
    App::new(Ports { hasher: Arc::new(hasher), ..world.fake.ports() }, Settings::default())
}

fn signed_in(world: &World, name: &str) -> SignedIn {
    world.signed_in(&world.login(name, PASSWORD).unwrap()).unwrap()
}

#[test]
fn reset_overrides_a_change_in_progress() {
    let world = World::new();
    world.add("ann", Role::Viewer);
    let thief = signed_in(&world, "ann");
    let id = thief.user.id;
    let app = interrupted(&world, |other_app| {
        Box::pin(async move {
            let reset = NewPassword::new(&"set by an administrator".into()).unwrap();
            other_app.users.reset_password(&Caller::command_line("root"), id, reset).await.unwrap();
        })
    });
    let changed = block_on(app.sessions.change_password(&thief, change(PASSWORD, "set by the thief")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert_eq!(world.last(), ("change_password".into(), Status::Failed, Some("AUTHENTICATION_ERROR".into())));
    assert_eq!(cause(world.login("ann", "set by the thief")), Cause::BadCredentials);
    assert!(world.login("ann", "set by an administrator").is_ok());
    let sessions = block_on(world.fake.ports().sessions.list(Some(id))).unwrap();
    assert_eq!(sessions.len(), 1, "the thief's session has ended");
}

#[test]
fn revoked_session_cannot_change_the_password() {
    let world = World::new();
    world.add("ann", Role::Viewer);
    let (thief, admin) = (signed_in(&world, "ann"), signed_in(&world, "admin"));
    let session = thief.session.id;
    let app = interrupted(&world, |other_app| {
        Box::pin(async move { other_app.sessions.revoke(&admin.caller, session).await.unwrap() })
    });
    let changed = block_on(app.sessions.change_password(&thief, change(PASSWORD, "set by the thief")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert!(world.login("ann", PASSWORD).is_ok());
}

#[test]
fn first_of_two_concurrent_changes_wins() {
    let world = World::new();
    world.add("ann", Role::Viewer);
    let (here, there) = (signed_in(&world, "ann"), signed_in(&world, "ann"));
    let app = interrupted(&world, |other_app| {
        Box::pin(async move {
            other_app.sessions.change_password(&there, change(PASSWORD, "set at first")).await.unwrap();
        })
    });
    let changed = block_on(app.sessions.change_password(&here, change(PASSWORD, "set too late")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert!(world.login("ann", "set at first").is_ok());
}

#[test]
fn wrong_old_passwords_are_counted_by_session() {
    let world = World::new();
    world.add("ann", Role::Viewer);
    let (one, other) = (signed_in(&world, "ann"), signed_in(&world, "ann"));
    let sessions = &world.app.sessions;
    for _ in 0..5 {
        let refused = block_on(sessions.change_password(&one, change("wrong", "another password")));
        assert_eq!(refused.unwrap_err().context.fields[0].name, "old_password");
    }
    let refused = block_on(sessions.change_password(&one, change(PASSWORD, "another password")));
    assert_eq!(cause(refused), Cause::TooManyLogins);
    assert!(world.login("ann", PASSWORD).is_ok(), "logins have another counter");
    block_on(sessions.change_password(&other, change(PASSWORD, "another password"))).unwrap();
}

#[test]
fn login_throttle_does_not_block_password_changes() {
    let world = World::new();
    world.add("ann", Role::Viewer);
    let ann = signed_in(&world, "ann");
    while cause(world.login_from([203, 0, 113, 9], "ann", "wrong")) != Cause::TooManyLogins {}
    block_on(world.app.sessions.change_password(&ann, change(PASSWORD, "another password"))).unwrap();
}
