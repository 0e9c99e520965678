use std::time::Duration;

use futures_util::future::join_all;

use super::StorePorts;
use crate::{
    access::{AccessRequest, Resource, Verb},
    error::Cause,
    ids::{GrantId, OperationId, TokenId, UserId},
    kind::Kind,
    operation::{Operation, Outcome, Status},
    role::Role,
    user::UserPatch,
};

impl StorePorts {
    /// An operation with every field set.
    fn operation(&self) -> Operation {
        let access =
            AccessRequest::to(Verb::Scale, Resource::Kind(Kind::Deployment)).named("web").with("replicas", 5);
        let permit = self.permit(access);
        Operation {
            cluster_id: Some(crate::ids::ClusterId(7)),
            cluster_name: Some("生产环境".to_owned()),
            namespace: Some("default".to_owned()),
            user_id: Some(UserId(3)),
            username: "ops".to_owned(),
            role: Some(Role::OpsAdmin),
            grant_id: Some(GrantId(11)),
            token_id: Some(TokenId(12)),
            reason: Some("回滚到上一个版本".to_owned()),
            source_ip: Some("2001:db8::1".parse().unwrap()),
            request_id: Some("request-1".to_owned()),
            ..permit.operation().unwrap().clone()
        }
    }

    fn outcome(&self, status: Status) -> Outcome {
        Outcome {
            status,
            error_code: (status != Status::Success).then(|| "TIMEOUT_ERROR".to_owned()),
            details: (status != Status::Success).then(|| "deadline".to_owned()),
            duration_ms: 12,
            finished_at: self.now() + Duration::from_millis(12),
        }
    }
}

pub(super) async fn intent_is_pending_until_its_outcome(ports: &StorePorts) {
    let operation = ports.operation();
    ports.writer.begin(&operation).await.unwrap();
    let rows = ports.operations().await;
    let [row] = rows.as_slice() else { panic!("one row, not {}", rows.len()) };
    assert_eq!((row.operation_id, row.status), (operation.id, Status::Pending));
    assert_eq!((&*row.operation_type, &*row.resource_type), ("scale", "deployment"));
    assert_eq!((row.cluster_id, row.cluster_name.as_deref()), (operation.cluster_id, Some("生产环境")));
    assert_eq!((row.namespace.as_deref(), row.resource_name.as_deref()), (Some("default"), Some("web")));
    assert_eq!((row.user_id, &*row.username, row.role), (Some(UserId(3)), "ops", Some(Role::OpsAdmin)));
    assert_eq!((row.grant_id, row.token_id), (Some(GrantId(11)), Some(TokenId(12))));
    assert_eq!(row.reason.as_deref(), Some("回滚到上一个版本"));
    assert_eq!(
        (row.source_ip.as_deref(), row.request_id.as_deref()),
        (Some("2001:db8::1"), Some("request-1"))
    );
    assert_eq!((row.created_at, row.finished_at, row.duration_ms), (ports.now(), None, None));

    let outcome = ports.outcome(Status::Unknown);
    ports.writer.finish(operation.id, &outcome).await.unwrap();
    let finished = &ports.operations().await[0];
    assert_eq!((finished.id, finished.status), (row.id, Status::Unknown));
    assert_eq!((&finished.error_code, &finished.details), (&outcome.error_code, &outcome.details));
    assert_eq!((finished.duration_ms, finished.finished_at), (Some(12), Some(outcome.finished_at)));
}

pub(super) async fn rows_of_operations_are_found_by_id(ports: &StorePorts) {
    let operations = [ports.operation(), ports.operation(), ports.operation()];
    for operation in &operations {
        ports.writer.begin(operation).await.unwrap();
    }
    let absent = ports.operation().id;
    let ids = [operations[2].id, absent, operations[0].id];
    let mut rows = ports.query.operations_of(&ids).await.unwrap();
    rows.sort_by_key(|row| row.id);
    let all = ports.operations().await;
    assert_eq!(rows, [all[0].clone(), all[2].clone()]);
    assert_eq!(ports.query.operations_of(&[]).await.unwrap(), []);
}

pub(super) async fn only_first_outcome_is_recorded(ports: &StorePorts) {
    let operation = ports.operation();
    ports.writer.begin(&operation).await.unwrap();
    for status in [Status::Success, Status::Unknown] {
        ports.writer.finish(operation.id, &ports.outcome(status)).await.unwrap();
    }
    let rows = ports.operations().await;
    assert_eq!((rows[0].status, &rows[0].error_code), (Status::Success, &None));
    let unknown_id = OperationId(uuid::Uuid::from_u128(1));
    ports.writer.finish(unknown_id, &ports.outcome(Status::Success)).await.unwrap();
    assert_eq!(ports.operations().await, rows);
}

pub(super) async fn record_stores_the_complete_operation(ports: &StorePorts) {
    let (operation, outcome) = (ports.operation(), ports.outcome(Status::Failed));
    ports.writer.record(&operation, &outcome).await.unwrap();
    ports.writer.finish(operation.id, &ports.outcome(Status::Success)).await.unwrap();
    let rows = ports.operations().await;
    let [row] = rows.as_slice() else { panic!("one row, not {}", rows.len()) };
    assert_eq!((row.operation_id, row.status), (operation.id, Status::Failed));
    assert_eq!((row.created_at, row.finished_at), (ports.now(), Some(outcome.finished_at)));
}

pub(super) async fn each_local_change_writes_one_row(ports: &StorePorts) {
    let user = ports.user("admin", Role::SuperAdmin).await;
    let patch = UserPatch { display_name: Some("名".to_owned()), ..UserPatch::default() };
    ports.users.update(&ports.people(), user.id, patch, ports.now()).await.unwrap();
    ports.session(&user).await;
    let rows = ports.operations().await;
    let shown: Vec<_> =
        rows.iter().map(|row| (&*row.operation_type, row.status, row.finished_at.is_some())).collect();
    assert_eq!(shown, ["update", "update", "login"].map(|what| (what, Status::Success, true)));
    assert!(rows.is_sorted_by_key(|row| row.id), "ids increase");
    assert!(rows.iter().all(|row| row.details.is_none() && row.error_code.is_none()));
}

pub(super) async fn failed_change_writes_no_row(ports: &StorePorts) {
    let admin = ports.user("admin", Role::SuperAdmin).await;
    let refusals = [
        ports.users.create(&ports.people(), ports.new_user("admin", Role::Viewer)).await.map(drop),
        ports.users.delete(&ports.people(), admin.id).await,
    ];
    assert_eq!(refusals.map(|refusal| refusal.unwrap_err().cause), [Cause::NameTaken, Cause::LastSuperAdmin]);
    assert_eq!(ports.operations().await.len(), 1, "the use case records refusals, not the store");
}

pub(super) async fn concurrent_operations_are_all_stored(ports: &StorePorts) {
    let operations: Vec<_> = (0..100).map(|_| ports.operation()).collect();
    let outcome = ports.outcome(Status::Success);
    let all = operations.iter().map(async |operation| {
        ports.writer.begin(operation).await.unwrap();
        ports.writer.finish(operation.id, &outcome).await.unwrap();
    });
    join_all(all).await;
    let rows = ports.operations().await;
    assert_eq!(rows.len(), 100);
    assert!(rows.iter().all(|row| row.status == Status::Success));
    assert!(operations.iter().all(|operation| rows.iter().any(|row| row.operation_id == operation.id)));
}
