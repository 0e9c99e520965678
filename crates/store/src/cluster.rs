//! Cluster registry: registered clusters, and their connections with the credential sealed.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::{AsyncConnection as _, RunQueryDsl as _};
use jiff::Timestamp;
use pilothouse_core::{
    Cause, Error, Result,
    access::Permit,
    cluster::{Cluster, ClusterName, ClusterPatch, ClusterRecord, ClusterRegistry, Connections, ProbeResult},
    connection::{ApiServer, Connection, StoredConnection},
    ids::ClusterId,
    rng::{Rng, uuid_v7},
};

use crate::{
    Store,
    audit::Trail as _,
    db::{change, read, transact},
    error::{StoreError, corrupt},
    rekey::ActiveKey as _,
    rights_stamp::StampedRights as _,
    schema::{At, clusters},
};

mod columns;
mod secret;

use columns::{ClusterChangeset, ConnectionColumns, ProbeChangeset, Row, sealed_for};

/// Maximum delay of `last_connected_at` behind the last successful probe, so that a probe without changes writes
/// nothing.
const LAST_CONNECTED_PRECISION: Duration = Duration::from_secs(10);

/// Returns the version of a connection stored at `at`: Unix milliseconds, then 22 random bits, and greater than the
/// version `before`. A counter would repeat a version after a failover that lost the last commits, and the server
/// would then use a client of the lost connection for the new one.
fn connection_version(at: Timestamp, rng: &dyn Rng, before: Option<i64>) -> i64 {
    let mut random = [0; 4];
    rng.fill(&mut random);
    let version = at.as_millisecond() << 22 | i64::from(u32::from_ne_bytes(random) >> 10);
    before.map_or(version, |before| version.max(before + 1))
}

fn labels_json(labels: &BTreeMap<String, String>) -> Result<String> {
    serde_json::to_string(labels).map_err(|error| Error::internal(format!("labels: {error}")))
}

fn cluster_error(cause: Cause, id: ClusterId) -> Error {
    Error::new(cause).resource("cluster").name(id.to_string())
}

/// Maps a violation of the unique name to `NameTaken`.
fn name_taken(name: Option<&ClusterName>) -> impl FnOnce(diesel::result::Error) -> StoreError + use<> {
    let refusal = Error::new(Cause::NameTaken).resource("cluster").name(name.map_or("", ClusterName::as_str));
    |error| {
        let error = StoreError::from(error);
        if error.is_duplicate() { refusal.into() } else { error }
    }
}

impl Store {
    async fn list_clusters(&self) -> Result<Vec<Cluster>> {
        read!(self.db, |conn| {
            let rows: Vec<Row> =
                clusters::table.select(Row::as_select()).order_by(clusters::id).load(conn).await?;
            Ok(rows.into_iter().map(Cluster::try_from).collect::<Result<_>>()?)
        })
    }

    async fn find_cluster(&self, id: ClusterId) -> Result<Option<Cluster>> {
        read!(self.db, |conn| {
            let row: Option<Row> =
                clusters::table.find(id.0).select(Row::as_select()).first(conn).await.optional()?;
            Ok(row.map(Cluster::try_from).transpose()?)
        })
    }

