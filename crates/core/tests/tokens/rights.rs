//! Rights of tokens: those of the owner at the moment of the request, within the ceiling.

use futures_executor::block_on;
use pilothouse_core::{
    access::{AccessRequest, Caller, Verb},
    grant::{RolePatch, RoleRecord},
    ids::{ClusterId, GrantId, SessionId},
    kind::Kind,
    name::Namespace,
    rights::{Extent, RightResource, RightVerb, RoleName, RoleRules, Subject},
    role::Role,
    rows::ListQuery,
    service_account::ServiceAccountPatch,
    user::{NewPassword, NewUser, UserPatch, Username},
};
use serde_json::json;

use crate::{Fixture, cause, everything, new_token, session_of};

/// The cause of the refusal of an operation on an object in the namespace `shop`.
fn judged(fixture: &Fixture, caller: &Caller, verb: Verb, kind: Kind, cluster: ClusterId) -> &'static str {
    let shop = Namespace::new("shop").unwrap();
    cause(block_on(
        fixture.app.gate.allow(caller, AccessRequest::to_object(verb, kind, cluster, &shop, "web")),
    ))
}

#[test]
fn ceiling_cuts_the_rights_of_the_owner() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let judge = |ceiling, verb, cluster| {
        let caller = fixture.caller(&fixture.token(&ann, ceiling));
        judged(&fixture, &caller, verb, Kind::Deployment, cluster)
    };
    let all = || json!({"all": true});
    assert_eq!(judge(everything(), Verb::Scale, fixture.prod), "ok");
    let viewer = || json!({"role": "viewer", "clusters": all(), "namespaces": null});
    assert_eq!(judge(viewer(), Verb::Get, fixture.prod), "ok");
    assert_eq!(judge(viewer(), Verb::Scale, fixture.prod), "role_too_low");
    let in_dev = || json!({"role": null, "clusters": {"labels": "environment=dev"}, "namespaces": ["shop"]});
    assert_eq!(judge(in_dev(), Verb::Scale, fixture.dev), "ok");
    assert_eq!(judge(in_dev(), Verb::Get, fixture.prod), "not_found", "as a cluster that does not exist");
    let other = || json!({"role": null, "clusters": all(), "namespaces": ["team-*"]});
    assert_eq!(judge(other(), Verb::Get, fixture.dev), "role_too_low");
}

#[test]
fn rights_follow_the_owner_at_once() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::None);
    let token =
        fixture.token(&ann, json!({"role": "operator", "clusters": {"all": true}, "namespaces": null}));
    let judge = |verb| judged(&fixture, &fixture.caller(&token), verb, Kind::Deployment, fixture.dev);
    assert_eq!(judge(Verb::Get), "not_found");
    let grant = fixture.grant(Subject::User(ann.id), "editor", json!(["shop"])).value;
    assert_eq!((judge(Verb::Scale), judge(Verb::Delete)), ("ok", "role_too_low"));
    block_on(fixture.app.grants.revoke(&Caller::system(), grant.id, None)).unwrap();
    assert_eq!(judge(Verb::Get), "not_found");
    let patch = UserPatch { role: Some(Role::Viewer), ..UserPatch::default() };
    block_on(fixture.app.users.update(&Caller::system(), ann.id, patch)).unwrap();
    assert_eq!((judge(Verb::Get), judge(Verb::Scale)), ("ok", "role_too_low"));
}

#[test]
fn own_role_of_a_ceiling_is_the_role_of_this_moment() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let name = RoleName::new("deployer").unwrap();
    let rules = |verbs: serde_json::Value| {
        let rules = json!([{"verbs": verbs, "resources": ["workloads"]}]);
        RoleRules::new(serde_json::from_value(rules).unwrap()).unwrap()
    };
    let record =
        RoleRecord { name: name.clone(), description: String::new(), rules: rules(json!(["get", "scale"])) };
    block_on(fixture.app.grants.create_role(&Caller::system(), record)).unwrap();
    let token =
        fixture.token(&ann, json!({"role": "deployer", "clusters": {"all": true}, "namespaces": null}));
    let judge = |verb| judged(&fixture, &fixture.caller(&token), verb, Kind::Deployment, fixture.dev);
    assert_eq!((judge(Verb::Get), judge(Verb::Scale), judge(Verb::Delete)), ("ok", "ok", "role_too_low"));
    let patch = RolePatch { rules: Some(rules(json!(["get"]))), ..RolePatch::default() };
    block_on(fixture.app.grants.update_role(&Caller::system(), name.clone(), patch)).unwrap();
    assert_eq!((judge(Verb::Get), judge(Verb::Scale)), ("ok", "role_too_low"));
    block_on(fixture.app.grants.delete_role(&Caller::system(), name)).unwrap();
    assert_eq!(judge(Verb::Get), "not_found", "a ceiling without its role leaves no right");
}

