//! Tests of the adapter with an OpenID provider that sends false data, fails or hangs: none of its answers opens a
//! session, and none leads to an address that the egress rules refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod provider;

use std::{net::TcpListener, sync::Arc, time::Duration};

use pilothouse_core::{
    Cause, Error,
    clock::Clock as _,
    provider::{AuthorizationAnswer, AuthorizationRequest, OidcSignIn, OpenIdProvider as _},
    testing::fake::FakeRuntime,
};
use pilothouse_identity::{
    DnsResolver, EgressGuard, EgressRules, OidcProvider, OidcSettings, ResolverLimits, SystemResolver,
};
use provider::{Answer, Key, Provider, unsigned};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::runtime::Handle;

const NONCE: &str = "nonce-of-this-browser";

fn guard(rules: EgressRules) -> EgressGuard {
    let resolver = DnsResolver::new(Arc::new(SystemResolver), ResolverLimits::REGISTERED, Handle::current());
    EgressGuard { rules: Arc::new(rules), resolver: Arc::new(resolver) }
}

fn lenient() -> EgressRules {
    EgressRules { allow_loopback: true, ..EgressRules::default() }
}

struct Fixture {
    provider: Provider,
    runtime: FakeRuntime,
    adapter: OidcProvider,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}, lenient()).await
    }

    async fn with(change: impl FnOnce(&mut OidcSettings), rules: EgressRules) -> Self {
        let provider = Provider::start().await;
        let mut settings = OidcSettings {
            issuer: provider.issuer.clone(),
            client_id: "pilothouse".to_owned(),
            client_secret: "canary-client-secret".into(),
            scopes: vec!["openid".to_owned(), "profile".to_owned()],
            username_claim: "preferred_username".to_owned(),
            groups_claim: "groups".to_owned(),
            userinfo: false,
            redirect_uri: "https://ops.example.com/api/auth/oidc/corp/callback".to_owned(),
            post_logout_redirect_uri: "https://ops.example.com/".to_owned(),
            ca: None,
        };
        change(&mut settings);
        let runtime = FakeRuntime::default();
        let adapter = OidcProvider::new(settings, guard(rules), runtime.clock.clone()).unwrap();
        Self { provider, runtime, adapter }
    }

    fn now(&self) -> i64 {
        self.runtime.clock.now().as_second()
    }

    /// Claims of an ID token that is accepted.
    fn claims(&self) -> Value {
        json!({
            "iss": self.provider.issuer, "aud": "pilothouse", "sub": "1", "nonce": NONCE,
            "iat": self.now(), "exp": self.now() + 300, "auth_time": self.now() - 10, "sid": "s1",
            "preferred_username": "mei", "name": "Mei 梅", "groups": ["ops", "dev"],
        })
    }

    fn signed(&self, claims: &Value) -> String {
        self.provider.key.sign(&self.provider.key.header(), claims)
    }

    async fn redeem(&self) -> Result<OidcSignIn, Error> {
        self.adapter.redeem(&answer(None)).await
    }

    /// The cause of the refusal of this ID token, `None` if it is accepted.
    async fn refusal(&self, id_token: &str) -> Option<Cause> {
        self.provider.issue(Some(id_token));
        self.redeem().await.err().map(|error| error.cause)
    }
}

fn answer(issuer: Option<&str>) -> AuthorizationAnswer {
    AuthorizationAnswer {
        code: "canary-code".into(),
        issuer: issuer.map(str::to_owned),
        nonce: NONCE.to_owned(),
        verifier: "v".repeat(43).into(),
    }
}

/// A value with one member replaced; removed if the new one is null.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    object
}

