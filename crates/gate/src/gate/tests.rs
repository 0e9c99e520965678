//! Tests of the gate with mocks: intent, work and outcome under failures.

use std::sync::atomic::AtomicBool;

use futures_channel::oneshot;
use futures_executor::block_on;
use mockall::predicate::always;
use pilothouse_types::{
    ids::{ClusterId, ServiceAccountId, TokenId, UserId},
    kind::Kind,
    name::Namespace,
    namespaces::{NamespacePattern, NamespaceScope, NamespaceSet},
    role::Role,
    testing::FakeRuntime,
};

use super::*;
use crate::{
    access::Factor,
    operation::MockAuditWriter,
    rights::{BuiltInRole, ClusterLabels, ClusterScope, EffectiveGrant, GrantRef, Labels, Reach, Rights},
};

fn caller(role: Role) -> Caller {
    Caller { user_id: Some(UserId(7)), username: "ann".into(), ..Caller::system().with_role(role) }
}

fn scale() -> AccessRequest {
    AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment))
        .in_cluster(ClusterId(1))
        .in_namespace(&Namespace::new("shop").unwrap())
        .named("web")
        .with("replicas", 5)
}

/// A gate over this trail, with capacity unless the trail has its own expectation.
fn gate(mut trail: MockAuditWriter) -> Gate {
    trail.expect_check_capacity().returning(|_| Ok(()));
    let mut clusters = MockClusterNames::new();
    clusters.expect_name().returning(|id| Ok((id == ClusterId(1)).then(|| "prod".to_owned())));
    let FakeRuntime { clock, rng, spawner } = FakeRuntime::default();
    Gate::new(Arc::new(trail), Arc::new(clusters), clock, rng, spawner)
}

#[test]
fn full_disk_refuses_new_changes_and_running_ones_finish() {
    let mut trail = MockAuditWriter::new();
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    trail.expect_check_capacity().returning(move |_| {
        if is_full.load(Ordering::Acquire) { Err(Error::new(Cause::AuditUnavailable)) } else { Ok(()) }
    });
    trail.expect_begin().once().returning(|_| Ok(()));
    trail.expect_finish().once().returning(|_, outcome| {
        assert_eq!(outcome.status, Status::Success);
        Ok(())
    });
    let gate = gate(trail);
    let set_full = full.clone();
    let work = async move |_| {
        set_full.store(true, Ordering::Release);
        Ok(Changed::from(()))
    };
    block_on(gate.change(&caller(Role::OpsAdmin), scale(), work)).unwrap();
    let cause = |result: Result<_>| result.map(|_: Changed<()>| ()).unwrap_err().cause;
    assert_eq!(
        cause(block_on(gate.change(&caller(Role::OpsAdmin), scale(), never))),
        Cause::AuditUnavailable
    );
    // a refusal would add a row, too
    assert_eq!(cause(block_on(gate.change(&caller(Role::Viewer), scale(), never))), Cause::AuditUnavailable);
    // a read adds no row
    let list = AccessRequest::to(Verb::List, Resource::Kind(Kind::Deployment)).in_cluster(ClusterId(1));
    block_on(gate.allow(&caller(Role::Viewer), list)).unwrap();
}

/// Work that must not run.
async fn never(_: Permit) -> Result<Changed<()>> {
    panic!("the work was called")
}

#[test]
fn role_too_low_runs_no_work_and_records_one_failed_row() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().returning(|operation, outcome| {
        assert_eq!(
            (operation.operation_type.as_str(), operation.resource_type.as_str()),
            ("scale", "deployment")
        );
        assert_eq!(
            (operation.cluster_name.as_deref(), operation.namespace.as_deref()),
            (Some("prod"), Some("shop"))
        );
        assert_eq!(
            (outcome.status, outcome.error_code.as_deref()),
            (Status::Failed, Some("PERMISSION_DENIED"))
        );
        Ok(())
    });
    let error = block_on(gate(trail).change(&caller(Role::Viewer), scale(), never)).unwrap_err();
    assert_eq!((error.cause, error.context.required_role), (Cause::RoleTooLow, Some(Role::OpsAdmin)));
}

