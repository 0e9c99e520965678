//! Login, logout and sessions on the in-memory ports: responses to the caller, and audit rows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

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
    access::{Caller, Origin},
    app::{App, AppSettings},
    audit::OperationQuery,
    clock::Clock as _,
    inventory::List,
    operation::Status,
    role::Role,
    session::{Activity, Lifetimes, Login, PasswordChange, SignedIn, Tokens},
    testing::fake::Fake,
    user::{NewPassword, NewUser, UserPatch, Username},
};
use secrecy::{ExposeSecret, SecretString};

mod browser;
mod login_throttle;
mod passwords;
mod replicas;
mod second_factor;

const PASSWORD: &str = "correct horse battery";

struct Fixture {
    fake: Fake,
    app: App,
}

impl Fixture {
    /// A fixture with the super admin `admin`, whose password is [`PASSWORD`].
    fn new() -> Self {
        Self::with(AppSettings::default())
    }

    fn with(settings: AppSettings) -> Self {
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
            code: None,
            user_agent: None,
            origin: Origin { source_ip: Some(IpAddr::from(ip)), request_id: None },
        };
        block_on(self.app.sessions.login(login)).map(|(tokens, _)| tokens)
    }

    fn signed_in(&self, tokens: &Tokens) -> Result<SignedIn, Error> {
        self.signed_in_by(Activity::User, tokens)
    }

    fn signed_in_by(&self, activity: Activity, tokens: &Tokens) -> Result<SignedIn, Error> {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(self.app.sessions.authenticate(bearer, cookie, Origin::default(), activity))
    }

    fn refresh(&self, tokens: &Tokens) -> Result<Tokens, Error> {
        self.refresh_by(Activity::User, tokens)
    }

    fn refresh_by(&self, activity: Activity, tokens: &Tokens) -> Result<Tokens, Error> {
        let Tokens { refresh_token, session_id, .. } = tokens;
        block_on(self.app.sessions.refresh(refresh_token, session_id, Origin::default(), activity))
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
    result.map(drop).expect_err("an error").cause
}

#[test]
fn bearer_and_cookie_must_be_valid_and_of_one_session() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.login("Admin ", PASSWORD).unwrap(), fixture.login("admin", PASSWORD).unwrap());
    assert_eq!(fixture.signed_in(&one).unwrap().user.role, Role::SuperAdmin);
    let mixed = Tokens { session_id: two.session_id.clone(), ..one.clone() };
    assert_eq!(cause(fixture.signed_in(&mixed)), Cause::SessionMismatch);
    let forged = Tokens { access_token: "1.2".into(), ..one.clone() };
    assert_eq!(cause(fixture.signed_in(&forged)), Cause::TokenInvalid);
    let unknown = Tokens { session_id: "0".repeat(64).into(), ..one.clone() };
    assert_eq!(cause(fixture.signed_in(&unknown)), Cause::SessionEnded);
    assert_ne!(one.session_id.expose_secret(), two.session_id.expose_secret());
}

#[test]
fn session_in_use_does_not_expire_with_any_idle_timeout() {
    for idle in [5, 60, 90] {
        let settings = AppSettings {
            lifetimes: Lifetimes { idle: Duration::from_secs(idle), ..Lifetimes::default() },
            ..AppSettings::default()
        };
        let fixture = Fixture::with(settings);
        let tokens = fixture.login("admin", PASSWORD).unwrap();
        for _ in 0..6 {
            fixture.fake.runtime.clock.advance(Duration::from_secs(idle / 5));
            fixture.signed_in(&tokens).unwrap();
        }
        fixture.fake.runtime.clock.advance(Duration::from_secs(idle));
        assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded, "{idle}");
    }
}

#[test]
fn tokens_and_sessions_expire() {
    let fixture = Fixture::new();
    let tokens = fixture.login("admin", PASSWORD).unwrap();
    fixture.fake.runtime.clock.advance(Duration::from_secs(600));
    assert_eq!(cause(fixture.signed_in(&tokens)), Cause::TokenExpired);
    let mut tokens = fixture.refresh(&tokens).unwrap();
    fixture.fake.runtime.clock.advance(Duration::from_secs(1800));
    assert_eq!(cause(fixture.refresh(&tokens)), Cause::SessionEnded, "idle for 30 minutes");

    tokens = fixture.login("admin", PASSWORD).unwrap();
    for _ in 0..47 {
        fixture.fake.runtime.clock.advance(Duration::from_secs(600));
        tokens = fixture.refresh(&tokens).unwrap();
    }
    fixture.fake.runtime.clock.advance(Duration::from_secs(600));
    assert_eq!(cause(fixture.refresh(&tokens)), Cause::SessionEnded, "absolute lifetime of eight hours");
}