#[tokio::test]
async fn honest_provider_signs_a_person_in() {
    let fixture = Fixture::new().await;
    fixture.provider.issue(Some(&fixture.signed(&fixture.claims())));
    let sign_in = fixture.redeem().await.unwrap();
    assert_eq!((sign_in.person.subject(), sign_in.person.name()), ("1", "mei"));
    assert_eq!(sign_in.person.groups().iter().collect::<Vec<_>>(), ["dev", "ops"]);
    assert_eq!(sign_in.authenticated_at.unwrap().as_second(), fixture.now() - 10);
    assert_eq!(
        (sign_in.sid.as_deref(), sign_in.refresh_token.unwrap().expose_secret()),
        (Some("s1"), "canary-refresh")
    );
    let requests = fixture.provider.requests();
    let token_request = requests.iter().find(|request| request.starts_with("POST /token")).unwrap();
    for part in ["grant_type=authorization_code", "code=canary-code", "code_verifier=vvv"] {
        assert!(token_request.contains(part), "{part}: {token_request}");
    }
}

#[tokio::test]
async fn browser_is_sent_with_state_nonce_and_pkce() {
    let fixture = Fixture::new().await;
    let request = AuthorizationRequest {
        state: "state-1".to_owned(),
        nonce: "nonce-1".to_owned(),
        verifier: "v".repeat(43).into(),
    };
    let url = fixture.adapter.authorization_url(&request).await.unwrap();
    assert!(url.starts_with(&format!("{}/authorize?", fixture.provider.issuer)), "{url}");
    for part in [
        "response_type=code",
        "client_id=pilothouse",
        "state=state-1",
        "nonce=nonce-1",
        "code_challenge_method=S256",
        "scope=openid+profile",
        "max_age=31536000",
        "redirect_uri=https%3A%2F%2Fops.example.com%2Fapi%2Fauth%2Foidc%2Fcorp%2Fcallback",
    ] {
        assert!(url.contains(part), "{part}: {url}");
    }
    assert!(!url.contains(&"v".repeat(43)), "the verifier stays here");
}

