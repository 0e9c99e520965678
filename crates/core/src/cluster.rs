//! Registered clusters: what is known of one, how it is reached, registering, testing, watching over its health.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::{
    access::Permit,
    error::{Cause, Reason, Result},
    inventory::{Cell, Field, Filter, ListRow},
    name::{LONGEST_NORMALISED, is_invisible},
};

mod cached;
mod server;
mod usecase;

pub use cached::CachedClusters;
pub use server::ApiServer;
pub use usecase::{ClusterChange, ClusterStatus, ClusterTest, Clusters, CredentialInput, NewCluster};
pub(crate) use usecase::{check_pem, check_token};

/// A cluster's id; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub i64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster's name: trimmed, NFC, 1 to 63 characters without control characters; unique ignoring case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

impl ClusterName {
    /// Normalises and checks a name.
    ///
    /// # Errors
    /// [`Reason::Required`], [`Reason::TooLong`], [`Reason::Malformed`].
    pub fn new(text: &str) -> Result<Self, Reason> {
        let text = text.trim();
        if text.len() > LONGEST_NORMALISED {
            return Err(Reason::TooLong);
        }
        let name: String = text.nfc().collect();
        match name.chars().count() {
            0 => Err(Reason::Required),
            1..=63 if name.chars().any(|c| c.is_control() || is_invisible(c)) => Err(Reason::Malformed),
            1..=63 => Ok(Self(name)),
            _ => Err(Reason::TooLong),
        }
    }

    /// The name as shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form in which names are compared: two names with equal keys are the same name.
    pub fn key(&self) -> String {
        self.0.nfkc().collect::<String>().to_lowercase()
    }
}

impl TryFrom<String> for ClusterName {
    type Error = Reason;
    fn try_from(text: String) -> Result<Self, Reason> {
        Self::new(&text)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the credential was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AuthType {
    /// A bearer token.
    Token,
    /// A kubeconfig, of which only server, CA and one credential are kept.
    Kubeconfig,
}

impl AuthType {
    /// The word in rows and requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Kubeconfig => "kubeconfig",
        }
    }
}

/// Whether a cluster answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The last probe succeeded.
    Online,
    /// The last probe failed; `status_reason` says why.
    Offline,
    /// Not probed yet.
    Unknown,
}

impl Health {
    /// The word in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }
}

/// A registered cluster as it is shown. Holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cluster {
    /// Its id.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub id: ClusterId,
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: ClusterName,
    /// The API server's address.
    pub api_server: String,
    /// How its credential was given.
    pub auth_type: AuthType,
    /// Whether it answers.
    pub status: Health,
    /// Why it does not: the `cause` of the last probe's error.
    pub status_reason: Option<String>,
    /// Nodes at the last successful probe; null before the first.
    pub node_count: Option<i64>,
    /// Pods at the last successful probe.
    pub pod_count: Option<i64>,
    /// Namespaces at the last successful probe.
    pub namespace_count: Option<i64>,
    /// The API server's version: `v1.37.2`.
    pub version: Option<String>,
    /// Free text.
    pub description: String,
    /// Labels of ours, not of the cluster's.
    pub labels: BTreeMap<String, String>,
    /// When it was registered.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When somebody last changed it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub updated_at: Timestamp,
    /// When a probe last succeeded; null before the first.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_connected_at: Option<Timestamp>,
}

impl Cluster {
    /// The row of a cluster that is registered now. `id` is the registry's to draw; without an observation it is offline.
    pub fn registered(id: ClusterId, record: &ClusterRecord) -> Self {
        let mut cluster = Self {
            id,
            name: record.name.clone(),
            api_server: record.connection.server.to_string(),
            auth_type: record.auth_type,
            status: Health::Offline,
            status_reason: None,
            node_count: None,
            pod_count: None,
            namespace_count: None,
            version: None,
            description: record.description.clone(),
            labels: record.labels.clone(),
            created_at: record.at,
            updated_at: record.at,
            last_connected_at: None,
        };
        if let Some(observation) = &record.observation {
            cluster.observe(observation);
        }
        cluster
    }

    /// Keeps what a probe said; when it failed, what was known before stays.
    pub fn observe(&mut self, observation: &ProbeResult) {
        match &observation.result {
            Ok(report) => {
                self.status = Health::Online;
                self.status_reason = None;
                self.node_count = report.nodes.map(|nodes| nodes.total);
                self.pod_count = report.pods;
                self.namespace_count = report.namespaces;
                self.version = Some(report.version.clone());
                self.last_connected_at = Some(observation.at);
            }
            Err(cause) => {
                self.status = Health::Offline;
                self.status_reason = Some(cause.as_str().to_owned());
            }
        }
    }
}

