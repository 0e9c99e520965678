//! The part of identity in the test of secrecy (`crate::secrecy`): secrets in the settings and of a user, and a request to
//! each endpoint.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Browser, Client, PASSWORD, Totp, login_with};

/// Settings of providers that do not answer.
pub(crate) fn settings(client_secret: &str, bind_password: &str) -> String {
    format!(
        "[[oidc]]\nid = \"op\"\nlabel = \"Provider\"\nissuer = \"https://127.0.0.1:1/realms/ops\"\n\
         client_id = \"pilothouse\"\nclient_secret = \"{client_secret}\"\n\
         [[ldap]]\nid = \"dir\"\nlabel = \"Directory\"\nurl = \"ldaps://127.0.0.1:1\"\nbind_dn = \"cn=search\"\n\
         bind_password = \"{bind_password}\"\nuser_base = \"ou=people\"\ngroup_base = \"ou=groups\"\n"
    )
}

/// Secrets that exist while the test runs, and the objects to which they belong.
pub(crate) struct Planted {
    /// Names and secrets.
    pub(crate) secrets: Vec<(&'static str, Vec<u8>)>,
    user: i64,
    token: Value,
    service_account: Value,
}

/// Makes secrets of identity and uses them. The responses to `admin` and `anonymous` contain none; those to `unrecorded`,
/// which is `admin` too, may.
pub(crate) async fn plant(admin: &Client, anonymous: &Client, unrecorded: &Client) -> Planted {
    let user = admin.add_user("carol", "viewer").await;
    let mut signed_out = unrecorded.clone();
    signed_out.session = None;
    let carol = signed_out.sign_in("carol", PASSWORD).await;
    let (totp, recovery_codes) = Totp::enrol(&carol).await;
    let code = totp.code(0).await;
    signed_out.post("/api/auth/login", login_with("carol", PASSWORD, &code)).await.data();
    anonymous
        .post("/api/auth/login", login_with("carol", PASSWORD, &code))
        .await
        .refused("AUTHENTICATION_ERROR");
    anonymous.try_sign_in("carol", PASSWORD).await.refused("AUTHENTICATION_ERROR");

    let (token, secret) = unrecorded.create_token("planted", json!({})).await;
    let body = json!({"name": "robot", "description": "of the tests", "owner_user_id": user});
    let service_account =
        admin.post("/api/auth/service-accounts", body).await.data()["service_account"]["id"].take();
    let fields = json!({"service_account_id": service_account});
    let (_, service_secret) = unrecorded.create_token("of the robot", fields).await;
    for secret in [&secret, &service_secret] {
        anonymous.with_token(secret).get("/api/auth/me").await.data();
        anonymous.with_token(secret).post("/api/auth/tokens", json!({"name": "another"})).await;
        admin.with_token(secret).get("/api/auth/me").await.refused("AUTHENTICATION_ERROR");
    }
    let mut secrets = vec![
        ("a seed of one-time codes", totp.seed().to_vec()),
        ("a seed of one-time codes in base32", totp.secret().as_bytes().to_vec()),
        ("a token", secret.into_bytes()),
        ("a token of a service account", service_secret.into_bytes()),
    ];
    for code in recovery_codes {
        // the hash is of the code without its hyphens
        secrets.push(("a recovery code without hyphens", code.replace('-', "").into_bytes()));
        secrets.push(("a recovery code", code.into_bytes()));
    }
    Planted { secrets, user, token: token["id"].clone(), service_account }
}

/// Tries to sign in with a password through each provider, none of which answers.
pub(crate) async fn try_providers(anonymous: &Client, address: &str, certificate: &Path, password: &str) {
    let body = json!({"username": "mei", "password": password, "provider": "dir"});
    anonymous.post("/api/auth/login", body).await.refused("SERVICE_UNAVAILABLE");
    let mut browser = Browser::new(&[certificate.to_owned()]);
    let page = browser.open_once(&format!("{address}/api/auth/oidc/op/start")).await;
    assert_eq!(page.status, 503, "{}", page.text);
    let body = json!({"code": password, "state": password, "iss": null});
    let page = browser.post(&format!("{address}/api/auth/oidc/op/finish"), Some(&body)).await;
    assert!(page.status >= 400 && !page.text.contains(password), "{}", page.text);
}

/// Sends a request to each endpoint of identity with the clients whose responses are searched.
pub(crate) async fn send_all_requests(admin: &Client, anonymous: &Client, planted: &Planted) {
    for path in ["auth/providers", "auth/tokens", "auth/service-accounts", "access/break-glass"] {
        admin.get(format!("/api/{path}")).await.data();
    }
    for (path, body) in [
        ("auth/totp/enroll", json!({})),
        ("auth/totp/confirm", json!({"code": "000000"})),
        ("auth/totp/verify", json!({"code": "000000"})),
        ("auth/totp/disable", json!({"code": "000000"})),
    ] {
        anonymous.post(&format!("/api/{path}"), body).await.refused("AUTHENTICATION_ERROR");
    }
    let account = json!({"id": planted.service_account});
    let mut described = account.clone();
    described["description"] = json!("changed");
    for (path, body) in [
        ("auth/tokens", json!({"name": ""})),
        ("auth/tokens/update", json!({"id": planted.token, "name": "renamed"})),
        ("auth/tokens/revoke", json!({"id": planted.token})),
        ("auth/service-accounts/update", described),
        ("auth/service-accounts/delete", account),
        ("auth/users/reset-second-factor", json!({"id": planted.user})),
        ("access/break-glass", json!({"cluster_id": 1, "reason": "of the tests"})),
        ("access/break-glass/review", json!({"id": i64::MAX, "note": "of the tests"})),
    ] {
        admin.post(&format!("/api/{path}"), body).await;
    }
}
