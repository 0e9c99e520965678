//! Rights at several replicas: limits, decisions and reads under concurrent changes.

#![allow(clippy::unwrap_used, reason = "tests panic")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{TestDatabase, cluster, user, verify};
use futures_util::{
    future::{BoxFuture, join, join_all},
    poll,
};
use pilothouse_core::{
    Cause, Result,
    access::{AccessRequest, Resource, Verb},
    cluster::ClusterPatch,
    connection::Credential,
    grant::{Decision, GrantRecord, GrantRequest, RequestRecord, RequestState, RolePatch, RoleRecord},
    rights::{ClusterScope, Reach, RightResource, RoleName, RoleRule, RoleRules, Subject, Verbs},
    session::{SecretHash, SessionRecord},
    testing::contract::StorePorts,
    user::{PasswordHash, User, UserPatch},
};
use secrecy::SecretString;

fn role() -> RoleName {
    RoleName::new("restarter").unwrap()
}

fn rules(resource: RightResource) -> RoleRules {
    RoleRules::new(vec![RoleRule { verbs: Verbs::COMMON, resources: vec![resource] }]).unwrap()
}

async fn set_rules(ports: &StorePorts, resource: RightResource) {
    let patch = RolePatch { description: None, rules: Some(rules(resource)) };
    ports.roles.update(&ports.people(), &role(), patch).await.unwrap();
}

/// Two replicas on one database, with a user and an own role.
struct Replicas {
    db: TestDatabase,
    one: StorePorts,
    two: StorePorts,
    user: User,
}

impl Replicas {
    async fn on(db: TestDatabase) -> Self {
        let ports = async || StorePorts::over(Arc::new(db.open().await));
        let (one, two) = (ports().await, ports().await);
        let user = one.users.create(&one.people(), user(&one, "ann")).await.unwrap();
        let record =
            RoleRecord { name: role(), description: String::new(), rules: rules(RightResource::Config) };
        one.roles.create(&one.people(), record).await.unwrap();
        Self { db, one, two, user }
    }

    fn subject(&self) -> Subject {
        Subject::User(self.user.id)
    }

    fn record(&self) -> GrantRecord {
        GrantRecord {
            subject: self.subject(),
            role: role(),
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            from: None,
            until: None,
            reason: None,
        }
    }

    async fn request(&self) -> GrantRequest {
        self.try_request().await.unwrap()
    }

    async fn try_request(&self) -> Result<GrantRequest> {
        let record = RequestRecord {
            user_id: self.user.id,
            role: role(),
            clusters: ClusterScope::All,
            reach: Reach::Cluster,
            duration_seconds: 3600,
            reason: "outage".to_owned(),
        };
        self.one.requests.create(&self.one.people(), record).await
    }

    /// Number of grants, less the number of approved requests. Zero: no approval is stored in part.
    async fn difference(&self) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM grants) \
            - (SELECT count(*) FROM grant_requests WHERE status = 'approved') AS n";
        self.db.count(sql).await
    }

    /// Opens a session and returns the hash of its cookie.
    async fn session(&self) -> SecretHash {
        let secret = || {
            let mut bytes = [0; 32];
            self.db.deps.rng.fill(&mut bytes);
            SecretHash(bytes)
        };
        let (at, cookie) = (self.one.now(), secret());
        let record = SessionRecord {
            user_id: self.user.id,
            cookie,
            refresh: secret(),
            source_ip: None,
            user_agent: None,
            at,
            expires_at: at + Duration::from_secs(3600),
            authenticated_at: at,
            factor_at: None,
            throttle_key: None,
        };
        let permit = self.one.permit(AccessRequest::to(Verb::Login, Resource::Session).named("ann"));
        let verified = PasswordHash::new("hash".to_owned());
        self.one.sessions.open(&permit, record, &verified).await.unwrap();
        cookie
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_decides_a_request() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        for n in 1..=20 {
            let request = replicas.request().await;
            let decide = async |ports: &StorePorts| {
                ports.requests.decide(&ports.people(), request.id, Decision::Approve, None, None).await
            };
            let (one, two) = join(decide(&replicas.one), decide(&replicas.two)).await;
            assert_eq!(one.is_ok(), two.is_err(), "one of two concurrent approvals succeeds");
            assert_eq!(one.and(two).unwrap_err().cause, Cause::RequestDecided);
            assert_eq!(replicas.two.grants.list(None, None).await.unwrap().len(), n);
        }
        verify(&replicas.db.entries().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_at_one_replica_is_read_at_the_other() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let Replicas { one, two, .. } = &replicas;
        let cookie = replicas.session().await;
        let stamp = async |ports: &StorePorts| ports.sessions.find(cookie).await.unwrap().unwrap().rights;
        let rows =
            async |ports: &StorePorts| ports.rights.rights(&[replicas.subject()], ports.now()).await.unwrap();
        let grant = one.grants.create(&one.people(), replicas.record(), None).await.unwrap();
        let before = stamp(two).await;
        assert_eq!((rows(two).await.grants.len(), rows(two).await.stamp), (1, before));
        one.grants.revoke(&one.people(), grant.id).await.unwrap();
        assert_ne!(stamp(two).await, before);
        assert_eq!(stamp(two).await, stamp(one).await);
        assert!(rows(two).await.grants.is_empty());
    }
}

