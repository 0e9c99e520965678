//! Second factor: enrolment, logins with a code, renewal, removal and reset, and users that must have one.

use std::{thread, time::Duration};

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::{AccessRequest, Caller, Origin, Resource, StepUp, Verb},
    app::{App, AppSettings},
    clock::Clock as _,
    ids::UserId,
    operation::Status,
    role::Role,
    second_factor::{
        Enrolment, RecoveryCodes, RequireSecondFactor, SecondFactorSettings, SecondFactorStore, TotpSeed,
    },
    session::{Login, SignedIn, Tokens},
    testing::fake::PlainTotp,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{Fixture, PASSWORD, cause};

mod directory;

const MINUTE: Duration = Duration::from_secs(60);
/// Length of a time step.
const STEP: Duration = Duration::from_secs(30);

/// A user with a second factor and a session.
struct Enrolled {
    tokens: Tokens,
    seed: TotpSeed,
    recovery: RecoveryCodes,
}

impl Fixture {
    fn requiring(require: RequireSecondFactor) -> Self {
        let second_factor = SecondFactorSettings { require, step_up: StepUp::default() };
        Self::with(AppSettings { second_factor, ..AppSettings::default() })
    }

    fn advance(&self, by: Duration) {
        self.fake.runtime.clock.advance(by);
    }

    fn login_with(&self, username: &str, code: Option<SecretString>) -> Result<Tokens, Error> {
        let login = Login {
            username: username.into(),
            password: PASSWORD.into(),
            code,
            user_agent: None,
            origin: Origin { source_ip: Some([10, 0, 0, 1].into()), request_id: None },
        };
        block_on(self.app.sessions.login(login)).map(|(tokens, _)| tokens)
    }

    fn now(&self, tokens: &Tokens) -> SignedIn {
        self.signed_in(tokens).unwrap()
    }

    fn enroll(&self, tokens: &Tokens) -> Result<Enrolment, Error> {
        block_on(self.app.second_factors.enroll(&self.now(tokens)))
    }

    fn confirm(&self, tokens: &Tokens, code: &SecretString) -> Result<RecoveryCodes, Error> {
        block_on(self.app.second_factors.confirm(&self.now(tokens), code))
    }

    fn verify(&self, tokens: &Tokens, code: &SecretString) -> Result<(), Error> {
        block_on(self.app.second_factors.verify(&self.now(tokens), code))
    }

    fn disable(&self, tokens: &Tokens, code: &SecretString) -> Result<(), Error> {
        block_on(self.app.second_factors.disable(&self.now(tokens), code))
    }

    fn seed(&self, user: UserId) -> TotpSeed {
        block_on(SecondFactorStore::find(&*self.fake.store, user)).unwrap().unwrap().seed
    }

    fn code(&self, seed: &TotpSeed) -> SecretString {
        PlainTotp::code(seed, self.fake.runtime.clock.now())
    }

    /// Logs a user in and enrols them.
    fn enrolled(&self, username: &str) -> Enrolled {
        let tokens = self.login_with(username, None).unwrap();
        self.enroll(&tokens).unwrap();
        let seed = self.seed(self.now(&tokens).user.id);
        let recovery = self.confirm(&tokens, &self.code(&seed)).unwrap();
        self.advance(STEP);
        Enrolled { tokens, seed, recovery }
    }

    /// A change that requires a fresh second factor.
    fn grants_a_right(&self, tokens: &Tokens) -> Result<(), Error> {
        let access = AccessRequest::to(Verb::Create, Resource::User);
        block_on(self.app.gate.grant(&self.now(tokens).caller, access)).map(drop)
    }

    fn reads_users(&self, tokens: &Tokens) -> Result<(), Error> {
        let access = AccessRequest::to(Verb::List, Resource::User);
        block_on(self.app.gate.allow(&self.now(tokens).caller, access)).map(drop)
    }
}

/// A code that is wrong at all times close to now.
fn wrong(code: &SecretString) -> SecretString {
    let number: u32 = code.expose_secret().parse().unwrap();
    format!("{:06}", (number + 500_000) % 1_000_000).into()
}

