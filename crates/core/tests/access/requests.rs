//! Requests for grants: who decides them, and once.

use pilothouse_core::{
    grant::{Decision, GrantRequest, MockRequestRegistry, NewRequest},
    ids::{GrantId, GrantRequestId},
    rows::ListQuery,
};

use super::*;

impl Fixture {
    fn request(&self, user: UserId, role: &str, scope: &Value) -> GrantRequestId {
        let request = NewRequest {
            role: RoleName::new(role).unwrap(),
            clusters: parse(&scope["clusters"]),
            reach: parse(&scope["namespaces"]),
            duration_seconds: 3600,
            reason: "release 4.2".to_owned(),
        };
        block_on(self.app.grants.request(&self.caller(user), request)).unwrap().id
    }

    fn decide(&self, user: UserId, id: GrantRequestId, decision: Decision) -> Result<GrantRequest, Error> {
        block_on(self.app.grants.decide(&self.caller(user), id, decision, None))
    }
}

#[test]
fn request_is_approved_by_somebody_else_who_could_give_it() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let (ops, root) = (fixture.user("ops", Role::OpsAdmin), fixture.user("root", Role::SuperAdmin));
    let in_prod = json!({"clusters": {"ids": [fixture.prod]}, "namespaces": ["shop-*"]});
    let unknown = json!({"clusters": {"ids": [999]}, "namespaces": null});
    // requester, role, scope, approver, outcome
    let cases = [
        (ann, "editor", fixture.shop(), lead, "ok"),
        (ann, "editor", fixture.shop(), root, "ok"),
        (ann, "editor", fixture.shop(), ops, "create grants"),
        (ann, "editor", fixture.shop(), ann, "create grants"),
        (ann, "admin", fixture.shop(), lead, "create custom"),
        (ann, "editor", in_prod, lead, "not_found"),
        (ann, "editor", unknown, root, "ok"),
        (lead, "viewer", fixture.shop(), lead, "own_request"),
        (lead, "viewer", fixture.shop(), root, "ok"),
        (root, "viewer", fixture.shop(), root, "own_request"),
        (root, "viewer", fixture.shop(), lead, "ok"),
    ];
    for (requester, role, scope, approver, expected) in cases {
        let id = fixture.request(requester, role, &scope);
        let outcome = fixture.decide(approver, id, Decision::Approve);
        assert_eq!(refusal(outcome), expected, "{requester}: {role} {scope}, by {approver}");
    }
}

#[test]
fn approval_makes_a_grant_that_ends_by_itself() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let id = fixture.request(ann, "editor", &fixture.shop());
    assert!(!fixture.caller(ann).rights.sees(fixture.dev));
    fixture.advance(HOUR);
    let approved = fixture.decide(lead, id, Decision::Approve).unwrap();
    let grants = block_on(fixture.app.grants.live(&fixture.caller(ann))).unwrap();
    let [grant] = &*grants else { panic!("one grant, not {grants:?}") };
    assert_eq!(approved.grant_id, Some(grant.id));
    assert_eq!((grant.source.as_str(), grant.created_by.as_str()), (&*format!("request:{id}"), "lead"));
    assert_eq!((grant.from, grant.until), (fixture.now(), Some(fixture.now() + HOUR)));
    assert!(fixture.caller(ann).rights.sees(fixture.dev));
    fixture.advance(HOUR);
    assert!(!fixture.caller(ann).rights.sees(fixture.dev));
}

#[test]
fn request_is_decided_once_and_within_24_hours() {
    let fixture = Fixture::new();
    let (ann, root) = (fixture.user("ann", Role::None), fixture.user("root", Role::SuperAdmin));
    let all = [Decision::Approve, Decision::Deny, Decision::Withdraw];
    let by = |decision| if decision == Decision::Withdraw { ann } else { root };
    for first in all {
        for second in all {
            let id = fixture.request(ann, "viewer", &fixture.shop());
            assert_eq!(refusal(fixture.decide(by(first), id, first)), "ok");
            assert_eq!(
                refusal(fixture.decide(by(second), id, second)),
                "request_decided",
                "{first:?} {second:?}"
            );
        }
    }
    for decision in all {
        let id = fixture.request(ann, "viewer", &fixture.shop());
        fixture.advance(24 * HOUR);
        assert_eq!(refusal(fixture.decide(by(decision), id, decision)), "request_decided", "{decision:?}");
    }
}