#[test]
fn refusal_that_cannot_be_recorded_is_audit_unavailable() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().returning(|_, _| Err(Error::new(Cause::AuditUnavailable)));
    let error = block_on(gate(trail).change(&caller(Role::Viewer), scale(), never)).unwrap_err();
    assert_eq!(error.cause, Cause::AuditUnavailable);
}

#[test]
fn unknown_cluster_is_recorded_for_a_change_and_not_for_a_read() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().with(always(), always()).returning(|_, _| Ok(()));
    let gate = gate(trail);
    let in_unknown_cluster = || scale().in_cluster(ClusterId(2));
    let error = block_on(gate.change(&caller(Role::OpsAdmin), in_unknown_cluster(), never)).unwrap_err();
    assert_eq!(error.cause, Cause::NotFound);
    let read = AccessRequest { verb: Verb::List, ..in_unknown_cluster() };
    assert_eq!(block_on(gate.allow(&caller(Role::Viewer), read)).unwrap_err().cause, Cause::NotFound);
}

#[test]
fn without_a_durable_intent_nothing_is_called() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut trail = MockAuditWriter::new();
    trail.expect_begin().once().returning(|_| Err(Error::new(Cause::AuditUnavailable)));
    trail.expect_finish().once().returning(move |id, outcome| {
        sender.send((id, outcome.clone())).unwrap();
        Ok(())
    });
    let gate = gate(trail);
    let error = block_on(gate.change(&caller(Role::OpsAdmin), scale(), never)).unwrap_err();
    assert_eq!(error.cause, Cause::AuditUnavailable);
    // the intent may be durable all the same, so an outcome is stored
    let (_, outcome) = receiver.recv().expect("outcome of the operation");
    assert_eq!(
        (outcome.status, outcome.error_code.as_deref()),
        (Status::Failed, Some("SERVICE_UNAVAILABLE"))
    );
}

#[test]
fn intent_is_stored_before_the_call_and_outcome_after() {
    let (begun, called) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut trail = MockAuditWriter::new();
    let flag = begun.clone();
    trail.expect_begin().once().returning(move |_| {
        flag.store(true, Ordering::SeqCst);
        Ok(())
    });
    let flag = called.clone();
    trail.expect_finish().once().returning(move |_, outcome| {
        assert!(flag.load(Ordering::SeqCst), "outcome stored before the call");
        assert_eq!(outcome.status, Status::Success);
        Ok(())
    });
    let work = async move |permit: Permit| {
        assert!(begun.load(Ordering::SeqCst), "call made before the intent was stored");
        called.store(true, Ordering::SeqCst);
        assert_eq!(permit.operation().map(|operation| operation.id), permit.operation_id());
        Ok(Changed::from(permit.namespace()?.to_string()))
    };
    let changed = block_on(gate(trail).change(&caller(Role::OpsAdmin), scale(), work)).unwrap();
    assert_eq!((changed.value.as_str(), changed.warnings.len()), ("shop", 0));
}

/// Runs a change with this work, and returns its result and the outcome stored in the trail.
fn outcome_of<F, Fut>(work: F) -> (Result<Changed<()>>, Outcome)
where
    F: FnOnce(Permit) -> Fut + Send + 'static,
    Fut: Future<Output = Result<Changed<()>>> + Send + 'static,
{
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut trail = MockAuditWriter::new();
    trail.expect_begin().returning(|_| Ok(()));
    trail.expect_finish().once().returning(move |_, outcome| {
        sender.send(outcome.clone()).expect("receiver is alive");
        Ok(())
    });
    let result = block_on(gate(trail).change(&caller(Role::OpsAdmin), scale(), work));
    (result, receiver.recv().expect("outcome stored"))
}

#[test]
fn refusal_is_failed_and_timeout_or_panic_is_unknown() {
    let (result, outcome) = outcome_of(|_| async { Err(Error::new(Cause::NotFoundInCluster)) });
    assert_eq!((result.unwrap_err().cause, outcome.status), (Cause::NotFoundInCluster, Status::Failed));
    let (result, outcome) = outcome_of(|_| async { Err(Error::new(Cause::DeadlineExceeded)) });
    assert_eq!((result.unwrap_err().cause, outcome.status), (Cause::DeadlineExceeded, Status::Unknown));
    let (result, outcome) = outcome_of(|_| async { panic!("a defect") });
    assert_eq!((result.unwrap_err().cause, outcome.status), (Cause::Internal, Status::Unknown));
}

