//! Security advisories of comparable products, reproduced on the in-memory ports. docs/advisories.md has the whole
//! list.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::IpAddr, time::Duration};

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::{Caller, Origin},
    app::{App, AppSettings},
    kubeconfig::Kubeconfig,
    role::Role,
    session::Login,
    testing::fake::Fake,
    user::{NewPassword, NewUser, Username},
};
use serde_json::json;

const PASSWORD: &str = "correct horse battery";

fn test_app() -> (Fake, App) {
    let fake = Fake::default();
    let app = App::new(fake.ports(), AppSettings::default());
    let first = NewPassword::new(&PASSWORD.into()).unwrap();
    assert!(block_on(app.users.bootstrap(Some(first))).unwrap());
    (fake, app)
}

fn login(app: &App, username: &str, password: &str, address: [u8; 4]) -> Error {
    let origin = Origin { source_ip: Some(IpAddr::from(address)), request_id: None };
    let (username, password) = (username.into(), password.into());
    let login = Login { username, password, code: None, user_agent: None, origin };
    block_on(app.sessions.login(login)).map(drop).expect_err("an error")
}

/// Kubernetes Dashboard: without a login it used its own service account. kube-rs treats a context without a user as
/// anonymous.
#[test]
fn cve_2018_18264_context_without_a_credential_is_refused() {
    let config = |user: serde_json::Value, context: serde_json::Value| {
        json!({"current-context": "c", "contexts": [{"name": "c", "context": context}],
            "clusters": [{"name": "k", "cluster": {"server": "https://k"}}], "users": [{"name": "u", "user": user}]})
        .to_string()
    };
    let context = |user: &str| json!({"cluster": "k", "user": user});
    assert!(Kubeconfig::connection(&config(json!({"token": "t"}), context("u")), None, None).is_ok());
    for text in [
        config(json!({"token": "t"}), json!({"cluster": "k"})),
        config(json!({"token": "t"}), context("")),
        config(json!({"token": "t"}), context("nobody")),
        config(json!({}), context("u")),
        config(json!(null), context("u")),
        config(json!({"token": ""}), context("u")),
        config(json!({"token": null}), context("u")),
    ] {
        assert_eq!(
            Kubeconfig::connection(&text, None, None).unwrap_err().cause,
            Cause::InvalidInput,
            "{text}"
        );
    }
}

/// Rancher: every start created the default admin again. Pilothouse creates it only while there is no user, and never
/// again.
#[test]
fn cve_2019_11202_deleted_first_admin_is_not_recreated() {
    let (_fake, app) = test_app();
    let root = Caller::command_line("root");
    let password = NewPassword::new(&PASSWORD.into()).unwrap();
    let username = Username::new("second").unwrap();
    let user = NewUser { username, password, role: Role::SuperAdmin, display_name: None };
    block_on(app.users.create(&root, user)).unwrap();
    let first = block_on(app.users.find(&Username::first_admin())).unwrap();
    block_on(app.users.delete(&root, first.id)).unwrap();
    for password in [None, Some(NewPassword::new(&PASSWORD.into()).unwrap())] {
        assert!(!block_on(app.users.bootstrap(password)).unwrap(), "a later start creates no admin");
    }
    assert_eq!(login(&app, "admin", PASSWORD, [10, 0, 0, 1]).cause, Cause::BadCredentials);
}

/// Argo CD, Vault: no throttle, or a throttle that could be bypassed by many usernames, a restart or another spelling.
#[test]
fn cve_2020_8827_password_guessing_is_always_throttled() {
    let (fake, app) = test_app();
    for (n, spelling) in ["admin", "ADMIN", " Admin ", "ａｄｍｉｎ", "Admin"].into_iter().enumerate() {
        // from five addresses, with other usernames in between
        let address = [10, 0, 0, n as u8];
        assert_eq!(login(&app, spelling, "wrong password", address).cause, Cause::BadCredentials);
        for other in 0..50 {
            login(&app, &format!("user-{n}-{other}"), "wrong password", [10, 1, n as u8, other]);
        }
    }
    // another process over the same database
    let restarted = App::new(fake.ports(), AppSettings::default());
    assert_eq!(login(&restarted, "admin", PASSWORD, [10, 9, 9, 9]).cause, Cause::TooManyLogins);
    // an address that tries one username after another
    for n in 0..100 {
        login(&restarted, &format!("sprayed-{n}"), "wrong password", [10, 8, 8, 8]);
    }
    assert_eq!(login(&restarted, "never-tried", "x", [10, 8, 8, 8]).cause, Cause::TooManyLogins);
    assert_eq!(login(&restarted, "never-tried", "x", [10, 8, 8, 9]).cause, Cause::BadCredentials);
}

/// Argo CD, Vault, OpenBao: the response distinguished an unknown user from a wrong password.
/// `people/login_throttle.rs` checks that both cost the same.
#[test]
fn cve_2020_11576_usernames_cannot_be_enumerated() {
    let (fake, app) = test_app();
    let refusals = [("admin", "wrong password"), ("nobody", PASSWORD), ("", ""), ("no name at all", "x")]
        .map(|(name, password)| login(&app, name, password, [10, 0, 0, 1]));
    assert!(refusals.iter().all(|error| *error == Error::new(Cause::BadCredentials)), "{refusals:?}");
    // the throttle does not distinguish them either: an account that does not exist also has a counter
    let pauses = ["admin", "ghost"].map(|name| {
        let mut refusal = login(&app, name, "wrong password", [10, 0, 0, 2]);
        while refusal.cause == Cause::BadCredentials {
            refusal = login(&app, name, "wrong password", [10, 0, 0, 2]);
        }
        refusal.context.retry_after
    });
    assert_eq!(pauses[0], pauses[1]);
    fake.runtime.clock.advance(Duration::from_secs(1));
}

/// Kubernetes, Argo CD: a small YAML text with nested aliases expands to gigabytes. Also tests large texts and deep
/// nesting.
#[test]
fn cve_2019_11253_exploding_kubeconfig_is_refused() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(",")));
    }
    let deep = format!("users: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!("users: [{}]", "x,".repeat(200_000));
    for text in [bomb, deep, large, "users: &a [*a]".to_owned()] {
        let error = Kubeconfig::connection(&text, None, None).unwrap_err();
        assert_eq!(error.cause, Cause::InvalidInput, "{}", &text[..40.min(text.len())]);
    }
}
