//! Rights of groups: what a provider confirms while a session lasts, and what ends without it.

use futures_executor::block_on;
use pilothouse_core::{Cause, access::Origin, name::ProviderId, operation::Status, session::Login};
use secrecy::ExposeSecret;

use crate::{Fixture, PASSWORD, cause, mei};

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