#[test]
fn approver_is_judged_by_the_rights_at_the_approval() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let id = fixture.request(ann, "editor", &fixture.shop());
    let own = block_on(fixture.app.grants.live(&fixture.caller(lead))).unwrap();
    let revoke = |role: &str| {
        let grant: GrantId = own.iter().find(|grant| grant.role.as_str() == role).unwrap().id;
        block_on(fixture.app.grants.revoke(&Caller::system(), grant, None)).unwrap();
    };
    revoke("editor");
    assert_eq!(refusal(fixture.decide(lead, id, Decision::Approve)), "list workloads");
    assert_eq!(refusal(fixture.decide(lead, id, Decision::Withdraw)), "not_found");
    revoke("granter");
    assert_eq!(refusal(fixture.decide(lead, id, Decision::Deny)), "create grants");
    assert_eq!(refusal(fixture.decide(ann, id, Decision::Withdraw)), "ok");
}

#[test]
fn requests_are_seen_by_requester_and_by_those_who_decide() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    let (bob, root) = (fixture.user("bob", Role::Viewer), fixture.user("root", Role::SuperAdmin));
    // whoever may list grants sees the requests for them, too
    let lister = fixture.user("lister", Role::None);
    fixture.role("grant-list", json!([{"verbs": ["list"], "resources": ["grants"]}])).unwrap();
    fixture.give(lister, "grant-list", &fixture.shop(), None);
    fixture.request(ann, "editor", &fixture.shop());
    fixture.request(ann, "editor", &json!({"clusters": {"ids": [fixture.prod]}, "namespaces": ["shop-*"]}));
    for (user, seen) in [(ann, 2), (lead, 1), (lister, 1), (bob, 0), (root, 2)] {
        let page = block_on(fixture.app.grants.requests(&fixture.caller(user), &ListQuery::default()));
        assert_eq!(page.unwrap().1.total, seen, "user {user}");
    }
}

#[test]
fn requests_of_others_are_read_only_for_whom_they_may_concern() {
    let fixture = Fixture::new();
    let (lead, ann) = (fixture.lead(), fixture.user("ann", Role::None));
    for (user, read) in [(ann, Some(ann)), (lead, None)] {
        let mut requests = MockRequestRegistry::new();
        requests.expect_list().once().withf(move |of, _| *of == read).returning(|_, _| Ok(Vec::new()));
        let mut ports = fixture.fake.ports();
        ports.rights.requests = Arc::new(requests);
        let app = App::new(ports, AppSettings::default());
        block_on(app.grants.requests(&fixture.caller(user), &ListQuery::default())).unwrap();
    }
}

#[test]
fn request_without_a_role_or_a_reason_is_refused() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    let request = |role: &str, reason: &str| NewRequest {
        role: RoleName::new(role).unwrap(),
        clusters: parse(&json!({"all": true})),
        reach: parse(&Value::Null),
        duration_seconds: 60,
        reason: reason.to_owned(),
    };
    let ask = |role, reason| {
        refusal(block_on(fixture.app.grants.request(&fixture.caller(ann), request(role, reason))))
    };
    assert_eq!(ask("absent", "release"), "not_found");
    let long = "x".repeat(501);
    for reason in ["", "  \n ", "four", "a\u{0}bcdef", "a\u{202e}bcdef", &long] {
        assert_eq!(ask("viewer", reason), "invalid_input", "{reason:?}");
    }
    assert_eq!(ask("viewer", "release\nof 4.2"), "ok");
    let system = block_on(fixture.app.grants.request(&Caller::system(), request("viewer", "release")));
    assert_eq!(refusal(system), "not_signed_in");
}
