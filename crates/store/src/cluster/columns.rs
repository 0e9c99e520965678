//! Rows and changesets of the table `clusters`.

use diesel::{AsChangeset, Queryable, Selectable};
use pilothouse_core::{
    Error, Result,
    cluster::{Cluster, ClusterName, Health, ProbeResult},
    connection::{AuthType, Connection},
    ids::ClusterId,
    seal::{SealedFor, Sealer},
};
use uuid::Uuid;

use super::secret;
use crate::{
    error::corrupt,
    schema::{At, clusters},
};

/// A stored cluster, without its connection.
#[derive(Queryable, Selectable)]
#[diesel(table_name = clusters)]
pub(super) struct Row {
    id: i64,
    name: String,
    api_server: String,
    auth_type: String,
    status: String,
    status_reason: Option<String>,
    node_count: Option<i64>,
    pod_count: Option<i64>,
    namespace_count: Option<i64>,
    version: Option<String>,
    description: String,
    labels: String,
    created_at: At,
    updated_at: At,
    last_connected_at: Option<At>,
}

impl TryFrom<Row> for Cluster {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self> {
        let auth_type =
            [AuthType::Token, AuthType::Kubeconfig].into_iter().find(|one| one.as_str() == row.auth_type);
        let status = [Health::Online, Health::Offline, Health::Unknown]
            .into_iter()
            .find(|one| one.as_str() == row.status)
            .ok_or_else(|| corrupt("clusters.status"))?;
        Ok(Self {
            id: ClusterId(row.id),
            name: ClusterName::new(&row.name).map_err(|_| corrupt("clusters.name"))?,
            api_server: row.api_server,
            auth_type: auth_type.ok_or_else(|| corrupt("clusters.auth_type"))?,
            status,
            level: status.level(),
            status_reason: row.status_reason,
            node_count: row.node_count,
            pod_count: row.pod_count,
            namespace_count: row.namespace_count,
            version: row.version,
            description: row.description,
            labels: serde_json::from_str(&row.labels).map_err(|_| corrupt("clusters.labels"))?,
            created_at: row.created_at.0,
            updated_at: row.updated_at.0,
            last_connected_at: row.last_connected_at.map(|at| at.0),
        })
    }
}

/// Columns that a probe sets. A failed probe keeps version and counts.
#[derive(AsChangeset)]
#[diesel(table_name = clusters)]
pub(super) struct ProbeChangeset {
    pub(super) status: &'static str,
    status_reason: Option<Option<&'static str>>,
    version: Option<Option<String>>,
    node_count: Option<Option<i64>>,
    pod_count: Option<Option<i64>>,
    namespace_count: Option<Option<i64>>,
    last_connected_at: Option<Option<At>>,
}

impl ProbeChangeset {
    /// The changes for a probe result. `None`: the connection was stored without a test, so version, counts and time
    /// are cleared.
    pub(super) fn of(probe_result: Option<ProbeResult>) -> Self {
        let mut changeset = Self {
            status: Health::Offline.as_str(),
            status_reason: Some(None),
            version: None,
            node_count: None,
            pod_count: None,
            namespace_count: None,
            last_connected_at: None,
        };
        match probe_result.map(|probe_result| (probe_result.at, probe_result.result)) {
            None => Self {
                version: Some(None),
                node_count: Some(None),
                pod_count: Some(None),
                namespace_count: Some(None),
                last_connected_at: Some(None),
                ..changeset
            },
            Some((_, Err(cause))) => {
                changeset.status_reason = Some(Some(cause.as_str()));
                changeset
            }
            Some((at, Ok(report))) => Self {
                status: Health::Online.as_str(),
                version: Some(Some(report.version)),
                node_count: Some(report.nodes.map(|nodes| nodes.total)),
                pod_count: Some(report.pods),
                namespace_count: Some(report.namespaces),
                last_connected_at: Some(Some(At(at))),
                ..changeset
            },
        }
    }
}

/// Columns of a connection, with the credential sealed.
#[derive(AsChangeset, diesel::Insertable)]
#[diesel(table_name = clusters, treat_none_as_null = true)]
pub(super) struct ConnectionColumns {
    auth_type: &'static str,
    api_server: String,
    ca: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    credential: Vec<u8>,
    connection_version: i64,
}

impl ConnectionColumns {
    pub(super) fn of(
        sealer: &dyn Sealer,
        row: Uuid,
        version: i64,
        (auth_type, connection): (AuthType, Connection),
    ) -> Result<Self> {
        Ok(Self {
            auth_type: auth_type.as_str(),
            credential: secret::seal(sealer, &sealed_for(row), &connection.credential)?,
            api_server: connection.server.into(),
            ca: connection.ca,
            tls_server_name: connection.tls_server_name,
            insecure_skip_tls_verify: connection.insecure_skip_tls_verify,
            connection_version: version,
        })
    }
}

/// Columns that an update sets, without the connection.
#[derive(AsChangeset)]
#[diesel(table_name = clusters)]
pub(super) struct ClusterChangeset {
    pub(super) name: Option<String>,
    pub(super) name_key: Option<String>,
    pub(super) description: Option<String>,
    pub(super) labels: Option<String>,
    pub(super) updated_at: At,
}

/// Row and field to which the sealed credential of a cluster is bound.
pub(super) fn sealed_for(row: Uuid) -> SealedFor {
    SealedFor { row, field: "clusters.credential" }
}
