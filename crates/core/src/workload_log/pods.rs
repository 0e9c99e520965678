//! The pods of a workload in one cluster: which there are, then their changes, from the cached list of pods. A cluster
//! whose pods cannot be watched is read at intervals.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{BoxStream, StreamExt, unfold};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    access::Permit,
    error::{Cause, Result},
    ids::ClusterId,
    inventory::{Inventory, List, ListEvent, Listing, WatchSnapshot},
    job::is_derived_name,
    kind::Kind,
    name::ObjectName,
    rows::{Change, ListQuery, Row},
    spawn::Spawner,
    workload::{WorkloadRef, WorkloadType},
};

/// Interval between two reads of pods that cannot be watched, or that could not be read.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// A pod of the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenPod {
    pub(super) name: ObjectName,
    /// Creation time. Another one under the same name is another pod.
    pub(super) created_at: Option<Timestamp>,
    /// Restarts and status: another value means that a container may have begun.
    pub(super) run: (i64, String),
}

/// Change of the pods of a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PodChange {
    /// A pod is new or has changed.
    Seen(SeenPod),
    /// A pod was removed.
    Gone(ObjectName),
}

/// Event of the pods of a workload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PodsEvent {
    /// All pods that there are.
    All(Vec<SeenPod>),
    /// Changes of pods.
    Changes(Vec<PodChange>),
    /// The pods cannot be read now; they are tried again.
    Failed(Cause),
    /// The cluster or its connection changed. Last event.
    ConnectionChanged,
}

/// The pods of a workload in one cluster.
pub(super) struct WorkloadPods {
    inventory: Arc<dyn Inventory>,
    spawner: Arc<dyn Spawner>,
    permit: Permit,
    workload: WorkloadRef,
    query: ListQuery,
    stage: Stage,
}

enum Stage {
    /// The pods are read next.
    Open,
    /// The pods are read again after [`RETRY_INTERVAL`].
    Retry,
    Watched(BoxStream<'static, ListEvent>),
    Over,
}

impl WorkloadPods {
    /// The pods of a workload under a permit to read logs of pods in its namespace.
    ///
    /// # Errors
    /// `Internal` if the permit has no cluster; `InvalidInput` for a name that no filter accepts.
    pub(super) fn new(
        inventory: Arc<dyn Inventory>,
        spawner: Arc<dyn Spawner>,
        permit: Permit,
        workload: WorkloadRef,
    ) -> Result<Self> {
        let query = query_of(permit.cluster()?, &workload)?;
        Ok(Self { inventory, spawner, permit, workload, query, stage: Stage::Open })
    }

    /// The events: first all pods, or that they cannot be read.
    pub(super) fn events(self) -> BoxStream<'static, PodsEvent> {
        let next = |mut pods: Self| async move {
            let event = pods.next().await?;
            Some((event, pods))
        };
        unfold(self, next).boxed()
    }

    async fn next(&mut self) -> Option<PodsEvent> {
        loop {
            let event = match &mut self.stage {
                Stage::Open => return Some(self.open().await),
                Stage::Retry => {
                    self.spawner.sleep(RETRY_INTERVAL).await;
                    return Some(self.open().await);
                }
                Stage::Watched(events) => events.next().await,
                Stage::Over => return None,
            };
            match event {
                Some(ListEvent::Changes(changes)) => {
                    let changes: Vec<_> = changes.iter().filter_map(|change| self.change(change)).collect();
                    if !changes.is_empty() {
                        return Some(PodsEvent::Changes(changes));
                    }
                }
                Some(ListEvent::Freshness { .. }) => {}
                // some changes were missed
                Some(ListEvent::Lagged) => self.stage = Stage::Open,
                Some(ListEvent::ConnectionChanged) | None => {
                    self.stage = Stage::Over;
                    return Some(PodsEvent::ConnectionChanged);
                }
            }
        }
    }

    async fn open(&mut self) -> PodsEvent {
        match self.inventory.watch(&self.permit, List::Pods, &self.query).await {
            Ok(WatchSnapshot { rows, events, .. }) => {
                self.stage = Stage::Watched(events);
                PodsEvent::All(self.seen(&rows.collect::<Vec<_>>()))
            }
            // the credential may not watch the pods of all namespaces, or there are too many of them
            Err(error) if matches!(error.cause, Cause::NotCached | Cause::ForbiddenByCluster) => {
                self.stage = Stage::Retry;
                match self.inventory.page(&self.permit, List::Pods, &self.query).await {
                    Ok(Listing { rows, .. }) => PodsEvent::All(self.seen(&rows)),
                    Err(error) => PodsEvent::Failed(error.cause),
                }
            }
            Err(error) => {
                self.stage = Stage::Retry;
                PodsEvent::Failed(error.cause)
            }
        }
    }

    fn seen(&self, rows: &[Row]) -> Vec<SeenPod> {
        rows.iter().filter_map(|row| self.pod(row)).collect()
    }

