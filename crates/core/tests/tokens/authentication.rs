//! Authentication of requests with a token: refusals, caches, the record of uses, and the end of streams.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_executor::block_on;
use jiff::Timestamp;
use pilothouse_core::{
    Result,
    access::{AccessRequest, Caller, Origin, Permit, Resource, Verb},
    app::{App, AppSettings},
    clock::Clock as _,
    ids::{TokenId, UserId},
    kind::Kind,
    name::{Namespace, ProviderId},
    provider::{Admission, Binding, FederationStore as _, Person, ProviderKind},
    rights::Subject,
    role::Role,
    rows::ListQuery,
    second_factor::{RequireSecondFactor, SecondFactorSettings, SecondFactorStore},
    session::{Activity, Login, SecretHash},
    testing::{
        fake::{Fake, MemoryStore, PlainTotp},
        permit,
    },
    token::{ApiToken, FoundOwner, FoundToken, Networks, NewToken, TokenRecord, TokenStore},
    user::{NewPassword, UserPatch, Username},
};

use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{Fixture, Made, cause, everything, new_token, session_of};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A token store that counts look-ups by secret and records of uses.
struct CountingStore {
    store: Arc<MemoryStore>,
    lookups: AtomicUsize,
    touches: AtomicUsize,
}

#[async_trait]
impl TokenStore for CountingStore {
    async fn create(&self, permit: &Permit, token: TokenRecord) -> Result<ApiToken> {
        TokenStore::create(&*self.store, permit, token).await
    }

    async fn find(&self, secret: SecretHash) -> Result<Option<FoundToken>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        TokenStore::find(&*self.store, secret).await
    }

    async fn get(&self, id: TokenId) -> Result<Option<FoundToken>> {
        TokenStore::get(&*self.store, id).await
    }

    async fn list(&self, user: Option<UserId>) -> Result<Vec<(ApiToken, FoundOwner)>> {
        TokenStore::list(&*self.store, user).await
    }

    async fn rename(&self, permit: &Permit, id: TokenId, name: String) -> Result<ApiToken> {
        self.store.rename(permit, id, name).await
    }

    async fn revoke(&self, permit: &Permit, id: TokenId) -> Result<bool> {
        TokenStore::revoke(&*self.store, permit, id).await
    }

    async fn touch(&self, id: TokenId, at: Timestamp, ip: Option<IpAddr>) -> Result<()> {
        self.touches.fetch_add(1, Ordering::SeqCst);
        TokenStore::touch(&*self.store, id, at, ip).await
    }
}

/// A fixture whose token store counts.
fn counted() -> (Fixture, Arc<CountingStore>) {
    let fake = Fake::default();
    let (lookups, touches) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let store = Arc::new(CountingStore { store: fake.store.clone(), lookups, touches });
    let fixture = Fixture::new();
    let mut ports = fake.ports();
    ports.users.api_tokens = store.clone();
    let app = App::new(ports, AppSettings::default());
    (Fixture { fake, app, ..fixture }, store)
}

#[test]
fn token_authenticates_its_owner() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let token = fixture.token(&ann, everything());
    let signed_in = fixture.authenticate(&token.secret).unwrap();
    let caller = &signed_in.caller;
    assert_eq!((caller.user_id, &*caller.username, caller.role), (Some(ann.id), "ann", Some(Role::OpsAdmin)));
    assert_eq!((caller.token, caller.session, caller.service_account), (Some(token.id), None, None));
    assert_eq!((signed_in.token_row().id, &*signed_in.token_row().owner.name), (token.id, "ann"));
}

#[test]
fn text_that_is_no_token_causes_no_query() {
    let (fixture, store) = counted();
    let ann = fixture.user("ann", Role::Viewer);
    let token = fixture.token(&ann, everything());
    let last = token.secret.chars().last().unwrap();
    let other = if last == '0' { '1' } else { '0' };
    let wrong_checksum = format!("{}{other}", &token.secret[..39]);
    for bearer in ["", "php_", "php_x", &wrong_checksum, &token.secret.replacen("php_", "phs_", 1)] {
        assert_eq!(cause(fixture.authenticate(bearer)), "token_invalid", "{bearer}");
    }
    assert_eq!(store.lookups.load(Ordering::SeqCst), 0);
    fixture.authenticate(&token.secret).unwrap();
    assert_eq!(store.lookups.load(Ordering::SeqCst), 1);
}

#[test]
fn repeated_token_causes_one_query_whether_it_exists_or_not() {
    let (fixture, store) = counted();
    let ann = fixture.user("ann", Role::Viewer);
    let [good, revoked] = [(); 2].map(|()| fixture.token(&ann, everything()));
    block_on(fixture.app.tokens.revoke(&session_of(&ann), revoked.id)).unwrap();
    // the first use is recorded, which invalidates the cache
    fixture.authenticate(&good.secret).unwrap();
    store.lookups.store(0, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(cause(fixture.authenticate(&good.secret)), "ok");
        assert_eq!(cause(fixture.authenticate(&revoked.secret)), "token_invalid");
    }
    assert_eq!(store.lookups.load(Ordering::SeqCst), 2);
    fixture.advance(Duration::from_secs(1));
    fixture.authenticate(&good.secret).unwrap();
    assert_eq!(store.lookups.load(Ordering::SeqCst), 3);
}