#[tokio::test]
async fn false_claims_are_rejected() {
    let fixture = Fixture::new().await;
    let (now, issuer) = (fixture.now(), fixture.provider.issuer.clone());
    let cases = [
        ("iss", json!(format!("{issuer}/"))),
        ("iss", json!("https://id.example.com")),
        ("iss", json!(null)),
        ("aud", json!("another")),
        ("aud", json!([])),
        ("aud", json!(["pilothouse", "another"])),
        ("azp", json!("another")),
        ("exp", json!(now - 61)),
        ("exp", json!(null)),
        ("iat", json!(now + 61)),
        ("iat", json!(null)),
        ("nbf", json!(now + 61)),
        ("nbf", json!("now")),
        ("nonce", json!("nonce-of-another-browser")),
        ("nonce", json!(null)),
        ("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!("s".repeat(256))),
    ];
    for (claim, value) in cases {
        let claims = with(fixture.claims(), claim, value.clone());
        let refusal = fixture.refusal(&fixture.signed(&claims)).await;
        assert_eq!(refusal, Some(Cause::SignInRejected), "{claim}: {value}");
    }
    let accepted = [
        ("exp", json!(now - 59)),
        ("iat", json!(now + 59)),
        ("nbf", json!(now + 59)),
        ("azp", json!("pilothouse")),
        ("aud", json!(["pilothouse"])),
    ];
    for (claim, value) in accepted {
        let claims = with(fixture.claims(), claim, value.clone());
        assert_eq!(fixture.refusal(&fixture.signed(&claims)).await, None, "{claim}: {value}");
    }
    let several = with(with(fixture.claims(), "aud", json!(["pilothouse", "b"])), "azp", json!("pilothouse"));
    assert_eq!(fixture.refusal(&fixture.signed(&several)).await, None);
}

#[tokio::test]
async fn incomplete_groups_are_an_error() {
    let fixture = Fixture::new().await;
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    for groups in
        [json!(null), json!({"a": 1}), json!([1]), json!(many), json!(["g".repeat(257)]), json!([""])]
    {
        let claims = with(fixture.claims(), "groups", groups.clone());
        let refusal = fixture.refusal(&fixture.signed(&claims)).await;
        assert_eq!(refusal, Some(Cause::GroupsMissing), "{groups}");
    }
    let elsewhere = with(fixture.claims(), "_claim_names", json!({"groups": "src1"}));
    assert_eq!(fixture.refusal(&fixture.signed(&elsewhere)).await, Some(Cause::GroupsMissing));
}

#[tokio::test]
async fn forged_tokens_are_rejected() {
    let fixture = Fixture::new().await;
    let (claims, key) = (fixture.claims(), &fixture.provider.key);
    let good = fixture.signed(&claims);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let header = |name: &str, value: Value| key.sign(&with(key.header(), name, value), &claims);
    let cases = [
        ("none", format!("{}.", unsigned(&json!({"alg": "none"}), &claims))),
        ("None", format!("{}.", unsigned(&json!({"alg": "None"}), &claims))),
        ("none with a signature", format!("{}.{signature}", unsigned(&json!({"alg": "none"}), &claims))),
        ("public key as secret", key.sign_with_public_key(&claims)),
        ("another algorithm", header("alg", json!("RS256"))),
        ("unknown algorithm", header("alg", json!("XX256"))),
        ("another key of the same id", Key::new("k1").sign(&key.header(), &claims)),
        ("logout token", header("typ", json!("logout+jwt"))),
        ("access token", header("typ", json!("at+jwt"))),
        ("critical extension", header("crit", json!(["x"]))),
        ("nested", header("cty", json!("JWT"))),
        ("no signature", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{good}.{signature}")),
        (
            "changed payload",
            format!("{}.{signature}", unsigned(&key.header(), &with(claims.clone(), "sub", json!("2")))),
        ),
        ("empty", String::new()),
    ];
    for (name, token) in cases {
        assert_eq!(fixture.refusal(&token).await, Some(Cause::SignInRejected), "{name}");
    }
    fixture.provider.issue(None);
    assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::SignInRejected, "no ID token");
    assert_eq!(fixture.refusal(&good).await, None);
}

#[tokio::test]
async fn rotated_key_is_read_once_a_minute() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.refusal(&fixture.signed(&fixture.claims())).await, None);
    let reads = || fixture.provider.requests().iter().filter(|request| request.contains("/keys")).count();
    let before = reads();
    let rotated = Key::new("k2");
    fixture.provider.answer("/keys", Answer::json(&json!({"keys": [rotated.jwk()]})));
    let token = rotated.sign(&rotated.header(), &fixture.claims());
    assert_eq!(fixture.refusal(&token).await, None);
    assert_eq!(reads(), before + 1);
    let unknown = Key::new("k3");
    for _ in 0..5 {
        let token = unknown.sign(&unknown.header(), &fixture.claims());
        assert_eq!(fixture.refusal(&token).await, Some(Cause::SignInRejected));
    }
    assert_eq!(reads(), before + 1, "unknown keys do not make requests");
}

#[tokio::test]
async fn answer_of_another_issuer_is_rejected() {
    let fixture = Fixture::new().await;
    fixture.provider.issue(Some(&fixture.signed(&fixture.claims())));
    let issuer = fixture.provider.issuer.clone();
    assert!(fixture.adapter.redeem(&answer(Some(&issuer))).await.is_ok());
    let mixed_up = fixture.adapter.redeem(&answer(Some("https://evil.example.com"))).await;
    assert_eq!(mixed_up.unwrap_err().cause, Cause::SignInRejected);

    let fixture = Fixture::new().await;
    let names_issuer = ("authorization_response_iss_parameter_supported", json!(true));
    let configuration = with(fixture.provider.configuration(), names_issuer.0, names_issuer.1);
    fixture.provider.answer("/.well-known/openid-configuration", Answer::json(&configuration));
    fixture.provider.issue(Some(&fixture.signed(&fixture.claims())));
    assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::SignInRejected, "it always names itself");
}

/// A false value of the configuration of the provider with this issuer.
type FalseValue = fn(&str) -> Value;

