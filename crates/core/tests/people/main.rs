//! Signing in and out, on the in-memory ports: what a user sees, what the trail says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use futures_executor::block_on;
use jiff::SignedDuration;
use pilothouse_core::{
    Cause, Error,
    access::{Caller, Origin, Role},
    app::{App, Settings},
    audit::{OperationQuery, Status},
    inventory::{List, ListQuery},
    session::{Lifetimes, Login, PasswordChange, SignedIn, Tokens},
    testing::fake::Fake,
    user::{NewPassword, NewUser, UserPatch, Username},
};
use secrecy::{ExposeSecret, SecretString};

mod login_throttle;
mod passwords;
mod replicas;

const PASSWORD: &str = "correct horse battery";

struct World {
    fake: Fake,
    app: App,
}

impl World {
    /// With `admin` as super admin, whose password is [`PASSWORD`].
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let fake = Fake::default();
        let app = App::new(fake.ports(), settings);
        let first = NewPassword::new(&PASSWORD.into()).unwrap();
        assert!(block_on(app.users.bootstrap(Some(first))).unwrap());
        Self { fake, app }
    }

    fn login(&self, username: &str, password: &str) -> Result<Tokens, Error> {
        self.login_from([10, 0, 0, 1], username, password)
    }

    fn login_from(&self, ip: [u8; 4], username: &str, password: &str) -> Result<Tokens, Error> {
        let login = Login {
            username: username.into(),
            password: password.into(),
            user_agent: None,
            origin: Origin { source_ip: Some(IpAddr::from(ip)), request_id: None },
        };
        block_on(self.app.sessions.login(login)).map(|(tokens, _)| tokens)
    }

    fn signed_in(&self, tokens: &Tokens) -> Result<SignedIn, Error> {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(self.app.sessions.authenticate(bearer, cookie, Origin::default()))
    }

    fn refresh(&self, tokens: &Tokens) -> Result<Tokens, Error> {
        block_on(self.app.sessions.refresh(&tokens.refresh_token, &tokens.session_id, Origin::default()))
    }

    fn add(&self, username: &str, role: Role) -> SignedIn {
        let password = NewPassword::new(&PASSWORD.into()).unwrap();
        let user = NewUser { username: Username::new(username).unwrap(), password, role, display_name: None };
        block_on(self.app.users.create(&Caller::command_line("root"), user)).unwrap();
        self.signed_in(&self.login(username, PASSWORD).unwrap()).unwrap()
    }

    /// The newest operation: type, status, error code.
    fn last(&self) -> (String, Status, Option<String>) {
        let row = self.fake.store.all_operations().pop().unwrap();
        (row.operation_type, row.status, row.error_code)
    }
}

fn cause<T>(result: Result<T, Error>) -> Cause {
    result.map(drop).expect_err("refused").cause
}

#[test]
fn bearer_and_cookie_must_both_be_valid_and_of_one_session() {
    let world = World::new();
    let (one, two) = (world.login("Admin ", PASSWORD).unwrap(), world.login("admin", PASSWORD).unwrap());
    assert_eq!(world.signed_in(&one).unwrap().user.role, Role::SuperAdmin);
    let mixed = Tokens { session_id: two.session_id.clone(), ..one.clone() };
    assert_eq!(cause(world.signed_in(&mixed)), Cause::SessionMismatch);
    let forged = Tokens { access_token: "1.2".into(), ..one.clone() };
    assert_eq!(cause(world.signed_in(&forged)), Cause::TokenInvalid);
    let nobody = Tokens { session_id: "0".repeat(64).into(), ..one.clone() };
    assert_eq!(cause(world.signed_in(&nobody)), Cause::SessionEnded);
    assert_ne!(one.session_id.expose_secret(), two.session_id.expose_secret());
}

#[test]
fn a_session_in_use_does_not_end_however_short_it_may_go_unused() {
    for idle in [5, 60, 90] {
        let settings = Settings {
            lifetimes: Lifetimes { idle: Duration::from_secs(idle), ..Lifetimes::default() },
            ..Settings::default()
        };
        let world = World::with(settings);
        let tokens = world.login("admin", PASSWORD).unwrap();
        for _ in 0..6 {
            world.fake.runtime.clock.advance(Duration::from_secs(idle / 5));
            world.signed_in(&tokens).unwrap();
        }
        world.fake.runtime.clock.advance(Duration::from_secs(idle));
        assert_eq!(cause(world.signed_in(&tokens)), Cause::SessionEnded, "{idle}");
    }
}

