//! Limits on refused sign-ins: audit rows of an address, guesses of passwords, forged logout tokens.

use std::sync::atomic::Ordering;

use futures_executor::block_on;
use futures_util::future::join_all;
use pilothouse_core::{Cause, access::Origin, operation::Status, provider::LdapLogin};

use crate::{Fixture, PASSWORD, cause, mei, origin};

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
