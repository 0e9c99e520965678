use futures_util::future::join;

use super::{
    StorePorts,
    grants::record,
    tokens::{SECRETS, new_token},
};
use crate::{
    access::Principal,
    error::Cause,
    ids::{ServiceAccountId, UserId},
    rights::Subject,
    role::Role,
    service_account::{ServiceAccount, ServiceAccountName, ServiceAccountPatch, ServiceAccountRecord},
};

impl StorePorts {
    /// Creates a service account.
    pub(super) async fn account(&self, name: &str, owner: UserId) -> ServiceAccount {
        self.accounts.create(&self.people(), new_account(name, owner)).await.unwrap()
    }
}

fn new_account(name: &str, owner: UserId) -> ServiceAccountRecord {
    ServiceAccountRecord {
        name: ServiceAccountName::new(name).unwrap(),
        description: format!("{name} 机器人"),
        owner_user_id: owner,
    }
}

const ABSENT: ServiceAccountId = ServiceAccountId(1_000_000);

pub(super) async fn created_account_is_found(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    assert_eq!((bot.name.as_str(), &*bot.description), ("bot", "bot 机器人"));
    assert_eq!((bot.owner_user_id, &bot.owner), (Some(ann.id), &Some(ann.username.clone())));
    assert_eq!((bot.created_at, &*bot.created_by), (ports.now(), "system"), "as in the audit row");
    let other = ports.account("another", ann.id).await;
    assert!(other.id > bot.id);
    assert_eq!(ports.accounts.list().await.unwrap(), [bot.clone(), other]);
    assert_eq!(ports.accounts.find(bot.id).await.unwrap(), Some(bot));
    assert_eq!(ports.accounts.find(ABSENT).await.unwrap(), None);
}

pub(super) async fn account_names_are_unique(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let permit = ports.people();
    let (one, other) = join(
        ports.accounts.create(&permit, new_account("bot", ann.id)),
        ports.accounts.create(&permit, new_account("bot", ann.id)),
    )
    .await;
    assert_eq!(one.is_ok(), other.is_err(), "one of two concurrent calls succeeds");
    assert_eq!(one.and(other).unwrap_err().cause, Cause::NameTaken);
    assert_eq!(ports.accounts.list().await.unwrap().len(), 1);
}

pub(super) async fn account_needs_an_existing_owner(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let before = ports.operations().await.len();
    let absent = UserId(1_000_000);
    let refused = ports.accounts.create(&ports.people(), new_account("other", absent)).await;
    assert_eq!(refused.unwrap_err().cause, Cause::NotFound);
    let patch = ServiceAccountPatch { owner_user_id: Some(absent), description: None };
    let refused = ports.accounts.update(&ports.people(), bot.id, patch).await;
    assert_eq!(refused.unwrap_err().cause, Cause::NotFound);
    assert_eq!(ports.accounts.list().await.unwrap(), [bot]);
    assert_eq!(ports.operations().await.len(), before, "the store writes no row for a refusal");
}

pub(super) async fn update_sets_only_given_fields(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let ben = ports.user("ben", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    let update = async |patch| ports.accounts.update(&ports.people(), bot.id, patch).await.unwrap();
    let described = update(ServiceAccountPatch {
        description: Some("deploys".to_owned()),
        ..ServiceAccountPatch::default()
    })
    .await;
    assert_eq!(described, ServiceAccount { description: "deploys".to_owned(), ..bot.clone() });
    let owned =
        update(ServiceAccountPatch { owner_user_id: Some(ben.id), ..ServiceAccountPatch::default() }).await;
    let expected =
        ServiceAccount { owner_user_id: Some(ben.id), owner: Some(ben.username.clone()), ..described };
    assert_eq!(owned, expected);
    assert_eq!(ports.accounts.find(bot.id).await.unwrap(), Some(owned));
    let absent = ports.accounts.update(&ports.people(), ABSENT, ServiceAccountPatch::default()).await;
    assert_eq!(absent.unwrap_err().cause, Cause::NotFound);
}

pub(super) async fn deleted_account_has_no_grant_and_no_token(ports: &StorePorts) {
    let ann = ports.user("ann", Role::Viewer).await;
    let [bot, other] = [ports.account("bot", ann.id).await, ports.account("other", ann.id).await];
    let subjects = [&bot, &other].map(|account| Subject::ServiceAccount(account.id));
    for (account, secret) in [&bot, &other].into_iter().zip(SECRETS) {
        ports.grant(record(Subject::ServiceAccount(account.id))).await.unwrap();
        ports.token(new_token(ports, Principal::ServiceAccount(account.id), secret)).await.unwrap();
    }
    let stamp = ports.tokens.find(SECRETS[1]).await.unwrap().unwrap().rights;
    ports.accounts.delete(&ports.people(), bot.id).await.unwrap();
    let now = Some(ports.now());
    assert!(ports.grants.list(Some(subjects[0].clone()), now).await.unwrap().is_empty());
    assert_eq!(ports.grants.list(Some(subjects[1].clone()), now).await.unwrap().len(), 1);
    assert_eq!(ports.tokens.find(SECRETS[0]).await.unwrap(), None);
    let of_other = ports.tokens.find(SECRETS[1]).await.unwrap().unwrap();
    assert_ne!(of_other.rights, stamp, "the rights stamp changed");
    assert_eq!(ports.accounts.list().await.unwrap(), [other]);
    let again = ports.accounts.delete(&ports.people(), bot.id).await;
    assert_eq!(again.unwrap_err().cause, Cause::NotFound);
    let grant = ports.grant(record(subjects[0].clone())).await;
    assert_eq!(grant.unwrap_err().cause, Cause::NotFound);
    assert!(ports.account("bot", ann.id).await.id > bot.id, "ids are never reused");
}

pub(super) async fn deleting_a_user_leaves_the_accounts_without_an_owner(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let ann = ports.user("ann", Role::Viewer).await;
    let bot = ports.account("bot", ann.id).await;
    ports.token(new_token(ports, Principal::ServiceAccount(bot.id), SECRETS[0])).await.unwrap();
    ports.users.delete(&ports.people(), ann.id).await.unwrap();
    let left = ServiceAccount { owner_user_id: None, owner: None, ..bot.clone() };
    assert_eq!(ports.accounts.find(bot.id).await.unwrap(), Some(left));
    let found = ports.tokens.find(SECRETS[0]).await.unwrap().unwrap();
    assert!(!found.owner.is_enabled(), "out of use until it has another owner");
}