#[test]
fn tokens_and_sessions_end() {
    let world = World::new();
    let tokens = world.login("admin", PASSWORD).unwrap();
    world.fake.runtime.clock.advance(Duration::from_secs(600));
    assert_eq!(cause(world.signed_in(&tokens)), Cause::TokenExpired);
    let mut tokens = world.refresh(&tokens).unwrap();
    world.fake.runtime.clock.advance(Duration::from_secs(1800));
    assert_eq!(cause(world.refresh(&tokens)), Cause::SessionEnded, "idle for 30 minutes");

    tokens = world.login("admin", PASSWORD).unwrap();
    for _ in 0..47 {
        world.fake.runtime.clock.advance(Duration::from_secs(600));
        tokens = world.refresh(&tokens).unwrap();
    }
    world.fake.runtime.clock.advance(Duration::from_secs(600));
    assert_eq!(cause(world.refresh(&tokens)), Cause::SessionEnded, "eight hours are over");
}

#[test]
fn a_clock_that_is_set_ten_minutes_forth_or_back_ends_no_session() {
    let world = World::new();
    let mut tokens = world.login("admin", PASSWORD).unwrap();
    for minutes in [10, -10, -10, 10] {
        world.fake.runtime.clock.jump(SignedDuration::from_mins(minutes));
        tokens = world.refresh(&tokens).unwrap();
        assert!(world.signed_in(&tokens).is_ok(), "set by {minutes} minutes");
        world.login("admin", PASSWORD).unwrap();
    }
}

#[test]
fn a_refresh_kills_the_old_pair_and_a_replay_the_session() {
    let world = World::new();
    let old = world.login("admin", PASSWORD).unwrap();
    let new = world.refresh(&old).unwrap();
    assert_eq!(new.session_id.expose_secret(), old.session_id.expose_secret());
    assert_eq!(cause(world.signed_in(&old)), Cause::TokenExpired);
    assert_eq!(cause(world.refresh(&old)), Cause::RefreshRejected, "a client's retry");
    assert!(world.signed_in(&new).is_ok(), "which does no harm");
    world.fake.runtime.clock.advance(Duration::from_secs(11));
    assert_eq!(cause(world.refresh(&old)), Cause::SessionEnded);
    assert_eq!(world.last(), ("refresh".into(), Status::Failed, Some("AUTHENTICATION_ERROR".into())));
    assert_eq!(cause(world.signed_in(&new)), Cause::SessionEnded);
}

