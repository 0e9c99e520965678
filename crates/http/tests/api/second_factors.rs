//! Second factor and break-glass, with a codec whose codes a test can compute.

use std::{sync::Arc, time::Duration};

use pilothouse_core::{
    access::StepUp,
    app::AppSettings,
    break_glass::BreakGlassSettings,
    clock::Clock as _,
    second_factor::{RequireSecondFactor, SecondFactorSettings, TotpSeed},
    testing::fake::{Fake, PlainTotp},
    user::Username,
};
use pilothouse_http::{HttpSettings, NoopObserver};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::test_app::{Credentials, PASSWORD, Ready, Reply, SignedIn, TestApp};

async fn app(settings: AppSettings) -> TestApp {
    let observer = Arc::new(NoopObserver);
    TestApp::with_app_settings(Fake::default(), settings, HttpSettings::default(), Ready::Yes, observer).await
}

/// The seed of a secret in base32.
fn seed(secret: &str) -> TotpSeed {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digit = |byte: u8| u64::try_from(ALPHABET.iter().position(|one| *one == byte).unwrap()).unwrap();
    let groups =
        secret.as_bytes().chunks(8).map(|group| group.iter().fold(0, |bits, byte| bits << 5 | digit(*byte)));
    let bytes: Vec<u8> = groups.flat_map(|bits| bits.to_be_bytes()[3..].to_vec()).collect();
    TotpSeed::new(bytes.try_into().unwrap())
}

/// The present code of a seed.
fn code(api: &TestApp, seed: &TotpSeed) -> String {
    PlainTotp::code(seed, api.fake.runtime.clock.now()).expose_secret().to_owned()
}

/// Sets up the second factor of a user. Returns the seed and the recovery codes.
pub(crate) async fn enroll(api: &TestApp, signed_in: &SignedIn) -> (TotpSeed, Vec<String>) {
    let data = api.post(signed_in, "/api/auth/totp/enroll", json!({})).await.data();
    let secret = data["secret"].as_str().unwrap();
    assert!(data["otpauth_uri"].as_str().unwrap().contains(secret));
    let seed = seed(secret);
    let body = json!({"code": code(api, &seed)});
    let codes = api.post(signed_in, "/api/auth/totp/confirm", body).await.data()["recovery_codes"].take();
    (seed, serde_json::from_value(codes).unwrap())
}

/// The session with a new access token, which does not renew the second factor.
pub(crate) async fn refreshed(api: &TestApp, signed_in: SignedIn) -> SignedIn {
    let body = json!({"refresh_token": signed_in.refresh});
    let data = api.post(&signed_in, "/api/auth/refresh", body).await.data();
    let text = |key: &str| data[key].as_str().unwrap().to_owned();
    let bearer = Some(text("access_token"));
    let credentials = Credentials { bearer, ..signed_in.credentials };
    SignedIn { credentials, refresh: text("refresh_token"), data: signed_in.data }
}

/// A login as `viewer`.
async fn login(api: &TestApp, code: Value) -> Reply {
    let body = json!({"username": "viewer", "password": PASSWORD, "code": code}).to_string();
    api.call(&Credentials::default(), "POST", "/api/auth/login", &body).await
}

#[actix_web::test]
async fn login_takes_a_code_once() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let (seed, recovery) = enroll(&api, &viewer).await;
    assert_eq!(recovery.len(), 10);
    let cause = async |code: Value| login(&api, code).await.error().2;
    assert_eq!(cause(Value::Null).await, "second_factor_required");
    assert_eq!(cause(json!(code(&api, &seed))).await, "bad_credentials", "used by the confirmation");
    api.advance(Duration::from_secs(30));
    let present = json!(code(&api, &seed));
    login(&api, present.clone()).await.data();
    assert_eq!(cause(present).await, "bad_credentials");
    login(&api, json!(recovery[3])).await.data();
    assert_eq!(cause(json!(recovery[3])).await, "bad_credentials");
    let again = api.post(&viewer, "/api/auth/totp/enroll", json!({})).await;
    assert_eq!(again.error(), (409, "CONFLICT_ERROR".into(), "already_enrolled".into()));
}

#[actix_web::test]
async fn reveal_wants_a_fresh_factor() {
    let api = TestApp::new().await;
    let ops = api.login("ops").await;
    let (seed, _) = enroll(&api, &ops).await;
    let body = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "pass"});
    let reveal =
        async |signed_in: &SignedIn| api.post(signed_in, "/api/k8s/secrets/reveal", body.clone()).await;
    reveal(&ops).await.data();
    api.advance(Duration::from_secs(9 * 60));
    let ops = refreshed(&api, ops).await;
    api.advance(Duration::from_secs(2 * 60));
    assert_eq!(
        reveal(&ops).await.error(),
        (401, "AUTHENTICATION_ERROR".into(), "second_factor_stale".into())
    );
    let wrong = api.post(&ops, "/api/auth/totp/verify", json!({"code": "1"})).await;
    assert_eq!(wrong.error().2, "bad_credentials");
    api.post(&ops, "/api/auth/totp/verify", json!({"code": code(&api, &seed)})).await.data();
    reveal(&ops).await.data();
}

