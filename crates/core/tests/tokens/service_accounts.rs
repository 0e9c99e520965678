//! Service accounts: their rights, their owners, and their end.

use futures_executor::block_on;
use pilothouse_core::{
    access::{AccessRequest, Caller, Principal, Resource, Verb},
    gate::Warning,
    kind::Kind,
    name::Namespace,
    rights::Subject,
    role::Role,
    rows::ListQuery,
    service_account::{ServiceAccountName, ServiceAccountPatch, ServiceAccountRecord},
    token::NewToken,
    user::UserPatch,
};
use serde_json::json;

use crate::{Fixture, Made, cause, everything, new_token, session_of};

#[test]
fn account_has_only_the_rights_of_its_grants() {
    let fixture = Fixture::new();
    let root = fixture.user("root", Role::SuperAdmin);
    let bot = fixture.account("bot", root.id);
    let token = fixture.token_of(&bot);
    let caller = fixture.caller(&token);
    assert_eq!((caller.user_id, caller.service_account, caller.token), (None, Some(bot.id), Some(token.id)));
    assert_eq!((&*caller.username, caller.role), ("sa:bot", Some(Role::None)));
    let get = |namespace: &str| {
        let namespace = Namespace::new(namespace).unwrap();
        let web = AccessRequest::to_object(Verb::Get, Kind::Deployment, fixture.dev, &namespace, "web");
        cause(block_on(fixture.app.gate.allow(&fixture.caller(&token), web)))
    };
    assert_eq!(get("shop"), "not_found", "the rights of the owner are not those of the account");
    let granted = fixture.grant(Subject::ServiceAccount(bot.id), "viewer", json!(["shop"]));
    assert_eq!(granted.warnings, [Warning::UsedByOwner], "the owner has the use of the granted rights");
    assert_eq!((get("shop"), get("other")), ("ok", "role_too_low"));
    let row = fixture.last_operation();
    assert_eq!((&*row.username, row.user_id, row.role), ("sa:bot", None, None));
    assert_eq!((row.token_id, &*row.operation_type), (Some(token.id), "get"));
}

#[test]
fn account_lists_only_what_is_its_own() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let [bot, other] = ["bot", "other"].map(|name| fixture.account(name, ann.id));
    fixture.token(&ann, everything());
    fixture.token_of(&other);
    let caller = fixture.caller(&fixture.token_of(&bot));
    assert_eq!(fixture.listed(&caller).len(), 1);
    assert_eq!(fixture.listed(&session_of(&ann)).len(), 3, "the owner sees the tokens of both");
    let (sessions, _) = block_on(fixture.app.sessions.list(&caller, &ListQuery::default())).unwrap();
    assert!(sessions.is_empty());
}

#[test]
fn tokens_of_an_account_are_made_by_its_owner_and_super_admins() {
    let fixture = Fixture::new();
    let [ann, ben] = ["ann", "ben"].map(|name| fixture.user(name, Role::OpsAdmin));
    let root = fixture.user("root", Role::SuperAdmin);
    let bot = fixture.account("bot", ann.id);
    let owner = Some(Principal::ServiceAccount(bot.id));
    let create = |caller: &Caller| fixture.create(caller, NewToken { owner, ..new_token(everything()) });
    let made = create(&session_of(&ann)).unwrap();
    assert!(made.token.prefix.starts_with("phs_"));
    assert_eq!((made.token.owner.kind, &*made.token.owner.name), ("service_account", "bot"));
    assert_eq!(cause(create(&session_of(&root))), "ok");
    assert_eq!(cause(create(&session_of(&ben))), "not_found");
    // after the change only the new owner and super admins may make tokens
    let patch = ServiceAccountPatch { owner_user_id: Some(ben.id), description: None };
    block_on(fixture.app.service_accounts.update(&session_of(&root), bot.id, patch)).unwrap();
    assert_eq!((cause(create(&session_of(&ann))), cause(create(&session_of(&ben)))), ("not_found", "ok"));
}

