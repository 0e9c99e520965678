//! Admission of users: who signs in, once, under which name, and what is recorded.

use std::collections::BTreeSet;

use futures_executor::block_on;
use pilothouse_core::{
    Cause,
    access::{Caller, Origin},
    clock::Clock as _,
    name::ProviderId,
    operation::Status,
    provider::{Binding, Person, ProviderKind},
    role::Role,
    session::{Login, PasswordChange},
    user::{NewPassword, UserPatch, Username},
};
use secrecy::ExposeSecret;

use crate::{Fixture, PASSWORD, cause, mei};

#[test]
fn ways_to_sign_in_are_local_users_and_providers() {
    let rows = Fixture::new().app.federation.list();
    let rows: Vec<_> = rows.iter().map(|row| (&*row.id, row.kind, row.start_url.as_deref())).collect();
    assert_eq!(
        rows,
        [
            ("local", "local", None),
            ("corp", "oidc", Some("/api/auth/oidc/corp/start")),
            ("dir", "ldap", None)
        ]
    );
}

#[test]
fn person_becomes_a_user_without_a_role() {
    let fixture = Fixture::new();
    let finished = fixture.finish(&fixture.start()).unwrap();
    assert_eq!(finished.to, "/clusters");
    let user = fixture.signed_in(&finished.tokens).unwrap().user;
    assert_eq!((user.username.as_str(), user.role, &*user.display_name), ("corp:mei", Role::None, "Mei"));
    assert_eq!(fixture.last(), ("login".to_owned(), Some("corp:mei".to_owned()), Status::Success));
    assert_eq!(fixture.signed_in(&fixture.sign_in()).unwrap().user.id, user.id, "the same person again");
    let from_directory = fixture.ldap_login("mei", PASSWORD).unwrap();
    let other = fixture.signed_in(&from_directory).unwrap().user;
    assert_eq!(other.username.as_str(), "dir:mei");
    assert_ne!(other.id, user.id, "the same subject of another provider");
}

#[test]
fn sign_in_ends_once_in_its_browser_within_ten_minutes() {
    let fixture = Fixture::new();
    let (started, other) = (fixture.start(), fixture.start());
    let state = started.location.split(['=', '&']).nth(1).unwrap().to_owned();
    assert_eq!(cause(fixture.finish_with(&state, other.browser.clone())), Cause::SignInExpired);
    assert_eq!(cause(fixture.finish_with("forged", started.browser.clone())), Cause::SignInExpired);
    fixture.finish(&started).unwrap();
    assert_eq!(cause(fixture.finish(&started)), Cause::SignInExpired, "a second time");
    fixture.advance(600);
    assert_eq!(cause(fixture.finish(&other)), Cause::SignInExpired, "after ten minutes");
    let redeemed = fixture.oidc.asked().iter().filter(|asked| asked.starts_with("redeem")).count();
    assert_eq!(redeemed, 1, "nothing is sent to the provider without a state");
}

#[test]
fn refused_answer_is_recorded_and_opens_no_session() {
    let fixture = Fixture::new();
    for refusal in [Cause::SignInRejected, Cause::GroupsMissing, Cause::ProviderUnavailable] {
        let started = fixture.start();
        fixture.oidc.set(Err(refusal));
        assert_eq!(cause(fixture.finish(&started)), refusal);
        assert_eq!(fixture.last(), ("login".to_owned(), Some("corp:-".to_owned()), Status::Failed));
        fixture.oidc.set(Ok(Some(mei(&["ops"]))));
        assert_eq!(cause(fixture.finish(&started)), Cause::SignInExpired, "the state is used up");
    }
    let unknown = block_on(fixture.app.federation.oidc_start("dir", None, &Origin::default()));
    assert_eq!(cause(unknown), Cause::NotFound, "of another kind");
}

#[test]
fn user_who_is_disabled_here_does_not_sign_in() {
    let fixture = Fixture::new();
    let tokens = [fixture.sign_in(), fixture.ldap_login("mei", PASSWORD).unwrap()];
    let root = Caller::command_line("root");
    for tokens in &tokens {
        let id = fixture.signed_in(tokens).unwrap().user.id;
        let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
        block_on(fixture.app.users.update(&root, id, patch)).unwrap();
    }
    assert!(tokens.iter().all(|tokens| !fixture.is_live(tokens)));
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::BadCredentials);
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::BadCredentials);
}