#[test]
fn change_continues_and_outcome_is_stored_after_the_caller_is_dropped() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let (release, released) = oneshot::channel::<()>();
    let mut trail = MockAuditWriter::new();
    trail.expect_begin().once().returning(|_| Ok(()));
    trail.expect_finish().once().returning(move |_, outcome| {
        sender.send(outcome.status).expect("receiver is alive");
        Ok(())
    });
    let (start_sender, start_signal) = std::sync::mpsc::channel();
    let gate = gate(trail);
    let ann = caller(Role::OpsAdmin);
    let change = gate.change(&ann, scale(), async move |_| {
        start_sender.send(()).expect("receiver is alive");
        released.await.expect("work is released");
        Ok(Changed::from(()))
    });
    let mut change = Box::pin(change);
    assert!(block_on(async { futures_util::poll!(&mut change) }).is_pending());
    start_signal.recv().expect("work started");
    drop(change);
    release.send(()).expect("work is waiting");
    assert_eq!(receiver.recv().expect("outcome stored"), Status::Success);
}

#[test]
fn unstored_outcome_warns_is_retried_and_blocks_changes() {
    let broken = Arc::new(AtomicBool::new(true));
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut trail = MockAuditWriter::new();
    trail.expect_begin().returning(|_| Ok(()));
    let flag = broken.clone();
    trail.expect_finish().returning(move |_, _| {
        if flag.load(Ordering::SeqCst) {
            return Err(Error::new(Cause::AuditUnavailable));
        }
        let _ = sender.send(());
        Ok(())
    });
    let gate = gate(trail);
    let work = async |_| Ok(Changed::from(()));
    let changed = block_on(gate.change(&caller(Role::OpsAdmin), scale(), work)).unwrap();
    assert_eq!(changed.warnings, [Warning::OutcomeNotStored]);
    let error = block_on(gate.change(&caller(Role::OpsAdmin), scale(), never)).unwrap_err();
    assert_eq!(error.cause, Cause::AuditUnavailable);
    broken.store(false, Ordering::SeqCst);
    receiver.recv().expect("outcome stored after the retry");
    while gate.pending_outcomes.load(Ordering::Acquire) > 0 {
        std::thread::yield_now();
    }
    block_on(gate.change(&caller(Role::OpsAdmin), scale(), work)).expect("changes are accepted again");
}

#[test]
fn failed_local_change_is_failed_and_invalid_input_is_not_recorded() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().returning(|_, outcome| {
        assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Failed, Some("TIMEOUT_ERROR")));
        Ok(())
    });
    let gate = gate(trail);
    let access = || AccessRequest::to(Verb::Create, Resource::Cluster).new_cluster("new");
    let fail = |cause| async move |_: Permit| Err::<(), _>(Error::new(cause));
    let error = block_on(gate.change_local(&caller(Role::OpsAdmin), access(), fail(Cause::DeadlineExceeded)))
        .unwrap_err();
    assert_eq!(error.cause, Cause::DeadlineExceeded);
    let error = block_on(gate.change_local(&caller(Role::OpsAdmin), access(), fail(Cause::InvalidInput)))
        .unwrap_err();
    assert_eq!(error.cause, Cause::InvalidInput);
}

/// A caller of the role `none` with the built-in role `editor` in cluster 1, in the namespaces `team-*`, by grant 5.
fn editor_of_team() -> Caller {
    let pattern = NamespacePattern::parse("team-*").unwrap();
    let grant = EffectiveGrant {
        grant: GrantRef { id: Some(GrantId(5)), role: "editor".to_owned(), via_group: None, until: None },
        rules: Arc::new(BuiltInRole::Editor.rules()),
        clusters: ClusterScope::Ids([ClusterId(1)].into()),
        reach: Reach::try_from(vec![pattern]).unwrap(),
        from: jiff::Timestamp::UNIX_EPOCH,
        revoked: false,
    };
    let clusters = ClusterLabels::from([1, 2].map(|id| (ClusterId(id), Labels::new())));
    let rights = Rights::compile(&[grant], &clusters, jiff::Timestamp::UNIX_EPOCH);
    Caller { user_id: Some(UserId(8)), ..Caller::system().with_rights(Role::None, Arc::new(rights)) }
}