#[test]
fn account_is_out_of_use_without_an_enabled_owner() {
    let fixture = Fixture::new();
    let [ann, ben] = ["ann", "ben"].map(|name| fixture.user(name, Role::Viewer));
    fixture.user("root", Role::SuperAdmin);
    let bot = fixture.account("bot", ann.id);
    let token = fixture.token_of(&bot);
    let check = || cause(fixture.authenticate(&token.secret));
    assert_eq!(check(), "ok");
    let disable = |disabled| {
        let patch = UserPatch { disabled: Some(disabled), ..UserPatch::default() };
        block_on(fixture.app.users.update(&Caller::system(), ann.id, patch)).unwrap();
    };
    disable(true);
    assert_eq!(check(), "token_invalid");
    disable(false);
    assert_eq!(check(), "ok");
    block_on(fixture.app.users.delete(&Caller::system(), ann.id)).unwrap();
    assert_eq!(check(), "token_invalid");
    let patch = ServiceAccountPatch { owner_user_id: Some(ben.id), description: None };
    block_on(fixture.app.service_accounts.update(&Caller::system(), bot.id, patch)).unwrap();
    assert_eq!(check(), "ok");
    block_on(fixture.app.service_accounts.delete(&Caller::system(), bot.id)).unwrap();
    assert_eq!(check(), "token_invalid");
}

#[test]
fn accounts_are_managed_by_super_admins() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::OpsAdmin);
    let bot = fixture.account("bot", ann.id);
    let caller = session_of(&ann);
    let accounts = &fixture.app.service_accounts;
    let record = |name: &str| ServiceAccountRecord {
        name: ServiceAccountName::new(name).unwrap(),
        description: String::new(),
        owner_user_id: ann.id,
    };
    let patch = ServiceAccountPatch { description: Some("mine".to_owned()), owner_user_id: None };
    assert_eq!(cause(block_on(accounts.list(&caller, &ListQuery::default()))), "role_too_low");
    assert_eq!(cause(block_on(accounts.create(&caller, record("other")))), "role_too_low");
    assert_eq!(cause(block_on(accounts.update(&caller, bot.id, patch.clone()))), "role_too_low");
    assert_eq!(cause(block_on(accounts.delete(&caller, bot.id))), "role_too_low");

    let root = Caller::system();
    assert_eq!(cause(block_on(accounts.create(&root, record("bot")))), "name_taken");
    assert_eq!(
        cause(block_on(accounts.update(&root, bot.id, ServiceAccountPatch::default()))),
        "invalid_input"
    );
    let long = ServiceAccountPatch { description: Some("x".repeat(1025)), owner_user_id: None };
    assert_eq!(cause(block_on(accounts.update(&root, bot.id, long))), "invalid_input");
    assert_eq!(block_on(accounts.update(&root, bot.id, patch)).unwrap().description, "mine");
    let row = fixture.last_operation();
    let subject = (&*row.operation_type, &*row.resource_type, row.resource_name.as_deref());
    assert_eq!(subject, ("update", "service_account", Some("bot")));
    for name in ["", "ab", "Bot", "sa:bot", "b ot", &"x".repeat(65)] {
        assert!(ServiceAccountName::new(name).is_err(), "{name:?}");
    }
}

#[test]
fn refusals_of_an_account_are_counted_for_the_account() {
    let fixture = Fixture::new();
    let ann = fixture.user("ann", Role::Viewer);
    let bot = fixture.account("bot", ann.id);
    let token = fixture.token_of(&bot);
    let caller = fixture.caller(&token);
    let before = fixture.fake.store.all_operations().len();
    for _ in 0..10 {
        let users = AccessRequest::to(Verb::List, Resource::User);
        assert_eq!(cause(block_on(fixture.app.gate.allow(&caller, users))), "role_too_low");
    }
    assert_eq!(fixture.fake.store.all_operations().len(), before + 1, "one row a minute");
    let made = Made::of(
        fixture
            .create(
                &session_of(&ann),
                NewToken { owner: Some(Principal::ServiceAccount(bot.id)), ..new_token(everything()) },
            )
            .unwrap(),
    );
    assert_eq!(fixture.caller(&made).principal(), caller.principal(), "of all its tokens together");
}
