//! Sign-in through identity providers, on the in-memory ports and scripted providers: admission of users, rights of
//! their groups, and the end of sessions and rights.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    future::{pending, poll_fn},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::{join_all, select};
use jiff::{SignedDuration, Timestamp};
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Caller, Factor, Origin, Principal, Resource, Verb},
    app::{App, AppSettings},
    clock::Clock as _,
    grant::{GrantRecord, GrantRegistry as _},
    ids::ClusterId,
    kind::Kind,
    name::ProviderId,
    namespaces::NamespaceScope,
    operation::Status,
    provider::{
        AuthorizationAnswer, AuthorizationRequest, Binding, Directory, LdapLogin, LogoutNotice, OidcFinish,
        OidcFinished, OidcRenewal, OidcSignIn, OidcStarted, OpenIdProvider, PasswordCheck, Person, Provider,
        ProviderKind, ProviderPort,
    },
    rights::{Ceiling, ClusterScope, Reach, RoleName, Subject},
    role::Role,
    second_factor::{RequireSecondFactor, SecondFactorSettings, SecondFactorStore},
    session::{Activity, Login, PasswordChange, SignedIn, Tokens},
    testing::{
        fake::{Fake, PlainTotp},
        new_cluster, permit,
    },
    token::{Networks, NewToken},
    user::{NewPassword, UserPatch, Username},
};
use secrecy::{ExposeSecret, SecretString};

const PASSWORD: &str = "correct horse battery";

/// A scripted provider of both kinds, with one person, with no person, or out of order.
struct Scripted {
    person: Mutex<Result<Option<Person>, Cause>>,
    /// Whether sign-ins get a refresh token.
    refreshes: bool,
    /// Whether the logout page is requested and never answered.
    hangs: AtomicBool,
    /// Time of the authentication, as reported by the provider.
    authenticated_at: Mutex<Option<Timestamp>>,
    /// Requests to the provider.
    asked: Mutex<Vec<String>>,
    /// Number of binds before the first one is answered.
    wait_for: AtomicUsize,
}

impl Scripted {
    fn new(refreshes: bool) -> Arc<Self> {
        let person = Mutex::new(Ok(Some(mei(&["ops"]))));
        Arc::new(Self {
            person,
            refreshes,
            hangs: AtomicBool::default(),
            asked: Mutex::default(),
            authenticated_at: Mutex::default(),
            wait_for: AtomicUsize::new(0),
        })
    }

    fn set(&self, person: Result<Option<Person>, Cause>) {
        *self.person.lock().unwrap() = person;
    }

