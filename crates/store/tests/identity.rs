//! Tokens, second factors and users of identity providers at several replicas, and their data in the database.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{fs, sync::Arc, time::Duration};

use common::{TestDatabase, cluster, secret, seed_of, sign_in, user, verify};
use futures_util::future::{join, join_all};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Result,
    access::{AccessRequest, Permit, Principal, Resource, Verb},
    break_glass::{BreakGlassRecord, BreakGlassRow},
    connection::Credential,
    ids::{ClusterId, UserId},
    name::ProviderId,
    provider::{
        ConfirmationClaim, EndedSessions, Liveness, LogoutToken, MAX_PENDING_LOGINS, PendingLogin,
        ProviderKind,
    },
    rights::{Ceiling, Subject},
    second_factor::{Confirmation, FactorUse},
    service_account::{
        ServiceAccount, ServiceAccountName, ServiceAccountPatch, ServiceAccountRecord, ServiceAccountStore,
    },
    session::SecretHash,
    testing::contract::StorePorts,
    token::{ApiToken, FoundOwner, Networks, TokenRecord, TokenStore},
    user::{PasswordHash, SetBy, User},
};
use pilothouse_store::Store;

/// Condition for live sessions, with an idle timeout of 30 minutes.
fn liveness(at: Timestamp) -> Liveness {
    Liveness { at, used_after: at - Duration::from_secs(1800) }
}

/// Two replicas on one database.
struct Replicas {
    db: TestDatabase,
    stores: [Store; 2],
    ports: [StorePorts; 2],
}

impl Replicas {
    async fn on(db: TestDatabase) -> Self {
        let stores = [db.open().await, db.open().await];
        let ports = stores.each_ref().map(|store| StorePorts::over(Arc::new(store.clone())));
        Self { db, stores, ports }
    }

    fn permit(&self, verb: Verb) -> Permit {
        self.ports[0].permit(AccessRequest::to(verb, Resource::Token).named("token"))
    }

    async fn user(&self, name: &str) -> User {
        let [ports, _] = &self.ports;
        ports.users.create(&ports.people(), user(ports, name)).await.unwrap()
    }

    async fn account(&self, owner: &User) -> ServiceAccount {
        let record = ServiceAccountRecord {
            name: ServiceAccountName::new("deployer").unwrap(),
            description: String::new(),
            owner_user_id: owner.id,
        };
        ServiceAccountStore::create(&self.stores[0], &self.ports[0].people(), record).await.unwrap()
    }

    /// Creates a token at a replica. Returns it with the hash of its secret.
    async fn token(&self, replica: usize, owner: Principal) -> Result<(ApiToken, SecretHash)> {
        let hash = secret(&*self.db.deps.rng);
        let record = TokenRecord {
            name: "deploy".to_owned(),
            secret: hash,
            prefix: "php_abcd".to_owned(),
            owner,
            ceiling: Ceiling::default(),
            networks: Networks::parse(&["192.0.2.0/24"]).unwrap(),
            expires_at: self.ports[0].now() + Duration::from_secs(86_400),
        };
        let token = TokenStore::create(&self.stores[replica], &self.permit(Verb::Create), record).await?;
        Ok((token, hash))
    }

    async fn break_glass(&self, replica: usize, user: UserId, cluster: ClusterId) -> Result<BreakGlassRow> {
        let ports = &self.ports[replica];
        let permit = ports.permit(AccessRequest::to(Verb::BreakGlass, Resource::Grant).named("user"));
        let record = BreakGlassRecord { user_id: user, cluster, reason: "node down".to_owned() };
        ports.break_glass.open(&permit, record).await
    }