#[test]
fn enrolled_user_signs_in_with_password_and_code() {
    let fixture = Fixture::new();
    let Enrolled { tokens, seed, .. } = fixture.enrolled("admin");
    assert_eq!(fixture.now(&tokens).caller.factor.at, Some(fixture.fake.runtime.clock.now() - STEP));
    assert_eq!(cause(fixture.login_with("admin", None)), Cause::SecondFactorRequired);
    assert_eq!(cause(fixture.login_with("admin", Some(wrong(&fixture.code(&seed))))), Cause::BadCredentials);
    let tokens = fixture.login_with("admin", Some(fixture.code(&seed))).unwrap();
    let factor = fixture.now(&tokens).caller.factor;
    assert!(factor.enrolled && factor.at == Some(fixture.fake.runtime.clock.now()));
    assert_eq!(fixture.last(), ("login".into(), Status::Success, None));
    let row = fixture.fake.store.entries().pop().unwrap().canonical().unwrap();
    assert!(row.contains(r#""second_factor":"totp""#), "{row}");
}

#[test]
fn wrong_password_with_a_right_code_uses_no_code() {
    let fixture = Fixture::new();
    let Enrolled { seed, .. } = fixture.enrolled("admin");
    let code = fixture.code(&seed);
    let login = Login {
        username: "admin".into(),
        password: "wrong password!".into(),
        code: Some(code.clone()),
        user_agent: None,
        origin: Origin::default(),
    };
    assert_eq!(cause(block_on(fixture.app.sessions.login(login))), Cause::BadCredentials);
    fixture.login_with("admin", Some(code)).unwrap();
}

#[test]
fn each_code_signs_in_once_even_at_once_and_after_a_restart() {
    let fixture = Fixture::new();
    let Enrolled { seed, recovery, .. } = fixture.enrolled("admin");
    for code in [fixture.code(&seed), recovery.codes()[0].clone()] {
        let signed_in: usize = thread::scope(|scope| {
            let login = || usize::from(fixture.login_with("admin", Some(code.clone())).is_ok());
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(login)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(signed_in, 1, "one of concurrent logins");
        let restarted = Fixture {
            app: App::new(fixture.fake.ports(), AppSettings::default()),
            fake: fixture.fake.clone(),
        };
        assert_eq!(cause(restarted.login_with("admin", Some(code))), Cause::BadCredentials);
        fixture.advance(20 * MINUTE);
    }
}

#[test]
fn code_of_a_step_before_the_last_used_one_is_refused() {
    let fixture = Fixture::new();
    let Enrolled { seed, .. } = fixture.enrolled("admin");
    let earlier = fixture.code(&seed);
    fixture.advance(STEP);
    fixture.login_with("admin", Some(fixture.code(&seed))).unwrap();
    assert_eq!(cause(fixture.login_with("admin", Some(earlier))), Cause::BadCredentials);
}

#[test]
fn confirming_code_cannot_sign_in() {
    let fixture = Fixture::new();
    let tokens = fixture.login_with("admin", None).unwrap();
    fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    let code = fixture.code(&seed);
    fixture.confirm(&tokens, &code).unwrap();
    assert_eq!(cause(fixture.login_with("admin", Some(code))), Cause::BadCredentials);
}

#[test]
fn recovery_code_signs_in_in_any_spelling() {
    let fixture = Fixture::new();
    let Enrolled { recovery, .. } = fixture.enrolled("admin");
    let code = recovery.codes()[3].expose_secret().to_lowercase().replace('-', " ");
    fixture.login_with("admin", Some(code.into())).unwrap();
    let row = fixture.fake.store.entries().pop().unwrap().canonical().unwrap();
    assert!(row.contains(r#""second_factor":"recovery_code""#), "{row}");
}

#[test]
fn wrong_codes_are_throttled_as_wrong_passwords() {
    let fixture = Fixture::new();
    let Enrolled { tokens, seed, .. } = fixture.enrolled("admin");
    for _ in 0..5 {
        let wrong = wrong(&fixture.code(&seed));
        assert_eq!(cause(fixture.login_with("admin", Some(wrong))), Cause::BadCredentials);
    }
    assert_eq!(cause(fixture.login_with("admin", Some(fixture.code(&seed)))), Cause::TooManyLogins);
    fixture.advance(MINUTE);
    fixture.login_with("admin", Some(fixture.code(&seed))).unwrap();

    // in a session, which is of another address, the account itself counts
    for _ in 0..5 {
        assert_eq!(cause(fixture.verify(&tokens, &wrong(&fixture.code(&seed)))), Cause::BadCredentials);
    }
    let rows = fixture.fake.store.all_operations().len();
    assert_eq!(cause(fixture.verify(&tokens, &fixture.code(&seed))), Cause::TooManyLogins);
    assert_eq!(cause(fixture.disable(&tokens, &fixture.code(&seed))), Cause::TooManyLogins);
    assert_eq!(fixture.fake.store.all_operations().len(), rows, "a throttled code adds no row");
}

#[test]
fn login_without_a_code_has_one_row_per_minute() {
    let fixture = Fixture::new();
    fixture.enrolled("admin");
    let before = fixture.fake.store.all_operations().len();
    for _ in 0..10 {
        assert_eq!(cause(fixture.login_with("admin", None)), Cause::SecondFactorRequired);
    }
    assert_eq!(fixture.fake.store.all_operations().len(), before + 1);
}

#[test]
fn enrolment_needs_a_recent_login_and_a_code_of_its_seed() {
    let fixture = Fixture::new();
    let tokens = fixture.login_with("admin", None).unwrap();
    assert_eq!(cause(fixture.confirm(&tokens, &"123456".into())), Cause::NotFound, "nothing to confirm");
    let shown = fixture.enroll(&tokens).unwrap();
    let first = fixture.seed(fixture.now(&tokens).user.id);
    assert!(shown.otpauth_url.expose_secret().contains(shown.secret.expose_secret()));
    fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    assert_ne!(first.bytes(), seed.bytes());
    assert_eq!(cause(fixture.confirm(&tokens, &wrong(&fixture.code(&seed)))), Cause::BadCredentials);
    fixture.login_with("admin", None).unwrap();

    fixture.advance(10 * MINUTE);
    let tokens = fixture.refresh(&tokens).unwrap();
    assert_eq!(cause(fixture.confirm(&tokens, &fixture.code(&seed))), Cause::NotFound, "too late");
    fixture.enroll(&tokens).unwrap();
    fixture.advance(Duration::from_secs(1));
    assert_eq!(cause(fixture.enroll(&tokens)), Cause::LoginStale);
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    fixture.confirm(&tokens, &fixture.code(&seed)).unwrap();
    let again =
        fixture.login_with("admin", Some(PlainTotp::code(&seed, fixture.fake.runtime.clock.now() + STEP)));
    let again = again.unwrap();
    assert_eq!(cause(fixture.enroll(&again)), Cause::AlreadyEnrolled);
    assert_eq!(cause(fixture.confirm(&again, &fixture.code(&seed))), Cause::AlreadyEnrolled);
}

#[test]
fn stale_factor_is_renewed_by_a_code_and_not_by_a_refresh() {
    let fixture = Fixture::new();
    let Enrolled { mut tokens, seed, .. } = fixture.enrolled("admin");
    fixture.grants_a_right(&tokens).unwrap();
    fixture.advance(9 * MINUTE);
    tokens = fixture.refresh(&tokens).unwrap();
    fixture.grants_a_right(&tokens).unwrap();
    fixture.advance(MINUTE);
    assert_eq!(cause(fixture.grants_a_right(&tokens)), Cause::SecondFactorStale);
    fixture.reads_users(&tokens).unwrap();
    assert_eq!(cause(fixture.verify(&tokens, &wrong(&fixture.code(&seed)))), Cause::BadCredentials);
    assert_eq!(cause(fixture.grants_a_right(&tokens)), Cause::SecondFactorStale);
    let code = fixture.code(&seed);
    fixture.verify(&tokens, &code).unwrap();
    fixture.grants_a_right(&tokens).unwrap();
    assert_eq!(cause(fixture.verify(&tokens, &code)), Cause::BadCredentials, "used before");
}

#[test]
fn session_opened_before_the_enrolment_must_give_the_factor() {
    let fixture = Fixture::new();
    let old = fixture.login_with("admin", None).unwrap();
    let Enrolled { seed, .. } = fixture.enrolled("admin");
    assert_eq!(cause(fixture.reads_users(&old)), Cause::SecondFactorStale);
    fixture.verify(&old, &fixture.code(&seed)).unwrap();
    fixture.reads_users(&old).unwrap();
}

#[test]
fn user_without_a_second_factor_is_asked_for_none() {
    let fixture = Fixture::new();
    let tokens = fixture.login_with("admin", Some("123456".into())).unwrap();
    fixture.grants_a_right(&tokens).unwrap();
    assert_eq!(cause(fixture.verify(&tokens, &"123456".into())), Cause::SecondFactorNotEnrolled);
    assert_eq!(cause(fixture.disable(&tokens, &"123456".into())), Cause::SecondFactorNotEnrolled);
}

#[test]
fn whoever_must_have_a_second_factor_can_only_enroll() {
    for (require, viewer_must) in [(RequireSecondFactor::Admins, false), (RequireSecondFactor::All, true)] {
        let fixture = Fixture::requiring(require);
        fixture.add("ann", Role::Viewer);
        let admin = fixture.login_with("admin", None).unwrap();
        assert_eq!(cause(fixture.reads_users(&admin)), Cause::SecondFactorNotEnrolled);
        assert_eq!(cause(fixture.grants_a_right(&admin)), Cause::SecondFactorNotEnrolled);
        let ann = fixture.login_with("ann", None).unwrap();
        let sessions = AccessRequest::to(Verb::List, Resource::Session);
        let listed = block_on(fixture.app.gate.allow(&fixture.now(&ann).caller, sessions));
        assert_eq!(listed.is_err(), viewer_must, "{require:?}");

        let Enrolled { tokens, seed, .. } = fixture.enrolled("admin");
        fixture.reads_users(&tokens).unwrap();
        assert_eq!(cause(fixture.disable(&tokens, &fixture.code(&seed))), Cause::NotAllowedBySettings);
        fixture.refresh(&admin).unwrap();
    }
}

#[test]
fn removal_takes_a_code_and_ends_the_other_sessions() {
    let fixture = Fixture::new();
    let Enrolled { tokens, seed, recovery } = fixture.enrolled("admin");
    let other = fixture.login_with("admin", Some(fixture.code(&seed))).unwrap();
    assert_eq!(cause(fixture.disable(&tokens, &fixture.code(&seed))), Cause::BadCredentials, "used before");
    fixture.disable(&tokens, &recovery.codes()[0]).unwrap();
    assert_eq!(fixture.last(), ("disable".into(), Status::Success, None));
    assert_eq!(cause(fixture.signed_in(&other)), Cause::SessionEnded);
    let factor = fixture.now(&tokens).caller.factor;
    assert!(!factor.enrolled && factor.at.is_none());
    fixture.login_with("admin", None).unwrap();
}

#[test]
fn reset_by_a_super_admin_or_the_command_line_ends_all_sessions() {
    let fixture = Fixture::new();
    let reset = |caller: &Caller, id| block_on(fixture.app.second_factors.reset(caller, id));
    let ann = fixture.add("ann", Role::OpsAdmin);
    let admin = fixture.now(&fixture.login_with("admin", None).unwrap());
    for caller in [&admin.caller, &Caller::command_line("root")] {
        let Enrolled { tokens, .. } = fixture.enrolled("ann");
        assert_eq!(cause(reset(&ann.caller, admin.user.id)), Cause::RoleTooLow);
        reset(caller, ann.user.id).unwrap();
        let row = fixture.fake.store.all_operations().pop().unwrap();
        assert_eq!((&*row.operation_type, &*row.resource_type), ("disable", "second_factor"));
        assert_eq!(row.resource_name.as_deref(), Some("ann"));
        assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded);
        assert_eq!(cause(reset(caller, ann.user.id)), Cause::NotFound);
    }
    fixture.login_with("ann", None).unwrap();
}

#[test]
fn audit_trail_and_debug_output_have_no_seed_and_no_code() {
    let fixture = Fixture::new();
    let tokens = fixture.login_with("admin", None).unwrap();
    let shown = fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    let code = fixture.code(&seed);
    let recovery = fixture.confirm(&tokens, &code).unwrap();
    fixture.advance(STEP);
    fixture.verify(&tokens, &recovery.codes()[0]).unwrap();
    fixture.login_with("admin", Some(wrong(&code))).unwrap_err();
    fixture.disable(&tokens, &recovery.codes()[1]).unwrap();
    let trail: String = fixture.fake.store.entries().iter().map(|entry| entry.canonical().unwrap()).collect();
    let debug = format!("{shown:?} {seed:?} {recovery:?}");
    let secrets = recovery.codes().iter().chain([&shown.secret, &shown.otpauth_url]);
    for secret in secrets {
        let secret = secret.expose_secret();
        assert!(!trail.contains(secret) && !debug.contains(secret), "{secret}");
    }
}