    fn answer(&self, question: String) -> Result<Option<Person>> {
        self.asked.lock().unwrap().push(question);
        self.person.lock().unwrap().clone().map_err(Error::new)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Directory for Scripted {
    async fn sign_in(&self, username: &str, password: &SecretString) -> Result<PasswordCheck> {
        let found = self.answer(format!("bind {username}"))?;
        poll_fn(|context| {
            context.waker().wake_by_ref();
            let asked = self.asked.lock().unwrap().len();
            if asked < self.wait_for.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        Ok(match found {
            Some(person) if password.expose_secret() == PASSWORD => PasswordCheck::Right(person),
            found => PasswordCheck::Wrong { name: found.map(|person| person.name().to_owned()) },
        })
    }

    async fn find(&self, subject: &str) -> Result<Option<Person>> {
        self.answer(format!("find {subject}"))
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl OpenIdProvider for Scripted {
    async fn authorization_url(&self, request: &AuthorizationRequest) -> Result<String> {
        assert_eq!((request.nonce.len(), request.verifier.expose_secret().len()), (43, 43));
        assert_ne!(request.nonce, request.verifier.expose_secret());
        self.answer("start".to_owned())?;
        Ok(format!("https://id.example.com/authorize?state={}&nonce={}", request.state, request.nonce))
    }

    async fn redeem(&self, answer: &AuthorizationAnswer) -> Result<OidcSignIn> {
        let person = self.answer(format!("redeem {} {}", answer.code.expose_secret(), answer.nonce))?;
        Ok(OidcSignIn {
            person: person.ok_or_else(|| Error::new(Cause::SignInRejected))?,
            authenticated_at: *self.authenticated_at.lock().unwrap(),
            sid: Some("sid-1".to_owned()),
            refresh_token: self.refreshes.then(|| "canary-refresh-1".into()),
        })
    }

    async fn renew(&self, subject: &str, refresh_token: &SecretString) -> Result<Option<OidcRenewal>> {
        let person = self.answer(format!("renew {subject} {}", refresh_token.expose_secret()))?;
        Ok(person.map(|person| OidcRenewal { person, refresh_token: Some("canary-refresh-2".into()) }))
    }

    async fn verify_logout(&self, logout_token: &str) -> Result<LogoutNotice> {
        let Some(sid) = logout_token.strip_prefix("end ") else {
            return Err(Error::new(Cause::SignInRejected));
        };
        let valid_until = "2030-01-01T00:00:00Z".parse().unwrap();
        Ok(LogoutNotice {
            jti: logout_token.to_owned(),
            valid_until,
            subject: None,
            sid: Some(sid.to_owned()),
        })
    }

    async fn end_session_url(&self) -> Result<Option<String>> {
        self.answer("end".to_owned())?;
        if self.hangs.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
        Ok(Some("https://id.example.com/end".to_owned()))
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}

fn mei(groups: &[&str]) -> Person {
    Person::new("subject-1", "Mei", None, groups.iter().map(|group| (*group).to_owned())).unwrap()
}

struct Fixture {
    fake: Fake,
    app: App,
    cluster: ClusterId,
    oidc: Arc<Scripted>,
    ldap: Arc<Scripted>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(true)
    }

    fn with(refreshes: bool) -> Self {
        Self::with_settings(refreshes, false, AppSettings::default())
    }

    /// A fixture with the providers `corp` (OpenID) and `dir` (LDAP), of which the groups `ops` may view the cluster.
    fn with_settings(refreshes: bool, trusts_second_factor: bool, settings: AppSettings) -> Self {
        let (oidc, ldap) = (Scripted::new(refreshes), Scripted::new(refreshes));
        let ports = [
            ("corp", ProviderKind::Oidc, ProviderPort::Oidc(oidc.clone())),
            ("dir", ProviderKind::Ldap, ProviderPort::Ldap(ldap.clone())),
        ];
        let mut fake = Fake::default();
        let mut bindings = Vec::new();
        for (id, kind, port) in ports {
            let id = ProviderId::new(id).unwrap();
            bindings.push(Binding { provider: id.clone(), kind, authority: format!("authority of {id}") });
            let provider = Provider { id: id.clone(), label: id.to_string(), trusts_second_factor, port };
            fake.providers.insert(id, provider);
        }
        let app = App::new(fake.ports(), settings);
        for binding in &bindings {
            block_on(app.federation.bind(binding)).unwrap();
        }
        let first = NewPassword::new(&PASSWORD.into()).unwrap();
        block_on(app.users.bootstrap(Some(first))).unwrap();
        let root = Caller::command_line("root");
        let cluster = block_on(app.clusters.create(&root, new_cluster("prod"))).unwrap().value.id;
        for provider in ["corp", "dir"] {
            let record = GrantRecord {
                subject: Subject::group(provider, "ops").unwrap(),
                role: RoleName::new("viewer").unwrap(),
                clusters: ClusterScope::Ids([cluster].into()),
                reach: Reach::Cluster,
                from: None,
                until: None,
                reason: None,
            };
            let change = permit(&root, AccessRequest::to(Verb::Grant, Resource::Grant));
            block_on(fake.store.create(&change, record, None)).unwrap();
        }
        Self { fake, app, cluster, oidc, ldap }
    }

    fn advance(&self, seconds: u64) {
        self.fake.runtime.clock.advance(Duration::from_secs(seconds));
    }

    fn start(&self) -> OidcStarted {
        block_on(self.app.federation.oidc_start("corp", Some("/clusters"), &Origin::default())).unwrap()
    }

    fn finish(&self, started: &OidcStarted) -> Result<OidcFinished> {
        let state = started.location.split(['=', '&']).nth(1).unwrap();
        self.finish_with(state, started.browser.clone())
    }

    fn finish_with(&self, state: &str, browser: SecretString) -> Result<OidcFinished> {
        self.finish_from(&Origin::default(), state, browser)
    }

    fn finish_from(&self, origin: &Origin, state: &str, browser: SecretString) -> Result<OidcFinished> {
        let finish = OidcFinish {
            provider: "corp".to_owned(),
            code: "canary-code".into(),
            state: state.into(),
            issuer: None,
            browser,
            user_agent: None,
            origin: origin.clone(),
        };
        block_on(self.app.federation.oidc_finish(finish))
    }

    /// A whole sign-in at the OpenID provider from an address.
    fn sign_in_from(&self, ip: [u8; 4]) -> Result<OidcFinished> {
        let origin = origin(ip);
        let started = block_on(self.app.federation.oidc_start("corp", None, &origin))?;
        let state = started.location.split(['=', '&']).nth(1).unwrap();
        self.finish_from(&origin, state, started.browser.clone())
    }

    fn sign_in(&self) -> Tokens {
        self.finish(&self.start()).unwrap().tokens
    }

    fn ldap_login(&self, username: &str, password: &str) -> Result<Tokens> {
        let login = LdapLogin {
            provider: "dir".to_owned(),
            username: username.to_owned(),
            password: password.into(),
            code: None,
            user_agent: None,
            origin: origin([10, 0, 0, 1]),
        };
        block_on(self.app.federation.ldap_login(login)).map(|(tokens, _)| tokens)
    }

    fn signed_in(&self, tokens: &Tokens) -> Result<SignedIn> {
        let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
        block_on(self.app.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User))
    }

    /// The cookie's session, past the lifetime of an access token.
    fn is_live(&self, tokens: &Tokens) -> bool {
        block_on(self.app.sessions.check_cookie(tokens.session_id.expose_secret())).is_ok()
    }

    fn refresh(&self, tokens: &Tokens) -> Tokens {
        let Tokens { refresh_token, session_id, .. } = tokens;
        block_on(self.app.sessions.refresh(refresh_token, session_id, Origin::default(), Activity::User))
            .unwrap()
    }

    fn sees_cluster(&self, tokens: &Tokens) -> bool {
        self.signed_in(tokens).unwrap().caller.rights.sees(self.cluster)
    }

    /// Reads the people of all providers again.
    fn confirm(&self) -> usize {
        ["corp", "dir"].map(|provider| self.confirm_at(provider)).into_iter().sum()
    }

    fn confirm_at(&self, provider: &str) -> usize {
        block_on(self.app.federation.confirm_due(&ProviderId::new(provider).unwrap(), 10)).unwrap()
    }

    /// Number of audit rows.
    fn rows(&self) -> usize {
        self.fake.store.all_operations().len()
    }

    /// The newest operation: type, name, status.
    fn last(&self) -> (String, Option<String>, Status) {
        let row = self.fake.store.all_operations().pop().unwrap();
        (row.operation_type, row.resource_name, row.status)
    }
}

fn origin(ip: [u8; 4]) -> Origin {
    Origin { source_ip: Some(ip.into()), request_id: None }
}

fn cause<T>(result: Result<T>) -> Cause {
    result.map(drop).expect_err("an error").cause
}

#[test]
fn ways_to_sign_in_are_local_users_and_providers() {
    let rows = Fixture::new().app.federation.list();
    let rows: Vec<_> = rows.iter().map(|row| (&*row.id, row.kind, row.start_url.as_deref())).collect();
    assert_eq!(
        rows,
        [
            ("local", "local", None),
            ("corp", "oidc", Some("/api/auth/oidc/corp/start")),
            ("dir", "ldap", None)
        ]
    );
}

#[test]
fn person_becomes_a_user_without_a_role() {
    let fixture = Fixture::new();
    let finished = fixture.finish(&fixture.start()).unwrap();
    assert_eq!(finished.to, "/clusters");
    let user = fixture.signed_in(&finished.tokens).unwrap().user;
    assert_eq!((user.username.as_str(), user.role, &*user.display_name), ("corp:mei", Role::None, "Mei"));
    assert_eq!(fixture.last(), ("login".to_owned(), Some("corp:mei".to_owned()), Status::Success));
    assert_eq!(fixture.signed_in(&fixture.sign_in()).unwrap().user.id, user.id, "the same person again");
    let from_directory = fixture.ldap_login("mei", PASSWORD).unwrap();
    let other = fixture.signed_in(&from_directory).unwrap().user;
    assert_eq!(other.username.as_str(), "dir:mei");
    assert_ne!(other.id, user.id, "the same subject of another provider");
}

#[test]
fn sign_in_ends_once_in_its_browser_within_ten_minutes() {
    let fixture = Fixture::new();
    let (started, other) = (fixture.start(), fixture.start());
    let state = started.location.split(['=', '&']).nth(1).unwrap().to_owned();
    assert_eq!(cause(fixture.finish_with(&state, other.browser.clone())), Cause::SignInExpired);
    assert_eq!(cause(fixture.finish_with("forged", started.browser.clone())), Cause::SignInExpired);
    fixture.finish(&started).unwrap();
    assert_eq!(cause(fixture.finish(&started)), Cause::SignInExpired, "a second time");
    fixture.advance(600);
    assert_eq!(cause(fixture.finish(&other)), Cause::SignInExpired, "after ten minutes");
    let redeemed = fixture.oidc.asked().iter().filter(|asked| asked.starts_with("redeem")).count();
    assert_eq!(redeemed, 1, "nothing is sent to the provider without a state");
}

#[test]
fn refused_answer_is_recorded_and_opens_no_session() {
    let fixture = Fixture::new();
    for refusal in [Cause::SignInRejected, Cause::GroupsMissing, Cause::ProviderUnavailable] {
        let started = fixture.start();
        fixture.oidc.set(Err(refusal));
        assert_eq!(cause(fixture.finish(&started)), refusal);
        assert_eq!(fixture.last(), ("login".to_owned(), Some("corp:-".to_owned()), Status::Failed));
        fixture.oidc.set(Ok(Some(mei(&["ops"]))));
        assert_eq!(cause(fixture.finish(&started)), Cause::SignInExpired, "the state is used up");
    }
    let unknown = block_on(fixture.app.federation.oidc_start("dir", None, &Origin::default()));
    assert_eq!(cause(unknown), Cause::NotFound, "of another kind");
}

#[test]
fn refused_openid_sign_ins_of_an_address_write_100_rows_then_one_per_minute() {
    for refusal in [Cause::SignInRejected, Cause::GroupsMissing] {
        let fixture = Fixture::new();
        let (attacker, office) = ([203, 0, 113, 9], [192, 0, 2, 1]);
        // successes do not count
        for _ in 0..150 {
            fixture.sign_in_from(office).unwrap();
        }
        let begun = block_on(fixture.app.federation.oidc_start("corp", None, &origin(attacker))).unwrap();
        let before = fixture.rows();
        for n in 0..1000 {
            fixture.oidc.set(Ok(Some(mei(&["ops"]))));
            let started = block_on(fixture.app.federation.oidc_start("corp", None, &origin(attacker)));
            fixture.oidc.set(Err(refusal));
            let refused = started.and_then(|started| {
                let state = started.location.split(['=', '&']).nth(1).unwrap();
                fixture.finish_from(&origin(attacker), state, started.browser.clone())
            });
            let expected = if n < 100 { refusal } else { Cause::TooManyLogins };
            assert_eq!(cause(refused), expected, "{n}");
        }
        assert_eq!(fixture.rows() - before, 101, "{refusal:?}");
        // also the end of a sign-in that began before, which the provider does not see
        fixture.oidc.set(Ok(Some(mei(&["ops"]))));
        fixture.oidc.asked();
        let state = begun.location.split(['=', '&']).nth(1).unwrap();
        let finished = fixture.finish_from(&origin(attacker), state, begun.browser.clone());
        assert_eq!(cause(finished), Cause::TooManyLogins);
        assert!(fixture.oidc.asked().is_empty());
        assert_eq!(fixture.rows() - before, 101);
        // another address signs in meanwhile, and this one after the pause
        fixture.sign_in_from(office).unwrap();
        fixture.advance(31);
        fixture.sign_in_from(attacker).unwrap();
    }
}

#[test]
fn outage_of_a_provider_writes_one_row_per_minute_and_blocks_nobody() {
    let fixture = Fixture::new();
    let address = [10, 0, 0, 1];
    let before = fixture.rows();
    fixture.ldap.set(Err(Cause::ProviderUnavailable));
    for n in 0..200 {
        assert_eq!(cause(fixture.ldap_login(&format!("user-{n}"), PASSWORD)), Cause::ProviderUnavailable);
        assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::ProviderUnavailable);
        fixture.oidc.set(Ok(Some(mei(&["ops"]))));
        let started = block_on(fixture.app.federation.oidc_start("corp", None, &origin(address))).unwrap();
        fixture.oidc.set(Err(Cause::ProviderUnavailable));
        let state = started.location.split(['=', '&']).nth(1).unwrap();
        let failed = fixture.finish_from(&origin(address), state, started.browser.clone());
        assert_eq!(cause(failed), Cause::ProviderUnavailable);
    }
    assert_eq!(fixture.rows() - before, 2, "one for each provider");
    assert_eq!(fixture.last(), ("login".to_owned(), Some("corp:-".to_owned()), Status::Failed));
    fixture.advance(60);
    cause(fixture.ldap_login("mei", PASSWORD));
    assert_eq!(fixture.rows() - before, 3, "the next minute");
    fixture.ldap.set(Ok(Some(mei(&["ops"]))));
    fixture.oidc.set(Ok(Some(mei(&["ops"]))));
    fixture.ldap_login("mei", PASSWORD).unwrap();
    fixture.sign_in_from(address).unwrap();
}

#[test]
fn groups_give_rights_until_the_provider_takes_them() {
    let fixture = Fixture::new();
    let mut tokens = fixture.sign_in();
    assert!(fixture.sees_cluster(&tokens));
    assert_eq!(fixture.confirm(), 0, "just confirmed");

    fixture.oidc.set(Ok(Some(mei(&["dev"]))));
    fixture.advance(541);
    tokens = fixture.refresh(&tokens);
    assert!(fixture.sees_cluster(&tokens));
    fixture.oidc.asked();
    assert_eq!(fixture.confirm(), 1);
    assert_eq!(fixture.oidc.asked(), ["renew subject-1 canary-refresh-1"]);
    assert!(!fixture.sees_cluster(&tokens), "at the next request");

    fixture.oidc.set(Ok(None));
    fixture.advance(541);
    assert_eq!(fixture.confirm(), 1);
    assert_eq!(fixture.oidc.asked(), ["renew subject-1 canary-refresh-2"], "the newest refresh token");
    assert!(!fixture.is_live(&tokens), "the provider does not know the person any more");
    assert_eq!(fixture.last(), ("revoke".to_owned(), Some("corp:mei".to_owned()), Status::Success));
}

#[test]
fn provider_that_does_not_answer_changes_nothing() {
    let fixture = Fixture::new();
    let mut tokens = [fixture.sign_in(), fixture.ldap_login("mei", PASSWORD).unwrap()];
    for port in [&fixture.oidc, &fixture.ldap] {
        port.set(Err(Cause::ProviderUnavailable));
    }
    for _ in 0..5 {
        fixture.advance(541);
        tokens = tokens.map(|tokens| fixture.refresh(&tokens));
        assert_eq!(fixture.confirm(), 2);
        assert!(tokens.iter().all(|tokens| fixture.sees_cluster(tokens)));
    }
    let start = block_on(fixture.app.federation.oidc_start("corp", None, &Origin::default()));
    assert_eq!(cause(start), Cause::ProviderUnavailable);
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::ProviderUnavailable);
    let local = Login {
        username: "admin".to_owned(),
        password: PASSWORD.into(),
        code: None,
        user_agent: None,
        origin: Origin::default(),
    };
    assert!(block_on(fixture.app.sessions.login(local)).is_ok(), "local users sign in");
    assert!(
        block_on(fixture.app.federation.logout(tokens[0].session_id.expose_secret(), Origin::default()))
            .is_ok()
    );
}

#[test]
fn provider_that_did_not_answer_is_asked_again_after_a_minute() {
    let fixture = Fixture::new();
    fixture.sign_in();
    fixture.ldap_login("mei", PASSWORD).unwrap();
    fixture.oidc.set(Err(Cause::ProviderUnavailable));
    fixture.advance(541);
    assert_eq!(fixture.confirm(), 2);
    fixture.advance(60);
    assert_eq!(fixture.confirm(), 0);
    fixture.advance(1);
    fixture.oidc.set(Ok(Some(mei(&["ops"]))));
    assert_eq!(fixture.confirm(), 1);
    fixture.advance(61);
    assert_eq!(fixture.confirm(), 0, "it has answered");
}

#[test]
fn people_of_one_provider_are_read_apart_from_others() {
    let fixture = Fixture::new();
    fixture.sign_in();
    fixture.ldap_login("mei", PASSWORD).unwrap();
    fixture.advance(541);
    for port in [&fixture.oidc, &fixture.ldap] {
        port.asked();
    }
    assert_eq!(fixture.confirm_at("dir"), 1);
    assert_eq!(fixture.ldap.asked(), ["find subject-1"]);
    assert!(fixture.oidc.asked().is_empty());
    assert_eq!(fixture.confirm_at("corp"), 1);
    let unknown = ProviderId::new("other").unwrap();
    assert_eq!(cause(block_on(fixture.app.federation.confirm_due(&unknown, 10))), Cause::NotFound);
}

#[test]
fn person_who_does_not_use_a_session_is_not_read_again() {
    let fixture = Fixture::new();
    fixture.sign_in();
    fixture.ldap_login("mei", PASSWORD).unwrap();
    fixture.advance(1800);
    assert_eq!(fixture.confirm(), 0, "the sessions have ended");
}

#[test]
fn session_without_a_refresh_token_lasts_an_hour() {
    let fixture = Fixture::with(false);
    let mut tokens = fixture.sign_in();
    for _ in 0..5 {
        fixture.advance(590);
        tokens = fixture.refresh(&tokens);
    }
    assert_eq!(fixture.confirm(), 0);
    assert!(fixture.is_live(&tokens));
    fixture.advance(650);
    assert!(!fixture.is_live(&tokens));
}

#[test]
fn person_who_left_the_directory_loses_all_sessions() {
    let fixture = Fixture::new();
    let tokens = [(); 2].map(|()| fixture.ldap_login("mei", PASSWORD).unwrap());
    fixture.advance(541);
    fixture.ldap.asked();
    fixture.ldap.set(Ok(None));
    assert_eq!(fixture.confirm(), 1);
    assert_eq!(fixture.ldap.asked(), ["find subject-1"], "once for both sessions");
    assert!(tokens.iter().all(|tokens| !fixture.is_live(tokens)));
}

#[test]
fn wrong_passwords_of_a_directory_are_throttled_in_every_spelling() {
    let fixture = Fixture::new();
    for username in ["mei", "Mei", " MEI ", "ｍｅｉ", "mei"] {
        assert_eq!(cause(fixture.ldap_login(username, "wrong")), Cause::BadCredentials, "{username}");
        assert_eq!(fixture.last(), ("login".to_owned(), Some("dir:mei".to_owned()), Status::Failed));
    }
    fixture.ldap.asked();
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::TooManyLogins);
    assert!(fixture.ldap.asked().is_empty(), "nothing is sent to the directory");
    fixture.advance(31);
    fixture.ldap_login("mei", PASSWORD).unwrap();
}

#[test]
fn wrong_passwords_count_for_the_person_whatever_name_is_typed() {
    let fixture = Fixture::new();
    fixture.ldap_login("mei", PASSWORD).unwrap();
    // the directory finds her by other names too
    for n in 0..5 {
        let refused = fixture.ldap_login(&format!("mei@{n}.example.com"), "wrong");
        assert_eq!(cause(refused), Cause::BadCredentials);
    }
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::TooManyLogins);
    // a right password under another name is refused like a wrong one
    for password in [PASSWORD, "wrong"] {
        assert_eq!(cause(fixture.ldap_login("mei@corp.example.com", password)), Cause::BadCredentials);
    }
    fixture.advance(900);
    fixture.ldap_login("mei@corp.example.com", PASSWORD).unwrap();
}

#[test]
fn concurrent_guesses_at_a_directory_get_no_more_results_than_sequential_ones() {
    let fixture = Fixture::new();
    // all have passed the first check of the throttle before the directory answers one
    fixture.ldap.wait_for.store(60, Ordering::SeqCst);
    let guess = |n: usize| {
        let login = LdapLogin {
            provider: "dir".to_owned(),
            username: "mei".to_owned(),
            password: format!("guess {n}").into(),
            code: None,
            user_agent: None,
            origin: origin([10, 0, 0, 1]),
        };
        let federation = fixture.app.federation.clone();
        async move { cause(federation.ldap_login(login).await) }
    };
    let causes = block_on(join_all((0..60).map(guess)));
    assert_eq!(fixture.ldap.asked().len(), 60);
    assert_eq!(causes.iter().filter(|cause| **cause == Cause::BadCredentials).count(), 5, "{causes:?}");
    assert_eq!(causes.iter().filter(|cause| **cause == Cause::TooManyLogins).count(), 55, "{causes:?}");
}

#[test]
fn user_who_is_disabled_here_does_not_sign_in() {
    let fixture = Fixture::new();
    let tokens = [fixture.sign_in(), fixture.ldap_login("mei", PASSWORD).unwrap()];
    let root = Caller::command_line("root");
    for tokens in &tokens {
        let id = fixture.signed_in(tokens).unwrap().user.id;
        let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
        block_on(fixture.app.users.update(&root, id, patch)).unwrap();
    }
    assert!(tokens.iter().all(|tokens| !fixture.is_live(tokens)));
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::BadCredentials);
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::BadCredentials);
}

