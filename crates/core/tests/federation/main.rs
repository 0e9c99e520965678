//! Sign-in through identity providers, on the in-memory ports and scripted providers: admission of users, rights of
//! their groups, and the end of sessions and rights.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
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
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::{AccessRequest, Caller, Origin, Resource, Verb},
    app::{App, AppSettings},
    grant::{GrantRecord, GrantRegistry as _},
    ids::ClusterId,
    name::ProviderId,
    operation::Status,
    provider::{
        AuthorizationAnswer, AuthorizationRequest, Binding, Directory, LdapLogin, LogoutNotice, OidcFinish,
        OidcFinished, OidcRenewal, OidcSignIn, OidcStarted, OpenIdProvider, PasswordCheck, Person, Provider,
        ProviderKind, ProviderPort,
    },
    rights::{ClusterScope, Reach, RoleName, Subject},
    session::{Activity, SignedIn, Tokens},
    testing::{fake::Fake, new_cluster, permit},
    user::NewPassword,
};
use secrecy::{ExposeSecret, SecretString};

mod groups;
mod logout;
mod second_factor;
mod sign_in;
mod throttle;

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