#[tokio::test]
async fn false_configurations_are_refused() {
    let issuer_of = |fixture: &Fixture| fixture.provider.issuer.clone();
    let cases: [(&str, FalseValue); 10] = [
        ("issuer", |issuer| json!(format!("{issuer}/"))),
        ("issuer", |_| json!(null)),
        ("token_endpoint", |_| json!(null)),
        ("token_endpoint", |_| json!("http://id.example.com/token")),
        ("authorization_endpoint", |_| json!("javascript:alert(1)")),
        ("authorization_endpoint", |_| json!("http://id.example.com/authorize")),
        ("end_session_endpoint", |_| json!("data:text/html,x")),
        ("jwks_uri", |_| json!("https://169.254.169.254/keys")),
        ("jwks_uri", |issuer| json!(issuer.replace("http://", "http://user:secret@"))),
        ("id_token_signing_alg_values_supported", |_| json!(["HS256", "none"])),
    ];
    for (member, value) in cases {
        let fixture = Fixture::new().await;
        let value = value(&issuer_of(&fixture));
        let configuration = with(fixture.provider.configuration(), member, value.clone());
        fixture.provider.answer("/.well-known/openid-configuration", Answer::json(&configuration));
        fixture.provider.issue(Some(&fixture.signed(&fixture.claims())));
        let error = fixture.redeem().await.unwrap_err();
        assert_eq!(error.cause, Cause::ProviderUnavailable, "{member}: {value}");
        assert!(!fixture.provider.requests().iter().any(|request| request.contains("/token")), "{member}");
    }
}

#[tokio::test]
async fn failing_providers_are_unavailable() {
    let html = || Answer::Http(200, "Content-Type: text/html\r\n".to_owned(), "<html>".to_owned());
    let moved = || Answer::Http(302, "Location: http://169.254.169.254/\r\n".to_owned(), String::new());
    for path in ["/.well-known/openid-configuration", "/keys"] {
        let cases = [
            ("redirect", moved()),
            ("HTML", html()),
            ("no JSON", Answer::Http(200, "Content-Type: application/json\r\n".to_owned(), "{".to_owned())),
            ("not found", Answer::Http(404, String::new(), String::new())),
            ("failure", Answer::error(500, "server_error")),
            ("too large", Answer::Endless),
            ("closed", Answer::Close),
        ];
        for (name, hostile) in cases {
            let fixture = Fixture::new().await;
            fixture.provider.answer(path, hostile);
            fixture.provider.issue(Some(&fixture.signed(&fixture.claims())));
            let error = fixture.redeem().await.unwrap_err();
            assert_eq!(error.cause, Cause::ProviderUnavailable, "{path}: {name}");
            assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::ProviderUnavailable);
            let asked = fixture.provider.requests();
            assert_eq!(
                asked.iter().filter(|request| request.contains("/.well-known/")).count(),
                1,
                "{name}: a pause"
            );
        }
    }
    let fixture = Fixture::new().await;
    let cases = [
        (Answer::error(400, "invalid_grant"), Cause::SignInRejected),
        (Answer::error(401, "invalid_client"), Cause::ProviderUnavailable),
        (Answer::error(500, "invalid_grant"), Cause::ProviderUnavailable),
        (moved(), Cause::ProviderUnavailable),
        (html(), Cause::ProviderUnavailable),
        (Answer::Endless, Cause::ProviderUnavailable),
        (Answer::Close, Cause::ProviderUnavailable),
    ];
    for (n, (hostile, expected)) in cases.into_iter().enumerate() {
        fixture.provider.answer("/token", hostile);
        assert_eq!(fixture.redeem().await.unwrap_err().cause, expected, "token endpoint, case {n}");
    }
}

