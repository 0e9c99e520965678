//! Limits of grants and roles, and roles in use.

use pilothouse_core::grant::{MAX_OWN_ROLES, NewRequest};

use super::*;

#[test]
fn grant_has_at_most_100_ids_and_100_patterns() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    let give = |ids: i64, patterns: u32| {
        let ids: Vec<_> = (1..=ids).collect();
        let patterns: Vec<_> = (0..patterns).map(|n| format!("team-{n}")).collect();
        let scope = json!({"clusters": {"ids": ids}, "namespaces": patterns});
        let granted = refusal(fixture.grant(&Caller::system(), ann, "viewer", &scope, None));
        let request = NewRequest {
            role: RoleName::new("viewer").unwrap(),
            clusters: parse(&scope["clusters"]),
            reach: parse(&scope["namespaces"]),
            duration_seconds: 3600,
            reason: "maintenance".to_owned(),
        };
        let requested = refusal(block_on(fixture.app.grants.request(&fixture.caller(ann), request)));
        assert_eq!(granted, requested);
        granted
    };
    assert_eq!(give(100, 100), "ok");
    assert_eq!(give(101, 1), "too_many");
    assert_eq!(give(1, 101), "too_many");
}

#[test]
fn subject_has_at_most_200_live_grants() {
    let fixture = Fixture::new();
    let (ann, bob) = (fixture.user("ann", Role::None), fixture.user("bob", Role::None));
    let give =
        |user, until| refusal(fixture.grant(&Caller::system(), user, "viewer", &fixture.shop(), until));
    let soon = Some(fixture.now() + HOUR);
    assert!((0..200).all(|n| give(ann, soon.filter(|_| n == 0)) == "ok"));
    assert_eq!(give(ann, None), "too_many");
    assert_eq!(give(bob, None), "ok");
    fixture.advance(HOUR);
    assert_eq!(give(ann, None), "ok", "a grant that has ended does not count");
}

#[test]
fn there_are_at_most_100_own_roles_and_a_name_is_used_once() {
    let fixture = Fixture::new();
    let rules = || json!([{"verbs": ["list"], "resources": ["events"]}]);
    for n in 0..MAX_OWN_ROLES {
        fixture.role(&format!("role-{n}"), rules()).unwrap();
    }
    assert_eq!(refusal(fixture.role("one-more", rules())), "too_many");
    let delete = |name: &str| {
        let name = RoleName::new(name).unwrap();
        refusal(block_on(fixture.app.grants.delete_role(&Caller::system(), name)))
    };
    assert_eq!(delete("role-0"), "ok");
    assert_eq!(refusal(fixture.role("role-0", rules())), "name_taken");
    assert_eq!(refusal(fixture.role("viewer", rules())), "name_taken");
    assert_eq!(refusal(fixture.role("one-more", rules())), "ok");
    assert_eq!((delete("role-0"), delete("viewer")), ("not_found".to_owned(), "not_found".to_owned()));
}

#[test]
fn role_in_use_is_not_deleted() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    fixture.role("reader", json!([{"verbs": ["list"], "resources": ["events"]}])).unwrap();
    let delete = || {
        let name = RoleName::new("reader").unwrap();
        refusal(block_on(fixture.app.grants.delete_role(&Caller::system(), name)))
    };
    let grant = fixture.give(ann, "reader", &fixture.shop(), None).id;
    assert_eq!(delete(), "role_in_use");
    block_on(fixture.app.grants.revoke(&Caller::system(), grant, None)).unwrap();
    let request = NewRequest {
        role: RoleName::new("reader").unwrap(),
        clusters: parse(&fixture.shop()["clusters"]),
        reach: parse(&fixture.shop()["namespaces"]),
        duration_seconds: 3600,
        reason: "maintenance".to_owned(),
    };
    block_on(fixture.app.grants.request(&fixture.caller(ann), request)).unwrap();
    assert_eq!(delete(), "role_in_use");
    fixture.advance(24 * HOUR);
    assert_eq!(delete(), "ok", "the request has expired");
}