#[actix_web::test]
async fn enrolment_wants_a_recent_login() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    api.advance(Duration::from_secs(11 * 60));
    let viewer = refreshed(&api, viewer).await;
    let reply = api.call(&viewer.credentials, "POST", "/api/auth/totp/enroll", "").await;
    assert_eq!(reply.error(), (401, "AUTHENTICATION_ERROR".into(), "login_stale".into()));
}

#[actix_web::test]
async fn who_must_have_a_factor_can_only_enroll() {
    let second_factor = SecondFactorSettings { require: RequireSecondFactor::All, ..Default::default() };
    let api = app(AppSettings { second_factor, ..AppSettings::default() }).await;
    let viewer = api.login("viewer").await;
    let clusters = async || api.get(&viewer, "/api/k8s/clusters", "").await;
    assert_eq!(
        clusters().await.error(),
        (403, "PERMISSION_DENIED".into(), "second_factor_not_enrolled".into())
    );
    let (seed, _) = enroll(&api, &viewer).await;
    clusters().await.data();
    api.advance(Duration::from_secs(30));
    let body = json!({"code": code(&api, &seed)});
    let reply = api.post(&viewer, "/api/auth/totp/disable", body).await;
    assert_eq!(reply.error().2, "not_allowed_by_settings");
}

#[actix_web::test]
async fn factor_is_removed_by_its_user_or_reset_by_a_super_admin() {
    let api = TestApp::new().await;
    let viewer = api.login("viewer").await;
    let (seed, _) = enroll(&api, &viewer).await;
    api.advance(Duration::from_secs(30));
    api.post(&viewer, "/api/auth/totp/disable", json!({"code": code(&api, &seed)})).await.data();
    login(&api, Value::Null).await.data();
    enroll(&api, &viewer).await;
    let admin = api.login("super").await;
    let body = json!({"id": api.user("viewer").await});
    api.post(&admin, "/api/auth/users/reset-second-factor", body).await.data();
    assert_eq!(api.get(&viewer, "/api/auth/me", "").await.error().2, "session_ended");
    login(&api, Value::Null).await.data();
}

/// Also without `step_up`.
#[actix_web::test]
async fn repeated_break_glass_wants_a_fresh_factor() {
    let break_glass = BreakGlassSettings {
        users: [Username::new("viewer").unwrap()].into(),
        networks: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let second_factor = SecondFactorSettings { step_up: StepUp::new([]), ..SecondFactorSettings::default() };
    let api = app(AppSettings { break_glass, second_factor, ..AppSettings::default() }).await;
    let viewer = api.login("viewer").await;
    enroll(&api, &viewer).await;
    let body = json!({"cluster_id": api.cluster, "reason": "the provider does not answer"}).to_string();
    let open =
        async |signed_in: &SignedIn| api.keyed(signed_in, &["key"], "/api/access/break-glass", &body).await;
    let first = open(&viewer).await;
    first.data();
    assert_eq!(open(&viewer).await.text, first.text);
    api.advance(Duration::from_secs(11 * 60));
    let viewer = refreshed(&api, viewer).await;
    assert_eq!(open(&viewer).await.error().2, "second_factor_stale");
}

#[actix_web::test]
async fn break_glass_gives_an_hour_and_is_reviewed_by_another_super_admin() {
    let break_glass = BreakGlassSettings {
        users: ["viewer", "super"].map(|name| Username::new(name).unwrap()).into(),
        networks: vec!["192.0.2.0/24".parse().unwrap()],
    };
    let api = app(AppSettings { break_glass, ..AppSettings::default() }).await;
    let path = "/api/access/break-glass";
    let viewer = api.login("viewer").await;
    let body = || json!({"cluster_id": api.cluster, "reason": "the provider does not answer"});
    let refused = api.post(&viewer, path, body()).await;
    assert_eq!(refused.error().2, "second_factor_not_enrolled");
    enroll(&api, &viewer).await;
    let used = api.post(&viewer, path, body()).await.data()["break_glass"].take();
    assert_eq!((&used["username"], &used["reviewed"]), (&json!("viewer"), &json!(false)));
    let deleted = json!({"cluster_id": api.cluster, "namespace": "shop", "name": "conf"});
    api.post(&viewer, "/api/k8s/configmaps/delete", deleted).await.data();
    api.post(&viewer, path, body()).await.data();
    assert_eq!(
        api.post(&viewer, path, body()).await.error(),
        (409, "CONFLICT_ERROR".into(), "too_many".into())
    );
    let ops = api.login("ops").await;
    assert_eq!(api.post(&ops, path, body()).await.error().2, "not_allowed_by_settings");

    let admin = api.login("super").await;
    let list = api.get(&admin, path, "reviewed=false").await.data();
    assert_eq!(list["break_glass"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&ops, path, "").await.data()["break_glass"], json!([]));
    let review = json!({"id": used["id"], "note": "as agreed with the team"});
    let review_path = "/api/access/break-glass/review";
    let reviewed = api.post(&admin, review_path, review.clone()).await.data()["break_glass"].take();
    assert_eq!((&reviewed["reviewed"], &reviewed["reviewed_by"]), (&json!(true), &json!("super")));
    assert_eq!(api.post(&admin, review_path, review).await.error().2, "request_decided");
    enroll(&api, &admin).await;
    let own = api.post(&admin, path, body()).await.data()["break_glass"]["id"].take();
    let review = json!({"id": own, "note": "as agreed with the team"});
    assert_eq!(api.post(&admin, review_path, review).await.error().2, "own_request");
}
