use std::time::Duration;

use futures_util::future::join;

use super::{
    StorePorts,
    grants::{record as grant_record, role},
};
use crate::{
    error::{Cause, Result},
    grant::{Decision, GrantRequest, RequestRecord, RequestState},
    ids::{GrantRequestId, UserId},
    rights::{ClusterScope, Grant, GrantSource, Reach, Subject},
    role::Role,
    user::UserPatch,
};

/// A request for an hour of a role in all clusters.
pub(super) fn record(user_id: UserId, name: &str) -> RequestRecord {
    RequestRecord {
        user_id,
        role: role(name),
        clusters: ClusterScope::All,
        reach: Reach::Cluster,
        duration_seconds: 3600,
        reason: "排查故障".to_owned(),
    }
}

impl StorePorts {
    pub(super) async fn request(&self, record: RequestRecord) -> Result<GrantRequest> {
        self.requests.create(&self.people(), record).await
    }

    pub(super) async fn decide(&self, id: GrantRequestId, decision: Decision) -> Result<GrantRequest> {
        self.requests.decide(&self.people(), id, decision, Some("因为".to_owned()), None).await
    }

    async fn request_now(&self, id: GrantRequestId) -> GrantRequest {
        self.requests.find(id, self.now()).await.unwrap().unwrap()
    }
}

pub(super) async fn request_is_pending_until_its_decision(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let other = ports.user("bob", Role::None).await;
    let request = ports.request(record(user.id, "editor")).await.unwrap();
    let RequestRecord { role, clusters, reach, reason, .. } = record(user.id, "editor");
    assert_eq!((&request.role, &request.clusters, &request.reach), (&role, &clusters, &reach));
    assert_eq!((request.user_id, &*request.username, request.duration_seconds), (user.id, "ann", 3600));
    assert_eq!(
        (&request.reason, request.created_at, request.state),
        (&reason, ports.now(), RequestState::Pending)
    );
    assert_eq!((request.decided_at, request.grant_id), (None, None));
    assert_eq!(ports.request_now(request.id).await, request);

    for (decision, state) in
        [(Decision::Deny, RequestState::Denied), (Decision::Withdraw, RequestState::Withdrawn)]
    {
        let request = ports.request(record(other.id, "viewer")).await.unwrap();
        ports.runtime.clock.advance(Duration::from_secs(60));
        let decided = ports.decide(request.id, decision).await.unwrap();
        let expected = GrantRequest {
            state,
            decided_at: Some(ports.now()),
            decided_by: Some("system".to_owned()),
            decision_reason: Some("因为".to_owned()),
            ..request
        };
        assert_eq!(decided, expected);
        assert_eq!(ports.request_now(decided.id).await, decided);
    }
    assert_eq!(ports.requests.list(Some(user.id), ports.now()).await.unwrap(), [request]);
    assert_eq!(ports.requests.list(None, ports.now()).await.unwrap().len(), 3);
    assert!(ports.grants.list(None, None).await.unwrap().is_empty());
}

pub(super) async fn approval_gives_the_grant_from_its_time_on(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let request = ports.request(record(user.id, "editor")).await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(60));
    let approved = ports.decide(request.id, Decision::Approve).await.unwrap();
    assert_eq!((approved.state, approved.decided_at), (RequestState::Approved, Some(ports.now())));
    let grant = ports.grants.find(approved.grant_id.unwrap()).await.unwrap().unwrap();
    assert_eq!((&grant.subject, &grant.role), (&Subject::User(user.id), &role("editor")));
    assert_eq!((&grant.clusters, &grant.reach), (&ClusterScope::All, &Reach::Cluster));
    assert_eq!((grant.from, grant.until), (ports.now(), Some(ports.now() + Duration::from_secs(3600))));
    assert_eq!(grant.reason.as_deref(), Some("排查故障"), "the reason of the requester");
    assert_eq!((&grant.source, &*grant.created_by), (&GrantSource::Request(request.id), "system"));
}

