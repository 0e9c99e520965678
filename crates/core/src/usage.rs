//! Usage of CPU and memory, as a cluster's API `metrics.k8s.io` reports it: of nodes, of pods, and of workloads as the
//! sum of their pods. Pages of lists show it ([`crate::inventory::Lists`]); [`UsageHistory`] returns the last hour of one
//! node or pod.
//!
//! The API cannot be watched. An adapter of [`UsageApi`] polls it while somebody reads usage, and answers from what it
//! read last, so that no page waits for it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    clock::Clock,
    error::{Error, Reason, Result},
    gate::{Gate, Warning},
    ids::ClusterId,
    kind::Kind,
    name::{Namespace, ObjectName},
};

mod json;
mod ring;
mod table;

pub use json::UsageJson;
pub use ring::{MAX_POINTS, UsageRing, UsageRings};
pub use table::{Subject, UsageTable, UsageTableBuilder};

/// Usage of CPU and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// CPU in thousandths of a core, rounded up.
    pub cpu_millis: i64,
    /// Memory in bytes: the working set.
    pub memory_bytes: i64,
    /// Time of the measurement, in whole seconds; for a workload, of the oldest one among its pods.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub at: Timestamp,
}

impl Usage {
    /// Usage from the API's units: CPU in billionths of a core.
    pub fn of(cpu_nanos: u64, memory_bytes: u64, at: Timestamp) -> Self {
        let whole_seconds = Timestamp::from_second(at.as_second()).unwrap_or(at);
        Self {
            cpu_millis: cpu_nanos.div_ceil(1_000_000).try_into().unwrap_or(i64::MAX),
            memory_bytes: memory_bytes.try_into().unwrap_or(i64::MAX),
            at: whole_seconds,
        }
    }

    /// The usage of both together.
    #[must_use]
    fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            at: self.at.min(other.at),
        }
    }
}

/// What is known of the usage in a cluster.
#[derive(Clone, Debug, Default)]
pub struct KnownUsage {
    /// The usage that was read last. Empty if none is known.
    pub table: Arc<UsageTable>,
    /// Why none is known, if the cluster does not serve the API or refuses the credential.
    pub warning: Option<Warning>,
}

/// Usage over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageSeries {
    /// Time since which this server keeps the points: of the first request for them. Without requests for some minutes,
    /// no points are added.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub from: Timestamp,
    /// The measurements, oldest first, about one every 30 s.
    pub points: Vec<Usage>,
}

/// Port: usage of CPU and memory in the permit's cluster.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait UsageApi: Send + Sync {
    /// Returns what is known of the usage: of nodes under a permit for nodes, of pods and workloads under any other one,
    /// at least in the permit's namespaces. Never fails and waits for at most 0.3 s, at the first call of a while.
    /// The table may also have the usage of what the permit does not cover: a caller looks up only what its permit does.
    async fn known(&self, permit: &Permit) -> KnownUsage;

    /// Returns the usage over time of the permit's node or pod, since the first call for it; `None` if that object does
    /// not exist. Also returns a warning, as in [`KnownUsage`].
    ///
    /// # Errors
    /// The errors of every call to a cluster.
    async fn series(
        &self,
        permit: &Permit,
        name: &ObjectName,
    ) -> Result<Option<(UsageSeries, Option<Warning>)>>;
}

/// A node or a pod whose usage over time is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The namespace of the pod; `None` for a node.
    pub namespace: Option<Namespace>,
    /// Its name.
    pub name: ObjectName,
}

impl Measured {
    /// The node or pod that a request names.
    ///
    /// # Errors
    /// `InvalidInput` for a pod without a namespace, or a node with one.
    pub fn new(kind: MeasuredKind, namespace: Option<Namespace>, name: ObjectName) -> Result<Self> {
        let reason = match (kind, &namespace) {
            (MeasuredKind::Node, None) | (MeasuredKind::Pod, Some(_)) => return Ok(Self { namespace, name }),
            (MeasuredKind::Node, Some(_)) => Reason::Unknown,
            (MeasuredKind::Pod, None) => Reason::Required,
        };
        Err(Error::invalid("namespace", reason))
    }
}

/// Kind of an object whose usage over time is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the Kubernetes kinds of the same names")]
pub enum MeasuredKind {
    Node,
    Pod,
}

/// Use case: usage over time.
#[derive(Clone)]
pub struct UsageHistory {
    gate: Gate,
    api: Arc<dyn UsageApi>,
    clock: Arc<dyn Clock>,
}

impl UsageHistory {
    /// Maximum time that a request reads, in minutes.
    pub const MAX_MINUTES: u32 = 60;

    /// Creates this use case alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn UsageApi>, clock: Arc<dyn Clock>) -> Self {
        Self { gate, api, clock }
    }

    /// Returns the usage of a node or pod in the last minutes.
    ///
    /// # Errors
    /// As [`Gate::allow`]; `NotFoundInCluster`; and the errors of every call to a cluster.
    pub async fn series(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        measured: &Measured,
        minutes: u32,
    ) -> Result<(UsageSeries, Option<Warning>)> {
        let Measured { namespace, name } = measured;
        let access = match namespace {
            Some(namespace) => {
                AccessRequest::to_object(Verb::Get, Kind::Pod, cluster, namespace, name.as_str())
            }
            None => {
                let node = AccessRequest::to(Verb::Get, Resource::Kind(Kind::Node));
                node.in_cluster(cluster).named(name.as_str())
            }
        };
        let permit = self.gate.allow(caller, access).await?;
        let found = self.api.series(&permit, name).await?;
        let (mut series, warning) = found.ok_or_else(|| permit.object_not_found())?;
        let oldest = self.clock.now() - SignedDuration::from_mins(minutes.into());
        series.points.retain(|point| point.at >= oldest);
        Ok((series, warning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_rounded_up_and_times_are_whole_seconds() {
        let at: Timestamp = "2026-01-01T00:00:00.9Z".parse().unwrap();
        let usage = |nanos| Usage::of(nanos, 5, at);
        assert_eq!([0, 1, 1_000_000, 1_000_001].map(|nanos| usage(nanos).cpu_millis), [0, 1, 1, 2]);
        assert_eq!(usage(0).at.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Usage::of(u64::MAX, u64::MAX, at).memory_bytes, i64::MAX);
    }

    #[test]
    fn pods_have_a_namespace_and_nodes_have_none() {
        let (namespace, name) = (Namespace::new("shop").unwrap(), ObjectName::new("web").unwrap());
        let measured = |kind, namespace| Measured::new(kind, namespace, name.clone());
        assert!(measured(MeasuredKind::Pod, Some(namespace.clone())).is_ok());
        assert!(measured(MeasuredKind::Node, None).is_ok());
        for (kind, namespace, reason) in [
            (MeasuredKind::Pod, None, Reason::Required),
            (MeasuredKind::Node, Some(namespace), Reason::Unknown),
        ] {
            let refused = measured(kind, namespace).unwrap_err();
            assert_eq!(
                (&*refused.context.fields[0].name, refused.context.fields[0].reason),
                ("namespace", reason)
            );
        }
    }
}