    async fn cluster_name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        read!(self.db, |conn| {
            let name: Option<String> =
                clusters::table.find(id.0).select(clusters::name).first(conn).await.optional()?;
            let name = name.map(|name| ClusterName::new(&name).map_err(|_| corrupt("clusters.name")));
            Ok(name.transpose()?)
        })
    }

    async fn create_cluster(&self, permit: &Permit, record: ClusterRecord) -> Result<Cluster> {
        let entry = self.pending_entry(permit)?;
        let uuid = uuid_v7(record.at, &*self.deps.rng);
        let (keyring, rng) = (self.deps.keyring.clone(), self.deps.rng.clone());
        let (labels, stamp) = (labels_json(&record.labels)?, self.new_rights_stamp());
        let changeset = ProbeChangeset::of(record.probe_result);
        transact!(self.db, |conn| {
            let sealer = keyring.keys(&conn.active_key().await?)?.sealer;
            conn.replace_rights_stamp(stamp).await?;
            let version = connection_version(record.at, &*rng, None);
            let connection =
                ConnectionColumns::of(&*sealer, uuid, version, (record.auth_type, record.connection))?;
            let values = (
                clusters::uuid.eq(uuid.to_string()),
                clusters::name.eq(record.name.as_str()),
                clusters::name_key.eq(record.name.key()),
                clusters::description.eq(&record.description),
                clusters::labels.eq(labels),
                clusters::status.eq(changeset.status),
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
                .map_err(name_taken(Some(&record.name)))?;
            let row: Row = diesel::update(clusters::table.find(id))
                .set(changeset)
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            conn.record_success(entry.with_cluster(ClusterId(id))).await?;
            Ok(Cluster::try_from(row)?)
        })
    }

    async fn update_cluster(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        let (entry, id) = (self.pending_entry(permit)?, permit.cluster()?);
        let (keyring, rng) = (self.deps.keyring.clone(), self.deps.rng.clone());
        let changeset = (patch.connection.is_some() || patch.probe_result.is_some())
            .then(|| ProbeChangeset::of(patch.probe_result));
        let labels = patch.labels.as_ref().map(labels_json).transpose()?;
        let stamp = labels.is_some().then(|| self.new_rights_stamp());
        let replaces = patch.connection.is_some();
        let updated = transact!(self.db, |conn| {
            let sealer = keyring.keys(&conn.active_key().await?)?.sealer;
            if let Some(stamp) = stamp {
                conn.replace_rights_stamp(stamp).await?;
            }
            // setting a column to itself locks the row before it is read
            let found: Option<(String, i64, At)> = diesel::update(clusters::table.find(id.0))
                .set(clusters::updated_at.eq(clusters::updated_at))
                .returning((clusters::uuid, clusters::connection_version, clusters::updated_at))
                .get_result(conn)
                .await
                .optional()?;
            let (uuid, version, At(updated_at)) = found.ok_or_else(|| cluster_error(Cause::NotFound, id))?;
            if patch.unless_changed_since.is_some_and(|read| read != updated_at) {
                return Err(cluster_error(Cause::Modified, id).into());
            }
            let uuid = uuid.parse().map_err(|_| corrupt("clusters.uuid"))?;
            let seal = |connection| {
                ConnectionColumns::of(
                    &*sealer,
                    uuid,
                    connection_version(at, &*rng, Some(version)),
                    connection,
                )
            };
            let connection = patch.connection.map(seal).transpose()?;
            let change = ClusterChangeset {
                name: patch.name.as_ref().map(ToString::to_string),
                name_key: patch.name.as_ref().map(ClusterName::key),
                description: patch.description,
                labels,
                updated_at: At(at),
            };
            let row: Row = diesel::update(clusters::table.find(id.0))
                .set((change, connection, changeset))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .map_err(name_taken(patch.name.as_ref()))?;
            conn.record_success(entry).await?;
            Ok(Cluster::try_from(row)?)
        })?;
        if replaces {
            self.scrub_overwritten().await;
        }
        Ok(updated)
    }

    async fn delete_cluster(&self, permit: &Permit) -> Result<()> {
        let (entry, id) = (self.pending_entry(permit)?, permit.cluster()?);
        let stamp = self.new_rights_stamp();
        transact!(self.db, |conn| {
            conn.replace_rights_stamp(stamp).await?;
            if diesel::delete(clusters::table.find(id.0)).execute(conn).await? == 0 {
                return Err(cluster_error(Cause::NotFound, id).into());
            }
            conn.record_success(entry).await
        })?;
        self.scrub_overwritten().await;
        Ok(())
    }

    async fn record_probe_result(
        &self,
        id: ClusterId,
        version: i64,
        probe_result: ProbeResult,
    ) -> Result<()> {
        // most probes change nothing: they do not use the writer connection
        let stored: Option<Row> = read!(self.db, |conn| {
            let current = clusters::table.find(id.0).filter(clusters::connection_version.eq(version));
            Ok(current.select(Row::as_select()).first(conn).await.optional()?)
        })?;
        let Some(stored) = stored.map(Cluster::try_from).transpose()? else { return Ok(()) };
        if is_unchanged(&stored, &probe_result) {
            return Ok(());
        }
        let changeset = ProbeChangeset::of(Some(probe_result));
        change!(self.db, |conn| {
            let current = clusters::table.find(id.0).filter(clusters::connection_version.eq(version));
            diesel::update(current).set(changeset).execute(conn).await?;
            Ok(())
        })
    }
}

#[async_trait]
impl ClusterRegistry for Store {
    async fn list(&self) -> Result<Vec<Cluster>> {
        self.list_clusters().await
    }

    async fn find(&self, id: ClusterId) -> Result<Option<Cluster>> {
        self.find_cluster(id).await
    }

    async fn name(&self, id: ClusterId) -> Result<Option<ClusterName>> {
        self.cluster_name(id).await
    }

    async fn create(&self, permit: &Permit, record: ClusterRecord) -> Result<Cluster> {
        self.create_cluster(permit, record).await
    }

    async fn update(&self, permit: &Permit, patch: ClusterPatch, at: Timestamp) -> Result<Cluster> {
        self.update_cluster(permit, patch, at).await
    }

    async fn delete(&self, permit: &Permit) -> Result<()> {
        self.delete_cluster(permit).await
    }

    async fn record_probe(&self, id: ClusterId, version: i64, probe_result: ProbeResult) -> Result<()> {
        self.record_probe_result(id, version, probe_result).await
    }
}

/// Whether a probe result changes nothing but `last_connected_at`, and that by less than
/// [`LAST_CONNECTED_PRECISION`].
fn is_unchanged(stored: &Cluster, probe_result: &ProbeResult) -> bool {
    let mut updated = stored.clone();
    updated.observe(probe_result);
    if let (Some(before), Some(now)) = (stored.last_connected_at, updated.last_connected_at)
        && now.duration_since(before).unsigned_abs() < LAST_CONNECTED_PRECISION
    {
        updated.last_connected_at = stored.last_connected_at;
    }
    updated == *stored
}

impl Store {
    async fn stored_connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
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
            credential: secret::open(&*self.deps.keyring, &sealed_for(uuid), &sealed)?,
        };
        Ok(Some(StoredConnection { connection, version }))
    }

    async fn connection_versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        let found: Vec<(i64, i64)> = read!(self.db, |conn| {
            Ok(clusters::table.select((clusters::id, clusters::connection_version)).load(conn).await?)
        })?;
        Ok(found.into_iter().map(|(id, version)| (ClusterId(id), version)).collect())
    }
}

#[async_trait]
impl Connections for Store {
    async fn connection(&self, id: ClusterId) -> Result<Option<StoredConnection>> {
        self.stored_connection(id).await
    }

    async fn versions(&self) -> Result<BTreeMap<ClusterId, i64>> {
        self.connection_versions().await
    }
}
