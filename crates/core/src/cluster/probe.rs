//! Probe of a cluster: its port, its targets, and its results.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    access::Permit,
    connection::{Connection, StoredConnection},
    error::{Cause, Result},
    ids::ClusterId,
};

/// Report of a successful probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The API server's version: `v1.37.2`.
    pub version: String,
    /// Latency of `GET /version`.
    pub latency: Duration,
    /// The user name that the cluster reports for the credential; `None` without SelfSubjectReview.
    pub identity: Option<String>,
    /// Numbers of ready and of all nodes; `None` if the credential may not list nodes.
    pub nodes: Option<NodeCount>,
    /// Number of pods; `None` if the credential may not list pods.
    pub pods: Option<i64>,
    /// Number of namespaces; `None` if the credential may not list namespaces.
    pub namespaces: Option<i64>,
    /// Certificates of the connection and their expiry: `api_server`, `client`.
    pub certificates: Vec<CertificateExpiry>,
}

/// Target of a probe.
#[derive(Clone, Debug)]
pub enum ProbeTarget {
    /// A connection that is not registered. The probe is not shared.
    New(Connection),
    /// A registered cluster, by its stored connection.
    Registered(StoredConnection, ProbeReason),
}

/// Reason for a probe of a registered cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeReason {
    /// A status request: a result less than one second old is acceptable.
    Status,
    /// A connection test: the result of a probe in progress is acceptable.
    Test,
    /// A scheduled probe: as a status request, but also sent while the circuit is open, to find out whether the
    /// cluster responds again.
    Scheduled,
}

/// Outcome of a probe.
#[derive(Clone, Debug)]
pub struct Probed {
    /// End time of the probe.
    pub at: Timestamp,
    /// Whether the caller must store the result. True for one of the callers that share a probe.
    pub record: bool,
    /// The report, or the error of a failed probe.
    pub result: Result<Report>,
}

/// Ready and total nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeCount {
    /// Nodes with the condition Ready.
    pub ready: i64,
    /// All nodes.
    pub total: i64,
}

/// Expiry of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateExpiry {
    /// `api_server`, `client` or `ca`.
    pub what: String,
    /// End of its validity.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// A Pilothouse feature, and whether the credential has the permissions that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Permission {
    /// The feature: `list_pods`, `scale_workloads`, …
    pub feature: String,
    /// Whether the credential allows it in every namespace.
    pub allowed: bool,
    /// The missing permissions in RBAC terms: `patch deployments.apps`.
    pub missing: Vec<String>,
}

/// Result of a probe, as stored.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// End time of the probe.
    pub at: Timestamp,
    /// The report, or the cause of the failure.
    pub result: Result<Report, Cause>,
}

/// Cluster probe port. Read-only.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ClusterProbe: Send + Sync {
    /// Checks a connection without connecting: the certificates and the key must be valid, and an address that is an
    /// IP literal must be allowed by the egress rules.
    ///
    /// # Errors
    /// `InvalidInput` naming the malformed field; `EgressDenied`.
    fn check(&self, connection: &Connection) -> Result<()>;

    /// Probes a cluster within the test deadline. At most one probe of a registered cluster runs at a time;
    /// concurrent callers share its result.
    ///
    /// # Errors
    /// `CircuitOpen` or `Overloaded` if no request was sent to the cluster; `Unreachable` or `NotFound` if the stored
    /// connection was replaced or removed meanwhile. [`Probed::result`] contains the error of a failed probe.
    async fn probe(&self, permit: &Permit, target: ProbeTarget) -> Result<Probed>;

    /// Compares the permissions that Pilothouse's features need with the credential's (SelfSubjectAccessReview).
    /// Shared like a probe.
    ///
    /// # Errors
    /// Errors with code `ConnectionError`, `TimeoutError`, `RateLimited`; `EgressDenied`; `ForbiddenByCluster`;
    /// `Overloaded`.
    async fn permissions(&self, permit: &Permit, target: ProbeTarget) -> Result<Vec<Permission>>;

    /// Closes all use of a stored connection that was replaced or removed: streams end, idle connections are closed,
    /// and no further request is sent over it. Called after each change of a cluster's connection.
    async fn connection_changed(&self, id: ClusterId);
}
