use std::{net::IpAddr, time::Duration};

use futures_util::future::{join, join_all};

use super::{StorePorts, federation::person, grants::role};
use crate::{
    access::Principal,
    error::{Cause, Result},
    ids::{ServiceAccountId, TokenId, UserId},
    namespaces::NamespacePattern,
    provider::{EndedSessions, ProviderKind},
    rights::{Ceiling, ClusterScope, LabelTerms, Reach},
    role::Role,
    session::SecretHash,
    token::{ApiToken, FoundOwner, FoundToken, Networks, TokenRecord},
    user::{PasswordHash, SetBy, UserPatch},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const ABSENT: TokenId = TokenId(1_000_000);
/// Hashes of three secrets.
pub(super) const SECRETS: [SecretHash; 3] = [SecretHash([1; 32]), SecretHash([2; 32]), SecretHash([3; 32])];

/// A token with a ceiling and networks that expires in a day.
pub(super) fn new_token(ports: &StorePorts, owner: Principal, secret: SecretHash) -> TokenRecord {
    let patterns = vec![NamespacePattern::parse("shop-*").unwrap()];
    TokenRecord {
        name: "部署 \"CI\"".to_owned(),
        secret,
        prefix: "php_Ab3d".to_owned(),
        owner,
        ceiling: Ceiling {
            role: Some(role("viewer")),
            clusters: ClusterScope::Labels(LabelTerms::parse("environment in (dev,staging)").unwrap()),
            reach: Reach::try_from(patterns).unwrap(),
        },
        networks: Networks::parse(&["10.0.0.0/8", "2001:db8::/32"]).unwrap(),
        expires_at: ports.now() + DAY,
    }
}

impl StorePorts {
    pub(super) async fn token(&self, record: TokenRecord) -> Result<ApiToken> {
        self.tokens.create(&self.people(), record).await
    }

    async fn found(&self, secret: SecretHash) -> Option<FoundToken> {
        self.tokens.find(secret).await.unwrap()
    }

    async fn ids(&self, user: Option<UserId>) -> Vec<TokenId> {
        self.tokens.list(user).await.unwrap().into_iter().map(|(token, _)| token.id).collect()
    }
}

pub(super) async fn created_token_is_found_by_secret_and_id(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let record = new_token(ports, Principal::User(ann.id), SECRETS[0]);
    let token = ports.token(record.clone()).await.unwrap();
    assert_eq!((&token.name, &token.prefix, token.owner), (&record.name, &record.prefix, record.owner));
    assert_eq!((&token.ceiling, &token.networks), (&record.ceiling, &record.networks));
    assert_eq!((token.created_at, token.expires_at), (ports.now(), record.expires_at));
    assert_eq!((token.last_used_at, token.last_used_ip, token.revoked_at), (None, None, None));
    let found = ports.found(SECRETS[0]).await.unwrap();
    assert_eq!((&found.token, &found.owner), (&token, &FoundOwner::User(ann)));
    assert_eq!(found.confirmed_at, None, "a local user");
    assert_eq!(ports.tokens.get(token.id).await.unwrap(), Some(found));
    assert_eq!(ports.found(SECRETS[1]).await, None);
    assert_eq!(ports.tokens.get(ABSENT).await.unwrap(), None);
}

pub(super) async fn ceiling_that_narrows_nothing_is_stored(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let record = TokenRecord {
        ceiling: Ceiling::default(),
        networks: Networks::default(),
        ..new_token(ports, Principal::User(ann.id), SECRETS[0])
    };
    ports.token(record).await.unwrap();
    let token = ports.found(SECRETS[0]).await.unwrap().token;
    assert_eq!((token.ceiling, token.networks), (Ceiling::default(), Networks::default()));
}

pub(super) async fn token_of_a_service_account_has_the_account_and_its_owner(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let ann = ports.user("ann", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let record = new_token(ports, Principal::ServiceAccount(bot.id), SECRETS[0]);
    let token = ports.token(record).await.unwrap();
    assert_eq!(token.owner, Principal::ServiceAccount(bot.id));
    let found = ports.found(SECRETS[0]).await.unwrap();
    assert_eq!(found.owner, FoundOwner::ServiceAccount { account: bot, owner_enabled: true });
    let disable = |disabled| UserPatch { disabled: Some(disabled), ..UserPatch::default() };
    for disabled in [true, false] {
        ports.users.update(&ports.people(), ann.id, disable(disabled), ports.now()).await.unwrap();
        let owner = ports.found(SECRETS[0]).await.unwrap().owner;
        assert_eq!(owner.is_enabled(), !disabled);
    }
}

pub(super) async fn token_has_the_confirmation_of_its_federated_owner(ports: &StorePorts) {
    ports.bind_corp(ProviderKind::Oidc).await;
    let mei = ports.admit(person("1", "mei", &[])).await;
    let bot = ports.account("bot", mei.id).await;
    let owners = [Principal::User(mei.id), Principal::ServiceAccount(bot.id)];
    for (owner, secret) in owners.into_iter().zip(SECRETS) {
        ports.token(new_token(ports, owner, secret)).await.unwrap();
        assert_eq!(ports.found(secret).await.unwrap().confirmed_at, Some(ports.now()), "{owner}");
    }
    ports.withdraw(EndedSessions::OfUser(mei.id)).await;
    for secret in &SECRETS[..2] {
        assert_eq!(ports.found(*secret).await.unwrap().confirmed_at, None);
    }
}

pub(super) async fn token_has_the_second_factor_of_its_owner(ports: &StorePorts) {
    let (ann, ..) = ports.enrolled("ann").await;
    let ben = ports.user("ben", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let owners = [
        (Principal::User(ann.id), true),
        (Principal::User(ben.id), false),
        (Principal::ServiceAccount(bot.id), false),
    ];
    for ((owner, enrolled), secret) in owners.into_iter().zip(SECRETS) {
        let token = ports.token(new_token(ports, owner, secret)).await.unwrap();
        assert_eq!(ports.found(secret).await.unwrap().enrolled, enrolled, "{owner}");
        assert_eq!(ports.tokens.get(token.id).await.unwrap().unwrap().enrolled, enrolled, "{owner}");
    }
}

pub(super) async fn token_needs_an_existing_owner_and_role(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let before = ports.operations().await.len();
    let of_ann = || new_token(ports, Principal::User(ann.id), SECRETS[0]);
    let ceiling = Ceiling { role: Some(role("no-such-role")), ..Ceiling::default() };
    let refused = [
        TokenRecord { owner: Principal::User(UserId(1_000_000)), ..of_ann() },
        TokenRecord { owner: Principal::ServiceAccount(ServiceAccountId(1_000_000)), ..of_ann() },
        TokenRecord { ceiling, ..of_ann() },
    ];
    for record in refused {
        assert_eq!(ports.token(record).await.unwrap_err().cause, Cause::NotFound);
    }
    assert!(ports.tokens.list(None).await.unwrap().is_empty());
    assert_eq!(ports.operations().await.len(), before, "the store writes no row for a refusal");
}

pub(super) async fn tokens_are_listed_by_user(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let ben = ports.user("ben", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let owners = [Principal::User(ann.id), Principal::ServiceAccount(bot.id), Principal::User(ben.id)];
    let mut ids = Vec::new();
    for (owner, secret) in owners.into_iter().zip(SECRETS) {
        ids.push(ports.token(new_token(ports, owner, secret)).await.unwrap().id);
    }
    assert_eq!(ports.ids(None).await, ids);
    assert_eq!(ports.ids(Some(ann.id)).await, ids[..2], "also those of the user's service accounts");
    assert_eq!(ports.ids(Some(ben.id)).await, ids[2..]);
    let listed = ports.tokens.list(Some(ann.id)).await.unwrap();
    let owners: Vec<_> = listed.iter().map(|(_, owner)| owner.caller_name()).collect();
    assert_eq!(owners, ["ann", "sa:bot"]);
    ports.runtime.clock.advance(2 * DAY);
    assert_eq!(ports.ids(None).await, ids, "expired tokens are listed");
    ports.tokens.revoke(&ports.people(), ids[0]).await.unwrap();
    assert_eq!(ports.ids(None).await, ids[1..], "revoked ones are not");
}

pub(super) async fn revoked_token_is_not_found(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let token = ports.token(new_token(ports, Principal::User(ann.id), SECRETS[0])).await.unwrap();
    let before = ports.operations().await.len();
    assert!(ports.tokens.revoke(&ports.people(), token.id).await.unwrap());
    assert_eq!(ports.found(SECRETS[0]).await, None);
    assert_eq!(ports.tokens.get(token.id).await.unwrap(), None);
    for id in [token.id, ABSENT] {
        assert!(!ports.tokens.revoke(&ports.people(), id).await.unwrap());
        let renamed = ports.tokens.rename(&ports.people(), id, "other".to_owned()).await;
        assert_eq!(renamed.unwrap_err().cause, Cause::NotFound);
    }
    assert_eq!(ports.operations().await.len(), before + 1, "one row of one revocation");
}

pub(super) async fn renamed_token_keeps_everything_else(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let token = ports.token(new_token(ports, Principal::User(ann.id), SECRETS[0])).await.unwrap();
    let renamed = ports.tokens.rename(&ports.people(), token.id, "nightly".to_owned()).await.unwrap();
    assert_eq!(renamed, ApiToken { name: "nightly".to_owned(), ..token });
    assert_eq!(ports.found(SECRETS[0]).await.unwrap().token, renamed);
}

pub(super) async fn last_use_never_goes_back(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let token = ports.token(new_token(ports, Principal::User(ann.id), SECRETS[0])).await.unwrap();
    let before = ports.operations().await.len();
    let at = |minutes: u64| ports.now() + Duration::from_secs(60 * minutes);
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let uses = [
        (at(2), ip("2001:db8::1"), at(2), ip("2001:db8::1")),
        (at(1), ip("192.0.2.1"), at(2), ip("2001:db8::1")),
        (at(3), None, at(3), None),
    ];
    for (used_at, from, last_used_at, last_used_ip) in uses {
        ports.tokens.touch(token.id, used_at, from).await.unwrap();
        let found = ports.found(SECRETS[0]).await.unwrap().token;
        assert_eq!((found.last_used_at, found.last_used_ip), (Some(last_used_at), last_used_ip));
    }
    ports.tokens.touch(ABSENT, at(1), None).await.unwrap();
    assert_eq!(ports.operations().await.len(), before, "a use has no audit row");
}

pub(super) async fn live_tokens_of_an_owner_are_limited(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let record = |owner, n: u8| new_token(ports, owner, SecretHash([n; 32]));
    let (of_ann, of_bot) = (Principal::User(ann.id), Principal::ServiceAccount(bot.id));
    let max = u8::try_from(ApiToken::MAX_LIVE).unwrap();
    let first = ports.token(record(of_ann, 0)).await.unwrap();
    for n in 1..max - 1 {
        ports.token(record(of_ann, n)).await.unwrap();
    }
    let created = join_all((0..4).map(|n| ports.token(record(of_ann, 100 + n)))).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 1, "one of concurrent calls");
    let causes = created.into_iter().filter_map(|created| created.err().map(|error| error.cause));
    assert!(causes.eq([Cause::TooMany; 3]));
    ports.token(record(of_bot, 110)).await.unwrap();
    ports.tokens.revoke(&ports.people(), first.id).await.unwrap();
    ports.token(record(of_ann, 111)).await.unwrap();
    assert_eq!(ports.token(record(of_ann, 112)).await.unwrap_err().cause, Cause::TooMany);
    ports.runtime.clock.advance(DAY);
    ports.token(record(of_ann, 113)).await.unwrap();
}

pub(super) async fn deletion_and_password_reset_of_a_user_revoke_the_tokens(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let ann = ports.user("ann", Role::Viewer).await;
    let ben = ports.user("ben", Role::Viewer).await;
    for (user, secret) in [&ann, &ben].into_iter().zip(SECRETS) {
        ports.token(new_token(ports, Principal::User(user.id), secret)).await.unwrap();
    }
    let password = PasswordHash::new("another".to_owned());
    ports
        .users
        .set_password(&ports.people(), ann.id, password, SetBy::Administrator, ports.now())
        .await
        .unwrap();
    assert_eq!(ports.found(SECRETS[0]).await, None);
    assert!(ports.found(SECRETS[1]).await.is_some());
    ports.users.delete(&ports.people(), ben.id).await.unwrap();
    assert_eq!(ports.found(SECRETS[1]).await, None);
}

pub(super) async fn own_password_change_keeps_the_tokens(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    ports.token(new_token(ports, Principal::User(ann.id), SECRETS[0])).await.unwrap();
    let (session, ..) = ports.session(&ann).await;
    let verified = ports.users.credentials(&ann.username).await.unwrap().unwrap().1;
    let by = SetBy::Owner { session: session.id, verified };
    let password = PasswordHash::new("another".to_owned());
    ports.users.set_password(&ports.people(), ann.id, password, by, ports.now()).await.unwrap();
    assert!(ports.found(SECRETS[0]).await.is_some());
}

/// No token is left of a deleted user.
pub(super) async fn token_races_with_the_deletion_of_its_user(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    for n in 0..10 {
        let user = ports.user(&format!("ann-{n}"), Role::Viewer).await;
        let record = new_token(ports, Principal::User(user.id), SecretHash([n; 32]));
        let permit = ports.people();
        let (created, deleted) = join(ports.token(record), ports.users.delete(&permit, user.id)).await;
        deleted.unwrap();
        assert!(created.map_or_else(|error| error.cause == Cause::NotFound, |_| true));
        assert_eq!(ports.found(SecretHash([n; 32])).await, None);
    }
    assert!(ports.tokens.list(None).await.unwrap().is_empty());
}