fn pods(namespaces: NamespaceScope) -> AccessRequest {
    AccessRequest::to(Verb::List, Resource::Kind(Kind::Pod)).within(namespaces)
}

#[test]
fn permit_is_cut_to_the_namespaces_of_the_rights() {
    let gate = gate(MockAuditWriter::new());
    let ben = editor_of_team();
    let all = pods(NamespaceScope::All).in_cluster(ClusterId(1));
    let permit = block_on(gate.allow(&ben, all)).unwrap();
    let team = NamespaceSet::new([NamespacePattern::parse("team-*").unwrap()]);
    assert_eq!((permit.namespaces(), permit.is_complete()), (&NamespaceScope::Set(team), false));
}

#[test]
fn operation_names_the_grant_that_allows_it() {
    let mut trail = MockAuditWriter::new();
    let mut rows = mockall::Sequence::new();
    for grant in [Some(GrantId(5)), None] {
        trail.expect_begin().once().in_sequence(&mut rows).returning(move |operation| {
            assert_eq!(operation.grant_id, grant);
            Ok(())
        });
    }
    trail.expect_finish().returning(|_, _| Ok(()));
    let gate = gate(trail);
    let in_team = || scale().in_namespace(&Namespace::new("team-a").unwrap());
    for caller in [editor_of_team(), caller(Role::OpsAdmin)] {
        block_on(gate.change(&caller, in_team(), async |_| Ok(Changed::from(())))).unwrap();
    }
}

#[test]
fn operation_names_the_token_and_the_service_account() {
    let mut trail = MockAuditWriter::new();
    trail.expect_begin().once().returning(|operation| {
        assert_eq!((operation.token_id, operation.user_id), (Some(TokenId(9)), None));
        assert_eq!((&*operation.username, operation.role), ("sa:bot", None));
        Ok(())
    });
    trail.expect_finish().returning(|_, _| Ok(()));
    let bot = Caller {
        user_id: None,
        service_account: Some(ServiceAccountId(3)),
        username: "sa:bot".to_owned(),
        token: Some(TokenId(9)),
        ..editor_of_team()
    };
    let in_team = scale().in_namespace(&Namespace::new("team-a").unwrap());
    block_on(gate(trail).change(&bot, in_team, async |_| Ok(Changed::from(())))).unwrap();
}

#[test]
fn refusals_of_a_service_account_are_rate_limited() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().returning(|_, _| Ok(()));
    let gate = gate(trail);
    let bot = Caller {
        user_id: None,
        service_account: Some(ServiceAccountId(3)),
        token: Some(TokenId(9)),
        ..editor_of_team()
    };
    for _ in 0..3 {
        let shop = pods(NamespaceScope::One(Namespace::new("shop").unwrap())).in_cluster(ClusterId(1));
        assert_eq!(block_on(gate.allow(&bot, shop)).unwrap_err().cause, Cause::RoleTooLow);
    }
}

#[test]
fn refusal_names_the_grant_only_if_another_rule_refuses() {
    let mut trail = MockAuditWriter::new();
    let mut rows = mockall::Sequence::new();
    for grant in [Some(GrantId(5)), None] {
        trail.expect_record().once().in_sequence(&mut rows).returning(move |operation, _| {
            assert_eq!(operation.grant_id, grant);
            Ok(())
        });
    }
    let gate = gate(trail);
    let within = |namespace: &str| scale().in_namespace(&Namespace::new(namespace).unwrap());
    let refusal = Error::new(Cause::ProtectedNamespace);
    let refused = block_on(gate.refuse::<()>(&editor_of_team(), within("team-a"), refusal)).unwrap_err();
    assert_eq!(refused.cause, Cause::ProtectedNamespace);
    let refused = block_on(gate.change(&editor_of_team(), within("shop"), never)).unwrap_err();
    assert_eq!(refused.cause, Cause::RoleTooLow);
}

