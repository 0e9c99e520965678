use std::time::Duration;

use futures_util::future::{join, join_all};

use super::StorePorts;
use crate::{
    access::{AccessRequest, Permit, Resource, Verb},
    break_glass::{BreakGlassRecord, BreakGlassRow},
    error::{Cause, Result},
    ids::{BreakGlassId, ClusterId, UserId},
    rights::{ClusterScope, GrantSource, Reach, Rights, Subject},
    role::Role,
    user::UserPatch,
};

impl StorePorts {
    fn breaking(&self) -> Permit {
        self.permit(AccessRequest::to(Verb::BreakGlass, Resource::Grant).named("user"))
    }

    async fn break_glass_in(&self, user_id: UserId, cluster: ClusterId) -> Result<BreakGlassRow> {
        let record = BreakGlassRecord { user_id, cluster, reason: "节点故障".to_owned() };
        self.break_glass.open(&self.breaking(), record).await
    }

    async fn review(&self, id: BreakGlassId) -> Result<BreakGlassRow> {
        let permit = self.permit(AccessRequest::to(Verb::Review, Resource::Grant).named(id.to_string()));
        self.break_glass.review(&permit, id, "已核实".to_owned()).await
    }
}

pub(super) async fn use_gives_a_grant_for_an_hour(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let cluster = ports.register(ports.record("prod")).await.id;
    let stamp = ports.rights.rights(&[], ports.now()).await.unwrap().stamp;
    let row = ports.break_glass_in(user.id, cluster).await.unwrap();
    assert_eq!((row.user_id, &*row.username, row.cluster_id), (user.id, "ann", cluster));
    assert_eq!((&*row.reason, row.created_at), ("节点故障", ports.now()));
    assert_eq!(row.until, ports.now() + Duration::from_secs(3600));
    assert_eq!((row.reviewed, row.reviewed_at, &row.reviewed_by, &row.note), (false, None, &None, &None));
    assert_eq!(ports.break_glass.find(row.id).await.unwrap().as_ref(), Some(&row));

    let grant = ports.grants.find(row.grant_id).await.unwrap().unwrap();
    assert_eq!((&grant.subject, grant.role.as_str()), (&Subject::User(user.id), "admin"));
    assert_eq!((&grant.clusters, &grant.reach), (&ClusterScope::Ids([cluster].into()), &Reach::Cluster));
    assert_eq!((grant.from, grant.until), (ports.now(), Some(row.until)));
    assert_eq!((grant.source, grant.reason.as_deref()), (GrantSource::BreakGlass, Some("节点故障")));
    let rows = ports.rights.rights(&[Subject::User(user.id)], ports.now()).await.unwrap();
    assert_ne!(rows.stamp, stamp);
    assert!(Rights::compile(&rows.grants, &rows.labels, ports.now()).reaches_cluster(cluster));
    assert!(!Rights::compile(&rows.grants, &rows.labels, row.until).sees(cluster));
    let last = ports.operations().await.pop().unwrap();
    assert_eq!((&*last.operation_type, last.cluster_id), ("break_glass", Some(cluster)));
}

pub(super) async fn uses_of_a_day_are_limited(ports: &StorePorts) {
    let (ann, bob) = (ports.user("ann", Role::None).await, ports.user("bob", Role::None).await);
    let cluster = ports.register(ports.record("prod")).await.id;
    let first = ports.break_glass_in(ann.id, cluster).await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(60));
    ports.break_glass_in(ann.id, cluster).await.unwrap();
    ports.grants.revoke(&ports.people(), first.grant_id).await.unwrap();
    assert_eq!(ports.break_glass_in(ann.id, cluster).await.unwrap_err().cause, Cause::TooMany);
    ports.break_glass_in(bob.id, cluster).await.unwrap();
    ports.runtime.clock.advance(BreakGlassRow::WINDOW - Duration::from_secs(61));
    assert_eq!(ports.break_glass_in(ann.id, cluster).await.unwrap_err().cause, Cause::TooMany);
    ports.runtime.clock.advance(Duration::from_secs(1));
    ports.break_glass_in(ann.id, cluster).await.unwrap();
    assert_eq!(ports.break_glass_in(ann.id, cluster).await.unwrap_err().cause, Cause::TooMany);
}

pub(super) async fn concurrent_uses_are_limited(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let cluster = ports.register(ports.record("prod")).await.id;
    let uses = join_all((0..6).map(|_| ports.break_glass_in(user.id, cluster))).await;
    let (made, refused): (Vec<_>, Vec<_>) = uses.into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), BreakGlassRow::MAX_USES);
    assert!(refused.into_iter().all(|refused| refused.unwrap_err().cause == Cause::TooMany));
    let grants = ports.grants.list(Some(Subject::User(user.id)), None).await.unwrap();
    assert_eq!(grants.len(), BreakGlassRow::MAX_USES, "a refused use leaves no grant");
}

pub(super) async fn use_needs_an_enabled_user_and_a_cluster(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let cluster = ports.register(ports.record("prod")).await.id;
    let refusal = async |user, cluster| ports.break_glass_in(user, cluster).await.unwrap_err().cause;
    assert_eq!(refusal(UserId(1_000_000), cluster).await, Cause::NotFound);
    assert_eq!(refusal(user.id, ClusterId(1_000_000)).await, Cause::NotFound);
    let patch = UserPatch { disabled: Some(true), ..UserPatch::default() };
    ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    assert_eq!(refusal(user.id, cluster).await, Cause::NotFound);
    assert!(ports.break_glass.list(None).await.unwrap().is_empty());
    assert!(ports.grants.list(None, None).await.unwrap().is_empty());
}

pub(super) async fn use_is_reviewed_once(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let cluster = ports.register(ports.record("prod")).await.id;
    let row = ports.break_glass_in(user.id, cluster).await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(60));
    let (one, other) = join(ports.review(row.id), ports.review(row.id)).await;
    assert_eq!(one.is_ok(), other.is_err(), "one of two concurrent calls succeeds");
    let (reviewed, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    assert_eq!(refused.unwrap_err().cause, Cause::RequestDecided);
    let expected = BreakGlassRow {
        reviewed: true,
        reviewed_at: Some(ports.now()),
        reviewed_by: Some("system".to_owned()),
        note: Some("已核实".to_owned()),
        ..row.clone()
    };
    assert_eq!(reviewed.unwrap(), expected);
    assert_eq!(ports.break_glass.find(row.id).await.unwrap(), Some(expected));
    assert_eq!(ports.review(BreakGlassId(1_000_000)).await.unwrap_err().cause, Cause::NotFound);
    let types: Vec<_> = ports.operations().await.into_iter().map(|row| row.operation_type).collect();
    assert_eq!(types[types.len() - 2..], ["break_glass", "review"]);
}

pub(super) async fn uses_are_listed_by_user(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let (ann, bob) = (ports.user("ann", Role::None).await, ports.user("bob", Role::None).await);
    let cluster = ports.register(ports.record("prod")).await.id;
    let of_ann = ports.break_glass_in(ann.id, cluster).await.unwrap();
    let of_bob = ports.break_glass_in(bob.id, cluster).await.unwrap();
    ports.users.delete(&ports.people(), ann.id).await.unwrap();
    let list = async |user| ports.break_glass.list(user).await.unwrap();
    assert_eq!(list(None).await, [of_ann.clone(), of_bob.clone()], "also of a deleted user");
    assert_eq!(list(Some(bob.id)).await, [of_bob]);
    assert!(list(Some(UserId(1_000_000))).await.is_empty());
    assert_eq!(ports.break_glass.find(BreakGlassId(1_000_000)).await.unwrap(), None);
}