pub(super) async fn request_is_decided_once(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let decisions = [Decision::Approve, Decision::Deny, Decision::Withdraw];
    for first in decisions {
        for second in decisions {
            let request = ports.request(record(user.id, "editor")).await.unwrap();
            let rows = ports.operations().await.len();
            let (one, other) = join(ports.decide(request.id, first), ports.decide(request.id, second)).await;
            assert_eq!(one.is_ok(), other.is_err(), "one of two concurrent calls succeeds");
            assert_eq!(one.and(other).unwrap_err().cause, Cause::RequestDecided);
            assert_eq!(ports.operations().await.len(), rows + 1);
        }
    }
    let approved = ports.requests.list(None, ports.now()).await.unwrap();
    let approved = approved.iter().filter(|request| request.state == RequestState::Approved).count();
    assert_eq!(ports.grants.list(None, None).await.unwrap().len(), approved);
    let absent = ports.decide(GrantRequestId(1_000_000), Decision::Deny).await;
    assert_eq!(absent.unwrap_err().cause, Cause::NotFound);
}

pub(super) async fn request_expires_without_a_decision(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let request = ports.request(record(user.id, "editor")).await.unwrap();
    ports.runtime.clock.advance(GrantRequest::LIFETIME - Duration::from_secs(1));
    assert_eq!(ports.request_now(request.id).await.state, RequestState::Pending);
    ports.runtime.clock.advance(Duration::from_secs(1));
    assert_eq!(ports.request_now(request.id).await.state, RequestState::Expired);
    for decision in [Decision::Approve, Decision::Deny, Decision::Withdraw] {
        assert_eq!(ports.decide(request.id, decision).await.unwrap_err().cause, Cause::RequestDecided);
    }
    assert!(ports.grants.list(None, None).await.unwrap().is_empty());
}

pub(super) async fn pending_requests_of_a_user_are_limited(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let other = ports.user("bob", Role::None).await;
    let ask = async || ports.request(record(user.id, "viewer")).await;
    let first = ask().await.unwrap();
    for _ in 2..GrantRequest::MAX_PENDING {
        ask().await.unwrap();
    }
    let (one, two) = join(ask(), ask()).await;
    assert_eq!(one.is_ok(), two.is_err(), "one place is left");
    assert_eq!(one.and(two).unwrap_err().cause, Cause::TooMany);
    ports.request(record(other.id, "viewer")).await.unwrap();
    ports.decide(first.id, Decision::Withdraw).await.unwrap();
    ask().await.unwrap();
    assert_eq!(ask().await.unwrap_err().cause, Cause::TooMany);
    ports.runtime.clock.advance(GrantRequest::LIFETIME);
    ask().await.unwrap();
}

pub(super) async fn request_needs_an_existing_user_and_role(ports: &StorePorts) {
    ports.user("admin", Role::SuperAdmin).await;
    let user = ports.user("ann", Role::None).await;
    for refused in [record(UserId(1_000_000), "editor"), record(user.id, "no-such-role")] {
        assert_eq!(ports.request(refused).await.unwrap_err().cause, Cause::NotFound);
    }
    let request = ports.request(record(user.id, "editor")).await.unwrap();
    ports.runtime.clock.advance(Duration::from_secs(60));
    ports.users.delete(&ports.people(), user.id).await.unwrap();
    let withdrawn = ports.request_now(request.id).await;
    assert_eq!((withdrawn.state, withdrawn.decided_at), (RequestState::Withdrawn, Some(ports.now())));
    assert_eq!(withdrawn.decided_by.as_deref(), Some("system"));
}

pub(super) async fn refused_approval_leaves_the_request_pending(ports: &StorePorts) {
    let user = ports.user("ann", Role::None).await;
    let subject = Subject::User(user.id);
    let mut last = None;
    for _ in 0..Grant::MAX_LIVE {
        last = Some(ports.grant(grant_record(subject.clone())).await.unwrap().id);
    }
    let request = ports.request(record(user.id, "editor")).await.unwrap();
    let approve = async || ports.decide(request.id, Decision::Approve).await;
    assert_eq!(approve().await.unwrap_err().cause, Cause::TooMany);
    assert_eq!(ports.request_now(request.id).await, request);
    ports.grants.revoke(&ports.people(), last.unwrap()).await.unwrap();
    let disable = async |disabled: bool| {
        let patch = UserPatch { disabled: Some(disabled), ..UserPatch::default() };
        ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    };
    disable(true).await;
    assert_eq!(approve().await.unwrap_err().cause, Cause::NotFound, "a disabled user gets no grant");
    assert_eq!(ports.request_now(request.id).await, request);
    disable(false).await;
    approve().await.unwrap();
}
