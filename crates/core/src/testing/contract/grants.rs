use std::time::Duration;

use futures_util::future::{join, join_all};

use super::{StorePorts, requests};
use crate::{
    error::{Cause, Result},
    grant::{Decision, GrantRecord, RightsStamp},
    ids::{ClusterId, GrantId, ServiceAccountId, UserId},
    namespaces::NamespacePattern,
    rights::{ClusterScope, Grant, GrantSource, GrantState, LabelTerms, Reach, RoleName, Subject},
    role::Role,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn role(name: &str) -> RoleName {
    RoleName::new(name).unwrap()
}

/// A grant of the built-in role `viewer` in one namespace of cluster 1.
pub(super) fn record(subject: Subject) -> GrantRecord {
    let patterns = vec![NamespacePattern::parse("shop").unwrap()];
    GrantRecord {
        subject,
        role: role("viewer"),
        clusters: ClusterScope::Ids([ClusterId(1)].into()),
        reach: Reach::try_from(patterns).unwrap(),
        from: None,
        until: None,
        reason: None,
    }
}

impl StorePorts {
    pub(super) async fn grant(&self, record: GrantRecord) -> Result<Grant> {
        self.grants.create(&self.people(), record, None).await
    }

    async fn grants_of(&self, subject: &Subject) -> Vec<Grant> {
        self.grants.list(Some(subject.clone()), None).await.unwrap()
    }

    async fn live_grants(&self, subject: &Subject) -> usize {
        self.grants.list(Some(subject.clone()), Some(self.now())).await.unwrap().len()
    }
}

pub(super) async fn created_grant_is_found(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let of_user = Subject::User(user.id);
    let first = ports.grant(record(of_user.clone())).await.unwrap();
    let GrantRecord { role, clusters, reach, .. } = record(of_user.clone());
    assert_eq!(
        (&first.subject, &first.role, &first.clusters, &first.reach),
        (&of_user, &role, &clusters, &reach)
    );
    assert_eq!((first.from, first.until, &first.reason), (ports.now(), None, &None));
    assert_eq!((first.created_at, &*first.created_by), (ports.now(), "system"), "as in the audit row");
    assert_eq!((&first.source, first.revoked_at, &first.revoked_by), (&GrantSource::Manual, None, &None));

    let devs = Subject::group("corp", "devs: \"A\"").unwrap();
    let bot = Subject::ServiceAccount(ports.account("bot", user.id).await.id);
    let others = [
        GrantRecord {
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            from: Some(ports.now() + HOUR),
            until: Some(ports.now() + 2 * HOUR),
            reason: Some("演练".to_owned()),
            ..record(devs.clone())
        },
        GrantRecord {
            clusters: ClusterScope::Labels(LabelTerms::parse("environment in (dev,staging)").unwrap()),
            ..record(bot.clone())
        },
    ];
    let mut all = vec![first];
    for other in others {
        let grant = ports.grant(other.clone()).await.unwrap();
        assert!(grant.id > all.last().unwrap().id);
        assert_eq!((&grant.clusters, &grant.reach), (&other.clusters, &other.reach));
        assert_eq!((grant.from, grant.until), (other.from.unwrap_or(ports.now()), other.until));
        assert_eq!((&grant.subject, &grant.reason), (&other.subject, &other.reason));
        assert_eq!(ports.grants.find(grant.id).await.unwrap().as_ref(), Some(&grant));
        all.push(grant);
    }
    for (subject, grant) in [of_user, devs, bot].iter().zip(&all) {
        assert_eq!(ports.grants_of(subject).await, std::slice::from_ref(grant), "{subject:?}");
    }
    assert_eq!(ports.grants.list(None, None).await.unwrap(), all);
    assert_eq!(ports.grants.find(GrantId(1_000_000)).await.unwrap(), None);
}

pub(super) async fn a_group_is_of_one_provider(ports: &StorePorts) {
    let group = |provider, name| Subject::group(provider, name).unwrap();
    let subjects =
        [group("ldap", "ops"), group("oidc", "ops"), group("ldap", "Ops"), group("ldap", "oidc:ops")];
    for subject in &subjects {
        ports.grant(record(subject.clone())).await.unwrap();
    }
    for subject in &subjects {
        let found = ports.grants_of(subject).await;
        assert_eq!(found.iter().map(|grant| &grant.subject).collect::<Vec<_>>(), [subject]);
    }
}

pub(super) async fn grant_needs_an_existing_subject_and_role(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let before = ports.operations().await.len();
    let refused = [
        record(Subject::User(UserId(1_000_000))),
        record(Subject::ServiceAccount(ServiceAccountId(1_000_000))),
        GrantRecord { role: role("no-such-role"), ..record(Subject::User(user.id)) },
    ];
    for record in refused {
        assert_eq!(ports.grant(record).await.unwrap_err().cause, Cause::NotFound);
    }
    assert!(ports.grants.list(None, None).await.unwrap().is_empty());
    assert_eq!(ports.operations().await.len(), before, "the store writes no row for a refusal");
}

pub(super) async fn revoked_and_ended_grants_are_not_live(ports: &StorePorts) {
    let user = Subject::User(ports.user("ann", Role::None).await.id);
    let lasting = ports.grant(record(user.clone())).await.unwrap();
    let until = Some(ports.now() + HOUR);
    let ending = ports.grant(GrantRecord { until, ..record(user.clone()) }).await.unwrap();
    let from = Some(ports.now() + 2 * HOUR);
    ports.grant(GrantRecord { from, ..record(user.clone()) }).await.unwrap();
    assert_eq!(ports.live_grants(&user).await, 3, "a future grant is live");

    ports.runtime.clock.advance(HOUR);
    assert_eq!(ports.live_grants(&user).await, 2, "a grant has ended at its `until`");
    let revoked = ports.grants.revoke(&ports.people(), lasting.id).await.unwrap();
    assert_eq!((revoked.revoked_at, revoked.revoked_by.as_deref()), (Some(ports.now()), Some("system")));
    assert_eq!(revoked.state(ports.now()), GrantState::Revoked);
    assert_eq!(ports.live_grants(&user).await, 1);

    // a second revocation, or that of a grant that has ended, changes nothing
    ports.runtime.clock.advance(Duration::from_secs(1));
    assert_eq!(ports.grants.revoke(&ports.people(), lasting.id).await.unwrap(), revoked);
    assert_eq!(ports.grants.revoke(&ports.people(), ending.id).await.unwrap(), ending);
    assert_eq!(ports.grants_of(&user).await.len(), 3, "rows stay");
    let absent = ports.grants.revoke(&ports.people(), GrantId(1_000_000)).await;
    assert_eq!(absent.unwrap_err().cause, Cause::NotFound);
}

pub(super) async fn live_grants_of_a_subject_are_limited(ports: &StorePorts) {
    let user = Subject::User(ports.user("ann", Role::None).await.id);
    let other = Subject::User(ports.user("bob", Role::None).await.id);
    let ending = GrantRecord { until: Some(ports.now() + HOUR), ..record(user.clone()) };
    ports.grant(ending).await.unwrap();
    let mut first = None;
    for _ in 0..Grant::MAX_LIVE - 3 {
        first = Some(ports.grant(record(user.clone())).await.unwrap().id);
    }
    // two places are left
    let made = join_all((0..6).map(|_| ports.grant(record(user.clone())))).await;
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 2);
    assert!(made.iter().flat_map(|made| made.as_ref().err()).all(|error| error.cause == Cause::TooMany));
    assert_eq!(ports.live_grants(&user).await, Grant::MAX_LIVE);
    ports.grant(record(other)).await.unwrap();

    ports.grants.revoke(&ports.people(), first.unwrap()).await.unwrap();
    ports.grant(record(user.clone())).await.unwrap();
    assert_eq!(ports.grant(record(user.clone())).await.unwrap_err().cause, Cause::TooMany);
    ports.runtime.clock.advance(HOUR);
    ports.grant(record(user)).await.unwrap();
}

