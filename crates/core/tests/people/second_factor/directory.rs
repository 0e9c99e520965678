//! Second factor of users of an LDAP directory.

use std::sync::Arc;

use futures_executor::block_on;
use pilothouse_core::{
    Cause, Error,
    access::{Caller, Origin},
    app::{App, AppSettings},
    clock::Clock as _,
    name::ProviderId,
    provider::{LdapLogin, MockDirectory, PasswordCheck, Person, Provider, ProviderPort},
    session::Tokens,
    testing::fake::Fake,
    user::UserPatch,
};
use secrecy::{ExposeSecret, SecretString};

use super::{STEP, wrong};
use crate::{Fixture, PASSWORD, cause};

const MAIL: &str = "mei.chen@example.com";

/// A fixture with the directory `corp`, which has the person `mei`, who is found by an address too.
fn fixture(trusts_second_factor: bool) -> Fixture {
    let mut directory = MockDirectory::new();
    directory.expect_sign_in().returning(|username, password| {
        let is_known = ["mei", MAIL].contains(&username);
        Ok(if is_known && password.expose_secret() == PASSWORD {
            PasswordCheck::Right(Person::new("uid=mei,ou=people", "mei", None, Vec::new()).unwrap())
        } else {
            PasswordCheck::Wrong { name: is_known.then(|| "mei".to_owned()) }
        })
    });
    let id = ProviderId::new("corp").unwrap();
    let port = ProviderPort::Ldap(Arc::new(directory));
    let provider = Provider { id: id.clone(), label: "Corp".to_owned(), trusts_second_factor, port };
    let fake = Fake { providers: [(id, provider)].into(), ..Fake::default() };
    Fixture { app: App::new(fake.ports(), AppSettings::default()), fake }
}

impl Fixture {
    fn ldap_login(&self, password: &str, code: Option<SecretString>) -> Result<Tokens, Error> {
        self.ldap_login_as("mei", password, code)
    }

    fn ldap_login_as(
        &self,
        username: &str,
        password: &str,
        code: Option<SecretString>,
    ) -> Result<Tokens, Error> {
        let login = LdapLogin {
            provider: "corp".to_owned(),
            username: username.to_owned(),
            password: password.into(),
            code,
            user_agent: None,
            origin: Origin { source_ip: Some([10, 0, 0, 1].into()), request_id: None },
        };
        block_on(self.app.federation.ldap_login(login)).map(|(tokens, _)| tokens)
    }
}

#[test]
fn enrolled_user_of_a_directory_signs_in_with_password_and_code() {
    let fixture = fixture(false);
    let tokens = fixture.ldap_login(PASSWORD, None).unwrap();
    let shown = fixture.enroll(&tokens).unwrap();
    assert!(shown.otpauth_url.expose_secret().contains("/Pilothouse:corp%3Amei?"));
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    fixture.confirm(&tokens, &fixture.code(&seed)).unwrap();
    fixture.advance(STEP);
    assert_eq!(cause(fixture.ldap_login(PASSWORD, None)), Cause::SecondFactorRequired);
    assert_eq!(cause(fixture.ldap_login("another password", None)), Cause::BadCredentials);
    let code = fixture.code(&seed);
    assert_eq!(cause(fixture.ldap_login(PASSWORD, Some(wrong(&code)))), Cause::BadCredentials);
    let tokens = fixture.ldap_login(PASSWORD, Some(code.clone())).unwrap();
    assert_eq!(fixture.now(&tokens).caller.factor.at, Some(fixture.fake.runtime.clock.now()));
    assert_eq!(cause(fixture.ldap_login(PASSWORD, Some(code.clone()))), Cause::BadCredentials, "used before");
    for _ in 0..4 {
        assert_eq!(cause(fixture.ldap_login(PASSWORD, Some(wrong(&code)))), Cause::BadCredentials);
    }
    assert_eq!(cause(fixture.ldap_login(PASSWORD, Some(code))), Cause::TooManyLogins);
}

#[test]
fn wrong_codes_count_for_the_person_whatever_name_is_typed() {
    let fixture = fixture(false);
    let tokens = fixture.ldap_login(PASSWORD, None).unwrap();
    fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    fixture.confirm(&tokens, &fixture.code(&seed)).unwrap();
    fixture.advance(STEP);
    let code = fixture.code(&seed);
    for name in ["mei", MAIL, "mei", MAIL, MAIL] {
        let refused = fixture.ldap_login_as(name, PASSWORD, Some(wrong(&code)));
        assert_eq!(cause(refused), Cause::BadCredentials, "{name}");
    }
    assert_eq!(cause(fixture.ldap_login_as(MAIL, PASSWORD, Some(code.clone()))), Cause::BadCredentials);
    assert_eq!(cause(fixture.ldap_login(PASSWORD, Some(code))), Cause::TooManyLogins);
}

#[test]
fn trusted_directory_gives_the_second_factor() {
    let fixture = fixture(true);
    let tokens = fixture.ldap_login(PASSWORD, None).unwrap();
    let factor = fixture.now(&tokens).caller.factor;
    assert!(!factor.enrolled && factor.at == Some(fixture.fake.runtime.clock.now()));
    fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(fixture.now(&tokens).user.id);
    fixture.confirm(&tokens, &fixture.code(&seed)).unwrap();
    fixture.ldap_login(PASSWORD, None).unwrap();
}

#[test]
fn disabled_user_of_a_directory_is_not_asked_for_a_code() {
    let fixture = fixture(false);
    let tokens = fixture.ldap_login(PASSWORD, None).unwrap();
    let user = fixture.now(&tokens).user.id;
    fixture.enroll(&tokens).unwrap();
    let seed = fixture.seed(user);
    fixture.confirm(&tokens, &fixture.code(&seed)).unwrap();
    let disabled = UserPatch { disabled: Some(true), ..UserPatch::default() };
    block_on(fixture.app.users.update(&Caller::command_line("root"), user, disabled)).unwrap();
    assert_eq!(cause(fixture.ldap_login(PASSWORD, None)), Cause::BadCredentials);
}