/// The role has the wide rules only while no grant of it is live. A read that combined the grants of one moment with
/// the rules of another would give rights that nobody had.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_rights_are_of_one_moment() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let (one, record) = (replicas.one.clone(), replicas.record());
        let writer = tokio::spawn(async move {
            for _ in 0..50 {
                let grant = one.grants.create(&one.people(), record.clone(), None).await.unwrap();
                one.grants.revoke(&one.people(), grant.id).await.unwrap();
                set_rules(&one, RightResource::Secrets).await;
                set_rules(&one, RightResource::Config).await;
            }
        });
        let mut reads = 0;
        while !writer.is_finished() {
            let rows = replicas.two.rights.rights(&[replicas.subject()], replicas.two.now()).await.unwrap();
            assert!(rows.grants.iter().all(|grant| *grant.rules == rules(RightResource::Config)), "{rows:?}");
            reads += 1;
        }
        writer.await.unwrap();
        assert!(reads > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_approval_is_complete_or_absent() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let Replicas { one, .. } = &replicas;
        for n in 0..40 {
            let request = replicas.request().await;
            let permit = one.people();
            let mut approval =
                Box::pin(one.requests.decide(&permit, request.id, Decision::Approve, None, None));
            // polled at most `n` times, then dropped
            for _ in 0..n {
                if poll!(&mut approval).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(approval);
            assert_eq!(replicas.difference().await, 0);
        }
        verify(&replicas.db.entries().await);
    }
}

/// Repeats a call until it succeeds.
async fn retried<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_leave_no_partial_approval() {
    let Some(db) = TestDatabase::postgres() else { return };
    let replicas = Replicas::on(db).await;
    for n in 0..20 {
        let id = retried(async || replicas.try_request().await).await.id;
        let ports = replicas.one.clone();
        let approval = tokio::spawn(async move {
            ports.requests.decide(&ports.people(), id, Decision::Approve, None, None).await
        });
        tokio::time::sleep(Duration::from_micros(500 * n)).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'pilothouse'";
        replicas.db.execute(kill).await.unwrap();
        let approved = approval.await.unwrap();
        let stored = retried(async || replicas.one.requests.find(id, replicas.one.now()).await).await;
        // the approval may be stored although the confirmation was lost
        assert!(approved.is_err() || stored.unwrap().state == RequestState::Approved);
        assert_eq!(replicas.difference().await, 0);
    }
    verify(&replicas.db.entries().await);
}

/// All transactions lock the rights stamp before other rows, so none of them is ended as the victim of a deadlock.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_of_rights_succeed() {
    for db in TestDatabase::all() {
        let replicas = Replicas::on(db).await;
        let Replicas { one, two, .. } = &replicas;
        let credential = Credential::Token(SecretString::from("token"));
        let access = AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("prod").named("prod");
        let cluster =
            one.clusters.create(&one.permit(access), cluster(one, "prod", credential)).await.unwrap();
        let granted = one.grants.create(&one.people(), replicas.record(), None).await.unwrap();
        for n in 0..20 {
            let relabel = || ClusterPatch {
                labels: Some([("n".to_owned(), n.to_string())].into()),
                ..ClusterPatch::default()
            };
            let rename = || UserPatch { display_name: Some(n.to_string()), ..UserPatch::default() };
            let changes = [one, two].into_iter().flat_map(|ports| {
                let on_cluster = AccessRequest::to(Verb::Update, Resource::Cluster).in_cluster(cluster.id);
                let (relabel, rename, replicas) = (relabel(), rename(), &replicas);
                let changes: [BoxFuture<'_, Result<()>>; 6] = [
                    Box::pin(async move {
                        ports.grants.create(&ports.people(), replicas.record(), None).await.map(drop)
                    }),
                    Box::pin(async move { ports.grants.revoke(&ports.people(), granted.id).await.map(drop) }),
                    Box::pin(async move {
                        ports.roles.update(&ports.people(), &role(), RolePatch::default()).await.map(drop)
                    }),
                    Box::pin(async move {
                        let id = replicas.user.id;
                        ports.users.update(&ports.people(), id, rename, ports.now()).await.map(drop)
                    }),
                    Box::pin(async move {
                        ports.clusters.update(&ports.permit(on_cluster), relabel, ports.now()).await.map(drop)
                    }),
                    Box::pin(async move {
                        replicas.session().await;
                        Ok(())
                    }),
                ];
                changes
            });
            for changed in join_all(changes).await {
                changed.unwrap();
            }
        }
        verify(&replicas.db.entries().await);
    }
}