    async fn live_tokens(&self) -> i64 {
        self.db.count("SELECT count(*) AS n FROM api_tokens WHERE revoked_at IS NULL").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_token_is_not_found_at_the_other_replica() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let ann = replicas.user("ann").await;
        let (token, hash) = replicas.token(0, Principal::User(ann.id)).await.unwrap();
        let [one, two] = &replicas.stores;
        let found = TokenStore::find(two, hash).await.unwrap().unwrap();
        assert_eq!((&found.token, &found.owner), (&token, &FoundOwner::User(ann)));
        assert_eq!(found.token.networks.to_string(), "192.0.2.0/24");
        assert!(TokenStore::revoke(one, &replicas.permit(Verb::Revoke), token.id).await.unwrap());
        assert!(!TokenStore::revoke(two, &replicas.permit(Verb::Revoke), token.id).await.unwrap());
        assert_eq!(TokenStore::find(two, hash).await.unwrap(), None);
        assert_eq!(TokenStore::get(two, token.id).await.unwrap(), None);
        verify(&replicas.db.entries().await);
    }
}

/// The service account is out of use without an owner, and in use again with another one.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_service_account_follow_its_owner() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let (admin, ann) = (replicas.user("admin").await, replicas.user("ann").await);
        let account = replicas.account(&ann).await;
        let (_, hash) = replicas.token(0, Principal::ServiceAccount(account.id)).await.unwrap();
        let ([one, two], ports) = (&replicas.stores, &replicas.ports[0]);
        let owner = async || TokenStore::find(two, hash).await.unwrap().unwrap().owner;
        assert_eq!(
            owner().await,
            FoundOwner::ServiceAccount { account: account.clone(), owner_enabled: true }
        );
        assert_eq!(TokenStore::list(two, Some(ann.id)).await.unwrap().len(), 1);
        assert!(TokenStore::list(two, Some(admin.id)).await.unwrap().is_empty());

        ports.users.delete(&ports.people(), ann.id).await.unwrap();
        let ownerless = ServiceAccount { owner_user_id: None, owner: None, ..account.clone() };
        assert_eq!(owner().await, FoundOwner::ServiceAccount { account: ownerless, owner_enabled: false });
        let patch = ServiceAccountPatch { owner_user_id: Some(admin.id), ..ServiceAccountPatch::default() };
        ServiceAccountStore::update(one, &ports.people(), account.id, patch).await.unwrap();
        assert!(owner().await.is_enabled());

        ServiceAccountStore::delete(one, &ports.people(), account.id).await.unwrap();
        assert_eq!(TokenStore::find(two, hash).await.unwrap(), None);
        assert_eq!(replicas.live_tokens().await, 0);
        verify(&replicas.db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_outlives_its_owner() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        replicas.user("admin").await;
        let ports = &replicas.ports[1];
        for n in 0..20 {
            let ann = replicas.user(&format!("ann-{n}")).await;
            let permit = ports.people();
            let created = replicas.token(0, Principal::User(ann.id));
            let (created, deleted) = join(created, ports.users.delete(&permit, ann.id)).await;
            deleted.unwrap();
            assert!(created.is_ok() || created.unwrap_err().cause == Cause::NotFound);
            assert_eq!(replicas.live_tokens().await, 0);
        }
        verify(&replicas.db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_tokens_of_an_owner_are_limited_at_all_replicas() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let ann = replicas.user("ann").await;
        for n in 1..ApiToken::MAX_LIVE {
            replicas.token(n % 2, Principal::User(ann.id)).await.unwrap();
        }
        let created = join_all((0..4).map(|n| replicas.token(n % 2, Principal::User(ann.id)))).await;
        let (made, refused): (Vec<_>, Vec<_>) = created.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        assert!(refused.into_iter().all(|refused| refused.unwrap_err().cause == Cause::TooMany));
        // another owner has a limit of their own
        let ben = replicas.user("ben").await;
        replicas.token(0, Principal::User(ben.id)).await.unwrap();
        let ports = &replicas.ports[1];
        let (password, by) = (PasswordHash::new("other hash".to_owned()), SetBy::Administrator);
        ports.users.set_password(&ports.people(), ann.id, password, by, ports.now()).await.unwrap();
        assert_eq!(replicas.live_tokens().await, 1, "a reset password revokes the tokens of its user");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_is_used_once_at_all_replicas_and_after_a_restart() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let ports = &replicas.ports[0];
        let mei = sign_in(ports, &*replicas.db.deps.rng, "mei").await.unwrap();
        let enrolment = ports.second_factors.find(mei.id).await.unwrap().unwrap().enrolment;
        let session = ports.sessions.list(Some(mei.id)).await.unwrap()[0].0.id;
        let recovery = vec![SecretHash::of("one"), SecretHash::of("two")];
        let confirmation = Confirmation { enrolment, step: 100, recovery, session };
        let permit = ports.permit(AccessRequest::to(Verb::Enroll, Resource::OwnSecondFactor).named("mei"));
        ports.second_factors.confirm(&permit, mei.id, confirmation).await.unwrap();

        let uses = [FactorUse::Step(101), FactorUse::Recovery(SecretHash::of("one"))];
        for factor_use in uses {
            let used =
                join_all((0..16).map(|n| replicas.ports[n % 2].second_factors.spend(mei.id, factor_use)));
            let used = used.await.into_iter().filter(|used| *used.as_ref().unwrap()).count();
            assert_eq!(used, 1, "{factor_use:?}");
        }
        let reopened = StorePorts::over(Arc::new(replicas.db.open().await));
        for used in uses {
            assert!(!reopened.second_factors.spend(mei.id, used).await.unwrap(), "{used:?} after a restart");
        }
        let unused = FactorUse::Recovery(SecretHash::of("two"));
        assert!(reopened.second_factors.spend(mei.id, unused).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_sign_ins_of_a_person_at_several_replicas_create_one_user() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let rng = &*replicas.db.deps.rng;
        let signed_in = join_all((0..8).map(|n| sign_in(&replicas.ports[n % 2], rng, "mei"))).await;
        let ids: Vec<_> = signed_in.into_iter().map(|user| user.unwrap().id).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        verify(&replicas.db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_reads_a_person_again() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let rng = &*replicas.db.deps.rng;
        for n in 0..20 {
            sign_in(&replicas.ports[0], rng, &format!("mei-{n}")).await.unwrap();
        }
        let now = replicas.ports[0].now() + Duration::from_secs(600);
        let claim = |limit| ConfirmationClaim {
            provider: ProviderId::new("corp").unwrap(),
            kind: ProviderKind::Oidc,
            before: now - Duration::from_secs(540),
            live: liveness(now),
            limit,
        };
        let claims = join_all((0..8).map(|n| replicas.ports[n % 2].federation.claim_due(claim(5)))).await;
        let mut claimed: Vec<_> = claims.into_iter().flat_map(Result::unwrap).collect();
        // a claim that loses all its rows to others is empty
        claimed.extend(replicas.ports[0].federation.claim_due(claim(100)).await.unwrap());
        let mut subjects: Vec<_> = claimed.into_iter().map(|due| due.subject).collect();
        subjects.sort();
        let count = subjects.len();
        subjects.dedup();
        assert_eq!((subjects.len(), count), (20, 20), "each person once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn break_glass_is_limited_over_all_replicas() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let ann = replicas.user("ann").await;
        let ports = &replicas.ports[0];
        let prod = cluster(ports, "prod", Credential::Token("token".into()));
        let access = AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod");
        let prod = ports.clusters.create(&ports.permit(access), prod).await.unwrap().id;
        let uses = join_all((0..8).map(|n| replicas.break_glass(n % 2, ann.id, prod))).await;
        let (made, refused): (Vec<_>, Vec<_>) = uses.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), BreakGlassRow::MAX_USES);
        assert!(refused.into_iter().all(|refused| refused.unwrap_err().cause == Cause::TooMany));
        let grants = ports.grants.list(Some(Subject::User(ann.id)), None).await.unwrap();
        assert_eq!(grants.len(), BreakGlassRow::MAX_USES, "a refused use leaves no grant");
        verify(&replicas.db.entries().await);
    }
}

/// Refresh tokens and seeds are sealed, and are in no file of the database after the session or the second factor has
/// ended.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_person_are_sealed_and_removed() {
    let replicas = Replicas::on(TestDatabase::sqlite()).await;
    let ports = &replicas.ports[0];
    let mei = sign_in(ports, &*replicas.db.deps.rng, "mei").await.unwrap();
    let is_in_files = |bytes: &[u8]| {
        let files = fs::read_dir(replicas.db.directory.path()).unwrap().map(|file| file.unwrap().path());
        files
            .map(|file| fs::read(file).unwrap())
            .any(|file| file.windows(bytes.len()).any(|part| part == bytes))
    };
    let seed = *seed_of("mei").bytes();
    let plain: [&[u8]; 2] = [b"refresh token of mei", &seed];
    // the fake sealer encodes each byte
    let sealed = plain.map(|bytes| bytes.iter().map(|byte| byte ^ 0xa5).collect::<Vec<_>>());
    assert!(plain.iter().all(|bytes| !is_in_files(bytes)));
    assert!(sealed.iter().all(|bytes| is_in_files(bytes)));

    let provider = ProviderId::new("corp").unwrap();
    let token = LogoutToken { jti: SecretHash::of("jti"), valid_until: ports.now() };
    let ended = EndedSessions::Named { provider, subject: Some("mei".to_owned()), sid: None, token };
    let permit = ports.permit(AccessRequest::to(Verb::Revoke, Resource::Session).named("mei"));
    let withdrawn = ports.federation.withdraw(&permit, ended, liveness(ports.now())).await.unwrap();
    assert_eq!(withdrawn, Some(1));
    let disable = ports.permit(AccessRequest::to(Verb::Disable, Resource::OwnSecondFactor).named("mei"));
    ports.second_factors.remove(&disable, mei.id, None).await.unwrap();
    assert!(ports.federation.confirmed_at(mei.id).await.unwrap().is_none());
    assert!(replicas.stores[0].scrub().await.unwrap());
    assert!(sealed.iter().all(|bytes| !is_in_files(bytes)));
}