#[test]
fn backchannel_logout_ends_the_session_at_once_and_is_used_once() {
    let fixture = Fixture::new();
    let federation = &fixture.app.federation;
    let logout = |token: &str| block_on(federation.backchannel_logout("corp", token, &Origin::default()));
    let tokens = fixture.sign_in();
    assert_eq!(cause(logout("forged")), Cause::InvalidInput);
    logout("end sid-2").unwrap();
    assert!(fixture.is_live(&tokens), "another session");
    logout("end sid-1").unwrap();
    assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded);
    assert_eq!(cause(logout("end sid-1")), Cause::InvalidInput, "used before");
    let refused = block_on(federation.backchannel_logout("dir", "end sid-1", &Origin::default()));
    assert_eq!(cause(refused), Cause::NotFound);
}

#[test]
fn logout_token_is_not_used_up_when_the_sessions_do_not_end() {
    let fixture = Fixture::new();
    let federation = &fixture.app.federation;
    let logout = || block_on(federation.backchannel_logout("corp", "end sid-1", &Origin::default()));
    let tokens = fixture.sign_in();
    fixture.fake.store.fail_audit_writes(true);
    assert_eq!(cause(logout()), Cause::AuditUnavailable);
    assert!(fixture.is_live(&tokens));
    fixture.fake.store.fail_audit_writes(false);
    logout().unwrap();
    assert!(!fixture.is_live(&tokens));
}