#[test]
fn name_that_somebody_chose_keeps_nobody_out() {
    let fixture = Fixture::new();
    let long = "m".repeat(200);
    let people = [
        ("1", "mei"),
        // with the digest of the next subject
        ("2", "mei-4e074085"),
        ("3", "mei"),
        ("4", &*long),
        ("5", &*long),
    ];
    let names: BTreeSet<_> = people
        .map(|(subject, name)| {
            fixture.oidc.set(Ok(Some(Person::new(subject, name, None, []).unwrap())));
            fixture.signed_in(&fixture.sign_in()).unwrap().user.username
        })
        .into();
    assert_eq!(names.len(), people.len(), "{names:?}");
}

#[test]
fn full_disk_allows_only_sign_ins_of_super_admins() {
    let fixture = Fixture::new();
    let tokens = [fixture.sign_in(), fixture.ldap_login("mei", PASSWORD).unwrap()];
    fixture.fake.store.fill(true);
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::AuditUnavailable);
    assert_eq!(cause(fixture.ldap_login("mei", PASSWORD)), Cause::AuditUnavailable);

    let root = Caller::command_line("root");
    for tokens in &tokens {
        let id = fixture.signed_in(tokens).unwrap().user.id;
        let patch = UserPatch { role: Some(Role::SuperAdmin), ..UserPatch::default() };
        block_on(fixture.app.users.update(&root, id, patch)).unwrap();
    }
    fixture.sign_in();
    fixture.ldap_login("mei", PASSWORD).unwrap();

    fixture.oidc.set(Ok(Some(Person::new("subject-2", "tom", None, []).unwrap())));
    assert_eq!(cause(fixture.finish(&fixture.start())), Cause::AuditUnavailable);
    let tom = block_on(fixture.app.users.find(&Username::stored("corp:tom").unwrap()));
    assert_eq!(cause(tom), Cause::NotFound, "nothing is stored");
}

#[test]
fn federated_user_has_no_password() {
    let fixture = Fixture::new();
    let signed_in = fixture.signed_in(&fixture.sign_in()).unwrap();
    let new = || NewPassword::new(&"another long password".into()).unwrap();
    let own = PasswordChange { old: PASSWORD.into(), new: new() };
    assert_eq!(cause(block_on(fixture.app.sessions.change_password(&signed_in, own))), Cause::FederatedUser);
    let root = Caller::command_line("root");
    let reset = block_on(fixture.app.users.reset_password(&root, signed_in.user.id, new()));
    assert_eq!(cause(reset), Cause::FederatedUser);
    let local = |username: &str, password: &str| Login {
        username: username.to_owned(),
        password: password.into(),
        code: None,
        user_agent: None,
        origin: Origin::default(),
    };
    for password in ["", PASSWORD] {
        let login = block_on(fixture.app.sessions.login(local("corp:mei", password)));
        assert_eq!(cause(login), Cause::BadCredentials);
    }
}

#[test]
fn command_line_finds_federated_users() {
    let fixture = Fixture::new();
    let user = fixture.signed_in(&fixture.sign_in()).unwrap().user;
    let find = |name: &str| block_on(fixture.app.users.find(&Username::stored(name).unwrap()));
    assert_eq!(find("corp:mei").unwrap().id, user.id);
    assert_eq!(find("admin").unwrap().username, Username::first_admin());
    for name in ["corp:nobody", "dir:mei", "mei"] {
        assert_eq!(cause(find(name)), Cause::NotFound, "{name}");
    }
}

#[test]
fn provider_is_bound_for_ever() {
    let fixture = Fixture::new();
    let rebound = Binding {
        provider: ProviderId::new("corp").unwrap(),
        kind: ProviderKind::Oidc,
        authority: "another".to_owned(),
    };
    assert_eq!(cause(block_on(fixture.app.federation.bind(&rebound))), Cause::ProviderRebound);
}

#[test]
fn trail_and_database_rows_contain_no_secret() {
    let fixture = Fixture::new();
    let started = fixture.start();
    let tokens = fixture.finish(&started).unwrap().tokens;
    fixture.advance(541);
    fixture.confirm();
    cause(fixture.ldap_login("mei", "canary-password"));
    let trail = format!("{:?} {:?}", fixture.fake.store.entries(), fixture.fake.store.all_operations());
    let secrets = [&started.browser, &tokens.session_id, &tokens.access_token];
    assert!(
        !trail.contains("canary") && secrets.iter().all(|secret| !trail.contains(secret.expose_secret()))
    );
    assert!(!format!("{started:?} {tokens:?}").contains(started.browser.expose_secret()));
    assert!(fixture.fake.runtime.clock.now() > "2026-01-01T00:00:00Z".parse().unwrap());
}
