//! Changes of rollouts: each reads the workload, and sends one patch that holds for what was read.

use std::sync::OnceLock;

use futures_util::future::join;
use serde_json::value::RawValue;

use super::RolloutApi;
use crate::{
    access::Permit,
    error::{Cause, Error, MissingRight, Result},
    gate::{Changed, Warning},
    ids::OperationId,
    object::parse,
    rights::{RightResource, RightVerb},
    role::Role,
    workload::{
        History, Images, WorkloadRef, WorkloadRow,
        change::{self, Workload, no_revision, references},
        history::{Revisions, change_cause},
    },
};

/// The revisions between which a workload is moved.
pub(super) struct UndoneRevisions {
    /// Number of the current revision, if it is stored.
    pub(super) from: Option<i64>,
    /// Number of the revision that becomes the wanted one.
    pub(super) to: i64,
}

pub(super) async fn undo(
    api: &dyn RolloutApi,
    permit: &Permit,
    workload: &WorkloadRef,
    to_revision: Option<i64>,
    chosen: &OnceLock<UndoneRevisions>,
) -> Result<Changed<WorkloadRow>> {
    let (object, revisions) = read_revisions(api, permit, workload).await?;
    if revisions.paused {
        return Err(Error { cause: Cause::RolloutPaused, ..permit.object_not_found() });
    }
    let (number, revision) = revisions.find(to_revision).ok_or_else(|| no_revision(to_revision))?;
    // nobody else sets it
    let _ = chosen.set(UndoneRevisions { from: revisions.current(), to: number });
    let cause = change_cause(&format!("undo to {number}"), operation_id(permit)?);
    let Some(patch) = change::undo(&revisions, revision, &cause)? else {
        return unchanged(workload, &object);
    };
    let references = references(&revision.template()?);
    let sent = api.patch(permit, &workload.name, &patch);
    let (row, warnings) = join(sent, api.advice(permit, &workload.name, &references)).await;
    Ok(Changed { value: row?, warnings })
}

pub(super) async fn pause(
    api: &dyn RolloutApi,
    permit: &Permit,
    workload: &WorkloadRef,
    paused: bool,
) -> Result<Changed<WorkloadRow>> {
    let object = read_workload(api, permit, workload).await?;
    let current: Workload = parse(&object).map_err(Error::read_only)?;
    match current.pause(paused) {
        Some(patch) => Ok(api.patch(permit, &workload.name, &patch).await?.into()),
        None => unchanged(workload, &object),
    }
}

pub(super) async fn set_images(
    api: &dyn RolloutApi,
    permit: &Permit,
    workload: &WorkloadRef,
    images: &Images,
) -> Result<Changed<WorkloadRow>> {
    let object = read_workload(api, permit, workload).await?;
    let current: Workload = parse(&object).map_err(Error::read_only)?;
    let cause = change_cause(&format!("set image {}", images.summary()), operation_id(permit)?);
    match current.set_images(images, &cause)? {
        Some(patch) => {
            let value = api.patch(permit, &workload.name, &patch).await?;
            let warnings = current.is_paused().then_some(Warning::RolloutPaused).into_iter().collect();
            Ok(Changed { value, warnings })
        }
        None => unchanged(workload, &object),
    }
}

pub(super) async fn read_workload(
    api: &dyn RolloutApi,
    permit: &Permit,
    workload: &WorkloadRef,
) -> Result<Box<RawValue>> {
    api.workload(permit, &workload.name).await?.ok_or_else(|| permit.object_not_found())
}

/// The workload and its revisions.
///
/// # Errors
/// `NotFoundInCluster`; `ForbiddenByCluster` or `RoleTooLow` if the revisions cannot be read.
pub(super) async fn read_revisions(
    api: &dyn RolloutApi,
    permit: &Permit,
    workload: &WorkloadRef,
) -> Result<(Box<RawValue>, Revisions)> {
    let history = api.history(permit, &workload.name).await?.ok_or_else(|| permit.object_not_found())?;
    let History { workload: object, revisions, unreadable } = history;
    if unreadable.is_some() {
        return Err(unreadable_revisions(permit, workload));
    }
    let revisions = Revisions::of(workload.kind, &object, revisions)?;
    Ok((object, revisions))
}

/// The error for revisions that neither the caller's rights nor the credential allow to list.
fn unreadable_revisions(permit: &Permit, workload: &WorkloadRef) -> Error {
    let namespace = workload.namespace.as_str();
    let kind = workload.kind.revision_kind();
    match kind.filter(|kind| matches!(permit.namespaces_of(*kind), Ok(Some(_)))) {
        Some(kind) => {
            let refused = Error::new(Cause::ForbiddenByCluster).verb("list").resource(kind.info().singular);
            refused.namespace(namespace)
        }
        None => Error::role_too_low(Role::Viewer).missing(MissingRight {
            verb: RightVerb::List.to_string(),
            resource: RightResource::Workloads.to_string(),
            cluster_id: permit.cluster().ok(),
            namespace: Some(namespace.to_owned()),
        }),
    }
}

fn operation_id(permit: &Permit) -> Result<OperationId> {
    permit.operation_id().ok_or_else(|| Error::internal("a change without a recorded operation"))
}

/// The result of a change that is not needed.
fn unchanged(workload: &WorkloadRef, object: &RawValue) -> Result<Changed<WorkloadRow>> {
    let value = WorkloadRow::project(workload.kind.kind(), object).map_err(Error::read_only)?;
    Ok(Changed { value, warnings: vec![Warning::Unchanged] })
}