#[test]
fn forged_logout_tokens_of_an_address_are_throttled() {
    let fixture = Fixture::new();
    let from = |ip: [u8; 4], token: &str| {
        let origin = Origin { source_ip: Some(ip.into()), request_id: None };
        block_on(fixture.app.federation.backchannel_logout("corp", token, &origin))
    };
    for _ in 0..100 {
        assert_eq!(cause(from([10, 0, 0, 9], "forged")), Cause::InvalidInput);
    }
    assert_eq!(cause(from([10, 0, 0, 9], "end sid-2")), Cause::TooManyLogins);
    from([10, 0, 0, 8], "end sid-2").unwrap();
}

#[test]
fn sign_out_leads_to_the_provider() {
    let fixture = Fixture::new();
    let logout = |tokens: &Tokens| {
        block_on(fixture.app.federation.logout(tokens.session_id.expose_secret(), Origin::default())).unwrap()
    };
    assert_eq!(logout(&fixture.sign_in()).as_deref(), Some("https://id.example.com/end"));
    assert_eq!(logout(&fixture.ldap_login("mei", PASSWORD).unwrap()), None);
}

#[test]
fn sign_out_waits_for_no_provider() {
    let fixture = Fixture::new();
    let tokens = [(); 2].map(|()| fixture.sign_in());
    fixture.oidc.hangs.store(true, Ordering::Relaxed);
    let [logout, abandoned] = tokens.each_ref().map(|tokens| {
        let cookie = tokens.session_id.expose_secret();
        Box::pin(fixture.app.federation.logout(cookie, Origin::default()))
    });
    assert_eq!(block_on(logout).unwrap(), None);
    assert!(!fixture.is_live(&tokens[0]));

    // a client that disconnects while the provider is asked
    fixture.oidc.asked();
    let is_asked = poll_fn(|context| {
        if fixture.oidc.asked().is_empty() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    });
    drop(block_on(select(abandoned, is_asked)));
    assert!(!fixture.is_live(&tokens[1]));
}