#[test]
fn use_is_recorded_once_a_minute() {
    let (fixture, store) = counted();
    let ann = fixture.user("ann", Role::Viewer);
    let token = fixture.token(&ann, everything());
    let start = fixture.fake.runtime.clock.now();
    for second in 0..60 {
        fixture.authenticate_from(&token.secret, &format!("192.0.2.{second}")).unwrap();
        fixture.advance(Duration::from_secs(1));
    }
    assert_eq!(store.touches.load(Ordering::SeqCst), 1);
    let row = fixture.authenticate_from(&token.secret, "192.0.2.60").unwrap().token_row();
    assert_eq!(store.touches.load(Ordering::SeqCst), 2);
    let last_use = (row.last_used_at, row.last_used_ip);
    assert_eq!(last_use, (Some(start + Duration::from_secs(60)), "192.0.2.60".parse().ok()));
}

#[test]
fn expired_token_is_refused() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let for_a_day = NewToken { expires_in_days: Some(1), ..new_token(everything()) };
    let token = Made::of(fixture.create(&session_of(&ann), for_a_day).unwrap());
    fixture.advance(DAY - Duration::from_secs(1));
    assert_eq!(cause(fixture.authenticate(&token.secret)), "ok");
    fixture.advance(Duration::from_secs(1));
    assert_eq!(cause(fixture.authenticate(&token.secret)), "token_expired");
}

#[test]
fn token_is_accepted_only_from_its_networks() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let networks = Networks::parse(&["10.0.0.0/8"]).unwrap();
    let new = NewToken { networks, ..new_token(everything()) };
    let token = Made::of(fixture.create(&session_of(&ann), new).unwrap());
    assert_eq!(cause(fixture.authenticate_from(&token.secret, "10.1.2.3")), "ok");
    assert_eq!(cause(fixture.authenticate_from(&token.secret, "::ffff:10.1.2.3")), "ok");
    for ip in ["11.0.0.1", "2001:db8::1"] {
        assert_eq!(cause(fixture.authenticate_from(&token.secret, ip)), "token_network", "{ip}");
    }
    let listed = block_on(fixture.app.tokens.list(&session_of(&ann), &ListQuery::default())).unwrap().0;
    assert!(!listed[0].json().contains("11.0.0.1"), "a refused use is no use");
}

/// Ends a user's token.
type Change = fn(&Fixture, UserId, TokenId);

/// A change by this process holds at the next request, one by another process within a second.
#[test]
fn token_ends_at_every_replica_within_a_second() {
    let changes: [(&str, Change); 4] = [
        ("revoked", |fixture, ann, token| {
            let users = block_on(fixture.app.users.all(&Caller::system())).unwrap();
            let ann = users.into_iter().find(|user| user.id == ann).unwrap();
            block_on(fixture.app.tokens.revoke(&session_of(&ann), token)).unwrap();
        }),
        ("disabled", |fixture, ann, _| {
            let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
            block_on(fixture.app.users.update(&Caller::system(), ann, patch)).unwrap();
        }),
        ("deleted", |fixture, ann, _| {
            block_on(fixture.app.users.delete(&Caller::system(), ann)).unwrap();
        }),
        ("password reset", |fixture, ann, _| {
            let password = NewPassword::new(&"another long password".into()).unwrap();
            let system = Caller::system();
            block_on(fixture.app.users.reset_password(&system, ann, password)).unwrap();
        }),
    ];
    for (name, change) in changes {
        let fixture = Fixture::new();
        let replica = fixture.replica();
        let ann = fixture.user("ann", Role::Viewer);
        let token = fixture.token(&ann, everything());
        for replica in [&fixture, &replica] {
            assert_eq!(cause(replica.authenticate(&token.secret)), "ok", "{name}");
        }
        change(&fixture, ann.id, token.id);
        assert_eq!(cause(fixture.authenticate(&token.secret)), "token_invalid", "{name}");
        fixture.advance(Duration::from_millis(800));
        assert_eq!(cause(replica.authenticate(&token.secret)), "token_invalid", "{name}");
    }
}