/// Clients at many addresses cannot keep others from signing in.
#[tokio::test(flavor = "multi_thread")]
async fn pending_login_beyond_the_maximum_replaces_the_oldest() {
    for db in TestDatabase::all() {
        let ports = StorePorts::over(Arc::new(db.open().await));
        let (corp, browser) = (ProviderId::new("corp").unwrap(), secret(&*db.deps.rng));
        let [first, second, third] = [(); 3].map(|()| secret(&*db.deps.rng));
        let pending = |state, to: &str, seconds| {
            let at = ports.now() + Duration::from_secs(seconds);
            PendingLogin {
                provider: corp.clone(),
                state,
                browser,
                to: to.to_owned(),
                address: None,
                at,
                expires_at: at + Duration::from_secs(600),
            }
        };
        ports.federation.begin(pending(first, "/first", 0)).await.unwrap();
        ports.federation.begin(pending(second, "/second", 1)).await.unwrap();
        let another = match &db.url {
            Some(_) => "decode(md5(i::text) || md5(i::text), 'hex')",
            None => "randomblob(32)",
        };
        let others = MAX_PENDING_LOGINS - 2;
        let fill = format!(
            "WITH RECURSIVE numbers(i) AS \
             (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {others}) \
             INSERT INTO oidc_logins (state, provider, browser, target, created_at, expires_at) \
             SELECT {another}, provider, browser, target, created_at, expires_at \
             FROM numbers, oidc_logins WHERE target = '/second'"
        );
        db.execute(&fill).await.unwrap();
        ports.federation.begin(pending(third, "/third", 2)).await.unwrap();
        let count = db.count("SELECT count(*) AS n FROM oidc_logins").await;
        assert_eq!(count.unsigned_abs(), MAX_PENDING_LOGINS as u64);
        let take = async |state| ports.federation.take(&corp, state, browser, ports.now()).await.unwrap();
        assert_eq!(take(first).await, None, "the oldest");
        assert_eq!(take(second).await.as_deref(), Some("/second"));
        assert_eq!(take(third).await.as_deref(), Some("/third"));
    }
}