#[tokio::test]
async fn hanging_provider_is_given_up() {
    let fixture = Fixture::new().await;
    fixture.provider.answer("/.well-known/openid-configuration", Answer::Hang);
    let given_up = tokio::time::timeout(Duration::from_secs(12), fixture.redeem()).await;
    assert_eq!(given_up.expect("within 10 s").unwrap_err().cause, Cause::ProviderUnavailable);
}

#[tokio::test]
async fn no_connection_leaves_the_egress_rules() {
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    own.set_nonblocking(true).unwrap();
    let address = own.local_addr().unwrap();
    let rules = EgressRules { own: vec![address.into()], ..lenient() };
    let fixture = Fixture::with(|_| {}, rules).await;
    let configuration =
        with(fixture.provider.configuration(), "token_endpoint", json!(format!("http://{address}/token")));
    fixture.provider.answer("/.well-known/openid-configuration", Answer::json(&configuration));
    assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::ProviderUnavailable);
    assert!(own.accept().is_err(), "our own socket");

    let strict = Fixture::with(|_| {}, EgressRules::default()).await;
    assert_eq!(strict.adapter.check().await.unwrap_err().cause, Cause::ProviderUnavailable);
    assert!(strict.provider.requests().is_empty(), "loopback needs a setting");
}

#[tokio::test]
async fn person_is_read_again_with_the_refresh_token() {
    let fixture = Fixture::new().await;
    let renew = async || fixture.adapter.renew("1", &"canary-refresh".into()).await;
    // no nonce is in the token of a refresh
    let claims = with(with(fixture.claims(), "nonce", json!(null)), "groups", json!(["ops"]));
    fixture.provider.issue(Some(&fixture.signed(&claims)));
    let renewal = renew().await.unwrap().unwrap();
    assert_eq!(renewal.person.groups().iter().collect::<Vec<_>>(), ["ops"]);

    let another = with(claims.clone(), "sub", json!("2"));
    fixture.provider.issue(Some(&fixture.signed(&another)));
    assert!(renew().await.unwrap().is_none(), "another person");
    for error in [
        "invalid_grant",
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "login_required",
    ] {
        for status in [400, 401] {
            fixture.provider.answer("/token", Answer::error(status, error));
            assert!(renew().await.unwrap().is_none(), "{status} {error}: the provider refuses the person");
        }
        fixture.provider.answer("/token", Answer::error(500, error));
        assert_eq!(renew().await.unwrap_err().cause, Cause::ProviderUnavailable, "500 {error}");
    }
    for error in [
        "invalid_client",
        "invalid_request",
        "invalid_scope",
        "server_error",
        "slow_down",
        "temporarily_unavailable",
        "unauthorized_client",
        "unsupported_grant_type",
        "unknown",
    ] {
        for status in [400, 401, 500] {
            fixture.provider.answer("/token", Answer::error(status, error));
            let refusal = renew().await.unwrap_err().cause;
            assert_eq!(refusal, Cause::ProviderUnavailable, "{status} {error} ends no session");
        }
    }
    fixture.provider.issue(Some(&fixture.signed(&with(claims, "groups", json!(null)))));
    assert_eq!(renew().await.unwrap_err().cause, Cause::GroupsMissing);
}

/// The adapter returns a time in the future unchanged; the caller replaces it by the current time.
#[tokio::test]
async fn time_of_the_authentication_is_that_of_the_id_token() {
    let fixture = Fixture::with(|settings| settings.userinfo = true, lenient()).await;
    let now = fixture.now();
    let userinfo = json!({"sub": "1", "groups": ["ops"], "auth_time": now});
    fixture.provider.answer("/userinfo", Answer::json(&userinfo));
    for auth_time in [Some(now - 10), Some(now + 3600), None] {
        let claims = with(fixture.claims(), "auth_time", json!(auth_time));
        fixture.provider.issue(Some(&fixture.signed(&claims)));
        let authenticated_at = fixture.redeem().await.unwrap().authenticated_at;
        assert_eq!(authenticated_at.map(jiff::Timestamp::as_second), auth_time);
    }
}