#[test]
fn name_that_somebody_chose_keeps_nobody_out() {
    let fixture = Fixture::new();
    let long = "m".repeat(200);
    let people = [
        ("1", "mei"),
        // with the digest of the next subject
        ("2", "mei-4e074085"),
        ("3", "mei"),
        ("4", &*long),
        ("5", &*long),
    ];
    let names: BTreeSet<_> = people
        .map(|(subject, name)| {
            fixture.oidc.set(Ok(Some(Person::new(subject, name, None, []).unwrap())));
            fixture.signed_in(&fixture.sign_in()).unwrap().user.username
        })
        .into();
    assert_eq!(names.len(), people.len(), "{names:?}");
}

#[test]
fn full_disk_allows_only_sign_ins_of_super_admins() {
    let fixture = Fixture::new();
    let tokens = [fixture.sign_in(), fixture.ldap_login("mei", PASSWORD).unwrap()];
    fixture.fake.store.fill(true);
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::AuditUnavailable);
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::AuditUnavailable);

    let root = Caller::command_line("root");
    for tokens in &tokens {
        let id = fixture.signed_in(tokens).unwrap().user.id;
        let patch = UserPatch { role: Some(Role::SuperAdmin), ..UserPatch::default() };
        block_on(fixture.app.users.update(&root, id, patch)).unwrap();
    }
    fixture.sign_in();
    fixture.ldap_login("mei", PASSWORD).unwrap();

    fixture.oidc.set(Ok(Some(Person::new("subject-2", "tom", None, []).unwrap())));
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::AuditUnavailable);
    let tom = block_on(fixture.app.users.find(&Username::stored("corp:tom").unwrap()));
    assert_eq!(cause(tom), Cause::NotFound, "nothing is stored");
}

