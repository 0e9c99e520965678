use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    StorePorts,
    grants::{record, role},
    requests,
    roles::rules,
};
use crate::{
    access::{AccessRequest, Resource, Verb},
    cluster::{Cluster, ClusterPatch},
    grant::{Decision, GrantRecord, RightsRows, RightsStamp, RolePatch},
    rights::{BuiltInRole, ClusterScope, EffectiveGrant, Rights, Subject},
    role::Role,
    session::SecretHash,
    user::{User, UserPatch},
};

fn labels(environment: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("environment".to_owned(), environment.to_owned())])
}

impl StorePorts {
    async fn rows(&self, subjects: &[Subject]) -> RightsRows {
        self.rights.rights(subjects, self.now()).await.unwrap()
    }

    /// The stamp as a request reads it.
    async fn stamp(&self, cookie: SecretHash) -> RightsStamp {
        self.sessions.find(cookie).await.unwrap().unwrap().rights
    }

    async fn relabel(&self, cluster: &Cluster, environment: &str) {
        let access = AccessRequest::to(Verb::Update, Resource::Cluster).in_cluster(cluster.id);
        let patch = ClusterPatch { labels: Some(labels(environment)), ..ClusterPatch::default() };
        self.clusters.update(&self.permit(access), patch, self.now()).await.unwrap();
    }

    async fn update_user(&self, user: &User, patch: UserPatch) {
        self.users.update(&self.people(), user.id, patch, self.now()).await.unwrap();
    }
}

pub(super) async fn rights_are_live_grants_with_rules_and_labels(ports: &StorePorts) {
    let cluster = ports.register(ports.record("prod")).await;
    ports.relabel(&cluster, "prod").await;
    let user = Subject::User(ports.user("ann", Role::Viewer).await.id);
    let group = Subject::group("ldap", "ops").unwrap();
    let subjects = [user.clone(), group.clone()];
    let empty = ports.rows(&subjects).await;
    assert_eq!((empty.grants, empty.labels), (vec![], BTreeMap::from([(cluster.id, labels("prod"))])));

    ports.role("restarter").await.unwrap();
    let own = ports.grant(GrantRecord { role: role("restarter"), ..record(user.clone()) }).await.unwrap();
    let from = Some(ports.now() + Duration::from_secs(60));
    let future = ports.grant(GrantRecord { from, ..record(group) }).await.unwrap();
    let until = Some(ports.now() + Duration::from_secs(1));
    ports.grant(GrantRecord { until, ..record(user.clone()) }).await.unwrap();
    let revoked = ports.grant(record(user.clone())).await.unwrap();
    ports.grants.revoke(&ports.people(), revoked.id).await.unwrap();
    ports.grant(record(Subject::group("ldap", "devs").unwrap())).await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(1));
    let expected = [
        EffectiveGrant::of(&own, Arc::new(rules("workloads"))),
        EffectiveGrant::of(&future, Arc::new(BuiltInRole::Viewer.rules())),
    ];
    assert_eq!(ports.rows(&subjects).await.grants, expected);
    assert_eq!(ports.rows(&[user]).await.grants, expected[..1]);
    assert!(ports.rows(&[]).await.grants.is_empty());

    let patch = RolePatch { description: None, rules: Some(rules("config")) };
    ports.roles.update(&ports.people(), &role("restarter"), patch).await.unwrap();
    assert_eq!(*ports.rows(&subjects).await.grants[0].rules, rules("config"));
}

pub(super) async fn rights_leave_out_deleted_clusters(ports: &StorePorts) {
    let kept = ports.register(ports.record("kept")).await.id;
    let deleted = ports.register(ports.record("deleted")).await.id;
    let user = Subject::User(ports.user("ann", Role::None).await.id);
    let clusters = ClusterScope::Ids([kept, deleted].into());
    ports.grant(GrantRecord { clusters, ..record(user.clone()) }).await.unwrap();
    let access = AccessRequest::to(Verb::Delete, Resource::Cluster).in_cluster(deleted);
    ports.clusters.delete(&ports.permit(access)).await.unwrap();
    let new = ports.register(ports.record("deleted")).await.id;
    assert_ne!(new, deleted, "an id is not used again");
    let rows = ports.rows(&[user]).await;
    assert_eq!(rows.grants.len(), 1, "the grant stays");
    let rights = Rights::compile(&rows.grants, &rows.labels, ports.now());
    assert_eq!([kept, deleted, new].map(|id| rights.sees(id)), [true, false, false]);
}

pub(super) async fn each_change_of_rights_changes_the_stamp(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("ann", Role::None).await;
    let subject = Subject::User(user.id);
    let (_, cookie, _) = ports.session(&admin).await;
    let mut seen = vec![ports.stamp(cookie).await];
    macro_rules! changes {
        ($($change:expr;)+) => {$(
            $change;
            let stamp = ports.stamp(cookie).await;
            assert!(!seen.contains(&stamp), "{}", stringify!($change));
            assert_eq!(ports.rows(&[]).await.stamp, stamp);
            seen.push(stamp);
        )+};
    }
    let (cluster, grant);
    let request = ports.request(requests::record(user.id, "viewer")).await.unwrap();
    changes! {
        grant = ports.grant(record(subject.clone())).await.unwrap();
        ports.grants.revoke(&ports.people(), grant.id).await.unwrap();
        ports.decide(request.id, Decision::Approve).await.unwrap();
        ports.role("restarter").await.unwrap();
        ports.roles.update(&ports.people(), &role("restarter"), RolePatch::default()).await.unwrap();
        ports.roles.delete(&ports.people(), &role("restarter")).await.unwrap();
        cluster = ports.register(ports.record("prod")).await;
        ports.relabel(&cluster, "prod").await;
        ports.update_user(&user, UserPatch { role: Some(Role::Viewer), ..UserPatch::default() }).await;
        ports.users.delete(&ports.people(), user.id).await.unwrap();
    }
    let access = AccessRequest::to(Verb::Delete, Resource::Cluster).in_cluster(cluster.id);
    changes! {
        ports.clusters.delete(&ports.permit(access)).await.unwrap();
    }
}

pub(super) async fn other_changes_keep_the_stamp(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let cluster = ports.register(ports.record("prod")).await;
    let (_, cookie, _) = ports.session(&admin).await;
    let before = ports.stamp(cookie).await;
    let user = ports.user("ann", Role::None).await;
    for decision in [Decision::Deny, Decision::Withdraw] {
        let request = ports.request(requests::record(user.id, "viewer")).await.unwrap();
        ports.decide(request.id, decision).await.unwrap();
    }
    ports
        .grant(GrantRecord { role: role("no-such-role"), ..record(Subject::User(user.id)) })
        .await
        .unwrap_err();
    let access = AccessRequest::to(Verb::Update, Resource::Cluster).in_cluster(cluster.id);
    let patch = ClusterPatch { description: Some("新".to_owned()), ..ClusterPatch::default() };
    ports.clusters.update(&ports.permit(access), patch, ports.now()).await.unwrap();
    ports.session(&user).await;
    assert_eq!(ports.stamp(cookie).await, before);
}