impl ListRow for Cluster {
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("id", |row| Cell::from(row.id.0)),
        Field::new("name", |row| Cell::text(row.name.as_str())),
        Field::new("api_server", |row| Cell::text(&*row.api_server)),
        Field::new("auth_type", |row| Cell::text(row.auth_type.as_str())),
        Field::filtered("status", Filter::OneOf(&["online", "offline", "unknown"]), |row| {
            Cell::text(row.status.as_str())
        }),
        Field::new("status_reason", |row| Cell::from(&row.status_reason)),
        Field::new("node_count", |row| Cell::from(row.node_count)),
        Field::new("pod_count", |row| Cell::from(row.pod_count)),
        Field::new("namespace_count", |row| Cell::from(row.namespace_count)),
        Field::new("version", |row| Cell::from(&row.version)),
        Field::new("description", |row| Cell::text(&*row.description)),
        Field::new("created_at", |row| Cell::from(row.created_at)),
        Field::new("updated_at", |row| Cell::from(row.updated_at)),
        Field::new("last_connected_at", |row| Cell::from(row.last_connected_at)),
    ];

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn namespace(&self) -> Option<&str> {
        None
    }
}

/// What proves who we are to a cluster. Has no `Serialize`, and its `Debug` shows the sort of credential only.
#[derive(Clone)]
pub enum Credential {
    /// A bearer token.
    Token(SecretString),
    /// A client certificate.
    Certificate {
        /// The chain, PEM.
        chain: String,
        /// The private key, PEM.
        key: SecretString,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Certificate { .. } => "Certificate(…)",
        })
    }
}

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where.
    pub server: ApiServer,
    /// Whom to trust, PEM; the system's roots when none.
    pub ca: Option<String>,
    /// The name the server's certificate must bear, when not the server's host.
    pub tls_server_name: Option<String>,
    /// Accept any certificate.
    pub insecure_skip_tls_verify: bool,
    /// Who we are.
    pub credential: Credential,
}

/// A stored connection. The version changes with it, so a client built from another one is never used again.
#[derive(Clone, Debug)]
pub struct StoredConnection {
    /// How to reach the cluster.
    pub connection: Connection,
    /// Greater after every change, and never one that was used before, even where the database lost its last commits.
    pub version: i64,
}

/// What a successful probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The API server's version: `v1.37.2`.
    pub version: String,
    /// How long `GET /version` took.
    pub latency: Duration,
    /// Who the cluster says we are; none where it has no SelfSubjectReview.
    pub identity: Option<String>,
    /// Nodes, ready and all; none when we may not list them.
    pub nodes: Option<NodeCount>,
    /// Pods; none when we may not list them.
    pub pods: Option<i64>,
    /// Namespaces; none when we may not list them.
    pub namespaces: Option<i64>,
    /// Certificates on the way and when they end: `api_server`, `client`.
    pub certificates: Vec<CertificateExpiry>,
}

/// What is probed.
#[derive(Clone, Debug)]
pub enum ProbeTarget {
    /// A connection that is not registered: a probe of its own.
    New(Connection),
    /// A registered cluster, by its stored connection.
    Registered(StoredConnection, ProbeReason),
}

/// Why a registered cluster is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeReason {
    /// Its status is asked for: an answer that is less than a second old will do.
    Status,
    /// A test of it: the answer of a probe that is under way will do.
    Test,
    /// The prober's visit. As for a status, and an open circuit does not refuse it: the visit finds out whether the
    /// cluster answers again.
    Scheduled,
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Probed {
    /// When the probe ended.
    pub at: Timestamp,
    /// Whether the caller is to store what was found: one of those who share a probe is.
    pub record: bool,
    /// What it found, or why it failed.
    pub result: Result<Report>,
}

/// Nodes, ready and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeCount {
    /// With the condition Ready.
    pub ready: i64,
    /// All.
    pub total: i64,
}

/// A certificate and when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateExpiry {
    /// `api_server`, `client` or `ca`.
    pub what: String,
    /// The end of its validity.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: Timestamp,
}

/// What one of our features needs of the credential, and whether it has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Permission {
    /// Our feature: `list_pods`, `scale_workloads`, …
    pub feature: String,
    /// Whether the credential may, in every namespace.
    pub allowed: bool,
    /// What it lacks, as RBAC writes it: `patch deployments.apps`.
    pub missing: Vec<String>,
}

/// A cluster about to be stored.
#[derive(Clone, Debug)]
pub struct ClusterRecord {
    /// Its name.
    pub name: ClusterName,
    /// Free text.
    pub description: String,
    /// Labels of ours.
    pub labels: BTreeMap<String, String>,
    /// How its credential was given.
    pub auth_type: AuthType,
    /// How it is reached.
    pub connection: Connection,
    /// What the first probe said; none when it was skipped.
    pub observation: Option<ProbeResult>,
    /// Now.
    pub at: Timestamp,
}