#[test]
fn federated_user_has_no_password() {
    let fixture = Fixture::new();
    let signed_in = fixture.signed_in(&fixture.sign_in()).unwrap();
    let new = || NewPassword::new(&"another long password".into()).unwrap();
    let own = PasswordChange { old: PASSWORD.into(), new: new() };
    assert_eq!(cause(block_on(fixture.app.sessions.change_password(&signed_in, own))), Cause::FederatedUser);
    let root = Caller::command_line("root");
    let reset = block_on(fixture.app.users.reset_password(&root, signed_in.user.id, new()));
    assert_eq!(cause(reset), Cause::FederatedUser);
    let local = |username: &str, password: &str| Login {
        username: username.to_owned(),
        password: password.into(),
        code: None,
        user_agent: None,
        origin: Origin::default(),
    };
    for password in ["", PASSWORD] {
        let login = block_on(fixture.app.sessions.login(local("corp:mei", password)));
        assert_eq!(cause(login), Cause::BadCredentials);
    }
}

#[test]
fn command_line_finds_federated_users() {
    let fixture = Fixture::new();
    let user = fixture.signed_in(&fixture.sign_in()).unwrap().user;
    let find = |name: &str| block_on(fixture.app.users.find(&Username::stored(name).unwrap()));
    assert_eq!(find("corp:mei").unwrap().id, user.id);
    assert_eq!(find("admin").unwrap().username, Username::first_admin());
    for name in ["corp:nobody", "dir:mei", "mei"] {
        assert_eq!(cause(find(name)), Cause::NotFound, "{name}");
    }
}