#[test]
fn background_requests_and_refreshes_do_not_extend_the_session() {
    let fixture = Fixture::new();
    let clock = &fixture.fake.runtime.clock;
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let mut tokens = fixture.login("admin", PASSWORD).unwrap();
    let expected = clock.now() + minutes(30);
    for _ in 0..4 {
        clock.advance(minutes(7));
        tokens = fixture.refresh_by(Activity::Background, &tokens).unwrap();
        let signed_in = fixture.signed_in_by(Activity::Background, &tokens).unwrap();
        assert_eq!(signed_in.session_row().idle_expires_at, expected);
    }
    clock.advance(minutes(2));
    assert_eq!(cause(fixture.signed_in_by(Activity::Background, &tokens)), Cause::SessionEnded);
    assert_eq!(cause(fixture.refresh_by(Activity::Background, &tokens)), Cause::SessionEnded);
}

#[test]
fn request_of_the_user_moves_the_idle_expiry_up_to_the_absolute_one() {
    let fixture = Fixture::new();
    let clock = &fixture.fake.runtime.clock;
    let mut tokens = fixture.login("admin", PASSWORD).unwrap();
    for _ in 0..95 {
        clock.advance(Duration::from_secs(300));
        tokens = fixture.refresh_by(Activity::Background, &tokens).unwrap();
        let row = fixture.signed_in(&tokens).unwrap().session_row();
        let idle = clock.now() + Duration::from_secs(30 * 60);
        assert_eq!((row.last_seen_at, row.idle_expires_at), (clock.now(), idle.min(row.expires_at)));
        // the next request shows the same
        let row_again = fixture.signed_in_by(Activity::Background, &tokens).unwrap().session_row();
        assert_eq!(row_again, row);
    }
}

#[test]
fn clock_change_of_ten_minutes_ends_no_session() {
    let fixture = Fixture::new();
    let mut tokens = fixture.login("admin", PASSWORD).unwrap();
    for minutes in [10, -10, -10, 10] {
        fixture.fake.runtime.clock.jump(SignedDuration::from_mins(minutes));
        tokens = fixture.refresh(&tokens).unwrap();
        assert!(fixture.signed_in(&tokens).is_ok(), "clock set by {minutes} minutes");
        fixture.login("admin", PASSWORD).unwrap();
    }
}

#[test]
fn refresh_invalidates_the_old_pair_and_replay_ends_the_session() {
    let fixture = Fixture::new();
    let old = fixture.login("admin", PASSWORD).unwrap();
    let new = fixture.refresh(&old).unwrap();
    assert_eq!(new.session_id.expose_secret(), old.session_id.expose_secret());
    assert_eq!(cause(fixture.signed_in(&old)), Cause::TokenExpired);
    assert_eq!(cause(fixture.refresh(&old)), Cause::RefreshRejected, "a client's retry");
    assert!(fixture.signed_in(&new).is_ok(), "a retry does not end the session");
    fixture.fake.runtime.clock.advance(Duration::from_secs(11));
    assert_eq!(cause(fixture.refresh(&old)), Cause::SessionEnded);
    assert_eq!(fixture.last(), ("refresh".into(), Status::Failed, Some("AUTHENTICATION_ERROR".into())));
    assert_eq!(cause(fixture.signed_in(&new)), Cause::SessionEnded);
}

#[test]
fn one_of_concurrent_refreshes_succeeds() {
    let fixture = Fixture::new();
    let tokens = fixture.login("admin", PASSWORD).unwrap();
    let succeeded: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| usize::from(fixture.refresh(&tokens).is_ok()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(succeeded, 1);
}

#[test]
fn login_cannot_take_over_a_session() {
    let fixture = Fixture::new();
    let ann = fixture.add("ann", Role::Viewer);
    let planted = fixture.login("ann", PASSWORD).unwrap();
    let victim = fixture.login("admin", PASSWORD).unwrap();
    assert_ne!(planted.session_id.expose_secret(), victim.session_id.expose_secret());
    assert_eq!(fixture.signed_in(&planted).unwrap().user.id, ann.user.id, "the session keeps its user");
    let mixed = Tokens { session_id: planted.session_id.clone(), ..victim.clone() };
    assert_eq!(cause(fixture.signed_in(&mixed)), Cause::SessionMismatch);
    // a refresh token of another session is refused as well, and the attempt does not use it up
    let mixed = Tokens { session_id: planted.session_id.clone(), ..victim.clone() };
    assert_eq!(cause(fixture.refresh(&mixed)), Cause::RefreshRejected);
    assert!(fixture.refresh(&victim).is_ok() && fixture.refresh(&planted).is_ok());
}

#[test]
fn role_change_and_deletion_end_sessions_at_once() {
    let fixture = Fixture::new();
    let root = Caller::command_line("root");
    fixture.add("eve", Role::OpsAdmin);
    let tokens = fixture.login("eve", PASSWORD).unwrap();
    let id = fixture.signed_in(&tokens).unwrap().user.id;
    let patch = UserPatch { role: Some(Role::Viewer), ..UserPatch::default() };
    block_on(fixture.app.users.update(&root, id, patch)).unwrap();
    assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded);
    let tokens = fixture.login("eve", PASSWORD).unwrap();
    assert_eq!(fixture.signed_in(&tokens).unwrap().caller.role, Some(Role::Viewer));
    block_on(fixture.app.users.delete(&root, id)).unwrap();
    assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded);
}