/// What a change of a registered cluster sets; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct ClusterPatch {
    /// A new name.
    pub name: Option<ClusterName>,
    /// A new description.
    pub description: Option<String>,
    /// New labels, as a whole.
    pub labels: Option<BTreeMap<String, String>>,
    /// A new connection.
    pub connection: Option<(AuthType, Connection)>,
    /// What the probe of the new connection said.
    pub observation: Option<ProbeResult>,
    /// The `updated_at` that the caller read; a later one is a conflict.
    pub unless_changed_since: Option<Timestamp>,
}

/// The end of a probe.
#[derive(Clone, Debug)]
pub struct ProbeResult {
    /// When.
    pub at: Timestamp,
    /// What it found, or why it failed.
    pub result: Result<Report, Cause>,
}

/// The registry of clusters. Sealing the credential is the adapter's duty: a connection is never stored readable.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ClusterRegistry: Send + Sync {
    /// All clusters.
    ///
    /// # Errors
    /// `StoreUnavailable`, as everywhere in this port.
    async fn list(&self) -> Result<Vec<Cluster>>;

    /// One cluster.
    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>>;

    /// Its name only.
    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>>;

    /// Stores a cluster; its audit row, with the new id, in the same transaction.
    ///
    /// # Errors
    /// `NameTaken`.
    async fn create(&self, permit: &Permit, cluster: ClusterRecord) -> Result<Cluster>;

    /// Changes the permit's cluster; its audit row in the same transaction.
    ///
    /// # Errors
    /// `NameTaken`, `Modified`, `NotFound`.
    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster>;

    /// Forgets the permit's cluster and its credential; its audit row in the same transaction.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, permit: &Permit) -> Result<()>;

    /// Keeps what a probe said of a stored connection; an observation of an older version is dropped.
    async fn record_probe(&self, id: ClusterId, version: i64, observation: ProbeResult) -> Result<()>;
}

/// The connections of registered clusters, opened.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Connections: Send + Sync {
    /// The stored connection of a cluster.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` when the sealed credential does not open.
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>>;

    /// The version of each stored connection as the database has it now, never from a cache.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>>;
}

/// Asks a cluster how it is. Reads only.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ClusterProbe: Send + Sync {
    /// Whether a connection can be used at all, without connecting: its certificates and key are such, and its address,
    /// where it is written as one, is not refused by egress rules.
    ///
    /// # Errors
    /// `InvalidInput` naming what is malformed; `EgressDenied`.
    fn check(&self, connection: &Connection) -> Result<()>;

    /// Probes a cluster within the test deadline. A registered cluster is probed once at a time: who asks meanwhile shares
    /// the answer.
    ///
    /// # Errors
    /// When the cluster was not asked: `CircuitOpen`, `Overloaded`; `Unreachable` or `NotFound` when the stored connection was
    /// replaced or removed meanwhile. Why a probe failed is in [`Probed::result`].
    async fn probe(&self, permit: &Permit, target: ProbeTarget) -> Result<Probed>;

    /// What our features need against what the credential may do (SelfSubjectAccessReview). Shared as a probe is.
    ///
    /// # Errors
    /// Of code `ConnectionError`, `TimeoutError`, `RateLimited`; `EgressDenied`; `ForbiddenByCluster`; `Overloaded`.
    async fn permissions(&self, permit: &Permit, target: ProbeTarget) -> Result<Vec<Permission>>;

    /// Closes what goes over a stored connection that was replaced or removed: streams end, idle connections are closed,
    /// and no further request is sent over it. Called after each change of a cluster's connection.
    async fn connection_changed(&self, id: ClusterId);
}

/// The ports that [`Clusters`] stands on.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is the port of its type, whose docs say what it does")]
pub struct ClusterPorts {
    pub registry: Arc<dyn ClusterRegistry>,
    pub connections: Arc<dyn Connections>,
    pub probe: Arc<dyn ClusterProbe>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_table() {
        assert_eq!(ClusterName::new("  生产环境 ").unwrap().as_str(), "生产环境");
        assert_eq!(ClusterName::new("e\u{301}").unwrap().as_str(), "é");
        assert_eq!(ClusterName::new(" \t"), Err(Reason::Required));
        assert_eq!(ClusterName::new(&"é".repeat(63)).map(|name| name.as_str().chars().count()), Ok(63));
        assert_eq!(ClusterName::new(&"x".repeat(64)), Err(Reason::TooLong));
        for hidden in ["a\nb", "a\0b", "a\u{202e}b", "a\u{200b}b"] {
            assert_eq!(ClusterName::new(hidden), Err(Reason::Malformed), "{hidden:?}");
        }
        assert_eq!(ClusterName::new("Prod").unwrap().key(), ClusterName::new("ｐＲＯＤ").unwrap().key());
    }

    #[test]
    fn a_credential_is_never_printed() {
        let token = Credential::Token(SecretString::from("canary-token"));
        let pair =
            Credential::Certificate { chain: "canary-chain".into(), key: SecretString::from("canary-key") };
        assert!(!format!("{token:?}{pair:?}").contains("canary"));
    }
}