#[test]
fn provider_is_bound_for_ever() {
    let fixture = Fixture::new();
    let rebound = Binding {
        provider: ProviderId::new("corp").unwrap(),
        kind: ProviderKind::Oidc,
        authority: "another".to_owned(),
    };
    assert_eq!(cause(block_on(fixture.app.federation.bind(&rebound))), Cause::ProviderRebound);
}

#[test]
fn trail_and_database_rows_contain_no_secret() {
    let fixture = Fixture::new();
    let started = fixture.start();
    let tokens = fixture.finish(&started).unwrap().tokens;
    fixture.advance(541);
    fixture.confirm();
    cause(fixture.ldap_login("mei", "canary-password"));
    let trail = format!("{:?} {:?}", fixture.fake.store.entries(), fixture.fake.store.all_operations());
    let secrets = [&started.browser, &tokens.session_id, &tokens.access_token];
    assert!(
        !trail.contains("canary") && secrets.iter().all(|secret| !trail.contains(secret.expose_secret()))
    );
    assert!(!format!("{started:?} {tokens:?}").contains(started.browser.expose_secret()));
    assert!(fixture.fake.runtime.clock.now() > "2026-01-01T00:00:00Z".parse().unwrap());
}

/// The second factor of a new session at `corp`, where the person proved the identity so many seconds ago.
fn factor_of_a_sign_in(fixture: &Fixture, seconds_ago: Option<i64>) -> Factor {
    let now = fixture.fake.runtime.clock.now();
    *fixture.oidc.authenticated_at.lock().unwrap() =
        seconds_ago.map(|seconds| now - SignedDuration::from_secs(seconds));
    fixture.signed_in(&fixture.sign_in()).unwrap().caller.factor
}