#[test]
fn of_many_refreshes_at_once_one_wins() {
    let world = World::new();
    let tokens = world.login("admin", PASSWORD).unwrap();
    let won: usize = std::thread::scope(|scope| {
        let racers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| usize::from(world.refresh(&tokens).is_ok()))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn a_session_is_never_taken_over_by_a_login() {
    let world = World::new();
    let ann = world.add("ann", Role::Viewer);
    let planted = world.login("ann", PASSWORD).unwrap();
    let victim = world.login("admin", PASSWORD).unwrap();
    assert_ne!(planted.session_id.expose_secret(), victim.session_id.expose_secret());
    assert_eq!(world.signed_in(&planted).unwrap().user.id, ann.user.id, "still whose it was");
    let mixed = Tokens { session_id: planted.session_id.clone(), ..victim.clone() };
    assert_eq!(cause(world.signed_in(&mixed)), Cause::SessionMismatch);
    // nor by a refresh token of another session, which is not even used up by trying
    let mixed = Tokens { session_id: planted.session_id.clone(), ..victim.clone() };
    assert_eq!(cause(world.refresh(&mixed)), Cause::RefreshRejected);
    assert!(world.refresh(&victim).is_ok() && world.refresh(&planted).is_ok());
}

#[test]
fn a_disabled_or_demoted_user_is_out_at_once() {
    let world = World::new();
    let root = Caller::command_line("root");
    world.add("eve", Role::OpsAdmin);
    let tokens = world.login("eve", PASSWORD).unwrap();
    let id = world.signed_in(&tokens).unwrap().user.id;
    let patch = UserPatch { role: Some(Role::Viewer), ..UserPatch::default() };
    block_on(world.app.users.update(&root, id, patch)).unwrap();
    assert_eq!(cause(world.signed_in(&tokens)), Cause::SessionEnded);
    let tokens = world.login("eve", PASSWORD).unwrap();
    assert_eq!(world.signed_in(&tokens).unwrap().caller.role, Some(Role::Viewer));
    block_on(world.app.users.delete(&root, id)).unwrap();
    assert_eq!(cause(world.signed_in(&tokens)), Cause::SessionEnded);
}

#[test]
fn the_last_super_admin_stays() {
    let world = World::new();
    let admin = world.signed_in(&world.login("admin", PASSWORD).unwrap()).unwrap();
    let users = &world.app.users;
    let demote = UserPatch { role: Some(Role::Viewer), ..UserPatch::default() };
    let disable = UserPatch { disabled: Some(true), ..UserPatch::default() };
    assert_eq!(
        cause(block_on(users.update(&admin.caller, admin.user.id, demote.clone()))),
        Cause::LastSuperAdmin
    );
    assert_eq!(cause(block_on(users.update(&admin.caller, admin.user.id, disable))), Cause::LastSuperAdmin);
    assert_eq!(cause(block_on(users.delete(&admin.caller, admin.user.id))), Cause::LastSuperAdmin);
    assert_eq!(world.last(), ("delete".into(), Status::Failed, Some("CONFLICT_ERROR".into())));
    world.add("second", Role::SuperAdmin);
    assert!(block_on(users.update(&admin.caller, admin.user.id, demote)).is_ok());
}

#[test]
fn a_changed_password_ends_the_other_sessions_and_takes_back_the_first() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), Settings::default());
    assert!(block_on(app.users.bootstrap(None)).unwrap());
    assert!(!block_on(app.users.bootstrap(None)).unwrap(), "only while there is no user");
    let first = fake.initial_password.password().unwrap();
    let world = World { fake, app };
    let [this, other] = [(); 2].map(|()| world.login("admin", first.expose_secret()).unwrap());
    let who = world.signed_in(&this).unwrap();
    let change =
        |old: &str| PasswordChange { old: old.into(), new: NewPassword::new(&PASSWORD.into()).unwrap() };
    let refusal = block_on(world.app.sessions.change_password(&who, change("wrong"))).unwrap_err();
    assert_eq!(refusal.context.fields[0].name, "old_password");
    block_on(world.app.sessions.change_password(&who, change(first.expose_secret()))).unwrap();
    assert!(world.signed_in(&this).is_ok());
    assert_eq!(cause(world.signed_in(&other)), Cause::SessionEnded);
    assert!(world.fake.initial_password.password().is_none());
}

#[test]
fn the_first_password_is_handed_over_before_its_user_is_stored() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), Settings::default());
    fake.store.break_audit(true);
    block_on(app.users.bootstrap(None)).unwrap_err();
    assert!(fake.initial_password.password().is_some(), "after an error the user may be stored all the same");
    fake.store.break_audit(false);
    assert!(block_on(app.users.bootstrap(None)).unwrap());
    let password = fake.initial_password.password().unwrap();
    let world = World { fake, app };
    world.login("admin", password.expose_secret()).unwrap();
}

#[test]
fn sessions_are_seen_and_ended_by_their_owner_and_super_admins_only() {
    let world = World::new();
    let admin = world.signed_in(&world.login("admin", PASSWORD).unwrap()).unwrap();
    let [ann, bob] = ["ann", "bob"].map(|name| world.add(name, Role::Viewer));
    let count = |who: &SignedIn| {
        let query = ListQuery::parse(List::Sessions, &[]).unwrap();
        block_on(world.app.sessions.list(&who.caller, &query)).unwrap().1.total
    };
    assert_eq!((count(&admin), count(&ann)), (3, 1));
    assert_eq!(cause(block_on(world.app.sessions.revoke(&ann.caller, bob.session.id))), Cause::NotFound);
    block_on(world.app.sessions.revoke(&admin.caller, bob.session.id)).unwrap();
    assert_eq!(count(&admin), 2);
}

#[test]
fn a_viewer_sees_only_their_own_operations() {
    let world = World::new();
    let ann = world.add("ann", Role::Viewer);
    let query = OperationQuery::parse(&[]).unwrap();
    let page = block_on(world.app.audit.operations(&ann.caller, query.clone())).unwrap();
    assert!(!page.logs.is_empty() && page.logs.iter().all(|row| row.username == "ann"));
    let admin = world.signed_in(&world.login("admin", PASSWORD).unwrap()).unwrap();
    let all = block_on(world.app.audit.operations(&admin.caller, query)).unwrap();
    assert!(all.pagination.total > page.pagination.total);
}

