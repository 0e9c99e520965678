//! Browser sessions: tabs share a cookie with the refresh token, at two replicas on one database.

use std::{collections::BTreeSet, thread, time::Duration};

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::Origin,
    app::{App, AppSettings},
    clock::Clock as _,
    session::{Activity, SignedIn, Tokens},
};
use secrecy::{ExposeSecret, SecretString};

use crate::{Fixture, PASSWORD, cause};

/// A refresh of a browser with the cookies of these tokens.
fn refresh(app: &App, tokens: &Tokens, activity: Activity) -> Result<Tokens, Error> {
    let Tokens { refresh_token, session_id, .. } = tokens;
    block_on(app.sessions.refresh_browser(refresh_token, session_id, Origin::default(), activity))
}

fn signed_in(app: &App, tokens: &Tokens) -> Result<SignedIn, Error> {
    let (bearer, cookie) = (tokens.access_token.expose_secret(), tokens.session_id.expose_secret());
    block_on(app.sessions.authenticate(bearer, cookie, Origin::default(), Activity::User))
}

fn pair(tokens: &Tokens) -> [String; 3] {
    [&tokens.access_token, &tokens.refresh_token, &tokens.session_id]
        .map(|secret| secret.expose_secret().to_owned())
}

/// A fixture and a second replica on its database.
fn replicas() -> (Fixture, App) {
    let here = Fixture::new();
    let there = App::new(here.fake.ports(), AppSettings::default());
    (here, there)
}

#[test]
fn two_tabs_get_the_same_pair_at_any_replica() {
    let (here, there) = replicas();
    let clock = &here.fake.runtime.clock;
    let mut newest = here.login("admin", PASSWORD).unwrap();
    for _ in 0..5 {
        // both replicas have the session in their caches
        signed_in(&here.app, &newest).unwrap();
        signed_in(&there, &newest).unwrap();
        let one = refresh(&here.app, &newest, Activity::User).unwrap();
        clock.advance(Duration::from_millis(100));
        let two = refresh(&there, &newest, Activity::User).unwrap();
        assert_eq!(pair(&one), pair(&two));
        assert_ne!(pair(&one), pair(&newest));
        for tokens in [&one, &two] {
            assert!(signed_in(&here.app, tokens).is_ok() && signed_in(&there, tokens).is_ok());
        }
        assert_eq!(cause(signed_in(&there, &newest)), Cause::TokenExpired, "the old pair is invalid");
        newest = two;
        clock.advance(Duration::from_secs(11));
    }
}

#[test]
fn pair_is_given_again_for_ten_seconds() {
    let (here, there) = replicas();
    let clock = &here.fake.runtime.clock;
    let first = here.login("admin", PASSWORD).unwrap();
    let second = refresh(&here.app, &first, Activity::User).unwrap();
    assert_eq!(second.expires_in, Duration::from_secs(600));
    clock.advance(Duration::from_secs(10));
    // also with the new token: a refresh of a tab whose access token is invalid keeps the access token of the other tab
    // valid
    for presented in [&first, &second] {
        let again = refresh(&there, presented, Activity::User).unwrap();
        assert_eq!(pair(&again), pair(&second));
        assert_eq!(again.expires_in, Duration::from_secs(590), "of the same access token");
    }
    clock.advance(Duration::from_millis(1));
    let third = refresh(&there, &second, Activity::User).unwrap();
    assert_ne!(pair(&third), pair(&second));
    assert_eq!(
        here.fake.store.all_operations().iter().filter(|row| row.operation_type == "refresh").count(),
        2
    );
}

#[test]
fn many_tabs_share_one_rotation() {
    let (here, there) = replicas();
    let first = here.login("admin", PASSWORD).unwrap();
    let first = &first;
    let pairs: BTreeSet<_> = thread::scope(|scope| {
        let apps = [&here.app, &there].into_iter().cycle().take(32);
        let tabs: Vec<_> = apps
            .map(|app| scope.spawn(move || pair(&refresh(app, first, Activity::User).unwrap())))
            .collect();
        tabs.into_iter().map(|tab| tab.join().unwrap()).collect()
    });
    assert_eq!(pairs.len(), 1, "{} pairs", pairs.len());
}

#[test]
fn token_used_again_after_ten_seconds_ends_the_session() {
    let (here, there) = replicas();
    let first = here.login("admin", PASSWORD).unwrap();
    let second = refresh(&here.app, &first, Activity::User).unwrap();
    here.fake.runtime.clock.advance(Duration::from_secs(11));
    assert_eq!(cause(refresh(&there, &first, Activity::User)), Cause::SessionEnded);
    assert_eq!(cause(signed_in(&there, &second)), Cause::SessionEnded);
    assert_eq!(cause(refresh(&there, &second, Activity::User)), Cause::SessionEnded);
}

#[test]
fn cookie_gives_no_pair_that_was_issued_in_a_body() {
    let fixture = Fixture::new();
    let first = fixture.login("admin", PASSWORD).unwrap();
    let second = fixture.refresh(&first).unwrap();
    assert_eq!(cause(refresh(&fixture.app, &first, Activity::User)), Cause::RefreshRejected);
    assert!(fixture.signed_in(&second).is_ok());
    // its holder may continue either way
    assert_eq!(pair(&refresh(&fixture.app, &second, Activity::User).unwrap()), pair(&second));
    assert!(fixture.refresh(&second).is_ok());
}

#[test]
fn refresh_cookie_of_another_session_is_refused() {
    let fixture = Fixture::new();
    let [one, other] = [(); 2].map(|()| fixture.login("admin", PASSWORD).unwrap());
    let mixed = Tokens { session_id: other.session_id.clone(), ..one.clone() };
    assert_eq!(cause(refresh(&fixture.app, &mixed, Activity::User)), Cause::RefreshRejected);
    let derived = refresh(&fixture.app, &one, Activity::User).unwrap();
    let mixed = Tokens { session_id: other.session_id.clone(), ..derived };
    assert_eq!(cause(refresh(&fixture.app, &mixed, Activity::User)), Cause::RefreshRejected);
    let guessed = Tokens { refresh_token: SecretString::from("0".repeat(64)), ..other.clone() };
    assert_eq!(cause(refresh(&fixture.app, &guessed, Activity::User)), Cause::RefreshRejected);
    assert!(fixture.signed_in(&other).is_ok(), "the other session continues");
}

#[test]
fn background_refreshes_do_not_keep_a_browser_session_alive() {
    let fixture = Fixture::new();
    let clock = &fixture.fake.runtime.clock;
    let mut tokens = fixture.login("admin", PASSWORD).unwrap();
    let ends_at = clock.now() + Duration::from_secs(30 * 60);
    while clock.now() + Duration::from_secs(300) < ends_at {
        clock.advance(Duration::from_secs(300));
        tokens = refresh(&fixture.app, &tokens, Activity::Background).unwrap();
    }
    clock.advance(Duration::from_secs(300));
    assert_eq!(cause(refresh(&fixture.app, &tokens, Activity::Background)), Cause::SessionEnded);
}