fn reveals(fixture: &Fixture, factor: Factor) -> Result<()> {
    let caller = Caller { factor, ..Caller::system() };
    let secret = AccessRequest::to(Verb::Reveal, Resource::Kind(Kind::Secret)).in_cluster(fixture.cluster);
    let access = secret.within(NamespaceScope::All);
    block_on(fixture.app.gate.allow(&caller, access)).map(drop)
}

#[test]
fn trusted_open_id_provider_gives_the_second_factor_as_old_as_its_authentication() {
    let fixture = Fixture::with_settings(true, true, AppSettings::default());
    let now = fixture.fake.runtime.clock.now();
    // time of the authentication, second factor of the session, whether a reveal accepts it
    let cases = [(Some(0), Some(0), true), (Some(600), Some(600), true), (Some(601), Some(601), false)];
    // the clock of the provider is ahead: a factor of the future would stay fresh for longer
    let cases = cases.into_iter().chain([(Some(-60), Some(0), true), (None, None, true)]);
    for (authenticated, given, is_enough) in cases {
        let factor = factor_of_a_sign_in(&fixture, authenticated);
        let at = given.map(|seconds| now - SignedDuration::from_secs(seconds));
        assert_eq!(factor, Factor { enrolled: false, required: false, at }, "{authenticated:?}");
        let revealed = reveals(&fixture, factor);
        assert_eq!(revealed.is_ok(), is_enough, "{authenticated:?}: {revealed:?}");
    }
}

#[test]
fn authentication_of_no_known_time_is_no_second_factor() {
    let second_factor =
        SecondFactorSettings { require: RequireSecondFactor::All, ..SecondFactorSettings::default() };
    let settings = AppSettings { second_factor, ..AppSettings::default() };
    let fixture = Fixture::with_settings(true, true, settings);
    let factor = factor_of_a_sign_in(&fixture, None);
    assert_eq!(cause(reveals(&fixture, factor)), Cause::SecondFactorNotEnrolled);
    let factor = factor_of_a_sign_in(&fixture, Some(0));
    reveals(&fixture, factor).unwrap();
}

#[test]
fn user_enrolled_here_verifies_first_after_a_sign_in_at_an_untrusted_open_id_provider() {
    let fixture = Fixture::new();
    let tokens = fixture.sign_in();
    let (app, signed_in) = (&fixture.app, fixture.signed_in(&tokens).unwrap());
    block_on(app.second_factors.enroll(&signed_in)).unwrap();
    let stored = block_on(SecondFactorStore::find(&*fixture.fake.store, signed_in.user.id));
    let seed = stored.unwrap().unwrap().seed;
    let code = || PlainTotp::code(&seed, fixture.fake.runtime.clock.now());
    block_on(app.second_factors.confirm(&signed_in, &code())).unwrap();

    fixture.advance(30);
    *fixture.oidc.authenticated_at.lock().unwrap() = Some(fixture.fake.runtime.clock.now());
    let tokens = fixture.sign_in();
    let lists = || {
        let pods = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(fixture.cluster);
        let caller = fixture.signed_in(&tokens)?.caller;
        block_on(app.gate.allow(&caller, pods.within(NamespaceScope::All))).map(drop)
    };
    assert_eq!(fixture.signed_in(&tokens).unwrap().caller.factor.at, None, "the provider is not trusted");
    assert_eq!(cause(lists()), Cause::SecondFactorStale);
    let signed_in = fixture.signed_in(&tokens).unwrap();
    block_on(app.second_factors.verify(&signed_in, &code())).unwrap();
    lists().unwrap();
}

#[test]
fn token_of_a_user_who_must_have_a_factor_counts_the_one_of_a_trusted_provider() {
    for (trusted, expected) in [(true, None), (false, Some(Cause::SecondFactorNotEnrolled))] {
        let second_factor =
            SecondFactorSettings { require: RequireSecondFactor::All, ..SecondFactorSettings::default() };
        let settings = AppSettings { second_factor, ..AppSettings::default() };
        let fixture = Fixture::with_settings(true, trusted, settings);
        let user = fixture.signed_in(&fixture.sign_in()).unwrap().user;
        // the session of an untrusted provider may only enrol, so that the server makes the token
        let new = NewToken {
            name: "CI".to_owned(),
            expires_in_days: None,
            ceiling: Ceiling::default(),
            networks: Networks::default(),
            owner: Some(Principal::User(user.id)),
        };
        let secret = block_on(fixture.app.tokens.create(&Caller::system(), new)).unwrap().secret;
        let secret = secret.secret().expose_secret().to_owned();
        let caller = block_on(fixture.app.tokens.authenticate(&secret, Origin::default())).unwrap().caller;
        let pods = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(fixture.cluster);
        let allowed = block_on(fixture.app.gate.allow(&caller, pods.within(NamespaceScope::All)));
        assert_eq!(allowed.err().map(|error| error.cause), expected);
    }
}
