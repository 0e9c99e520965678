//! Registered clusters, and their connections with the credential sealed.

use std::collections::BTreeMap;

use async_trait::async_trait;
use diesel::{
    AsChangeset, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    clock::uuid_v7,
    cluster::{
        ApiServer, AuthType, Cluster, ClusterId, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry,
        Connection, Connections, Health, Observation, StoredConnection,
    },
    seal::{SealedFor, Sealer},
};
use uuid::Uuid;

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact},
    error::{StoreError, corrupt},
    rekey::KeyInUse as _,
    schema::{At, clusters},
};

mod secret;

#[derive(Queryable, Selectable)]
#[diesel(table_name = clusters)]
struct Row {
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
            .find(|one| one.as_str() == row.status);
        Ok(Self {
            id: ClusterId(row.id),
            name: ClusterName::new(&row.name).map_err(|_| corrupt("clusters.name"))?,
            api_server: row.api_server,
            auth_type: auth_type.ok_or_else(|| corrupt("clusters.auth_type"))?,
            status: status.ok_or_else(|| corrupt("clusters.status"))?,
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

/// What a probe sets. A failed one leaves version and counts as they were.
#[derive(AsChangeset)]
#[diesel(table_name = clusters)]
struct Seen {
    status: &'static str,
    status_reason: Option<Option<&'static str>>,
    version: Option<Option<String>>,
    node_count: Option<Option<i64>>,
    pod_count: Option<Option<i64>>,
    namespace_count: Option<Option<i64>>,
    last_connected_at: Option<Option<At>>,
}

impl Seen {
    /// Of a connection that was stored without being tried, of which nothing is known, or of what the probe said.
    fn of(observation: Option<Observation>) -> Self {
        let mut seen = Self {
            status: Health::Offline.as_str(),
            status_reason: Some(None),
            version: None,
            node_count: None,
            pod_count: None,
            namespace_count: None,
            last_connected_at: None,
        };
        match observation.map(|observation| (observation.at, observation.result)) {
            None => Self {
                version: Some(None),
                node_count: Some(None),
                pod_count: Some(None),
                namespace_count: Some(None),
                last_connected_at: Some(None),
                ..seen
            },
            Some((_, Err(cause))) => {
                seen.status_reason = Some(Some(cause.as_str()));
                seen
            }
            Some((at, Ok(report))) => Self {
                status: Health::Online.as_str(),
                version: Some(Some(report.version)),
                node_count: Some(report.nodes.map(|nodes| nodes.total)),
                pod_count: Some(report.pods),
                namespace_count: Some(report.namespaces),
                last_connected_at: Some(Some(At(at))),
                ..seen
            },
        }
    }
}

/// The columns of a connection, the credential sealed.
#[derive(AsChangeset, diesel::Insertable)]
#[diesel(table_name = clusters, treat_none_as_null = true)]
struct Sealed {
    auth_type: &'static str,
    api_server: String,
    ca: Option<String>,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    credential: Vec<u8>,
    connection_version: i64,
}

impl Sealed {
    fn of(
        sealer: &dyn Sealer,
        row: Uuid,
        version: i64,
        (auth_type, connection): (AuthType, Connection),
    ) -> Result<Self> {
        Ok(Self {
            auth_type: auth_type.as_str(),
            credential: secret::seal(sealer, &owner(row), &connection.credential)?,
            api_server: connection.server.into(),
            ca: connection.ca,
            tls_server_name: connection.tls_server_name,
            insecure_skip_tls_verify: connection.insecure_skip_tls_verify,
            connection_version: version,
        })
    }
}

/// What a change sets besides the connection.
#[derive(AsChangeset)]
#[diesel(table_name = clusters)]
struct Change {
    name: Option<String>,
    name_key: Option<String>,
    description: Option<String>,
    labels: Option<String>,
    updated_at: At,
}

/// The version of a connection that is stored at this time: above the one before, and above each one that was stored earlier
/// but lost in a failover with the last commits. A client built from a lost connection is so never taken for this one's.
fn next_version(before: i64, at: Timestamp) -> i64 {
    at.as_microsecond().max(before.saturating_add(1))
}

fn owner(row: Uuid) -> SealedFor {
    SealedFor { row, field: "clusters.credential" }
}

fn json(labels: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(labels).map_err(|error| Error::internal(format!("labels: {error}")))
}

fn about(cause: Cause, id: ClusterId) -> Error {
    Error::new(cause).resource("cluster").name(id.to_string())
}

/// A name that another cluster has.
fn taken(name: Option<&ClusterName>) -> impl FnOnce(diesel::result::Error) -> StoreError + use<> {
    let refusal = Error::new(Cause::NameTaken).resource("cluster").name(name.map_or("", ClusterName::as_str));
    |error| {
        let error = StoreError::from(error);
        if error.is_duplicate() { refusal.into() } else { error }
    }
}

#[async_trait]
impl ClusterRegistry for Store {
    async fn list(&self) -> Result<Vec<Cluster>> {
        read!(self.db, |conn| {
            let rows: Vec<Row> =
                clusters::table.select(Row::as_select()).order_by(clusters::id).load(conn).await?;
            Ok(rows.into_iter().map(Cluster::try_from).collect::<Result<_>>()?)
        })
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        read!(self.db, |conn| {
            let row: Option<Row> =
                clusters::table.find(id.0).select(Row::as_select()).first(conn).await.optional()?;
            Ok(row.map(Cluster::try_from).transpose()?)
        })
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        read!(self.db, |conn| {
            let name: Option<String> =
                clusters::table.find(id.0).select(clusters::name).first(conn).await.optional()?;
            let name = name.map(|name| ClusterName::new(&name).map_err(|_| corrupt("clusters.name")));
            Ok(name.transpose()?)
        })
    }

    async fn create(&self, permit: &Permit, record: ClusterRecord) -> Result<Cluster> {
        let receipt = self.receipt(permit)?;
        let (uuid, version) = (uuid_v7(record.at, &*self.lent.entropy), next_version(0, record.at));
        let keyring = self.lent.keyring.clone();
        let labels = json(&record.labels)?;
        let seen = Seen::of(record.observation);
        transact!(self.db, |conn| {
            let sealer = keyring.keys(&conn.key_in_use().await?)?.sealer;
            let connection = Sealed::of(&*sealer, uuid, version, (record.auth_type, record.connection))?;
            let values = (
                clusters::uuid.eq(uuid.to_string()),
                clusters::name.eq(record.name.as_str()),
                clusters::name_key.eq(record.name.key()),
                clusters::description.eq(&record.description),
                clusters::labels.eq(labels),
                clusters::status.eq(seen.status),
                clusters::created_at.eq(At(record.at)),
                clusters::updated_at.eq(At(record.at)),
                clusters::visited_at.eq(At(record.at)),
                connection,
            );
            let id: i64 = diesel::insert_into(clusters::table)
                .values(values)
                .returning(clusters::id)
                .get_result(conn)
                .await
                .map_err(taken(Some(&record.name)))?;
            let row: Row = diesel::update(clusters::table.find(id))
                .set(seen)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            conn.done(receipt.concerning(ClusterId(id))).await?;
            Ok(Cluster::try_from(row)?)
        })
    }

    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        let (receipt, id, keyring) = (self.receipt(permit)?, permit.cluster()?, self.lent.keyring.clone());
        let seen =
            (patch.connection.is_some() || patch.observation.is_some()).then(|| Seen::of(patch.observation));
        let labels = patch.labels.as_ref().map(json).transpose()?;
        transact!(self.db, |conn| {
            let sealer = keyring.keys(&conn.key_in_use().await?)?.sealer;
            // setting a column to itself locks the row before it is read
            let found: Option<(String, i64, At)> = diesel::update(clusters::table.find(id.0))
                .set(clusters::updated_at.eq(clusters::updated_at))
                .returning((clusters::uuid, clusters::connection_version, clusters::updated_at))
                .get_result(conn)
                .await
                .optional()?;
            let (uuid, version, At(updated_at)) = found.ok_or_else(|| about(Cause::NotFound, id))?;
            if patch.unless_changed_since.is_some_and(|read| read != updated_at) {
                return Err(about(Cause::ChangedMeanwhile, id).into());
            }
            let uuid = uuid.parse().map_err(|_| corrupt("clusters.uuid"))?;
            let seal = |connection| Sealed::of(&*sealer, uuid, next_version(version, at), connection);
            let connection = patch.connection.map(seal).transpose()?;
            let change = Change {
                name: patch.name.as_ref().map(ToString::to_string),
                name_key: patch.name.as_ref().map(ClusterName::key),
                description: patch.description,
                labels,
                updated_at: At(at),
            };
            let row: Row = diesel::update(clusters::table.find(id.0))
                .set((change, connection, seen))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .map_err(taken(patch.name.as_ref()))?;
            conn.done(receipt).await?;
            Ok(Cluster::try_from(row)?)
        })
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        let (receipt, id) = (self.receipt(permit)?, permit.cluster()?);
        transact!(self.db, |conn| {
            if diesel::delete(clusters::table.find(id.0)).execute(conn).await? == 0 {
                return Err(about(Cause::NotFound, id).into());
            }
            conn.done(receipt).await
        })
    }

    async fn observed(&self, id: ClusterId, version: i64, observation: Observation) -> Result<()> {
        let seen = Seen::of(Some(observation));
        change!(self.db, |conn| {
            let current = clusters::table.find(id.0).filter(clusters::connection_version.eq(version));
            diesel::update(current).set(seen).execute(conn).await?;
            Ok(())
        })
    }
}

#[async_trait]
impl Connections for Store {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        let columns = (
            clusters::uuid,
            clusters::connection_version,
            clusters::api_server,
            clusters::ca,
            clusters::tls_server_name,
            clusters::insecure_skip_tls_verify,
            clusters::credential,
        );
        type Found = (String, i64, String, Option<String>, Option<String>, bool, Vec<u8>);
        let found: Option<Found> = read!(self.db, |conn| {
            Ok(clusters::table.find(id.0).select(columns).first(conn).await.optional()?)
        })?;
        let Some((uuid, version, server, ca, tls_server_name, insecure_skip_tls_verify, sealed)) = found
        else {
            return Ok(None);
        };
        let uuid = uuid.parse().map_err(|_| corrupt("clusters.uuid"))?;
        let connection = Connection {
            server: ApiServer::new(&server).map_err(|_| corrupt("clusters.api_server"))?,
            ca,
            tls_server_name,
            insecure_skip_tls_verify,
            credential: secret::open(&*self.lent.keyring, &owner(uuid), &sealed)?,
        };
        Ok(Some(StoredConnection { connection, version }))
    }
}
