//! Client pool: one transport per registered cluster, for the current version of its stored connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::HeaderValue;
use pilothouse_core::{
    Cause, Error, Result,
    cluster::Connections,
    connection::{Connection, StoredConnection},
    ids::ClusterId,
};

use tokio::runtime::Handle;

use crate::{
    budget::{Budget, ClusterBudget},
    dial::EgressGuard,
    transport::{Transport, TransportContext},
};

/// Pool of transports. Connections stay open between requests, but no request uses an older credential: each request
/// reads the stored connection from the registry.
pub(crate) struct ClientPool {
    pub(crate) connections: Arc<dyn Connections>,
    /// Egress guard for registered clusters.
    pub(crate) guard: EgressGuard,
    /// Egress guard for connection tests of unregistered clusters.
    pub(crate) test_guard: EgressGuard,
    pub(crate) user_agent: HeaderValue,
    /// Runtime on which connections run.
    pub(crate) runtime: Handle,
    /// Read budget shared by all clusters.
    pub(crate) budget: Arc<Budget>,
    pub(crate) entries: Mutex<HashMap<ClusterId, PoolEntry>>,
}

/// State of a cluster in the pool.
pub(crate) enum PoolEntry {
    /// The cluster has a transport, for one version of its connection.
    Open(Arc<Transport>),
    /// The cluster was removed; connections up to this version stay closed. A database that lost its last commits may
    /// assign the id again, with a newer connection.
    Removed(i64),
}

impl ClientPool {
    /// The transport of a registered cluster.
    ///
    /// # Errors
    /// `NotFound` without such a cluster; as [`Connections::connection`] and [`Transport::new`].
    pub(crate) async fn get(&self, id: ClusterId) -> Result<Arc<Transport>> {
        if let Some(stored) = self.connections.connection(id).await? {
            self.get_or_open(id, &stored)
        } else {
            self.close_removed(id);
            Err(not_found(id))
        }
    }

    /// The transport of a registered cluster for this stored connection, or for a newer one in the pool.
    ///
    /// # Errors
    /// `NotFound` when the cluster was removed meanwhile; as [`Transport::new`].
    pub(crate) fn get_or_open(&self, id: ClusterId, stored: &StoredConnection) -> Result<Arc<Transport>> {
        // locked until the transport exists: two transports would mean two breakers and two copies of each cached list
        let mut entries = self.entries();
        match entries.get(&id) {
            Some(PoolEntry::Removed(version)) if *version >= stored.version => return Err(not_found(id)),
            Some(PoolEntry::Open(transport)) if transport.context().version() >= stored.version => {
                return Ok(transport.clone());
            }
            Some(PoolEntry::Open(_) | PoolEntry::Removed(_)) | None => {}
        }
        close(entries.remove(&id));
        let transport =
            Arc::new(self.build(&stored.connection, &self.guard, self.context(stored.version))?);
        entries.insert(id, PoolEntry::Open(transport.clone()));
        Ok(transport)
    }

    /// A transport without open connections, for a probe of a registered cluster.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn probe_transport(
        &self,
        connection: &Connection,
        context: TransportContext,
    ) -> Result<Transport> {
        self.build(connection, &self.guard, context)
    }

    /// A transport for a connection test of an unregistered cluster.
    ///
    /// # Errors
    /// As [`Transport::new`].
    pub(crate) fn test_transport(&self, connection: &Connection) -> Result<Transport> {
        self.build(connection, &self.test_guard, self.context(0))
    }

    fn context(&self, version: i64) -> TransportContext {
        TransportContext::new(version, ClusterBudget::new(&self.budget))
    }

    fn build(
        &self,
        connection: &Connection,
        guard: &EgressGuard,
        context: TransportContext,
    ) -> Result<Transport> {
        Transport::new(connection, guard, &self.user_agent, &self.runtime, context)
    }

    /// Closes the transport of a cluster whose stored connection was replaced or removed.
    pub(crate) async fn recheck(&self, id: ClusterId) {
        match self.connections.connection(id).await {
            Ok(Some(stored)) => self.close_older(id, stored.version),
            Ok(None) => self.close_removed(id),
            // checked again soon by `recheck_all`
            Err(error) => {
                tracing::debug!(%error, cluster = %id, "cannot read the stored connection of the cluster");
            }
        }
    }

    /// Closes the transports of all clusters whose stored connections were replaced or removed, as by another replica.
    pub(crate) async fn recheck_all(&self) {
        // a transport that is opened after this may be newer than the versions that are read below
        let open: Vec<_> =
            self.entries().iter().filter_map(|(id, entry)| entry.is_open().then_some(*id)).collect();
        if open.is_empty() {
            return;
        }
        // an error does not prove that a connection was replaced, so the transports stay
        let Ok(versions) = self.connections.versions().await else { return };
        for id in open {
            match versions.get(&id) {
                Some(version) => self.close_older(id, *version),
                None => self.close_removed(id),
            }
        }
    }

    fn close_older(&self, id: ClusterId, version: i64) {
        let mut entries = self.entries();
        if matches!(entries.get(&id), Some(PoolEntry::Open(transport)) if transport.context().version() < version)
        {
            close(entries.remove(&id));
        }
    }

    fn close_removed(&self, id: ClusterId) {
        let mut entries = self.entries();
        // no entry is added for an id without a transport, so requests for arbitrary ids take no memory
        if let Some(entry) = entries.get_mut(&id) {
            let removed = PoolEntry::Removed(entry.version());
            close(Some(std::mem::replace(entry, removed)));
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<ClusterId, PoolEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolEntry {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    fn version(&self) -> i64 {
        match self {
            Self::Open(transport) => transport.context().version(),
            Self::Removed(version) => *version,
        }
    }
}

fn close(entry: Option<PoolEntry>) {
    if let Some(PoolEntry::Open(transport)) = entry {
        transport.close();
    }
}

fn not_found(id: ClusterId) -> Error {
    Error::new(Cause::NotFound).resource("cluster").name(id.to_string())
}
