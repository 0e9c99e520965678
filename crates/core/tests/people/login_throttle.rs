//! Password guessing: the information in responses to anonymous callers, the limits on attempts, and the audit rows.

use std::{
    future::poll_fn,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::join_all;
use pilothouse_core::{
    Cause, Error,
    access::{Caller, Origin},
    app::{App, AppSettings},
    operation::Status,
    role::Role,
    session::Login,
    testing::fake::PlainHasher,
    user::{NewPassword, NewUser, PasswordHash, PasswordHasher, UserPatch, Username},
};
use secrecy::SecretString;

use crate::{Fixture, PASSWORD, cause};

#[test]
fn unknown_disabled_and_wrong_password_have_the_same_response() {
    let fixture = Fixture::new();
    let bob = fixture.add("bob", Role::Viewer);
    let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
    block_on(fixture.app.users.update(&Caller::command_line("root"), bob.user.id, patch)).unwrap();
    let refusals = [
        fixture.login("nobody", PASSWORD),
        fixture.login("admin", "wrong password"),
        fixture.login("bob", PASSWORD),
    ];
    let refusals: Vec<_> = refusals.into_iter().map(|result| result.unwrap_err()).collect();
    assert!(refusals.iter().all(|error| *error == Error::new(Cause::BadCredentials)), "{refusals:?}");
    assert_eq!(fixture.last(), ("login".into(), Status::Failed, Some("AUTHENTICATION_ERROR".into())));
    // an invalid username: the same response, and no part of it in the trail
    assert_eq!(cause(fixture.login("my password is hunter2", "x")), Cause::BadCredentials);
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!((row.username.as_str(), row.resource_name.as_deref()), ("-", Some("-")));
}

#[test]
fn five_failures_throttle_all_spellings_and_write_one_row_per_minute() {
    let fixture = Fixture::new();
    for variant in ["admin", "ADMIN", " admin", "ａｄｍｉｎ", "Admin"] {
        assert_eq!(cause(fixture.login(variant, "wrong")), Cause::BadCredentials);
    }
    let rows = fixture.fake.store.all_operations().len();
    for _ in 0..50 {
        let refusal = fixture.login("admin", PASSWORD).unwrap_err();
        assert_eq!(
            (refusal.cause, refusal.context.retry_after),
            (Cause::TooManyLogins, Some(Duration::from_secs(30)))
        );
    }
    assert_eq!(fixture.fake.store.all_operations().len(), rows + 1);
    fixture.fake.runtime.clock.advance(Duration::from_secs(31));
    assert!(fixture.login("admin", PASSWORD).is_ok(), "the throttle is temporary");
    assert_eq!(cause(fixture.login("admin", "wrong")), Cause::BadCredentials, "a success resets the count");
}

/// Refused logins of anonymous callers write audit rows. The number of rows is limited, whatever the number of attempts
/// and usernames.
#[test]
fn ten_thousand_usernames_write_100_rows_then_one_per_minute() {
    let fixture = Fixture::new();
    let rows = || fixture.fake.store.all_operations().len();
    let before = rows();
    for n in 0..10_000 {
        let refusal = cause(fixture.login(&format!("name-{n}"), "wrong"));
        let expected = if n < 100 { Cause::BadCredentials } else { Cause::TooManyLogins };
        assert_eq!(refusal, expected, "{n}");
    }
    assert_eq!(rows() - before, 101);
    let row = fixture.fake.store.all_operations().pop().unwrap();
    assert_eq!(
        (row.username.as_str(), row.resource_name.as_deref()),
        ("-", Some("-")),
        "one row without a username"
    );
    // twenty more minutes without a break: the failures of one window, one row per minute, and one failure after each
    // pause, which doubles up to 15 minutes
    for _ in 0..60 {
        fixture.fake.runtime.clock.advance(Duration::from_secs(20));
        for n in 0..100 {
            cause(fixture.login(&format!("another-{n}"), "wrong"));
        }
    }
    assert!(rows() - before <= 101 + 100 + 20 + 10, "{} rows", rows() - before);
}

/// A super admin can still log in, and remove the user who fills the disk.
#[test]
fn full_disk_allows_only_super_admin_login_and_cleanup() {
    let fixture = Fixture::new();
    let tokens = fixture.login("admin", PASSWORD).unwrap();
    let bob = fixture.add("bob", Role::Viewer);
    fixture.add("ann", Role::OpsAdmin);
    fixture.fake.store.fill(true);
    let rows = || fixture.fake.store.all_operations().len();
    let before = rows();
    for (name, password) in
        [("admin", "wrong"), ("bob", PASSWORD), ("bob", "wrong"), ("ann", PASSWORD), ("nobody", PASSWORD)]
    {
        assert_eq!(cause(fixture.login(name, password)), Cause::AuditUnavailable, "{name}");
    }
    assert_eq!(rows(), before, "refusals write no row");
    // existing sessions continue
    let tokens = fixture.refresh(&tokens).unwrap();
    fixture.signed_in(&tokens).unwrap();

    let admin = fixture.signed_in(&fixture.login("admin", PASSWORD).unwrap()).unwrap();
    let new = NewUser {
        username: Username::new("new").unwrap(),
        password: NewPassword::new(&PASSWORD.into()).unwrap(),
        role: Role::Viewer,
        display_name: None,
    };
    assert_eq!(cause(block_on(fixture.app.users.create(&admin.caller, new))), Cause::AuditUnavailable);
    let disable = || UserPatch { disabled: Some(true), ..UserPatch::default() };
    let by_bob = block_on(fixture.app.users.update(&bob.caller, admin.user.id, disable()));
    assert_eq!(cause(by_bob), Cause::AuditUnavailable, "a refusal uses no capacity");
    block_on(fixture.app.users.update(&admin.caller, bob.user.id, disable())).unwrap();
    block_on(fixture.app.users.delete(&admin.caller, bob.user.id)).unwrap();
    // a wrong password counts, although it has no row
    for _ in 0..5 {
        cause(fixture.login("admin", "wrong"));
    }
    assert!(fixture.login("admin", PASSWORD).is_err(), "guessing is still throttled");
    fixture.fake.store.fill(false);
    fixture.fake.runtime.clock.advance(Duration::from_secs(15 * 60));
    fixture.login("ann", PASSWORD).unwrap();
}

/// Password hasher that counts verifications. No verification completes before `until` verifications have started.
#[derive(Default)]
struct CountingHasher {
    verified: AtomicUsize,
    until: usize,
}

#[async_trait]
impl PasswordHasher for CountingHasher {
    async fn hash(&self, password: &SecretString) -> Result<PasswordHash, Error> {
        PlainHasher.hash(password).await
    }

    async fn verify<'a>(
        &self,
        password: &SecretString,
        hash: Option<&'a PasswordHash>,
    ) -> Result<bool, Error> {
        self.verified.fetch_add(1, Ordering::SeqCst);
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if self.verified.load(Ordering::SeqCst) < self.until { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        PlainHasher.verify(password, hash).await
    }
}

impl Fixture {
    fn hashing(hasher: Arc<CountingHasher>) -> Self {
        let fixture = Self::new();
        let mut ports = fixture.fake.ports();
        ports.users.hasher = hasher;
        Self { app: App::new(ports, AppSettings::default()), ..fixture }
    }
}

/// The caller cannot distinguish refusals by their response or by the computing time.
#[test]
fn every_refused_login_computes_one_hash() {
    let hasher = Arc::new(CountingHasher::default());
    let fixture = Fixture::hashing(hasher.clone());
    let bob = fixture.add("bob", Role::Viewer);
    let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
    block_on(fixture.app.users.update(&Caller::command_line("root"), bob.user.id, patch)).unwrap();
    for (name, password) in [
        ("nobody", PASSWORD),
        ("admin", "wrong password"),
        ("admin", ""),
        ("bob", PASSWORD),
        ("bob", "wrong password"),
        ("no name at all, and rather long", PASSWORD),
        ("", ""),
    ] {
        let before = hasher.verified.swap(0, Ordering::SeqCst);
        let refusal = fixture.login(name, password).unwrap_err();
        assert_eq!(refusal, Error::new(Cause::BadCredentials), "{name}, after {before}");
        assert_eq!(hasher.verified.load(Ordering::SeqCst), 1, "{name}");
    }
    // a throttled login computes no hash, whether the user exists or not
    for name in ["ghost", "admin"] {
        while cause(fixture.login(name, "wrong password")) != Cause::TooManyLogins {}
        hasher.verified.store(0, Ordering::SeqCst);
        let refusal = fixture.login(name, PASSWORD).unwrap_err();
        assert_eq!(
            (refusal.cause, hasher.verified.load(Ordering::SeqCst)),
            (Cause::TooManyLogins, 0),
            "{name}"
        );
    }
}

/// All attempts pass the first check of the throttle before the first wrong password is counted. Still, only five
/// attempts return the result of the password check.
#[test]
fn concurrent_guesses_get_no_more_results_than_sequential_ones() {
    let hasher = Arc::new(CountingHasher { until: 60, ..CountingHasher::default() });
    let fixture = Fixture::hashing(hasher.clone());
    let guess = |n: usize| {
        let login = Login {
            username: "admin".into(),
            password: format!("guess {n}").into(),
            code: None,
            user_agent: None,
            origin: Origin { source_ip: Some(IpAddr::from([10, 0, 0, 1])), request_id: None },
        };
        let sessions = fixture.app.sessions.clone();
        async move { sessions.login(login).await }
    };
    let results = block_on(join_all((0..60).map(guess)));
    let causes: Vec<_> = results.into_iter().map(cause).collect();
    assert_eq!(hasher.verified.load(Ordering::SeqCst), 60, "all attempts ran concurrently");
    assert_eq!(causes.iter().filter(|cause| **cause == Cause::BadCredentials).count(), 5, "{causes:?}");
    assert_eq!(causes.iter().filter(|cause| **cause == Cause::TooManyLogins).count(), 55, "{causes:?}");
}

const HOME: [u8; 4] = [192, 0, 2, 1];
const ATTACKER: [u8; 4] = [203, 0, 113, 9];

impl Fixture {
    /// Sends wrong passwords until they are throttled. Returns the number of attempts before that.
    fn guess_from(&self, ip: [u8; 4], name: &str) -> usize {
        let mut attempts = 0;
        while cause(self.login_from(ip, name, "wrong")) != Cause::TooManyLogins {
            attempts += 1;
        }
        attempts
    }
}

#[test]
fn guesses_from_unknown_addresses_do_not_block_a_known_address() {
    let fixture = Fixture::new();
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    // an hour with one wrong password after each pause
    for _ in 0..60 {
        let _ = fixture.login_from(ATTACKER, "admin", "wrong");
        fixture.login_from(HOME, "admin", PASSWORD).unwrap();
        fixture.fake.runtime.clock.advance(Duration::from_secs(60));
    }
    assert!(fixture.guess_from(ATTACKER, "admin") <= 5);
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    assert_eq!(
        cause(fixture.login_from(ATTACKER, "admin", PASSWORD)),
        Cause::TooManyLogins,
        "the owner's logins do not reset the attacker's count"
    );
    assert_eq!(
        cause(fixture.login_from([192, 0, 2, 2], "admin", PASSWORD)),
        Cause::TooManyLogins,
        "unknown address"
    );
}

#[test]
fn known_address_has_its_own_failure_count() {
    let fixture = Fixture::new();
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    assert_eq!(fixture.guess_from(ATTACKER, "admin"), 5);
    assert_eq!(fixture.guess_from(HOME, "admin"), 5);
    assert_eq!(cause(fixture.login_from(HOME, "admin", PASSWORD)), Cause::TooManyLogins);
    fixture.fake.runtime.clock.advance(Duration::from_secs(30));
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    assert_eq!(fixture.guess_from(HOME, "admin"), 5, "a success resets the count");
}

#[test]
fn address_is_known_for_30_days_after_login() {
    let fixture = Fixture::new();
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    let days = |n: u64| Duration::from_secs(n * 24 * 3600);
    fixture.fake.runtime.clock.advance(days(29));
    fixture.guess_from(ATTACKER, "admin");
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    fixture.fake.runtime.clock.advance(days(30));
    fixture.guess_from(ATTACKER, "admin");
    assert_eq!(cause(fixture.login_from(HOME, "admin", PASSWORD)), Cause::TooManyLogins);
}

/// Wrong passwords from all unknown addresses of a user are counted together, up to the limit of five.
#[test]
fn unknown_addresses_share_one_failure_count() {
    let fixture = Fixture::new();
    fixture.login_from(HOME, "admin", PASSWORD).unwrap();
    let taken = (0..100_u8)
        .filter(|n| cause(fixture.login_from([203, 0, 113, *n], "admin", "wrong")) == Cause::BadCredentials)
        .count();
    assert_eq!(taken, 5);
    // a wrong password does not make an address known either
    assert_eq!(cause(fixture.login_from([203, 0, 113, 0], "admin", PASSWORD)), Cause::TooManyLogins);
}
