//! Second factor of users of a provider.

use futures_executor::block_on;
use jiff::SignedDuration;
use pilothouse_core::{
    Cause, Result,
    access::{AccessRequest, Caller, Factor, Origin, Principal, Resource, Verb},
    app::AppSettings,
    clock::Clock as _,
    kind::Kind,
    namespaces::NamespaceScope,
    rights::Ceiling,
    second_factor::{RequireSecondFactor, SecondFactorSettings, SecondFactorStore},
    testing::fake::PlainTotp,
    token::{Networks, NewToken},
};
use secrecy::ExposeSecret;

use crate::{Fixture, cause};

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