#[test]
fn cluster_without_a_right_is_not_named_in_the_record() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().once().returning(|operation, outcome| {
        assert_eq!((operation.cluster_id, operation.cluster_name.as_deref()), (Some(ClusterId(2)), None));
        assert_eq!(outcome.error_code.as_deref(), Some("RESOURCE_NOT_FOUND"));
        Ok(())
    });
    trail.expect_check_capacity().returning(|_| Ok(()));
    let mut clusters = MockClusterNames::new();
    clusters.expect_name().never();
    let FakeRuntime { clock, rng, spawner } = FakeRuntime::default();
    let gate = Gate::new(Arc::new(trail), Arc::new(clusters), clock, rng, spawner);
    let error =
        block_on(gate.change(&editor_of_team(), scale().in_cluster(ClusterId(2)), never)).unwrap_err();
    assert_eq!((error.cause, error.context.name.as_deref()), (Cause::NotFound, Some("2")));
}

#[test]
fn reads_in_all_clusters_have_the_scope_of_each_cluster() {
    let mut clusters = MockClusterNames::new();
    clusters
        .expect_all()
        .returning(|| Ok(vec![(ClusterId(2), "two".to_owned()), (ClusterId(1), "one".to_owned())]));
    let FakeRuntime { clock, rng, spawner } = FakeRuntime::default();
    let gate = Gate::new(Arc::new(MockAuditWriter::new()), Arc::new(clusters), clock, rng, spawner);
    let nodes = AccessRequest::to(Verb::List, Resource::Kind(Kind::Node));
    let reads = [pods(NamespaceScope::All), nodes];
    let parts = |caller: &Caller| -> Vec<_> {
        let parts = block_on(gate.allow_in_all_clusters(caller, &reads)).unwrap().into_iter();
        let readable = |part: ClusterPermits| {
            let complete = part.is_complete();
            (part.cluster.0, part.permits.iter().map(Option::is_some).collect::<Vec<_>>(), complete)
        };
        parts.map(readable).collect()
    };
    assert_eq!(parts(&editor_of_team()), [(1, vec![true, false], false)]);
    let whole = vec![true, true];
    assert_eq!(parts(&caller(Role::Viewer)), [(1, whole.clone(), true), (2, whole, true)]);
    assert!(parts(&caller(Role::None)).is_empty());
}

#[test]
fn caller_without_the_required_second_factor_reads_and_changes_nothing() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().times(3).returning(|_, outcome| {
        assert_eq!(outcome.error_code.as_deref(), Some("PERMISSION_DENIED"));
        Ok(())
    });
    let gate = gate(trail);
    let factor = Factor { required: true, ..Factor::default() };
    let ops = Caller { factor, ..caller(Role::OpsAdmin) };
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().cause, Cause::SecondFactorNotEnrolled);
    let all = || pods(NamespaceScope::All);
    refused(block_on(gate.allow(&ops, all().in_cluster(ClusterId(1)))).map(drop));
    refused(block_on(gate.change(&ops, scale(), never)).map(drop));
    // the same request again within a minute adds no row
    refused(block_on(gate.follow(&ops, all().in_cluster(ClusterId(1)))).map(drop));
    refused(block_on(gate.allow_in_all_clusters(&ops, &[all()])).map(drop));
    let enroll = AccessRequest::to(Verb::Enroll, Resource::OwnSecondFactor);
    block_on(gate.change_local(&ops, enroll, async |_| Ok(()))).unwrap();
}

#[test]
fn missing_right_is_reported_before_a_stale_second_factor() {
    let mut trail = MockAuditWriter::new();
    trail.expect_record().times(2).returning(|_, _| Ok(()));
    let gate = gate(trail);
    let reveal = || AccessRequest::to(Verb::Reveal, Resource::Kind(Kind::Secret)).in_cluster(ClusterId(1));
    let cause_of = |role| {
        let factor = Factor { enrolled: true, ..Factor::default() };
        let caller = Caller { factor, ..caller(role) };
        block_on(gate.grant(&caller, reveal().in_namespace(&Namespace::new("shop").unwrap())))
            .unwrap_err()
            .cause
    };
    assert_eq!(cause_of(Role::Viewer), Cause::RoleTooLow);
    assert_eq!(cause_of(Role::OpsAdmin), Cause::SecondFactorStale);
}