#[test]
fn nothing_secret_is_in_the_trail() {
    let world = World::new();
    let tokens = world.login("admin", PASSWORD).unwrap();
    let _ = world.login("admin", "canary-password");
    let next = world.refresh(&tokens).unwrap();
    let trail = format!("{:?}", world.fake.store.entries());
    let secrets: [&SecretString; 5] = [
        &tokens.session_id,
        &tokens.refresh_token,
        &tokens.access_token,
        &next.refresh_token,
        &next.access_token,
    ];
    assert!(secrets.iter().all(|secret| !trail.contains(secret.expose_secret())));
    assert!(!trail.contains("canary") && !trail.contains(PASSWORD));
}

#[test]
fn what_another_process_revoked_is_gone_within_a_second() {
    let here = World::new();
    let there = App::new(here.fake.ports(), Settings::default());
    let tokens = here.login("admin", PASSWORD).unwrap();
    let session = here.signed_in(&tokens).unwrap().session.id;
    let at_the_other = || {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(there.sessions.authenticate(bearer, cookie, Origin::default()))
    };
    let caller = at_the_other().unwrap().caller;
    block_on(here.app.sessions.revoke(&caller, session)).unwrap();
    assert_eq!(cause(here.signed_in(&tokens)), Cause::SessionEnded, "at once where it was revoked");
    here.fake.runtime.clock.advance(Duration::from_secs(1));
    assert_eq!(cause(at_the_other()), Cause::SessionEnded);
}

/// Whatever a process changes of sessions and users, requests that are under way meanwhile make nothing of it last.
#[test]
fn every_change_holds_from_the_next_request_whoever_else_is_asking() {
    let world = World::new();
    let admin = world.signed_in(&world.login("admin", PASSWORD).unwrap()).unwrap();
    let root = Caller::command_line("root");
    type Change = fn(&World, &Caller, &SignedIn, &Tokens);
    let changes: [(&str, Change); 7] = [
        ("logout", |world, _, _, tokens| {
            let cookie = tokens.session_id.expose_secret();
            block_on(world.app.sessions.logout(cookie, Origin::default())).unwrap();
        }),
        ("revoke", |world, admin, who, _| {
            block_on(world.app.sessions.revoke(admin, who.session.id)).unwrap();
        }),
        ("refresh", |world, _, _, tokens| drop(world.refresh(tokens).unwrap())),
        ("role", |world, admin, who, _| {
            let other = if who.user.role == Role::Viewer { Role::OpsAdmin } else { Role::Viewer };
            let patch = UserPatch { role: Some(other), ..UserPatch::default() };
            block_on(world.app.users.update(admin, who.user.id, patch)).unwrap();
        }),
        ("disable", |world, admin, who, _| {
            let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
            block_on(world.app.users.update(admin, who.user.id, patch)).unwrap();
        }),
        ("password", |world, admin, who, _| {
            let password = NewPassword::new(&"another good password".into()).unwrap();
            block_on(world.app.users.reset_password(admin, who.user.id, password)).unwrap();
        }),
        ("delete", |world, admin, who, _| {
            block_on(world.app.users.delete(admin, who.user.id)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let name = format!("user-{what}");
        let password = NewPassword::new(&PASSWORD.into()).unwrap();
        let username = Username::new(&name).unwrap();
        let user = NewUser { username, password, role: Role::Viewer, display_name: None };
        block_on(world.app.users.create(&root, user)).unwrap();
        for round in 0..20 {
            let Ok(tokens) = world.login(&name, PASSWORD) else { break };
            let who = world.signed_in(&tokens).unwrap();
            let (done, mut refused) = (AtomicBool::new(false), 0);
            thread::scope(|threads| {
                for _ in 0..2 {
                    threads.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            let _ = world.signed_in(&tokens);
                        }
                    });
                }
                change(&world, &admin.caller, &who, &tokens);
                for _ in 0..50 {
                    refused += u32::from(world.signed_in(&tokens).is_err());
                }
                done.store(true, Ordering::Relaxed);
            });
            assert_eq!(refused, 50, "{what}, round {round}");
        }
    }
}