    /// The pod of a row; `None` if it is not of the workload.
    fn pod(&self, row: &Row) -> Option<SeenPod> {
        if !row.matches(&self.query) {
            return None;
        }
        let PodFields { name, status, restarts, created_at, owner } = row.parse().ok()?;
        let is_owned = self.workload.kind != WorkloadType::CronJob
            || owner.is_some_and(|owner| is_of_cron_job(&owner, self.workload.name.as_str()));
        let name = ObjectName::new(name).ok().filter(|_| is_owned)?;
        Some(SeenPod { name, created_at, run: (restarts, status) })
    }

    fn change(&self, change: &Change) -> Option<PodChange> {
        let (before, after) = match change {
            Change::Added(row) => (None, Some(row)),
            Change::Changed(before, after) => (Some(before), Some(after)),
            Change::Removed(row) => (Some(row), None),
        };
        match after.and_then(|row| self.pod(row)) {
            Some(pod) => Some(PodChange::Seen(pod)),
            None => before.and_then(|row| self.pod(row)).map(|pod| PodChange::Gone(pod.name)),
        }
    }
}

/// The pods of a workload in the list of pods. Those of a cron job are the pods of jobs whose names begin with its name.
fn query_of(cluster: ClusterId, workload: &WorkloadRef) -> Result<ListQuery> {
    let WorkloadRef { namespace, kind, name } = workload;
    let mut pairs =
        vec![("cluster_id".to_owned(), cluster.to_string()), ("namespace".to_owned(), namespace.to_string())];
    if *kind != WorkloadType::CronJob {
        pairs.push(("workload".to_owned(), format!("{kind}/{name}")));
    }
    Ok(ListQuery { per_page: u64::MAX, ..List::Pods.parse_page(&pairs)? })
}

/// The fields of a pod's row that are read here.
#[derive(Deserialize)]
struct PodFields {
    name: String,
    status: String,
    restarts: i64,
    created_at: Option<Timestamp>,
    owner: Option<OwnerFields>,
}

#[derive(Deserialize)]
struct OwnerFields {
    kind: String,
    name: String,
}

/// Whether a controller is a job of a cron job: the controller of cron jobs adds the scheduled time in minutes to the
/// name, other consoles add `manual-`, and [`JobRun`](crate::job::JobRun) adds digits of its operation.
fn is_of_cron_job(owner: &OwnerFields, cron_job: &str) -> bool {
    let rest = owner.name.strip_prefix(cron_job).and_then(|rest| rest.strip_prefix('-'));
    let is_run = |rest: &str| {
        rest.starts_with("manual-") || (!rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    owner.kind == Kind::Job.info().kind
        && (rest.is_some_and(is_run) || is_derived_name(&owner.name, cron_job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_a_cron_job_are_recognised_by_their_names() {
        let cases = [
            ("Job", "backup-29412345", true),
            ("Job", "backup-manual-x7k2p", true),
            ("Job", "backup-a6e63d9e3888", true),
            ("Job", "backup-a6e63d9e388", false),
            ("Job", "backup-", false),
            ("Job", "backup", false),
            ("Job", "backup-check-29412345", false),
            ("Job", "backups-29412345", false),
            ("ReplicaSet", "backup-29412345", false),
        ];
        for (kind, name, expected) in cases {
            let owner = OwnerFields { kind: kind.to_owned(), name: name.to_owned() };
            assert_eq!(is_of_cron_job(&owner, "backup"), expected, "{kind} {name}");
        }
    }

    #[test]
    fn query_selects_the_pods_of_the_workload() {
        let query = |kind| {
            let workload = WorkloadRef {
                namespace: crate::name::Namespace::new("shop").unwrap(),
                kind,
                name: ObjectName::new("web").unwrap(),
            };
            query_of(ClusterId(1), &workload).unwrap()
        };
        let pod = |labels: serde_json::Value, owner: serde_json::Value| {
            let metadata = serde_json::json!({"name": "p", "namespace": "shop", "labels": labels, "ownerReferences": [owner]});
            let pod = serde_json::value::to_raw_value(&serde_json::json!({"metadata": metadata})).unwrap();
            List::Pods.info().project.unwrap()(Kind::Pod, &pod).unwrap().remove(0)
        };
        let owner =
            |kind: &str, name: &str| serde_json::json!({"kind": kind, "name": name, "controller": true});
        let of_deployment =
            pod(serde_json::json!({"pod-template-hash": "5d9f"}), owner("ReplicaSet", "web-5d9f"));
        let of_set = pod(serde_json::json!({}), owner("StatefulSet", "web"));
        assert!(of_deployment.matches(&query(WorkloadType::Deployment)));
        assert!(!of_set.matches(&query(WorkloadType::Deployment)));
        assert!(of_set.matches(&query(WorkloadType::StatefulSet)));
        assert!(of_set.matches(&query(WorkloadType::CronJob)), "cron jobs are recognised by the owner");
    }
}