#[test]
fn token_of_a_super_admin_sees_no_more_than_its_ceiling() {
    let fixture = Fixture::new();
    let admin = fixture.user("root", Role::SuperAdmin);
    let ann = fixture.user("ann", Role::Viewer);
    fixture.token(&ann, everything());
    let all = fixture.caller(&fixture.token(&admin, everything()));
    assert_eq!(fixture.listed(&all).len(), 2);
    let viewer = json!({"role": "viewer", "clusters": {"all": true}, "namespaces": null});
    let viewer = fixture.caller(&fixture.token(&admin, viewer));
    assert_eq!(viewer.rights.extent(RightVerb::List, &RightResource::Users), Extent::None);
    assert_eq!(fixture.listed(&viewer).len(), 2, "the tokens of the admin");
    assert_eq!(cause(block_on(fixture.app.users.list(&viewer, &ListQuery::default()))), "role_too_low");
    assert_eq!(cause(block_on(fixture.app.users.list(&all, &ListQuery::default()))), "ok");
}

#[test]
fn no_token_changes_accounts_credentials_or_rights() {
    let fixture = Fixture::new();
    let admin = fixture.user("root", Role::SuperAdmin);
    let bot = fixture.account("bot", admin.id);
    let token = fixture.token(&admin, everything());
    let caller = fixture.caller(&token);
    let app = &fixture.app;
    let password = || NewPassword::new(&"correct horse battery".into()).unwrap();
    let user = NewUser {
        username: Username::new("new").unwrap(),
        password: password(),
        role: Role::Viewer,
        display_name: None,
    };
    let name = Some("x".to_owned());
    let renamed = UserPatch { display_name: name.clone(), ..UserPatch::default() };
    let described = ServiceAccountPatch { description: name, ..ServiceAccountPatch::default() };
    let rules = RoleRules::default();
    let role = RoleRecord { name: RoleName::new("own").unwrap(), description: String::new(), rules };
    let refused = [
        cause(block_on(app.users.create(&caller, user))),
        cause(block_on(app.users.update(&caller, admin.id, renamed))),
        cause(block_on(app.users.reset_password(&caller, admin.id, password()))),
        cause(block_on(app.users.delete(&caller, admin.id))),
        cause(block_on(app.sessions.revoke(&caller, SessionId(1)))),
        cause(fixture.create(&caller, new_token(everything()))),
        cause(block_on(app.tokens.rename(&caller, token.id, "x"))),
        cause(block_on(app.tokens.revoke(&caller, token.id))),
        cause(block_on(app.service_accounts.update(&caller, bot.id, described))),
        cause(block_on(app.service_accounts.delete(&caller, bot.id))),
        cause(block_on(app.grants.create_role(&caller, role))),
        cause(block_on(app.grants.revoke(&caller, GrantId(1), None))),
    ];
    for (n, cause) in refused.into_iter().enumerate() {
        assert_eq!(cause, "token_not_allowed", "{n}");
    }
    let row = fixture.last_operation();
    assert_eq!((row.token_id, row.user_id, &*row.username), (Some(token.id), Some(admin.id), "root"));
    let query = ListQuery::default();
    assert_eq!(cause(block_on(app.sessions.list(&caller, &query))), "ok");
    assert_eq!(cause(block_on(app.service_accounts.list(&caller, &query))), "ok");
    assert_eq!(cause(block_on(app.grants.mine(&caller))), "ok");
}

#[test]
fn operation_that_wants_a_fresh_factor_is_refused_to_the_token_of_a_person() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let bot = fixture.account("bot", ann.id);
    fixture.grant(Subject::ServiceAccount(bot.id), "admin", json!(["shop"]));
    let person = fixture.caller(&fixture.token(&ann, everything()));
    let account = fixture.caller(&fixture.token_of(&bot));
    let reveal = |caller| judged(&fixture, caller, Verb::Reveal, Kind::Secret, fixture.dev);
    assert_eq!((reveal(&person), reveal(&account)), ("token_not_allowed", "ok"));
    assert_eq!(judged(&fixture, &person, Verb::Get, Kind::Secret, fixture.dev), "ok");
    assert_eq!(reveal(&session_of(&ann)), "ok");
}