#[tokio::test]
async fn userinfo_is_of_the_same_person() {
    let fixture = Fixture::with(|settings| settings.userinfo = true, lenient()).await;
    fixture.provider.issue(Some(&fixture.signed(&with(fixture.claims(), "groups", json!(null)))));
    let userinfo = json!({"sub": "1", "groups": ["from-userinfo"], "preferred_username": "mei2"});
    fixture.provider.answer("/userinfo", Answer::json(&userinfo));
    let person = fixture.redeem().await.unwrap().person;
    assert_eq!((person.name(), person.groups().iter().next().unwrap().as_str()), ("mei2", "from-userinfo"));

    fixture.provider.answer("/userinfo", Answer::json(&with(userinfo, "sub", json!("2"))));
    assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::SignInRejected, "another person");
    fixture.provider.answer("/userinfo", Answer::error(500, "server_error"));
    assert_eq!(fixture.redeem().await.unwrap_err().cause, Cause::ProviderUnavailable);
}

#[tokio::test]
async fn logout_tokens_are_verified() {
    let fixture = Fixture::new().await;
    let key = &fixture.provider.key;
    let event = "http://schemas.openid.net/event/backchannel-logout";
    let claims = json!({
        "iss": fixture.provider.issuer, "aud": "pilothouse", "iat": fixture.now(), "exp": fixture.now() + 120,
        "jti": "j1", "sid": "s1", "events": {event: {}},
    });
    let header = with(key.header(), "typ", json!("logout+jwt"));
    let notice = fixture.adapter.verify_logout(&key.sign(&header, &claims)).await.unwrap();
    assert_eq!((notice.subject, notice.sid.as_deref(), &*notice.jti), (None, Some("s1"), "j1"));
    let unsigned = format!("{}.", unsigned(&json!({"alg": "none", "typ": "logout+jwt"}), &claims));
    let tokens = [
        ("an ID token", fixture.signed(&fixture.claims())),
        ("without its type", key.sign(&key.header(), &claims)),
        ("of another key", Key::new("k1").sign(&header, &claims)),
        ("of an unknown key", {
            let other = Key::new("k9");
            other.sign(&with(header.clone(), "kid", json!("k9")), &claims)
        }),
        ("with a nonce", key.sign(&header, &with(claims.clone(), "nonce", json!("n")))),
        ("old", key.sign(&header, &with(claims.clone(), "iat", json!(fixture.now() - 121)))),
        ("unsigned", unsigned),
        ("signed with the public key", key.sign_with_public_key(&claims)),
        ("large", "a".repeat(17 << 10)),
        ("empty", String::new()),
    ];
    for (name, token) in tokens {
        let refused = fixture.adapter.verify_logout(&token).await;
        assert_eq!(refused.unwrap_err().cause, Cause::SignInRejected, "{name}");
    }
}

#[tokio::test]
async fn sign_out_page_names_the_client() {
    let fixture = Fixture::new().await;
    let url = fixture.adapter.end_session_url().await.unwrap().unwrap();
    assert!(url.starts_with(&format!("{}/end?", fixture.provider.issuer)), "{url}");
    assert!(
        url.contains("client_id=pilothouse")
            && url.contains("post_logout_redirect_uri=https%3A%2F%2Fops.example.com%2F")
    );
    let fixture = Fixture::new().await;
    let configuration = with(fixture.provider.configuration(), "end_session_endpoint", json!(null));
    fixture.provider.answer("/.well-known/openid-configuration", Answer::json(&configuration));
    assert_eq!(fixture.adapter.end_session_url().await.unwrap(), None);
}

#[tokio::test]
async fn errors_contain_no_secret() {
    let fixture = Fixture::new().await;
    let echo = json!({"error": "invalid_client", "error_description": "canary-client-secret canary-code"});
    fixture.provider.answer(
        "/token",
        Answer::Http(401, "Content-Type: application/json\r\n".to_owned(), echo.to_string()),
    );
    let error = fixture.redeem().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}
