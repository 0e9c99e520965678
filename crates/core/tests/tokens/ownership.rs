//! Permissions to create, list, rename and revoke tokens.

use futures_executor::block_on;
use pilothouse_core::{
    access::{Caller, Principal},
    ids::TokenId,
    role::Role,
    token::NewToken,
};
use serde_json::json;

use crate::{Fixture, Made, cause, everything, new_token, session_of};

#[test]
fn token_is_shown_once_and_recorded_without_its_secret() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let created = fixture.create(&session_of(&ann), new_token(everything())).unwrap();
    let secret = Made::of(created.clone()).secret;
    assert!(!format!("{created:?}").contains(&secret[8..]));
    assert_eq!(&*created.token.prefix, &secret[..8]);
    let row = fixture.last_operation();
    assert_eq!((&*row.operation_type, &*row.resource_type), ("create", "token"));
    assert_eq!((row.resource_name.as_deref(), row.token_id), (Some("CI"), None));
    let details = row.details.unwrap();
    assert!(
        details.contains(&format!("owner=user:{}", ann.id)) && details.contains("expires_at="),
        "{details}"
    );
    let texts: Vec<_> =
        fixture.fake.store.entries().iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    assert!(texts.iter().all(|text| !text.contains(&secret[8..])));
}

#[test]
fn name_and_duration_are_checked() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let create = |name: &str, days| {
        let new = NewToken { name: name.to_owned(), expires_in_days: days, ..new_token(everything()) };
        fixture.create(&session_of(&ann), new)
    };
    let long = "x".repeat(65);
    for (name, days) in [
        ("", None),
        (" ", None),
        (&*long, None),
        ("a\nb", None),
        ("a\u{202e}b", None),
        ("CI", Some(0)),
        ("CI", Some(366)),
    ] {
        assert_eq!(cause(create(name, days)), "invalid_input", "{name:?} {days:?}");
    }
    let now = pilothouse_core::clock::Clock::now(&*fixture.fake.runtime.clock);
    for (days, expected) in [(None, 90), (Some(1), 1), (Some(365), 365)] {
        let token = create(" nightly ", days).unwrap().token;
        assert_eq!(&*token.name, "nightly");
        assert_eq!(token.expires_at, now + std::time::Duration::from_secs(expected * 24 * 3600));
    }
    let ids: Vec<_> = (1..=101).collect();
    let ceiling = json!({"role": null, "clusters": {"ids": ids}, "namespaces": null});
    assert_eq!(cause(fixture.create(&session_of(&ann), new_token(ceiling))), "invalid_input");
    let ceiling = json!({"role": "no-such-role", "clusters": {"all": true}, "namespaces": null});
    assert_eq!(cause(fixture.create(&session_of(&ann), new_token(ceiling))), "not_found");
}

#[test]
fn tokens_of_others_are_not_found() {
    let fixture = Fixture::new();
    let [ann, ben] = ["ann", "ben"].map(|name| fixture.user(name, Role::OpsAdmin));
    let root = fixture.user("root", Role::SuperAdmin);
    let token = fixture.token(&ann, everything());
    let absent = TokenId(1_000_000);
    for id in [token.id, absent] {
        let by_ben = session_of(&ben);
        assert_eq!(cause(block_on(fixture.app.tokens.rename(&by_ben, id, "mine"))), "not_found");
        assert_eq!(cause(block_on(fixture.app.tokens.revoke(&by_ben, id))), "not_found");
        let row = fixture.last_operation();
        assert_eq!(row.resource_name, Some(id.to_string()), "the row has the id, not the name");
    }
    assert_eq!(fixture.listed(&session_of(&ben)), [""; 0]);
    assert_eq!(fixture.listed(&session_of(&ann)), ["CI"]);
    assert_eq!(cause(fixture.authenticate(&token.secret)), "ok");
    let renamed = block_on(fixture.app.tokens.rename(&session_of(&ann), token.id, "nightly")).unwrap();
    assert_eq!(&*renamed.name, "nightly");
    assert_eq!(fixture.listed(&session_of(&root)), ["nightly"]);
    block_on(fixture.app.tokens.revoke(&session_of(&root), token.id)).unwrap();
    assert_eq!(fixture.last_operation().resource_name.as_deref(), Some("nightly"));
    assert_eq!(cause(fixture.authenticate(&token.secret)), "token_invalid");
}

#[test]
fn only_the_command_line_makes_tokens_of_other_users() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let root = fixture.user("root", Role::SuperAdmin);
    let of_ann = || NewToken { owner: Some(Principal::User(ann.id)), ..new_token(everything()) };
    assert_eq!(cause(fixture.create(&session_of(&root), of_ann())), "not_found");
    let token = Made::of(fixture.create(&Caller::command_line("ops"), of_ann()).unwrap());
    assert_eq!(fixture.caller(&token).user_id, Some(ann.id));
    assert_eq!(cause(fixture.create(&Caller::command_line("ops"), new_token(everything()))), "not_signed_in");
}
