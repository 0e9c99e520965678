//! Cluster registry: the types of a registered cluster, the ports, and the use cases to register, test and probe it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::{
    access::{Caller, Permit},
    connection::{AuthType, Connection, StoredConnection},
    error::{Reason, Result},
    ids::ClusterId,
    name::{MAX_NORMALISED_BYTES, is_invisible},
    rows::{Cell, Field, Filter, Level, ListRow},
};

mod cached;
mod credential_input;
mod labels;
mod names;
mod probe;
mod usecase;

pub use cached::CachedClusters;
pub use credential_input::CredentialInput;
pub use names::RegistryNames;
#[cfg(any(test, feature = "testing"))]
pub use probe::MockClusterProbe;
pub use probe::{
    CertificateExpiry, ClusterProbe, NodeCount, Permission, ProbeReason, ProbeResult, ProbeTarget, Probed,
    Report,
};
pub use usecase::{ClusterChange, ClusterStatus, ClusterTest, Clusters, NewCluster};

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
        if text.len() > MAX_NORMALISED_BYTES {
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

    /// The name as displayed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The comparison key: two names with equal keys are the same name.
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

/// Health of a cluster, as of the last probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The last probe succeeded.
    Online,
    /// The last probe failed; `status_reason` contains the cause.
    Offline,
    /// Not probed yet.
    Unknown,
}

impl Health {
    /// The value in rows and filters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }

    /// Level of the health.
    pub const fn level(self) -> Level {
        match self {
            Self::Online => Level::Ok,
            Self::Offline => Level::Bad,
            Self::Unknown => Level::Warn,
        }
    }
}

/// A registered cluster as displayed. Contains no secrets.
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
    /// The form in which its credential was supplied.
    pub auth_type: AuthType,
    /// Its health.
    pub status: Health,
    /// Level of the status.
    pub level: Level,
    /// The `cause` of the last probe's error; null unless the last probe failed.
    pub status_reason: Option<String>,
    /// Nodes at the last successful probe; null before the first. This count and the next two are null for a caller
    /// without a right on the whole cluster.
    pub node_count: Option<i64>,
    /// Pods at the last successful probe.
    pub pod_count: Option<i64>,
    /// Namespaces at the last successful probe.
    pub namespace_count: Option<i64>,
    /// The API server's version: `v1.37.2`.
    pub version: Option<String>,
    /// Free text.
    pub description: String,
    /// Labels stored by Pilothouse, not by the cluster.
    pub labels: BTreeMap<String, String>,
    /// Time of registration.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Time of the last change by a user.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub updated_at: Timestamp,
    /// Time of the last successful probe; null before the first.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub last_connected_at: Option<Timestamp>,
}

impl Cluster {
    /// The row of a new cluster. The registry allocates `id`. Without a probe result the cluster is offline.
    pub fn registered(id: ClusterId, record: &ClusterRecord) -> Self {
        let mut cluster = Self {
            id,
            name: record.name.clone(),
            api_server: record.connection.server.to_string(),
            auth_type: record.auth_type,
            status: Health::Offline,
            level: Health::Offline.level(),
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
        if let Some(probe_result) = &record.probe_result {
            cluster.observe(probe_result);
        }
        cluster
    }

    /// Applies a probe result. A failed probe leaves counts, version and `last_connected_at` unchanged.
    pub fn observe(&mut self, probe_result: &ProbeResult) {
        match &probe_result.result {
            Ok(report) => {
                self.status = Health::Online;
                self.status_reason = None;
                self.node_count = report.nodes.map(|nodes| nodes.total);
                self.pod_count = report.pods;
                self.namespace_count = report.namespaces;
                self.version = Some(report.version.clone());
                self.last_connected_at = Some(probe_result.at);
            }
            Err(cause) => {
                self.status = Health::Offline;
                self.status_reason = Some(cause.as_str().to_owned());
            }
        }
        self.level = self.status.level();
    }
}

impl Cluster {
    /// The row for a caller: without the counts of the whole cluster, unless the caller has a right with the reach
    /// `cluster` in it.
    #[must_use]
    pub fn shown_to(self, caller: &Caller) -> Self {
        if caller.rights.reaches_cluster(self.id) {
            self
        } else {
            Self { node_count: None, pod_count: None, namespace_count: None, ..self }
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
        Field::filtered("level", Filter::OneOf(Level::NAMES), |row| Cell::from(row.level)),
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

/// A cluster to be stored.
#[derive(Clone, Debug)]
pub struct ClusterRecord {
    /// Name.
    pub name: ClusterName,
    /// Free text.
    pub description: String,
    /// Labels stored by Pilothouse.
    pub labels: BTreeMap<String, String>,
    /// Form in which the credential was supplied.
    pub auth_type: AuthType,
    /// Connection to the API server.
    pub connection: Connection,
    /// Result of the first probe; `None` if it was skipped.
    pub probe_result: Option<ProbeResult>,
    /// Time of registration.
    pub at: Timestamp,
}

/// A change of a registered cluster. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default)]
pub struct ClusterPatch {
    /// A new name.
    pub name: Option<ClusterName>,
    /// A new description.
    pub description: Option<String>,
    /// New labels; they replace all labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// A new connection.
    pub connection: Option<(AuthType, Connection)>,
    /// Result of the probe of the new connection.
    pub probe_result: Option<ProbeResult>,
    /// The `updated_at` that the caller read. A later stored value is a conflict.
    pub unless_changed_since: Option<Timestamp>,
}

/// Cluster registry port. The adapter must seal (encrypt) the credential; it never stores a connection in plaintext.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ClusterRegistry: Send + Sync {
    /// All clusters.
    ///
    /// # Errors
    /// `StoreUnavailable`, as for every method of this port.
    async fn list(&self) -> Result<Vec<Cluster>>;

    /// One cluster.
    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>>;

    /// The name of a cluster.
    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>>;

    /// Stores a cluster, and its audit row with the new id in the same transaction.
    ///
    /// # Errors
    /// `NameTaken`.
    async fn create(&self, permit: &Permit, cluster: ClusterRecord) -> Result<Cluster>;

    /// Changes the permit's cluster, and stores its audit row in the same transaction.
    ///
    /// # Errors
    /// `NameTaken`, `Modified`, `NotFound`.
    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster>;

    /// Deletes the permit's cluster and its credential, and stores its audit row in the same transaction.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, permit: &Permit) -> Result<()>;

    /// Stores the result of a probe. A result for an older version of the connection is discarded.
    async fn record_probe(&self, id: ClusterId, version: i64, probe_result: ProbeResult) -> Result<()>;
}

/// Port for the stored connections of registered clusters, unsealed (decrypted).
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Connections: Send + Sync {
    /// The stored connection of a cluster.
    ///
    /// # Errors
    /// `StoreUnavailable`; `Internal` if the credential cannot be unsealed.
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>>;

    /// The current version of each stored connection, read from the database, never from a cache.
    ///
    /// # Errors
    /// `StoreUnavailable`.
    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>>;
}

/// The ports that [`Clusters`] uses.
#[derive(Clone)]
#[allow(missing_docs, reason = "the type of each field documents the port")]
pub struct ClusterPorts {
    pub registry: Arc<dyn ClusterRegistry>,
    pub connections: Arc<dyn Connections>,
    pub probe: Arc<dyn ClusterProbe>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names_are_normalised_and_limited() {
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
}