#[test]
fn last_super_admin_cannot_be_removed() {
    let fixture = Fixture::new();
    let admin = fixture.signed_in(&fixture.login("admin", PASSWORD).unwrap()).unwrap();
    let users = &fixture.app.users;
    let demote = UserPatch { role: Some(Role::Viewer), ..UserPatch::default() };
    let disable = UserPatch { disabled: Some(true), ..UserPatch::default() };
    assert_eq!(
        cause(block_on(users.update(&admin.caller, admin.user.id, demote.clone()))),
        Cause::LastSuperAdmin
    );
    assert_eq!(cause(block_on(users.update(&admin.caller, admin.user.id, disable))), Cause::LastSuperAdmin);
    assert_eq!(cause(block_on(users.delete(&admin.caller, admin.user.id))), Cause::LastSuperAdmin);
    assert_eq!(fixture.last(), ("delete".into(), Status::Failed, Some("CONFLICT_ERROR".into())));
    fixture.add("second", Role::SuperAdmin);
    assert!(block_on(users.update(&admin.caller, admin.user.id, demote)).is_ok());
}

#[test]
fn password_change_ends_other_sessions_and_removes_initial_password() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    assert!(block_on(app.users.bootstrap(None)).unwrap());
    assert!(!block_on(app.users.bootstrap(None)).unwrap(), "only while there is no user");
    let first = fake.initial_password.password().unwrap();
    let fixture = Fixture { fake, app };
    let [this, other] = [(); 2].map(|()| fixture.login("admin", first.expose_secret()).unwrap());
    let signed_in = fixture.signed_in(&this).unwrap();
    let change =
        |old: &str| PasswordChange { old: old.into(), new: NewPassword::new(&PASSWORD.into()).unwrap() };
    let refusal = block_on(fixture.app.sessions.change_password(&signed_in, change("wrong"))).unwrap_err();
    assert_eq!(refusal.context.fields[0].name, "old_password");
    block_on(fixture.app.sessions.change_password(&signed_in, change(first.expose_secret()))).unwrap();
    assert!(fixture.signed_in(&this).is_ok());
    assert_eq!(cause(fixture.signed_in(&other)), Cause::SessionEnded);
    assert!(fixture.fake.initial_password.password().is_none());
}

#[test]
fn initial_password_is_published_before_its_user_is_stored() {
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    fake.store.fail_audit_writes(true);
    block_on(app.users.bootstrap(None)).unwrap_err();
    assert!(fake.initial_password.password().is_some(), "the user may be stored despite the error");
    fake.store.fail_audit_writes(false);
    assert!(block_on(app.users.bootstrap(None)).unwrap());
    let password = fake.initial_password.password().unwrap();
    let fixture = Fixture { fake, app };
    fixture.login("admin", password.expose_secret()).unwrap();
}

#[test]
fn only_owner_and_super_admins_see_and_end_sessions() {
    let fixture = Fixture::new();
    let admin = fixture.signed_in(&fixture.login("admin", PASSWORD).unwrap()).unwrap();
    let [ann, bob] = ["ann", "bob"].map(|name| fixture.add(name, Role::Viewer));
    let count = |signed_in: &SignedIn| {
        let query = List::Sessions.parse_page(&[]).unwrap();
        block_on(fixture.app.sessions.list(&signed_in.caller, &query)).unwrap().1.total
    };
    assert_eq!((count(&admin), count(&ann)), (3, 1));
    assert_eq!(cause(block_on(fixture.app.sessions.revoke(&ann.caller, bob.session.id))), Cause::NotFound);
    block_on(fixture.app.sessions.revoke(&admin.caller, bob.session.id)).unwrap();
    assert_eq!(count(&admin), 2);
}