pub(super) async fn gift_is_stored_only_under_the_stamp_it_was_judged_by(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let subject = Subject::User(user.id);
    let stamp = async || ports.rights.rights(&[], ports.now()).await.unwrap().stamp;
    let create = async |judged: RightsStamp| {
        let grant = record(Subject::User(user.id));
        ports.grants.create(&ports.people(), grant, Some(judged)).await.map(drop)
    };
    let cause = |result: Result<()>| result.unwrap_err().cause;
    let old = stamp().await;
    create(old).await.unwrap();
    assert_eq!(cause(create(old).await), Cause::Modified, "a grant was made since");

    let request = ports.request(requests::record(user.id, "viewer")).await.unwrap();
    let approve = async |judged: RightsStamp| {
        let decided =
            ports.requests.decide(&ports.people(), request.id, Decision::Approve, None, Some(judged)).await;
        decided.map(drop)
    };
    assert_eq!(cause(approve(old).await), Cause::Modified);
    assert_eq!(ports.live_grants(&subject).await, 1);
    approve(stamp().await).await.unwrap();

    let judged = stamp().await;
    let (one, other) = join(create(judged), create(judged)).await;
    assert_eq!(one.is_ok(), other.is_err(), "one of two that were judged by the same rights");
    assert_eq!(cause(one.and(other)), Cause::Modified);
    assert_eq!(ports.live_grants(&subject).await, 3);
}

pub(super) async fn deleting_a_user_revokes_the_grants(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("ann", Role::None).await;
    let bot = ports.account("bot", user.id).await;
    let (of_user, other) = (Subject::User(user.id), Subject::ServiceAccount(bot.id));
    let until = Some(ports.now() + HOUR);
    let ended = ports.grant(GrantRecord { until, ..record(of_user.clone()) }).await.unwrap();
    ports.grant(record(other.clone())).await.unwrap();
    let live = ports.grant(record(of_user.clone())).await.unwrap();
    ports.runtime.clock.advance(HOUR);
    ports.users.delete(&ports.people(), user.id).await.unwrap();
    let revoked = Grant { revoked_at: Some(ports.now()), revoked_by: Some("system".to_owned()), ..live };
    assert_eq!(ports.grants_of(&of_user).await, [ended, revoked]);
    assert_eq!(ports.live_grants(&other).await, 1);
    assert_eq!(ports.grant(record(of_user)).await.unwrap_err().cause, Cause::NotFound);
}

/// No live grant is left of a deleted user.
pub(super) async fn grant_races_with_the_deletion_of_its_user(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    for n in 0..10 {
        let user = ports.user(&format!("ann-{n}"), Role::None).await;
        let subject = Subject::User(user.id);
        let permit = ports.people();
        let (granted, deleted) =
            join(ports.grant(record(subject.clone())), ports.users.delete(&permit, user.id)).await;
        deleted.unwrap();
        assert!(
            granted.map_or_else(|error| error.cause == Cause::NotFound, |grant| grant.subject == subject)
        );
        assert_eq!(ports.live_grants(&subject).await, 0);
    }
}