/// The user may no longer exist at the provider, and the provider is not asked while the user has no session.
#[test]
fn token_of_a_federated_user_needs_a_confirmation_of_the_last_day() {
    let fixture = Fixture::new();
    let corp = ProviderId::new("corp").unwrap();
    let authority = "ldaps://ldap.example.com".to_owned();
    let binding = Binding { provider: corp.clone(), kind: ProviderKind::Ldap, authority };
    assert!(block_on(fixture.fake.store.bind(&binding)).unwrap());
    let sign_in = || {
        let admission = Admission {
            provider: corp.clone(),
            person: Person::new("1", "mei", None, Vec::new()).unwrap(),
            username: Username::federated(&corp, "mei"),
            other_username: Username::federated(&corp, "mei-1"),
            at: fixture.fake.runtime.clock.now(),
        };
        let permit = permit(&Caller::system(), AccessRequest::to(Verb::Create, Resource::User));
        block_on(fixture.fake.store.admit(&permit, admission)).unwrap()
    };
    let mei = sign_in();
    let bot = fixture.account("bot", mei.id);
    let tokens = [fixture.token(&mei, everything()), fixture.token_of(&bot)];
    let causes = || tokens.each_ref().map(|token| cause(fixture.authenticate(&token.secret)));
    fixture.advance(DAY - Duration::from_secs(1));
    assert_eq!(causes(), ["ok"; 2]);
    fixture.advance(Duration::from_secs(1));
    assert_eq!(causes(), ["token_invalid"; 2]);
    sign_in();
    fixture.advance(Duration::from_secs(1));
    assert_eq!(causes(), ["ok"; 2]);
}

/// A fixture whose settings require a second factor of admins.
fn requiring() -> Fixture {
    let fixture = Fixture::new();
    let require = RequireSecondFactor::Admins;
    let second_factor = SecondFactorSettings { require, ..SecondFactorSettings::default() };
    let settings = AppSettings { second_factor, ..AppSettings::default() };
    Fixture { app: App::new(fixture.fake.ports(), settings), ..fixture }
}

/// Sets up the second factor of a user.
fn enroll(fixture: &Fixture, username: &str) {
    let Fixture { fake, app, .. } = fixture;
    let login = Login {
        username: username.into(),
        password: "correct horse battery".into(),
        code: None,
        user_agent: None,
        origin: Origin::default(),
    };
    let (tokens, _) = block_on(app.sessions.login(login)).unwrap();
    let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
    let signed_in = app.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User);
    let signed_in = block_on(signed_in).unwrap();
    block_on(app.second_factors.enroll(&signed_in)).unwrap();
    let seed = block_on(SecondFactorStore::find(&*fake.store, signed_in.user.id)).unwrap().unwrap().seed;
    let code = PlainTotp::code(&seed, fake.runtime.clock.now());
    block_on(app.second_factors.confirm(&signed_in, &code)).unwrap();
}

/// A ceiling does not remove a requirement of the settings for the owner. Service accounts are not covered.
#[test]
fn token_of_a_user_who_must_have_a_factor_allows_nothing_before_the_enrolment() {
    let fixture = requiring();
    let (ann, ben) = (fixture.user("ann", Role::OpsAdmin), fixture.user("ben", Role::None));
    let (vic, bot) = (fixture.user("vic", Role::Viewer), fixture.account("bot", ann.id));
    for subject in [Subject::User(ben.id), Subject::ServiceAccount(bot.id)] {
        fixture.grant(subject, "admin", json!(["shop"]));
    }
    let viewer = || {
        let mut ceiling = everything();
        ceiling["role"] = json!("viewer");
        ceiling
    };
    let tokens = [&ann, &ben, &vic].map(|user| fixture.token(user, viewer()));
    let [of_ann, of_ben, of_vic] = &tokens;
    let of_bot = fixture.token_of(&bot);
    let reads = |token: &Made| {
        let caller = fixture.caller(token);
        let pods = AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).in_cluster(fixture.dev);
        let pods = pods.in_namespace(&Namespace::new("shop").unwrap());
        cause(block_on(fixture.app.gate.allow(&caller, pods)))
    };
    assert_eq!([of_ann, of_ben].map(reads), ["second_factor_not_enrolled"; 2]);
    assert_eq!([of_vic, &of_bot].map(reads), ["ok"; 2]);
    let caller = fixture.caller(of_ann);
    let in_all_clusters = [AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod))];
    let refused = block_on(fixture.app.gate.allow_in_all_clusters(&caller, &in_all_clusters));
    assert_eq!(cause(refused), "second_factor_not_enrolled");
    enroll(&fixture, "ann");
    assert_eq!([of_ann, of_ben].map(reads), ["ok", "second_factor_not_enrolled"]);
}

#[test]
fn stream_ends_with_its_token() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let token = fixture.token(&ann, everything());
    let caller = fixture.caller(&token);
    let logs = AccessRequest::to(Verb::Logs, Resource::Kind(Kind::Pod)).in_cluster(fixture.dev);
    let (_, revoked) = block_on(fixture.app.gate.follow(&caller, logs)).unwrap();
    block_on(fixture.app.tokens.revoke(&session_of(&ann), token.id)).unwrap();
    assert_eq!(block_on(revoked).cause.as_str(), "token_invalid");
}