#[test]
fn viewer_sees_only_own_operations() {
    let fixture = Fixture::new();
    let ann = fixture.add("ann", Role::Viewer);
    let query = OperationQuery::parse(&[]).unwrap();
    let page = block_on(fixture.app.audit.operations(&ann.caller, query.clone())).unwrap();
    assert!(!page.logs.is_empty() && page.logs.iter().all(|row| row.username == "ann"));
    let admin = fixture.signed_in(&fixture.login("admin", PASSWORD).unwrap()).unwrap();
    let all = block_on(fixture.app.audit.operations(&admin.caller, query)).unwrap();
    assert!(all.pagination.total > page.pagination.total);
}

#[test]
fn trail_contains_no_secrets() {
    let fixture = Fixture::new();
    let tokens = fixture.login("admin", PASSWORD).unwrap();
    let _ = fixture.login("admin", "canary-password");
    let next = fixture.refresh(&tokens).unwrap();
    let trail = format!("{:?}", fixture.fake.store.entries());
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
fn session_revoked_by_another_process_ends_within_one_second() {
    let here = Fixture::new();
    let there = App::new(here.fake.ports(), AppSettings::default());
    let tokens = here.login("admin", PASSWORD).unwrap();
    let session = here.signed_in(&tokens).unwrap().session.id;
    let authenticate_there = || {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(there.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User))
    };
    let caller = authenticate_there().unwrap().caller;
    block_on(here.app.sessions.revoke(&caller, session)).unwrap();
    assert_eq!(cause(here.signed_in(&tokens)), Cause::SessionEnded, "at once in the process that revoked it");
    here.fake.runtime.clock.advance(Duration::from_secs(1));
    assert_eq!(cause(authenticate_there()), Cause::SessionEnded);
}

/// Changes of sessions and users take effect at once in a process: concurrent requests cannot cache an outdated
/// state.
#[test]
fn changes_apply_to_the_next_request_despite_concurrent_reads() {
    let fixture = Fixture::new();
    let admin = fixture.signed_in(&fixture.login("admin", PASSWORD).unwrap()).unwrap();
    let root = Caller::command_line("root");
    type Change = fn(&Fixture, &Caller, &SignedIn, &Tokens);
    let changes: [(&str, Change); 7] = [
        ("logout", |fixture, _, _, tokens| {
            let cookie = tokens.session_id.expose_secret();
            block_on(fixture.app.sessions.logout(cookie, Origin::default())).unwrap();
        }),
        ("revoke", |fixture, admin, signed_in, _| {
            block_on(fixture.app.sessions.revoke(admin, signed_in.session.id)).unwrap();
        }),
        ("refresh", |fixture, _, _, tokens| drop(fixture.refresh(tokens).unwrap())),
        ("role", |fixture, admin, signed_in, _| {
            let other = if signed_in.user.role == Role::Viewer { Role::OpsAdmin } else { Role::Viewer };
            let patch = UserPatch { role: Some(other), ..UserPatch::default() };
            block_on(fixture.app.users.update(admin, signed_in.user.id, patch)).unwrap();
        }),
        ("disable", |fixture, admin, signed_in, _| {
            let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
            block_on(fixture.app.users.update(admin, signed_in.user.id, patch)).unwrap();
        }),
        ("password", |fixture, admin, signed_in, _| {
            let password = NewPassword::new(&"another good password".into()).unwrap();
            block_on(fixture.app.users.reset_password(admin, signed_in.user.id, password)).unwrap();
        }),
        ("delete", |fixture, admin, signed_in, _| {
            block_on(fixture.app.users.delete(admin, signed_in.user.id)).unwrap();
        }),
    ];
    for (what, change) in changes {
        let name = format!("user-{what}");
        let password = NewPassword::new(&PASSWORD.into()).unwrap();
        let username = Username::new(&name).unwrap();
        let user = NewUser { username, password, role: Role::Viewer, display_name: None };
        block_on(fixture.app.users.create(&root, user)).unwrap();
        for round in 0..20 {
            let Ok(tokens) = fixture.login(&name, PASSWORD) else { break };
            let signed_in = fixture.signed_in(&tokens).unwrap();
            let (done, mut refused) = (AtomicBool::new(false), 0);
            thread::scope(|threads| {
                for _ in 0..2 {
                    threads.spawn(|| {
                        while !done.load(Ordering::Relaxed) {
                            let _ = fixture.signed_in(&tokens);
                        }
                    });
                }
                change(&fixture, &admin.caller, &signed_in, &tokens);
                for _ in 0..50 {
                    refused += u32::from(fixture.signed_in(&tokens).is_err());
                }
                done.store(true, Ordering::Relaxed);
            });
            assert_eq!(refused, 50, "{what}, round {round}");
        }
    }
}
