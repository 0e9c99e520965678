//! Password changes: interruptions between verifying the old and hashing the new password, and the limit on wrong
//! passwords.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::BoxFuture;
use pilothouse_core::{
    Cause, Result,
    access::Caller,
    app::{App, AppSettings},
    operation::Status,
    role::Role,
    session::{PasswordChange, SignedIn},
    testing::fake::PlainHasher,
    user::{NewPassword, PasswordHash, PasswordHasher},
};
use secrecy::SecretString;

use crate::{Fixture, PASSWORD, cause};

/// A hasher that runs another future before its first hash.
#[derive(Default)]
struct InterruptedHasher(Mutex<Option<BoxFuture<'static, ()>>>);

#[async_trait]
impl PasswordHasher for InterruptedHasher {
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
fn interrupted(fixture: &Fixture, meanwhile: impl FnOnce(App) -> BoxFuture<'static, ()>) -> App {
    let other_app = App::new(fixture.fake.ports(), AppSettings::default());
    let hasher = InterruptedHasher(Mutex::new(Some(meanwhile(other_app))));
    let mut ports = fixture.fake.ports();
    ports.users.hasher = Arc::new(hasher);
    App::new(ports, AppSettings::default())
}

fn signed_in(fixture: &Fixture, name: &str) -> SignedIn {
    fixture.signed_in(&fixture.login(name, PASSWORD).unwrap()).unwrap()
}

#[test]
fn reset_overrides_a_change_in_progress() {
    let fixture = Fixture::new();
    fixture.add("ann", Role::Viewer);
    let attacker = signed_in(&fixture, "ann");
    let id = attacker.user.id;
    let app = interrupted(&fixture, |other_app| {
        Box::pin(async move {
            let reset = NewPassword::new(&"set by an administrator".into()).unwrap();
            other_app.users.reset_password(&Caller::command_line("root"), id, reset).await.unwrap();
        })
    });
    let changed = block_on(app.sessions.change_password(&attacker, change(PASSWORD, "set by the attacker")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert_eq!(
        fixture.last(),
        ("change_password".into(), Status::Failed, Some("AUTHENTICATION_ERROR".into()))
    );
    assert_eq!(cause(fixture.login("ann", "set by the attacker")), Cause::BadCredentials);
    assert!(fixture.login("ann", "set by an administrator").is_ok());
    let sessions = block_on(fixture.fake.ports().users.sessions.list(Some(id))).unwrap();
    assert_eq!(sessions.len(), 1, "the attacker's session has ended");
}

#[test]
fn revoked_session_cannot_change_the_password() {
    let fixture = Fixture::new();
    fixture.add("ann", Role::Viewer);
    let (attacker, admin) = (signed_in(&fixture, "ann"), signed_in(&fixture, "admin"));
    let session = attacker.session.id;
    let app = interrupted(&fixture, |other_app| {
        Box::pin(async move { other_app.sessions.revoke(&admin.caller, session).await.unwrap() })
    });
    let changed = block_on(app.sessions.change_password(&attacker, change(PASSWORD, "set by the attacker")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert!(fixture.login("ann", PASSWORD).is_ok());
}

#[test]
fn first_of_two_concurrent_password_changes_is_applied() {
    let fixture = Fixture::new();
    fixture.add("ann", Role::Viewer);
    let (here, there) = (signed_in(&fixture, "ann"), signed_in(&fixture, "ann"));
    let app = interrupted(&fixture, |other_app| {
        Box::pin(async move {
            other_app.sessions.change_password(&there, change(PASSWORD, "set at first")).await.unwrap();
        })
    });
    let changed = block_on(app.sessions.change_password(&here, change(PASSWORD, "set too late")));
    assert_eq!(cause(changed), Cause::SessionEnded);
    assert!(fixture.login("ann", "set at first").is_ok());
}

#[test]
fn wrong_old_passwords_are_counted_by_session() {
    let fixture = Fixture::new();
    fixture.add("ann", Role::Viewer);
    let (one, other) = (signed_in(&fixture, "ann"), signed_in(&fixture, "ann"));
    let sessions = &fixture.app.sessions;
    for _ in 0..5 {
        let refused = block_on(sessions.change_password(&one, change("wrong", "another password")));
        assert_eq!(refused.unwrap_err().context.fields[0].name, "old_password");
    }
    let refused = block_on(sessions.change_password(&one, change(PASSWORD, "another password")));
    assert_eq!(cause(refused), Cause::TooManyLogins);
    assert!(fixture.login("ann", PASSWORD).is_ok(), "logins have another counter");
    block_on(sessions.change_password(&other, change(PASSWORD, "another password"))).unwrap();
}

#[test]
fn login_throttle_does_not_block_password_changes() {
    let fixture = Fixture::new();
    fixture.add("ann", Role::Viewer);
    let ann = signed_in(&fixture, "ann");
    while cause(fixture.login_from([203, 0, 113, 9], "ann", "wrong")) != Cause::TooManyLogins {}
    block_on(fixture.app.sessions.change_password(&ann, change(PASSWORD, "another password"))).unwrap();
}
