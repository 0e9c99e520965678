//! Routes for rollouts: history, differences between revisions, progress, undo, pause, resume, new images.

use std::{collections::BTreeMap, io::Write};

use actix_web::{HttpRequest, HttpResponse, Responder, body::BoxBody, web::Data};
use jiff::Timestamp;
use pilothouse_core::{
    change_reason::ChangeReason,
    name::{Namespace, ObjectName},
    rollout::{RevisionList, Rollout},
    workload::{FieldChange, Images, Progress, RolloutState, WaitingPods, WorkloadRef, WorkloadType},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    params::{Bounded, Id},
    workloads::{OneWorkload, WorkloadBody},
};
use crate::{
    api::Api,
    body::Body,
    docs::{Docs, Documented},
    error::Result,
    extract::Authenticated,
    findings::FindingBody,
    messages::{Catalog, Message},
    middleware::RequestContext,
    query::Params,
    response::Response,
    sse::{Events, SseEvent},
};

/// Number of a revision.
type RevisionNumber = Bounded<1, { u32::MAX }>;

pub(crate) async fn history(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<WorkloadBody>>,
) -> Result<Response<RevisionList>> {
    let (cluster, workload) = query.into_parts();
    let list = api.app.rollouts.history(signed_in.caller(), cluster, &workload).await?;
    let warnings = list.warnings.clone();
    Ok(Response::of(list).warning(warnings))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiffQuery {
    /// The id of the cluster.
    #[param(inline)]
    cluster_id: Id,
    #[param(inline)]
    namespace: Namespace,
    /// The type: `deployment`, `statefulset` or `daemonset`.
    #[param(inline)]
    r#type: WorkloadType,
    #[param(inline)]
    name: ObjectName,
    /// The number of the older revision.
    #[param(value_type = u32, minimum = 1)]
    from: RevisionNumber,
    /// The number of the newer revision.
    #[param(value_type = u32, minimum = 1)]
    to: RevisionNumber,
}

/// The differences between the pod templates of two revisions.
#[derive(Serialize, ToSchema)]
pub(crate) struct DiffBody {
    /// The fields that differ, by path.
    changes: Vec<FieldChange>,
}

pub(crate) async fn diff(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<DiffQuery>>,
) -> Result<Response<DiffBody>> {
    let DiffQuery { cluster_id, namespace, r#type: kind, name, from, to } = query;
    let workload = WorkloadRef { namespace, kind, name };
    let (from, to) = (from.0.into(), to.0.into());
    let rollouts = &api.app.rollouts;
    let changes = rollouts.changes(signed_in.caller(), cluster_id.into(), &workload, from, to).await?;
    Ok(Response::of(DiffBody { changes }))
}

/// The progress of a rollout.
#[derive(Serialize, ToSchema)]
pub(crate) struct RolloutBody {
    /// Its state: the first that applies of `paused`, `failed`, `stuck`, `progressing`, `complete`. A rollout that
    /// Kubernetes calls complete is `stuck` if its pods fail.
    state: RolloutState,
    /// Time since which it is in that state, if the cluster records it.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// Number of pods of the wanted revision.
    updated: i64,
    /// Number of available pods.
    available: i64,
    /// Number of wanted pods.
    wanted: i64,
    /// Pods of an earlier revision that stay until somebody acts; null if there are none.
    waiting: Option<WaitingPods>,
    /// What the diagnosis finds: why the rollout is stuck, and what else is wrong.
    reasons: Vec<FindingBody>,
    /// What the caller or the stored credential may not read, so that a reason that only shows there is missing.
    unreadable: Vec<&'static str>,
}

impl RolloutBody {
    fn of(rollout: Rollout, catalog: &Catalog) -> Self {
        let Rollout { cluster, progress, reasons, unreadable } = rollout;
        let Progress { state, since, updated, available, wanted, waiting } = progress;
        let reasons = reasons.into_iter().map(|finding| FindingBody::of(finding, cluster, catalog));
        Self { state, since, updated, available, wanted, waiting, reasons: reasons.collect(), unreadable }
    }
}

/// The response with the progress of a rollout. Its texts are in the caller's language.
pub(crate) struct RolloutResponse(Rollout);

impl Responder for RolloutResponse {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let catalog = RequestContext::language(request).catalog();
        Response::of(RolloutBody::of(self.0, catalog)).respond_to(request)
    }
}

impl Documented for RolloutResponse {
    fn describe(docs: &mut Docs) {
        docs.response::<RolloutBody>();
    }
}

pub(crate) async fn rollout(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<WorkloadBody>>,
) -> Result<RolloutResponse> {
    let (cluster, workload) = query.into_parts();
    Ok(RolloutResponse(api.app.rollouts.progress(signed_in.caller(), cluster, &workload).await?))
}

impl SseEvent for Rollout {
    const EVENTS: &'static str = "Server-sent events. `rollout`: data is the progress of the rollout, as in \
        `/api/k8s/workloads/rollout`; the first one is the progress now, the others are changes of it. \
        `end`, always the last event: data is `{\"reason\", \"error_code\", \"details\"}`; reason is `server_stopping`, \
        `too_slow`, or the cause of an error such as `not_found_in_cluster` (the workload was deleted), `session_ended`, \
        `rights_changed`; error_code is null except for an error. A comment is sent every 15 seconds.";

    fn write(&self, buffer: &mut Vec<u8>, catalog: &Catalog) {
        // one line: JSON has no line breaks outside of texts, and escapes them there
        let data = serde_json::to_string(&RolloutBody::of(self.clone(), catalog)).unwrap_or_default();
        // writing to memory cannot fail
        let _ = write!(buffer, "event: rollout\ndata: {data}\n\n");
    }
}

pub(crate) async fn watch(
    api: Data<Api>,
    Authenticated(signed_in, Params(query)): Authenticated<Params<WorkloadBody>>,
) -> Result<Events<Rollout>> {
    let (cluster, workload) = query.into_parts();
    Ok(Events(api.app.rollouts.watch(signed_in.caller(), cluster, &workload).await?))
}

/// A rollout to undo.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UndoBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The type: `deployment`, `statefulset` or `daemonset`.
    r#type: WorkloadType,
    name: ObjectName,
    /// The number of the revision to go back to; the default is the newest one that is not current.
    #[schema(value_type = Option<u32>, minimum = 1)]
    to_revision: Option<RevisionNumber>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn undo(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<UndoBody>>,
) -> Result<Response<OneWorkload>> {
    let UndoBody { cluster_id, namespace, r#type: kind, name, to_revision, reason } = body;
    let workload = WorkloadRef { namespace, kind, name };
    let to_revision = to_revision.map(|number| number.0.into());
    let rollouts = &api.app.rollouts;
    let changed =
        rollouts.undo(signed_in.caller(), cluster_id.into(), &workload, to_revision, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::RolloutUndone))
}

/// A rollout to pause or to resume.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PauseBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The type: `deployment`. Other types cannot be paused.
    r#type: WorkloadType,
    name: ObjectName,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn pause(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PauseBody>>,
) -> Result<Response<OneWorkload>> {
    let PauseBody { cluster_id, namespace, r#type: kind, name, reason } = body;
    let workload = WorkloadRef { namespace, kind, name };
    let rollouts = &api.app.rollouts;
    let changed = rollouts.pause(signed_in.caller(), cluster_id.into(), &workload, true, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::RolloutPaused))
}

pub(crate) async fn resume(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<PauseBody>>,
) -> Result<Response<OneWorkload>> {
    let PauseBody { cluster_id, namespace, r#type: kind, name, reason } = body;
    let workload = WorkloadRef { namespace, kind, name };
    let rollouts = &api.app.rollouts;
    let changed = rollouts.pause(signed_in.caller(), cluster_id.into(), &workload, false, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::RolloutResumed))
}

/// New images of a workload's containers.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetImageBody {
    /// The id of the cluster.
    cluster_id: Id,
    namespace: Namespace,
    /// The type: `deployment`, `statefulset` or `daemonset`.
    r#type: WorkloadType,
    name: ObjectName,
    /// The images by the name of the container, 1 to 50; other containers keep theirs.
    images: BTreeMap<String, String>,
    /// The reason of the change, for its audit row.
    reason: Option<ChangeReason>,
}

pub(crate) async fn set_image(
    api: Data<Api>,
    Authenticated(signed_in, Body(body)): Authenticated<Body<SetImageBody>>,
) -> Result<Response<OneWorkload>> {
    let SetImageBody { cluster_id, namespace, r#type: kind, name, images, reason } = body;
    let (workload, images) = (WorkloadRef { namespace, kind, name }, Images::new(images)?);
    let rollouts = &api.app.rollouts;
    let changed =
        rollouts.set_images(signed_in.caller(), cluster_id.into(), &workload, images, reason).await?;
    Ok(Response::changed(changed, |workload| OneWorkload { workload }).with_message(Message::ImagesSet))
}
